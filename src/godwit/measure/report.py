"""The report of a migration: one self-contained page, or a picture of what the client felt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from godwit.measure import charts, costcharts, costwords
from godwit.measure.gaps import ClientView, Latency, client_view
from godwit.measure.report_data import (
    BreakdownRow,
    Comparison,
    DecisionRow,
    DiskRow,
    DowntimeFigures,
    FindingRow,
    JournalRow,
    PassRow,
    PhaseSpan,
    ReportData,
    RunFigures,
)
from godwit.plaintext import lines
from godwit.units import format_bandwidth, format_duration, format_size

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "BreakdownRow",
    "Comparison",
    "DecisionRow",
    "DiskRow",
    "DowntimeFigures",
    "FindingRow",
    "JournalRow",
    "PassRow",
    "PhaseSpan",
    "ReportData",
    "RunFigures",
    "render_comparison_png",
    "render_html",
    "render_png",
]

TENTH = 0.1
DASH = "\u2013"
WORDS = {
    "completed": "moved",
    "failed": "did not move",
    "cancelled": "was to move, but was cancelled on the way",
    "refused": "was not moved: preflight refused",
    "guest-crashed": "moved and crashed",
    "limbo": "may have moved: nobody can know",
    "running": "is moving",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One of the three figures: its value in words, its bar's share of the largest, and what stands beside it."""

    name: str
    value: str
    share: float
    meaning: str
    aside: str
    css: str


def render_html(data: ReportData) -> str:
    """Give the whole page: styles and pictures inline, nothing fetched from anywhere, every value escaped."""
    view = _view(data.probe, data.stop_s, data.resume_s)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            d=data,
            words=WORDS.get(data.status, data.status),
            whereabouts=_whereabouts(data),
            figures=_figures(data.downtime, view),
            view=view,
            latencies=_latencies(view),
            pictures=_pictures(data, view),
            cost=costwords,
            breakdown=_breakdown_rows(data.downtime),
            comparison=_comparison(data.comparison),
            most_bytes=max((row.sent_bytes for row in data.passes), default=1) or 1,
        )
    )


def render_png(data: ReportData, path: Path) -> None:
    """Write the client's timeline and its zoom as a picture. ValueError when no probe watched the migration."""
    from godwit.measure.figures import draw_run  # noqa: PLC0415 - matplotlib takes half a second to import

    draw_run(data, path)


