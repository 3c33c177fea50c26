"""A fleet as the numbers that a placement is made of, and back.

What plans spread is the use of processors, memory and network, each as a share of what a host has; what they never
exceed is the memory and the virtual CPUs that guests were given, and a ceiling of processors and network in use. A
guest at which nobody has looked is taken to use all the memory it was given, and of processors what others use for each
of their virtual CPUs.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

import numpy as np

from godwit.core.fleet.placement import NOWHERE, Problem
from godwit.core.fleet.rules import resolved, united
from godwit.model.fleet import HostState, Load, RuleKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from godwit.core.fleet.placement import Flags, Floats
    from godwit.core.fleet.rules import Resolved
    from godwit.model.fleet import Fleet, FleetGuest, FleetHost

QUANTITIES: Final[Mapping[str, float]] = {"processors": 1.0, "memory": 1.0, "network": 1.0}
"""What is spread, and how much each counts."""

RESOURCES: Final = ("memory given", "virtual CPUs", "processors in use", "network in use")
"""What hosts have so much of, and no more."""

USUAL: Final = 0.25
"""Processors that a virtual CPU is taken to use where nobody has looked at any guest."""

BOUNDLESS: Final = 1e18
"""What a host is taken to have of what nobody knows."""


@dataclass(frozen=True, eq=False)
class Table:
    """A fleet, the placement of its items, and the guests that each item stands for, by their index in the fleet."""

    fleet: Fleet
    problem: Problem
    members: tuple[tuple[int, ...], ...]

    def item_of(self) -> dict[str, int]:
        """Return the number of the item that each guest belongs to."""
        names = [guest.name for guest in self.fleet.guests]
        return {names[guest]: item for item, guests in enumerate(self.members) for guest in guests}


def loads_of(fleet: Fleet) -> dict[str, Load]:
    """Return what each guest does; of one at which nobody has looked, what is assumed."""
    seen = [guest.load.cpu / guest.vcpus for guest in fleet.guests if guest.load is not None and guest.vcpus > 0]
    each = median(seen) if seen else USUAL
    return {
        guest.name: guest.load if guest.load is not None else Load(cpu=guest.vcpus * each, memory=guest.memory)
        for guest in fleet.guests
    }


def fleet_table(
    fleet: Fleet,
    *,
    price: Callable[[FleetGuest], float] = lambda _: 0.0,
    accepts: Callable[[FleetHost], bool] = lambda host: host.state is HostState.ACTIVE,
    stays: Callable[[FleetGuest], bool] = lambda guest: bool(guest.fixed),
    single: bool = False,
) -> Table:
    """Return a fleet as numbers.

    `price` is what moving a guest costs as a share of the score, `accepts` says which hosts take guests (over those the
    spread is taken), `stays` which guests do not move. With `single` each guest is an item of its own even where a rule
    has some together. A guest on a host that the fleet does not have is nowhere.
    """
    rules = resolved(fleet)
    index = {host.name: number for number, host in enumerate(fleet.hosts)}
    members = _members(fleet, rules, single=single)
    loads = loads_of(fleet)
    guests = _guest_numbers(fleet, loads)
    homes = [index.get(guest.host, NOWHERE) for guest in fleet.guests]
    kinds, takes = _kinds(fleet, rules, np.array([accepts(host) for host in fleet.hosts], dtype=bool), members)
    item_of = {guest: item for item, group in enumerate(members) for guest in group}
    names = {guest.name: number for number, guest in enumerate(fleet.guests)}
    problem = Problem(
        home=np.array([_home(homes, group) for group in members], dtype=np.intp).reshape(-1),
        need=_summed(guests.need, members),
        room=_rooms(fleet),
        load=_summed(guests.load, members),
        base=np.array([[host.own.cpu, host.own.memory, host.own.network] for host in fleet.hosts], float).reshape(
            -1, 3
        ),
        scale=np.array([_scales(host) for host in fleet.hosts], float).reshape(-1, 3),
        weight=np.array(list(QUANTITIES.values())),
        counted=np.array([accepts(host) for host in fleet.hosts], dtype=bool),
        kind=kinds,
        takes=takes,
        movable=np.array([not any(stays(fleet.guests[one]) for one in group) for group in members], dtype=bool),
        price=np.array([sum(price(fleet.guests[one]) for one in group) for group in members], float),
        apart=tuple(
            tuple(sorted({item_of[names[name]] for name in one.guests}))
            for one in rules
            if one.rule.kind is RuleKind.APART and len(one.guests) > 1
        ),
    )
    return Table(fleet, problem, members)


@dataclass(frozen=True, slots=True)
class _Numbers:
    need: Floats
    load: Floats


def _guest_numbers(fleet: Fleet, loads: Mapping[str, Load]) -> _Numbers:
    need, load = [], []
    for guest in fleet.guests:
        does = loads[guest.name]
        need.append([guest.memory, guest.vcpus, does.cpu, does.network])
        load.append([does.cpu, does.memory, does.network])
    return _Numbers(np.array(need, float).reshape(-1, len(RESOURCES)), np.array(load, float).reshape(-1, 3))


def _rooms(fleet: Fleet) -> Floats:
    rows = [
        [
            host.room,
            host.virtual_cpus,
            max(0.0, host.cpus * host.ceiling - host.own.cpu),
            max(0.0, host.network * host.ceiling - host.own.network) if host.network else BOUNDLESS,
        ]
        for host in fleet.hosts
    ]
    return np.array(rows, float).reshape(-1, len(RESOURCES))


def _scales(host: FleetHost) -> list[float]:
    return [max(host.cpus, 1e-9), max(float(host.memory), 1.0), host.network or BOUNDLESS]


def _members(fleet: Fleet, rules: Sequence[Resolved], *, single: bool) -> tuple[tuple[int, ...], ...]:
    """Return the guests of each item: those that are to be together are one."""
    index = {guest.name: number for number, guest in enumerate(fleet.guests)}
    if single:
        return tuple((number,) for number in range(len(fleet.guests)))
    groups = [tuple(sorted(index[name] for name in names)) for names, _ in united(rules) if len(names) > 1]
    taken = {guest for group in groups for guest in group}
    return (*groups, *((number,) for number in range(len(fleet.guests)) if number not in taken))


def _home(homes: Sequence[int], group: Sequence[int]) -> int:
    """Return the host on which all guests of an item are, NOWHERE where they are not on one."""
    found = {homes[guest] for guest in group}
    return found.pop() if len(found) == 1 else NOWHERE


def _summed(numbers: Floats, members: Sequence[Sequence[int]]) -> Floats:
    item = np.repeat(np.arange(len(members)), [len(group) for group in members])
    total = np.zeros((len(members), numbers.shape[1]))
    np.add.at(total, item, numbers[[guest for group in members for guest in group]])
    return total


def _kinds(
    fleet: Fleet, rules: Sequence[Resolved], open_hosts: Flags, members: Sequence[Sequence[int]]
) -> tuple[np.ndarray[tuple[int], np.dtype[np.intp]], Flags]:
    """Return which hosts may take which items, as kinds of items with one row each."""
    host_names = np.array([host.name for host in fleet.hosts], dtype=object)
    group_of = {host.name: host.group for host in fleet.hosts}
    groups = np.array([host.group for host in fleet.hosts], dtype=object)
    limits: dict[str, list[int]] = {}
    for number, one in enumerate(rules):
        if one.rule.kind in {RuleKind.ONLY_ON, RuleKind.NEVER_ON}:
            for name in one.guests:
                limits.setdefault(name, []).append(number)
    rows: list[Flags] = []
    known: dict[tuple[frozenset[str], frozenset[int]], int] = {}
    kinds = np.zeros(len(members), dtype=np.intp)
    for item, guests in enumerate(members):
        within = frozenset(group_of.get(fleet.guests[guest].host, "") for guest in guests)
        numbers = frozenset(number for guest in guests for number in limits.get(fleet.guests[guest].name, ()))
        if (within, numbers) not in known:
            able = open_hosts.copy()
            for group in within:
                able &= groups == group
            for number in numbers:
                named = np.isin(host_names, list(rules[number].hosts))
                able &= named if rules[number].rule.kind is RuleKind.ONLY_ON else ~named
            known[within, numbers] = len(rows)
            rows.append(able)
        kinds[item] = known[within, numbers]
    return kinds, np.array(rows, dtype=bool).reshape(-1, len(fleet.hosts))
