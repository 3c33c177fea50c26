"""The passes of a stream to come, played one by one with the strategy's own decisions. Pure.

Pass by pass QEMU sends what the pass before it left, while the guest goes on changing pages; it stops the guest as soon
as what is left fits into the downtime limit at the rate of the moment. The model is that of Akoush et al., Predicting
the Performance of Virtual Machine Migration (2010), with a measured curve (`godwit.core.dirtying`) in the place of a
constant dirty rate, and with the decisions that `godwit.core.strategy` would take.

A guest that may be paused for its deadline is paused in the midst of a pass: what a pass has still to send then takes
the same time, whenever that is, but what the guest has changed meanwhile, U(t), has to be sent as well. The last moment
is when only just as much is left until the deadline.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from godwit.core.capabilities import HELD, PACE
from godwit.core.readings import passes_of
from godwit.core.sleeping import writes_at
from godwit.core.strategy import (
    MARGIN,
    PAUSE,
    POSTCOPY,
    STALLED_PASSES,
    Switchover,
    adjusted,
    decide,
    reserve,
)
from godwit.model import Policy, Sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.core.dirtying import DirtyCurve

MOST_PASSES: Final = 600
"""Passes after which a stream that has neither ended nor been given up counts as one that does not end: one whose
passes shrink by so little that the strategy just lets it go on shrinks from minutes to milliseconds in fewer."""

_REMEMBERED: Final = 40
"""Passes that decisions are made upon: the strategy compares the last few with those before them."""

_FITS: Final = 1e-9
_TOLD_APART: Final = 1e-3
_WORTH_COMPARING: Final = 1.0
_LOOKS: Final = 1.0
_PASSES_SEEN: Final = 2
"""QEMU looks at what a guest changes when a pass ends more than a second after the last look, and slows the guest down
each second time that it was too much (migration_trigger_throttle() in migration/ram.c)."""


@dataclass(frozen=True, slots=True)
class Stream:
    """How a strategy sends: `bandwidth` bytes a second at most.

    In the first pass a page takes `first` of its size, later `whole`, and one that was kept `again`. `pages` is how
    many bytes of pages a second the sender can look through, or compress, whatever becomes of them on the wire.
    `throttle` is the percentage of its time for which the guest is to sleep from the second look on, None where it
    cannot be made to; `postcopy` says whether it can go over to the target before its memory, `over_after` after how
    many passes it is to; `busy` is the share of its time for which its busiest CPU works. `tunable` are the parameters
    that QEMU has.
    """

    bandwidth: float
    again: float = 1.0
    pages: float = math.inf
    whole: float = 1.0
    first: float = 1.0
    throttle: int | None = None
    postcopy: bool = False
    over_after: int = 0
    busy: float = 1.0
    tunable: frozenset[str] = frozenset({PACE})

    def bytes(self, left: float, fresh: float) -> float:
        """Return the bytes on the wire for pages of `left` bytes, `fresh` of which were not kept before.

        QEMU keeps pages from the second pass on (xbzrle_started in migration/ram.c): those that the first pass sent
        travel whole once more.
        """
        return fresh * self.whole + (left - fresh) * self.again

    def seconds(self, left: float, fresh: float) -> float:
        """Return how long it takes to send these pages."""
        return max(self.bytes(left, fresh) / self.bandwidth, left / self.pages)


@dataclass(frozen=True, slots=True)
class Simulated:
    """How a stream went: seconds and bytes up to the switchover, and the seconds that the last pages take.

    `converges` is False where they take longer than the policy permits; `blackout` is then what would have to be.
    `lost` is the time, in seconds, by which the guest is behind with its work for having slept; `throttle` the largest
    percentage of its time for which it did. `rest` is the seconds for which memory follows a guest that goes over to
    the target before it. One that is `paused` before that stands still while the rest of its pass is sent, too.
    """

    seconds: float
    bytes: float
    passes: int
    blackout: float
    converges: bool
    lost: float = 0.0
    throttle: int = 0
    rest: float = 0.0
    paused: bool = False


@dataclass(slots=True)
class _Sleep:
    """How far QEMU has gone in slowing the guest down: the percentage, and when it last looked."""

    percentage: int = 0
    looked: float = 0.0
    seen: int = 0
    lost: float = 0.0
    most: int = 0

    def pass_ends(self, at: float, told: int | None, *, writes: bool) -> None:
        """Look at what a pass has left, as QEMU does; `told` is how far it is to go."""
        if told is None or at - self.looked <= _LOOKS:
            return
        self.looked = at
        if writes:
            self.seen += 1
        if self.seen >= _PASSES_SEEN:
            self.seen, self.percentage = 0, told
            self.most = max(self.most, told if told > HELD else 0)

    def slept(self, seconds: float, busy: float) -> None:
        """Count what the guest lost in so many seconds."""
        if self.percentage > HELD:
            self.lost += seconds * (1 - writes_at(self.percentage, busy))


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What is thought of a guest and of the stream by which it is sent. Times count from the start of that stream."""

    curve: DirtyCurve
    stream: Stream

    def changed(self, began: float, at: float, throttle: int = 0) -> tuple[float, float]:
        """Return the bytes that are changed until `at` in a pass that began at `began`, and how many were not kept."""
        changed = self.curve.unique((at - began) * writes_at(throttle, self.stream.busy))
        return changed, min(changed, max(0.0, self.curve.unique(at) - self.curve.unique(began)))

    def owed(self, began: float, at: float, throttle: int = 0) -> float:
        """Return the seconds that it takes to send these bytes."""
        return self.stream.seconds(*self.changed(began, at, throttle))

    def owed_after(self, samples: Sequence[Sample], started: float) -> float | None:
        """Return the seconds that it takes to send what the guest has changed since the pass of the last sample began.

        None where a pass has left noticeably more than was foreseen: then nothing is. `started` is when the stream was.
        """
        for one in passes_of(samples, started):
            if one.seconds >= _WORTH_COMPARING and one.left > MARGIN * self.changed(0.0, one.seconds, one.throttle)[0]:
                return None
        last = samples[-1]
        first = next(one.at for one in samples if one.iteration == last.iteration)
        return self.owed(0.0 if last.iteration == 1 else first - started, last.at - started, last.throttle)


