"""The passes of a stream to come, played one by one with the strategy's own decisions. Pure.

Pass by pass QEMU sends what the pass before it left, while the guest goes on changing pages; it stops the guest as soon
as what is left fits into the downtime limit at the rate of the moment. The model is that of Akoush et al., Predicting
the Performance of Virtual Machine Migration (2010), with a measured curve (`godwit.core.dirtying`) in the place of a
constant dirty rate, and with the decisions that `godwit.core.strategy` would take.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.core.strategy import Switchover, adjusted, decide
from godwit.model import Policy, Sample

if TYPE_CHECKING:
    from godwit.core.dirtying import DirtyCurve

MOST_PASSES: Final = 60
"""Passes after which a stream that has neither ended nor been given up counts as one that does not end."""

_FITS: Final = 1e-9
_TUNABLE: Final = frozenset({"avail-switchover-bandwidth"})


@dataclass(frozen=True, slots=True)
class Stream:
    """How a strategy sends: `bandwidth` bytes a second at most; a page that was kept takes `again` of its size.

    `pages` is how many bytes of such pages a second the sender can look through, whatever becomes of them on the wire.
    """

    bandwidth: float
    again: float = 1.0
    pages: float = math.inf

    def bytes(self, left: float, fresh: float) -> float:
        """Return the bytes on the wire for pages of `left` bytes, `fresh` of which were not kept before.

        QEMU keeps pages from the second pass on (xbzrle_started in migration/ram.c): those that the first pass sent
        travel whole once more.
        """
        return fresh + (left - fresh) * self.again

    def seconds(self, left: float, fresh: float) -> float:
        """Return how long it takes to send these pages."""
        return max(self.bytes(left, fresh) / self.bandwidth, left / self.pages)


@dataclass(frozen=True, slots=True)
class Simulated:
    """How a stream went: seconds and bytes up to the switchover, and the seconds that the last pages take.

    `converges` is False where they take longer than the policy permits; `blackout` is then what would be needed.
    """

    seconds: float
    bytes: float
    passes: int
    blackout: float
    converges: bool


def simulate(curve: DirtyCurve, first: float, stream: Stream, policy: Policy, limit: float) -> Simulated:
    """Go through the passes of a stream whose first one sends `first` bytes.

    `limit` is the downtime limit that it starts with, in seconds; the strategy raises it as it would.
    """
    duration = first / stream.bandwidth
    seconds, sent, kept = duration, first, 0.0
    samples: list[Sample] = []
    needed: list[float] = []
    now = Switchover(limit)
    for number in range(1, MOST_PASSES + 1):
        left, reached = curve.unique(duration), curve.unique(seconds)
        fresh = min(left, max(0.0, reached - kept))
        kept = max(kept, reached)
        dirtied = left / duration if duration > 0 else 0.0
        duration, taken = stream.seconds(left, fresh), stream.bytes(left, fresh)
        rate = taken / duration if duration > 0 else stream.bandwidth
        samples.append(Sample(seconds, number + 1, round(sent), round(left), curve.memory, rate, dirtied))
        needed.append(duration)
        ends = left <= now.limit * (now.pace or rate) * (1 + _FITS)
        if not ends and (decision := decide(policy, samples, now, _TUNABLE)) is not None:
            if not decision.parameters:
                break
            now = adjusted(now, dict(decision.parameters))
            ends = left <= now.limit * (now.pace or rate) * (1 + _FITS)
        if ends:
            return Simulated(seconds, sent + taken, number, duration, converges=True)
        seconds, sent = seconds + duration, sent + taken
    return Simulated(seconds, sent, len(samples), min(needed), converges=False)
