"""A plan that spreads the load of a fleet more evenly, as far as that is worth the moves. Pure.

The score is the sum of the standard deviations of what each host uses of its processors, its memory and its network
(score.py). A move is made only if it lowers the score by more than it costs: a move's cost is the part of `payback`
that it takes, so that one which takes a minute has to gain more than one that takes a second, and none is made whose
effect would not last. A guest that was moved within the cool-down stays; and a plan is made only if it gains a margin.
So guests do not go to and fro.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from godwit.core.fleet.forecast import quick_forecast
from godwit.core.fleet.placement import Placement
from godwit.core.fleet.planning import NO_ORDER, Draft, finished, without_place
from godwit.core.fleet.rules import contradictions
from godwit.core.fleet.score import least_score
from godwit.core.fleet.search import EFFORT, Budget, improve, relieve, settle
from godwit.core.fleet.table import fleet_table
from godwit.model.fleet import HostState, PlanKind

if TYPE_CHECKING:
    from godwit.core.fleet.order import Limits
    from godwit.core.fleet.table import Table
    from godwit.model.fleet import Fleet, FleetGuest, FleetPlan

_PRICE: Final = 0.25
"""What it costs of the score if a move takes all of the time in which it is to pay itself back."""

_TRIES: Final = 3
"""How often it is planned anew without those for whose moves there is no order."""


@dataclass(frozen=True, slots=True)
class Balancing:
    """How readily a fleet is balanced: seconds, and parts of the score.

    `payback` is the time in which a move's gain is to be worth its cost, `cool_down` how long a guest stays where it
    was moved, `margin` the score that a plan has to gain. `effort` is how many moves are weighed at most.
    """

    payback: float = 3600.0
    cool_down: float = 1800.0
    margin: float = 0.02
    effort: int = EFFORT


def balance(fleet: Fleet, now: float, limits: Limits, how: Balancing | None = None) -> FleetPlan:
    """Plan to spread the load: first what breaks rules or overfills hosts, then what is worth its cost."""
    how = how or Balancing()
    hosts = [host for host in fleet.hosts if host.state is HostState.ACTIVE]
    example = hosts[0] if hosts else None
    stuck: set[str] = set()

    def price(guest: FleetGuest) -> float:
        return _PRICE * quick_forecast(guest, example, example).seconds / how.payback if example else 0.0

    def stays(guest: FleetGuest) -> bool:
        cooling = guest.moved is not None and now - guest.moved < how.cool_down
        return bool(guest.fixed) or cooling or guest.name in stuck

    for _ in range(_TRIES):
        table = fleet_table(fleet, price=price, stays=stays)
        plan = finished(_draft(table, how), limits)
        given_up = {one.subject for one in plan.impossible if one.why == NO_ORDER}
        if not given_up:
            break
        stuck |= given_up
    if plan.after.total < plan.before.total:
        return plan
    return replace(plan, moves=(), after=plan.before, seconds=0.0, bytes=0)


def _draft(table: Table, how: Balancing) -> Draft:
    """Spread the load of a table: what may not be where it is goes first, then what is worth its cost."""
    fleet = table.fleet
    before = Placement(table.problem)
    placement, budget = before.copy(), Budget(how.effort)
    left = settle(placement, _wrong(table, placement), budget)
    relieve(placement, budget)
    mended = placement.copy()
    improve(placement, budget)
    if mended.score - placement.score < how.margin:
        placement = mended
    wrong = {fleet.guests[guest].name for item in before.misplaced() for guest in table.members[item]}

    def reason(guest: FleetGuest, host: str) -> str:
        if guest.name in wrong:
            return f"a rule, or the state of {guest.host}, does not have it there"
        return f"{guest.host} is busier than {host}"

    impossible = (*contradictions(fleet), *without_place(table, placement, left))
    return Draft(PlanKind.BALANCE, "the fleet", table, placement, reason, impossible, least_score(table.problem))


def _wrong(table: Table, placement: Placement) -> list[int]:
    return [item for item in placement.misplaced() if table.problem.movable[item]]
