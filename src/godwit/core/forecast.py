"""What a move will cost, from what was measured of the guest, of its link, and of moves before it. Pure.

Plain precopy: a pass of t seconds sends what the pass before it left, and leaves U(t) to the next one (see
`godwit.core.dirtying`). Passes shrink as long as the link carries a pass faster than the guest fills the next, and come
to rest where it does not: at the time t with U(t) = t x bandwidth. QEMU stops the guest as soon as what is left fits
into its downtime limit, so that time is the least blackout with which the move ends by itself; what the guest's devices
take comes on top. The passes are simulated with the decisions that the strategy would take (`godwit.core.passes`).

What is not known exactly is an estimate with a spread. The passes are simulated for every combination of low, likely
and high values of what they depend on, weighted as a normal distribution is by the three points of Gauss and Hermite,
and the interval holds the middle 80 % of the weight; parts that only add to a figure widen it in quadrature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import TYPE_CHECKING, Final

from godwit.core.capabilities import PACE
from godwit.core.passes import Simulated, Stream, simulate
from godwit.core.sleeping import FELT_NAPS, nap
from godwit.model import Interval, Permission, Prospect, Sending, Strategy
from godwit.units import format_bandwidth, format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from godwit.core.dirtying import DirtyCurve
    from godwit.model import Policy

_PRECISION: Final = 1e-6

WITHIN: Final = 0.1
"""The share of the weight that lies below an interval, and above it."""

QUANTILE: Final = 1.2816
"""Standard deviations from the middle of a normal distribution to where a tenth of it begins."""

_POINTS: Final = ((-math.sqrt(3), 1 / 6), (0.0, 2 / 3), (math.sqrt(3), 1 / 6))
_LEAST: Final = 0.05

NAPPING: Final = 0.3
"""How far what a guest gets done between two naps scatters, of what is likely (see godwit.core.sleeping)."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure that is not known exactly: its likely value, and the standard deviation of what it may be instead."""

    likely: float
    spread: float = 0.0

    def at(self, deviations: float) -> float:
        """Return the value that many standard deviations off, and never nothing where there is something."""
        return max(self.likely + deviations * self.spread, _LEAST * self.likely)


@dataclass(frozen=True, slots=True)
class Basis:
    """What a forecast rests on.

    `first` is the bytes of the first pass, `bandwidth` bytes a second; `dirtying` scales the curve. `again` is the
    share of a page's size that it takes to send it a second time as its changes, `pages` the bytes of such pages a
    second that the sender looks through. `compressed` is the share of its size that a page takes which is compressed,
    `compressed_again` one that the guest has changed, `packed` the bytes of pages a second that the sender can
    compress. `start` is the seconds until the stream starts, `fixed` what the blackout takes beyond the last pages,
    `felt` what the client's gap takes beyond the blackout. `busy` is the share of its time for which the guest's
    busiest CPU works, `naps` how many naps a client waits for one that is slowed down. `disks` is the bytes of disks
    that travel before its memory, and `disk_writes` what the guest writes to them meanwhile, a second, which goes the
    same way. `tunable` are the migration parameters that its QEMU has.
    """

    curve: DirtyCurve
    first: Estimate
    bandwidth: Estimate
    again: Estimate
    pages: Estimate
    start: Estimate
    fixed: Estimate
    felt: Estimate
    compressed: Estimate = Estimate(1.0)
    compressed_again: Estimate = Estimate(1.0)
    packed: Estimate = Estimate(math.inf)
    busy: float = 1.0
    naps: Estimate = Estimate(FELT_NAPS, 1.0)
    disks: Estimate = Estimate(0.0)
    disk_writes: float = 0.0
    dirtying: Estimate = Estimate(1.0, 0.1)
    tunable: frozenset[str] = frozenset({PACE})

    def left_by_disks(self, bandwidth: float) -> float:
        """Return what is left of that bandwidth beside what the guest writes to disks that travel with it."""
        return max(bandwidth - self.disk_writes, bandwidth * _LEAST_LEFT) if self.disks.likely else bandwidth


_LEAST_LEFT: Final = 0.25
"""The share of the bandwidth that memory has in any case, as `--bandwidth` is shared (see godwit.engine.shares)."""

STALLS: Final = Estimate(0.35, 0.2)
"""The share of the time in which the memory of a guest in postcopy follows for which a client waits at most: at 50 MB/s
a hot set of 64 MiB gave two stalls of 400 to 600 ms."""


_TAKEN: Final = 300e6
"""Bytes a second that a balloon takes of a guest's free memory: under emulation 280 to 430 MB/s."""


