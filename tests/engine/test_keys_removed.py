"""The end of a move's keys: whatever keeps them from being removed, they are, or are said to be left."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from stage import LONG, Stage, simulate, stage

from godwit.core.state import Phase
from godwit.errors import JournalError
from godwit.model import OutcomeStatus

if TYPE_CHECKING:
    from godwit.hosts.fake import FakeHost
    from godwit.model import Outcome

COMPLETED, CANCELLED = OutcomeStatus.COMPLETED, OutcomeStatus.CANCELLED


def cancelled(scene: Stage) -> None:
    """Wish that the guest stays, when its memory has been sent for a moment."""
    scene.at(Phase.PRECOPY, scene.cancel, delay=0.5)


def keeps(host: FakeHost, error: type[Exception], until: asyncio.Event) -> None:
    """Let nobody remove keys from a host until then."""
    remove = host.remove_credentials

    async def kept(owner: str) -> None:
        if not until.is_set():
            raise error("the journal failed: the disk is full")
        await remove(owner)

    host.remove_credentials = kept  # type: ignore[method-assign]


async def carried(scene: Stage) -> tuple[Outcome, int]:
    """Start runners until one comes to the end; returns how it ended, and how many it took."""
    for number in range(1, 20):
        try:
            outcome = await scene.runner()
        except JournalError:
            scene.world.drop_controller()
            await asyncio.sleep(1.0)
            continue
        assert outcome is not None
        return outcome, number
    raise AssertionError("no runner came to the end")


@pytest.mark.parametrize("seconds", [5, 45, 100])
@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize("ends", [COMPLETED, CANCELLED])
def test_a_journal_that_cannot_be_written_does_not_let_keys_be_forgotten(
    ends: OutcomeStatus, name: str, seconds: float
) -> None:
    """No connection is used that is not in the journal: the keys are removed when that is possible again."""

    async def scenario() -> None:
        scene = stage(LONG)
        if ends is CANCELLED:
            cancelled(scene)
        room = asyncio.Event()
        keeps(scene.world.hosts[name], JournalError, room)
        asyncio.get_running_loop().call_later(15.0 + seconds, room.set)
        await scene.begin()
        outcome, runners = await carried(scene)
        assert outcome.status is ends
        assert outcome.leftovers == ()
        assert runners > 1 or seconds < 30
        await scene.assert_settled(outcome)

    simulate(scenario)
