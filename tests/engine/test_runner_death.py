"""A runner that dies at any instant is followed by another, and the world ends as it must."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from stage import ID, Stage, simulate, stage

from godwit.core.state import Phase
from godwit.errors import SupersededError
from godwit.model import OutcomeStatus, RunState

if TYPE_CHECKING:
    from godwit.core.state import State
    from godwit.model import Outcome

QUESTIONS = range(1, 37)
WRITES = range(1, 12)
ENDED_WELL = {OutcomeStatus.COMPLETED, OutcomeStatus.FAILED}


async def settles(scene: Stage, pause: float) -> Outcome:
    outcome = await scene.move(pause=pause)
    await scene.assert_settled(outcome)
    return outcome


@pytest.mark.parametrize("pause", [0.02, 40.0], ids=["restarted at once", "restarted late"])
@pytest.mark.parametrize("number", QUESTIONS)
def test_before_any_question(number: int, pause: float) -> None:
    async def scenario() -> None:
        scene = stage()
        scene.dies_before_question(number)
        outcome = await settles(scene, pause)
        assert outcome.status in ENDED_WELL

    simulate(scenario)


@pytest.mark.parametrize("pause", [0.02, 40.0], ids=["restarted at once", "restarted late"])
@pytest.mark.parametrize("written", [True, False], ids=["written", "not written"])
@pytest.mark.parametrize("number", WRITES)
def test_at_any_transition(number: int, pause: float, *, written: bool) -> None:
    async def scenario() -> None:
        scene = stage()
        scene.dies_at_write(number, written=written)
        outcome = await settles(scene, pause)
        assert scene.runners == 2
        assert outcome.status in ENDED_WELL

    simulate(scenario)


@pytest.mark.parametrize("number", WRITES)
def test_a_machine_that_loses_power_loses_only_what_was_not_durable(number: int) -> None:
    async def scenario() -> None:
        scene = stage()
        scene.dies_at_write(number, written=True)
        await scene.begin()
        assert await scene.runner() is None
        scene.journal.lose_unsynced(ID)
        await scene.assert_settled(await scene.go_on())

    simulate(scenario)


@pytest.mark.parametrize("first", [6, 12, 18, 24, 26, 28, 30])
@pytest.mark.parametrize("second", range(1, 16, 2))
def test_the_next_runner_may_die_as_well(first: int, second: int) -> None:
    async def scenario() -> None:
        scene = stage()
        asked: dict[int, int] = {}

        async def tick() -> None:
            asked[scene.runners] = asked.get(scene.runners, 0) + 1
            if asked[scene.runners] == {1: first, 2: second}.get(scene.runners):
                await scene.die()

        scene.one.tick = scene.two.tick = tick
        await scene.assert_settled(await scene.move())

    simulate(scenario)


@pytest.mark.parametrize("number", [*range(1, 30, 3)])
def test_while_going_back(number: int) -> None:
    """The first runner is cancelled in the middle of the stream and dies on the way back."""

    async def scenario() -> None:
        scene = stage()
        asked = 0

        async def tick() -> None:
            nonlocal asked
            if scene.journal.wished.is_set() and scene.runners == 1:
                asked += 1
                if asked == number:
                    await scene.die()

        scene.one.tick = scene.two.tick = tick
        scene.at(Phase.PRECOPY, scene.cancel, 0.05)
        outcome = await settles(scene, 0.05)
        assert outcome.status is OutcomeStatus.CANCELLED

    simulate(scenario)


@pytest.mark.parametrize("number", WRITES)
@pytest.mark.parametrize("side", ["one", "two"])
def test_a_qemu_that_dies_while_no_runner_looks(number: int, side: str) -> None:
    """Whatever the next runner concludes, no copy is started that may be a second one or an old one."""

    async def scenario() -> None:
        scene = stage(address=None)
        scene.dies_at_write(number, written=True)
        await scene.begin()
        assert await scene.runner() is None
        if "web" in scene.world.hosts[side].qemus:
            scene.world.kill(side, "web")
        outcome = await scene.go_on()
        scene.assert_lawful()
        if outcome.status is OutcomeStatus.LIMBO:
            assert "source: " in outcome.error
            assert "target: " in outcome.error
            return
        owner = {"one": "source", "two": "target"}
        assert [owner[host] for host in scene.world.executing("web")] in ([], [outcome.owner])
        assert RunState.INCOMING not in {scene.state_on(scene.one), scene.state_on(scene.two)}
        assert scene.one.leases == {}

    simulate(scenario)


def test_a_runner_that_was_superseded_does_nothing_more() -> None:
    async def scenario() -> None:
        scene = stage()

        async def another_takes_over(state: State) -> None:
            if state.phase is Phase.SWITCHOVER and scene.runners == 1:
                scene.runners = 2
                await scene.journal.take_over(ID)

        scene.journal.before = another_takes_over
        await scene.begin()
        with pytest.raises(SupersededError):
            await scene.runner()
        assert scene.world.executing("web") == []  # the source has stopped; only the other may decide what follows
        scene.world.drop_controller()
        await scene.assert_settled(await scene.go_on())

    simulate(scenario)


def test_a_runner_that_died_before_the_outcome_was_written_is_followed_by_one_that_writes_it() -> None:
    async def scenario() -> None:
        scene = stage()

        async def hook(state: State) -> None:
            if state.finished and scene.runners == 1:
                await scene.die()

        scene.journal.after = hook
        outcome = await settles(scene, 0.05)
        assert outcome.status is OutcomeStatus.COMPLETED

    simulate(scenario)


def test_the_instants_that_the_former_runner_saw_are_in_the_outcome() -> None:
    async def scenario() -> None:
        scene = stage()

        async def hook(state: State) -> None:
            if state.phase is Phase.FINISHING and scene.runners == 1:
                await scene.die()

        scene.journal.after = hook
        outcome = await settles(scene, 2.0)
        undisturbed = stage()
        expected = await settles(undisturbed, 1.0)
        assert outcome.status is OutcomeStatus.COMPLETED
        assert outcome.stream_s == pytest.approx(expected.stream_s, abs=0.05)
        assert outcome.downtime.blackout_ms == pytest.approx(expected.downtime.blackout_ms, abs=5)
        assert outcome.total_s == pytest.approx(expected.total_s, abs=0.05)

    simulate(scenario)
