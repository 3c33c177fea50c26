"""The charts of the report as inline SVG, each drawn for a desk and for a phone, so that words stay readable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from godwit.measure.gaps import reply_rate
from godwit.measure.svg import Scale, Svg, both, nice_ticks, text_px, tick_text
from godwit.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from markupsafe import Markup

    from godwit.measure.gaps import Gap
    from godwit.measure.report_data import BreakdownRow, PhaseSpan
    from godwit.measure.series import ProbeSeries

WIDE_PX, NARROW_PX = 1000, 420
ZOOM_S = 0.5
BIN_CHOICES_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
WANTED_BINS = 200
LEFT, RIGHT = 46.0, 14.0
SMALL_SHARE = 0.06


@dataclass(frozen=True, slots=True)
class Moments:
    """The instants that charts mark, UNIX seconds: zero of the axis, STOP, RESUME and the client's gap."""

    zero_s: float
    stop_s: float | None = None
    resume_s: float | None = None
    gap: Gap | None = None


def client_timeline(series: ProbeSeries, moments: Moments, phases: Sequence[PhaseSpan]) -> Markup:
    """Draw replies per second over the whole series, with the gap: the classic figure of service downtime."""
    return _for_both(lambda width: _timeline(series, moments, phases, width))


def switchover_zoom(series: ProbeSeries, moments: Moments, window: tuple[float, float] | None = None) -> Markup:
    """Draw each request around the switchover: round trip on a logarithmic axis, losses above, lag below."""
    span = window or zoom_window(moments)
    return _for_both(lambda width: _zoom(series, moments, span, width))


def phase_timeline(phases: Sequence[PhaseSpan], moments: Moments, end_s: float) -> Markup:
    """Draw every phase as a bar with its length in words."""
    return _for_both(lambda width: _phases(phases, moments, end_s, width))


def breakdown_bar(rows: Sequence[BreakdownRow]) -> Markup:
    """Draw the parts of the switchover to scale, with STOP and RESUME marked."""
    return _for_both(lambda width: _breakdown(rows, width))


def zoom_window(moments: Moments) -> tuple[float, float]:
    """Choose the stretch to show: half a second around the switchover and the gap, UNIX seconds."""
    gap = [moments.gap.start_s, moments.gap.end_s] if moments.gap else []
    known = [value for value in (moments.stop_s, moments.resume_s) if value is not None] + gap
    known = known or [moments.zero_s]
    return min(known) - ZOOM_S, max(known) + ZOOM_S


def bin_width_s(length_s: float) -> float:
    """Choose a round width that gives about 200 bins."""
    return next((width for width in BIN_CHOICES_S if length_s / width <= WANTED_BINS), BIN_CHOICES_S[-1])


def _for_both(draw: Callable[[int], Markup]) -> Markup:
    return both(draw(WIDE_PX), draw(NARROW_PX))


def _timeline(series: ProbeSeries, moments: Moments, phases: Sequence[PhaseSpan], width: int) -> Markup:
    rate = reply_rate(series, bin_width_s(series.ended_s - series.started_s))
    height, top, bottom = 264, 56.0, 200.0
    svg = Svg(width, height, "Replies per second over time, with the gap in which the client heard nothing")
    x = Scale(rate.start_s, rate.start_s + len(rate.per_s) * rate.bin_s, LEFT, width - RIGHT)
    ceiling = max(1.0, float(rate.per_s.max()) * 1.12)
    y = Scale(0, ceiling, bottom, top)
    _y_axis(svg, y, nice_ticks(0, ceiling, 4), width)
    svg.text(0, 14, f"replies per second (bins of {rate.bin_s * 1000:g} ms)", "label strong")
    edges = rate.start_s + np.arange(len(rate.per_s) + 1) * rate.bin_s
    steps = [(x(edge), y(per_s)) for index, per_s in enumerate(rate.per_s) for edge in edges[index : index + 2]]
    svg.path([(x.first_px, bottom), *steps, (x.last_px, bottom)], "area", closed=True)
    svg.path(steps, "curve")
    if moments.gap is not None:
        left, right = _at_least(x.clamped(moments.gap.start_s), x.clamped(moments.gap.end_s), 3)
        svg.rect(left, top - 10, right, bottom, "gap")
        svg.line((left + right) / 2, top - 18, (left + right) / 2, top - 10, "gap-line")
        words = f"no reply for {format_duration(moments.gap.length_s)}"
        svg.text_within((left + right) / 2, top - 23, words, "label gap-text", (LEFT, width - 2))
    _phase_strip(svg, x, phases, bottom + 26)
    _x_axis(svg, x, moments.zero_s, 1.0, (bottom, height - 6.0), "seconds since the migration was asked for")
    return svg.finish()


