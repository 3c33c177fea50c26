"""A forecast of a move, strategy by strategy, and the record that the move leaves for the next forecast. Pure."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from godwit.core.capabilities import FIRST_DOWNTIME_LIMIT, HELD, first_parameters
from godwit.core.forecast import likely_prospect, prospect, situation, stream_of
from godwit.core.goals import GOALS, SURE, late, rank
from godwit.core.learning import basis_of, rate_of, seen_lately
from godwit.core.passes import Foreseen
from godwit.core.readings import carried_of, passes_of
from godwit.core.sleeping import MISJUDGED, ladder
from godwit.core.strategy import MARGIN, bearable
from godwit.errors import RefusedError
from godwit.model import Forecast, Interval, MoveRecord, OutcomeStatus, Permission, Sending, Strategy, Way
from godwit.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.core.forecast import Basis
    from godwit.core.learning import Known
    from godwit.model import Outcome, Policy, Prospect, Sample, Spec

_FEW_PASSES: Final = 6
_EASED: Final = 0.8
_HELD_BACK: Final = 0.9
"""A stream that has this share of what it is permitted is held back by that: QEMU's limiter is no finer."""


def foretell(known: Known, now: float, *, thorough: bool = True) -> Forecast:
    """Say what a live move would cost, and which strategy is to be taken.

    Unless it is to be `thorough`, only of that one is said how far it may be off, if it is sure to end: whoever moves a
    guest waits for this.
    Raises InputError where the guest's writes or the link are not known at all.
    """
    basis, knowledge = basis_of(known, now)
    limit = min(known.policy.max_downtime, FIRST_DOWNTIME_LIMIT)
    rows = _rows(known, basis, limit)
    chosen = chosen_of(rows, known.policy)

    def exactly(row: Prospect) -> Prospect:
        return prospect(row.how, basis, known.policy, limit)

    if not thorough:
        exact = exactly(chosen)
        rows = [exact if row is chosen else row for row in rows]
        chosen, thorough = exact, exact.chance < SURE
    if thorough:
        rows = [exactly(row) for row in rows]
        chosen = chosen_of(rows, known.policy)
    link = basis.bandwidth
    return Forecast(
        known.vm,
        known.source,
        known.target,
        now,
        Interval(link.at(-1.28), link.likely, link.at(1.28)),
        tuple(rows),
        chosen.strategy,
        _reason(rows, chosen, known.policy),
        situation(basis, changes=Sending.CHANGES in known.sendings),
        knowledge,
    )


def _rows(known: Known, basis: Basis, limit: float) -> list[Prospect]:
    """Return what each strategy that is possible would cost."""
    policy = known.policy
    rows = []
    for sending in known.sendings:
        # QEMU before 10.1 refuses, or cannot take, multifd and postcopy together.
        over = known.usual.postcopy and not Strategy(sending).compresses
        strategy = replace(known.usual, sending=sending, postcopy=over)
        row = likely_prospect(strategy, basis, policy, limit)
        rows.append(row)
        if row.rest:
            rows.append(likely_prospect(replace(strategy, over_after=1), basis, policy, limit))
        worth = sending is not Sending.WHOLE or Sending.CHANGES not in known.sendings
        if strategy.armed and worth and _laborious(row, policy):
            planned = planned_throttle(strategy, basis, policy, limit)
            if planned is not None and rank(policy, planned) < rank(policy, _eased(row, policy)):
                rows.append(planned)
    return rows


def _eased(row: Prospect, policy: Policy) -> Prospect:
    """Return a strategy as it would have to be beaten by one that slows the guest down: for less nobody's guest is.

    One that ends too late is beaten by whatever does not.
    """
    if late(policy, row):
        return row
    return replace(row, total=row.total.scaled(_EASED), client_gap=row.client_gap.scaled(_EASED))


def by_itself(row: Prospect) -> bool:
    """Say whether a strategy ends without a pause."""
    return row.converges and not row.how.pauses


def _laborious(row: Prospect, policy: Policy) -> bool:
    """Say whether a guest that sleeps a little may be better off."""
    return not by_itself(row) or row.blackout.likely > bearable(policy) or row.passes > _FEW_PASSES


def planned_throttle(strategy: Strategy, basis: Basis, policy: Policy, limit: float) -> Prospect | None:
    """Return what a strategy costs with the throttle that suits the policy best, None where none makes it end.

    That is chosen for a guest that gets more done between its naps than is likely: too long a nap costs little, one
    that is too short has the guest sleep for nothing. Where none is long enough for that, for the likely one.
    """
    for thought in (replace(basis, busy=basis.busy / MISJUDGED), basis):
        tried = [
            likely_prospect(replace(strategy, throttle=percentage), thought, policy, limit)
            for percentage in ladder(policy)
        ]
        best = min(tried, key=lambda row: rank(policy, row), default=None)
        if best is not None and by_itself(best):
            return likely_prospect(best.how, basis, policy, limit)
    return None


def chosen_of(rows: Sequence[Prospect], policy: Policy) -> Prospect:
    """Return the strategy to take. Whole pages only where nothing else is possible: they never take fewer bytes."""
    able = [row for row in rows if row.how.sending is not Sending.WHOLE] or rows
    return min(able, key=lambda row: rank(policy, row))


