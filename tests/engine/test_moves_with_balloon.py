"""A guest whose balloon takes its free memory while it moves: it has it back, however the move ends."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from stage import ID, Stage, simulate, stage

from godwit.core.state import Phase
from godwit.hosts.fake import Workload
from godwit.model import OutcomeStatus, Permission, Policy, Way
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

ONCE_USED = Workload(memory=512 * MIB, used=480 * MIB, hot_set=MIB, dirty_rate=1.0 * MIB, freed=380 * MIB)
USED = ONCE_USED.used - ONCE_USED.freed


async def said(scene: Stage) -> str:
    return "\n".join(str(entry.data.get("text", "")) for entry in await scene.journal.entries(ID))


def test_what_is_free_is_not_sent_and_given_back_on_the_target() -> None:
    async def scenario() -> None:
        scene = stage(ONCE_USED)
        outcome = await scene.move()
        await scene.assert_settled(outcome)
        assert outcome.status is OutcomeStatus.COMPLETED
        assert USED < outcome.bytes < 1.3 * USED
        assert "the balloon took" in await said(scene)
        (record,) = await scene.journal.history.moves()
        assert record.how.reclaim > 300 * MIB
        assert record.forecast is None or record.forecast.prospect.bytes.high < 1.5 * USED

    simulate(scenario)


CACHING = replace(ONCE_USED, freed=80 * MIB, cached=300 * MIB)
CAREFREE = Policy(allows=Policy().allows | {Permission.PAGE_CACHE})


@pytest.mark.parametrize(("policy", "least"), [(Policy(), CACHING.used - CACHING.freed), (CAREFREE, USED)])
def test_what_it_keeps_of_its_disks_is_left_to_it_unless_that_is_permitted(policy: Policy, least: int) -> None:
    async def scenario() -> None:
        scene = stage(CACHING, policy=policy)
        outcome = await scene.move()
        await scene.assert_settled(outcome)
        assert outcome.status is OutcomeStatus.COMPLETED
        assert least < outcome.bytes < 1.3 * least
        assert ("keeps what is on disks" in await said(scene)) is (policy is CAREFREE)

    simulate(scenario)


@pytest.mark.parametrize(
    "scene",
    [
        lambda: stage(ONCE_USED, policy=Policy(allows=frozenset())),
        lambda: stage(replace(ONCE_USED, yields=False)),
        lambda: stage(ONCE_USED, policy=Policy(way=Way.STATIC)),
    ],
    ids=["forbidden", "it would end a process", "it stands still"],
)
def test_a_balloon_that_may_not_is_left_alone(scene: Callable[[], Stage]) -> None:
    async def scenario() -> None:
        made = scene()
        outcome = await made.move()
        await made.assert_settled(outcome)
        assert outcome.status is OutcomeStatus.COMPLETED
        assert outcome.bytes > 0.99 * ONCE_USED.used

    simulate(scenario)


def test_a_balloon_that_cannot_be_looked_at_stops_no_move() -> None:
    async def scenario() -> None:
        scene = stage(ONCE_USED)
        scene.world.refuse("one", "query-balloon")
        outcome = await scene.move()
        await scene.assert_settled(outcome)
        assert outcome.status is OutcomeStatus.COMPLETED

    simulate(scenario)


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.PRECOPY])
def test_a_move_that_is_cancelled_gives_it_back_on_the_source(phase: Phase) -> None:
    async def scenario() -> None:
        scene = stage(ONCE_USED)
        scene.at(phase, scene.cancel, 0.02)
        outcome = await scene.move()
        await scene.assert_settled(outcome)
        assert outcome.status is OutcomeStatus.CANCELLED
        assert scene.one.qemus["web"].balloon == ONCE_USED.memory

    simulate(scenario)


@pytest.mark.parametrize("number", range(1, 40))
def test_whichever_runner_ends_the_move_gives_it_back(number: int) -> None:
    """A runner dies at its question of that number; that the balloon is as it was is part of being settled."""

    async def scenario() -> None:
        scene = stage(ONCE_USED)
        scene.dies_before_question(number)
        outcome = await scene.move()
        await scene.assert_settled(outcome)

    simulate(scenario)
