"""Whether a plan is sound: looked at guest by guest, by code that shares nothing with what makes plans.

A plan is sound if, in whatever order its moves begin and end as long as each waits for what it says it comes after, no
host is ever given more than it has; if every move is of a guest that may move, from where it then is, to a host that
takes it; and if the rules hold in the end, and while it is carried out no worse than before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from godwit.model.fleet import HostState, RuleKind
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from godwit.model.fleet import Fleet, FleetGuest, FleetHost, FleetPlan, PlannedMove, Rule

_MANY = 1 << 30


def check_plan(fleet: Fleet, plan: FleetPlan) -> tuple[str, ...]:
    """Return what is wrong with a plan for a fleet, in words; nothing where it is sound."""
    strangers = tuple(_strangers(fleet, plan))
    return strangers or (*_single(fleet, plan), *_overfull(fleet, plan), *_rules(fleet, plan))


def _strangers(fleet: Fleet, plan: FleetPlan) -> Iterator[str]:
    """Yield moves of guests, or to hosts, that the fleet does not have, and those that come after later ones."""
    hosts, guests = {host.name for host in fleet.hosts}, {guest.name for guest in fleet.guests}
    for number, move in enumerate(plan.moves):
        if move.guest not in guests or move.target not in hosts:
            yield f"move {number}: there is no {move.guest} or no {move.target}"
        if move.number != number or any(earlier >= number for earlier in move.after):
            yield f"move {move.number} of {move.guest} does not come after what it waits for"


def _single(fleet: Fleet, plan: FleetPlan) -> Iterator[str]:
    """Yield what is wrong with single moves: their guests, hosts, and what they come after."""
    hosts = {host.name: host for host in fleet.hosts}
    guests = {guest.name: guest for guest in fleet.guests}
    at = {guest.name: guest.host for guest in fleet.guests}
    last: dict[str, int] = {}
    for number, move in enumerate(plan.moves):
        if guests[move.guest].fixed:
            yield f"move {number}: {move.guest} may not move: {guests[move.guest].fixed}"
        if at[move.guest] != move.source or move.source == move.target:
            yield f"move {number}: {move.guest} is on {at[move.guest]}, not to be moved from {move.source}"
        if move.guest in last and last[move.guest] not in _before(plan.moves, number):
            yield f"move {number}: {move.guest} may still be on its way to {move.source}"
        yield from _unwelcome(plan, move, hosts)
        at[move.guest], last[move.guest] = move.target, number
    for host in plan.switch_off:
        left = [guest for guest, where in at.items() if where == host]
        if left:
            yield f"{host} is to be switched off with {left[0]} on it"


def _unwelcome(plan: FleetPlan, move: PlannedMove, hosts: Mapping[str, FleetHost]) -> Iterator[str]:
    """Yield why a move's target may not have the guest, whatever room it has."""
    target = hosts[move.target]
    if target.state is not HostState.ACTIVE and target.name not in plan.wake:
        yield f"move {move.number}: {target.name} takes no guests: it is {target.state}"
    if move.source in hosts and hosts[move.source].group != target.group:
        yield f"move {move.number}: {move.source} and {target.name} are in different groups"


def _before(moves: Sequence[PlannedMove], number: int) -> set[int]:
    """Return the moves that have ended for sure when one begins."""
    found: set[int] = set()
    todo = list(moves[number].after)
    while todo:
        one = todo.pop()
        if one not in found:
            found.add(one)
            todo += moves[one].after
    return found


def _overfull(fleet: Fleet, plan: FleetPlan) -> Iterator[str]:
    """Yield hosts that some order of the moves, of those that the plan allows, overfills."""
    guests = {guest.name: guest for guest in fleet.guests}
    assumed = _assumed(fleet)
    arriving: dict[str, list[PlannedMove]] = {}
    for move in plan.moves:
        arriving.setdefault(move.target, []).append(move)
    for host in fleet.hosts:
        if host.name not in arriving:
            continue
        here = [guest for guest in fleet.guests if guest.host == host.name]
        touching = [move for move in plan.moves if host.name in {move.source, move.target}]
        before = {move.number: _before(plan.moves, move.number) for move in touching}
        for what, room, amounts in _amounts(host, assumed):
            needs = {guest.name: amounts(guest) for guest in (*here, *(guests[move.guest] for move in touching))}
            used = sum(needs[guest.name] for guest in here)
            worst = used + _worst(host.name, touching, before, needs)
            if worst > max(room, used) * (1 + 1e-6) + 1e-6:
                yield f"{host.name} may be given {worst:g} of {what}, and has {room:g}"


def _assumed(fleet: Fleet) -> Mapping[str, float]:
    """Return the processors that each guest uses; where nobody has looked, as the others do for each virtual CPU."""
    known = sorted(guest.load.cpu / guest.vcpus for guest in fleet.guests if guest.load is not None and guest.vcpus)
    middle = len(known) // 2
    usual = 0.25 if not known else (known[middle] + known[~middle]) / 2
    return {guest.name: guest.load.cpu if guest.load is not None else guest.vcpus * usual for guest in fleet.guests}