def _phase_strip(svg: Svg, x: Scale, phases: Sequence[PhaseSpan], top: float) -> None:
    """Draw the phases as a strip under the axis, named where there is room."""
    for index, phase in enumerate(phases):
        left = x.clamped(phase.start_s)
        right = x.clamped(phase.end_s if phase.end_s is not None else x.high)
        if right - left < 1:
            continue
        svg.rect(left, top, right - 1, top + 16, f"phase phase-{index % 2}", round_px=2)
        if text_px(phase.name) + 8 < right - left:
            svg.text((left + right) / 2, top + 12, phase.name, "label tiny", anchor="middle")


def _zoom(series: ProbeSeries, moments: Moments, window: tuple[float, float], width: int) -> Markup:
    part = series.between(*window)
    zero = moments.stop_s if moments.stop_s is not None else (moments.gap.start_s if moments.gap else moments.zero_s)
    top, bottom, lag_top, lag_bottom, height = 80.0, 250.0, 274.0, 304.0, 348
    svg = Svg(width, height, "Round trip of every request around the switchover")
    x = Scale(*window, LEFT, width - RIGHT)
    rtt_ms = part.rtt_s[part.answered] * 1e3
    low, high = _decades(rtt_ms)
    y = Scale(low, high, bottom, top)
    svg.text(
        0, 14, "round trip, ms" if width < WIDE_PX else "round trip of each request, ms (logarithmic)", "label strong"
    )
    for decade in range(low, high + 1):
        svg.line(LEFT, y(decade), width - RIGHT, y(decade), "grid")
        svg.text(LEFT - 6, y(decade) + 4, f"{10.0**decade:g}", "label", anchor="end")
    _switchover_marks(svg, x, moments, (top - 32, lag_bottom), width)
    sent, levels = part.sent_s[part.answered], np.log10(np.maximum(rtt_ms, 10.0**low))
    svg.dots(((x(at), y(level)) for at, level in zip(sent, levels, strict=True)), "dots")
    svg.text(LEFT - 6, top - 12, "lost", "label", anchor="end")
    svg.ticks((x(at) for at in part.sent_s[~part.answered]), top - 22, top - 12, "lost")
    _lag_strip(svg, x, part, (lag_top, lag_bottom), width)
    name = "milliseconds since STOP" if moments.stop_s is not None else "milliseconds since the last reply"
    _x_axis(svg, x, zero, 1e-3, (lag_bottom, height - 6.0), name)
    return svg.finish()


def _switchover_marks(svg: Svg, x: Scale, moments: Moments, rows: tuple[float, float], width: int) -> None:
    """Mark STOP to RESUME as a band with named edges, and the client's gap as a bracket above it."""
    top, bottom = rows
    if moments.stop_s is not None and moments.resume_s is not None:
        left, right = _at_least(x.clamped(moments.stop_s), x.clamped(moments.resume_s), 1.5)
        svg.rect(left, top + 4, right, bottom, "blackout")
        for edge in (left, right):
            svg.line(edge, top + 4, edge, bottom, "blackout-line")
        if width >= WIDE_PX:
            svg.text(left - 5, top + 44, "STOP", "label blackout-text", anchor="end")
            svg.text(right + 5, top + 44, "RESUME", "label blackout-text")
    if moments.gap is not None:
        left, right = _at_least(x.clamped(moments.gap.start_s), x.clamped(moments.gap.end_s), 3)
        svg.line(left, top - 4, right, top - 4, "gap-line")
        svg.ticks((left, right), top - 8, top, "gap-line")
        words = f"client's gap {format_duration(moments.gap.length_s)}"
        svg.text_within((left + right) / 2, top - 14, words, "label gap-text", (LEFT, width - 2))


def _lag_strip(svg: Svg, x: Scale, part: ProbeSeries, rows: tuple[float, float], width: int) -> None:
    """Draw how late the probe itself was, so that its own pauses are not taken for the guest's."""
    top, bottom = rows
    known = ~np.isnan(part.lag_s)
    lag_ms = part.lag_s[known] * 1e3
    peak = max(1.0, float(lag_ms.max())) if len(lag_ms) else 1.0
    y = Scale(0, peak, bottom, top)
    svg.line(LEFT, bottom, width - RIGHT, bottom, "grid")
    svg.text(LEFT - 6, top + 8, f"{peak:.3g}", "label", anchor="end")
    svg.text(LEFT - 6, bottom + 3, "0", "label", anchor="end")
    words = "the probe's own lateness, ms" if len(lag_ms) else "the probe's own lateness is unknown (system ping)"
    svg.text(LEFT + 4, top + 8, words, "label tiny")
    bars = ((x(at), y(lag)) for at, lag in zip(part.sent_s[known], lag_ms, strict=True))
    svg.path(bars, "lag")


