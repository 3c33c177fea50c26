"""What is expected of a move: a forecast that cannot be made is told of, and stops no move."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from stage import ID, SMALL, Stage, simulate, stage

from godwit.errors import JournalError, RemoteCommandError
from godwit.hosts.fake import FakeHost
from godwit.journal.memory import MemoryHistory
from godwit.model import DirtyWindow, LinkSaid, MoveRecord, OutcomeStatus, Policy, Profile

if TYPE_CHECKING:
    from collections.abc import Callable

PROFILE = Profile("web", "one", 0.0, SMALL.memory, (DirtyWindow(1.0, 1 << 20),))


class UnreadableHistory(MemoryHistory):
    """Holds a record that no version of Godwit wrote."""

    async def moves(self, limit: int = 200) -> list[MoveRecord]:  # noqa: ARG002 - the port has it
        raise JournalError("the journal holds a MoveRecord that cannot be read")


async def unseen(_: FakeHost, pid: int) -> int:
    raise RemoteCommandError(f"nobody may look at process {pid}")


async def known(scene: Stage, rate: float) -> None:
    """Keep what a forecast takes: what the guest writes, and what its link is said to carry."""
    await scene.journal.history.put_profile(PROFILE)
    await scene.journal.history.put_link(LinkSaid(("one", "two"), rate, 0.0))


async def moved(scene: Stage) -> list[str]:
    """Let the guest move, which has to succeed, and return what the journal says of its forecast."""
    outcome = await scene.move()
    await scene.assert_settled(outcome)
    assert outcome.status is OutcomeStatus.COMPLETED
    lines = await scene.journal.entries(ID)
    return [str(line.data.get("text", "")) for line in lines if "forecast" in f"{line.kind} {line.data.get('text')}"]


def test_a_move_of_which_enough_is_known_is_forecast() -> None:
    async def scenario() -> None:
        scene = stage()
        await known(scene, 50e6)
        (said,) = await moved(scene)
        assert said.startswith("expected by ")

    simulate(scenario)


def unreadable(scene: Stage) -> None:
    scene.journal.history = UnreadableHistory()


def blind(_: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeHost, "resident", unseen)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda scene, _: unreadable(scene), "what is known could not be read: the journal holds a MoveRecord"),
        (blind, "what is known could not be read: nobody may look at process"),
    ],
    ids=["the history", "the process"],
)
def test_what_cannot_be_read_is_told_of_and_stops_no_move(
    spoil: Callable[[Stage, pytest.MonkeyPatch], None], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        scene = stage(policy=Policy(allows=frozenset()))
        spoil(scene, monkeypatch)
        await known(scene, 50e6)
        (told,) = await moved(scene)
        assert told.startswith(f"no forecast: {said}")

    simulate(scenario)


@pytest.mark.parametrize("rate", [0.0, float("nan"), float("inf")])
def test_figures_that_nobody_can_reckon_with_stop_no_move(rate: float) -> None:
    async def scenario() -> None:
        scene = stage()
        await known(scene, rate)
        (told,) = await moved(scene)
        assert told.startswith("no forecast: it cannot be reckoned with what is known: ")

    simulate(scenario)
