"""What plans are for: load that is spread, and for how long; hosts that are switched off and woken; users' nearness."""

from __future__ import annotations

from dataclasses import replace

import pytest

from godwit.core.fleet.balancing import Balancing, balance
from godwit.core.fleet.consolidating import Consolidating, consolidate, energy, fewest, to_wake
from godwit.core.fleet.freeing import drain, nearer, relocate, undrain, with_host
from godwit.core.fleet.hbal import fleet_of, problem_of, text_of
from godwit.core.fleet.order import Limits
from godwit.core.fleet.placement import Placement
from godwit.errors import InputError
from godwit.model.fleet import (
    Fleet,
    FleetGuest,
    FleetHost,
    HostState,
    Load,
    PowerModel,
    RoundTrip,
    Rule,
    RuleKind,
)
from godwit.units import GIB, MIB

LIMITS = Limits()
POWER = PowerModel(100, 300)


def host(name: str, **more: object) -> FleetHost:
    return replace(FleetHost(name, 8, 32 * GIB, link=100.0 * MIB, power=POWER), **more)  # type: ignore[arg-type]


def guest(name: str, at: str, cpu: float = 1.0, **more: object) -> FleetGuest:
    made = FleetGuest(name, at, 2 * GIB, 2, load=Load(cpu=cpu, memory=GIB))
    return replace(made, **more)  # type: ignore[arg-type]


def lopsided() -> Fleet:
    return Fleet((host("a"), host("b")), tuple(guest(f"g{number}", "a") for number in range(6)))


def test_load_is_spread_over_hosts() -> None:
    plan = balance(lopsided(), 0.0, LIMITS)
    assert [(move.source, move.target) for move in plan.moves] == [("a", "b")] * 3
    assert plan.after.total < plan.before.total / 10
    assert plan.gap is not None
    assert all("a is busier than b" in move.reason for move in plan.moves)


def test_a_guest_that_moved_within_the_cool_down_stays() -> None:
    fleet = lopsided()
    recent = replace(fleet, guests=tuple(replace(one, moved=100.0) for one in fleet.guests))
    assert balance(recent, 200.0, LIMITS).moves == ()
    assert balance(recent, 100.0 + Balancing().cool_down, LIMITS).moves


def test_moves_that_do_not_pay_back_in_time_are_not_made() -> None:
    assert balance(lopsided(), 0.0, LIMITS, Balancing(payback=3.0)).moves == ()


def test_a_plan_that_gains_less_than_the_margin_is_none() -> None:
    assert balance(lopsided(), 0.0, LIMITS, Balancing(margin=2.0)).moves == ()


def test_a_broken_rule_is_mended_whatever_the_margin() -> None:
    fleet = replace(lopsided(), rules=(Rule("two", RuleKind.APART, ("g0", "g1")),))
    plan = balance(fleet, 0.0, LIMITS, Balancing(margin=9.0))
    assert len(plan.moves) == 1
    assert plan.moves[0].guest in {"g0", "g1"}
    assert dict(plan.after.parts)["misplaced guests"] == 0


def test_a_plan_is_the_same_every_time() -> None:
    assert balance(lopsided(), 0.0, LIMITS) == balance(lopsided(), 0.0, LIMITS)


def test_guests_come_home_and_only_those() -> None:
    fleet = lopsided()
    plan = drain(fleet, "a", LIMITS)
    assert len(plan.moves) == 6
    gone = replace(fleet, guests=tuple(replace(one, host="b") for one in fleet.guests))
    back = undrain(with_host(gone, "a", HostState.DRAINING), "a", {"g1", "g2"}, LIMITS)
    assert {move.guest for move in back.moves} == {"g1", "g2"}
    with pytest.raises(InputError, match="there is no host z"):
        drain(fleet, "z", LIMITS)


def quiet(count: int) -> Fleet:
    hosts = tuple(host(name) for name in "abcd")
    return Fleet(hosts, tuple(guest(f"g{number}", "abcd"[number % 4], 0.2) for number in range(count)))


