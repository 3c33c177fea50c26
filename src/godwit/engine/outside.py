"""The guest as its users see it: the probe beside a migration, announcements, and whether the guest is alive."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from godwit.core import events as e
from godwit.engine.announcing import Announcing
from godwit.engine.listening import Listening
from godwit.engine.timekeeping import Timekeeping
from godwit.errors import GodwitError, ProbeError
from godwit.model import ProbeRequest, RunState, Side, WatchResult, Way
from godwit.units import format_duration

if TYPE_CHECKING:
    from godwit.engine.actions import Actions
    from godwit.ports import Watch

ALIVE_DEADLINE: Final = 10.0
"""Seconds within which the guest must have answered somebody outside after the move."""

BOOT_DEADLINE: Final = 90.0
"""The same for a guest that was started anew: it has to boot first."""
READY_DEADLINE: Final = 5.0
"""Seconds that a switchover that could be at once waits for the probe that is to see it."""

_FIRST_LOOK: Final = 0.1
_LONGEST_LOOK: Final = 2.0
"""Seconds between two announcements: each twice as long as the one before, from the first to the longest."""

_WATCHED_AFTERWARDS: Final = 60.0
"""Seconds for which the guest is watched after it was seen again, at most: of a long series the end is kept."""

_AFTERWARDS: Final = 0.25
"""Seconds that the probe goes on after the guest was seen, so that the figure has an "after"."""


@dataclass(slots=True)
class Outside:
    """Watches one guest from outside, if anybody knows where it can be reached."""

    actions: Actions
    _starting: asyncio.Task[Watch | None] | None = None
    result: WatchResult | None = None
    _watching_since: float = 0.0
    _ending: asyncio.Task[None] | None = None
    _summing: bool = False
    _seen_again: asyncio.Event = field(default_factory=asyncio.Event)
    _announcing: Announcing = field(init=False)
    listening: Listening = field(init=False)
    _timekeeping: Timekeeping = field(init=False)

    def __post_init__(self) -> None:
        """Have one that announces the guest, and one that listens to it."""
        self.listening = Listening(self.actions)
        self._timekeeping = Timekeeping(self.actions)
        self._announcing = Announcing(self.actions, self._timekeeping.is_silent)

    @property
    def request(self) -> ProbeRequest | None:
        """What to probe: what the user asked for, or else the address that the guest is known under."""
        parts = self.actions.parts
        if parts.spec.probe is not None:
            return parts.spec.probe
        return ProbeRequest(parts.vm.address) if parts.vm.address else None

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Start the probe beside everything else; that it cannot start never hinders a migration."""
        self._timekeeping.begin(tasks)
        if self._starting is None and self.request is not None:
            self._starting = tasks.create_task(self._start(self.request), name="probe")

    async def _start(self, request: ProbeRequest) -> Watch | None:
        try:
            watch = await self.actions.parts.watcher.start(request)
        except GodwitError as error:  # the vantage point may be unknown or out of reach, too
            self.actions.warn("probe", error.message, "what the guest's users feel will not be known", error.remedy)
            return None
        self._watching_since = self.actions.parts.clock.now()
        return watch

    async def ready(self) -> None:
        """Wait until the probe watches, and a little longer, so that it knows the guest at rest; never for long."""
        if self._starting is None:
            return
        await asyncio.wait([self._starting], timeout=READY_DEADLINE)
        if self._starting.done() and self._starting.result() is not None:
            await self.actions.parts.clock.sleep(_AFTERWARDS)

    async def verify(self, tasks: asyncio.TaskGroup) -> e.Event:
        """Announce the guest until it is seen from outside, and say whether it lives.

        One that was not seen and says itself that its kernel has stopped does not; what it says proves nothing else.
        """
        found = await self._look(tasks)
        trouble = await self.listening.verdict()
        if trouble is not None and trouble.fatal and not found.alive:
            return e.Verified(alive=False, detail="its kernel says that it has stopped")
        if found.alive is False:
            return found
        answers = await self._timekeeping.mend()
        return e.Verified(alive=True, detail="its agent answers") if answers and found.alive is None else found

    async def _look(self, tasks: asyncio.TaskGroup) -> e.Verified:
        self.start(tasks)
        running = self.actions.ledger.running or self.actions.parts.clock.now()
        await self._announcing.by_qemu()
        watch = await self._starting if self._starting else None
        if watch is None:
            await self._announce_unseen()
            self._tell_announced(None)
            return await self._alive_inside()
        seen: bool | None = False
        off = self.actions.parts.spec.policy.way is Way.OFF
        deadline = BOOT_DEADLINE if off else ALIVE_DEADLINE
        end = self.actions.parts.clock.now() + deadline
        wait = _FIRST_LOOK
        while seen is False and self.actions.parts.clock.now() < end:
            seen = await self._seen(watch, running, min(wait, end - self.actions.parts.clock.now()))
            if seen:
                self._seen_again.set()
            wait = min(2 * wait, _LONGEST_LOOK)
            # Its users wait for nothing any more when it was seen: others may not know where it is, and the host's own
            # frames cost it more of the target's time than QEMU's.
            await asyncio.gather(self._announcing.by_qemu(), self._announcing.by_host())
        if seen is None:
            self._seen_again.set()
        await self._announcing.addressed()
        self._tell_announced(self.actions.parts.clock.now() - running if seen else None)
        if seen is None:
            return await self._alive_inside()
        if not seen:
            self.actions.warn(
                "not-seen",
                f"no answer from {self.request.target if self.request else ''} within {deadline:.0f} s",
                "the guest runs, but its users may not reach it",
                "look at the bridge, VLAN and switch of the target host",
            )
        self._seen_again.set()
        if self._ending is None:
            self._ending = tasks.create_task(self._end_later(), name="probe-end")
        await self.actions.parts.clock.sleep(_AFTERWARDS)
        return e.Verified(seen, "seen from outside" if seen else "not seen from outside")

    async def seen(self, verifying: asyncio.Task[None]) -> None:
        """Wait until somebody outside has seen the guest on the target, or `verifying` has ended without that."""
        seen = asyncio.ensure_future(self._seen_again.wait())
        await asyncio.wait([seen, verifying], return_when=asyncio.FIRST_COMPLETED)
        seen.cancel()

    async def _announce_unseen(self) -> None:
        """Announce the guest once more where nobody looks from outside; QEMU repeats it by itself, for a second."""
        await self.actions.parts.clock.sleep(_FIRST_LOOK)
        await self._announcing.by_host()
        self._seen_again.set()  # nobody waits for more than that
        await self._announcing.addressed()

    def _tell_announced(self, seen_after: float | None) -> None:
        told = f"announced {self._announcing.rounds} times by QEMU"
        if self._announcing.frames:
            told += f", with {self._announcing.frames} frames by {self.actions.parts.target.name}"
        if seen_after is not None:
            told += f"; all of it done {format_duration(seen_after)} after the guest ran"
        self.actions.note("note", text=told)

    async def _seen(self, watch: Watch, since: float, within: float) -> bool | None:
        """Say whether the guest answered; None where the probe itself is gone, so that nobody looks."""
        try:
            return await watch.replied_since(since, within)
        except ProbeError as error:
            self.actions.warn("probe", error.message, "whether the guest's users reach it is not known", error.remedy)
            return None

    async def _alive_inside(self) -> e.Verified:
        """Nobody can look from outside: QEMU's word is all there is, and it is not proof of a living guest."""
        view = await self.actions.sides.look(Side.TARGET)
        if view.state is not RunState.RUNNING:
            return e.Verified(alive=False, detail=f"the target is {view.state}")
        return e.Verified(alive=None, detail="nobody could look from outside")

    async def _end_later(self) -> None:
        """End the probe when what it sees tells no more of the move, although tidying up may go on for hours."""
        await self.actions.parts.clock.sleep(_WATCHED_AFTERWARDS)
        await self._sum_up()

    def let_go(self) -> None:
        """End what is being asked of the guest, and heard of it: nobody waits for that when the move has ended."""
        self.listening.let_go()
        self._announcing.end()
        self._timekeeping.end()

    async def finish(self) -> None:
        """End the probe and keep what it saw."""
        if self._summing and self._ending is not None:
            await self._ending
            return
        if self._ending is not None:
            self._ending.cancel()
        await self._sum_up()

    async def _sum_up(self) -> None:
        self._summing = True
        if self._starting is None:
            return
        watch = await self._starting
        if watch is None:
            return
        ledger = self.actions.ledger
        try:
            self.result = await watch.finish(ledger.stopped, ledger.running)
        except ProbeError as error:
            self.actions.warn("probe", error.message, "what the guest's users felt is not known", error.remedy)
            return
        self.actions.note("series", **self.result.series)
        if ledger.stopped is not None and self._watching_since > ledger.stopped:
            # A runner that followed a dead one: its probe cannot have seen the gap, and its longest one is no answer.
            self.result = replace(self.result, client_gap_ms=None, probe_lag_ms=None, first_packet_ms=None)
            self.actions.note("note", text="the outside probe began too late to see what the guest's users felt")
