"""Downtime as a client felt it, from a probe's series. Pure: arrays in, values out.

**A gap** is the time between two consecutive replies at the client: from the arrival of one to the arrival of the next,
whichever requests they answer. It is the time for which a client that asks all the time heard nothing, so a request
that the network held back and delivered late counts in full, and so does one that was lost. Even an undisturbed series
has gaps of about one interval; nothing is taken off for that, nor for the probe's own lateness, which stands beside
every gap. A guest that never answers again leaves an **open** gap, up to the end of the probe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from godwit.measure.series import ProbeSeries

MINIMUM_GAP_S = 0.020
GAP_IN_INTERVALS = 5.0
AFTERMATH_S = 0.1
NEAR_SWITCHOVER_S = 1.0


@dataclass(frozen=True, slots=True)
class Gap:
    """A time without a reply, UNIX seconds; ``lag_max_s`` is the probe's own worst lateness in it (NaN: unknown).

    ``open_start``: no reply came before it; ``open_end``: none after it, so its length is a lower bound.
    """

    start_s: float
    end_s: float
    lost: int = 0
    lag_max_s: float = 0.0
    open_start: bool = False
    open_end: bool = False

    @property
    def length_s(self) -> float:
        """How long it lasted, in seconds."""
        return self.end_s - self.start_s

    def overlap_s(self, start_s: float, end_s: float) -> float:
        """How much of it lies in a window, in seconds; negative is the distance to the window."""
        return min(self.end_s, end_s) - max(self.start_s, start_s)


@dataclass(frozen=True, slots=True)
class Latency:
    """Round trips of the answered requests of a stretch, in milliseconds (NaN when there were none)."""

    sent: int
    lost: int
    median_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True, eq=False)
class RateSeries:
    """Something per second over time in equal bins from ``start_s`` (UNIX), ``bin_s`` wide; ``per_s`` is (bins,)."""

    start_s: float
    bin_s: float
    per_s: NDArray[np.float64]

    @property
    def middle_s(self) -> NDArray[np.float64]:
        """Middles of the bins, UNIX seconds, shape (bins,)."""
        return self.start_s + (np.arange(len(self.per_s), dtype=np.float64) + 0.5) * self.bin_s


@dataclass(frozen=True, slots=True)
class ClientView:
    """All figures of one series around one switchover."""

    longest: Gap | None
    at_switchover: Gap | None
    gaps: tuple[Gap, ...]
    sent: int
    lost: int
    errors: int
    before: Latency
    during: Latency
    after: Latency
    lag_max_s: float

    @property
    def client_gap_s(self) -> float | None:
        """The longest time that the client went without a reply in the whole series; None when nothing was probed."""
        return None if self.longest is None else self.longest.length_s


def find_gaps(
    series: ProbeSeries, threshold_s: float = 0.0, *, within: tuple[float, float] | None = None
) -> tuple[Gap, ...]:
    """Give every gap of at least ``threshold_s`` seconds, in order of time, open ones at both ends included.

    The first runs from the first request, the last to the end of the probe, so with a threshold of 0 the gaps cover the
    series without overlap. ``within``, UNIX seconds: only those that touch that stretch.
    """
    edges = _edges(series)
    wanted = np.diff(edges) >= threshold_s
    if within is not None:
        wanted &= (edges[1:] >= within[0]) & (edges[:-1] <= within[1])
    return tuple(_gap(series, edges, int(index)) for index in np.flatnonzero(wanted))


def longest_gap(series: ProbeSeries) -> Gap | None:
    """Give the longest time without a reply, wherever it lies; None for an empty series."""
    edges = _edges(series)
    return _gap(series, edges, int(np.argmax(np.diff(edges)))) if len(edges) > 1 else None


def earlier_gaps(series: ProbeSeries) -> tuple[Gap, ...]:
    """Give the longest gaps of the part of a long series that is not in its columns any more, in order of time."""
    return tuple(Gap(*gap) for gap in series.earlier.gaps) if series.earlier else ()


def _edges(series: ProbeSeries) -> NDArray[np.float64]:
    """Give the instants that gaps lie between: the first request, each reply, the end; (0,) where nothing was asked."""
    if len(series.sent_s) == 0:
        return np.empty(0)
    replies = series.replied_s
    first, last = float(series.sent_s[0]), max(series.ended_s, float(series.sent_s[-1]))
    return np.concatenate(([first], replies, [max(last, float(replies[-1]) if len(replies) else last)]))


def noticeable_gaps(series: ProbeSeries) -> tuple[Gap, ...]:
    """Give the gaps worth a line: at least 20 ms and at least five of the probe's intervals."""
    return find_gaps(series, max(MINIMUM_GAP_S, GAP_IN_INTERVALS * series.interval_s))


def gap_at(gaps: tuple[Gap, ...], stop_s: float, resume_s: float) -> Gap | None:
    """Give the gap of the switchover: the longest that touches [stop, resume + 0.1 s], else the nearest in a second.

    A client's gap may begin before STOP (devices are drained first) and ends after RESUME (announcement, load); a guest
    may answer once and then stand still again, busy with what it missed.
    """
    touching = [gap for gap in gaps if gap.overlap_s(stop_s, resume_s + AFTERMATH_S) >= 0]
    if touching:
        return max(touching, key=lambda gap: gap.length_s)
    near = [gap for gap in gaps if gap.overlap_s(stop_s, resume_s) >= -NEAR_SWITCHOVER_S]
    return max(near, key=lambda gap: gap.overlap_s(stop_s, resume_s), default=None)


