"""A plan made of a placement that was found: its moves in order, each with its reason and what it is likely to take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from godwit.core.fleet.forecast import quick_forecast
from godwit.core.fleet.order import Limits, order, timetable
from godwit.core.fleet.placement import Placement
from godwit.core.fleet.score import score_of
from godwit.core.fleet.table import RESOURCES, fleet_table
from godwit.model.fleet import FleetPlan, FleetScore, Impossible, PlannedMove
from godwit.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from godwit.core.fleet.order import Ordered
    from godwit.core.fleet.table import Table
    from godwit.model.fleet import Fleet, FleetGuest, MoveForecast, PlanKind

NO_ORDER: Final = "no order of the moves leaves room for it at every moment"

_SIZES: Final = frozenset({RESOURCES[0], RESOURCES[3]})


@dataclass(frozen=True, slots=True)
class Draft:
    """What a plan is made of: the table, where its items were and are to be, and why each guest moves."""

    kind: PlanKind
    subject: str
    table: Table
    placement: Placement
    reason: Callable[[FleetGuest, str], str]
    impossible: tuple[Impossible, ...] = ()
    bound: float | None = None
    seed: int = 0


def finished(draft: Draft, limits: Limits) -> FleetPlan:
    """Return the plan of a draft. Moves for which there is no order are named as impossible."""
    fleet = draft.table.fleet
    ordered, single = _ordered(draft)
    forecasts = _forecasts(fleet, ordered)
    starts = timetable(ordered.steps, [forecast.seconds for forecast in forecasts], limits)
    names = [host.name for host in fleet.hosts]
    moves = tuple(
        PlannedMove(
            step.number,
            fleet.guests[step.item].name,
            fleet.guests[step.item].host if step.source < 0 else names[step.source],
            names[step.target],
            "makes way, on a third host, for those that change places"
            if step.detour
            else draft.reason(fleet.guests[step.item], names[step.target]),
            forecast,
            step.after,
            start,
        )
        for step, forecast, start in zip(ordered.steps, forecasts, starts, strict=True)
    )
    stuck = tuple(
        Impossible(
            fleet.guests[item].name,
            NO_ORDER,
            "free some memory on any host, and plan again",
        )
        for item in ordered.given_up
    )
    end = Placement(single.problem)
    for step in ordered.steps:
        end.move(step.item, step.target)
    after = score_of(end)
    return FleetPlan(
        draft.kind,
        draft.subject,
        moves,
        score_of(Placement(single.problem)),
        after,
        (*draft.impossible, *stuck),
        seconds=max((move.starts + move.forecast.seconds for move in moves), default=0.0),
        bytes=sum(move.forecast.bytes for move in moves),
        gap=_gap(after, draft.bound),
        seed=draft.seed,
    )


def _ordered(draft: Draft) -> tuple[Ordered, Table]:
    """Return the moves in order, guest by guest."""
    table, placement = draft.table, draft.placement
    counted = placement.problem.counted
    taking = {host.name for host, takes in zip(table.fleet.hosts, counted, strict=True) if takes}
    single = fleet_table(table.fleet, accepts=lambda host: host.name in taking, single=True)
    start = Placement(single.problem)
    moves = [
        (guest, int(placement.at[item]))
        for item in np.flatnonzero(placement.at >= 0).tolist()
        for guest in table.members[item]
        if start.at[guest] != placement.at[item]
    ]
    gains = {guest: start.moving_gain(guest, host) for guest, host in moves}
    moves.sort(key=lambda move: (-gains[move[0]], move[0]))
    item_of = {guest: item for item, guests in enumerate(table.members) for guest in guests}
    dropped: set[int] = set()
    while True:
        ordered = order(single.problem, [move for move in moves if item_of[move[0]] not in dropped])
        torn = {item_of[guest] for guest in ordered.given_up if len(table.members[item_of[guest]]) > 1}
        if not torn:
            lost = [guest for guest, _ in moves if item_of[guest] in dropped]
            return replace(ordered, given_up=(*ordered.given_up, *lost)), single
        dropped |= torn  # who is to be with others goes with all of them, or not at all


def _forecasts(fleet: Fleet, ordered: Ordered) -> list[MoveForecast]:
    hosts = fleet.hosts
    return [
        quick_forecast(fleet.guests[step.item], hosts[step.source] if step.source >= 0 else None, hosts[step.target])
        for step in ordered.steps
    ]


def _gap(score: FleetScore, bound: float | None) -> float | None:
    """Return by which part of itself a score is at most worse than the best there is."""
    if bound is None:
        return None
    return max(0.0, score.total - bound) / score.total if score.total > 0 else 0.0


def without_place(table: Table, placement: Placement, items: Sequence[int]) -> tuple[Impossible, ...]:
    """Say of items that no host takes why, and the smallest thing that would help."""
    return tuple(_without_place(table, placement, item) for item in items)


def _without_place(table: Table, placement: Placement, item: int) -> Impossible:
    problem, fleet = table.problem, table.fleet
    names = " and ".join(fleet.guests[guest].name for guest in table.members[item])
    hosts = np.flatnonzero(problem.takes[problem.kind[item]])
    hosts = hosts[hosts != placement.at[item]]
    if not len(hosts):
        return Impossible(names, "no other host may have it", "undo a rule that keeps it here, or add a host")
    lacking = np.maximum(0.0, problem.need[item] - (problem.room[hosts] - placement.used[hosts]))
    relative = (lacking / np.maximum(problem.need[item], 1e-9)).max(axis=1)
    nearest = int(np.argmin(relative))
    host = fleet.hosts[int(hosts[nearest])].name
    short = [
        (f"{format_size(amount)} of {what}" if what in _SIZES else f"{amount:.1f} of {what}")
        for what, amount in zip(RESOURCES, lacking[nearest].tolist(), strict=True)
        if amount > 0
    ]
    if not short:
        return Impossible(names, f"a rule keeps it from {host}, the only one with room", "undo the rule, or add a host")
    return Impossible(
        names,
        f"no host has room for it: {host} is nearest, and lacks {' and '.join(short)}",
        f"{' and '.join(short)} more on {host}",
    )


def with_forecasts(plan: FleetPlan, forecasts: dict[int, MoveForecast]) -> FleetPlan:
    """Return a plan with better forecasts of some of its moves, by their numbers."""
    moves = tuple(replace(move, forecast=forecasts.get(move.number, move.forecast)) for move in plan.moves)
    return replace(plan, moves=moves, bytes=sum(move.forecast.bytes for move in moves))