def least_downtime(curve: DirtyCurve, bandwidth: float) -> float:
    """Return the seconds of downtime for which plain precopy needs leave, to end over `bandwidth` bytes a second.

    That is 0 where passes shrink without end. `bandwidth` must be above 0.
    """
    if curve.write_rate <= bandwidth:
        return 0.0
    for (t0, u0), (t1, u1) in pairwise(curve.points):
        if u1 <= bandwidth * t1:
            slope = (u1 - u0) / (t1 - t0)
            return (u0 - slope * t0) / (bandwidth - slope)
    # Beyond the longest window: the curve is above the line there, and below it once all memory is changed.
    short, long = curve.points[-1][0], curve.memory / bandwidth
    while long - short > _PRECISION * long:
        middle = (short + long) / 2
        short, long = (middle, long) if curve.unique(middle) > bandwidth * middle else (short, middle)
    return long


def prospect(strategy: Strategy, basis: Basis, policy: Policy, limit: float) -> Prospect:
    """Say what a move by that strategy would cost; `limit` is the downtime limit that it starts with, in seconds."""
    likely = simulated(strategy, basis, policy, limit)
    weighted: list[tuple[float, Simulated]] = []
    for points in product(_POINTS, repeat=4):
        deviations = tuple(point for point, _ in points)
        weight = math.prod(weight for _, weight in points)
        weighted.append((weight, simulated(strategy, basis, policy, limit, deviations)))
    found = _prospect(strategy, basis, policy, likely)
    seconds = _interval(((weight, _all(one)) for weight, one in weighted), _all(likely))
    sent = _interval(((weight, one.bytes) for weight, one in weighted), likely.bytes)
    blackout = _wider(_interval(((weight, one.blackout) for weight, one in weighted), likely.blackout), basis.fixed)
    return replace(
        found,
        total=_wider(_wider(_wider(seconds, basis.start), basis.fixed), before(basis, strategy)),
        blackout=blackout,
        client_gap=_felt(_wider(blackout, basis.felt), likely, basis.naps),
        bytes=sent,
        chance=sum(weight for weight, one in weighted if one.converges) / sum(weight for weight, _ in weighted),
    )


def likely_prospect(strategy: Strategy, basis: Basis, policy: Policy, limit: float) -> Prospect:
    """Say what is likely, without how far it may be off: a fraction of the work, to compare many strategies."""
    return _prospect(strategy, basis, policy, simulated(strategy, basis, policy, limit))


def _prospect(strategy: Strategy, basis: Basis, policy: Policy, likely: Simulated) -> Prospect:
    total = _all(likely) + basis.start.likely + basis.fixed.likely + before(basis, strategy).likely
    blackout = likely.blackout + basis.fixed.likely
    strategy = replace(strategy, pauses=likely.paused)
    return Prospect(
        strategy.name,
        likely.converges,
        _exactly(total),
        _exactly(blackout),
        _felt(_exactly(blackout + basis.felt.likely), likely, basis.naps),
        _exactly(likely.bytes),
        likely.passes,
        _why(basis, policy, likely),
        strategy,
        likely.lost,
        float(likely.converges),
        likely.rest,
    )


def _all(one: Simulated) -> float:
    """Return the seconds from the start of a stream to its end."""
    return one.seconds + one.blackout + one.rest


def taking(strategy: Strategy) -> float:
    """Return the seconds for which the balloon takes free memory."""
    return strategy.reclaim / _TAKEN


def before(basis: Basis, strategy: Strategy) -> Estimate:
    """Return the seconds for which the balloon takes free memory and disks travel, before the guest's memory does."""
    seconds = basis.disks.likely / basis.left_by_disks(basis.bandwidth.likely)
    share = math.hypot(
        basis.disks.spread / max(basis.disks.likely, 1.0), basis.bandwidth.spread / basis.bandwidth.likely
    )
    return Estimate(seconds + taking(strategy), math.hypot(seconds * share, taking(strategy) / 3))


def _exactly(value: float) -> Interval:
    return Interval(value, value, value)


def _felt(gap: Interval, likely: Simulated, naps: Estimate) -> Interval:
    """Return what a client waits for: the guest's standstill, its longest nap, or its wait for memory, whatever lasts.

    A guest that has gone over before its memory waits for what it touches: of the time in which that follows, a part.
    """
    slept = nap(likely.throttle) if likely.throttle else 0.0
    low, middle, high = (
        max(slept * naps.at(deviations), likely.rest * STALLS.at(deviations))
        for deviations in (-QUANTILE, 0.0, QUANTILE)
    )
    return Interval(max(gap.low, low), max(gap.likely, middle), max(gap.high, high))


