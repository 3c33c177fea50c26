"""The user's hooks around a move: when each runs, what it is told, and what its failure means."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from stage import LONG, SMALL, Stage, simulate, stage

from godwit.core.state import Phase
from godwit.hosts.fakehooks import FakeHooks
from godwit.model import OutcomeStatus, Policy, Way

if TYPE_CHECKING:
    from godwit.model import Outcome

COMPLETED, CANCELLED, REFUSED = OutcomeStatus.COMPLETED, OutcomeStatus.CANCELLED, OutcomeStatus.REFUSED


def hooked(scene: Stage, **statuses: int | None) -> FakeHooks:
    named = {name.replace("_", "-"): status for name, status in statuses.items()}
    scene.hooks = FakeHooks(scene.world.clock, named)
    return scene.hooks


def test_hooks_run_around_a_move_and_are_told_how_it_ended() -> None:
    async def scenario() -> tuple[Outcome, FakeHooks, Stage]:
        scene = stage(SMALL)
        hooks = hooked(scene)
        return await scene.move(), hooks, scene

    outcome, hooks, scene = simulate(scenario)
    assert outcome.status is COMPLETED
    assert hooks.names("web") == ["before-move", "after-switchover", "after-move"]
    first, _, last = hooks.runs
    assert first == {
        "GODWIT_HOOK": "before-move",
        "GODWIT_MIGRATION": "web-1",
        "GODWIT_GUEST": "web",
        "GODWIT_GUEST_ADDRESS": "198.18.0.9",
        "GODWIT_SOURCE": "one",
        "GODWIT_TARGET": "two",
        "GODWIT_TARGET_ADDRESS": scene.two.migration_address,
        "GODWIT_WAY": "live",
        "GODWIT_ATTEMPT": "1",
    }
    assert (last["GODWIT_OUTCOME"], last["GODWIT_RUNS_ON"], last["GODWIT_ERROR"]) == ("completed", "two", "")


@pytest.mark.parametrize("status", [3, None])
def test_a_hook_that_fails_or_hangs_before_the_move_keeps_the_guest_where_it_is(status: int | None) -> None:
    async def scenario() -> tuple[Outcome, FakeHooks, Stage]:
        scene = stage(SMALL)
        hooks = hooked(scene, before_move=status)
        outcome = await scene.move()
        await scene.assert_settled(outcome)
        return outcome, hooks, scene

    outcome, hooks, scene = simulate(scenario)
    assert outcome.status is REFUSED
    assert "the hook before-move" in outcome.error
    assert ("had not ended after 1min" if status is None else "failed with status 3") in outcome.error
    assert "said a word" in outcome.error
    assert Phase.PREPARING not in scene.phases()
    assert hooks.names("web") == ["before-move", "move-failed"]
    assert hooks.runs[-1]["GODWIT_RUNS_ON"] == "one"


@pytest.mark.parametrize("name", ["after-switchover", "after-move"])
@pytest.mark.parametrize("status", [1, None])
def test_a_hook_that_fails_later_is_a_warning(name: str, status: int | None) -> None:
    async def scenario() -> Outcome:
        scene = stage(SMALL)
        hooked(scene, **{name: status})
        outcome = await scene.move()
        await scene.assert_settled(outcome)
        return outcome

    outcome = simulate(scenario)
    assert outcome.status is COMPLETED
    assert [finding.code for finding in outcome.findings if name in finding.found] == ["hook"]


def test_a_hook_that_may_not_be_run_blocks_the_move_before_any_is() -> None:
    async def scenario() -> tuple[Outcome, FakeHooks]:
        scene = stage(SMALL)
        hooks = hooked(scene)
        hooks.unsafe["after-move"] = "others can write to it"
        return await scene.move(), hooks

    outcome, hooks = simulate(scenario)
    assert outcome.status is REFUSED
    assert "the hook after-move would not be run: others can write to it" in outcome.error
    assert hooks.runs == []


def test_a_move_that_is_refused_by_its_checks_runs_no_hook() -> None:
    async def scenario() -> tuple[Outcome, FakeHooks]:
        scene = stage(SMALL, bridges=())
        hooks = hooked(scene)
        return await scene.move(), hooks

    outcome, hooks = simulate(scenario)
    assert outcome.status is REFUSED
    assert hooks.runs == []


def test_a_move_that_is_taken_back_ends_with_the_hook_for_that() -> None:
    async def scenario() -> tuple[Outcome, FakeHooks]:
        scene = stage(LONG)
        hooks = hooked(scene)
        scene.at(Phase.PRECOPY, scene.cancel)
        return await scene.move(), hooks

    outcome, hooks = simulate(scenario)
    assert outcome.status is CANCELLED
    assert hooks.names("web") == ["before-move", "move-failed"]
    assert hooks.runs[-1]["GODWIT_OUTCOME"] == "cancelled"


def test_a_cancel_ends_the_hook_that_is_at_work_before_the_last_one_begins() -> None:
    async def scenario() -> tuple[Outcome, FakeHooks]:
        scene = stage(SMALL)
        hooks = hooked(scene)
        hooks.seconds = 20.0
        asyncio.get_running_loop().call_later(5, scene.cancel)
        return await scene.move(), hooks

    outcome, hooks = simulate(scenario)
    assert outcome.status is CANCELLED
    assert hooks.names("web") == ["before-move", "move-failed"]
    assert hooks.ended == ["move-failed"]


def test_a_runner_that_follows_another_runs_the_hook_again_and_says_that_it_does() -> None:
    async def scenario() -> tuple[Outcome, FakeHooks]:
        scene = stage(SMALL)
        hooks = hooked(scene)
        hooks.seconds = 5.0
        asyncio.get_running_loop().call_later(2, scene.died.set)
        return await scene.move(), hooks

    outcome, hooks = simulate(scenario)
    assert outcome.status is COMPLETED
    assert [(run["GODWIT_HOOK"], run["GODWIT_ATTEMPT"]) for run in hooks.runs] == [
        ("before-move", "1"),
        ("before-move", "2"),
        ("after-switchover", "2"),
        ("after-move", "2"),
    ]


def test_what_a_former_runner_began_is_ended_by_the_last_hook_even_if_this_one_is_refused() -> None:
    async def scenario() -> tuple[Outcome, FakeHooks]:
        scene = stage(SMALL)
        hooks = hooked(scene)
        hooks.seconds = 5.0

        def dies() -> None:
            scene.two._bridges = ()
            scene.died.set()

        asyncio.get_running_loop().call_later(2, dies)
        return await scene.move(), hooks

    outcome, hooks = simulate(scenario)
    assert outcome.status is REFUSED
    assert hooks.names("web") == ["before-move", "move-failed"]


def test_the_way_of_a_move_is_told() -> None:
    async def scenario() -> FakeHooks:
        scene = stage(SMALL)
        scene.spec = replace(scene.spec, policy=replace(Policy(), way=Way.STATIC))
        hooks = hooked(scene)
        await scene.move()
        return hooks

    assert {run["GODWIT_WAY"] for run in simulate(scenario).runs} == {"static"}


@pytest.mark.parametrize("takes", [0.01, 20.0])
def test_a_hook_that_was_at_work_when_the_move_was_done_is_run_again_unless_it_had_ended(takes: float) -> None:
    async def scenario() -> tuple[Outcome, FakeHooks]:
        scene = stage(SMALL)
        hooks = hooked(scene)
        hooks.seconds = takes
        scene.at(Phase.DONE, scene.died.set)
        return await scene.move(), hooks

    outcome, hooks = simulate(scenario)
    assert outcome.status is COMPLETED
    assert hooks.names("web").count("after-switchover") == (2 if takes > 1 else 1)
    assert hooks.names("web")[-1] == "after-move"
