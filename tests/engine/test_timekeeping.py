"""The guest's clock after a move: what the move took from it is given back, and nothing else is touched."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from stage import LONG, Stage, simulate, stage

from godwit.core.state import Phase
from godwit.model import OutcomeStatus, Policy, Way

if TYPE_CHECKING:
    from godwit.model import Outcome


def moved(
    before: float, lost: float, *, agent: bool | None = True, address: str | None = "198.18.0.9", **refused: int
) -> tuple[Stage, Outcome, str]:
    """Move a guest whose clock is `before` seconds ahead, and that loses `lost` on the way; what is refused there.

    It stands still for some 100 s.
    """

    async def scenario() -> tuple[Stage, Outcome, str]:
        slowly = Policy(way=Way.STATIC, bandwidth=4 << 20)
        scene = stage(replace(LONG, agent=agent), address=address, policy=slowly)
        clocks = scene.world.guest_clocks
        clocks["web"] = before

        def loses() -> None:
            clocks["web"] = before - lost
            for command, times in refused.items():
                scene.world.refuse("two", command.replace("_", "-"), times=times)

        scene.at(Phase.SWITCHOVER, loses)
        outcome = await scene.move()
        found = tuple(one for one in outcome.findings if one.code != "stands-still")
        outcome = replace(outcome, findings=found)
        told = [str(line.data.get("text")) for line in await scene.journal.entries("web-1") if line.kind == "note"]
        return scene, outcome, "\n".join(told)

    return simulate(scenario)


@pytest.mark.parametrize("before", [0.0, 7200.0, -30.0])
@pytest.mark.parametrize("lost", [90.0, 1.5])
def test_what_the_move_took_is_given_back(before: float, lost: float) -> None:
    scene, outcome, told = moved(before, lost)
    assert outcome.status is OutcomeStatus.COMPLETED
    assert outcome.findings == ()
    assert scene.world.guest_clocks["web"] == pytest.approx(before, abs=0.05)
    assert "behind: its agent has set it" in told


@pytest.mark.parametrize("lost", [-40.0, 300.0])
def test_what_is_not_of_the_move_is_left_alone(lost: float) -> None:
    """The guest's time service, or a person, has set its clock on the way: a move can only leave it behind."""
    scene, outcome, told = moved(7200.0, lost)
    assert outcome.findings == ()
    assert scene.world.guest_clocks["web"] == pytest.approx(7200.0 - lost, abs=1e-9)
    assert "agent has set it" not in told


@pytest.mark.parametrize("lost", [0.0, 0.02, 0.9])
def test_a_clock_that_its_own_time_service_can_slew_is_left_alone(lost: float) -> None:
    scene, _, told = moved(7200.0, lost)
    assert scene.world.guest_clocks["web"] == pytest.approx(7200.0 - lost, abs=1e-9)
    assert "agent has set it" not in told


@pytest.mark.parametrize("agent", [None, False])
def test_without_an_agent_nothing_is_done(agent: bool | None) -> None:  # noqa: FBT001 - a table's column
    scene, outcome, _ = moved(0.0, 90.0, agent=agent)
    assert scene.world.guest_clocks["web"] == -90.0
    assert outcome.findings == ()


def test_an_agent_that_does_not_set_the_clock_is_quoted() -> None:
    scene, outcome, _ = moved(0.0, 90.0, guest_set_time=1)
    assert scene.world.guest_clocks["web"] == -90.0
    (finding,) = outcome.findings
    assert finding.code == "clock-not-set"
    assert "1min 30s behind" in finding.found


def test_an_agent_that_answered_before_and_not_after_is_told() -> None:
    _, outcome, _ = moved(0.0, 0.0, guest_get_time=2)
    assert outcome.status is OutcomeStatus.COMPLETED
    assert [finding.code for finding in outcome.findings] == ["agent-silent"]


def test_a_late_answer_is_waited_for() -> None:
    _, outcome, _ = moved(0.0, 0.0, guest_get_time=1)
    assert outcome.findings == ()


def test_an_agent_that_answers_shows_that_a_guest_lives_which_nobody_sees() -> None:
    _, outcome, _ = moved(0.0, 0.0, address=None)
    assert outcome.guest_alive is True
    _, outcome, _ = moved(0.0, 0.0, address=None, agent=None)
    assert outcome.guest_alive is None