def simulated(
    strategy: Strategy,
    basis: Basis,
    policy: Policy,
    limit: float,
    deviations: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
) -> Simulated:
    """Simulate the passes with each estimate that many standard deviations off."""
    first, bandwidth, dirtying, changes = deviations
    stream = stream_of(strategy, basis, bandwidth, changes)
    most = basis.curve.memory - strategy.reclaim
    opened = min(basis.first.at(first), most)
    until = math.inf
    if policy.deadline is not None and Permission.PAUSE in policy.allows:
        until = policy.deadline - basis.start.likely - before(basis, strategy).likely
    writes = basis.dirtying
    if strategy.throttle:
        writes = replace(writes, spread=math.hypot(writes.spread, NAPPING))
    return simulate(basis.curve.scaled(writes.at(dirtying)), opened, stream, policy, limit, until)


def stream_of(strategy: Strategy, basis: Basis, bandwidth: float = 0.0, changes: float = 0.0) -> Stream:
    """Return how a strategy sends, with the link and what changes take that many standard deviations off."""
    opening, whole, again, pages = 1.0, 1.0, 1.0, math.inf
    if strategy.sending is Sending.CHANGES:
        again, pages = min(1.0, basis.again.at(changes)), basis.pages.likely
    elif strategy.compresses:
        opening, pages = min(1.0, basis.compressed.at(changes)), basis.packed.likely
        whole = again = min(1.0, basis.compressed_again.at(changes))
    return Stream(
        bandwidth=basis.left_by_disks(basis.bandwidth.at(bandwidth)),
        again=again,
        pages=pages,
        whole=whole,
        first=opening,
        throttle=strategy.throttle or None,
        postcopy=strategy.postcopy,
        over_after=strategy.over_after,
        busy=basis.busy,
        tunable=basis.tunable,
    )


def _interval(weighted: Iterable[tuple[float, float]], likely: float) -> Interval:
    """Return the values between which the middle of the weight lies; the likely one is always among them."""
    ordered = sorted((value, weight) for weight, value in weighted)
    total = sum(weight for _, weight in ordered)
    low, high, below = ordered[0][0], ordered[-1][0], 0.0
    for value, weight in ordered:
        if below <= WITHIN * total:
            low = value
        if below < (1 - WITHIN) * total:
            high = value
        below += weight
    return Interval(min(low, likely), likely, max(high, likely))


def _wider(interval: Interval, added: Estimate) -> Interval:
    """Add a part that is independent of the rest: the likely values add up, the widths in quadrature."""
    likely = interval.likely + added.likely
    width = QUANTILE * added.spread
    return Interval(
        max(0.0, likely - math.hypot(interval.likely - interval.low, width)),
        likely,
        likely + math.hypot(interval.high - interval.likely, width),
    )


def _why(basis: Basis, policy: Policy, likely: Simulated) -> str:
    """Say in words whether the stream ends."""
    if likely.converges and likely.rest:
        return f"goes over after {likely.passes} passes; its memory follows for {format_duration(likely.rest)}"
    if likely.paused:
        return f"stands still for {format_duration(likely.blackout + basis.fixed.likely)}, as is permitted"
    if likely.converges:
        slow = f", {format_duration(likely.lost)} behind with its work" if likely.lost else ""
        return f"ends after {likely.passes} pass{'es' if likely.passes != 1 else ''}{slow}"
    needed, permitted = (format_duration(one) for one in (likely.blackout + basis.fixed.likely, policy.max_downtime))
    return f"does not end below {needed} of downtime, and {permitted} are permitted"


def situation(basis: Basis, *, changes: bool) -> str:
    """Say in words what stands against what: the guest's writes, and how they travel."""
    curve = basis.curve
    hot = f" to a hot set of {format_size(round(curve.hot_set))}" if curve.hot_set else ""
    again = f"; a page sent again takes {basis.again.likely:.0%} of its size as its changes" if changes else ""
    writes = f"the guest writes {format_bandwidth(round(curve.write_rate))}{hot}"
    disks = ""
    if basis.disks.likely:
        seconds = format_duration(before(basis, Strategy()).likely)
        disks = f"; {format_size(round(basis.disks.likely))} of disks travel first, for {seconds}"
    return f"{writes}; the link carries {format_bandwidth(round(basis.bandwidth.likely))}{again}{disks}"
