"""What the samples of a stream say of its passes. Pure."""

from __future__ import annotations

from itertools import accumulate, count, pairwise
from typing import TYPE_CHECKING, Final

from godwit.model import PassRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from godwit.model import Sample

RECENT: Final = 3
"""Passes from which the pace of pages is taken."""

_TELLING: Final = 1.0
"""Seconds for which a pass must have been looked at for its pace to be taken."""

_COUNTED: Final = 0.2
"""Seconds: clock ticks of 10 ms tell a share to within a twentieth over so long."""

MOSTLY: Final = 0.5
"""The share of the memory that QEMU goes through which it must send for that to say what the link carries."""

RECENT_PASSES: Final = 64
"""Passes by which is decided: what a stream of thousands did before says no more of where it is going."""

RECENT_SAMPLES: Final = 16
"""How many samples are looked at one by one: rates of lately are taken from the last eight at most."""

_TIMED: Final = 0.1
"""Seconds between two samples: what lies closer together is not told well enough."""

_WORTH: Final = 2.0
"""How many times what it may leave a pass must have begun with for its pace to be taken."""


def left_after_passes(samples: Sequence[Sample]) -> list[int]:
    """Return what each pass that has ended left to the next one, in order, in bytes.

    QEMU compares that with the downtime limit.
    """
    most = _most_remaining(samples)
    return [most[iteration] for iteration in sorted(most) if iteration > 1]


def _most_remaining(samples: Sequence[Sample]) -> dict[int, int]:
    """Return the most that was seen to remain in each pass: it began with that, for within a pass that only falls."""
    most: dict[int, int] = {}
    for sample in samples:
        most[sample.iteration] = max(sample.remaining, most.get(sample.iteration, 0))
    return most


def thinned(samples: Sequence[Sample], recent: int = RECENT_SAMPLES, passes: int | None = None) -> list[Sample]:
    """Leave out what nothing here, and no decision, would miss: a long pass is told by where it began.

    Kept are the last `recent`, the first that had sent as much as the last, and of each pass, and of each throttle in
    it, the first sample and the one with most left to do: of the last `passes`, where that is given.
    """
    if passes is not None and samples:
        samples = [one for one in samples if one.iteration > samples[-1].iteration - passes]
    firsts: dict[tuple[int, int], int] = {}
    most: dict[tuple[int, int], int] = {}
    for index, sample in enumerate(samples):
        group = sample.iteration, sample.throttle
        firsts.setdefault(group, index)
        if sample.remaining > samples[most.setdefault(group, index)].remaining:
            most[group] = index
    still = next((index for index, one in enumerate(samples) if one.transferred == samples[-1].transferred), 0)
    kept = {*firsts.values(), *most.values(), still, *range(max(0, len(samples) - recent), len(samples))}
    return [sample for index, sample in enumerate(samples) if index in kept]


def busiest(before: Sequence[float], after: Sequence[float], seconds: float) -> float | None:
    """Return the share of `seconds` for which the busiest CPU worked, from what each had worked before and after.

    None where that was too short to tell, or could not be seen.
    """
    worked = [late - early for early, late in zip(before, after, strict=False)]
    return min(1.0, max(worked) / seconds) if worked and seconds >= _COUNTED else None


def passes_of(samples: Sequence[Sample], began: float) -> tuple[PassRecord, ...]:
    """Return the passes that ended before the last sample; `began` is when the stream was started."""
    if not samples:
        return ()
    starts, most = _starts(samples), _most_remaining(samples)
    if 2 not in starts:  # noqa: PLR2004 - the pass after the first
        return ()
    second = starts[2]
    opening = PassRecord(samples[0].total, max(0, second.transferred), max(0.0, second.at - began), most[2])
    return (opening, *_passes_from(2, starts, most))


def passes_seen(samples: Sequence[Sample]) -> tuple[PassRecord, ...]:
    """Return the passes that began and ended between these samples, which may be any part of a stream's."""
    starts = _starts(samples)
    return tuple(_passes_from(min(starts, default=0) + 1, starts, _most_remaining(samples)))


def _starts(samples: Sequence[Sample]) -> dict[int, Sample]:
    """Return the first sample of each pass."""
    starts: dict[int, Sample] = {}
    for sample in samples:
        starts.setdefault(sample.iteration, sample)
    return starts


def _passes_from(first: int, starts: Mapping[int, Sample], most: Mapping[int, int]) -> Iterator[PassRecord]:
    """Yield the passes from one on that began and ended; after one that ended unseen the rest cannot be told apart."""
    for number in count(first):
        if number not in starts or number + 1 not in starts:
            return
        began, following = starts[number], starts[number + 1]
        sent, seconds = max(0, following.transferred - began.transferred), max(0.0, following.at - began.at)
        yield PassRecord(most[number], sent, seconds, most[number + 1], began.throttle)


def carried_of(samples: Sequence[Sample], *, compressed: bool) -> float | None:
    """Return the bytes a second below which half of a stream travelled; None where that says nothing.

    Stretches in which mostly zeroes were gone through are left out, for there the link waits for QEMU. Of pages that
    are `compressed` nobody can tell these apart. After such a stretch a link that is shaped carries more than it can
    for long, so its fastest ones say too much.
    """
    stretches: list[tuple[float, int]] = []
    for before, after in pairwise(samples):
        seconds, sent = after.at - before.at, after.transferred - before.transferred
        through = before.remaining - after.remaining
        if seconds >= _TIMED and sent > 0 and (compressed or sent >= MOSTLY * through):
            stretches.append((sent / seconds, sent))
    stretches.sort()
    so_far = list(accumulate(sent for _, sent in stretches))
    return next((rate for (rate, _), sent in zip(stretches, so_far, strict=True) if 2 * sent >= so_far[-1]), None)


def pace_within(samples: Sequence[Sample]) -> float | None:
    """Return the bytes of pages a second that the pass of the last sample gets through; None while that is too young.

    Pages of zeroes, and those that travel as their changes, are a few bytes on the wire.
    """
    if not samples:
        return None
    last = samples[-1]
    first = next(one for one in samples if one.iteration == last.iteration)
    seconds = last.at - first.at
    return max(0, first.remaining - last.remaining) / seconds if seconds >= _TELLING else None


def pace_of(samples: Sequence[Sample], permitted: float) -> float | None:
    """Return the bytes of pages a second that the last passes got through, however few on the wire; None: unknown.

    QEMU begins another pass as soon as no more than `permitted` bytes are left of one, so a pass may have left as much;
    one that had not noticeably more to do tells nothing. Nor does the first: most of it may be zeroes.
    """
    later = [one for one in passes_seen(samples)[-RECENT:] if one.due > _WORTH * permitted]
    seconds = sum(one.seconds for one in later)
    return sum(one.due - permitted for one in later) / seconds if seconds > 0 else None
