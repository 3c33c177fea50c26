"""What a move cost, in words: the same on the terminal and in the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from godwit.units import format_bandwidth, format_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.measure.report_data import CostRow, ThrottleRow, Unit

AT_ONCE_S = 0.001
UNKNOWN = "\u2013"


def amount(value: float | None, unit: Unit) -> str:
    """Write a rate, a share or a length of time in its unit."""
    if value is None:
        return UNKNOWN
    match unit:
        case "share":
            return f"{value:.0%}".replace("%", " %")
        case "bytes":
            return format_bandwidth(value)
        case "seconds":
            return format_duration(value)
        case "processors":
            return f"{value:.2f}"
        case "per second":
            return f"{value:.1f}/s"


def upshot(row: CostRow) -> str:
    """Say what became of a rate: whether it was back, what was lost or kept; empty where nobody can say."""
    told = []
    if row.moved and row.lost_s is not None:
        told.append(_back(row))
        told.append(f"{format_duration(row.lost_s)} of its work lost")
    elif not row.moved and row.kept is not None:
        told.append(f"kept {min(row.kept, 1.0):.0%}".replace("%", " %"))
    return ", ".join(told)


def _back(row: CostRow) -> str:
    if row.back_s is None:
        watched = f"within {format_duration(row.watched_s)}" if row.watched_s else "while somebody looked"
        return f"not back at 95 % {watched}"
    return "back at 95 % " + (f"after {format_duration(row.back_s)}" if row.back_s >= AT_ONCE_S else "at once")


def line(row: CostRow) -> str:
    """Say in a line what became of one rate."""
    before, during, after = (amount(one, row.unit) for one in (row.before, row.during, row.after))
    least = f" (least {amount(row.least, row.unit)})" if row.least is not None else ""
    end = upshot(row)
    return f"{before} before, {during} during{least}, {after} after" + (f": {end}" if end else "")


def name(row: CostRow) -> str:
    """Say whose rate it is."""
    return f"{row.guest}, {row.what}" if row.moved else f"{row.guest} on {row.host}, {row.what}"


def throttle_line(row: ThrottleRow) -> str:
    """Say how far the guest was slowed down."""
    asked, permitted = (f"{one:.0%}".replace("%", " %") for one in (row.asked, row.permitted))
    worked = "" if row.applied is None else f"; its CPUs worked {row.applied:.0%} less then".replace("%", " %")
    return f"{asked} of its time at most, of {permitted} that were permitted{worked}"


def lines(rows: Sequence[CostRow], throttle: ThrottleRow | None) -> dict[str, str]:
    """Return the section of the report in plain text: who and what, and what became of it."""
    told = {name(row): line(row) for row in rows}
    return told | ({"made to sleep": throttle_line(throttle)} if throttle else {})
