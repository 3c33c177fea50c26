"""Rates over time in pieces, and what a move did to them: what was lost, and when it was back. Pure.

A curve is made of pieces, each a rate that held from one instant to another; between pieces nobody knows. Instants are
seconds on one clock, rates whatever a second.

**Back at its former rate** is a guest from the first instant after the handover from which, for HOLD seconds, it comes
to at least 95 % of what it came to on average before. A guest whose rate went up and down before the move, by more than
that, is back when it comes to what it came to at worst before, in any HOLD seconds, but never at less than half of its
average. One that was watched for less than HOLD seconds is back if it came to that in all of them. Whether a rate that
was reached is kept later on is not asked: a guest may rest.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HOLD: Final = 0.5
"""Seconds over which rates are smoothed: short pauses are told as gaps of the client, not here."""

SHORTEST: Final = 0.1
"""Seconds for which a guest must have been watched for anything to be said of it."""

FORMER: Final = 0.95
"""The part of its former rate at which a guest counts as back."""

_AT_LEAST: Final = 0.5
_SAME: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Piece:
    """A rate that held from `start` to `end`."""

    start: float
    end: float
    rate: float


class Curve:
    """Pieces in order of time; those without a length are left out."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        """Take pieces that do not overlap."""
        self.pieces = tuple(piece for piece in pieces if piece.end > piece.start)
        self._starts = [piece.start for piece in self.pieces]
        amounts = ((piece.end - piece.start) * piece.rate for piece in self.pieces)
        lengths = (piece.end - piece.start for piece in self.pieces)
        self._amounts = [0.0, *accumulate(amounts)]
        self._lengths = [0.0, *accumulate(lengths)]

    def __bool__(self) -> bool:
        """Say whether anything is known."""
        return bool(self.pieces)

    def _until(self, at: float) -> tuple[float, float]:
        """Return what was done until an instant, and over how many known seconds."""
        index = bisect_right(self._starts, at)
        if not index:
            return 0.0, 0.0
        last = self.pieces[index - 1]
        beyond = max(0.0, last.end - max(at, last.start))
        return self._amounts[index] - beyond * last.rate, self._lengths[index] - beyond

    def within(self, start: float, end: float) -> tuple[float, float]:
        """Return what was done in [start, end], and how many seconds of that are known."""
        first, last = self._until(start), self._until(end)
        return max(0.0, last[0] - first[0]), max(0.0, last[1] - first[1])

    def mean(self, start: float, end: float) -> float | None:
        """Return the average rate over what is known of [start, end]; None where that is nothing."""
        amount, seconds = self.within(start, end)
        return amount / seconds if seconds > _SAME else None

    def part(self, start: float, end: float) -> Curve:
        """Return what lies in [start, end]."""
        return Curve(Piece(max(one.start, start), min(one.end, end), one.rate) for one in self.pieces)

    def whole(self) -> list[tuple[float, float]]:
        """Return all of it as one window, for what was watched for less than HOLD seconds; of a moment nothing."""
        if not self.pieces:
            return []
        begin, end = self.pieces[0].start, self.pieces[-1].end
        amount, seconds = self.within(begin, end)
        return [(begin, amount / seconds)] if SHORTEST <= seconds <= end - begin + _SAME < HOLD else []

    def windows(self) -> list[tuple[float, float]]:
        """Return beginning and mean of windows of HOLD seconds, all of which is known, in order of time.

        They begin where a piece does, or end where one does: between two that follow each other the mean is a straight
        line, so no window has less, or more, than all of these.
        """
        if not self.pieces:
            return []
        edges = {one.start for one in self.pieces} | {one.end - HOLD for one in self.pieces}
        last = self.pieces[-1].end - HOLD
        found = []
        for begin in sorted(edge for edge in edges if self.pieces[0].start - _SAME <= edge <= last + _SAME):
            amount, seconds = self.within(begin, begin + HOLD)
            if seconds >= HOLD - _SAME:
                found.append((begin, amount / seconds))
        return found


def lowest(curve: Curve, start: float, end: float) -> float | None:
    """Return the least that a guest came to in any HOLD seconds of a stretch, or on average in all of it."""
    part = curve.part(start, end)
    mean = part.mean(start, end)
    return None if mean is None else min(mean, *(least for _, least in part.windows()), mean)


def former_rate(curve: Curve, began: float) -> tuple[float, float] | None:
    """Return the rate before the instant `began`, and the one that counts as being back at it; None if not known."""
    before = curve.part(float("-inf"), began)
    if not before:
        return None
    former = before.mean(before.pieces[0].start, before.pieces[-1].end) or 0.0
    at_worst = min((mean for _, mean in before.windows()), default=former)
    return former, max(min(FORMER * former, at_worst), _AT_LEAST * former)


def back_after(curve: Curve, began: float, since: float) -> float | None:
    """Return after how many seconds from `since` on the guest was back at its former rate; see above.

    None where it was not while it was watched, where there was no rate before `began`, or none to speak of.
    """
    known = former_rate(curve, began)
    if known is None or known[0] <= 0:
        return None
    after, enough = curve.part(since, float("inf")), known[1] - _SAME * known[0]
    windows = after.windows() or after.whole()
    for index, (begin, mean) in enumerate(windows):
        if mean >= enough:
            return max(0.0, _crossing(windows[index - 1] if index else None, (begin, mean), enough) - since)
    return None


def _crossing(before: tuple[float, float] | None, here: tuple[float, float], level: float) -> float:
    """Return when a straight line from below reached a level that is reached at the instant `here`."""
    if before is None or here[0] - before[0] > HOLD or here[1] <= before[1]:
        return here[0]
    return before[0] + (here[0] - before[0]) * (level - before[1]) / (here[1] - before[1])


def lost_seconds(curve: Curve, began: float, end: float) -> float | None:
    """Return for how many seconds' worth of its former rate the guest came to less between two instants, in all.

    What it made up for later counts. None where there was no rate before to speak of.
    """
    known = former_rate(curve, began)
    if known is None or known[0] <= 0:
        return None
    amount, seconds = curve.within(began, end)
    return max(0.0, seconds - amount / known[0])


def from_counts(counts: Sequence[tuple[float, float]]) -> Curve:
    """Return the curve of a counter that was read at some instants; where it fell back nothing is known."""
    return Curve(
        Piece(early, late, (after - before) / (late - early))
        for (early, before), (late, after) in pairwise(counts)
        if late > early and after >= before
    )
