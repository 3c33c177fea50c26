"""There and back with a disk that travels along: the copy left behind is filled up where that is proven to be right."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from stage import Stage, simulate, stage

from godwit.core.state import Phase
from godwit.hosts.fakedisks import CHANGE
from godwit.model import DiskMode, OutcomeStatus, Policy, RunState, Way

if TYPE_CHECKING:
    from collections.abc import Callable

    from godwit.model import Outcome

RAW, QCOW2 = "/images/web.raw", "/images/web.qcow2"
WHOLE = (1 << 30) // 16
"""Bytes of a simulated disk that a full copy sends."""


def apart(disk: str, policy: Policy | None = None) -> Stage:
    """Two hosts that share nothing; the disk is on the first."""
    made = stage(policy=policy, disk=disk)
    made.world._files.clear()
    made.world.disks.newest.clear()
    made.world.add_file(disk, ["one"], size=1 << 30)
    return made


async def moved(scene: Stage) -> Outcome:
    outcome = await scene.move()
    await scene.assert_settled(outcome)
    assert scene.world.owned == {}
    assert scene.world.incomplete == set()
    return outcome


def inode(scene: Stage, disk: str, host: str) -> int:
    file = scene.world.file(disk, host)
    assert file is not None
    return file.inode


@pytest.mark.parametrize(
    ("disk", "way"), [(RAW, Way.LIVE), (QCOW2, Way.LIVE), (RAW, Way.STATIC), (QCOW2, Way.STATIC), (QCOW2, Way.OFF)]
)
def test_on_every_way_back_only_what_was_written_since_is_copied(disk: str, way: Way) -> None:
    async def scenario() -> None:
        scene = apart(disk, Policy(way=way))
        assert (await moved(scene)).disk_bytes == WHOLE
        for number in range(2, 6):
            scene = scene.turned(number)
            scene.world.write_to_disks(scene.one.qemus["web"])
            outcome = await moved(scene)
            assert outcome.status is OutcomeStatus.COMPLETED
            assert 0 < outcome.disk_bytes < 20 * CHANGE
            found = next(one for one in outcome.findings if one.code == "disk-copied")
            assert "only what was written since" in found.found
            live = scene.world.disks.stamps[inode(scene, disk, scene.two.name)]
            assert list(live) == [f"godwit-handover-web-{number}"]

    simulate(scenario)


GAPS: dict[str, Callable[[Stage, str], object]] = {
    "somebody writes to the copy that was left": lambda scene, disk: scene.world.disks.tamper(
        inode(scene, disk, "one")
    ),
    "somebody writes to the copy with QEMU": lambda scene, disk: scene.world.disks.write(inode(scene, disk, "one")),
}


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("disk", [RAW, QCOW2])
def test_a_copy_that_somebody_wrote_to_is_nobody_s_to_overwrite(gap: str, disk: str) -> None:
    async def scenario() -> None:
        scene = apart(disk)
        await moved(scene)
        GAPS[gap](scene, disk)
        back = scene.turned(2)
        outcome = await back.move()
        assert outcome.status is OutcomeStatus.REFUSED
        assert outcome.findings[0].code == "disk-not-shared"
        assert back.state_on(back.one) is RunState.RUNNING
        back = replace(back, spec=replace(back.spec, id="web-3", policy=Policy(disks=DiskMode.FULL)))
        outcome = await back.move()
        assert outcome.status is OutcomeStatus.REFUSED
        assert outcome.findings[0].code == "disk-exists"
        assert "somebody has changed it since" in outcome.findings[0].found

    simulate(scenario)


UNPROVEN: dict[str, Callable[[Stage, str], object]] = {
    "the guest's QEMU died and was started anew": lambda scene, disk: scene.world.disks.close(
        inode(scene, disk, "two"), keeps_stamps=True, in_order=False
    ),
    "the stamp is gone from the running disk": lambda scene, disk: scene.world.disks.forget_stamps(
        inode(scene, disk, "two")
    ),
}


@pytest.mark.parametrize("gap", UNPROVEN)
@pytest.mark.parametrize("disk", [RAW, QCOW2])
def test_without_proof_the_whole_disk_is_copied_and_it_says_so(gap: str, disk: str) -> None:
    async def scenario() -> None:
        scene = apart(disk)
        await moved(scene)
        UNPROVEN[gap](scene, disk)
        back = scene.turned(2)
        outcome = await moved(back)
        assert outcome.status is OutcomeStatus.COMPLETED
        assert outcome.disk_bytes == WHOLE
        assert "made anew: what was written since has not been recorded without a gap" in outcome.findings[0].found

    simulate(scenario)


def test_a_raw_disk_s_stamp_ends_with_its_qemu() -> None:
    async def scenario() -> None:
        scene = apart(RAW)
        await moved(scene)
        scene.two.qemus["web"].exit("quit")
        scene.two.boot(scene.vm)
        outcome = await moved(scene.turned(2))
        assert outcome.disk_bytes == WHOLE

    simulate(scenario)


def test_a_qcow2_disk_s_stamp_outlives_its_qemu() -> None:
    async def scenario() -> None:
        scene = apart(QCOW2)
        await moved(scene)
        scene.two.qemus["web"].exit("quit")
        scene.two.boot(scene.vm)
        outcome = await moved(scene.turned(2))
        assert outcome.disk_bytes < WHOLE

    simulate(scenario)


@pytest.mark.parametrize("mode", [DiskMode.FULL])
def test_who_wants_all_of_it_gets_all_of_it(mode: DiskMode) -> None:
    async def scenario() -> None:
        scene = apart(QCOW2)
        await moved(scene)
        back = scene.turned(2)
        back = replace(back, spec=replace(back.spec, policy=Policy(disks=mode)))
        outcome = await moved(back)
        assert outcome.disk_bytes == WHOLE
        assert "that is what --disks says" in outcome.findings[0].found

    simulate(scenario)


def test_no_keep_removes_the_old_copy() -> None:
    async def scenario() -> None:
        scene = apart(QCOW2, Policy(keep_old=False))
        outcome = await moved(scene)
        assert outcome.status is OutcomeStatus.COMPLETED
        assert scene.world.file(QCOW2, "one") is None
        assert scene.world.disks.stamps.get(inode(scene, QCOW2, "two"), {}) == {}

    simulate(scenario)


def test_no_keep_removes_nothing_that_is_not_proven_to_be_the_same_there() -> None:
    async def scenario() -> None:
        scene = apart(QCOW2, Policy(keep_old=False, verify_disks=True))
        scene.world.differing[QCOW2] = "Content mismatch at offset 0!"
        outcome = await scene.move()
        assert outcome.status is OutcomeStatus.UNVERIFIED
        assert scene.world.file(QCOW2, "one") is not None
        assert scene.world.disks.left == {}, "what may not be the same is never filled up"
        back = scene.turned(2)
        back = replace(back, spec=replace(back.spec, policy=Policy()))
        refused = await back.move()
        assert refused.status is OutcomeStatus.REFUSED

    simulate(scenario)


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.MIRRORING, Phase.PRECOPY, Phase.SWITCHOVER])
@pytest.mark.parametrize("delay", [0.0, 0.03])
@pytest.mark.parametrize("disk", [RAW, QCOW2])
def test_a_way_back_that_was_cancelled_can_be_gone_again(phase: Phase, delay: float, disk: str) -> None:
    async def scenario() -> None:
        scene = apart(disk)
        await moved(scene)
        back = scene.turned(2)
        back.at(phase, back.cancel, delay)
        outcome = await moved(back)
        if outcome.status is OutcomeStatus.COMPLETED:
            assert phase is Phase.SWITCHOVER
            return
        assert f"godwit-handover-{back.spec.id}" not in back.world.disks.stamps[inode(back, disk, "two")]
        again = replace(scene.turned(3), journal=type(back.journal)())
        outcome = await moved(again)
        assert outcome.status is OutcomeStatus.COMPLETED
        assert outcome.disk_bytes < WHOLE, "what came at the first try does no harm"

    simulate(scenario)


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.MIRRORING, Phase.PRECOPY, Phase.COMMITTING, Phase.FINISHING])
@pytest.mark.parametrize("fault", ["target", "runner"])
def test_a_death_on_the_way_back_loses_no_write(phase: Phase, fault: str) -> None:
    async def scenario() -> None:
        scene = apart(QCOW2)
        await moved(scene)
        back = scene.turned(2)

        def strike() -> None:
            if fault == "runner":
                back.died.set()
            elif "web" in back.two.qemus and phase not in {Phase.COMMITTING, Phase.FINISHING}:
                back.world.kill(back.two.name, "web")

        back.at(phase, strike, 0.02)
        outcome = await moved(back)
        last = outcome
        if outcome.status is not OutcomeStatus.COMPLETED:
            last = await moved(scene.turned(3))
        assert last.status is OutcomeStatus.COMPLETED

    simulate(scenario)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_between_moves_the_guest_finds_what_it_wrote(seed: int) -> None:
    """A walk of moves, writes, crashes and tampering: the world itself notes a guest that misses a write."""
    chance = random.Random(seed)  # noqa: S311 - not for secrets

    async def scenario() -> None:
        disk = chance.choice([RAW, QCOW2])
        scene = apart(disk)
        at = scene
        for number in range(2, 14):
            outcome = await at.move()
            at.assert_lawful()
            here = at.two if outcome.status is OutcomeStatus.COMPLETED else at.one
            event = chance.choice(["write", "write", "crash", "restart", "cancel", "tamper", "nothing"])
            if event == "write":
                at.world.write_to_disks(here.qemus["web"])
            elif event == "crash":
                at.world.kill(here.name, "web")
                here.boot(at.vm)
            elif event == "restart":
                here.qemus["web"].exit("quit")
                here.boot(at.vm)
            elif event == "tamper":
                other = at.world.file(disk, "one" if here.name == "two" else "two")
                if other is not None:
                    at.world.disks.tamper(other.inode)
            at = at.turned(number) if here is at.two else replace(at.turned(number).turned(number))
            if outcome.status is OutcomeStatus.REFUSED:  # what was tampered with is in the way: an operator removes it
                at.world.remove_image(disk, at.two.name)
            if event == "cancel":
                at.at(chance.choice([Phase.MIRRORING, Phase.PRECOPY]), at.cancel, chance.choice([0.0, 0.02]))
        assert at.world.broken_laws == []

    simulate(scenario)
