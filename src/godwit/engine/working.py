"""What a move costs the guest and the others of both hosts: looked at beside it, light, and never in the blackout."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from godwit.core.protecting import EASE, IN_VAIN, YIELD, Change, Lane, Watched, first_bandwidth, judged, protect
from godwit.core.strategy import Decision
from godwit.core.working import Meter, kept, rates, undisturbed
from godwit.engine.expecting import link_pace
from godwit.engine.pacing import Pace
from godwit.errors import GodwitError, JournalError
from godwit.model import Side
from godwit.units import format_bandwidth

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.core.working import Kept, Rates, Reading
    from godwit.engine.actions import Actions
    from godwit.model import HostWork, Sample, Vm

PERIOD: Final = 1.0
"""Seconds between two looks at a host."""

LONGEST_PERIOD: Final = 10.0
_SHARE: Final = 1 / 60
"""Between looks goes this share of the time that they have gone on for, unless neighbours are to be protected."""

SOON: Final = 0.3
"""Seconds within which one look tells nothing that another has not told."""

DEADLINE: Final = 5.0
"""Seconds that a look may take."""

LAST_DEADLINE: Final = 0.5
"""Seconds that the last look, for which a user waits, may take."""

UNDISTURBED: Final = 1.0
"""Seconds for which neighbours that are to be protected are watched before a stream takes anything from them."""

AFTERMATH: Final = 0.25
"""Seconds that a guest which has just been handed over is left alone: its users wait for it."""

_REMEMBERED: Final = 120
"""Looks at neighbours that decisions rest on."""


@dataclass(slots=True)
class _Seen:
    """One guest on one side: who it is, the counters so far, what it did before the stream, and whether it is off."""

    vm: Vm
    meter: Meter
    host: str
    first: Reading | None = None
    last: Reading | None = None
    before: Rates | None = None
    off: bool = False


@dataclass(slots=True)
class Working:
    """Counts what the guest and its neighbours come to do, and says by what bandwidth these are protected."""

    actions: Actions
    watched: list[Watched] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    held_back: bool = False
    """Whether the stream was ever slower than it may be for its neighbours' sake: it says nothing of its link."""
    _seen: dict[Side, dict[str, _Seen]] = field(default_factory=dict)
    _clocks: dict[Side, tuple[float, float]] = field(default_factory=dict)
    _quiet: bool = False
    _streams: bool = False
    _begins: bool = False
    _over: bool = False
    _began: float = 0.0
    _looked: float = 0.0
    _told: set[Side] = field(default_factory=set)
    _paces: dict[Side, Pace] = field(default_factory=lambda: {side: Pace() for side in Side})
    _known: asyncio.Event = field(default_factory=asyncio.Event)
    _seen_once: asyncio.Event = field(default_factory=asyncio.Event)
    _poked: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None
    _glance: asyncio.Task[None] | None = None
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _floor_told: bool = False
    _gone: bool = False

    # -- when it looks -----------------------------------------------------------------------------------------------

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Begin to look at both hosts, beside everything else."""
        if self._task is None:
            self._began = self.actions.parts.clock.now()
            self._task = tasks.create_task(self._run(), name="work")

    def stream_begins(self) -> None:
        """Look now, and take what was seen until then for what everybody did before."""
        if not self._begins:
            self._begins = True
            self._poked.set()

    def hush(self, *, quiet: bool) -> None:
        """Look at nothing while the guest stands still, and end a look that is under way: it would lengthen that."""
        self._quiet = quiet
        if quiet and self._glance is not None:
            self._glance.cancel()

    def handed_over(self) -> None:
        """Look at the guest on the target from now on, too."""
        self._over = True
        self._poked.set()

    async def finish(self) -> None:
        """Look no longer, but once more at a guest that has moved: how it and others are afterwards."""
        if self._task is None:
            return
        self._task.cancel()
        if not self._over:
            return
        try:
            async with asyncio.timeout(LAST_DEADLINE):
                await self._know_it_there()
                await self._look()
        except TimeoutError:
            return

    async def _run(self) -> None:
        await self._know_them()
        while True:
            self._poked.clear()
            if not self._quiet:
                await self._look_unless_hushed()
            self._seen_once.set()
            waits = [asyncio.ensure_future(self.actions.parts.clock.sleep(self._period()))]
            waits.append(asyncio.ensure_future(self._poked.wait()))  # type: ignore[arg-type] # its result is nobody's
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            if self._over and self._poked.is_set():
                await self.actions.parts.clock.sleep(AFTERMATH)
                await self._know_it_there()
            left = self._looked + SOON - self.actions.parts.clock.now()
            if left > 0 and self._begins == self._streams:  # what was before ends when the stream begins
                await self.actions.parts.clock.sleep(left)

    async def _look_unless_hushed(self) -> None:
        self._glance = asyncio.ensure_future(self._look())
        try:
            await asyncio.wait([self._glance])
        finally:
            self._glance.cancel()
        if not self._glance.cancelled():
            self._glance.result()

    def _period(self) -> float:
        if self.actions.parts.spec.policy.protect_neighbours is not None:
            return PERIOD
        return min(LONGEST_PERIOD, max(PERIOD, (self.actions.parts.clock.now() - self._began) * _SHARE))

    # -- what it looks at --------------------------------------------------------------------------------------------

    async def _know_them(self) -> None:
        """Learn who lives on both hosts; a neighbour that Godwit does not know cannot be told from anything else."""
        parts = self.actions.parts
        try:
            known = await parts.inventory.vms()
        except GodwitError as error:
            self.actions.note("note", text=f"the neighbours of the guest could not be read: {error.message}")
            known = []
        own = parts.vm_on(Side.SOURCE)
        self._seen[Side.SOURCE] = {own.name: _Seen(own, Meter(await self._threads(Side.SOURCE)), parts.spec.source)}
        self._seen[Side.TARGET] = {}
        for vm in known:
            side = {parts.spec.target: Side.TARGET, parts.spec.source: Side.SOURCE}.get(vm.host)
            if side is not None and vm.name != own.name:
                self._seen[side][vm.name] = _Seen(vm, Meter(), vm.host)
        self._known.set()

    async def _know_it_there(self) -> None:
        """Count what the guest takes of the target, too, from the start of its process there."""
        own = self.actions.parts.vm_on(Side.TARGET)
        if self._known.is_set() and own.name not in self._seen[Side.TARGET]:
            threads = await self._threads(Side.TARGET)
            meter = Meter(threads, from_start=threads is not None)
            self._seen[Side.TARGET][own.name] = _Seen(own, meter, self.actions.parts.spec.target)

    async def _threads(self, side: Side) -> frozenset[int] | None:
        """Return the threads of the guest's process that play its CPUs; None where nobody knows: then all count."""
        guest = self.actions.sides.guests.get(side)
        if guest is None:
            return None
        try:
            return frozenset(await guest.cpu_threads())
        except GodwitError as error:
            self.actions.note("note", text=f"which threads play the guest's CPUs is not known: {error.message}")
            return None

    async def _look(self) -> None:
        async with self._looking:
            self._looked, begins = self.actions.parts.clock.now(), self._begins
            worst = await asyncio.gather(*(self._look_at(side) for side in Side if self._seen.get(side)))
            if not self._streams:
                self._streams = begins
                return
            spans = [found for found in worst if found is not None]
            if spans:
                least = min((one for _, one in spans if one is not None), key=lambda one: one.share, default=None)
                at = self.actions.parts.clock.now()
                self.watched.append(Watched(at, max(seconds for seconds, _ in spans), least))
                del self.watched[:-_REMEMBERED]

    async def _look_at(self, side: Side) -> tuple[float, Kept | None] | None:
        """Look at one host; returns over how many seconds, and who of the neighbours kept least."""
        vms = [one.vm for one in self._seen[side].values()]
        sent = self.actions.parts.clock.now()
        try:
            async with asyncio.timeout(DEADLINE):
                work = await self.actions.parts.host(side).work(vms)
        except (GodwitError, TimeoutError) as error:
            if side not in self._told:
                self._told.add(side)
                why = error.message if isinstance(error, GodwitError) else f"no answer within {DEADLINE:.0f} s"
                self.actions.note("note", text=f"what guests come to do on the {side} cannot be seen: {why}")
            return None
        return self._taken(side, work, self._on_our_clock(side, work.at, (sent + self.actions.parts.clock.now()) / 2))

    def _on_our_clock(self, side: Side, at: float, now: float) -> float:
        """Return that host's instant on our clock: by the first look, unless the host's clock was set since."""
        ours, theirs = self._clocks.setdefault(side, (now, at))
        found = ours + at - theirs
        if abs(found - now) > SOON:
            self._clocks[side] = now, at
            return now
        return found

    def _taken(self, side: Side, work: HostWork, at: float) -> tuple[float, Kept | None] | None:
        data: dict[str, object] = {}
        seconds, worst = 0.0, []
        running = {one.vm for one in work.guests}
        for name, seen in self._seen[side].items():
            seen.off = name not in running
        for one in work.guests:
            seen = self._seen[side][one.vm]
            reading = seen.meter.after(at, one)
            data[one.vm] = [round(reading.ran, 6), _rounded(reading.waited), reading.disk, reading.network]
            lately = rates(seen.last, reading) if seen.last is not None else None
            if lately is not None and self._streams:
                seconds = max(seconds, lately.seconds)
                if one.vm != self.actions.parts.spec.vm:
                    worst.append(kept(one.vm, seen.host, seen.before, lately))
            if not self._streams and seen.first is not None:
                seen.before = undisturbed(seen.before, rates(seen.first, reading), lately)
            seen.first, seen.last = seen.first or reading, reading
        if data and self._paces[side].worth(at, turn=self._over):
            host = self.actions.parts.spec.source if side is Side.SOURCE else self.actions.parts.spec.target
            self.actions.note("work", side=side.value, host=host, at=at, guests=data)
        found = [one for one in worst if one is not None]
        return (seconds, min(found, key=lambda one: one.share, default=None)) if seconds else None

    @property
    def neighbours(self) -> int:
        """How many other guests run on both hosts, as far as anybody has seen."""
        own, every = self.actions.parts.spec.vm, [one for seen in self._seen.values() for one in seen.values()]
        return sum(one.vm.name != own and not one.off for one in every)

    # -- what follows ------------------------------------------------------------------------------------------------

    async def first_bandwidth(self) -> int | None:
        """Return the bytes a second that the stream is to begin with for its neighbours' sake; None: as it may be."""
        parts = self.actions.parts
        if parts.spec.policy.protect_neighbours is None or parts.spec.defaults or parts.spec.upgrade is not None:
            return None
        await self._seen_once.wait()
        if not self.neighbours:
            text = "neither host runs another guest that Godwit knows: there is none to protect"
            self.actions.note("note", text=text)
            return None
        await self._watch_undisturbed()
        try:
            link = await link_pace(parts.journal, parts.spec)
        except JournalError:  # it is as if nobody knew
            link = None
        most = first_bandwidth(parts.spec.policy, link)
        if most is not None:
            self.held_back = True
            text = f"the stream begins with {format_bandwidth(most)}, so that its neighbours do not notice"
            self.actions.note("protecting", text=text, parameters={"max-bandwidth": most})
        return most

    async def _watch_undisturbed(self) -> None:
        """Look at both hosts for a while in which nothing is done: a target that is started takes of them, too."""
        if not self._begins:  # or copies of disks are under way
            await self._look()
            await self.actions.parts.clock.sleep(UNDISTURBED)
            await self._look()

    def let_go(self, ceiling: int, evidence: str) -> Decision | None:
        """Protect nobody any more, since the guest would have to stand still for it; returns what lifts the limit."""
        self._gone = True
        lane = Lane(self.actions.switchover.bandwidth, ceiling)
        if self.actions.parts.spec.policy.protect_neighbours is None or lane.open:
            return None
        reason = (
            "the guest would have to stand still: neighbours are spared no more, the stream may be as fast as it can"
        )
        return Decision(EASE, reason, evidence, (("max-bandwidth", ceiling),))

    def decide(self, samples: Sequence[Sample], ceiling: int) -> Decision | None:
        """Return what to change about the stream for the neighbours' sake, each once."""
        parts = self.actions.parts
        if self._gone:
            return None
        lane = Lane(self.actions.switchover.bandwidth, ceiling)
        decision = protect(parts.spec.policy, samples, self.watched, self.changes, lane, parts.requested)
        if decision is None:
            return None
        if not decision.parameters:
            told, self._floor_told = self._floor_told, True
            return None if told else decision
        share = judged(self.watched, self.changes)
        self.changes.append(Change(parts.clock.now(), decision.action, share))
        self.held_back = self.held_back or decision.action == YIELD
        self._floor_told = self._floor_told and decision.action not in {YIELD, IN_VAIN}
        return decision


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
