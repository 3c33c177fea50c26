"""A move there and back under load, typed as a user types it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from godwit.lab.loads import SshTop
from godwit.measure.probe import OutsideProbe, ProbeSpec

if TYPE_CHECKING:
    from labtools import Ground

pytestmark = pytest.mark.lab


async def test_there_and_back_under_load_and_nobody_notices(ground: Ground) -> None:
    ground.lab.set_rate(400_000_000)
    probe = f"{ground.address}@{ground.host('client')}"
    requests = ProbeSpec.parse(f"redis://{ground.address}:6379/set", interval_ms=5)
    prober = ground.lab.command("client", [sys.executable])
    async with (
        ground.client() as ticks,
        SshTop(ground.lab, ground.address) as top,
        OutsideProbe(prober, requests) as redis,
    ):
        await redis.ready()
        for machine in ("host2", "host1"):
            before = ticks.ticks
            ran = await ground.godwit("migrate", ground.name, ground.host(machine), "--json", "--probe", probe)
            assert ran.status == 0, ran.err
            assert ticks.ticks > before
            outcome = ran.lines[-1]["data"]
            assert ran.lines[-1]["kind"] == "outcome"
            assert (outcome["status"], outcome["owner"], outcome["guest_alive"]) == ("completed", "target", True)
            downtime = outcome["downtime"]
            assert 0 < downtime["qemu_ms"] < 300
            assert 0 < downtime["blackout_ms"] < 1000
            assert downtime["blackout_ms"] <= downtime["client_gap_ms"] + 20 < 1500
            assert outcome["bytes"] > 30_000_000
            assert await top.survives()
            await ground.assert_settled(machine)
        series = await redis.finish()
    assert series.errors == {}
    assert series.reconnects == 0
    assert len(series.sent_s) > 200


async def test_qemus_own_decisions_work_as_well(ground: Ground) -> None:
    here, there = await ground.whereabouts()
    async with ground.client():
        ran = await ground.godwit("migrate", ground.name, ground.host(there), "--json", "--qemu-defaults")
        assert ran.status == 0, ran.err
    assert here != there
    await ground.assert_settled(there)


async def test_history_and_report_tell_of_the_moves(ground: Ground) -> None:
    ran = await ground.godwit("history", "--json")
    assert ran.status == 0
    assert all(word in ran.out for word in (ground.name, "completed"))
    page = ground.home / "report.html"
    told = await ground.godwit("report", ground.name, "--html", str(page))
    assert told.status == 0, told.err
    text = page.read_text()
    assert text.count("<svg") >= 1
    assert ground.host("host2") in text
