"""Plans that take guests off a host, bring them back, or take them to another site. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from godwit.core.fleet.exact import fits, pack
from godwit.core.fleet.placement import Placement
from godwit.core.fleet.planning import Draft, finished, without_place
from godwit.core.fleet.rules import contradictions
from godwit.core.fleet.search import Budget, improve, settle
from godwit.core.fleet.table import fleet_table
from godwit.errors import InputError
from godwit.model.fleet import HostState, Impossible, PlanKind, Rule, RuleKind

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from godwit.core.fleet.order import Limits
    from godwit.core.fleet.table import Table
    from godwit.model.fleet import Fleet, FleetGuest, FleetHost, FleetPlan


def host_named(fleet: Fleet, name: str) -> FleetHost:
    """Return a host of a fleet. Raises InputError that names those there are."""
    for host in fleet.hosts:
        if host.name == name:
            return host
    known = ", ".join(host.name for host in fleet.hosts[:12])
    message = f"there is no host {name} in the fleet"
    raise InputError(message, remedy=f"it has {known}")


def with_host(fleet: Fleet, name: str, state: HostState) -> Fleet:
    """Return a fleet with one host in another state. Raises InputError for a host that it does not have."""
    found = host_named(fleet, name)
    return replace(fleet, hosts=tuple(replace(host, state=state) if host is found else host for host in fleet.hosts))


def drain(fleet: Fleet, name: str, limits: Limits) -> FleetPlan:
    """Plan to take every guest off a host: what stands against it is named first, and each guest gets a place.

    Guests of other hosts move only where nothing else makes room. Raises InputError for a host that is not there.
    """
    draining = with_host(fleet, name, HostState.DRAINING)
    leaving = {guest.name for guest in fleet.guests if guest.host == name}
    return _away(draining, PlanKind.DRAIN, name, leaving, lambda _guest, _host: f"{name} is to be free", limits)


def undrain(fleet: Fleet, name: str, came_from: Collection[str], limits: Limits) -> FleetPlan:
    """Plan to bring guests home to a host that they were taken off. Raises InputError for a host that is not there."""
    fleet = with_host(fleet, name, HostState.ACTIVE)
    table = fleet_table(fleet)
    placement = Placement(table.problem)
    home = next(number for number, host in enumerate(fleet.hosts) if host.name == name)
    impossible = []
    item_of = table.item_of()
    for guest in fleet.guests:
        if guest.name not in came_from or guest.host == name:
            continue
        item = item_of[guest.name]
        if placement.at[item] == home:
            continue
        if not table.problem.movable[item]:
            impossible.append(Impossible(guest.name, guest.fixed or "a guest that is to be beside it may not move"))
        elif placement.takes(item, home):
            placement.move(item, home)
        else:
            impossible += without_place(table, placement, [item])
    draft = Draft(
        PlanKind.UNDRAIN, name, table, placement, lambda _guest, _host: f"it came from {name}", tuple(impossible)
    )
    return finished(draft, limits)


def relocate(fleet: Fleet, guests: Collection[str], site: str, limits: Limits) -> FleetPlan:
    """Plan to take guests to a site. Raises InputError for a site that no host is at."""
    hosts = tuple(host.name for host in fleet.hosts if host.site == site)
    if not hosts:
        known = (
            ", ".join(sorted({host.site for host in fleet.hosts if host.site})) or "none: godwit host site HOST SITE"
        )
        message = f"no host is at the site {site}"
        raise InputError(message, remedy=f"sites: {known}")
    rule = Rule(f"to {site}", RuleKind.ONLY_ON, tuple(sorted(guests)), hosts)
    trips = {(trip.users, trip.site): trip.seconds for trip in fleet.round_trips}
    site_of = {host.name: host.site for host in fleet.hosts}

    def reason(guest: FleetGuest, host: str) -> str:
        if guest.name not in guests:
            return f"makes room for those that go to {site}"
        before = round_trip(guest, site_of.get(guest.host, ""), trips)
        after = round_trip(guest, site_of[host], trips)
        if before is None or after is None:
            return f"is to be at {site}"
        return f"its users' round trip is {1000 * before:.1f} ms here and {1000 * after:.1f} ms from {site}"

    with_rule = replace(fleet, rules=(*fleet.rules, rule))
    return _away(with_rule, PlanKind.RELOCATE, site, set(guests), reason, limits)


def round_trip(guest: FleetGuest, site: str, trips: dict[tuple[str, str], float]) -> float | None:
    """Return the mean round trip of a guest's users to a site in seconds, by their traffic; None if unknown."""
    known = [(trips[users, site], share) for users, share in guest.users if (users, site) in trips and share > 0]
    total = sum(share for _, share in known)
    return sum(seconds * share for seconds, share in known) / total if total > 0 else None


