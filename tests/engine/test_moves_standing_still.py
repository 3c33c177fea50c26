"""Moves of a guest that stands still all the way, or is switched off and started anew; and the world afterwards."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from stage import ADDRESS, DISK, LONG, SMALL, Stage, simulate, stage

from godwit.core.state import Phase
from godwit.hosts.fakeguest import FakeGuest
from godwit.model import OutcomeStatus, Policy, ProbeRequest, RunState, Way
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from godwit.hosts.fake import Workload
    from godwit.model import Outcome

COMPLETED, FAILED, CANCELLED = OutcomeStatus.COMPLETED, OutcomeStatus.FAILED, OutcomeStatus.CANCELLED
STATIC, OFF = Way.STATIC, Way.OFF
BOTH = [STATIC, OFF]
STORAGE = pytest.mark.parametrize("shared", [True, False], ids=["shared", "copied"])
PHASES = {
    STATIC: [Phase.PREPARING, Phase.MIRRORING, Phase.PRECOPY, Phase.SWITCHOVER],
    OFF: [Phase.PREPARING, Phase.MIRRORING, Phase.POWERING_OFF, Phase.STARTING],
}
ON_THE_WAY = [(way, phase) for way in BOTH for phase in PHASES[way]]
SLOW_TO_GO = replace(SMALL, power_off=2.0)


def scene_of(way: Way, *, shared: bool, workload: Workload = SMALL, **policy: float) -> Stage:
    """Two hosts that share the guest's disk, or do not."""
    made = stage(workload, policy=Policy(way=way, **policy))  # type: ignore[arg-type]
    if not shared:
        made.world._files.clear()
        made.world.disks.newest.clear()
        made.world.add_file(DISK, ["one"], size=1 << 28)
    return made


async def assert_settled(scene: Stage, outcome: Outcome, *, shared: bool) -> None:
    """The guest runs on one side; disks are whole; nothing is left of what was done to either QEMU."""
    await scene.assert_settled(outcome)
    assert scene.world.owned == {}
    assert scene.world.incomplete == set()
    if not shared:
        there = scene.world.file(DISK, "two") is not None
        assert there is (outcome.status in {COMPLETED, OutcomeStatus.GUEST_CRASHED})
    for host in (scene.one, scene.two):
        for qemu in host.qemus.values():
            assert qemu.raw == "running"
            assert not qemu.outlives
            assert qemu.blocks.mirrors == {}
            assert qemu.blocks.disks_port is None


def moved(
    way: Way,
    prepare: Callable[[Stage], object] = lambda _: None,
    *,
    shared: bool = True,
    workload: Workload = SMALL,
    **policy: float,
) -> tuple[Stage, Outcome]:
    async def scenario() -> tuple[Stage, Outcome]:
        made = scene_of(way, shared=shared, workload=workload, **policy)
        prepare(made)
        outcome = await made.move()
        await assert_settled(made, outcome, shared=shared)
        return made, outcome

    return simulate(scenario)


@STORAGE
def test_a_guest_stands_still_from_before_the_first_byte_until_it_runs_on_the_target(*, shared: bool) -> None:
    scene, outcome = moved(STATIC, shared=shared)
    assert outcome.status is COMPLETED
    here, there = scene.world.runs
    assert here.ended is not None
    assert outcome.downtime.blackout_ms == pytest.approx((there.began - here.ended) * 1000, abs=2)
    assert outcome.stream_s is not None
    assert there.began - here.ended > outcome.stream_s
    if not shared:
        assert there.began - here.ended > outcome.stream_s + (1 << 28) / 16 / 50e6
    assert outcome.guest_alive


@STORAGE
def test_a_guest_that_is_switched_off_is_started_anew_on_the_target(*, shared: bool) -> None:
    scene, outcome = moved(OFF, shared=shared, workload=SLOW_TO_GO)
    assert outcome.status is COMPLETED
    here, there = scene.world.runs
    assert here.ended is not None
    assert there.began - here.ended < 1.0, "the disks travelled before, and the way to the power button, too"
    assert outcome.downtime.blackout_ms == pytest.approx((there.began - here.ended) * 1000, abs=2)
    assert (outcome.bytes, outcome.passes) == (0, 0)
    phases = scene.phases()
    way = [Phase.POWERING_OFF, Phase.STARTING, Phase.COMMITTING, Phase.FINISHING, Phase.DONE]
    assert phases[phases.index(Phase.POWERING_OFF) :] == way


