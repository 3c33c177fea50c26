"""SIGKILL of the runner in every phase: nobody types anything, and the guest answers its client again within seconds.

The runner is killed at a named instant of its own life (see trap/sitecustomize.py), or from outside where a phase lasts
long enough; the journal shows that the phase was hit: it names it, and a second runner took over.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Final

import pytest
from labtools import CRAWL
from labtraps import JOURNAL, Trap

from godwit.core.state import Phase
from godwit.model import OutcomeStatus, Owner
from godwit.service import STARTING

if TYPE_CHECKING:
    from collections.abc import Callable

    from labmoves import Move
    from labtools import Ground

    from godwit.model import Outcome

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]

SILENCE: Final = 5.0
"""Seconds within which the guest must answer its client again."""

GUEST: Final = "godwit.qemu.guest:QemuGuest"
HOST: Final = "godwit.hosts.plain:PlainHost"

# The instant of the runner's death, the phase that the journal shows then, and how the move must end: None where
# both ends are right.
INSTANTS: Final[dict[str, tuple[Trap, Phase, OutcomeStatus | None]]] = {
    "pending, just started": (
        Trap("kill", at="godwit.journal.sqljournal:SqlJournal.take_over"),
        Phase.PENDING,
        OutcomeStatus.COMPLETED,
    ),
    "pending, looking at the hosts": (Trap("kill", at=f"{HOST}.facts"), Phase.PENDING, OutcomeStatus.COMPLETED),
    "preparing, nothing done yet": (Trap("kill", "preparing"), Phase.PREPARING, OutcomeStatus.FAILED),
    "preparing, the target's QEMU was started": (
        Trap("kill", at=f"{HOST}.launch"),
        Phase.PREPARING,
        OutcomeStatus.FAILED,
    ),
    "preparing, the target listens": (Trap("kill", at=f"{GUEST}.listen"), Phase.PREPARING, OutcomeStatus.FAILED),
    "precopy, before the stream": (Trap("kill", "precopy"), Phase.PRECOPY, OutcomeStatus.FAILED),
    "precopy, the stream has just begun": (Trap("kill", at=f"{GUEST}.migrate"), Phase.PRECOPY, OutcomeStatus.COMPLETED),
    "switchover, not yet in the journal": (Trap("kill", "switchover", "before"), Phase.PRECOPY, None),
    "switchover, in the journal": (Trap("kill", "switchover"), Phase.SWITCHOVER, None),
    "committing, not yet in the journal": (
        Trap("kill", "committing", "before"),
        Phase.SWITCHOVER,
        OutcomeStatus.COMPLETED,
    ),
    "committing, before cont": (
        Trap("kill", at=f"{GUEST}.resume", when="before"),
        Phase.SWITCHOVER,
        OutcomeStatus.COMPLETED,
    ),
    # The step through an armed door is not on disk when it is taken: the journal still says switchover.
    "committing, after cont": (Trap("kill", at=f"{GUEST}.resume"), Phase.SWITCHOVER, OutcomeStatus.COMPLETED),
    "finishing, just begun": (Trap("kill", "finishing"), Phase.FINISHING, OutcomeStatus.COMPLETED),
    "finishing, before the source is removed": (
        Trap("kill", at=f"{HOST}.destroy", when="before"),
        Phase.FINISHING,
        OutcomeStatus.COMPLETED,
    ),
    "finishing, after the source was removed": (
        Trap("kill", at=f"{HOST}.destroy"),
        Phase.FINISHING,
        OutcomeStatus.COMPLETED,
    ),
    "done, before the outcome": (
        Trap("kill", at="godwit.journal.sqljournal:SqlJournal.conclude", when="before"),
        Phase.DONE,
        OutcomeStatus.COMPLETED,
    ),
}


async def ended_well(
    ground: Ground, move: Move, ways: tuple[str, str], expected: OutcomeStatus | None, deadline: float = 60.0
) -> Outcome:
    """Assert that the move was finished or undone, and that the guest is where that means, and nowhere else."""
    here, there = ways
    outcome = await move.outcome(deadline)
    assert outcome.status in ({OutcomeStatus.COMPLETED, OutcomeStatus.FAILED} if expected is None else {expected})
    completed = outcome.status is OutcomeStatus.COMPLETED
    assert outcome.owner is (Owner.TARGET if completed else Owner.SOURCE)
    await ground.assert_settled(there if completed else here)
    return outcome


async def assert_taken_over(move: Move, phase: Phase) -> None:
    """Assert that the phase was entered and that at least one more runner worked on the move."""
    assert phase is Phase.PENDING or phase.value in await move.phases()
    assert await move.epoch() >= 2


QUICK: Final = {
    "preparing, the target's QEMU was started",
    "committing, before cont",
    "committing, after cont",
}
"""What is left to script/test: the matrix of faults has most of the others, too."""


@pytest.mark.parametrize(
    "instant", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in INSTANTS]
)
async def test_killed_at_an_instant(ground: Ground, instant: str, figure: Callable[[str, object], None]) -> None:
    trap, phase, expected = INSTANTS[instant]
    traps = ground.lay(trap)
    ways = await ground.whereabouts()
    async with ground.client() as ticks:
        move = await ground.begin(ways[1], traps=traps)
        outcome = await ended_well(ground, move, ways, expected)
    figure("silence_s", round(ticks.longest_silence, 3))
    figure("status", outcome.status.value)
    assert traps.sprung()
    await assert_taken_over(move, phase)
    assert ticks.longest_silence < SILENCE


@pytest.mark.long
async def test_killed_in_the_first_pass(ground: Ground, figure: Callable[[str, object], None]) -> None:
    ways = await ground.whereabouts()
    ground.lab.set_rate(CRAWL)
    async with ground.client() as ticks:
        move = await (await ground.begin(ways[1])).streams(1)
        await move.kill_runner()
        ground.lab.set_rate(None)
        await ended_well(ground, move, ways, OutcomeStatus.COMPLETED)
    figure("silence_s", round(ticks.longest_silence, 3))
    await assert_taken_over(move, Phase.PRECOPY)
    assert ticks.longest_silence < SILENCE


@pytest.mark.long
async def test_killed_in_a_later_pass_again_and_again(ground: Ground, figure: Callable[[str, object], None]) -> None:
    ways = await ground.whereabouts()
    ground.lab.set_rate(200_000_000)
    async with ground.client() as ticks:
        async with ground.dirtying():
            move = await (await ground.begin(ways[1])).streams(2)
            for epoch in (2, 3, 4):
                await move.kill_runner()
                await move.taken_over(epoch)
            assert (await move.state()).phase is Phase.PRECOPY
        ground.lab.set_rate(None)
        await ended_well(ground, move, ways, OutcomeStatus.COMPLETED)
    figure("silence_s", round(ticks.longest_silence, 3))
    assert ticks.longest_silence < SILENCE


@pytest.mark.long
@pytest.mark.parametrize(
    "trap",
    [
        Trap("kill", "rolling-back"),
        Trap("kill", at=f"{GUEST}.cancel_migration"),
        Trap("kill", at=f"{HOST}.destroy", when="before"),
        Trap("kill", at=f"{HOST}.destroy"),
        Trap("kill", at=f"{HOST}.restore_send_queue", when="before"),
        Trap("kill", at=JOURNAL, phase="cancelled", when="before"),
    ],
    ids=["begun", "stream cancelled", "before destroy", "target destroyed", "before the send queue", "before the end"],
)
async def test_killed_while_rolling_back(ground: Ground, trap: Trap, figure: Callable[[str, object], None]) -> None:
    traps = ground.lay(trap)
    ways = await ground.whereabouts()
    ground.lab.set_rate(CRAWL)
    async with ground.client() as ticks:
        move = await (await ground.begin(ways[1], traps=traps)).streams(1)
        ran = await ground.godwit("cancel", move.id)
        assert ran.status == 0, ran.err
        await ended_well(ground, move, ways, OutcomeStatus.CANCELLED)
    figure("silence_s", round(ticks.longest_silence, 3))
    assert traps.sprung()
    await assert_taken_over(move, Phase.ROLLING_BACK)
    assert ticks.longest_silence < SILENCE


async def test_a_runner_that_hangs_is_not_followed_by_a_second_one(ground: Ground) -> None:
    """SIGSTOP: the stream goes on without it, and once it is continued, so does the move; nobody else interferes."""
    ways = await ground.whereabouts()
    ground.lab.set_rate(CRAWL)
    async with ground.client():
        move = await (await ground.begin(ways[1])).streams(1)
        _, runner = move.processes()
        assert runner is not None
        os.kill(runner, signal.SIGSTOP)
        ran = await ground.godwit("status", "--json")
        assert ran.status == 0, ran.err
        assert await move.epoch() == 1
        os.kill(runner, signal.SIGCONT)
        ground.lab.set_rate(None)
        await ended_well(ground, move, ways, OutcomeStatus.COMPLETED)


@pytest.mark.parametrize(
    "phase",
    [
        "precopy",
        *(pytest.param(one, marks=pytest.mark.long) for one in ("preparing", "switchover", "committing", "finishing")),
    ],
)
async def test_the_whole_controller_dies_and_the_next_command_takes_the_move_up(ground: Ground, phase: str) -> None:
    traps = ground.lay(Trap("kill-all", phase))
    ways = await ground.whereabouts()
    async with ground.client():
        move = await ground.begin(ways[1], traps=traps)
        await move.dies()
        assert traps.sprung()
        # The step through an armed door is not on disk when it is taken: the journal still says switchover.
        assert (await move.state()).phase.value == {"committing": "switchover"}.get(phase, phase)
        await asyncio.sleep(STARTING)  # a young migration is left alone: its runner may just be starting
        ran = await ground.godwit("status")
        assert ran.status == 0, ran.err
        assert f"took migration {move.id} up again" in ran.err
        await ended_well(ground, move, ways, None)
    assert await move.epoch() == 2
