"""Profiles of real guests: one whose writes are known, one that is quiet, one that is moved meanwhile."""

from __future__ import annotations

import json
from statistics import mean
from typing import TYPE_CHECKING, Any

import pytest

from godwit.errors import BusyError, InputError
from godwit.units import MIB

if TYPE_CHECKING:
    from labtools import Ground

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]


async def profiled(ground: Ground) -> dict[str, Any]:
    ran = await ground.godwit("profile", ground.name, "--json", deadline=60)
    assert ran.status == 0, ran
    told: dict[str, Any] = json.loads(ran.out)
    return told


def rates_of(log: str) -> list[float]:
    """Return what the writer in the guest says of each second."""
    return [float(line.split("rate=")[1].split()[0]) for line in log.splitlines() if "rate=" in line]


@pytest.mark.long
async def test_a_writers_hot_set_and_rate_are_found_and_it_runs_on(ground: Ground) -> None:
    """What the writer says of itself is the measure: a machine that is busy does not let it write what it was asked."""
    ground.ssh("memwriter --rate 64M --set 24M --bytes-per-page 8 >/run/log/profiled 2>&1 & sleep 4")
    try:
        before = rates_of(ground.ssh("cat /run/log/profiled"))
        async with ground.client():
            told = await profiled(ground)
        # QEMU sees what it looks at: one window of many may be an outlier, a set that is half as large may not.
        assert told["hot_set"] == pytest.approx(24 * MIB, rel=0.4)
        rates = rates_of(ground.ssh("cat /run/log/profiled"))[len(before) :]
        assert mean(rates) > 0.8 * mean(before), "the guest was not slowed down"
        # The shortest windows are shorter than the turns in which a busy machine lets its processes run.
        assert mean(rates) / 3 < told["write_rate"] < 3 * mean(rates)
    finally:
        ground.ssh("killall memwriter")


@pytest.mark.long
async def test_a_quiet_guest_changes_little_and_is_moved_all_the_same(ground: Ground) -> None:
    _, there = await ground.whereabouts()
    told = await profiled(ground)
    assert told["windows"][-1]["unique"] < 16 * MIB
    assert (await ground.godwit("migrate", ground.name, ground.host(there), deadline=90)).status == 0


@pytest.mark.long
async def test_a_guest_that_is_being_moved_or_is_off_is_not_profiled(ground: Ground) -> None:
    _, there = await ground.whereabouts()
    ground.lab.set_rate(8_000_000)
    async with ground.client():
        move = await (await ground.begin(there)).streams(1)
        refused = await ground.godwit("profile", ground.name)
        assert refused.status == BusyError.exit_status
        assert "is being migrated" in refused.err
        assert (await ground.godwit("cancel", move.id)).status == 0
    ground.lab.set_rate(None)
    assert (await ground.godwit("vm", "stop", "--force", ground.name)).status == 0
    refused = await ground.godwit("profile", ground.name)
    assert refused.status == InputError.exit_status
    assert "is absent on" in refused.err