def simulate(
    curve: DirtyCurve, first: float, stream: Stream, policy: Policy, limit: float, until: float = math.inf
) -> Simulated:
    """Go through the passes of a stream whose first one sends pages of `first` bytes.

    `limit` is the downtime limit that it starts with, in seconds; the strategy raises it as it would. `until` is when,
    in seconds from its start, it must be through, where the guest may be paused for that.
    """
    sleep = _Sleep()
    now = Switchover(limit, throttle=stream.throttle, postcopy=stream.postcopy, over_after=stream.over_after)
    found = _played(Foreseen(curve, stream), first, policy, now, until, sleep)
    return replace(found, lost=sleep.lost, throttle=sleep.most)


def _played(
    foreseen: Foreseen, first: float, policy: Policy, now: Switchover, until: float, sleep: _Sleep
) -> Simulated:
    """Go through the passes, and leave what the guest slept to `sleep`."""
    stream, sent = foreseen.stream, first * foreseen.stream.first
    began, seconds = 0.0, max(sent / stream.bandwidth, first / stream.pages)
    until = until if seconds <= until else math.inf  # nobody is paused for what cannot be kept
    samples: list[Sample] = []
    needed: list[float] = []
    for number in range(1, MOST_PASSES + 1):
        if seconds + reserve(foreseen.owed(began, seconds, sleep.percentage), first=number == 1) > until:
            return _stopped(foreseen, Simulated(seconds, sent, number, 0.0, converges=True), began, until, sleep)
        left, fresh = foreseen.changed(began, seconds, sleep.percentage)
        dirtied = left / (seconds - began) if seconds > began else 0.0
        sleep.pass_ends(seconds, now.throttle, writes=left > 0)
        duration, taken = stream.seconds(left, fresh), stream.bytes(left, fresh)
        rate = taken / duration if duration > 0 else stream.bandwidth
        asleep = sleep.percentage if sleep.percentage > HELD else 0
        memory = foreseen.curve.memory
        samples.append(Sample(seconds, number + 1, round(sent), round(left), memory, rate, dirtied, throttle=asleep))
        needed.append(duration if PACE in stream.tunable else left / rate)
        decision = None
        if not _fits(left, rate, now):
            decision = decide(policy, samples[-_REMEMBERED:], now, stream.tunable, busy=stream.busy)
        through = Simulated(seconds, sent + taken, number, duration, converges=True)
        if decision is not None:
            if decision.action == POSTCOPY:
                return replace(through, blackout=0.0, rest=duration)
            if decision.action == PAUSE:
                return replace(through, paused=True)
            if not decision.parameters:
                break
            now = adjusted(now, dict(decision.parameters))
        if _fits(left, rate, now):
            return through
        sleep.slept(duration, stream.busy)
        began, seconds, sent = seconds, seconds + duration, sent + taken
    return Simulated(seconds, sent, len(samples), min(needed[-STALLED_PASSES:]), converges=False)


def _fits(left: float, rate: float, now: Switchover) -> bool:
    """Say whether QEMU stops the guest for the rest."""
    return left <= now.limit * (now.pace or rate) * (1 + _FITS)


def _stopped(foreseen: Foreseen, unpaused: Simulated, began: float, until: float, sleep: _Sleep) -> Simulated:
    """Return how a stream goes whose guest has to be paused in a pass: as late as permits to be through in time."""
    ends, asleep, first = unpaused.seconds, sleep.percentage, unpaused.passes == 1
    runs, late = began, ends
    while late - runs > _TOLD_APART:
        middle = (runs + late) / 2
        kept = reserve(foreseen.owed(began, middle, asleep), first=first)
        runs, late = (middle, late) if ends + kept <= until else (runs, middle)
    changed = foreseen.changed(began, runs, asleep)
    blackout = ends - runs + foreseen.stream.seconds(*changed)
    sent = unpaused.bytes + foreseen.stream.bytes(*changed)
    return replace(unpaused, seconds=runs, bytes=sent, blackout=blackout, paused=True)
