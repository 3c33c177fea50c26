"""A guest that goes over to the target before its memory, and everything that can happen to it on the way."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from stage import ID, Stage, simulate, stage

from godwit.core.dirtying import WINDOWS
from godwit.core.learning import PAYLOAD
from godwit.core.state import Phase
from godwit.hosts.fake import Workload
from godwit.model import (
    DirtyWindow,
    LinkSaid,
    MemorySample,
    OutcomeStatus,
    Owner,
    Permission,
    Policy,
    Profile,
    RunState,
)
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from godwit.model import Outcome

ENDLESS = Workload(256 * MIB, used=64 * MIB, hot_set=48 * MIB, dirty_rate=400 * MIB)
MAY = Policy(allows=frozenset({Permission.POSTCOPY}))
FOLLOWS = ("postcopy", "finishing")
MENDED = 2.0
"""Seconds after its link is back within which a guest gets memory again."""

REST = 1.1
"""Seconds that the rest of its memory takes over this link."""


def moved(prepare: Callable[[Stage], object] = lambda _: None, *, restarts: int = 3) -> tuple[Stage, Outcome]:
    async def scenario() -> tuple[Stage, Outcome]:
        made = stage(ENDLESS, policy=MAY)
        prepare(made)
        outcome = await made.move(restarts=restarts)
        await made.assert_settled(outcome)
        return made, outcome

    return simulate(scenario)


def test_a_guest_that_nothing_else_ends_goes_over_and_its_memory_follows() -> None:
    scene, outcome = moved()
    assert outcome.status is OutcomeStatus.COMPLETED
    assert scene.phases()[2:] == [
        *(Phase.PRECOPY, Phase.SWITCHOVER, Phase.COMMITTING, Phase.POSTCOPY, Phase.FINISHING, Phase.DONE)
    ]
    assert outcome.downtime.blackout_ms is not None
    assert outcome.downtime.blackout_ms < 30


def test_one_of_which_that_is_known_beforehand_does_so_after_its_first_pass() -> None:
    async def scenario() -> None:
        scene = stage(ENDLESS, policy=MAY)
        now = scene.world.clock.now()
        windows = tuple(DirtyWindow(seconds, round(ENDLESS.dirtied(seconds))) for seconds, _ in WINDOWS)
        sample = MemorySample(4096, 3072, 800, 1.0, 1.0, 1.0)
        await scene.journal.history.put_profile(Profile("web", "one", now, ENDLESS.memory, windows, sample))
        await scene.journal.history.put_link(LinkSaid(("one", "two"), 50e6 / PAYLOAD, now))
        outcome = await scene.move()
        await scene.assert_settled(outcome)
        assert outcome.status is OutcomeStatus.COMPLETED
        lines = [line for line in await scene.journal.entries(ID) if line.data.get("event") == "Decided"]
        (detail,) = [line.data["detail"] for line in lines]
        assert isinstance(detail, dict)
        assert detail["action"] == "postcopy"
        assert detail["reason"].startswith("as forecast")
        assert detail["evidence"].startswith("pass 1 has left")

    simulate(scenario)


def test_it_stays_where_it_is_unless_that_is_permitted() -> None:
    async def scenario() -> None:
        scene = stage(ENDLESS, policy=Policy(allows=frozenset(), deadline=20.0))
        outcome = await scene.move()
        await scene.assert_settled(outcome)
        assert outcome.status is OutcomeStatus.FAILED
        assert Phase.POSTCOPY not in scene.phases()

    simulate(scenario)


def test_a_word_to_go_over_that_was_lost_is_said_again() -> None:
    """One that QEMU refuses once, or that gets lost, must not be the last: nothing else would end this move."""
    _, outcome = moved(lambda scene: scene.world.refuse("one", "migrate-start-postcopy", "not now", times=1))
    assert outcome.status is OutcomeStatus.COMPLETED


def test_memory_that_follows_takes_no_more_of_the_link_than_is_permitted() -> None:
    async def scenario() -> None:
        scene = stage(ENDLESS, policy=replace(MAY, bandwidth=20_000_000))
        outcome = await scene.move()
        await scene.assert_settled(outcome)
        lines = [
            line for line in await scene.journal.entries(ID) if line.data.get("phase") in {"postcopy", "finishing"}
        ]
        assert lines[1].at - lines[0].at > 48e6 / 20e6

    simulate(scenario)


@pytest.mark.parametrize("seconds", [0.3, 5.0, 40.0])
def test_a_link_that_is_cut_while_memory_follows_is_mended_as_soon_as_it_is_back(seconds: float) -> None:
    async def scenario() -> None:
        scene = stage(ENDLESS, policy=MAY)
        healed: list[float] = []

        def cut() -> None:
            scene.world.cut("one", "two")
            asyncio.get_running_loop().call_later(seconds, heal)

        def heal() -> None:
            scene.world.heal("one", "two")
            healed.append(scene.world.clock.now())

        scene.at(Phase.POSTCOPY, cut, delay=0.05)
        outcome = await scene.move()
        await scene.assert_settled(outcome)
        assert outcome.status is OutcomeStatus.COMPLETED
        there = next(line.at for line in await scene.journal.entries(ID) if line.data.get("phase") == "finishing")
        assert 0 < there - healed[0] < MENDED + REST

    simulate(scenario)


def test_a_connection_that_one_side_has_given_up_is_mended() -> None:
    """Its link works: the processes alone have lost each other."""

    async def scenario() -> None:
        scene = stage(ENDLESS, policy=MAY)
        scene.at(Phase.POSTCOPY, scene.one.qemus["web"].break_stream, delay=0.05)
        outcome = await scene.move()
        await scene.assert_settled(outcome)
        assert outcome.status is OutcomeStatus.COMPLETED
        assert "StreamMended" in [line.data.get("event") for line in await scene.journal.entries(ID)]

    simulate(scenario)


@pytest.mark.parametrize("side", ["one", "two"])
def test_a_process_that_dies_while_memory_follows_is_the_end_of_the_guest_and_it_is_said(side: str) -> None:
    def kill(scene: Stage) -> None:
        host = scene.one if side == "one" else scene.two
        scene.at(Phase.POSTCOPY, lambda: host.qemus["web"].exit("killed"), delay=0.05)

    async def scenario() -> None:
        scene = stage(ENDLESS, policy=MAY)
        kill(scene)
        outcome = await scene.move()
        scene.assert_lawful()
        # A target that waits for a page that was on the source answers nobody, but its host says that it lives.
        assert outcome.status is OutcomeStatus.GUEST_CRASHED
        assert scene.state_on(scene.one) is not RunState.RUNNING
        assert outcome.owner is Owner.TARGET
        assert "process is gone" in outcome.error
        assert any("memory that is gone" in left for left in outcome.leftovers)

    simulate(scenario)


def test_a_wish_that_it_stays_comes_too_late() -> None:
    _, outcome = moved(lambda scene: scene.at(Phase.POSTCOPY, scene.cancel))
    assert outcome.status is OutcomeStatus.COMPLETED


@pytest.mark.parametrize("number", range(1, 46))
def test_a_runner_that_dies_before_any_question_is_followed(number: int) -> None:
    _, outcome = moved(lambda scene: scene.dies_before_question(number))
    assert outcome.status in {OutcomeStatus.COMPLETED, OutcomeStatus.FAILED}


@pytest.mark.parametrize("written", [False, True], ids=["before it is written", "after"])
@pytest.mark.parametrize("number", range(1, 16))
def test_a_runner_that_dies_at_any_transition_is_followed(number: int, *, written: bool) -> None:
    _, outcome = moved(lambda scene: scene.dies_at_write(number, written=written))
    assert outcome.status in {OutcomeStatus.COMPLETED, OutcomeStatus.FAILED}
