"""The passes of a stream to come, played one by one with the strategy's own decisions. Pure.

Pass by pass QEMU sends what the pass before it left, while the guest goes on changing pages; it stops the guest as soon
as what is left fits into the downtime limit at the rate of the moment. The model is that of Akoush et al., Predicting
the Performance of Virtual Machine Migration (2010), with a measured curve (`godwit.core.dirtying`) in the place of a
constant dirty rate, and with the decisions that `godwit.core.strategy` would take.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from godwit.core.capabilities import HELD, PACE
from godwit.core.strategy import POSTCOPY, STALLED_PASSES, Switchover, adjusted, decide, writes_at
from godwit.model import Policy, Sample

if TYPE_CHECKING:
    from godwit.core.dirtying import DirtyCurve

MOST_PASSES: Final = 600
"""Passes after which a stream that has neither ended nor been given up counts as one that does not end: one whose
passes shrink by so little that the strategy just lets it go on shrinks from minutes to milliseconds in fewer."""

_REMEMBERED: Final = 40
"""Passes that decisions are made upon: the strategy compares the last few with those before them."""

_FITS: Final = 1e-9
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
    cannot be made to; `postcopy` says whether it can go over to the target before its memory; `busy` is the share of
    its time for which its busiest CPU works. `tunable` are the parameters that QEMU has.
    """

    bandwidth: float
    again: float = 1.0
    pages: float = math.inf
    whole: float = 1.0
    first: float = 1.0
    throttle: int | None = None
    postcopy: bool = False
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
    the target before it.
    """

    seconds: float
    bytes: float
    passes: int
    blackout: float
    converges: bool
    lost: float = 0.0
    throttle: int = 0
    rest: float = 0.0


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


def simulate(curve: DirtyCurve, first: float, stream: Stream, policy: Policy, limit: float) -> Simulated:
    """Go through the passes of a stream whose first one sends pages of `first` bytes.

    `limit` is the downtime limit that it starts with, in seconds; the strategy raises it as it would.
    """
    sent = first * stream.first
    seconds = duration = max(sent / stream.bandwidth, first / stream.pages)
    kept = 0.0
    samples: list[Sample] = []
    needed: list[float] = []
    now, sleep = Switchover(limit, throttle=stream.throttle, postcopy=stream.postcopy), _Sleep()
    for number in range(1, MOST_PASSES + 1):
        left, reached = curve.unique(duration * writes_at(sleep.percentage, stream.busy)), curve.unique(seconds)
        fresh = min(left, max(0.0, reached - kept))
        kept = max(kept, reached)
        dirtied = left / duration if duration > 0 else 0.0
        sleep.pass_ends(seconds, now.throttle, writes=left > 0)
        duration, taken = stream.seconds(left, fresh), stream.bytes(left, fresh)
        rate = taken / duration if duration > 0 else stream.bandwidth
        asleep = sleep.percentage if sleep.percentage > HELD else 0
        sample = Sample(seconds, number + 1, round(sent), round(left), curve.memory, rate, dirtied, throttle=asleep)
        samples.append(sample)
        needed.append(duration if PACE in stream.tunable else left / rate)
        ends = left <= now.limit * (now.pace or rate) * (1 + _FITS)
        decision = None if ends else decide(policy, samples[-_REMEMBERED:], now, stream.tunable, busy=stream.busy)
        if decision is not None:
            if decision.action == POSTCOPY:
                over = Simulated(
                    seconds, sent + taken, number, 0.0, converges=True, lost=sleep.lost, throttle=sleep.most
                )
                return replace(over, rest=duration)
            if not decision.parameters:
                break
            now = adjusted(now, dict(decision.parameters))
            ends = left <= now.limit * (now.pace or rate) * (1 + _FITS)
        if ends:
            return Simulated(
                seconds, sent + taken, number, duration, converges=True, lost=sleep.lost, throttle=sleep.most
            )
        sleep.slept(duration, stream.busy)
        seconds, sent = seconds + duration, sent + taken
    return Simulated(
        seconds,
        sent,
        len(samples),
        min(needed[-STALLED_PASSES:]),
        converges=False,
        lost=sleep.lost,
        throttle=sleep.most,
    )