def _reason(rows: Sequence[Prospect], chosen: Prospect, policy: Policy) -> str:
    """Say why a strategy is the one to take."""
    alone = next(row for row in rows if row.how.sending is chosen.how.sending and not row.how.throttle)
    slowed = f"it costs the guest {format_duration(chosen.lost)} of its work"
    reasons = (
        (not chosen.converges, "no strategy that is permitted ends by itself; this one comes nearest"),
        (chosen.how.pauses, "no strategy that is permitted ends in time by itself, and the guest may be paused"),
        (bool(chosen.rest), "it goes over before its memory, as is permitted"),
        (chosen.how.throttle and not by_itself(alone), f"only so its passes shrink; {slowed}"),
        (bool(chosen.how.throttle), f"{GOALS[policy.goal].words}; {slowed}"),
        (chosen.how.sending is Sending.WHOLE, "this QEMU can send nothing but whole pages"),
        (chosen.how.compresses, f"compressed pages take fewer bytes: {GOALS[policy.goal].words}"),
        (not by_itself(rows[0]), "only as their changes do pages that are written again and again travel fast enough"),
        (True, "pages that were sent before travel as their changes: the last pass is the shortest so"),
    )
    return next(reason for holds, reason in reasons if holds)


def foreseen_of(known: Known, now: float, how: Strategy) -> Foreseen:
    """Return what is thought of a guest, and of the stream of the strategy that was taken.

    Raises InputError where the guest's writes or the link are not known at all.
    """
    basis, _ = basis_of(known, now)
    return Foreseen(basis.curve, stream_of(how, basis))


def calm(forecast: Forecast) -> bool:
    """Say whether a move is expected to end by itself, and to cost the guest nothing of its work."""
    row = forecast.prospect
    return by_itself(row) and row.chance >= SURE and not row.how.throttle and not row.rest


HOPELESS: Final = 0.02
"""The chance below which a move is not even begun."""


def hopeless(forecast: Forecast, known: Known) -> RefusedError | None:
    """Return why a move is not to be begun at all, or None.

    That takes recent measurements, by which nothing that the policy permits would let it end.
    """
    row, policy = forecast.prospect, known.policy
    profiles = [known.profile] if known.profile is not None else []
    if not seen_lately(profiles, known.moves, known.vm, forecast.at):
        return None
    if policy.deadline is not None and row.total.low > policy.deadline:
        message = (
            f"{known.vm} cannot be moved within {format_duration(policy.deadline)}: {forecast.situation}; "
            f"by {row.strategy} it takes {interval_words(row.total)}"
        )
        return RefusedError(message, remedy=f"allow more time: --deadline {math.ceil(row.total.high)}s")
    if row.chance >= HOPELESS:
        return None
    message = f"{known.vm} would not end moving by itself: {forecast.situation}; by {row.strategy} it {row.why}"
    remedy = f"{way_out(forecast, policy)}; should the guest have changed since: godwit profile {known.vm}"
    return RefusedError(message, remedy=remedy)


def interval_words(interval: Interval) -> str:
    """Print an interval of seconds."""
    low, likely, high = (format_duration(one) for one in (interval.low, interval.likely, interval.high))
    unit = high.rpartition(" ")[2]
    return f"{likely} ({low.removesuffix(' ' + unit)} to {high})"


def expected(forecast: Forecast, policy: Policy) -> str:
    """Say in one line what is expected of the chosen strategy."""
    row = forecast.prospect
    if not row.converges:
        return f"expected not to end by itself: {forecast.situation}; {row.why}; {way_out(forecast, policy)}"
    return (
        f"expected by {row.strategy}: {interval_words(row.total)} in all, {interval_words(row.blackout)} of blackout, "
        f"{format_size(round(row.bytes.likely))}"
    )


def way_out(forecast: Forecast, policy: Policy) -> str:
    """Say what would let the guest move where the chosen strategy does not end."""
    needed = math.ceil(forecast.prospect.blackout.likely * MARGIN * 100) * 10
    ways = [f"--max-downtime {needed}ms would let it end"]
    if policy.most_throttle <= HELD:
        ways.append("--allow throttle slows it down as far as it takes")
    if Permission.PAUSE not in policy.allows:
        ways.append("--allow pause lets it stand still at the end")
    return ", ".join((*ways, "--static moves it standing still"))


def remember(
    spec: Spec,
    outcome: Outcome,
    samples: Sequence[Sample],
    began: float | None,
    memory: int,
    forecast: Forecast | None,
    *,
    how: Strategy,
    limit: float,
) -> MoveRecord | None:
    """Return what a live move of memory alone was like, or None for any other, and for one that did not end well.

    `began` is when its stream was started; `how` says by which strategy, `limit` is the downtime limit of the end, in
    seconds.
    """
    live = spec.policy.way is Way.LIVE and spec.upgrade is None and not outcome.disk_bytes
    if not live or outcome.status is not OutcomeStatus.COMPLETED or began is None or outcome.start_delay_s is None:
        return None
    downtime, passes = outcome.downtime, passes_of(samples, began)
    blackout = None if downtime.blackout_ms is None or how.pauses else downtime.blackout_ms / 1000
    record = MoveRecord(
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
        blackout,
        None if downtime.client_gap_ms is None else downtime.client_gap_ms / 1000,
        again=how.sending is Sending.CHANGES,
        limit=int(first_parameters(spec.policy, defaults=True)["downtime-limit"]) / 1000 if spec.defaults else limit,
        forecast=forecast,
        how=how,
        carried=carried_of(samples, compressed=how.compresses),
    )
    return replace(record, limited=_limited(spec, rate_of(record)))


def _limited(spec: Spec, rate: float | None) -> bool:
    """Say whether the stream was held back by what it was permitted, rather than by the link."""
    permitted = first_parameters(spec.policy, defaults=spec.defaults)["max-bandwidth"]
    return bool(permitted) and (rate or 0.0) >= _HELD_BACK * int(permitted)
