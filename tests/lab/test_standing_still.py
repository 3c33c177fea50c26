"""Guests that stand still all the way, or are switched off and started anew; the hosts share the guests' disks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from labtools import CRAWL
from labtraps import Trap
from labwaits import until

from godwit.errors import MigrationFailedError
from godwit.model import OutcomeStatus, Owner

if TYPE_CHECKING:
    from labmoves import Move
    from labtools import Ground

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]

BOOT: Final = "cat /proc/sys/kernel/random/boot_id"
OFF: Final = ("--static", "--off")


async def assert_as_before(ground: Ground, move: Move, here: str, status: OutcomeStatus) -> None:
    outcome = await move.outcome(90)
    assert (outcome.status, outcome.owner) == (status, Owner.SOURCE), outcome
    await ground.assert_settled(here)


# -- standing still ----------------------------------------------------------------------------------------------------


async def test_its_work_goes_on_where_it_was(ground: Ground) -> None:
    """The same boot, the same connection, not a tick lost; it stood still for as long as its memory travelled."""
    _, there = await ground.whereabouts()
    ground.lab.set_rate(100_000_000)
    boot = ground.ssh(BOOT)
    async with ground.client() as ticks:
        ran = await ground.godwit("migrate", ground.name, ground.host(there), "--static", deadline=90)
        assert ran.status == 0, ran
        stood = ticks.longest_silence
    assert "the guest stands still from now on" in ran.out
    assert "copying memory while the guest stands still" in ran.out
    assert stood > 1
    assert ground.ssh(BOOT) == boot
    await ground.assert_settled(there)
    outcome = await (await ground.latest()).outcome()
    assert outcome.downtime.blackout_ms is not None
    assert outcome.downtime.client_gap_ms is not None
    assert outcome.downtime.blackout_ms / 1000 == pytest.approx(stood, abs=1.0)
    assert outcome.downtime.client_gap_ms >= outcome.downtime.blackout_ms - 100


async def test_cancel_in_the_middle_lets_it_run_on_where_it_was(ground: Ground) -> None:
    here, there = await ground.whereabouts()
    ground.lab.set_rate(CRAWL)
    async with ground.client():
        move = await (await ground.begin(there, "--static")).streams(1)
        assert ground.run_state(ground.qemus()[here][0].pid) == "paused"
        assert (await ground.godwit("cancel", move.id)).status == 0
        await assert_as_before(ground, move, here, OutcomeStatus.CANCELLED)


async def test_a_runner_that_is_killed_in_the_middle(ground: Ground) -> None:
    _, there = await ground.whereabouts()
    ground.lab.set_rate(CRAWL)
    async with ground.client():
        move = await (await ground.begin(there, "--static")).streams(1)
        await move.kill_runner()
        await move.taken_over(2)
        ground.lab.set_rate(None)
        assert (await move.outcome()).status is OutcomeStatus.COMPLETED
    await ground.assert_settled(there)


@pytest.mark.long
async def test_a_runner_that_is_killed_when_it_has_just_stopped_the_guest(ground: Ground) -> None:
    here, there = await ground.whereabouts()
    traps = ground.lay(Trap("kill", at="godwit.qemu.guest:QemuGuest.pause"))
    async with ground.client():
        move = await ground.begin(there, "--static", traps=traps)
        await until(traps.sprung, "the guest was stopped")
        await assert_as_before(ground, move, here, OutcomeStatus.FAILED)


@pytest.mark.long
async def test_a_deadline_that_passes(ground: Ground) -> None:
    here, there = await ground.whereabouts()
    ground.lab.set_rate(CRAWL)
    async with ground.client():
        ran = await ground.godwit("migrate", ground.name, ground.host(there), "--static", "--deadline", "4s")
    assert ran.status == MigrationFailedError.exit_status
    assert "the deadline of 4" in ran.err
    await ground.assert_settled(here)


# -- switched off ------------------------------------------------------------------------------------------------------


async def test_it_is_switched_off_and_boots_there(ground: Ground) -> None:
    here, there = await ground.whereabouts()
    boot = ground.ssh(BOOT)
    ground.ssh(f"echo from {here} > /data/token; sync")
    ran = await ground.godwit("migrate", ground.name, ground.host(there), *OFF, deadline=120)
    assert ran.status == 0, ran
    assert "the guest is off" in ran.out
    await ground.answers()
    await ground.assert_settled(there)
    assert ground.ssh("cat /data/token") == f"from {here}"
    assert ground.ssh(BOOT) != boot
    live = await ground.godwit("migrate", ground.name, ground.host(here), deadline=90)
    assert live.status == 0, live  # what was started anew is a guest like any other


async def test_a_guest_that_ignores_its_button_runs_on(ground: Ground) -> None:
    here, there = await ground.whereabouts()
    ground.ssh("killall acpid")
    try:
        async with ground.client() as ticks:
            arguments = ("migrate", ground.name, ground.host(there), *OFF, "--off-timeout", "5s")
            ran = await ground.godwit(*arguments, deadline=60)
            assert ticks.longest_silence < 2
    finally:
        ground.ssh("acpid -l /run/log/acpid")
    assert ran.status == MigrationFailedError.exit_status
    assert "did not obey its power button within 5" in ran.err
    assert "--off-timeout" in ran.err
    await ground.assert_settled(here)


@pytest.mark.long
async def test_a_guest_that_ignores_its_button_and_has_an_agent(ground: Ground) -> None:
    assert (await ground.godwit("vm", "stop", "--force", ground.name)).status == 0
    await ground.fresh_guest(agent=True)
    _, there = await ground.whereabouts()
    boot = ground.ssh(BOOT)
    ground.ssh("killall acpid")
    ran = await ground.godwit("migrate", ground.name, ground.host(there), *OFF, deadline=120)
    assert ran.status == 0, ran
    await ground.answers()
    await ground.assert_settled(there)
    assert ground.ssh(BOOT) != boot
    ground.ssh("killall acpid")
    assert (await ground.godwit("vm", "stop", ground.name, deadline=90)).status == 0
    assert not any(ground.qemus().values())


@pytest.mark.parametrize(
    "trap",
    [
        pytest.param(Trap("kill", at="godwit.qemu.guest:QemuGuest.powerdown"), marks=pytest.mark.long),
        Trap("kill", "starting"),
        pytest.param(Trap("kill", "committing"), marks=pytest.mark.long),
    ],
    ids=["the button was just pressed", "the guest is off", "the target may be told to run"],
)
async def test_a_runner_that_is_killed_is_followed_by_one_that_goes_on(ground: Ground, trap: Trap) -> None:
    _, there = await ground.whereabouts()
    boot = ground.ssh(BOOT)
    traps = ground.lay(trap)
    move = await ground.begin(there, *OFF, traps=traps)
    outcome = await move.outcome(120)
    assert traps.sprung()
    assert outcome.status is OutcomeStatus.COMPLETED, outcome
    await ground.answers()
    await ground.assert_settled(there)
    assert ground.ssh(BOOT) != boot


@pytest.mark.long
async def test_a_cancel_when_it_is_off_starts_it_again_where_it_was(ground: Ground) -> None:
    """Its QEMU is gone by then, so that it is started anew; and what it does at a power-off is as it was."""
    here, there = await ground.whereabouts()
    boot = ground.ssh(BOOT)
    traps = ground.lay(Trap("hold", at="godwit.hosts.plain:PlainHost.destroy", when="before"))
    move = await ground.begin(there, *OFF, traps=traps)
    await until(traps.sprung, "the source is about to be ended")
    asked = await ground.godwit("cancel", move.id, "--no-wait")
    assert asked.status == 0
    traps.release()
    await assert_as_before(ground, move, here, OutcomeStatus.CANCELLED)
    await ground.answers()
    assert ground.ssh(BOOT) != boot
