"""How fast a stream may be so that the neighbours of a guest keep what they were promised. Pure.

The stream begins at a part of what its link carries, and is let faster while the neighbours are well. As soon as one
keeps less than its share the stream is held back, in proportion to how much is missing; it is let faster again, in
smaller steps, when all are well. What never happens is a move that has no end for it: below a floor, named in the
decision, it is not held back. A neighbour that is no better off with a slower stream loses by something else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Final

from godwit.core.readings import left_after_passes, pace_within
from godwit.core.strategy import HAND_OVER, MARGIN, Decision
from godwit.units import MIB, format_bandwidth, format_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.core.working import Kept
    from godwit.model import Policy, Sample

YIELD: Final = "yield-to-neighbours"
EASE: Final = "let-faster"
FLOOR: Final = "neighbours-not-protected"
IN_VAIN: Final = "neighbours-lose-elsewhere"

FIRST: Final = 0.1
"""The part of what its link carries that a stream begins with."""

FIRST_UNKNOWN: Final = 4 * MIB
"""Bytes a second that it begins with where nobody knows its link."""

LEAST: Final = 0.1
"""The part of the fastest that was seen which a stream has in any case, so that it ends."""

LEAST_BYTES: Final = 1 * MIB
"""Bytes a second that it has in any case."""

DEEPEST, SHALLOWEST = 0.5, 0.9
"""What is left of the bandwidth by one step down."""

OPENING, EASING = 1.5, 1.25
"""By how much it is let faster in a step: before it was ever held back, and after."""

BLIND: Final = 5.0
"""Seconds without a look at any neighbour after which nobody is protected: it would be guessing."""

CALM: Final = 3
"""Looks in a row in which all must be well before a stream that was held back is let faster, and of which the mean is
taken."""

DOUBT: Final = 0.06
"""The share by which a single look may be out: one that waits for a processor waits for a whole turn of another's. In
the mean of CALM looks there is no doubt."""

NEARLY: Final = 0.05
"""Who lacks no more than that of what was promised is helped by slower streams, if by little."""

VAIN: Final = 3
"""Steps down without the neighbour being better off, after which it is taken for one that loses by something else."""

BETTER: Final = 0.03
"""The share by which it must be better off."""

_UNUSED: Final = 0.7
"""A stream that sends less than this part of what it may is held back by something else: let it have all."""

_NOTICED: Final = 0.97
"""A step that leaves more than that is none."""

_LATER: Final = 1 / 3
"""The part of the time to the deadline that is kept for what follows the first pass."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A look at the neighbours at the instant `at`, over the `seconds` before it: who keeps least, None if all idle."""

    at: float
    seconds: float
    worst: Kept | None


@dataclass(frozen=True, slots=True)
class Change:
    """A bandwidth that was decided upon at the instant `at`, and the share that the worst off kept then."""

    at: float
    action: str
    share: float


def first_bandwidth(policy: Policy, link: float | None) -> int | None:
    """Return the bytes a second that a stream begins with which is to protect neighbours; None: as the policy says.

    `link` is what its link is known to carry.
    """
    if policy.protect_neighbours is None:
        return None
    begin = link * FIRST if link else FIRST_UNKNOWN
    return max(LEAST_BYTES, round(min(begin, policy.bandwidth or begin)))


@dataclass(frozen=True, slots=True)
class Lane:
    """What a stream may send now and at most, in bytes a second (0: no limit)."""

    limit: int
    ceiling: int

    @property
    def open(self) -> bool:
        """Whether it is as wide as it may be."""
        return not self.limit or bool(self.ceiling and self.limit >= self.ceiling)


@dataclass(frozen=True, slots=True)
class _Stream:
    """A stream that sends `rate` bytes a second, and is not held back below `least`: `because` says why."""

    lane: Lane
    rate: float
    least: float
    because: str


def protect(
    policy: Policy,
    samples: Sequence[Sample],
    watched: Sequence[Watched],
    changes: Sequence[Change],
    lane: Lane,
    requested: float,
) -> Decision | None:
    """Return what to change about the stream's bandwidth for its neighbours' sake, or None.

    `changes` are those that were decided upon so far, `requested` is when the move was asked for. Only looks count that
    were taken since the last change.
    """
    share = policy.protect_neighbours
    if share is None or not samples or any(change.action == IN_VAIN for change in changes):
        return None
    if samples[-1].at - max(watched[-1].at if watched else samples[0].at, samples[0].at) > BLIND:
        reason = "nobody can see what neighbours come to do: the stream is not held back for them"
        evidence = f"the last look was more than {format_duration(BLIND)} ago"
        return None if lane.open else _set(EASE, reason, evidence, 0, lane)
    fresh, rate = _since(watched, changes), max(sample.rate for sample in samples[-4:])
    if not fresh or rate <= 0:
        return None
    stream = _Stream(lane, rate, *lowest(policy, samples, requested))
    worst = mean_of(fresh)
    if not lane.open and lane.limit < stream.least * _NOTICED:
        reason = f"the stream has to be faster, whatever neighbours lose: {stream.because}"
        return _set(EASE, reason, _well(worst), stream.least, lane)
    doubt = DOUBT * (CALM - min(CALM, len(fresh))) / (CALM - 1)
    if worst is not None and worst.share < share - doubt:
        return _yield(share, worst, changes, stream)
    return None if lane.open else _ease(share, fresh, changes, stream)


