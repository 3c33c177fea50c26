"""Watch a running stream and decide what to change, with the evidence. Pure: samples and `now` in, a decision out.

In the manner of KubeVirt's stall detector a decision is an action and its reason, taken at the end of a pass; raw
progress is no evidence, the least that was left after a pass is (Nova's LP1644248: healthy migrations were ended
because their progress fluctuated).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.units import format_bandwidth, format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.model import Policy, Sample

IMPROVEMENT: Final = 0.05
"""The least that was left must shrink by this share for the stream to count as converging."""

STALLED_PASSES: Final = 3
"""Passes without improvement after which the limit is raised."""

MARGIN: Final = 1.25
"""How far above QEMU's estimate the limit is set, so that the next pass may end."""

STALL_SECONDS: Final = 15.0
"""Seconds without a byte sent after which a stream counts as dead (a stopped target, a cut link)."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to change (QEMU's parameters, in its units), why, and on which figures that rests."""

    action: str
    reason: str
    evidence: str
    parameters: tuple[tuple[str, int], ...] = ()


def left_after_passes(samples: Sequence[Sample]) -> list[int]:
    """Return what each pass that has ended left to the next one, in order, in bytes.

    QEMU compares that with the downtime limit. It is the most that was seen to remain in the next pass, which began
    with it; within a pass `remaining` only falls.
    """
    most: dict[int, int] = {}
    for sample in samples:
        if sample.iteration > 1:
            most[sample.iteration] = max(sample.remaining, most.get(sample.iteration, 0))
    return [most[iteration] for iteration in sorted(most)]


def decide(policy: Policy, samples: Sequence[Sample], downtime_limit: float) -> Decision | None:
    """Return what to change now, or None.

    `samples` are those of this stream, the oldest first; `downtime_limit` is what QEMU works with now, in seconds.
    The limit rises only when the least that a pass left no longer shrinks, only as far as the measured rate demands,
    and never past `policy.max_downtime`.
    """
    left = left_after_passes(samples)
    if len(left) <= STALLED_PASSES or min(left[-STALLED_PASSES:]) < min(left[:-STALLED_PASSES]) * (1 - IMPROVEMENT):
        return None
    least = min(left[-STALLED_PASSES:])
    last = samples[-1]
    rate = max((sample.rate for sample in samples[-4:]), default=0.0)
    if rate <= 0:
        return None
    needed = least / rate
    evidence = (
        f"after {last.iteration} passes {format_size(least)} are left at best; the link carries "
        f"{format_bandwidth(rate)}, the guest dirties {format_bandwidth(last.dirty_rate)}"
    )
    wanted = min(needed * MARGIN, policy.max_downtime)
    if wanted > downtime_limit * (1 + IMPROVEMENT):
        return Decision(
            "raise-downtime-limit",
            f"passes no longer shrink: allow {format_duration(wanted)} of downtime"
            f" (limit {format_duration(policy.max_downtime)})",
            evidence,
            (("downtime-limit", max(1, round(wanted * 1000))),),
        )
    if needed > policy.max_downtime:
        return Decision(
            "does-not-converge",
            f"cannot end within {format_duration(policy.max_downtime)} of downtime: "
            f"{format_duration(needed)} would be needed; raise --max-downtime, or cancel",
            evidence,
        )
    return None


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


def eta(samples: Sequence[Sample], downtime_limit: float) -> tuple[float, float] | None:
    """Return the shortest and longest time until the switchover, in seconds, or None while nobody can say.

    What remains shrinks in each pass by the ratio of dirty rate to rate; the sum of that geometric series is the
    time left. The interval spans the rates seen lately.
    """
    recent = [sample for sample in samples[-8:] if sample.rate >= 1]
    if not recent:
        return None
    last = recent[-1]
    rates = (max(sample.rate for sample in recent), min(sample.rate for sample in recent))
    if last.dirty_rate >= rates[1] and last.remaining > downtime_limit * rates[0]:
        return None
    shortest = last.remaining / rates[0]
    shrink = min(last.dirty_rate / rates[1], 0.95)
    longest = last.remaining / rates[1] / (1 - shrink)
    return shortest, max(longest, shortest)
