"""What a move did to rates, drawn: one strip a rate, all over the same time, each against its former rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from godwit.measure.charts import LEFT, NARROW_PX, RIGHT, WIDE_PX
from godwit.measure.costwords import amount, name
from godwit.measure.curves import FORMER
from godwit.measure.svg import Scale, Svg, both, nice_ticks, tick_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.measure.charts import Moments
    from godwit.measure.report_data import CostRow
    from godwit.measure.svg import Markup

STRIP, HEAD, GAP = 54.0, 16.0, 12.0
MOST_STRIPS = 12
HEADROOM = 1.15
JOINED_S = 1e-3


def drawn(rows: Sequence[CostRow]) -> tuple[CostRow, ...]:
    """Return the rows that have a strip: those with a curve, the first ones where there are many."""
    return tuple(row for row in rows if row.pieces)[:MOST_STRIPS]


def strips(rows: Sequence[CostRow], began_s: float, moments: Moments) -> Markup:
    """Draw the rows one below the other; the time from ``began_s`` until RESUME is shaded."""
    return both(_strips(rows, began_s, moments, WIDE_PX), _strips(rows, began_s, moments, NARROW_PX))


def _strips(rows: Sequence[CostRow], began_s: float, moments: Moments, width: int) -> Markup:
    low = min(row.pieces[0][0] for row in rows)
    high = max(*(row.pieces[-1][1] for row in rows), low + JOINED_S)
    bottom = (HEAD + STRIP + GAP) * len(rows)
    svg = Svg(width, int(bottom + 40), "Rates of the guest and of its neighbours over time, against their former rates")
    x = Scale(low, high, LEFT, width - RIGHT)
    for index, row in enumerate(rows):
        _strip(svg, x, row, (HEAD + STRIP + GAP) * index, (began_s, moments))
    ticks = nice_ticks(low - moments.zero_s, high - moments.zero_s, 8 if width == WIDE_PX else 4)
    svg.line(LEFT, bottom, width - RIGHT, bottom, "axis")
    for tick in ticks:
        at = x(moments.zero_s + tick)
        svg.line(at, bottom, at, bottom + 4, "axis")
        svg.text(at, bottom + 16, tick_text(tick, ticks), "label tiny", anchor="middle")
    svg.text(LEFT, bottom + 33, "seconds since the migration was asked for", "label")
    return svg.finish()


def _strip(svg: Svg, x: Scale, row: CostRow, top: float, when: tuple[float, Moments]) -> None:
    """Draw one rate: its name and former rate above, the stretch of the move shaded, and 95 % of before as a line."""
    began_s, moments = when
    head, foot = top + HEAD, top + HEAD + STRIP
    most = max(*(rate for _, _, rate in row.pieces), row.before or 0.0) * HEADROOM or 1.0
    y = Scale(0, most, foot, head)
    end = moments.resume_s if moments.resume_s is not None else x.high
    svg.rect(x.clamped(began_s), head, x.clamped(end), foot, "phase phase-0")
    if moments.stop_s is not None and moments.resume_s is not None:
        left = x.clamped(moments.stop_s)
        svg.rect(left, head, max(left + 1.5, x.clamped(moments.resume_s)), foot, "blackout")
    svg.line(LEFT, foot, x.last_px, foot, "axis")
    words = f"{name(row)}" + (f": {amount(row.before, row.unit)} before" if row.before is not None else "")
    svg.text(0, top + 11, words, "label strong")
    if row.before:
        level = y(row.before * FORMER)
        svg.line(LEFT, level, x.last_px, level, "grid")
        svg.text(LEFT - 6, level + 4, "95 %", "label tiny", anchor="end")
    for run in _runs(row):
        steps = [(x(at), y(rate)) for start, stop, rate in run for at in (start, stop)]
        svg.path([(steps[0][0], foot), *steps, (steps[-1][0], foot)], "area", closed=True)
        svg.path(steps, "curve")


def _runs(row: CostRow) -> list[list[tuple[float, float, float]]]:
    """Part the pieces where something between them is not known."""
    runs: list[list[tuple[float, float, float]]] = []
    for piece in row.pieces:
        if runs and piece[0] - runs[-1][-1][1] < JOINED_S:
            runs[-1].append(piece)
        else:
            runs.append([piece])
    return runs