def test_a_long_standstill_is_no_error() -> None:
    """No watch over the switchover, no silence and no strategy takes a minute of standing still for a fault."""
    scene, outcome = moved(STATIC, lambda scene: scene.world.shape("one", "two", 6 * MIB), workload=LONG)
    assert outcome.status is COMPLETED
    assert outcome.downtime.blackout_ms is not None
    assert outcome.downtime.blackout_ms > 60_000
    assert outcome.passes <= 2
    assert scene.journal.states[-1].failure is None


@STORAGE
@pytest.mark.parametrize("delay", [0.0, 0.03, 0.1])
@pytest.mark.parametrize(("way", "phase"), ON_THE_WAY)
def test_a_cancel_lets_the_guest_run_on_where_it_was(way: Way, phase: Phase, delay: float, *, shared: bool) -> None:
    scene, outcome = moved(way, lambda scene: scene.at(phase, scene.cancel, delay), shared=shared)
    assert outcome.status in {CANCELLED, COMPLETED}
    if delay == 0 and phase in scene.phases() and phase is not Phase.SWITCHOVER:
        assert outcome.status is CANCELLED


@STORAGE
@pytest.mark.parametrize("delay", [0.0, 0.03, 0.1])
@pytest.mark.parametrize(("way", "phase"), ON_THE_WAY)
def test_the_target_s_qemu_dies(way: Way, phase: Phase, delay: float, *, shared: bool) -> None:
    def kill(scene: Stage) -> None:
        if "web" in scene.two.qemus and scene.world.executing("web") != ["two"]:
            scene.world.kill("two", "web")

    scene, outcome = moved(way, lambda scene: scene.at(phase, lambda: kill(scene), delay), shared=shared)
    assert outcome.status in {FAILED, COMPLETED, OutcomeStatus.GUEST_CRASHED}
    if outcome.status is FAILED:
        assert scene.state_on(scene.one) is RunState.RUNNING


@pytest.mark.parametrize("delay", [0.0, 0.05])
@pytest.mark.parametrize(("way", "phase"), ON_THE_WAY)
def test_the_source_s_qemu_dies(way: Way, phase: Phase, delay: float) -> None:
    """Nothing is started twice; a guest that was to be switched off is started again."""

    async def scenario() -> None:
        scene = scene_of(way, shared=False)

        def kill() -> None:
            if "web" in scene.one.qemus:
                scene.world.kill("one", "web")

        scene.at(phase, kill, delay)
        outcome = await scene.move()
        scene.assert_lawful()
        assert outcome.status is not OutcomeStatus.LIMBO or way is STATIC, outcome.error
        if phase is Phase.POWERING_OFF:
            await assert_settled(scene, outcome, shared=False)

    simulate(scenario)


@pytest.mark.parametrize("way", BOTH)
def test_a_deadline_that_passes_lets_the_guest_run_on(way: Way) -> None:
    scene, outcome = moved(way, workload=replace(LONG, power_off=5.0), deadline=3.0)
    assert outcome.status is FAILED
    assert "deadline" in outcome.error
    assert "--max-downtime" not in outcome.remedy
    assert scene.state_on(scene.one) is RunState.RUNNING


# -- runners that die --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pause", [0.02, 40.0], ids=["restarted at once", "restarted late"])
@pytest.mark.parametrize("number", range(1, 60, 2))
@pytest.mark.parametrize("way", BOTH)
def test_the_runner_dies_before_any_question(way: Way, number: int, pause: float) -> None:
    async def scenario() -> None:
        shared = number % 4 == 1
        scene = scene_of(way, shared=shared)
        scene.dies_before_question(number)
        outcome = await scene.move(pause=pause)
        await assert_settled(scene, outcome, shared=shared)
        assert outcome.status in {COMPLETED, FAILED}

    simulate(scenario)


@STORAGE
@pytest.mark.parametrize("unsynced", [False, True], ids=["a process", "a machine"])
@pytest.mark.parametrize("number", range(1, 16))
@pytest.mark.parametrize("way", BOTH)
def test_the_runner_dies_at_any_transition(way: Way, number: int, *, unsynced: bool, shared: bool) -> None:
    async def scenario() -> None:
        scene = scene_of(way, shared=shared)
        scene.dies_at_write(number, written=True)
        await scene.begin()
        outcome = await scene.runner()
        if outcome is None:
            if unsynced:
                scene.journal.lose_unsynced("web-1")
            outcome = await scene.go_on()
        await assert_settled(scene, outcome, shared=shared)
        assert outcome.status in {COMPLETED, FAILED}

    simulate(scenario)


