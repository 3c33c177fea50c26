"""How well guests are spread, in figures that a person can follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from godwit.core.fleet.table import QUANTITIES
from godwit.model.fleet import FleetScore

if TYPE_CHECKING:
    from godwit.core.fleet.placement import Floats, Placement, Problem


def score_of(placement: Placement) -> FleetScore:
    """Return the score of a placement: the weighted deviation of each quantity, and what breaks a rule or a limit."""
    spread = placement.problem.weight * placement.deviations
    parts = [(name, float(part)) for name, part in zip(QUANTITIES, spread, strict=True)]
    parts.append(("misplaced guests", float(len(placement.misplaced()))))
    parts.append(("overfull hosts", float(len(placement.overfull()))))
    return FleetScore(sum(part for _, part in parts), tuple(parts))


def least_score(problem: Problem) -> float:
    """Return a bound: no placement spreads all more evenly, even if guests could be cut in pieces.

    What may move is poured over what has to stay, quantity by quantity, until it stands as level as it can.
    """
    fixed = problem.base.astype(np.float64, copy=True)
    stays = ~problem.movable & (problem.home >= 0)
    np.add.at(fixed, problem.home[stays], problem.load[stays])
    counted = problem.counted
    loose = problem.load[problem.movable].sum(axis=0)
    bound = 0.0
    for quantity, weight in enumerate(problem.weight):
        scale = problem.scale[counted, quantity]
        bound += float(weight) * _level(fixed[counted, quantity] / scale, scale, float(loose[quantity]))
    return bound


def _level(shares: Floats, scale: Floats, amount: float) -> float:
    """Return the least deviation that shares can have once an amount is poured over them.

    With hosts of different size the mean is not given by the total, so the bound holds only for equal ones; for others
    it is 0.
    """
    if not len(shares) or not np.allclose(scale, scale[0]):
        return 0.0
    ordered = np.sort(shares)
    poured = amount / scale[0]
    filled = np.cumsum(ordered)
    levels = (poured + filled) / np.arange(1, len(ordered) + 1)
    over = np.flatnonzero(np.append(ordered[1:], np.inf) >= levels)
    level = levels[over[0]]
    return float(np.maximum(ordered, level).std())
