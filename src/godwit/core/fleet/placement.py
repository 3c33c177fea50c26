"""Where guests are, as numbers: what each takes of its host, what a host has, and how evenly all is spread.

A `Problem` is made once; a `Placement` is where its items are at the moment, with every sum that a search asks for kept
up to date as items move. An item is what moves as one: a guest, or guests that are to be together. The spread of a
quantity is the standard deviation of its share of each host, over the hosts that count; it is kept by its sums, so that
what a move changes of it is known without a look at the other hosts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats: TypeAlias = NDArray[np.float64]
Indexes: TypeAlias = NDArray[np.intp]
Flags: TypeAlias = NDArray[np.bool_]

SLACK: Final = 1e-9
"""By how much of itself a sum of floating-point numbers may be out."""

NOWHERE: Final = -1


@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be placed, and where it may be; `i` counts items, `h` hosts.

    `home` (i) is the host on which an item is, or NOWHERE. `need` (i, r) is what it takes of each resource that cannot
    be exceeded, `room` (h, r) what hosts have of it. `load` (i, k) is what it takes of each quantity that is to be
    spread, `base` (h, k) what hosts use of it themselves, `scale` (h, k) how much of it a host has, `weight` (k) how
    much its spread counts. `counted` (h) says over which hosts the spread is taken. `kind` (i) picks the row of
    `takes` (kinds, h) that says which hosts may take an item. `movable` (i) says which items may move at all. `price`
    (i) is what it costs, as a share of the score, to have an item elsewhere than at home. `apart` has a tuple of items
    a group: no two of them may be on one host.
    """

    home: Indexes
    need: Floats
    room: Floats
    load: Floats
    base: Floats
    scale: Floats
    weight: Floats
    counted: Flags
    kind: Indexes
    takes: Flags
    movable: Flags
    price: Floats
    apart: tuple[tuple[int, ...], ...] = ()

    @property
    def items(self) -> int:
        """How many items there are."""
        return len(self.home)

    @property
    def hosts(self) -> int:
        """How many hosts there are."""
        return len(self.room)

    @cached_property
    def groups_of(self) -> dict[int, tuple[int, ...]]:
        """The numbers of the groups whose members are to be apart, of each item that is in one."""
        groups: dict[int, list[int]] = {}
        for number, members in enumerate(self.apart):
            for item in members:
                groups.setdefault(item, []).append(number)
        return {item: tuple(numbers) for item, numbers in groups.items()}


