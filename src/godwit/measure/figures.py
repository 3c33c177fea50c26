"""The same pictures as PNG, drawn by matplotlib without a display. Imported only when a picture is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from godwit.measure.charts import Moments, bin_width_s, zoom_window
from godwit.measure.gaps import client_view, reply_rate
from godwit.plaintext import one_line
from godwit.units import format_duration, format_size

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from godwit.measure.report_data import DowntimeFigures, ReportData, RunFigures
    from godwit.measure.series import ProbeSeries

INK, MUTED, GRID, CARD = "#1c2329", "#5f6973", "#e8e4dc", "#ffffff"
ACCENT, WARM, OCHRE, VIOLET = "#0f6e6a", "#b5482a", "#b88417", "#7656a3"
CONTEXT_S = 3.0
DPI = 160
HEIGHTS = (1.0, 1.15, 0.2)
FAR_RIGHT = 0.6
LOST_LEVEL, BRACKET_LEVEL, WORDS_LEVEL = 0.975, 0.89, 0.97


def draw_run(data: ReportData, path: Path) -> None:
    """Draw one migration: throughput over the whole series above, each request around the switchover below."""
    series, moments = _watched(data.probe, data.started_s, data.stop_s, data.resume_s, data.vm)
    figure = Figure(figsize=(11, 7), dpi=DPI, facecolor=CARD, layout="constrained")
    FigureCanvasAgg(figure)
    above, below, lag = figure.subplots(3, 1, height_ratios=HEIGHTS)
    draw_rate(above, series, moments, (series.started_s, series.ended_s))
    above.set_xlabel("seconds since the migration was asked for")
    draw_zoom(below, series, moments, zoom_window(moments))
    draw_lag(lag, series, moments, zoom_window(moments))
    if data.simulated:
        figure.text(
            0.5, 0.5, "SIMULATED", ha="center", va="center", rotation=24, fontsize=84, color="#e8b414", alpha=0.45
        )
    title = one_line(f"{data.vm}: {data.source} \u2192 {data.target}")
    figure.suptitle(title, x=0.01, ha="left", color=INK, weight="bold", parse_math=False)
    figure.text(0.99, 0.985, _three(data.downtime), ha="right", va="top", color=MUTED, fontsize=9.5)
    figure.savefig(path, format="png")


def draw_comparison(base: RunFigures, better: RunFigures, path: Path, *, title: str = "") -> None:
    """Draw two runs side by side with shared axes, each under its label and its client's gap."""
    figure = Figure(figsize=(13, 7.4), dpi=DPI, facecolor=CARD, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(3, 2, sharey="row", height_ratios=HEIGHTS)
    watched = [_watched(run.probe, 0.0, run.stop_s, run.resume_s, run.label) for run in (base, better)]
    windows = [zoom_window(moments) for _, moments in watched]
    before = max(_zero(moments) - window[0] for (_, moments), window in zip(watched, windows, strict=True))
    after = max(window[1] - _zero(moments) for (_, moments), window in zip(watched, windows, strict=True))
    for column, (run, (series, moments)) in enumerate(zip((base, better), watched, strict=True)):
        zero = _zero(moments)
        shifted = Moments(zero, moments.stop_s, moments.resume_s, moments.gap)
        draw_rate(grid[0][column], series, shifted, (zero - CONTEXT_S, zero + CONTEXT_S))
        grid[0][column].set_xlabel("seconds since STOP")
        draw_zoom(grid[1][column], series, shifted, (zero - before, zero + after))
        draw_lag(grid[2][column], series, shifted, (zero - before, zero + after))
        facts = f"{_three(run.downtime)}\ntotal {format_duration(run.total_s)}   {format_size(run.sent_bytes)} sent"
        grid[0][column].set_title(f"{facts}\n", loc="left", fontsize=9, color=MUTED)
        grid[0][column].text(
            *(0, 1.24, one_line(run.label)),
            transform=grid[0][column].transAxes,
            fontsize=13,
            weight="bold",
            color=INK,
            parse_math=False,
        )
    for axes in grid[:, 1]:
        axes.set_ylabel("")
    if title:
        figure.suptitle(one_line(title), x=0.01, ha="left", color=INK, weight="bold", parse_math=False)
    figure.savefig(path, format="png")


def draw_rate(axes: Axes, series: ProbeSeries, moments: Moments, window: tuple[float, float]) -> None:
    """Draw replies per second over time with the gap, on seconds since ``moments.zero_s``."""
    low, high = max(window[0], series.started_s), min(window[1], series.ended_s)
    rate = reply_rate(series, bin_width_s(high - low))
    edges = rate.start_s + np.arange(len(rate.per_s) + 1) * rate.bin_s - moments.zero_s
    axes.stairs(rate.per_s, edges, fill=True, color=ACCENT, alpha=0.16, linewidth=0)
    axes.stairs(rate.per_s, edges, color=ACCENT, linewidth=1.3, baseline=None)
    top = max(1.0, float(rate.per_s.max())) * 1.25
    if moments.gap is not None:
        start, end = moments.gap.start_s - moments.zero_s, moments.gap.end_s - moments.zero_s
        thin = max(0.0, (high - low) * 0.003 - (end - start)) / 2
        axes.axvspan(start - thin, end + thin, ymax=0.86, color=WARM, alpha=0.25, linewidth=0)
        words = f"no reply for {format_duration(moments.gap.length_s)}"
        spot = (start + end) / 2
        place = axes.get_xaxis_transform()
        axes.text(spot, WORDS_LEVEL, words, transform=place, ha="center", va="top", color=WARM, weight="bold")
    axes.set(xlim=(low - moments.zero_s, high - moments.zero_s), ylim=(0, top))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_ylabel(f"replies per second\n({rate.bin_s * 1000:g} ms bins)", color=MUTED, fontsize=9)
    _plain(axes)


def draw_zoom(axes: Axes, series: ProbeSeries, moments: Moments, window: tuple[float, float]) -> None:
    """Draw the round trip of each request around the switchover, lost ones on top, in milliseconds since STOP."""
    part, zero = series.between(*window), _zero(moments)
    at_ms, rtt_ms = (part.sent_s - zero) * 1e3, part.rtt_s * 1e3
    limits = _decade_limits(rtt_ms[part.answered])
    axes.semilogy(at_ms[part.answered], np.maximum(rtt_ms[part.answered], limits[0]), ".", color=ACCENT, markersize=4)
    lost, place = at_ms[~part.answered], axes.get_xaxis_transform()
    axes.plot(lost, np.full(len(lost), LOST_LEVEL), "|", color=WARM, markersize=6, transform=place)
    if len(lost):
        axes.text(lost[-1], LOST_LEVEL, f"  {len(lost)} lost", transform=place, va="center", color=WARM, fontsize=9)
    if moments.stop_s is not None and moments.resume_s is not None:
        ends = [(instant - zero) * 1e3 for instant in (moments.stop_s, moments.resume_s)]
        axes.axvspan(ends[0], ends[1], ymax=BRACKET_LEVEL - 0.04, color=OCHRE, alpha=0.2, linewidth=0)
        for end, word, side in ((ends[0], "STOP ", "right"), (ends[1], " RESUME", "left")):
            axes.text(end, 0.82, word, transform=place, ha=side, va="top", color=OCHRE, fontsize=8.5, weight="bold")
    if moments.gap is not None:
        ends = [(instant - zero) * 1e3 for instant in (moments.gap.start_s, moments.gap.end_s)]
        axes.plot(ends, [BRACKET_LEVEL] * 2, "|-", color=WARM, linewidth=1.4, markersize=8, transform=place)
        words = f"client's gap {format_duration(moments.gap.length_s)}"
        left = moments.gap.end_s > window[0] + FAR_RIGHT * (window[1] - window[0])
        spot, words, side = (ends[0], f"{words}  ", "right") if left else (ends[1], f"  {words}", "left")
        axes.text(spot, BRACKET_LEVEL, words, transform=place, ha=side, va="center", color=WARM, weight="bold")
    axes.set_xlim((window[0] - zero) * 1e3, (window[1] - zero) * 1e3)
    axes.set_ylim(*limits)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("round trip, ms", color=MUTED, fontsize=9)
    _plain(axes)
    axes.tick_params(labelbottom=False)


def draw_lag(axes: Axes, series: ProbeSeries, moments: Moments, window: tuple[float, float]) -> None:
    """Draw how late the probe itself was, under the zoom and on its axis."""
    part, zero = series.between(*window), _zero(moments)
    lag_ms = part.lag_s * 1e3
    known = lag_ms[~np.isnan(lag_ms)]
    axes.plot((part.sent_s - zero) * 1e3, lag_ms, color=VIOLET, linewidth=0.9)
    axes.set_xlim((window[0] - zero) * 1e3, (window[1] - zero) * 1e3)
    axes.set_ylim(0, max(1.0, float(known.max()) * 1.1 if len(known) else 1.0))
    axes.set_ylabel("probe's own\nlateness, ms", color=MUTED, fontsize=8)
    axes.set_xlabel("milliseconds since STOP" if moments.stop_s is not None else "milliseconds since the last reply")
    _plain(axes)


def _watched(
    series: ProbeSeries | None, zero_s: float, stop_s: float | None, resume_s: float | None, name: str
) -> tuple[ProbeSeries, Moments]:
    """Give the series and what to mark in it; ValueError when there is nothing to draw."""
    if series is None or len(series.sent_s) == 0:
        message = f"no outside probe watched {name}, so there is nothing to draw"
        raise ValueError(message)
    view = client_view(series, stop_s, resume_s)
    return series, Moments(zero_s, stop_s, resume_s, view.at_switchover or view.longest)


def _zero(moments: Moments) -> float:
    if moments.stop_s is not None:
        return moments.stop_s
    return moments.gap.start_s if moments.gap else moments.zero_s


def _three(downtime: DowntimeFigures) -> str:
    values = (
        ("client's gap", downtime.client_gap_ms),
        ("STOP to RESUME", downtime.blackout_ms),
        ("QEMU", downtime.qemu_ms),
    )
    return "   ".join(f"{name} {value:.1f} ms" for name, value in values if value is not None)


def _decade_limits(values_ms: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float]:
    """Choose whole decades that hold all positive values, with room above for the bracket."""
    positive = values_ms[values_ms > 0]
    if len(positive) == 0:
        return 0.1, 10.0
    low = 10.0 ** np.floor(np.log10(max(1e-3, float(np.percentile(positive, 2)))))
    return float(low), float(max(low * 100, 10.0 ** np.ceil(np.log10(float(positive.max()))))) * 10


def _plain(axes: Axes) -> None:
    """Quiet axes: light grid, no frame but the base line."""
    axes.grid(visible=True, axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=8.5)
    axes.xaxis.label.set_color(MUTED)
    axes.xaxis.label.set_fontsize(9)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(MUTED)
