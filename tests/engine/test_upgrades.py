"""A guest whose QEMU is replaced on its own host, in virtual time: both ways, refusals, faults, dying runners."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from stage import ID, LONG, SMALL, Stage, simulate, stage

from godwit.core.state import Phase
from godwit.model import OutcomeStatus, Owner, Spec, Upgrade
from godwit.qemu.hypervisor import QemuHypervisor

if TYPE_CHECKING:
    from godwit.hosts.fake import FakeQemu, Workload
    from godwit.model import Outcome, Vm

QUESTIONS = range(1, 34)
WRITES = range(1, 11)
NEW = "/opt/new/qemu-system-x86_64"
SHARED = ("-machine", "q35,memory-backend=pc.ram,aux-ram-share=on")


def same_host(workload: Workload = SMALL, *, in_place: bool = True, address: str | None = "198.18.0.9") -> Stage:
    """Set the scene: the guest stays on "one", and only its QEMU is replaced."""
    scene = stage(workload, address=address)
    if in_place:
        launch = scene.vm.launch
        shared = replace(launch, argv=(*launch.argv, *SHARED))
        scene.vm = replace(scene.vm, launch=shared)
        scene.one.qemus["web"].launch = shared
    after = QemuHypervisor().beside(scene.vm, scene.vm.launch, NEW)
    upgrade = Upgrade(replace(scene.vm, sibling=after.control), replace(after, sibling=scene.vm.control))
    scene.spec = Spec(ID, "web", "one", "one", scene.spec.policy, upgrade=upgrade)
    scene.vm = upgrade.before
    scene.two = scene.one
    return scene


def processes(scene: Stage) -> list[FakeQemu]:
    return list(scene.one.qemus.values())


async def assert_settled(scene: Stage, outcome: Outcome, known: Vm) -> None:
    """One process is left, the right one; the inventory calls it by its names, and nothing is held."""
    scene.assert_lawful()
    assert outcome.status is not OutcomeStatus.LIMBO, outcome.error
    (left,) = processes(scene)
    assert left.raw == "running"
    assert scene.spec.upgrade is not None
    replaced = outcome.status is OutcomeStatus.COMPLETED
    names = scene.spec.upgrade.after if replaced else scene.spec.upgrade.before
    assert outcome.owner is (Owner.TARGET if replaced else Owner.SOURCE)
    assert left.vm.control == names.control
    assert left.launch.argv[0] == (NEW if replaced else "qemu-system-x86_64")
    vm = await scene.inventory.vm("web")
    assert vm.control == names.control
    assert vm.host == "one"
    if replaced:
        assert (vm.sibling, vm.launch) == ("", left.launch)
    else:
        assert vm == known
    assert scene.one.leases == {}
    row, state = await scene.journal.load(ID)
    assert state.finished
    assert row.outcome == outcome


async def carried(scene: Stage, *, pause: float = 0.05) -> Outcome:
    outcome = await scene.move(pause=pause)
    await assert_settled(scene, outcome, scene.vm)
    return outcome


def test_memory_is_taken_as_it_stands() -> None:
    async def scenario() -> None:
        scene = same_host(LONG)
        outcome = await carried(scene)
        assert outcome.status is OutcomeStatus.COMPLETED
        assert (outcome.bytes, outcome.qemus, outcome.guest_alive) == (0, ("10.0.2", "10.0.2"), True)
        assert (outcome.source, outcome.target) == ("one", "one")
        assert outcome.total_s < 2
        assert [f.code for f in outcome.findings] == ["upgrade", "upgrade-in-place"]
        assert outcome.downtime.client_gap_ms is not None
        assert outcome.downtime.blackout_ms is not None
        assert outcome.downtime.blackout_ms <= outcome.downtime.client_gap_ms
        assert [run.pid for run in scene.world.runs][-1] == processes(scene)[0].pid

    simulate(scenario)


def test_memory_that_cannot_be_taken_is_copied_and_it_is_told_why() -> None:
    async def scenario() -> None:
        scene = same_host(in_place=False)
        outcome = await carried(scene)
        assert outcome.status is OutcomeStatus.COMPLETED
        assert outcome.bytes >= SMALL.used
        (why,) = [f.found for f in outcome.findings if f.code == "upgrade-by-copy"]
        assert "Memory region pc.ram is not compatible with CPR." in why

    simulate(scenario)


def test_a_program_that_is_not_there_is_refused() -> None:
    async def scenario() -> None:
        scene = same_host()
        scene.one.missing_programs.add(NEW)
        outcome = await carried(scene)
        assert outcome.status is OutcomeStatus.REFUSED
        assert NEW in outcome.error
        assert scene.phases() == [Phase.PENDING, Phase.FAILED]

    simulate(scenario)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("command", ["launch", "migrate", "migrate-set-capabilities", "migrate-set-parameters"])
def test_a_command_that_is_refused_leaves_the_old_qemu(command: str, *, in_place: bool) -> None:
    async def scenario() -> None:
        scene = same_host(in_place=in_place)
        scene.world.refuse("one", command, times=1)
        outcome = await carried(scene)
        assert outcome.status is OutcomeStatus.FAILED
        assert "it was planted so" in outcome.error
        assert outcome.remedy

    simulate(scenario)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.PRECOPY, Phase.SWITCHOVER])
@pytest.mark.parametrize("delay", [0.0, 0.01, 0.6])
def test_a_new_qemu_that_dies_on_the_way(phase: Phase, delay: float, *, in_place: bool) -> None:
    async def scenario() -> None:
        scene = same_host(LONG, in_place=in_place)

        def kill() -> None:
            if "web beside" in scene.one.qemus:
                scene.world.kill("one", "web beside")

        scene.at(phase, kill, delay)
        outcome = await scene.move()
        scene.assert_lawful()
        if outcome.status is OutcomeStatus.GUEST_CRASHED:  # it had been told to run
            assert scene.world.executing("web") == []
        else:
            await assert_settled(scene, outcome, scene.vm)

    simulate(scenario)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_wish_to_cancel_keeps_the_old_qemu(*, in_place: bool) -> None:
    async def scenario() -> None:
        scene = same_host(LONG, in_place=in_place)
        scene.at(Phase.PRECOPY, scene.cancel, 0.05)
        assert (await carried(scene)).status is OutcomeStatus.CANCELLED

    simulate(scenario)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("number", QUESTIONS)
def test_a_runner_that_dies_before_any_question(number: int, *, in_place: bool) -> None:
    async def scenario() -> None:
        scene = same_host(in_place=in_place)
        scene.dies_before_question(number)
        assert (await carried(scene)).status in {OutcomeStatus.COMPLETED, OutcomeStatus.FAILED}

    simulate(scenario)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("written", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", WRITES)
def test_a_runner_that_dies_at_any_transition(number: int, *, written: bool, in_place: bool) -> None:
    async def scenario() -> None:
        scene = same_host(in_place=in_place)
        scene.dies_at_write(number, written=written)
        outcome = await carried(scene)
        assert outcome.status in {OutcomeStatus.COMPLETED, OutcomeStatus.FAILED}

    simulate(scenario)
