"""A forecast of a move, strategy by strategy, and the record that the move leaves for the next forecast. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from godwit.core.capabilities import FIRST_DOWNTIME_LIMIT, first_parameters
from godwit.core.forecast import CHANGES, PLAIN, prospect, situation
from godwit.core.learning import basis_of, rate_of
from godwit.core.readings import passes_of
from godwit.core.strategy import MARGIN
from godwit.model import Forecast, Interval, MoveRecord, OutcomeStatus, Way
from godwit.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.core.learning import Known
    from godwit.model import Outcome, Prospect, Sample, Spec

_HELD_BACK: Final = 0.9
"""A stream that has this share of what it is permitted is held back by that: QEMU's limiter is no finer."""


def foretell(known: Known, now: float) -> Forecast:
    """Say what a live move would cost. Raises InputError where the guest's writes or the link are not known at all."""
    basis, knowledge = basis_of(known, now)
    limit = min(known.policy.max_downtime, FIRST_DOWNTIME_LIMIT)
    rows = [prospect(PLAIN, basis, known.policy, limit)]
    if known.changes:
        rows.append(prospect(CHANGES, basis, known.policy, limit))
    link = basis.bandwidth
    return Forecast(
        known.vm,
        known.source,
        known.target,
        now,
        Interval(link.at(-1.28), link.likely, link.at(1.28)),
        tuple(rows),
        rows[-1].strategy,
        _reason(rows),
        situation(basis, changes=known.changes),
        knowledge,
    )


def _reason(rows: Sequence[Prospect]) -> str:
    """Say why the last strategy is the one to take."""
    plain, chosen = rows[0], rows[-1]
    if chosen is plain:
        return "this QEMU can send nothing but whole pages"
    if chosen.converges and not plain.converges:
        return "only as their changes do the pages that are written again and again travel fast enough"
    if not chosen.converges:
        return "no strategy ends by itself; as their changes pages at least take the fewest bytes"
    return "pages that were sent before travel as their changes: the last pass is the shortest so"


def interval_words(interval: Interval) -> str:
    """Print an interval of seconds."""
    low, likely, high = (format_duration(one) for one in (interval.low, interval.likely, interval.high))
    unit = high.rpartition(" ")[2]
    return f"{likely} ({low.removesuffix(' ' + unit)} to {high})"


def expected(forecast: Forecast) -> str:
    """Say in one line what is expected of the chosen strategy."""
    row = forecast.prospect
    if not row.converges:
        return f"expected not to end by itself: {forecast.situation}; {row.why}; {way_out(forecast)}"
    return (
        f"expected: {interval_words(row.total)} in all, {interval_words(row.blackout)} of blackout, "
        f"{format_size(round(row.bytes.likely))}"
    )


def way_out(forecast: Forecast) -> str:
    """Say what would let the guest move where the chosen strategy does not end."""
    needed = math.ceil(forecast.prospect.blackout.likely * MARGIN * 100) * 10
    return f"--max-downtime {needed}ms would let it end, --static moves it standing still"


def remember(
    spec: Spec,
    outcome: Outcome,
    samples: Sequence[Sample],
    began: float | None,
    memory: int,
    forecast: Forecast | None,
    *,
    changes: bool,
    limit: float,
) -> MoveRecord | None:
    """Return what a live move of memory alone was like, or None for any other, and for one that did not end well.

    `began` is when its stream was started; `changes` says whether pages travelled as their changes, `limit`
    is the downtime limit of the end, in seconds.
    """
    live = spec.policy.way is Way.LIVE and spec.upgrade is None and not outcome.disk_bytes
    if not live or outcome.status is not OutcomeStatus.COMPLETED or began is None or outcome.start_delay_s is None:
        return None
    downtime, passes = outcome.downtime, passes_of(samples, began)
    return MoveRecord(
        spec.id,
        spec.vm,
        spec.source,
        spec.target,
        began,
        memory,
        passes,
        outcome.start_delay_s,
        outcome.total_s,
        outcome.bytes,
        None if downtime.blackout_ms is None else downtime.blackout_ms / 1000,
        None if downtime.client_gap_ms is None else downtime.client_gap_ms / 1000,
        limited=_limited(spec, rate_of(passes, outcome.bytes, outcome.total_s - outcome.start_delay_s)),
        again=changes,
        limit=int(first_parameters(spec.policy, defaults=True)["downtime-limit"]) / 1000 if spec.defaults else limit,
        forecast=forecast,
    )


def _limited(spec: Spec, rate: float | None) -> bool:
    """Say whether the stream was held back by what it was permitted, rather than by the link."""
    permitted = first_parameters(spec.policy, defaults=spec.defaults)["max-bandwidth"]
    return bool(permitted) and (rate or 0.0) >= _HELD_BACK * int(permitted)
