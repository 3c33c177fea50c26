"""Placement by OR-tools' CP-SAT: where a search finds no place for all, and to know how good a packing can be at best.

The solver counts its time in work that is the same on every machine, and works with one thread, so that the same
question has the same answer. Sizes are rounded, needs up and rooms down: what it finds fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from godwit.core.fleet.placement import NOWHERE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ortools.sat.python.cp_model import CpModel, IntVar

    from godwit.core.fleet.placement import Flags, Floats, Indexes, Problem

LARGEST: Final = 60_000
"""Pairs of an item and a host above which the solver would not come to an end in its time."""

_STEPS: Final = 1 << 20
"""In how many steps the largest room of a resource is counted."""

_UNPLACED: Final = 1_000_000_000
"""What an item that has no place costs: more than all moves together."""

_MOVES: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the solver puts each item; `best` says that nothing is better, `bound` what a better one could cost."""

    at: Indexes
    cost: float
    bound: float
    best: bool


def fits(problem: Problem) -> bool:
    """Say whether a problem is small enough for the solver."""
    return problem.items * problem.hosts <= LARGEST


def pack(
    problem: Problem, optional: Flags, cost: Floats, opening: Floats | None = None, *, work: float = 10.0
) -> Packing | None:
    """Place items at the least cost; None where there is no such placement, or none was found in time.

    As many as can be of those that are `optional` (i) are placed, and all others. `cost` (i) is what it takes to move
    an item from home, `opening` (h) what it costs to have anything on a host; `work` is the solver's deterministic
    time, about seconds. Items that cannot move stay.
    """
    from ortools.sat.python import cp_model  # noqa: PLC0415 - half a second that few commands need

    model = cp_model.CpModel()
    scale = _MOVES / max(float(cost.sum()), 1e-12) / 2
    pairs = _variables(model, problem)
    terms, weights = [], []
    for item in range(problem.items):
        homes = pairs[item]
        model.add_at_most_one(homes.values()) if optional[item] else model.add_exactly_one(homes.values())
        for host, variable in homes.items():
            terms.append(variable)
            away = 0 if host == problem.home[item] else int(cost[item] * scale) + 1
            weights.append(away - _UNPLACED)
    _fill(model, problem, pairs)
    if opening is not None:
        dearest = _MOVES / max(float(opening.max()), 1e-12)
        for host, price in enumerate(opening):
            here = [pairs[item][host] for item in range(problem.items) if host in pairs[item]]
            if here:
                used = model.new_bool_var(f"open{host}")
                model.add_max_equality(used, here)
                terms.append(used)
                weights.append(int(price * dearest))
    model.minimize(cp_model.LinearExpr.weighted_sum(terms, weights))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.max_deterministic_time = work
    status = solver.solve(model)
    if status not in {cp_model.OPTIMAL, cp_model.FEASIBLE}:
        return None
    at = np.full(problem.items, NOWHERE, dtype=np.intp)
    for item, homes in enumerate(pairs):
        for host, variable in homes.items():
            if solver.value(variable):
                at[item] = host
    floor = _UNPLACED * problem.items
    return Packing(at, solver.objective_value + floor, solver.best_objective_bound + floor, status == cp_model.OPTIMAL)


def _variables(model: CpModel, problem: Problem) -> list[dict[int, IntVar]]:
    """Return a variable for each item and host that may have it; who cannot move is where it is."""
    pairs: list[dict[int, IntVar]] = []
    for item in range(problem.items):
        hosts: Sequence[int] = np.flatnonzero(problem.takes[problem.kind[item]]).tolist()
        if not problem.movable[item]:
            hosts = [int(problem.home[item])]
        pairs.append({host: model.new_bool_var(f"x{item}.{host}") for host in hosts})
    return pairs


def _fill(model: CpModel, problem: Problem, pairs: Sequence[dict[int, IntVar]]) -> None:
    from ortools.sat.python import cp_model  # noqa: PLC0415 - see above

    for resource in range(problem.room.shape[1]):
        bounded = problem.room[:, resource] < problem.need[:, resource].sum()
        if not bounded.any():
            continue
        unit = max(float(problem.room[bounded, resource].max()), 1e-9) / _STEPS
        needs = np.ceil(problem.need[:, resource] / unit - 1e-6).astype(np.int64)
        for host in np.flatnonzero(bounded).tolist():
            here = [(homes[host], int(needs[item])) for item, homes in enumerate(pairs) if host in homes]
            stays = sum(
                int(needs[item]) for item, homes in enumerate(pairs) if host in homes and not problem.movable[item]
            )
            room = max(int(problem.room[host, resource] / unit), stays)
            model.add(cp_model.LinearExpr.weighted_sum(*map(list, zip(*here, strict=True))) <= room) if here else None
    for members in problem.apart:
        for host in range(problem.hosts):
            beside = [pairs[item][host] for item in members if host in pairs[item]]
            if len(beside) > 1:
                model.add_at_most_one(beside)
