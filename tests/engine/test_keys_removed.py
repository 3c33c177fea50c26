"""The end of a move's keys: whatever keeps them from being removed, they are, or are said to be left."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from stage import LONG, Stage, simulate, stage

from godwit.core.state import Phase
from godwit.errors import HostError, JournalError
from godwit.model import OutcomeStatus, Policy, Way

if TYPE_CHECKING:
    from collections.abc import Callable

    from godwit.hosts.fake import FakeHost
    from godwit.model import Outcome

PAUSES = (0.5, 1.0, 2.0)
COMPLETED, CANCELLED = OutcomeStatus.COMPLETED, OutcomeStatus.CANCELLED


def ending(scene: Stage, ends: OutcomeStatus) -> None:
    """Let a move end so: where it is to be cancelled, when its memory has been sent for a moment."""
    if ends is CANCELLED:
        scene.at(Phase.PRECOPY, scene.cancel, delay=0.5)


def keeps(host: FakeHost, error: type[Exception], until: asyncio.Event) -> None:
    """Let nobody remove keys from a host until then."""
    remove = host.remove_credentials

    async def kept(owner: str) -> None:
        if not until.is_set():
            raise error("the disk is full")
        await remove(owner)

    host.remove_credentials = kept  # type: ignore[method-assign]


async def until(holds: Callable[[], bool]) -> None:
    """Look again and again until something holds."""
    while not holds():  # noqa: ASYNC110 - not everything is an event
        await asyncio.sleep(0.01)


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
        ending(scene, ends)
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


# -- hosts that are out of reach for moments -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize("ends", [COMPLETED, CANCELLED])
def test_a_host_that_is_silent_for_moments_has_its_keys_removed(ends: OutcomeStatus, name: str) -> None:
    """As one whose sshd is stopped for 4 s: nobody waits that long for one answer."""

    async def scenario() -> None:
        scene = stage(LONG)
        ending(scene, ends)
        host, world = scene.world.hosts[name], scene.world
        remove, asked = host.remove_credentials, 0

        async def silent(owner: str) -> None:
            nonlocal asked
            asked += 1
            if asked == 1:
                assert world.executing("web") == ["two" if ends is COMPLETED else "one"], "it waits for nothing of this"
                world.cut(name)
                asyncio.get_running_loop().call_later(4.0, world.heal, name)
            await remove(owner)

        host.remove_credentials = silent  # type: ignore[method-assign]
        outcome = await scene.move()
        assert outcome.status is ends
        assert asked > 1
        assert outcome.leftovers == ()
        await scene.assert_settled(outcome)

    simulate(scenario)


@pytest.mark.parametrize("fails", range(6))
@pytest.mark.parametrize("ends", [COMPLETED, CANCELLED])
def test_a_host_is_asked_again_after_pauses_before_keys_are_said_to_be_left(ends: OutcomeStatus, fails: int) -> None:
    async def scenario() -> None:
        scene = stage(LONG)
        ending(scene, ends)
        remove, asked = scene.two.remove_credentials, list[float]()

        async def refused(owner: str) -> None:
            asked.append(scene.world.clock.now())
            if len(asked) <= fails:
                raise HostError("Permission denied")
            await remove(owner)

        scene.two.remove_credentials = refused  # type: ignore[method-assign]
        outcome = await scene.move()
        assert outcome.status is ends
        pauses = [after - before for before, after in pairwise(asked)]
        assert pauses == pytest.approx(PAUSES[:fails], abs=0.1)
        left = [words for words in outcome.leftovers if "keys of web-1 may be left on two" in words]
        assert bool(left) is (fails > len(PAUSES))
        if left:
            assert "Permission denied" in left[0]
        else:
            await scene.assert_settled(outcome)

    simulate(scenario)


@pytest.mark.parametrize("keys_stay", [False, True])
def test_a_guest_that_stands_still_does_not_wait_for_keys(keys_stay: bool) -> None:  # noqa: FBT001 - pytest names it
    async def scenario() -> None:
        scene = stage(LONG, policy=Policy(way=Way.STATIC))
        ending(scene, CANCELLED)
        scene.world.refuse("one", "cont", times=1)
        for host in (scene.one, scene.two):
            if keys_stay:
                keeps(host, HostError, asyncio.Event())
        moving = asyncio.create_task(scene.move())
        await until(lambda: bool(scene.journal.states) and scene.journal.states[-1].phase is Phase.ROLLING_BACK)
        began = scene.world.clock.now()
        await until(lambda: scene.world.executing("web") == ["one"])
        assert scene.world.clock.now() - began < 1.0
        outcome = await moving
        assert outcome.status is CANCELLED
        named = [f"keys of web-1 may be left on {name}" in str(outcome.leftovers) for name in ("one", "two")]
        assert named == [keys_stay, keys_stay]

    simulate(scenario)
