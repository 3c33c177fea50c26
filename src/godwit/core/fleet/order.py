"""In which order moves can be made: no host is ever given more than it has, whatever move ends first.

While it moves a guest takes its place on both hosts: the target's from the beginning, the source's until the end. So a
move begins after those whose leaving makes room for it, and each such room is given to one move only: whoever keeps to
"after" can overfill no host, however long single moves take. Where moves wait for each other in a ring, one of them
goes by a third host; where that is not possible either, the smallest is given up.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from godwit.core.fleet.placement import NOWHERE, SLACK, Placement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.core.fleet.placement import Floats, Problem


@dataclass(frozen=True, slots=True)
class Step:
    """One move of an item, from `source` to `target` (indexes of hosts), after the steps with those numbers."""

    number: int
    item: int
    source: int
    target: int
    after: tuple[int, ...] = ()
    detour: bool = False


@dataclass(frozen=True, slots=True)
class Ordered:
    """Steps in an order in which each can be made, and the items whose moves had to be given up."""

    steps: tuple[Step, ...]
    given_up: tuple[int, ...] = ()


@dataclass(slots=True)
class _Release:
    """What a step frees on the host that it leaves, as far as nobody was given it."""

    step: int
    left: Floats


class _Books:
    """What hosts have left, and what they will have once the steps that were written down have ended."""

    def __init__(self, placement: Placement) -> None:
        """Open them for a placement as it is."""
        self.problem = problem = placement.problem
        self._slack = problem.room * SLACK
        self._free = problem.room - placement.used
        self._coming = np.zeros_like(self._free)
        self._releases: dict[int, list[_Release]] = {}
        self._debtors: dict[int, list[int]] = {}
        self._beside: dict[tuple[int, int], dict[int, int | None]] = {}
        for item, groups in problem.groups_of.items():
            if placement.at[item] >= 0:
                for group in groups:
                    self._beside.setdefault((group, int(placement.at[item])), {})[item] = None

    def has_room(self, item: int, host: int) -> bool:
        """Say whether a host takes an item once all steps so far have ended."""
        have = np.maximum(self._free[host], 0.0) + self._coming[host] + self._slack[host]
        if (have < self.problem.need[item]).any() or (self._free[host] + self._coming[host] < -self._slack[host]).any():
            return False
        groups = (self._beside.get((group, host), {}) for group in self.problem.groups_of.get(item, ()))
        return all(leaving is not None or other == item for one in groups for other, leaving in one.items())

    def has_room_now(self, item: int, host: int) -> bool:
        """Say whether a host takes an item before any step has ended."""
        if (self._free[host] + self._slack[host] < self.problem.need[item]).any():
            return False
        return all(not self._beside.get((group, host)) for group in self.problem.groups_of.get(item, ()))

    def write(self, item: int, source: int, target: int, step: int) -> set[int]:
        """Write a step down; return the steps that must have ended before it."""
        after = self._take(item, target)
        for group in self.problem.groups_of.get(item, ()):
            after |= {leaving for leaving in self._beside.get((group, target), {}).values() if leaving is not None}
            self._beside[group, target] = {item: None}
            if source >= 0:
                self._beside.setdefault((group, source), {})[item] = step
        if source >= 0:
            self._release(item, source, step)
        return after

    def _take(self, item: int, host: int) -> set[int]:
        need, after = self.problem.need[item].copy(), set(self._debtors.get(host, ()))
        own = np.minimum(np.maximum(self._free[host], 0.0), need)
        self._free[host] -= own
        need -= own
        releases = self._releases.get(host, [])
        for release in releases:
            if not (need > self._slack[host]).any():
                break
            given = np.minimum(release.left, need)
            if (given > 0).any():
                after.add(release.step)
                release.left = release.left - given
                need -= given
                self._coming[host] -= given
        self._releases[host] = [release for release in releases if (release.left > 0).any()]
        return after

    def _release(self, item: int, host: int, step: int) -> None:
        """Write down what a step frees; of a host that is overfull only what is really free then."""
        frees = self.problem.need[item].copy()
        debt = np.minimum(np.maximum(-self._free[host], 0.0), frees)
        if (debt > 0).any():
            self._free[host] += debt
            frees -= debt
            self._debtors.setdefault(host, []).append(step)
        self._coming[host] += frees
        self._releases.setdefault(host, []).append(_Release(step, frees))


def order(problem: Problem, moves: Sequence[tuple[int, int]]) -> Ordered:
    """Put moves, each an item and the host to which it goes from home, in an order in which all can be made.

    Those that are first in `moves` come first where that is possible.
    """
    return _Ordering(problem, moves).run()


class _Ordering:
    def __init__(self, problem: Problem, moves: Sequence[tuple[int, int]]) -> None:
        self.problem = problem
        self.placement = Placement(problem)
        self.books = _Books(self.placement)
        self.target = dict(moves)
        self.rank = {item: place for place, (item, _) in enumerate(moves)}
        self.ready = deque(item for item, _ in moves)
        self.waiting: dict[int, set[int]] = {}
        self.steps: list[Step] = []
        self.before: dict[int, int] = {}
        self.given_up: list[int] = []

    def run(self) -> Ordered:
        while True:
            while self.ready:
                self._try(self.ready.popleft())
            left = sorted((item for items in self.waiting.values() for item in items), key=self.rank.__getitem__)
            if not left:
                return Ordered(tuple(self.steps), tuple(self.given_up))
            if not self._go_round(left):
                self._give_up(left)

    def _try(self, item: int) -> None:
        host = self.target[item]
        if self.books.has_room(item, host):
            self._step(item, host, detour=False)
        else:
            self.waiting.setdefault(host, set()).add(item)

    def _step(self, item: int, host: int, *, detour: bool) -> None:
        source, number = int(self.placement.at[item]), len(self.steps)
        after = self.books.write(item, source, host, number)
        if item in self.before:
            after.add(self.before[item])
        self.steps.append(Step(number, item, source, host, tuple(sorted(after)), detour))
        self.before[item] = number
        self.placement.move(item, host)
        freed = self.waiting.pop(source, set())
        self.ready.extend(sorted(freed, key=self.rank.__getitem__))

    def _go_round(self, left: Sequence[int]) -> bool:
        """Have the smallest of those that wait, for whose place another one waits, go by a third host."""
        wanted = set(self.waiting)
        size = self.problem.need.sum(axis=1)
        for item in sorted(left, key=lambda item: (size[item], item)):
            source = int(self.placement.at[item])
            if source not in wanted or item in self.before or not self.problem.movable[item]:
                continue
            takes = self.problem.takes[self.problem.kind[item]]
            for host in np.flatnonzero(takes).tolist():
                if host not in {source, self.target[item]} and self.books.has_room_now(item, host):
                    self.waiting[self.target[item]].discard(item)
                    self._step(item, host, detour=True)
                    self.waiting.setdefault(self.target[item], set()).add(item)
                    return True
        return False

    def _give_up(self, left: Sequence[int]) -> None:
        """Leave the largest that waits where it is: the others may fit without it."""
        size = self.problem.need.sum(axis=1)
        item = max(left, key=lambda item: (size[item], item))
        self.waiting[self.target[item]].discard(item)
        self.given_up.append(item)
        del self.target[item]
        self.ready.extend(other for other in left if other != item)
        self.waiting.clear()


@dataclass(frozen=True, slots=True)
class Limits:
    """How many moves are underway at once: those that send or receive at one host, and in all."""

    host: int = 2
    fleet: int = 64


def timetable(steps: Sequence[Step], seconds: Sequence[float], limits: Limits) -> list[float]:
    """Return when each step begins, in seconds from the beginning, if each takes as long as is said.

    Steps begin in their order as soon as what they come after has ended and both hosts have a stream to spare.
    """
    left = {step.number: len(step.after) for step in steps}
    followers: dict[int, list[int]] = {}
    for step in steps:
        for earlier in step.after:
            followers.setdefault(earlier, []).append(step.number)
    streams: Counter[int] = Counter()
    ready = [step.number for step in steps if not step.after]
    ending: list[tuple[float, int]] = []
    starts, now = [0.0] * len(steps), 0.0
    while ready or ending:
        for number in _startable(steps, ready, streams, limits, len(ending)):
            starts[number] = now
            heapq.heappush(ending, (now + seconds[number], number))
        now, ended = heapq.heappop(ending)
        streams.subtract(_ends(steps[ended]))
        for follower in followers.get(ended, ()):
            left[follower] -= 1
            if not left[follower]:
                insort(ready, follower)
    return starts


def _startable(
    steps: Sequence[Step], ready: list[int], streams: Counter[int], limits: Limits, running: int
) -> list[int]:
    """Take those off the list that can begin now, and count their streams."""
    begun: list[int] = []
    for number in ready:
        ends = _ends(steps[number])
        if running + len(begun) < limits.fleet and all(streams[host] < limits.host for host in ends):
            streams.update(ends)
            begun.append(number)
    ready[:] = [number for number in ready if number not in set(begun)]
    return begun


def _ends(step: Step) -> set[int]:
    """Return the hosts that a step keeps busy."""
    return {step.source, step.target} - {NOWHERE}
