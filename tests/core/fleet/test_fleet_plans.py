"""Plans for random fleets, all looked at by code that shares nothing with what made them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from randomfleets import random_fleet

from godwit.core.fleet.balancing import Balancing, balance
from godwit.core.fleet.check import check_plan
from godwit.core.fleet.consolidating import consolidate
from godwit.core.fleet.freeing import drain, relocate, undrain, with_host
from godwit.core.fleet.order import Limits
from godwit.model.fleet import HostState

SHARE, ALL = 60, 1000
EAGER = Balancing(payback=1e9, margin=0.0, effort=400_000)


def sound(seed: int) -> None:
    fleet = random_fleet(seed)
    name = fleet.hosts[seed % len(fleet.hosts)].name
    plan = drain(fleet, name, Limits())
    draining = with_host(fleet, name, HostState.DRAINING)
    assert check_plan(draining, plan) == ()
    gone = {move.guest for move in plan.moves}
    named = " ".join(one.subject for one in plan.impossible)
    assert all(guest.name in gone or guest.name in named for guest in fleet.guests if guest.host == name)
    at = {move.guest: move.target for move in plan.moves}
    moved = replace(draining, guests=tuple(replace(one, host=at.get(one.name, one.host)) for one in fleet.guests))
    back = undrain(moved, name, {guest.name for guest in fleet.guests if guest.host == name}, Limits())
    assert check_plan(with_host(moved, name, HostState.ACTIVE), back) == ()
    assert check_plan(fleet, balance(fleet, 0.0, Limits(), EAGER)) == ()
    packed = consolidate(fleet, Limits())
    emptied = fleet
    for name in packed.switch_off:
        emptied = with_host(emptied, name, HostState.DRAINING)
    assert check_plan(emptied, packed) == ()
    some = {guest.name for guest in fleet.guests[:5]}
    assert check_plan(fleet, relocate(fleet, some, fleet.hosts[0].site, Limits())) == ()


@pytest.mark.parametrize("seed", range(SHARE))
def test_plans_for_a_random_fleet_are_sound(seed: int) -> None:
    sound(seed)


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(8))
def test_plans_for_a_thousand_random_fleets_are_sound(part: int) -> None:
    for seed in range(SHARE + part, ALL, 8):
        sound(seed)
