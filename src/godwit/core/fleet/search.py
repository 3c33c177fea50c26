"""A local search for a better placement: single moves, then exchanges of two items, until neither gains any more.

What a move changes of the spread is a quadratic in the shares of two hosts. Held against the deviations as they are,
that is a product of two matrices, one of items and one of hosts, so that all moves of many items are weighed at once;
the few that look best are reckoned exactly before one is made. The same holds of exchanges, with a matrix of items on
either side. The search is deterministic: chance comes from a seed, and its budget is counted in weighed moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from godwit.core.fleet.placement import NOWHERE, Placement

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from godwit.core.fleet.placement import Flags, Floats, Indexes

BLOCK: Final = 2_000_000
"""How many moves are weighed at once, at most: some 16 MB a matrix."""

LEAST_GAIN: Final = 1e-9
"""What a move must gain of the score: less may be an error of rounding."""

TRIED: Final = 4
"""How many of the moves that look best for an item are reckoned exactly."""

LEAST_PRICE: Final = 1e-12
"""What is taken for the price of a move that costs nothing, where what it gains is held against that."""

_FLAT: Final = 1e-6
"""The deviation below which a quantity is taken to be spread as evenly as that: its slope would be endless."""


EFFORT: Final = 400_000_000
"""How many moves are weighed unless something else is said: some ten seconds of one core."""


@dataclass(slots=True)
class Budget:
    """How many moves may yet be weighed."""

    left: int = EFFORT

    def spend(self, weighed: int) -> bool:
        """Take so many off; say whether there was anything left."""
        had, self.left = self.left > 0, self.left - weighed
        return had


@dataclass(frozen=True, slots=True)
class Slopes:
    """How the score changes with the shares of hosts: `first` and `second` (h, k) of a load put on a host."""

    first: Floats
    second: Floats

    @classmethod
    def of(cls, placement: Placement) -> Slopes:
        """Return those of a placement as it is."""
        problem = placement.problem
        steep = problem.weight / (2 * placement.count * np.maximum(placement.deviations, _FLAT))
        counted = problem.counted[:, None]
        first = 2 * steep * (placement.share - placement.mean) / problem.scale * counted
        return cls(first, steep / problem.scale**2 * counted)


def settle(placement: Placement, items: Iterable[int], budget: Budget) -> list[int]:
    """Move items that are where they may not be to the best place there is; return those that have none.

    These stay where they are. The largest go first, for they fit in fewest places.
    """
    weight, left = _weight(placement), []
    for item in sorted(items, key=lambda item: (-weight[item], item)):
        if not placement.is_misplaced(item):
            continue
        if not placement.problem.movable[item] or not _settle(placement, item, budget):
            left.append(item)
    return left


def relieve(placement: Placement, budget: Budget) -> None:
    """Move items off hosts that are overfull, until these are not any more or nothing can go; the largest first."""
    weight = _weight(placement)
    for host in placement.overfull().tolist():
        _relieve(placement, host, weight, budget)


def _weight(placement: Placement) -> Floats:
    """Return which part of the largest host each item takes, of what it takes most of; shape (i)."""
    problem = placement.problem
    parts: Floats = (problem.need / np.maximum(problem.room.max(axis=0), 1e-12)).max(axis=1)
    return parts


def _settle(placement: Placement, item: int, budget: Budget) -> bool:
    """Move an item to the best host that takes it; where none does, by having another one make room."""
    host = _best_host(placement, item, budget)
    if host is None:
        return _make_room(placement, item, budget)
    placement.move(item, host)
    return True


def _best_host(placement: Placement, item: int, budget: Budget, without: Flags | None = None) -> int | None:
    able = placement.takers(np.array([item]))[0]
    if without is not None:
        able &= ~without
    budget.spend(placement.problem.hosts)
    hosts = np.flatnonzero(able)
    if not len(hosts):
        return None
    slopes, load = Slopes.of(placement), placement.problem.load[item]
    change = slopes.first[hosts] @ load + slopes.second[hosts] @ load**2
    return int(hosts[np.argmin(change)])


def _make_room(placement: Placement, item: int, budget: Budget) -> bool:
    """Put an item on a host from which one other can go elsewhere to make room for it."""
    problem = placement.problem
    for host in np.flatnonzero(problem.takes[problem.kind[item]]):
        if host == placement.at[item]:
            continue
        others = [other for other in placement.on(int(host)) if problem.movable[other]]
        for other in sorted(others, key=lambda other: (float(problem.need[other].max()), other)):
            if not placement.takes(item, int(host), without=other):
                continue
            barred = np.zeros(problem.hosts, dtype=bool)
            barred[host] = True
            elsewhere = _best_host(placement, other, budget, barred)
            if elsewhere is not None:
                placement.move(other, elsewhere)
                placement.move(item, int(host))
                return True
    return False


def _relieve(placement: Placement, host: int, weight: Floats, budget: Budget) -> None:
    """Move items off an overfull host until it is not any more, or nothing can go; the largest first."""
    problem = placement.problem
    for item in sorted(placement.on(host), key=lambda item: (-weight[item], item)):
        if not (placement.used[host] > problem.room[host] * (1 + 1e-9)).any():
            return
        if problem.movable[item]:
            target = _best_host(placement, item, budget)
            if target is not None:
                placement.move(item, target)


def improve(placement: Placement, budget: Budget | None = None) -> None:
    """Move and exchange items for as long as that gains more than it costs, within the budget."""
    budget = budget or Budget()
    while True:
        while _move_round(placement, budget):
            pass
        if not _swap_round(placement, budget):
            return


def _blocks(placement: Placement, width: int) -> Iterator[Indexes]:
    """Yield movable items in blocks, from the hosts with the steepest slope on: most is to be gained there."""
    problem = placement.problem
    slopes = Slopes.of(placement)
    pull = (slopes.first * problem.scale).max(axis=1)
    order = np.argsort(-pull[placement.at], kind="stable")
    order = order[problem.movable[order] & (placement.at[order] >= 0)]
    rows = max(1, BLOCK // max(1, width))
    for start in range(0, len(order), rows):
        yield order[start : start + rows]


def _move_round(placement: Placement, budget: Budget) -> int:
    """Weigh all moves of a block of items and make the best, each host taking part in one; return how many were made.

    Where a block has none the next is looked at.
    """
    for items in _blocks(placement, placement.problem.hosts):
        if not budget.spend(len(items) * placement.problem.hosts):
            return 0
        made = _moves_of(placement, items)
        if made:
            return made
    return 0


def _moves_of(placement: Placement, items: Indexes) -> int:
    """Make the best moves of some items: the best host by host, none of which takes part in two."""
    problem = placement.problem
    items = items[np.argsort(placement.at[items], kind="stable")]
    change = _move_changes(placement, items)
    change[~placement.takers(items)] = 0.0
    worth = np.minimum(change, 0.0) / np.maximum(problem.price[items], LEAST_PRICE)[:, None]
    sources, starts = np.unique(placement.at[items], return_index=True)
    best = np.minimum.reduceat(worth.min(axis=1), starts)
    ends = [*starts[1:].tolist(), len(items)]
    made, touched = 0, np.zeros(problem.hosts, dtype=bool)
    for place in np.argsort(best, kind="stable").tolist():
        source, start = int(sources[place]), int(starts[place])
        if not best[place] < 0:
            break
        if touched[source]:
            continue
        open_to = worth[start : ends[place]]
        open_to[:, touched] = 0.0
        row, target = divmod(int(open_to.argmin()), problem.hosts)
        item = int(items[start + row])
        if open_to[row, target] < 0 and placement.moving_gain(item, target) > LEAST_GAIN:
            placement.move(item, target)
            touched[source] = touched[target] = True
            made += 1
    return made


def _move_changes(placement: Placement, items: Indexes) -> Floats:
    """Return about how the score and the price change by each move of some items; shape (items, h)."""
    problem = placement.problem
    slopes = Slopes.of(placement)
    load, here, home = problem.load[items], placement.at[items], problem.home[items]
    change = load @ slopes.first.T
    change += load**2 @ slopes.second.T
    change += (-slopes.first[here] * load + slopes.second[here] * load**2).sum(axis=1)[:, None]
    change += (problem.price[items] * (here == home))[:, None]
    rows, back = np.arange(len(items)), home >= 0
    change[rows[back], home[back]] -= problem.price[items][back]
    return change


def _swap_round(placement: Placement, budget: Budget) -> int:
    """Weigh exchanges of each item of a block with every other item, and make the best."""
    problem = placement.problem
    others = np.flatnonzero(problem.movable & (placement.at != NOWHERE))
    for items in _blocks(placement, len(others)):
        if not budget.spend(len(items) * len(others)):
            return 0
        made = _swaps_of(placement, items, others)
        if made:
            return made
    return 0


def _swaps_of(placement: Placement, items: Indexes, others: Indexes) -> int:
    change = _swap_changes(placement, items, others)
    change[~_exchangeable(placement, items, others)] = np.inf
    best = np.argmin(change, axis=1)
    value = change[np.arange(len(items)), best]
    touched: set[int] = set()
    made = 0
    for row in np.argsort(value, kind="stable"):
        if not value[row] < 0:
            break
        one, other = int(items[row]), int(others[best[row]])
        here, there = int(placement.at[one]), int(placement.at[other])
        if here in touched or there in touched or here == there:
            continue
        if not (placement.takes(one, there, without=other) and placement.takes(other, here, without=one)):
            continue
        if placement.swapping_gain(one, other) > LEAST_GAIN:
            placement.move(one, there)
            placement.move(other, here)
            touched |= {here, there}
            made += 1
    return made


def _swap_changes(placement: Placement, items: Indexes, others: Indexes) -> Floats:
    """Return about how the score and the price change by each exchange; shape (items, others)."""
    problem = placement.problem
    slopes = Slopes.of(placement)
    mine, theirs = problem.load[items], problem.load[others]
    here, there = placement.at[items], placement.at[others]
    first_here, second_here = slopes.first[here], slopes.second[here]
    first_there, second_there = slopes.first[there], slopes.second[there]
    left = np.hstack([first_here, second_here, -2 * mine * second_here, mine, mine**2, -2 * mine])
    right = np.hstack([theirs, theirs**2, theirs, first_there, second_there, theirs * second_there])
    change = left @ right.T
    change += (-first_here * mine + second_here * mine**2).sum(axis=1)[:, None]
    change += (-first_there * theirs + second_there * theirs**2).sum(axis=1)[None, :]
    for rows, home, price, to in (
        (slice(None), problem.home[items][:, None], problem.price[items][:, None], there[None, :]),
        (slice(None), problem.home[others][None, :], problem.price[others][None, :], here[:, None]),
    ):
        change[rows] += price * (to != home)
    change -= (problem.price[items] * (here != problem.home[items]))[:, None]
    change -= (problem.price[others] * (there != problem.home[others]))[None, :]
    return change


def _exchangeable(placement: Placement, items: Indexes, others: Indexes) -> Flags:
    """Say which items fit in each other's places; groups that are to be apart are not looked at."""
    problem = placement.problem
    here, there = placement.at[items], placement.at[others]
    able = problem.takes[problem.kind[items]][:, there] & problem.takes[problem.kind[others]][:, here].T
    able &= here[:, None] != there[None, :]
    free = problem.room * (1 + 1e-9) - placement.used
    for resource in range(free.shape[1]):
        mine, theirs = problem.need[items, resource], problem.need[others, resource]
        able &= theirs[None, :] <= (free[here, resource] + mine)[:, None]
        able &= mine[:, None] <= (free[there, resource] + theirs)[None, :]
    return able
