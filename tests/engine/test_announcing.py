"""A guest that has come to the target is announced there: with what is known of it, until it is seen, and no longer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from stage import SMALL, Stage, simulate, stage

from godwit.core.state import Phase
from godwit.errors import HostError
from godwit.model import Neighbours, OutcomeStatus

if TYPE_CHECKING:
    from godwit.hosts.fakewatch import FakeWatch
    from godwit.model import Outcome


async def notes(scene: Stage) -> str:
    return "\n".join(str(line.data.get("text")) for line in await scene.journal.entries("web-1") if line.kind == "note")


def test_the_target_announces_the_addresses_that_agent_and_source_know() -> None:
    async def scenario() -> tuple[Stage, Outcome]:
        scene = stage(replace(SMALL, agent=True))
        return scene, await scene.move()

    scene, outcome = simulate(scenario)
    assert outcome.status is OutcomeStatus.COMPLETED
    first, *_, last = [one.addresses for one in scene.two.announced]
    assert (first, last) == ((), ("198.18.0.9", "198.18.1.1"))
    assert scene.one.announced == []
    assert scene.world.broken_laws == []
    assert outcome.downtime.first_packet_ms is not None
    assert 0 <= outcome.downtime.first_packet_ms <= (outcome.downtime.client_gap_ms or 0)


def test_without_an_agent_the_source_s_neighbours_are_what_is_known() -> None:
    async def scenario() -> tuple[Stage, str]:
        scene = stage(replace(SMALL, agent=False))
        await scene.move()
        return scene, await notes(scene)

    scene, told = simulate(scenario)
    assert [one.addresses for one in scene.two.announced] == [(), ("198.18.1.1",)]
    assert "announced 2 times by QEMU, with 3 frames by two" in told


def test_an_address_that_has_left_the_guest_or_is_another_s_is_not_announced() -> None:
    """A cluster's address goes to its other node while memory travels; and an agent may name its host's gateway."""

    async def scenario() -> Stage:
        scene = stage(replace(SMALL, agent=True))
        left = Neighbours(routers=frozenset({"52:54:00:00:00:00"}))
        scene.at(Phase.SWITCHOVER, lambda: setattr(scene.one, "neighbourhood", left))
        scene.two.neighbourhood = Neighbours(others=frozenset({"198.18.0.9"}))
        await scene.move()
        return scene

    scene = simulate(scenario)
    assert {one.addresses for one in scene.two.announced} == {()}
    assert scene.two.announced[-1].router


def test_nothing_but_the_nic_is_announced_where_nobody_knows_whose_addresses_are() -> None:
    async def scenario() -> Stage:
        scene = stage(replace(SMALL, agent=True))

        async def refuses(macs: object) -> Neighbours:
            raise HostError(f"no list of {macs}")

        scene.two.neighbours = refuses  # type: ignore[method-assign]
        await scene.move()
        return scene

    assert {one.addresses for one in simulate(scenario).two.announced} == {()}


def test_a_guest_that_nobody_sees_is_announced_again_and_again_with_growing_distance_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []

    async def deaf(watch: FakeWatch, instant: float, deadline: float) -> bool:
        del instant
        waits.append(deadline)
        await watch.world.clock.sleep(deadline)
        return False

    monkeypatch.setattr("godwit.hosts.fakewatch.FakeWatch.replied_since", deaf)

    async def scenario() -> tuple[Stage, Outcome]:
        scene = stage(SMALL)
        return scene, await scene.move()

    scene, outcome = simulate(scenario)
    assert "not-seen" in {finding.code for finding in outcome.findings}
    assert outcome.guest_alive is False
    assert waits[:6] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0])
    assert sum(waits) <= 10.01
    assert len(scene.two.announced) == len(waits)


def test_a_host_that_cannot_announce_ends_no_move() -> None:
    async def scenario() -> tuple[Outcome, str]:
        scene = stage(SMALL)

        async def refuses(announced: object) -> int:
            del announced
            message = "two has no python3, so only QEMU announces the guest"
            raise HostError(message)

        scene.two.announce = refuses  # type: ignore[method-assign]
        return await scene.move(), await notes(scene)

    outcome, told = simulate(scenario)
    assert outcome.status is OutcomeStatus.COMPLETED
    assert outcome.guest_alive is True
    assert told.count("no python3") == 1


def test_a_runner_that_follows_another_learns_the_addresses_on_the_target() -> None:
    async def scenario() -> Stage:
        scene = stage(SMALL)
        scene.dies_at_write(6, written=True)
        await scene.move()
        return scene

    scene = simulate(scenario)
    assert scene.runners == 2
    assert scene.two.announced[-1].addresses == ("198.18.1.1",)
    assert scene.world.broken_laws == []