class Placement:
    """Where each item of a problem is; `at` (i) is a host's index or NOWHERE."""

    def __init__(self, problem: Problem, at: Indexes | None = None) -> None:
        """Place the items, by default where they are at home."""
        self.problem = problem
        self.at = np.array(problem.home if at is None else at, dtype=np.intp)
        placed = self.at >= 0
        self.used = np.zeros_like(problem.room)
        np.add.at(self.used, self.at[placed], problem.need[placed])
        loads = problem.base.astype(np.float64, copy=True)
        np.add.at(loads, self.at[placed], problem.load[placed])
        self.share = loads / problem.scale
        self._loads: list[list[float]] = problem.load.tolist()
        self._scales: list[list[float]] = problem.scale.tolist()
        self._weights: list[float] = problem.weight.tolist()
        self._counts: list[bool] = problem.counted.tolist()
        self.count = max(1, int(problem.counted.sum()))
        self._members = np.zeros((len(problem.apart), problem.hosts), dtype=np.int32)
        for number, members in enumerate(problem.apart):
            hosts = self.at[list(members)]
            np.add.at(self._members[number], hosts[hosts >= 0], 1)
        self._on: list[set[int]] = [set() for _ in range(problem.hosts)]
        for item in np.flatnonzero(placed):
            self._on[self.at[item]].add(int(item))
        self._resum()

    def _resum(self) -> None:
        counted = self.share[self.problem.counted]
        self._sum: list[float] = counted.sum(axis=0).tolist()
        self._squares: list[float] = (counted**2).sum(axis=0).tolist()

    def copy(self) -> Placement:
        """Return another one with the items at the same places."""
        return Placement(self.problem, self.at)

    def on(self, host: int) -> list[int]:
        """Return the items on a host, in the order of their numbers."""
        return sorted(self._on[host])

    @property
    def mean(self) -> Floats:
        """The mean share of each quantity, over the hosts that count; shape (k)."""
        return np.array(self._sum) / self.count

    @property
    def deviations(self) -> Floats:
        """The standard deviation of each quantity's share, over the hosts that count; shape (k)."""
        deviations: Floats = np.sqrt(np.maximum(np.array(self._squares) / self.count - self.mean**2, 0.0))
        return deviations

    @property
    def score(self) -> float:
        """How unevenly all is spread: the weighted sum of the deviations."""
        return self._scored(self._sum, self._squares)

    @property
    def away(self) -> Flags:
        """Say of each item whether it is elsewhere than at home; shape (i)."""
        away: Flags = self.at != self.problem.home
        return away

    @property
    def cost(self) -> float:
        """What all moves together cost, as a share of the score."""
        return float(self.problem.price[self.away].sum())

    def move(self, item: int, host: int) -> None:
        """Put an item on a host."""
        problem, source = self.problem, int(self.at[item])
        groups = problem.groups_of.get(item, ())
        if source >= 0:
            self.used[source] -= problem.need[item]
            self._shift(source, self._loads[item], -1.0)
            self._on[source].discard(item)
            for group in groups:
                self._members[group, source] -= 1
        self.at[item] = host
        if host >= 0:
            self.used[host] += problem.need[item]
            self._shift(host, self._loads[item], 1.0)
            self._on[host].add(item)
            for group in groups:
                self._members[group, host] += 1

    def _shift(self, host: int, load: Sequence[float], sign: float) -> None:
        share, scale = self.share[host].tolist(), self._scales[host]
        counts = self._counts[host]
        for quantity, (before, amount, whole) in enumerate(zip(share, load, scale, strict=True)):
            after = share[quantity] = before + sign * amount / whole
            if counts:
                self._sum[quantity] += after - before
                self._squares[quantity] += after * after - before * before
        self.share[host] = share

    def gain(self, changes: Sequence[tuple[int, Sequence[float]]]) -> float:
        """Return by how much the score falls if hosts, each named once, get these loads (k) more.

        Few numbers are at stake, and a search asks often: plain floats are several times faster here than arrays.
        """
        total, squares = list(self._sum), list(self._squares)
        for host, load in changes:
            if host < 0 or not self._counts[host]:
                continue
            share = self.share[host].tolist()
            for quantity, (before, amount, whole) in enumerate(zip(share, load, self._scales[host], strict=True)):
                after = before + amount / whole
                total[quantity] += after - before
                squares[quantity] += after * after - before * before
        return self._scored(self._sum, self._squares) - self._scored(total, squares)

    def _scored(self, totals: Sequence[float], squares: Sequence[float]) -> float:
        count = self.count
        return sum(
            weight * math.sqrt(max(0.0, square / count - (total / count) ** 2))
            for weight, total, square in zip(self._weights, totals, squares, strict=True)
        )

    def moving_gain(self, item: int, host: int) -> float:
        """Return what the score, less the price of the move, gains by putting an item on a host."""
        load = self._loads[item]
        fallen = self.gain(((int(self.at[item]), [-amount for amount in load]), (host, load)))
        return fallen - self._dearer(item, host)

    def swapping_gain(self, one: int, other: int) -> float:
        """Return what the score, less the price, gains by having two items change places."""
        here, there = int(self.at[one]), int(self.at[other])
        change = [theirs - mine for mine, theirs in zip(self._loads[one], self._loads[other], strict=True)]
        return (
            self.gain(((here, change), (there, [-amount for amount in change])))
            - self._dearer(one, there)
            - self._dearer(other, here)
        )

    def _dearer(self, item: int, host: int) -> float:
        home = self.problem.home[item]
        return float(self.problem.price[item]) * (int(host != home) - int(self.at[item] != home))

    def takes(self, item: int, host: int, *, without: int | None = None) -> bool:
        """Say whether a host may have an item, once the item `without` has left it."""
        problem = self.problem
        if not problem.takes[problem.kind[item], host]:
            return False
        used = self.used[host] + problem.need[item]
        if without is not None:
            used = used - problem.need[without]
        if (used > problem.room[host] * (1 + SLACK)).any():
            return False
        leaving = set(problem.groups_of.get(without, ())) if without is not None else set()
        return all(self._members[group, host] - int(group in leaving) <= 0 for group in problem.groups_of.get(item, ()))

    def takers(self, items: Indexes) -> Flags:
        """Say which hosts may have each of some items besides what they have; shape (items, h)."""
        problem = self.problem
        free = problem.room * (1 + SLACK) - self.used
        able = problem.takes[problem.kind[items]].copy()
        for resource in range(problem.room.shape[1]):
            able &= problem.need[items, resource, None] <= free[None, :, resource]
        able[np.arange(len(items)), self.at[items]] &= self.at[items] < 0
        if problem.apart:
            for row, item in enumerate(items):
                for group in problem.groups_of.get(int(item), ()):
                    able[row] &= self._members[group] == 0
        return able

    def overfull(self) -> Indexes:
        """Return the hosts whose items take more of something than there is."""
        return np.flatnonzero((self.used > self.problem.room * (1 + SLACK)).any(axis=1))

    def misplaced(self) -> list[int]:
        """Return the items that are nowhere, or on a host that may not have them, or beside one they are kept from."""
        problem = self.problem
        able = problem.takes[problem.kind, self.at] & (self.at >= 0)
        wrong = set(np.flatnonzero(~able).tolist())
        for members in problem.apart:
            wrong |= {item for item in members if self.at[item] >= 0 and self._crowded(item)}
        return sorted(wrong)

    def is_misplaced(self, item: int) -> bool:
        """Say that of one item."""
        host, problem = int(self.at[item]), self.problem
        return host < 0 or not problem.takes[problem.kind[item], host] or self._crowded(item)

    def _crowded(self, item: int) -> bool:
        host = int(self.at[item])
        return any(self._members[group, host] > 1 for group in self.problem.groups_of.get(item, ()))
