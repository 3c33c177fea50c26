"""How much of a guest's memory changes within a time: the dirty-page curve U(t), from windows that were measured. Pure.

U(t) is the number of unique bytes that are changed at least once within t seconds. It rises by the write rate where all
writes go to new pages, and flattens as they come back to the same ones: the hot set. Since whatever is changed within
t + s is changed within t or within s, the curve never bends upwards; single windows scatter, so the curve is the
concave one that lies nearest to their means.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from godwit.model import DirtyWindow

STILL_RISING: Final = 0.25
"""The curve has reached its hot set where in its longest window it rose, for the window's whole length, by less than
this share of it: a longest window twice as long as the next finds an eighth more at most. Of writes to random pages of
a set, 98 % of the set has then been seen; less would ask more of samples than their scatter allows.
"""

WINDOWS: Final = ((0.05, 4), (0.1, 4), (0.2, 3), (0.5, 2), (1.0, 2), (2.0, 1))
"""What is measured: windows in seconds, and how often. Short ones see few samples change, and scatter most."""

BESIDE: Final = (0.05, 0.1, 0.05, 0.2, 0.1, 0.5, 1.0)
"""Windows, in seconds, that are measured beside the first pass of a guest of which nothing is known."""

LONGER: Final = 5.0
"""Seconds of one more window, for a guest that was not seen to come back to all of its hot set."""

_WORTH_LOOKING: Final = 8 << 20
"""Bytes that such a guest must have changed for that: what less than that comes to ends no move, and delays none."""

LEAST_SAMPLED: Final = 128 << 20
"""Bytes; QEMU leaves smaller blocks of memory out of its samples (MIN_RAMBLOCK_SIZE in migration/dirtyrate.h)."""

_ENOUGH: Final = 3


@dataclass(frozen=True, slots=True)
class DirtyCurve:
    """U(t): `points` are (seconds, bytes), from (0, 0) on, rising and bending down; it never exceeds `memory`."""

    points: tuple[tuple[float, float], ...]
    memory: int

    def unique(self, seconds: float) -> float:
        """Return the bytes that are changed at least once within `seconds`.

        Beyond the longest window the slope goes on to fall as it fell before; nobody has seen it.
        """
        if seconds <= 0 or len(self.points) == 1:
            return 0.0
        if seconds > self.points[-1][0]:
            return min(float(self.memory), self._beyond(seconds - self.points[-1][0]))
        at = min(bisect_right(self.points, (seconds, float("inf"))), len(self.points) - 1)
        (t0, u0), (t1, u1) = self.points[at - 1], self.points[at]
        return min(float(self.memory), u0 + (u1 - u0) * (seconds - t0) / (t1 - t0))

    def _beyond(self, seconds: float) -> float:
        """Return U that long after the last point; of writes to random pages the slope falls exponentially."""
        (t1, u1), (t2, u2) = self.points[-2:]
        slope = (u2 - u1) / (t2 - t1)
        t0, u0 = self.points[-3] if len(self.points) >= _ENOUGH else (t1, u1)
        before = (u1 - u0) / (t1 - t0) if t1 > t0 else slope
        if slope <= 0 or before <= slope:
            return u2 + slope * seconds
        # Each piece's slope is taken for that in its middle.
        decay = math.log(before / slope) / ((t1 + t2) / 2 - (t0 + t1) / 2)
        last = slope * math.exp(-decay * (t2 - t1) / 2)
        return u2 + last / decay * -math.expm1(-decay * seconds)

    def scaled(self, factor: float) -> DirtyCurve:
        """Return the curve of a guest that writes `factor` times as fast to the same pages."""
        return DirtyCurve(tuple((seconds / factor, unique) for seconds, unique in self.points), self.memory)

    @property
    def write_rate(self) -> float:
        """Bytes a second that are changed in the shortest window: what nothing is yet seen twice of."""
        if len(self.points) == 1:
            return 0.0
        seconds, unique = self.points[1]
        return unique / seconds

    @property
    def hot_set(self) -> float | None:
        """The bytes that are changed over and over, None where the curve still rises in its longest window."""
        if len(self.points) < _ENOUGH:
            return None
        (_, _), (t1, u1), (t2, u2) = self.points[-3:]
        rising = (u2 - u1) / (t2 - t1)
        return u2 if rising * t2 <= STILL_RISING * u2 else None


def curve_of(windows: Sequence[DirtyWindow], memory: int) -> DirtyCurve:
    """Return the curve of measured windows; without any, a guest that changes nothing."""
    means = _means(windows)
    slopes: list[tuple[float, float]] = []  # (slope, seconds) of each piece, never rising from one to the next
    for (t0, u0), (t1, u1) in pairwise([(0.0, 0.0), *means]):
        slopes.append((max(0.0, (u1 - u0) / (t1 - t0)), t1 - t0))
        while len(slopes) > 1 and slopes[-1][0] > slopes[-2][0]:
            # Pool adjacent violators: two pieces that would bend upwards are one.
            (late, long), (early, short) = slopes.pop(), slopes.pop()
            slopes.append(((late * long + early * short) / (long + short), long + short))
    points = [(0.0, 0.0)]
    for slope, length in slopes:
        seconds, unique = points[-1]
        points.append((seconds + length, min(float(memory), unique + slope * length)))
    return DirtyCurve(tuple(points), memory)


def still_rises(windows: Sequence[DirtyWindow], memory: int) -> bool:
    """Say whether one more window, of LONGER seconds, is worth its time."""
    curve = curve_of(windows, memory)
    return curve.hot_set is None and curve.points[-1][1] >= _WORTH_LOOKING


def _means(windows: Iterable[DirtyWindow]) -> list[tuple[float, float]]:
    """Return the mean of the windows of each length, the shortest first."""
    found: dict[float, list[int]] = {}
    for window in windows:
        found.setdefault(window.seconds, []).append(window.unique)
    return [(seconds, sum(seen) / len(seen)) for seconds, seen in sorted(found.items()) if seconds > 0]
