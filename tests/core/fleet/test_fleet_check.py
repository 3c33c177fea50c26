"""What is wrong with a plan is found, each kind of it; and an order of moves goes by a third host where it must."""

from __future__ import annotations

from dataclasses import replace

import pytest

from godwit.core.fleet.check import check_plan
from godwit.core.fleet.freeing import drain
from godwit.core.fleet.order import Limits, order
from godwit.core.fleet.table import fleet_table
from godwit.model.fleet import (
    Fleet,
    FleetGuest,
    FleetHost,
    FleetPlan,
    FleetScore,
    HostState,
    Load,
    MoveForecast,
    PlanKind,
    PlannedMove,
    Rule,
    RuleKind,
)
from godwit.units import GIB

FORECAST = MoveForecast(1.0, 1, 0.1)


def host(name: str, gib: int = 8, state: HostState = HostState.ACTIVE, group: str = "") -> FleetHost:
    return FleetHost(name, 8, gib * GIB, state=state, group=group)


def guest(name: str, at: str, gib: int = 4, fixed: str = "") -> FleetGuest:
    return FleetGuest(name, at, gib * GIB, 1, load=Load(cpu=0.1, memory=gib * GIB), fixed=fixed)


def plan(*moves: tuple[str, str, str, tuple[int, ...]], off: tuple[str, ...] = ()) -> FleetPlan:
    made = tuple(
        PlannedMove(number, name, source, target, "", FORECAST, after)
        for number, (name, source, target, after) in enumerate(moves)
    )
    return FleetPlan(PlanKind.BALANCE, "", made, FleetScore(0), FleetScore(0), switch_off=off)


FLEET = Fleet(
    (host("a"), host("b"), host("c", 4), host("off", state=HostState.OFF), host("x", group="x")),
    (guest("one", "a"), guest("two", "a"), guest("three", "b"), guest("four", "b"), guest("tied", "c", fixed="pinned")),
    (Rule("keep", RuleKind.APART, ("one", "three")), Rule("home", RuleKind.NEVER_ON, ("two",), ("c",))),
)
ROOMY = replace(FLEET, hosts=tuple(replace(one, memory=64 * GIB) for one in FLEET.hosts))


@pytest.mark.parametrize(
    ("fleet", "made", "said"),
    [
        (FLEET, plan(("two", "a", "b", ())), "b may be given 12288 of MiB of memory"),
        (FLEET, plan(("two", "a", "b", ()), ("four", "b", "a", ())), "a may be given"),
        (ROOMY, plan(("one", "a", "b", ())), "which 'keep' forbids"),
        (ROOMY, plan(("three", "b", "c", ()), ("one", "a", "b", ())), "one and three may meet on b"),
        (ROOMY, plan(("two", "a", "c", ())), "which 'home' forbids"),
        (ROOMY, plan(("tied", "c", "a", ())), "tied may not move: pinned"),
        (ROOMY, plan(("two", "b", "a", ())), "two is on a, not to be moved from b"),
        (ROOMY, plan(("two", "a", "off", ())), "off takes no guests: it is off"),
        (ROOMY, plan(("two", "a", "x", ())), "a and x are in different groups"),
        (ROOMY, plan(("two", "a", "b", (1,)), ("four", "b", "a", ())), "does not come after what it waits for"),
        (ROOMY, plan(("four", "b", "c", ()), ("four", "c", "a", ())), "four may still be on its way to c"),
        (ROOMY, plan(("who", "a", "b", ())), "there is no who"),
        (ROOMY, plan(off=("a",)), "a is to be switched off with one on it"),
    ],
)
def test_what_is_wrong_with_a_plan_is_named(fleet: Fleet, made: FleetPlan, said: str) -> None:
    assert any(said in one for one in check_plan(fleet, made)), check_plan(fleet, made)


@pytest.mark.parametrize(
    "made",
    [
        plan(),
        plan(("two", "a", "b", ()), ("four", "b", "a", ())),
        plan(("three", "b", "c", ()), ("one", "a", "b", (0,))),
        plan(("four", "b", "c", ()), ("four", "c", "a", (0,))),
    ],
)
def test_a_sound_plan_has_nothing_wrong(made: FleetPlan) -> None:
    assert check_plan(ROOMY, made) == ()


def test_guests_that_fill_their_hosts_change_places_by_a_third_one() -> None:
    fleet = Fleet((host("a"), host("b"), host("c")), (guest("one", "a", 8), guest("two", "b", 8)))
    ordered = order(fleet_table(fleet).problem, [(0, 1), (1, 0)])
    assert [(step.item, step.target, step.detour) for step in ordered.steps] == [
        (0, 2, True),
        (1, 0, False),
        (0, 1, False),
    ]
    assert ordered.steps[1].after == (0,)
    assert set(ordered.steps[2].after) == {0, 1}


def test_an_exchange_for_which_there_is_no_room_anywhere_is_given_up() -> None:
    fleet = Fleet((host("a"), host("b")), (guest("one", "a", 8), guest("two", "b", 8)))
    ordered = order(fleet_table(fleet).problem, [(0, 1), (1, 0)])
    assert not ordered.steps
    assert set(ordered.given_up) == {0, 1}


def test_the_solver_finds_the_only_packing_there_is() -> None:
    sizes = {"b": (5, 3), "c": (5, 2), "d": (3,)}  # 2, 3 and 7 are free: only 2+0, 3 and 4+3 fit
    guests = [guest(f"{name}{number}", name, size) for name, row in sizes.items() for number, size in enumerate(row)]
    guests += [guest("g4", "a", 4), guest("g3", "a", 3), guest("g2", "a", 1)]
    fleet = Fleet((host("a", 10), host("b", 10), host("c", 10), host("d", 10)), tuple(guests))
    made = drain(fleet, "a", Limits())
    assert made.impossible == ()
    assert {move.guest for move in made.moves} >= {"g4", "g3", "g2"}


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (
            [Rule("pair", RuleKind.TOGETHER, ("one", "two")), Rule("split", RuleKind.APART, ("one", "two"))],
            "'pair' has them on one host, 'split' keeps them apart",
        ),
        (
            [Rule("here", RuleKind.ONLY_ON, ("one",), ("a",)), Rule("no", RuleKind.NEVER_ON, ("one",), ("a",))],
            "'here' with 'no'",
        ),
        ([Rule("all", RuleKind.APART, ("one", "two", "three", "four", "tied", "six"))], "keeps 6 guests apart"),
        (
            [
                Rule("pair", RuleKind.TOGETHER, ("one", "two")),
                Rule("left", RuleKind.ONLY_ON, ("one",), ("a",)),
                Rule("right", RuleKind.ONLY_ON, ("two",), ("b",)),
            ],
            "'pair' with 'left' with 'right' leaves no host",
        ),
    ],
)
def test_rules_that_contradict_each_other_are_named(rules: list[Rule], said: str) -> None:
    fleet = replace(FLEET, guests=(*FLEET.guests, guest("six", "a", 1)), rules=tuple(rules))
    assert any(said in one.why for one in drain(fleet, "a", Limits()).impossible)


def test_a_fleet_where_nothing_fits_says_what_would_help() -> None:
    fleet = Fleet((host("a"), host("b", 6)), (guest("one", "a", 4), guest("two", "b", 4)))
    [one] = drain(fleet, "a", Limits()).impossible
    assert (one.subject, one.helps) == ("one", "2.0 GiB of memory given more on b")
