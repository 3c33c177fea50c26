"""A plan that packs guests on few hosts so that the others can be switched off, and one that wakes them again. Pure.

Hosts are emptied one after another, that which saves most for what its moves cost first, for as long as all its guests
find a place on those that stay on and there is a reserve: the load that is left may not exceed `fill` of what stays on,
and the guests of any single host that stays on would find room on the others if it died. Hosts are woken when the load
exceeds `wake`, which lies well above: so a host does not go on and off.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from godwit.core.fleet.placement import Placement
from godwit.core.fleet.planning import Draft, finished
from godwit.core.fleet.search import Budget, settle
from godwit.core.fleet.table import fleet_table
from godwit.errors import InputError
from godwit.model.fleet import HostState, PlanKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.core.fleet.order import Limits
    from godwit.core.fleet.placement import Floats
    from godwit.core.fleet.table import Table
    from godwit.model.fleet import Fleet, FleetGuest, FleetHost, FleetPlan, PowerModel

USUAL_IDLE: Final = 100.0
"""Watts that a host without a power model is taken to use while it does nothing."""


@dataclass(frozen=True, slots=True)
class Consolidating:
    """How tightly a fleet is packed.

    `fill` is the share of what stays on that its load may use, `wake` the share above which hosts are woken,
    `failures` how many hosts may die with room for their guests on the others, `keep` how many stay on in any case.
    """

    fill: float = 0.7
    wake: float = 0.85
    failures: int = 1
    keep: int = 1

    def __post_init__(self) -> None:
        """Raise InputError for shares that contradict each other."""
        if not 0 < self.fill < self.wake <= 1:
            message = f"hosts are filled to {self.fill:g} and woken at {self.wake:g}: one has to be below the other"
            raise InputError(message, remedy="leave a good distance between them, or hosts go on and off")


def watts(model: PowerModel, busy: float) -> float:
    """Return what a host takes, by the share of its processors that works (0 to 1)."""
    return model.idle + (model.busy - model.idle) * min(1.0, max(0.0, busy))


def consolidate(fleet: Fleet, limits: Limits, how: Consolidating | None = None) -> FleetPlan:
    """Plan to empty and switch off as many hosts as may be."""
    how = how or Consolidating()
    packed, emptied = fleet, []
    for host in _candidates(fleet):
        on = [one for one in packed.hosts if one.state is HostState.ACTIVE and one.name != host.name]
        if len(on) < max(how.keep, 1):
            break
        found = _without(packed, host.name, how)
        if found is not None:
            packed = found
            emptied.append(host.name)
    at = {guest.name: guest.host for guest in packed.guests}
    final = replace(
        fleet,
        hosts=tuple(replace(host, state=HostState.DRAINING) if host.name in emptied else host for host in fleet.hosts),
    )
    table = fleet_table(final, single=True)
    index = {host.name: number for number, host in enumerate(final.hosts)}
    placement = Placement(table.problem, np.array([index[at[guest.name]] for guest in final.guests], dtype=np.intp))

    def reason(guest: FleetGuest, _host: str) -> str:
        return f"{guest.host} is to be switched off"

    plan = finished(Draft(PlanKind.CONSOLIDATE, "the fleet", table, placement, reason), limits)
    left = {guest.name: guest.host for guest in fleet.guests} | {move.guest: move.target for move in plan.moves}
    off = tuple(name for name in emptied if name not in left.values())
    bound = fewest(fleet, how)
    staying = sum(host.state is HostState.ACTIVE for host in fleet.hosts) - len(off)
    return replace(plan, switch_off=off, gap=(staying - bound) / staying if staying else 0.0)


def _candidates(fleet: Fleet) -> list[FleetHost]:
    """Return the hosts that might be emptied: those first that save most for what their moves take."""
    memory: dict[str, int] = {}
    stuck = {guest.host for guest in fleet.guests if guest.fixed}
    for guest in fleet.guests:
        memory[guest.host] = memory.get(guest.host, 0) + guest.memory
    active = [host for host in fleet.hosts if host.state is HostState.ACTIVE and host.name not in stuck]

    def worth(host: FleetHost) -> float:
        idle = host.power.idle if host.power is not None else USUAL_IDLE
        return idle / (1.0 + memory.get(host.name, 0))

    return sorted(active, key=lambda host: (-worth(host), host.name))


def _without(fleet: Fleet, name: str, how: Consolidating) -> Fleet | None:
    """Return a fleet with that host empty; None if its guests have no place, or no reserve would be left."""
    fleet = replace(
        fleet,
        hosts=tuple(replace(host, state=HostState.DRAINING) if host.name == name else host for host in fleet.hosts),
    )
    table = fleet_table(_filled(fleet, how.fill))
    items = [item for item in Placement(table.problem).misplaced() if _on(table, item, name)]
    staying = np.array([host.state is HostState.ACTIVE for host in fleet.hosts], dtype=bool)
    own = replace(table.problem, movable=np.isin(np.arange(table.problem.items), items) & table.problem.movable)
    placement = Placement(own)
    if settle(placement, items, Budget()) or not survives(placement, staying, how):
        return None
    names = [host.name for host in fleet.hosts]
    at = {
        guest: names[int(placement.at[item])]
        for item, members in enumerate(table.members)
        for guest in members
        if placement.at[item] >= 0
    }
    guests = tuple(replace(guest, host=at.get(number, guest.host)) for number, guest in enumerate(fleet.guests))
    return replace(fleet, guests=guests)


def _on(table: Table, item: int, name: str) -> bool:
    return any(table.fleet.guests[guest].host == name for guest in table.members[item])


def _filled(fleet: Fleet, fill: float) -> Fleet:
    """Return a fleet whose hosts are to use no more than that share of their processors and network."""
    return replace(fleet, hosts=tuple(replace(host, ceiling=min(host.ceiling, fill)) for host in fleet.hosts))


def survives(placement: Placement, staying: Sequence[bool] | Floats, how: Consolidating) -> bool:
    """Say whether the guests of the fullest hosts would have room on the others, were these to die.

    Judged by what is free in all: it is a reserve, not a plan.
    """
    on = np.flatnonzero(np.asarray(staying, dtype=bool))
    if not how.failures:
        return True
    if len(on) <= how.failures:
        return False
    free = placement.problem.room[on] - placement.used[on]
    for resource in range(free.shape[1]):
        used = placement.used[on, resource]
        worst = np.argsort(-(used + np.maximum(free[:, resource], 0.0)))[: how.failures]
        others = np.delete(free[:, resource], worst)
        if used[worst].sum() > np.maximum(others, 0.0).sum():
            return False
    return True


def fewest(fleet: Fleet, how: Consolidating) -> int:
    """Return a bound: no fewer hosts could carry the load, however guests were cut in pieces."""
    table = fleet_table(_filled(fleet, how.fill))
    problem, active = table.problem, table.problem.counted
    least = max(how.keep, 1)
    for resource in range(problem.need.shape[1]):
        rooms = np.sort(problem.room[active, resource])[::-1]
        enough = np.flatnonzero(np.cumsum(rooms) >= problem.need[:, resource].sum() * (1 - 1e-9))
        least = max(least, int(enough[0]) + 1 + how.failures if len(enough) else len(rooms))
    return min(least, int(active.sum()))


def to_wake(fleet: Fleet, how: Consolidating | None = None) -> tuple[str, ...]:
    """Return the hosts to switch on, those first that give most for their power; none while all is below `wake`."""
    how = how or Consolidating()
    table = fleet_table(fleet)
    placement, problem = Placement(table.problem), table.problem
    on = problem.counted.copy()
    sleeping = [number for number, host in enumerate(fleet.hosts) if host.state is HostState.OFF]

    def worth(number: int) -> tuple[float, str]:
        host = fleet.hosts[number]
        return (host.power.idle if host.power is not None else USUAL_IDLE) / max(host.cpus, 1e-9), host.name

    woken: list[str] = []
    for number in sorted(sleeping, key=worth):
        room, used = problem.room[on].sum(axis=0), placement.used[on].sum(axis=0)
        if len(np.flatnonzero(on)) and (used <= room * (how.wake if not woken else how.fill)).all():
            break
        on[number] = True
        woken.append(fleet.hosts[number].name)
    return tuple(woken)


def energy(fleet: Fleet) -> float:
    """Return the watts that the hosts of a fleet take that are on, by their power models and the guests' load."""
    busy: dict[str, float] = {}
    for guest in fleet.guests:
        busy[guest.host] = busy.get(guest.host, 0.0) + (guest.load.cpu if guest.load is not None else 0.0)
    return sum(
        watts(host.power, (busy.get(host.name, 0.0) + host.own.cpu) / max(host.cpus, 1e-9))
        for host in fleet.hosts
        if host.state is not HostState.OFF and host.power is not None
    )