def nearer(fleet: Fleet, least: float = 0.2) -> dict[str, tuple[str, ...]]:
    """Return which guests would be nearer to their users at which site, where that saves `least` of the round trip."""
    trips = {(trip.users, trip.site): trip.seconds for trip in fleet.round_trips}
    site_of = {host.name: host.site for host in fleet.hosts}
    sites = sorted({host.site for host in fleet.hosts if host.site and host.state is HostState.ACTIVE})
    found: dict[str, list[str]] = {}
    for guest in fleet.guests:
        now = round_trip(guest, site_of.get(guest.host, ""), trips)
        others = [(trip, site) for site in sites if (trip := round_trip(guest, site, trips)) is not None]
        if now is None or not others or guest.fixed:
            continue
        best, site = min(others)
        if best < now * (1 - least):
            found.setdefault(site, []).append(guest.name)
    return {site: tuple(guests) for site, guests in found.items()}


def _away(
    fleet: Fleet,
    kind: PlanKind,
    subject: str,
    leaving: Collection[str],
    reason: Callable[[FleetGuest, str], str],
    limits: Limits,
) -> FleetPlan:
    """Find a place for guests that may not stay where they are; others move only to make room."""
    table = fleet_table(fleet)
    item_of = table.item_of()
    items = sorted({item_of[name] for name in leaving})
    named = contradictions(fleet)
    blocked = tuple(_blocked(fleet, table, item_of, leaving))
    able = [item for item in items if table.problem.movable[item]]

    def why(guest: FleetGuest, host: str) -> str:
        return reason(guest, host) if guest.name in leaving else "makes room for others"

    plans = []
    for placement in _candidates(table, able):
        left = [item for item in able if placement.is_misplaced(item)]
        nowhere = without_place(table, placement, left)
        draft = Draft(kind, subject, table, _spread(table, placement, able), why, (*named, *blocked, *nowhere))
        plans.append(finished(draft, limits))
    return min(plans, key=lambda plan: len(plan.impossible))


def _blocked(fleet: Fleet, table: Table, item_of: Mapping[str, int], leaving: Collection[str]) -> Iterator[Impossible]:
    """Yield guests that may not move, and those that are to be beside one that may not."""
    for guest in fleet.guests:
        if guest.name not in leaving:
            continue
        if guest.fixed:
            yield Impossible(guest.name, f"it may not move: {guest.fixed}", "see to that, or shut it down for the time")
            continue
        beside = [other for one in table.members[item_of[guest.name]] if (other := fleet.guests[one]).fixed]
        if beside:
            why = f"it is to be beside {beside[0].name}, which may not move: {beside[0].fixed}"
            yield Impossible(guest.name, why, f"see to that, or take {guest.name} out of the rule")


def _candidates(table: Table, items: Sequence[int]) -> Iterator[Placement]:
    """Yield placements of items: by search, and where that leaves some out by the solver, too."""
    problem = table.problem
    placement = Placement(problem)
    left = settle(placement, items, Budget())
    yield placement
    if left and fits(problem):
        optional = np.zeros(problem.items, dtype=bool)
        optional[list(items)] = True
        found = pack(problem, optional, problem.need[:, 0])
        if found is not None:
            yield Placement(problem, np.where(found.at >= 0, found.at, problem.home))


def _spread(table: Table, placement: Placement, items: Sequence[int]) -> Placement:
    """Spread those that have found a place more evenly; nobody else moves for that."""
    problem = table.problem
    own = np.zeros(problem.items, dtype=bool)
    own[[item for item in items if not placement.is_misplaced(item)]] = True
    spread = Placement(replace(problem, movable=problem.movable & own), placement.at)
    improve(spread, Budget())
    return Placement(problem, spread.at)