def mean_of(looks: Sequence[Watched]) -> Kept | None:
    """Return who kept least in the last CALM looks, with the mean of what was kept least in each; None if all idle."""
    recent = [one.worst for one in looks[-CALM:]]
    least = min((one for one in recent if one is not None), key=lambda one: one.share, default=None)
    if least is None:
        return None
    return replace(least, share=fmean(1.0 if one is None else one.share for one in recent))


def judged(watched: Sequence[Watched], changes: Sequence[Change]) -> float:
    """Return the share that a decision rests on which is taken now: 1.0 where there is none to look after."""
    worst = mean_of(_since(watched, changes))
    return 1.0 if worst is None else worst.share


def _since(watched: Sequence[Watched], changes: Sequence[Change]) -> Sequence[Watched]:
    """Return the looks that tell of the stream as it is now."""
    changed = changes[-1].at if changes else 0.0
    return [one for one in watched if one.at - one.seconds / 2 >= changed]


def lowest(policy: Policy, samples: Sequence[Sample], requested: float) -> tuple[float, str]:
    """Return the bytes a second below which a stream is not held back, and why not below that.

    It has to get through pages faster than the guest writes, or its passes leave no less; and what is left has to be
    sent by the deadline, where there is one.
    """
    last = samples[-1]
    best = max(sample.rate for sample in samples)
    floors = [(max(LEAST * best, float(LEAST_BYTES)), "it has to end")]
    pace = pace_within(samples)
    wire = min(1.0, last.rate / pace) if pace else 1.0  # of pages that are zeroes, or travel as their changes
    if last.iteration > 1 and last.dirty_rate > 0:
        writes = format_bandwidth(last.dirty_rate)
        floors.append((last.dirty_rate * wire * MARGIN, f"the guest writes {writes}, and has to be overtaken"))
    if policy.deadline is not None:
        left = max(0.1, requested + policy.deadline - HAND_OVER - last.at)
        # In the first pass nobody knows yet how much comes back: a part of the whole is kept for it.
        first = last.iteration == 1
        kept = policy.deadline * _LATER if first else 0.0
        again = 0 if first else max(left_after_passes(samples), default=0)
        needed = (last.remaining + again * MARGIN) * wire / max(0.1, left - kept)
        floors.append((needed, f"{format_duration(left)} are left until its deadline"))
    return max(floors)


def _yield(share: float, worst: Kept, changes: Sequence[Change], stream: _Stream) -> Decision:
    """Hold the stream back, or say why it is not."""
    said = f"{worst.vm} on {worst.host} keeps {worst.share:.0%} of its {worst.what}"
    evidence = f"{said}, {share:.0%} were promised; the stream sends {format_bandwidth(stream.rate)}"
    before = changes[-VAIN:]
    tried = len(before) == VAIN and all(change.action == YIELD for change in before) and worst.share < share - NEARLY
    # By how much it is better off is told from its worst: a single look is good or bad by chance.
    if tried and worst.share < min(change.share for change in before) + BETTER:
        reason = f"{worst.vm} is no better off with a slower stream: something else takes that, it is held back no more"
        return Decision(IN_VAIN, reason, evidence, (("max-bandwidth", stream.lane.ceiling),))
    now = min(stream.lane.limit or stream.rate, stream.rate)
    step = min(SHALLOWEST, max(DEEPEST, (1 - share) / (1 - worst.share)))
    wanted = max(now * step, stream.least)
    if wanted > now * _NOTICED:
        reason = f"neighbours lose more than was promised, but the stream is not slower: {stream.because}"
        return Decision(FLOOR, reason, evidence)
    reason = f"the stream takes from its neighbours: it may send {format_bandwidth(wanted)}"
    return _set(YIELD, reason, evidence, wanted, stream.lane)


def _ease(share: float, fresh: Sequence[Watched], changes: Sequence[Change], stream: _Stream) -> Decision | None:
    """Let a stream that is held back be faster, where all are well."""
    worst, limit = mean_of(fresh), stream.lane.limit
    held = any(change.action == YIELD for change in changes)
    if not _calm(share, fresh, CALM if held else 1):
        return None
    if stream.rate < limit * _UNUSED:
        reason = "the neighbours are well, and the link is what holds the stream back"
        return _set(EASE, reason, _well(worst), 0, stream.lane)
    reason = "the neighbours are well: the stream may be faster"
    return _set(EASE, reason, _well(worst), limit * (EASING if held else OPENING), stream.lane)


def _set(action: str, reason: str, evidence: str, wanted: float, lane: Lane) -> Decision:
    """Return the decision for so many bytes a second; 0 is as many as there may be."""
    most = round(wanted)
    if lane.ceiling and (most == 0 or most > lane.ceiling):
        most = lane.ceiling
    return Decision(action, reason, evidence, (("max-bandwidth", most),))


def _well(worst: Kept | None) -> str:
    if worst is None:
        return "no neighbour has anything to do"
    return f"{worst.vm} on {worst.host}, which keeps least, keeps {worst.share:.0%} of its {worst.what}"


def _calm(share: float, fresh: Sequence[Watched], looks: int) -> bool:
    """Say whether all were well in so many looks, and with something to spare."""
    worst = mean_of(fresh)
    return len(fresh) >= looks and (worst is None or worst.share >= share + (1 - share) / 4)