@pytest.mark.parametrize("phase", [Phase.POWERING_OFF, Phase.STARTING, Phase.COMMITTING])
@pytest.mark.parametrize("delay", [0.0, 0.01, 0.05, 0.2])
@STORAGE
def test_a_new_runner_goes_on_with_a_guest_that_is_being_switched_off(
    phase: Phase, delay: float, *, shared: bool
) -> None:
    scene, outcome = moved(
        OFF, lambda scene: scene.at(phase, scene.died.set, delay), shared=shared, workload=SLOW_TO_GO
    )
    assert outcome.status is COMPLETED, outcome.error
    assert scene.runners == 2 or delay > 0


@pytest.mark.parametrize("number", range(1, 24, 2))
@pytest.mark.parametrize("phase", [Phase.POWERING_OFF, Phase.STARTING])
def test_the_runner_dies_while_a_guest_that_was_off_is_taken_back(phase: Phase, number: int) -> None:
    async def scenario() -> None:
        scene = scene_of(OFF, shared=number % 4 == 1)
        asked = 0

        async def tick() -> None:
            nonlocal asked
            if scene.journal.wished.is_set() and scene.runners == 1:
                asked += 1
                if asked == number:
                    await scene.die()

        scene.one.tick = scene.two.tick = tick
        scene.at(phase, scene.cancel, 0.0)
        outcome = await scene.move()
        await assert_settled(scene, outcome, shared=number % 4 == 1)
        assert outcome.status is CANCELLED

    simulate(scenario)


@pytest.mark.parametrize("way", BOTH)
def test_the_guest_goes_on_until_the_probe_that_is_to_see_the_gap_watches(way: Way) -> None:
    def slowly(scene: Stage) -> None:
        scene.spec = replace(scene.spec, probe=ProbeRequest(ADDRESS))
        scene.probe_takes = 3.0

    _, outcome = moved(way, slowly)
    assert outcome.status is COMPLETED
    assert outcome.downtime.client_gap_ms is not None
    assert outcome.downtime.blackout_ms is None or outcome.downtime.client_gap_ms >= outcome.downtime.blackout_ms


# -- a guest that is switched off --------------------------------------------------------------------------------------


@STORAGE
def test_a_guest_that_ignores_its_power_button_runs_on_undisturbed(*, shared: bool) -> None:
    scene, outcome = moved(OFF, shared=shared, workload=replace(SMALL, power_off=None), off_timeout=7.0)
    assert outcome.status is FAILED
    assert "did not obey its power button within 7" in outcome.error
    assert "--off-timeout" in outcome.remedy
    assert len(scene.world.runs) == 1, "it was not interrupted once"
    assert 7 < outcome.total_s < 9


def test_a_press_that_a_booting_guest_does_not_hear_is_repeated() -> None:
    _, outcome = moved(OFF, workload=replace(SMALL, presses_missed=2))
    assert outcome.status is COMPLETED
    assert 20 < outcome.total_s < 25


def test_a_guest_that_ignores_its_button_may_have_an_agent() -> None:
    _, outcome = moved(OFF, workload=replace(SMALL, power_off=None, agent=True))
    assert outcome.status is COMPLETED
    assert outcome.total_s < 5


def test_an_agent_that_is_only_starting_is_asked_again() -> None:
    def begin(scene: Stage) -> None:
        qemu = scene.one.qemus[scene.vm.name]
        ready = replace(qemu.workload, agent=True)
        asyncio.get_running_loop().call_later(5, setattr, qemu, "workload", ready)

    _, outcome = moved(OFF, begin, workload=replace(SMALL, power_off=None, agent=False))
    assert outcome.status is COMPLETED
    assert 10 < outcome.total_s < 15


def test_an_agent_that_does_not_answer_is_no_reason_not_to_press_the_button() -> None:
    async def scenario() -> None:
        scene = scene_of(OFF, shared=True, workload=replace(SMALL, agent=False))
        assert (await scene.move()).status is COMPLETED
        notes = [line.data.get("text") for line in await scene.journal.entries(scene.spec.id) if line.kind == "note"]
        assert "the power button is pressed: no guest agent answered within 3 s" in notes

    simulate(scenario)