def test_hosts_are_emptied_while_a_reserve_is_left() -> None:
    fleet = quiet(8)
    plan = consolidate(fleet, LIMITS)
    assert len(plan.switch_off) == 2  # one host carries all, and one more is there should it die
    assert fewest(fleet, Consolidating()) == 2
    assert len(consolidate(fleet, LIMITS, Consolidating(failures=0)).switch_off) == 3
    off = replace(
        fleet,
        hosts=tuple(replace(one, state=HostState.OFF) if one.name in plan.switch_off else one for one in fleet.hosts),
        guests=tuple(
            replace(one, host={move.guest: move.target for move in plan.moves}.get(one.name, one.host))
            for one in fleet.guests
        ),
    )
    assert energy(off) == pytest.approx(energy(fleet) - 200)
    assert to_wake(off) == ()
    busy = replace(off, guests=tuple(replace(one, load=Load(cpu=1.6, memory=GIB)) for one in off.guests))
    assert len(to_wake(busy)) == 1


def test_a_host_with_a_guest_that_may_not_move_stays_on() -> None:
    fleet = quiet(8)
    held = replace(fleet, guests=tuple(replace(one, fixed="pinned") for one in fleet.guests))
    assert consolidate(held, LIMITS).switch_off == ()
    with pytest.raises(InputError, match="one has to be below the other"):
        Consolidating(fill=0.9, wake=0.8)


def test_guests_go_nearer_to_their_users() -> None:
    fleet = Fleet(
        (host("a", site="north"), host("b", site="south")),
        (guest("web", "a", users=(("cape", 0.9), ("oslo", 0.1))), guest("db", "a", users=(("oslo", 1.0),))),
        round_trips=(
            RoundTrip("cape", "north", 0.18),
            RoundTrip("cape", "south", 0.02),
            RoundTrip("oslo", "north", 0.01),
            RoundTrip("oslo", "south", 0.17),
        ),
    )
    assert nearer(fleet) == {"south": ("web",)}
    [move] = relocate(fleet, {"web"}, "south", LIMITS).moves
    assert move.reason == "its users' round trip is 163.0 ms here and 35.0 ms from south"
    with pytest.raises(InputError, match="no host is at the site west"):
        relocate(fleet, {"web"}, "west", LIMITS)


HBAL = """default|5b2a1d9e-0000-4000-8000-000000000001|preferred||

n1|32768|1024|27648|0|0|8|N|5b2a1d9e-0000-4000-8000-000000000001|1
n2|32768|1024|31744|0|0|8|N|5b2a1d9e-0000-4000-8000-000000000001|1
n3|32768|1024|31744|0|0|8|Y|5b2a1d9e-0000-4000-8000-000000000001|1

web1|2048|1024|2|running|Y|n1||ext|service:web|1
web2|1024|1024|1|running|Y|n1||ext|service:web|1
old|1024|1024|1|running|Y|n1||plain||1

htools:iextags:service

"""


def test_hbals_format_is_read_and_written() -> None:
    fleet = fleet_of(HBAL)
    assert [(one.name, one.state) for one in fleet.hosts] == [
        ("n1", HostState.ACTIVE),
        ("n2", HostState.ACTIVE),
        ("n3", HostState.MAINTENANCE),
    ]
    assert fleet.hosts[0].own.memory == 1024 * MIB
    assert fleet.guests[2].fixed == "its disks (plain) lie on its host"
    assert fleet.rules == (Rule("service:web", RuleKind.APART, ("web1", "web2")),)
    again = fleet_of(text_of(fleet))
    assert [(one.name, one.host, one.memory, one.vcpus) for one in again.guests] == [
        (one.name, one.host, one.memory, one.vcpus) for one in fleet.guests
    ]
    assert [(rule.kind, rule.guests) for rule in again.rules] == [(rule.kind, rule.guests) for rule in fleet.rules]
    assert Placement(problem_of(again)).score == pytest.approx(Placement(problem_of(fleet)).score)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HBAL.replace("|2048|", "|much|"), "line 7, field 2: 'much' is no number"),
        (HBAL.replace("|n1||ext|service:web|1\nold", "|n9||ext||1\nold"), "line 8: web2 is on n9"),
        (
            HBAL.replace("n2|32768|1024|31744|0|0|8|N|5b2a1d9e-0000-4000-8000-000000000001|1", "n2|1"),
            "line 4 has 2 fields",
        ),
        (HBAL.replace("|8|Y|", "|8|?|"), "line 5, field 8"),
    ],
)
def test_what_is_no_such_file_is_named_by_its_line(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said.replace("?", r"\?")):
        fleet_of(text)