def _amounts(
    host: FleetHost, assumed: Mapping[str, float]
) -> Iterator[tuple[str, float, Callable[[FleetGuest], float]]]:
    yield "MiB of memory", host.room / MIB, lambda guest: guest.memory / MIB
    yield "virtual CPUs", float(host.virtual_cpus), lambda guest: float(guest.vcpus)
    yield "processors", host.cpus * host.ceiling - host.own.cpu, lambda guest: assumed[guest.name]
    if host.network:
        own = host.own.network
        room = (host.network * host.ceiling - own) / MIB
        yield "MiB/s of its network", room, lambda guest: (guest.load.network if guest.load else 0.0) / MIB


def _worst(
    host: str, touching: Sequence[PlannedMove], before: Mapping[int, set[int]], needs: Mapping[str, float]
) -> float:
    """Return the most by which a host's use can grow: over all sets of moves that may have begun at one instant.

    With a move that has begun, all that it comes after has ended. So the worst set is a closure of largest weight,
    which is a minimum cut (Picard 1976): arrivals count as soon as they have begun, departures once they must have
    ended.
    """
    arrivals = [move for move in touching if move.target == host]
    departures = [move for move in touching if move.source == host]
    scale = _MANY / max(1.0, sum(needs[move.guest] for move in touching)) / 4
    start, end = len(touching), len(touching) + 1
    place = {move.number: row for row, move in enumerate(touching)}
    edges: dict[tuple[int, int], int] = {}
    for move in arrivals:
        edges[start, place[move.number]] = int(needs[move.guest] * scale)
        for other in departures:
            if other.number in before[move.number]:
                edges[place[move.number], place[other.number]] = _MANY
    for move in departures:
        edges[place[move.number], end] = int(needs[move.guest] * scale)
    total = sum(needs[move.guest] for move in arrivals)
    if not edges:
        return total
    rows, columns = zip(*edges, strict=True)
    graph = csr_array(
        (np.array(list(edges.values()), dtype=np.int32), (rows, columns)), shape=(end + 1, end + 1), dtype=np.int32
    )
    return total - float(maximum_flow(graph, start, end).flow_value) / scale


def _rules(fleet: Fleet, plan: FleetPlan) -> Iterator[str]:
    """Yield rules that are broken in the end and were not before, and those that a move breaks on its way."""
    homes = {guest.name: guest.host for guest in fleet.guests}
    ends = homes | {move.guest: move.target for move in plan.moves}
    stays = _stays(plan, homes)
    for rule in fleet.rules:
        guests = [guest.name for guest in fleet.guests if _named(rule.guests, guest)]
        hosts = {host.name for host in fleet.hosts if _named(rule.hosts, host)}
        if _breaches(rule, guests, hosts, ends) > _breaches(rule, guests, hosts, homes):
            yield f"'{rule.name}' is kept less in the end than before"
        members = set(guests)
        if rule.kind in {RuleKind.ONLY_ON, RuleKind.NEVER_ON}:
            for move in plan.moves:
                if move.guest in members and (move.target in hosts) is (rule.kind is RuleKind.NEVER_ON):
                    yield f"move {move.number} brings {move.guest} to {move.target}, which '{rule.name}' forbids"
        elif rule.kind is RuleKind.APART:
            yield from _meetings(rule, guests, stays, plan)


def _named(words: Sequence[str], thing: FleetGuest | FleetHost) -> bool:
    return any(word in {thing.name, *(f"label:{label}" for label in thing.labels)} for word in words)


def _breaches(rule: Rule, guests: Sequence[str], hosts: set[str], at: Mapping[str, str]) -> int:
    places = [at[guest] for guest in guests]
    match rule.kind:
        case RuleKind.TOGETHER:
            return len(set(places)) - 1
        case RuleKind.APART:
            return len(places) - len(set(places))
        case RuleKind.ONLY_ON:
            return sum(place not in hosts for place in places)
        case RuleKind.NEVER_ON:
            return sum(place in hosts for place in places)


_Stay = tuple[str, int | None, int | None]


def _stays(plan: FleetPlan, homes: Mapping[str, str]) -> dict[str, list[_Stay]]:
    """Return where each guest is for a while: the host, the move that brings it and the one that takes it away."""
    found: dict[str, list[_Stay]] = {}
    came: dict[str, int | None] = {}
    for move in plan.moves:
        found.setdefault(move.guest, []).append((move.source, came.get(move.guest), move.number))
        came[move.guest] = move.number
    for guest, host in homes.items():
        last = plan.moves[came[guest] or 0].target if guest in came else host
        found.setdefault(guest, []).append((last, came.get(guest), None))
    return found


def _meetings(rule: Rule, guests: Sequence[str], stays: Mapping[str, list[_Stay]], plan: FleetPlan) -> Iterator[str]:
    """Yield guests that may meet on a host for a while, and are to be apart."""
    for place, guest in enumerate(guests):
        for other in guests[place + 1 :]:
            for host, came, left in stays[guest]:
                for other_host, other_came, other_left in stays[other]:
                    if host != other_host or (came is None and other_came is None):
                        continue
                    first = left is not None and other_came is not None and left in _before(plan.moves, other_came)
                    second = other_left is not None and came is not None and other_left in _before(plan.moves, came)
                    if not first and not second:
                        yield f"{guest} and {other} may meet on {host}, which '{rule.name}' forbids"