@pytest.mark.parametrize("outlived", [True, False], ids=["while its QEMU outlives it", "an instant later"])
def test_a_guest_that_obeys_at_last_while_it_is_taken_back_runs_again(
    monkeypatch: pytest.MonkeyPatch, *, outlived: bool
) -> None:
    """Its QEMU is told to end with it again, and it obeys between the look before that and the command, or after."""
    keeps = FakeGuest.keep_after_power_off

    async def obeying(self: FakeGuest, *, keep: bool) -> None:
        if not keep and outlived:
            self._qemu.inside._switch_off(0)
        await keeps(self, keep=keep)
        if not keep and not outlived:
            self._qemu.inside._switch_off(0)

    monkeypatch.setattr(FakeGuest, "keep_after_power_off", obeying)
    scene, outcome = moved(OFF, workload=replace(SMALL, power_off=None), off_timeout=3.0)
    assert outcome.status is FAILED
    assert "did not obey its power button" in outcome.error
    assert len(scene.world.runs) == 2, "it was off, and was started again"
    assert not scene.journal.states[-1].leftovers


def test_a_guest_that_may_yet_obey_its_power_button_is_named() -> None:
    """It was pressed, the guest was waited for, and nobody can take a press back."""
    scene, outcome = moved(
        OFF,
        lambda scene: scene.at(Phase.POWERING_OFF, scene.cancel, 0.5),
        workload=replace(SMALL, power_off=None),
        off_timeout=7.0,
    )
    assert outcome.status is CANCELLED
    assert scene.journal.states[-1].leftovers == (
        "web may yet obey its power button: should it, godwit vm start web starts it again",
    )


@STORAGE
def test_a_target_that_does_not_start_leads_back_and_the_guest_is_started_where_it_was(*, shared: bool) -> None:
    def refuse(scene: Stage) -> None:
        scene.world.refuse("two", "launch", "could not allocate memory")

    scene, outcome = moved(OFF, lambda scene: scene.at(Phase.POWERING_OFF, lambda: refuse(scene)), shared=shared)
    assert outcome.status is FAILED
    assert "could not allocate memory" in outcome.error
    assert scene.state_on(scene.one) is RunState.RUNNING


def test_what_keeps_the_target_from_starting_is_found_while_the_guest_runs() -> None:
    scene, outcome = moved(OFF, lambda scene: scene.world.refuse("two", "launch", "no such machine"))
    assert outcome.status is FAILED
    assert len(scene.world.runs) == 1


def test_a_copy_that_breaks_off_while_the_guest_switches_itself_off() -> None:
    def break_off(scene: Stage) -> None:
        for mirror in list(scene.one.qemus["web"].blocks.mirrors.values()):
            mirror.finish("No space left on device")

    scene, outcome = moved(
        OFF,
        lambda scene: scene.at(Phase.POWERING_OFF, lambda: break_off(scene), 1.0),
        shared=False,
        workload=SLOW_TO_GO,
    )
    assert outcome.status is FAILED
    assert "No space left on device" in outcome.error
    assert scene.state_on(scene.one) is RunState.RUNNING
    assert len(scene.world.runs) == 2, "it was off already on its way, and was started again"


def test_a_guest_that_was_not_asked_yet_is_not_waited_for() -> None:
    def lose_the_target(scene: Stage) -> None:
        scene.two.qemus["web"].exit("somebody killed it")

    scene, outcome = moved(OFF, lambda scene: scene.at(Phase.POWERING_OFF, lambda: lose_the_target(scene), 0.1))
    assert outcome.status is FAILED
    assert len(scene.world.runs) == 1
    assert outcome.total_s < 10


def test_the_source_is_silent_for_a_moment_while_the_guest_switches_itself_off() -> None:
    def cut(scene: Stage) -> None:
        scene.world.cut("one")

    async def scenario() -> None:
        scene = scene_of(OFF, shared=True, workload=SLOW_TO_GO)
        scene.at(Phase.POWERING_OFF, lambda: cut(scene), 1.0)
        move = asyncio.create_task(scene.move())
        await scene.world.clock.sleep(8)
        scene.world.heal("one")
        outcome = await move
        await assert_settled(scene, outcome, shared=True)
        assert outcome.status is COMPLETED

    simulate(scenario)
