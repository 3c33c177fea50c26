"""Moves that are put off until their guest writes less, and what ends the waiting besides."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from stage import ID, Stage, simulate, stage

from godwit.core.dirtying import WINDOWS
from godwit.core.learning import PAYLOAD
from godwit.core.state import Phase
from godwit.hosts.fake import Workload
from godwit.model import DirtyWindow, LinkSaid, OutcomeStatus, Policy, Profile
from godwit.units import MIB

if TYPE_CHECKING:
    from godwit.model import Outcome

BUSY = Workload(256 * MIB, used=64 * MIB, hot_set=48 * MIB, dirty_rate=120 * MIB)
CALM = replace(BUSY, hot_set=MIB, dirty_rate=4 * MIB)


def becomes(scene: Stage, load: Workload) -> None:
    """Let the guest do something else from now on."""
    for host in (scene.one, scene.two):
        if "web" in host.qemus:
            host.qemus["web"].workload = load


async def moved(scene: Stage) -> tuple[Outcome, str]:
    """Carry a move over a link of which somebody has said what it carries; return what was noted, too."""
    await scene.journal.history.put_link(LinkSaid(("one", "two"), 50e6 / PAYLOAD, 0.0))
    outcome = await scene.move()
    await scene.assert_settled(outcome)
    return outcome, "\n".join(str(line.data.get("text", "")) for line in await scene.journal.entries(ID))


async def throttles(scene: Stage) -> list[object]:
    return [line.data["throttle"] for line in await scene.journal.entries(ID) if line.kind == "strategy"]


def test_a_guest_that_writes_less_after_a_while_is_moved_then() -> None:
    async def scenario() -> None:
        scene = stage(BUSY, policy=Policy(wait=120.0))
        scene.at(Phase.PENDING, lambda: becomes(scene, CALM), delay=30.0)
        outcome, said = await moved(scene)
        assert outcome.status is OutcomeStatus.COMPLETED
        assert "waits for a quieter moment, 2min 00s at most" in said
        assert "a quieter moment after" in said
        assert await throttles(scene) == [0]
        assert 30 < (outcome.start_delay_s or 0) < 70

    simulate(scenario)


def test_what_was_waited_is_not_learned_from() -> None:
    async def scenario() -> None:
        scene = stage(BUSY, policy=Policy(wait=120.0))
        scene.at(Phase.PENDING, lambda: becomes(scene, CALM), delay=30.0)
        outcome, _ = await moved(scene)
        assert (outcome.start_delay_s or 0) > 30
        (record,) = await scene.journal.history.moves()
        assert record.start_delay < 3
        assert record.total < 10

    simulate(scenario)


def test_a_look_that_fails_once_ends_no_waiting() -> None:
    async def scenario() -> None:
        scene = stage(BUSY, policy=Policy(wait=120.0))
        loop = asyncio.get_running_loop()
        scene.at(Phase.PENDING, lambda: loop.call_later(12.0, becomes, scene, CALM), delay=20.0)
        loop.call_later(10.0, lambda: scene.world.refuse("one", "calc-dirty-rate", times=1))
        outcome, said = await moved(scene)
        assert outcome.status is OutcomeStatus.COMPLETED
        assert "what it writes could not be seen" in said
        assert "a quieter moment after" in said

    simulate(scenario)


def test_what_was_known_long_ago_is_looked_at_again() -> None:
    """It was calm an hour ago, and writes hard now."""

    async def scenario() -> None:
        scene = stage(BUSY, policy=Policy(wait=40.0))
        windows = tuple(DirtyWindow(seconds, round(CALM.dirtied(seconds))) for seconds, _ in WINDOWS)
        old = Profile("web", "one", scene.world.clock.now() - 3600, BUSY.memory, windows)
        await scene.journal.history.put_profile(old)
        outcome, said = await moved(scene)
        assert outcome.status is OutcomeStatus.COMPLETED
        assert "waits for a quieter moment" in said
        assert await throttles(scene) != [0]

    simulate(scenario)


def test_a_guest_too_small_to_be_sampled_is_not_waited_for() -> None:
    async def scenario() -> None:
        small = Workload(64 * MIB, used=32 * MIB, hot_set=MIB, dirty_rate=1.0 * MIB)
        scene = stage(small, policy=Policy(wait=60.0))
        outcome, said = await moved(scene)
        assert outcome.status is OutcomeStatus.COMPLETED
        assert "samples no memory as small" in said

    simulate(scenario)


def test_one_that_never_does_is_moved_as_it_is() -> None:
    async def scenario() -> None:
        scene = stage(BUSY, policy=Policy(wait=40.0))
        outcome, said = await moved(scene)
        assert outcome.status is OutcomeStatus.COMPLETED
        assert "no quieter moment within" in said
        assert await throttles(scene) != [0]
        assert 30 < (outcome.start_delay_s or 0) < 45

    simulate(scenario)


def test_nobody_waits_for_one_that_is_calm() -> None:
    async def scenario() -> None:
        scene = stage(CALM, policy=Policy(wait=600.0))
        outcome, said = await moved(scene)
        assert outcome.status is OutcomeStatus.COMPLETED
        assert "quieter" not in said
        assert (outcome.start_delay_s or 0) < 20  # it had never been looked at

    simulate(scenario)


def test_the_time_that_its_deadline_leaves_is_not_waited_away() -> None:
    async def scenario() -> None:
        scene = stage(BUSY, policy=Policy(wait=80.0, deadline=90.0))
        outcome, _ = await moved(scene)
        assert outcome.status is OutcomeStatus.COMPLETED
        assert outcome.total_s < 90

    simulate(scenario)


def test_who_waits_can_be_called_back() -> None:
    async def scenario() -> None:
        scene = stage(BUSY, policy=Policy(wait=600.0))
        scene.at(Phase.PENDING, scene.cancel, delay=25.0)
        outcome, _ = await moved(scene)
        assert outcome.status is OutcomeStatus.CANCELLED
        assert outcome.total_s < 40

    simulate(scenario)


def test_a_guest_that_cannot_be_looked_at_is_not_waited_for() -> None:
    async def scenario() -> None:
        scene = stage(BUSY, policy=Policy(wait=600.0))
        scene.world.refuse("one", "calc-dirty-rate")
        outcome, said = await moved(scene)
        assert outcome.status is OutcomeStatus.COMPLETED
        assert "nobody waits for a quieter moment: " in said

    simulate(scenario)
