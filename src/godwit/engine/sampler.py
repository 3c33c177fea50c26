"""Reads the stream's counters, lets the strategy decide, notices a stream that stands still."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from godwit.core import events as e
from godwit.core.dirtying import BESIDE
from godwit.core.readings import RECENT_PASSES, busiest, thinned
from godwit.core.strategy import PAUSE, POSTCOPY, STALL_SECONDS, THROTTLE, decide, eta, last_moment, stalled, still
from godwit.engine.devices import WAITS
from godwit.engine.pacing import Pace
from godwit.engine.shares import MemoryShare
from godwit.engine.story import plain
from godwit.errors import GodwitError
from godwit.model import Sample, Side
from godwit.units import format_bandwidth

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from godwit.core.strategy import Decision
    from godwit.engine.actions import Actions
    from godwit.engine.working import Working
    from godwit.model import DirtyWindow
    from godwit.ports import Guest

PERIOD: Final = 0.25
"""Seconds between samples at first; the end of a pass brings one at once."""

LONGEST_PERIOD: Final = 1.0
_SHARE: Final = 1 / 40
"""Between samples goes this share of the time that the stream has taken so far: a look that costs the same tells less
of a move that takes long. Not where a deadline, or a guest that waits for its memory, makes the instant matter."""

OVER_STANDS: Final = 1.0
"""Seconds without a byte after which the memory of a guest in postcopy counts as cut off: it waits for it."""

KEPT: Final = 2000
"""Samples that are remembered for what later moves learn from this one; within a pass few are needed of them."""

_THINNED_AT: Final = 64
"""How many more samples than were kept lead to a look at which of them are needed: each decision goes through all."""


@dataclass(slots=True)
class Sampler:
    """Follows one stream while it runs, and is silent during the switchover: a query there would lengthen it.

    `copied` asks how many bytes of disks were sent beside it; `working` sees what neighbours come to do meanwhile.
    """

    actions: Actions
    emit: Callable[[e.Event], None]
    copied: Callable[[Guest], Awaitable[int | None]]
    working: Working | None = None
    _share: MemoryShare | None = None
    _all: list[Sample] = field(default_factory=list)
    _full: bool = False
    _pace: Pace = field(default_factory=Pace)
    _astray: bool = False
    _samples: list[Sample] = field(default_factory=list)
    _thin_at: int = _THINNED_AT
    _said: tuple[str, int] | None = None
    _began: float = 0.0
    _worked: tuple[float, tuple[float, ...]] | None = None
    _busy: float | None = None
    _over: bool = False
    _broke_at: int | None = None
    _poked: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None
    _windows: list[DirtyWindow] = field(default_factory=list)
    _looking: asyncio.Task[None] | None = None

    @property
    def samples(self) -> Sequence[Sample]:
        """What was read so far, the oldest first."""
        return self._all

    def follow(self, tasks: asyncio.TaskGroup, *, streaming: bool, over: bool = False) -> None:
        """Start or stop sampling; `over` says that the guest has gone over, and its memory follows."""
        self._over = over
        if not streaming and self._task is not None:
            self._task.cancel()
            self._task = None
            if self._looking is not None:
                self._looking.cancel()
        elif streaming and self._task is None:
            self._began = self.actions.parts.clock.now()
            self._task = tasks.create_task(self._run(), name="sampler")
            now = self.actions.switchover
            unknown = self.actions.foreseen is None and not self._windows and not over
            if unknown and (now.throttle is not None or now.postcopy):
                self._looking = tasks.create_task(self._look(), name="windows")

    async def _look(self) -> None:
        """Measure how a guest of which nothing is known changes its memory, while its first pass is sent."""
        guest = self.actions.sides.guests.get(Side.SOURCE)
        if guest is None:
            return
        try:
            for seconds in BESIDE:
                window = await guest.dirty_window(seconds)
                self._windows.append(window)
                if window.seconds > seconds:  # this QEMU measures nothing so short
                    return
        except GodwitError as error:
            self.actions.note("note", text=f"what it changes within a short time cannot be measured: {error.message}")

    def poke(self) -> None:
        """Take a sample now: a pass has ended."""
        self._poked.set()

    async def _run(self) -> None:
        pause: asyncio.Task[None]
        while True:
            self._poked.clear()
            await self._sample()
            pause = asyncio.ensure_future(self.actions.parts.clock.sleep(self._period()))
            poked = asyncio.ensure_future(self._poked.wait())
            try:
                await asyncio.wait([pause, poked], return_when=asyncio.FIRST_COMPLETED)
            finally:
                pause.cancel()
                poked.cancel()

    def _period(self) -> float:
        if self._over or self.actions.parts.spec.policy.deadline is not None:
            return PERIOD
        return min(LONGEST_PERIOD, max(PERIOD, (self.actions.parts.clock.now() - self._began) * _SHARE))

    async def _sample(self) -> None:
        guest = self.actions.sides.guests.get(Side.SOURCE)
        if guest is None:
            return
        try:
            sample = await guest.sample()
            await self.actions.ask_source(guest)
            await self._yield_to_disks(guest)
        except GodwitError as error:
            self.actions.note("note", text=f"no sample: {error.message}")
            return
        if sample is not None:
            self._keep(sample)
            expected = eta(self._samples, self.actions.switchover)
            turn = len(self._samples) > 1 and sample.iteration != self._samples[-2].iteration
            if self._pace.worth(sample.at, turn=turn):
                self.actions.note("sample", **_as_data(sample), eta=list(expected) if expected else None)
        if self._over:
            if sample is not None and still(self._samples, OVER_STANDS) and sample.transferred != self._broke_at:
                self._broke_at = sample.transferred  # it is mended until bytes flow again: once is enough
                self.emit(e.StreamBroke(Side.SOURCE))
            return
        if stalled(self._samples, self.actions.parts.clock.now(), self._began):
            if WAITS in (await self.actions.sides.look(Side.SOURCE)).raw:  # for the guest; that has its own deadline
                self._began = self.actions.parts.clock.now()
                self._samples.clear()
                return
            reason = f"not a byte was sent for {STALL_SECONDS:.0f} s"
            self.emit(e.GiveUp("stalled", reason, "look at the migration link and at the target's QEMU"))
        elif not self.actions.parts.spec.defaults and not self.actions.in_place:
            self._protect()
            await self._decide(guest)

    def _keep(self, sample: Sample) -> None:
        if not self._full:
            self._all.append(sample)
            if len(self._all) >= KEPT:
                # Of a stream of very many passes the first ones have to tell what the guest is like.
                self._all = thinned(self._all)
                self._full = len(self._all) > KEPT // 2
        self._samples.append(sample)
        if len(self._samples) >= self._thin_at:
            self._samples = thinned(self._samples, passes=RECENT_PASSES)
            self._thin_at = len(self._samples) + _THINNED_AT

    async def _yield_to_disks(self, guest: Guest) -> None:
        """Leave what the guest writes to copied disks out of what memory may send."""
        spec = self.actions.parts.spec
        if not spec.policy.bandwidth or spec.defaults:
            return
        copied = await self.copied(guest)
        if copied is None:
            return
        if self._share is None:
            self._share = MemoryShare(spec.policy.bandwidth)
        changed = self._share.after(self.actions.parts.clock.now(), copied)
        if changed is not None:
            share, rate = changed
            reason = f"memory may send {format_bandwidth(share)} of {format_bandwidth(spec.policy.bandwidth)}"
            evidence = f"the guest's writes to copied disks take {format_bandwidth(rate)}"
            if spec.policy.protect_neighbours is not None:  # which may have left it less
                share = min(share, self.actions.switchover.bandwidth or share)
            self.emit(e.Decided("share-bandwidth", {"max-bandwidth": share}, reason, evidence))

    def _protect(self) -> None:
        """Hold the stream back, or let it go on faster, for the sake of other guests, where that was asked for."""
        decision = self.working.decide(self._samples, self._ceiling) if self.working else None
        if decision is not None:
            self._tell(decision)

    @property
    def _ceiling(self) -> int:
        """What memory may send where nobody is spared, in bytes a second; 0: no limit."""
        return self._share.now if self._share else self.actions.parts.spec.policy.bandwidth or 0

    def _tell(self, decision: Decision) -> None:
        self.emit(e.Decided(decision.action, dict(decision.parameters), decision.reason, decision.evidence))

    def _let_go(self, pause: Decision) -> bool:
        """Let the stream be as fast as it can before a guest has to stand still for it; says whether that helps."""
        freed = self.working.let_go(self._ceiling, pause.evidence) if self.working else None
        if freed is not None:
            self._tell(freed)
        return freed is not None

    async def _decide(self, guest: Guest) -> None:
        actions = self.actions
        if self._worked is None and actions.switchover.throttle is not None:
            self._worked = actions.parts.clock.now(), await self._cpu_times(guest)
        moment = self._last_moment()
        decision = moment or self._decided()
        if decision is not None and decision.action == THROTTLE and self._busy is None:
            self._busy = await self._measure(guest)
            decision = self._decided()
        if decision is None:
            return
        # What QEMU did not take, or did not do, is asked for again in the next pass; a warning is said once.
        acts = bool(decision.parameters) or decision.action in {PAUSE, POSTCOPY}
        said = (decision.action, self._samples[-1].iteration if acts else 0)
        if said == self._said:
            return
        if decision.action == PAUSE and self._let_go(decision):
            # How fast it is then shows at once, what passes leave only at the end of the next one.
            self._said = None if moment else said
            return
        self._said = said
        self._tell(decision)

    def _last_moment(self) -> Decision | None:
        actions = self.actions
        owed = None
        if actions.foreseen and self._samples and not self._astray:
            owed = actions.foreseen.owed_after(self._samples, self._began)
            self._astray = owed is None  # and it stays so when the pass that showed it is left out
        policy, requested = actions.parts.spec.policy, actions.parts.requested
        return last_moment(policy, self._samples, actions.switchover, requested, owed)

    def _decided(self) -> Decision | None:
        actions = self.actions
        busy = 1.0 if self._busy is None else self._busy
        return decide(
            actions.parts.spec.policy,
            self._samples,
            actions.switchover,
            actions.tunable,
            busy=busy,
            windows=self._windows,
        )

    async def _measure(self, guest: Guest) -> float:
        """Return how busy the guest has been since its stream began: all the time, where that cannot be seen."""
        if self._worked is None:
            return 1.0
        began, before = self._worked
        found = busiest(before, await self._cpu_times(guest), self.actions.parts.clock.now() - began)
        return 1.0 if found is None else found

    async def _cpu_times(self, guest: Guest) -> tuple[float, ...]:
        try:
            return await guest.cpu_times()
        except GodwitError as error:
            self.actions.note("note", text=f"how busy the guest is cannot be seen: {error.message}")
            return ()


def _as_data(sample: Sample) -> dict[str, object]:
    data = plain(sample)
    assert isinstance(data, dict)  # noqa: S101 - plain() makes one of a dataclass; for the type checker
    return data