def render_comparison_png(base: RunFigures, better: RunFigures, path: Path, *, title: str = "") -> None:
    """Write two runs side by side on the same scales. ValueError when one of them was not probed."""
    from godwit.measure.figures import draw_comparison  # noqa: PLC0415 - matplotlib takes half a second to import

    draw_comparison(base, better, path, title=title)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("godwit.measure", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {
        "size": format_size,
        "rate": format_bandwidth,
        "duration": format_duration,
        "clock": _clock,
        "ms": _ms,
        "since": lambda at_s, start_s: f"{at_s - start_s:+.3f} s",
    }
    return environment


def _shown(value: object) -> object:
    """Make visible what a text from outside holds beside what a page shows; autoescape does the rest."""
    return lines(value) if type(value) is str else value


def _whereabouts(data: ReportData) -> str:
    """Say in words where the guest is now."""
    known = {"source": f"runs on {data.source}", "target": f"runs on {data.target}", "unknown": "its host is unknown"}
    if data.guest_alive is False:
        return "NOT alive afterwards"
    return known.get(data.owner, data.owner) + (", seen alive" if data.guest_alive and data.owner != "unknown" else "")


def _clock(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _ms(value: float | None) -> str:
    """Write milliseconds as exactly as they are worth reading."""
    if value is None or math.isnan(value):
        return DASH
    ten, hundred = 10, 100
    decimals = 2 if abs(value) < ten else 1 if abs(value) < hundred else 0
    return f"{value:,.{decimals}f}".replace(",", "\u202f") + " ms"


def _view(probe: Any, stop_s: float | None, resume_s: float | None) -> ClientView | None:  # noqa: ANN401
    return client_view(probe, stop_s, resume_s) if probe is not None and len(probe.sent_s) else None


def _figures(downtime: DowntimeFigures, view: ClientView | None) -> list[Figure]:
    """Put the three figures side by side, with bars on one scale."""
    values = (downtime.qemu_ms, downtime.blackout_ms, downtime.client_gap_ms)
    if all(value is None for value in values):
        return []
    largest = max((value for value in values if value is not None), default=0.0) or 1.0
    shares = [0.0 if value is None else value / largest for value in values]
    unsure = downtime.clock_uncertainty_ms
    lag = downtime.probe_lag_ms
    asides = (
        "reported by the source's QEMU",
        "" if unsure is None else f"clocks of both hosts known to \u00b1 {_ms(unsure)}",
        "no outside probe watched this migration"
        if view is None and downtime.client_gap_ms is None
        else f"the probe's own lateness in it: {_ms(lag)}, not taken off",
    )
    client = _ms(downtime.client_gap_ms)
    names = ("QEMU's own figure", "STOP to RESUME", "The client's gap")
    meanings = (
        "what QEMU counts: its own part of the switchover",
        "no copy of the guest executed",
        "the longest time a client outside heard nothing",
    )
    texts = (_ms(downtime.qemu_ms), _ms(downtime.blackout_ms), f"over {client}" if downtime.client_gap_open else client)
    styles = ("qemu", "blackout", "client")
    rows = zip(names, texts, shares, meanings, asides, styles, strict=True)
    return [Figure(*row) for row in rows]


def _latencies(view: ClientView | None) -> list[tuple[str, Latency]]:
    if view is None:
        return []
    rows = [("before", view.before), ("during", view.during), ("after", view.after)]
    return [row for row in rows if row[1].sent]


def _breakdown_rows(downtime: DowntimeFigures) -> list[dict[str, object]]:
    total = sum(row.length_ms for row in downtime.breakdown) or 1.0
    return [
        {"row": row, "css": f"part-{index % 6}", "share": row.length_ms / total}
        for index, row in enumerate(downtime.breakdown)
    ]


def _pictures(data: ReportData, view: ClientView | None) -> dict[str, Any]:
    """Draw what there is something to draw for."""
    gap = None if view is None else (view.at_switchover or view.longest)
    moments = charts.Moments(data.started_s, data.stop_s, data.resume_s, gap)
    ends = [phase.end_s or phase.start_s for phase in data.phases]
    end_s = data.ended_s if data.ended_s is not None else max(ends, default=data.started_s)
    pictures: dict[str, Any] = {}
    if data.phases:
        pictures["phases"] = charts.phase_timeline(data.phases, moments, end_s)
    if sum(row.length_ms for row in data.downtime.breakdown) > 0:
        pictures["breakdown"] = charts.breakdown_bar(data.downtime.breakdown)
    if (shown := costcharts.drawn(data.costs)) and data.began_s is not None:
        pictures["costs"] = costcharts.strips(shown, data.began_s, moments)
    if data.probe is not None and view is not None:
        pictures["timeline"] = charts.client_timeline(data.probe, moments, data.phases)
        pictures["zoom"] = charts.switchover_zoom(data.probe, moments)
    return pictures


def _comparison(pair: Comparison | None) -> dict[str, Any] | None:
    """Set two runs against each other, row by row, and draw both on the same scale."""
    if pair is None:
        return None
    base, better = pair.base, pair.better
    rows = [
        ("Client's gap", base.downtime.client_gap_ms, better.downtime.client_gap_ms, _ms),
        ("STOP to RESUME", base.downtime.blackout_ms, better.downtime.blackout_ms, _ms),
        ("QEMU's own figure", base.downtime.qemu_ms, better.downtime.qemu_ms, _ms),
        ("Total time", base.total_s, better.total_s, format_duration),
        ("Bytes sent", float(base.sent_bytes), float(better.sent_bytes), format_size),
    ]
    table = [
        (name, DASH if one is None else write(one), DASH if two is None else write(two), _ratio(one, two))
        for name, one, two, write in rows
    ]
    return {"base": base, "better": better, "rows": table, "pictures": _paired_zooms(base, better)}


def _paired_zooms(base: RunFigures, better: RunFigures) -> list[tuple[str, Any]]:
    """Draw both switchovers over stretches of the same length."""
    drawn = []
    for run in (base, better):
        view = _view(run.probe, run.stop_s, run.resume_s)
        if run.probe is None or view is None:
            return []
        zero = run.stop_s if run.stop_s is not None else run.probe.started_s
        drawn.append((run, charts.Moments(zero, run.stop_s, run.resume_s, view.at_switchover or view.longest)))
    spans = [charts.zoom_window(moments) for _, moments in drawn]
    before = max(moments.zero_s - span[0] for (_, moments), span in zip(drawn, spans, strict=True))
    after = max(span[1] - moments.zero_s for (_, moments), span in zip(drawn, spans, strict=True))
    return [
        (run.label, charts.switchover_zoom(run.probe, moments, (moments.zero_s - before, moments.zero_s + after)))
        for run, moments in drawn
        if run.probe is not None
    ]


def _ratio(one: float | None, two: float | None) -> str:
    """Write how the second stands to the first."""
    if not one or two is None:
        return DASH
    much = 2.0
    ratio = two / one
    return f"{1 / ratio:.{1 if ratio > TENTH else 0}f} times less" if 0 < ratio < 1 / much else f"\u00d7 {ratio:.2f}"