def first_reply(series: ProbeSeries, stop_s: float | None, resume_s: float) -> float | None:
    """Give the seconds from RESUME to the first reply after it to a request sent after STOP; None where none came.

    What was asked before STOP may have been answered by the source: over a long way its words arrive after RESUME.
    """
    asked = series.answered & (series.sent_s >= (resume_s if stop_s is None else stop_s))
    replies = series.sent_s[asked] + series.rtt_s[asked]
    return min((float(at) - resume_s for at in replies[replies >= resume_s]), default=None)


def latency(series: ProbeSeries, start_s: float = -np.inf, end_s: float = np.inf) -> Latency:
    """Summarise the requests sent in [start_s, end_s), UNIX seconds."""
    sent = (series.sent_s >= start_s) & (series.sent_s < end_s)
    rtt_ms = series.rtt_s[sent & series.answered] * 1e3
    total = int(np.count_nonzero(sent))
    if len(rtt_ms) == 0:
        return Latency(total, total, np.nan, np.nan, np.nan, np.nan)
    median, p95, p99 = (float(value) for value in np.percentile(rtt_ms, [50, 95, 99]))
    return Latency(total, total - len(rtt_ms), median, p95, p99, float(rtt_ms.max()))


def reply_rate(series: ProbeSeries, bin_s: float = 0.1) -> RateSeries:
    """Count replies per second over time, by the instant of the reply; the last, partial bin is left out."""
    if bin_s <= 0:
        message = f"a bin of {bin_s} s"
        raise ValueError(message)
    start = float(series.sent_s[0]) if len(series.sent_s) else series.started_s
    bins = max(1, int((series.ended_s - start) / bin_s + 1e-6))
    counts = np.bincount(_bins(series.replied_s, start, bin_s, bins), minlength=bins + 1)[:bins]
    return RateSeries(start, bin_s, counts / bin_s)


def quiet_spells(rate: RateSeries, fraction: float = 0.1) -> tuple[Gap, ...]:
    """Give the spells in which a throughput fell below ``fraction`` of its median, to the width of a bin.

    This is how the netperf curve of the classic downtime figure is read; the median is that of the bins that had any.
    """
    flowing = rate.per_s[rate.per_s > 0]
    if len(flowing) == 0:
        return (Gap(rate.start_s, rate.start_s + len(rate.per_s) * rate.bin_s, 0, np.nan, True, True),)  # noqa: FBT003
    quiet = np.concatenate(([False], rate.per_s < fraction * float(np.median(flowing)), [False]))
    turns = np.flatnonzero(np.diff(quiet.astype(np.int8)))
    spells = turns.reshape(-1, 2)
    return tuple(
        Gap(
            rate.start_s + float(first) * rate.bin_s,
            rate.start_s + float(end) * rate.bin_s,
            lag_max_s=np.nan,
            open_start=bool(first == 0),
            open_end=bool(end == len(rate.per_s)),
        )
        for first, end in spells
    )


def client_view(series: ProbeSeries, stop_s: float | None = None, resume_s: float | None = None) -> ClientView:
    """Compute every figure; without a switchover its gap is the longest, and ``before`` is the whole series."""
    before = earlier_gaps(series)
    known = [gap for gap in (*before, longest_gap(series)) if gap is not None]
    longest = max(known, key=lambda gap: gap.length_s, default=None)
    if stop_s is None:
        at, before_end, after_start = longest, np.inf, np.inf
    else:
        end_s = stop_s if resume_s is None else resume_s
        near = (stop_s - NEAR_SWITCHOVER_S, end_s + NEAR_SWITCHOVER_S)
        at = gap_at((*before, *find_gaps(series, within=near)), stop_s, end_s)
        before_end, after_start = stop_s, end_s
        if at is not None:
            before_end, after_start = min(stop_s, at.start_s), max(end_s, at.end_s)
    return ClientView(
        longest=longest,
        at_switchover=at,
        gaps=(*before, *noticeable_gaps(series)),
        sent=series.sent,
        lost=series.lost,
        errors=sum(series.errors.values()),
        before=latency(series, end_s=before_end),
        during=latency(series, before_end, after_start),
        after=latency(series, after_start),
        lag_max_s=_worst(series.lag_s),
    )


def _gap(series: ProbeSeries, edges: NDArray[np.float64], index: int) -> Gap:
    """Make the gap between two edges; the request after it carries the lateness of slots held back during it."""
    start, end = float(edges[index]), float(edges[index + 1])
    first, beyond = np.searchsorted(series.sent_s, [start, end])
    lags = series.lag_s[first : beyond + 1]
    lost = int(np.count_nonzero(np.isnan(series.rtt_s[first:beyond])))
    return Gap(start, end, lost, _worst(lags), index == 0, index == len(edges) - 2)


def _worst(lags: NDArray[np.float64]) -> float:
    """Give the largest known lateness; 0 when there is no request, NaN when none is known."""
    if len(lags) == 0:
        return 0.0
    known = lags[~np.isnan(lags)]
    return float(known.max()) if len(known) else float("nan")


def _bins(instants: NDArray[np.float64], start_s: float, bin_s: float, bins: int) -> NDArray[np.int64]:
    """Give the bin of each instant; what lies beyond the last bin goes into one more."""
    index = np.floor((instants - start_s) / bin_s + 1e-9).astype(np.int64)
    return np.clip(index, 0, bins)
