"""Watch a running stream and decide what to change, with the evidence. Pure: samples and `now` in, a decision out.

In the manner of KubeVirt's stall detector a decision is an action and its reason, taken at the end of a pass; raw
progress is no evidence, the least that was left after a pass is (Nova's LP1644248: healthy migrations were ended
because their progress fluctuated).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.core.readings import left_after_passes, pace_of
from godwit.units import format_bandwidth, format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from godwit.model import Policy, Sample

IMPROVEMENT: Final = 0.05
"""The least that was left must shrink by this share for the stream to count as converging."""

STALLED_PASSES: Final = 3
"""Passes without improvement after which the limit is raised."""

MARGIN: Final = 1.25
"""How far above QEMU's estimate the limit is set, so that the next pass may end."""

QUICK: Final = 1.25
"""How far the pace of pages must be above the rate on the wire for QEMU to be told of it."""

SLOWER: Final = 0.8
"""How far the pace of pages must fall below what QEMU was told for it to be told anew."""

STALL_SECONDS: Final = 15.0
"""Seconds without a byte sent after which a stream counts as dead (a stopped target, a cut link)."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to change (QEMU's parameters, in its units), why, and on which figures that rests."""

    action: str
    reason: str
    evidence: str
    parameters: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Switchover:
    """What QEMU goes by when it stops the guest: what is left must fit into `limit` seconds.

    It reckons with `pace` bytes of pages a second, or, where that is None, with the rate that it sees on the wire.
    """

    limit: float
    pace: float | None = None


def decide(
    policy: Policy, samples: Sequence[Sample], now: Switchover, tunable: Container[str] = frozenset()
) -> Decision | None:
    """Return what to change, or None.

    `samples` are those of this stream, the oldest first; `now` is what QEMU works with, `tunable` the parameters that
    it has. The limit rises only when the least that a pass left no longer shrinks, only as far as the measured pace
    demands, and never so far that the rest would take longer than `policy.max_downtime`. Pages that travel as their
    changes are through sooner than QEMU thinks, which sees their few bytes on the wire: it is told the pace of pages.
    """
    left = left_after_passes(samples)
    if len(left) <= STALLED_PASSES or min(left[-STALLED_PASSES:]) < min(left[:-STALLED_PASSES]) * (1 - IMPROVEMENT):
        return None
    least = min(left[-STALLED_PASSES:])
    last = samples[-1]
    rate = max((sample.rate for sample in samples[-4:]), default=0.0)
    if rate <= 0:
        return None
    permitted = now.limit * (now.pace or rate)
    pace = max(rate, pace_of(samples, permitted) or now.pace or 0.0)
    quick = pace > rate * QUICK
    needed = least / pace
    looked = f", {format_bandwidth(pace)} of pages are got through" if quick else ""
    evidence = (
        f"after {last.iteration} passes {format_size(least)} are left at best; the link carries "
        f"{format_bandwidth(rate)}{looked}, the guest dirties {format_bandwidth(last.dirty_rate)}"
    )
    # Short passes are over before anybody looks: where what was seen would fit, and QEMU goes on, more was left.
    unseen = 2 * permitted / pace if least <= permitted else 0.0
    wanted = min(max(needed * MARGIN, unseen), policy.max_downtime)
    if now.pace is not None and pace < now.pace * SLOWER:
        return Decision(
            "lower-pace",
            f"pages are got through more slowly than QEMU was told: {format_bandwidth(pace)}",
            evidence,
            (("avail-switchover-bandwidth", round(pace)),),
        )
    if wanted * pace > permitted * (1 + IMPROVEMENT):
        told = quick and "avail-switchover-bandwidth" in tunable
        limit = wanted if told or not quick else min(wanted * pace / rate, policy.max_downtime)
        bandwidth = (("avail-switchover-bandwidth", round(pace)),) if told else ()
        return Decision(
            "raise-downtime-limit",
            f"passes no longer shrink: allow {format_duration(wanted)} of downtime"
            f" (limit {format_duration(policy.max_downtime)})",
            evidence,
            (("downtime-limit", max(1, round(limit * 1000))), *bandwidth),
        )
    if needed > policy.max_downtime:
        return Decision(
            "does-not-converge",
            f"cannot end within {format_duration(policy.max_downtime)} of downtime: "
            f"{format_duration(needed)} would be needed; raise --max-downtime, or cancel",
            evidence,
        )
    return None


def adjusted(now: Switchover, parameters: Mapping[str, object]) -> Switchover:
    """Return what QEMU goes by once it has taken these parameters."""
    limit, pace = parameters.get("downtime-limit"), parameters.get("avail-switchover-bandwidth")
    return Switchover(
        limit / 1000 if isinstance(limit, int) else now.limit, (pace or None) if isinstance(pace, int) else now.pace
    )


def stalled(samples: Sequence[Sample], now: float, began: float) -> bool:
    """Say whether not a byte was sent for STALL_SECONDS.

    `began` is when the stream was started: one that never gets as far as to be counted (its connection is neither
    accepted nor refused) is dead as well.
    """
    if not samples:
        return now - began >= STALL_SECONDS
    sent = samples[-1].transferred
    first = next((sample.at for sample in samples if sample.transferred == sent), now)
    return now - first >= STALL_SECONDS


def eta(samples: Sequence[Sample], now: Switchover) -> tuple[float, float] | None:
    """Return the shortest and longest time until the switchover, in seconds, or None while nobody can say.

    What remains shrinks in each pass by the ratio of dirty rate to rate; the sum of that geometric series is the
    time left. The interval spans the rates seen lately.
    """
    recent = [sample for sample in samples[-8:] if sample.rate >= 1]
    if not recent:
        return None
    last = recent[-1]
    rates = (max(sample.rate for sample in recent), min(sample.rate for sample in recent))
    through = pace_of(samples, now.limit * (now.pace or rates[0])) or now.pace or 0.0
    paces = [max(rate, through) for rate in rates]
    if last.dirty_rate >= paces[1] and last.remaining > now.limit * (now.pace or rates[0]):
        return None
    shortest = last.remaining / paces[0]
    shrink = min(last.dirty_rate / paces[1], 0.95)
    longest = last.remaining / paces[1] / (1 - shrink)
    return shortest, max(longest, shortest)
