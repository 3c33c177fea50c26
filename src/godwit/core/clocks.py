"""One clock for several machines: offsets from brackets, without trusting any time daemon.

A bracket is a question to another machine: asked at ``sent_s`` and answered by ``received_s`` on our clock, the other
clock read ``remote_s`` somewhere between. So the offset (other minus ours) lies between ``remote_s - received_s`` and
``remote_s - sent_s``. Several brackets intersect; what is left is the answer and its uncertainty (K. Marzullo,
"Maintaining the Time in a Distributed System", 1984). A QMP event's ``timestamp`` is such a reading: it was taken
before it arrived, and after the command that caused it was sent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True)
class Bracket:
    """One reading of another clock; all three in UNIX seconds, the outer two on our clock."""

    sent_s: float
    remote_s: float
    received_s: float

    def __post_init__(self) -> None:
        """Refuse an answer that came before its question (ValueError)."""
        if not self.sent_s <= self.received_s:
            message = f"a bracket ends ({self.received_s}) before it begins ({self.sent_s})"
            raise ValueError(message)


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """How far another clock is ahead of ours, in seconds, give or take ``uncertainty_s``.

    ``agreed`` is the number of brackets that hold this offset, of ``asked``; fewer than all means that a clock was
    stepped while it was being measured.
    """

    offset_s: float
    uncertainty_s: float
    agreed: int = 1
    asked: int = 1

    def to_ours(self, remote_s: float) -> float:
        """Put an instant of the other clock on ours (UNIX seconds)."""
        return remote_s - self.offset_s

    def to_theirs(self, our_s: float) -> float:
        """Put an instant of our clock on the other (UNIX seconds)."""
        return our_s + self.offset_s


SAME_CLOCK = ClockOffset(0.0, 0.0, 0, 0)


def estimate_offset(brackets: Iterable[Bracket]) -> ClockOffset:
    """Find the offset that most brackets agree on: the middle of their common interval (Marzullo's algorithm).

    Raises ValueError without a bracket.
    """
    intervals = [(one.remote_s - one.received_s, one.remote_s - one.sent_s) for one in brackets]
    if not intervals:
        message = "an offset needs at least one bracket"
        raise ValueError(message)
    edges = sorted([(low, 0) for low, _ in intervals] + [(high, 1) for _, high in intervals])
    best, low, high, depth = 0, math.nan, math.nan, 0
    for index, (value, closes) in enumerate(edges):
        depth += -1 if closes else 1
        if not closes and depth > best:
            best, low, high = depth, value, edges[index + 1][0]
    return ClockOffset((low + high) / 2, (high - low) / 2, best, len(intervals))


def blackout_s(stop_s: float, source: ClockOffset, resume_s: float, target: ClockOffset) -> tuple[float, float]:
    """Give the time between STOP on the source's clock and RESUME on the target's, and its uncertainty, in seconds.

    Both hosts may be the same machine or have clocks far apart: the offsets carry what is known of that.
    """
    length = target.to_ours(resume_s) - source.to_ours(stop_s)
    return length, source.uncertainty_s + target.uncertainty_s


def drift_ppm(readings: Sequence[tuple[float, float]]) -> float:
    """Give how fast a wall clock runs against a monotonic one, in parts per million, from (monotonic, wall) seconds.

    Zero with fewer than two readings.
    """
    if len(readings) < 2 or readings[-1][0] <= readings[0][0]:  # noqa: PLR2004 - a slope takes two points
        return 0.0
    (first_mono, first_wall), (last_mono, last_wall) = readings[0], readings[-1]
    return ((last_wall - first_wall) / (last_mono - first_mono) - 1.0) * 1e6