def _phases(phases: Sequence[PhaseSpan], moments: Moments, end_s: float, width: int) -> Markup:
    row, top = 28.0, 8.0
    label = max(text_px(phase.name) for phase in phases) + 12
    bottom = top + row * len(phases)
    height = int(bottom + 44)
    svg = Svg(width, height, "Phases of the migration and their lengths")
    x = Scale(moments.zero_s, max(end_s, moments.zero_s + 1e-3), label, width - RIGHT)
    if moments.stop_s is not None and moments.resume_s is not None:
        left, right = _at_least(x.clamped(moments.stop_s), x.clamped(moments.resume_s), 2)
        svg.rect(left, top, right, bottom, "gap")
    for index, phase in enumerate(phases):
        middle = top + row * (index + 0.5)
        ended = phase.end_s if phase.end_s is not None else end_s
        left, right = _at_least(x.clamped(phase.start_s), x.clamped(ended), 2)
        svg.text(0, middle + 4, phase.name, "label")
        svg.line(label, middle, width - RIGHT, middle, "grid")
        svg.rect(left, middle - 7, right, middle + 7, "bar" if phase.end_s is not None else "bar cut", round_px=3)
        words = format_duration(ended - phase.start_s) + ("" if phase.end_s is not None else ", not ended")
        _beside(svg, (left, right, label, width - 2.0), middle + 4, words)
    _x_axis(svg, x, moments.zero_s, 1.0, (bottom, height - 6.0), "seconds since the migration was asked for")
    return svg.finish()


def _beside(svg: Svg, place: tuple[float, float, float, float], y: float, words: str) -> None:
    """Write a length right of its bar, else left of it, else on it; place is (left, right, and the room's edges)."""
    left, right, first, last = place
    if right + 6 + text_px(words) <= last:
        svg.text(right + 6, y, words, "label strong")
    elif left - 6 - text_px(words) >= first:
        svg.text(left - 6, y, words, "label strong", anchor="end")
    else:
        svg.text((left + right) / 2, y, words, "label on-bar", anchor="middle")


def _breakdown(rows: Sequence[BreakdownRow], width: int) -> Markup:
    total = sum(row.length_ms for row in rows) or 1.0
    svg = Svg(width, 74, "Parts of the switchover, to scale")
    x = Scale(0, total, 1, width - 1)
    at = 0.0
    edges: dict[str, float] = {}
    for index, row in enumerate(rows):
        left, right = x(at), x(at + row.length_ms)
        css = f"part part-{index % 6}" + ("" if row.place == "blackout" else " outside")
        words = "label on-bar" if row.place == "blackout" else "label strong"
        svg.rect(left, 26, max(left + 1, right - 1), 58, css, round_px=2)
        if row.length_ms / total > SMALL_SHARE and text_px(f"{row.length_ms:.1f}") + 8 < right - left:
            svg.text((left + right) / 2, 46, f"{row.length_ms:.1f}", words, anchor="middle")
        if row.place == "blackout":
            edges.setdefault("STOP", left)
            edges["RESUME"] = right
        at += row.length_ms
    for name, edge in edges.items():
        svg.line(edge, 18, edge, 64, "blackout-line")
        svg.text_within(edge, 12, name, "label blackout-text", (8, width - 8))
    return svg.finish()


def _y_axis(svg: Svg, y: Scale, ticks: Sequence[float], width: int) -> None:
    for tick in ticks:
        svg.line(LEFT, y(tick), width - RIGHT, y(tick), "grid" if tick else "axis")
        svg.text(LEFT - 6, y(tick) + 4, tick_text(tick, ticks), "label", anchor="end")


def _x_axis(svg: Svg, x: Scale, zero_s: float, unit_s: float, rows: tuple[float, float], name: str) -> None:
    """Draw ticks counted from ``zero_s`` in units; rows are the line of the axis and that of its name."""
    axis, name_y = rows
    low, high = (x.low - zero_s) / unit_s, (x.high - zero_s) / unit_s
    ticks = nice_ticks(low, high, max(3, int((x.last_px - x.first_px) / 90)))
    svg.line(x.first_px, axis, x.last_px, axis, "axis")
    for tick in ticks:
        at = x(zero_s + tick * unit_s)
        svg.line(at, axis, at, axis + 4, "axis")
        svg.text_within(at, axis + 17, tick_text(tick, ticks), "label", (0, x.last_px + RIGHT))
    svg.text((x.first_px + x.last_px) / 2, name_y, name, "label", anchor="middle")


def _at_least(left: float, right: float, width: float) -> tuple[float, float]:
    """Widen what would be too thin to see, around its middle."""
    if right - left >= width:
        return left, right
    middle = (left + right) / 2
    return middle - width / 2, middle + width / 2


def _decades(rtt_ms: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[int, int]:
    """Choose the powers of ten that hold all round trips, at least two of them."""
    if len(rtt_ms) == 0:
        return -1, 1
    low = math.floor(math.log10(max(1e-3, float(np.percentile(rtt_ms, 2)))))  # the few below are drawn on the edge
    return low, max(low + 2, math.ceil(math.log10(max(1e-3, float(rtt_ms.max())))))
