"""A runner that is stopped (SIGSTOP) in a phase, and goes on when another has carried its move on, does nothing more.

The other one is started as a second controller would be: without the guest's lock, which the stopped one still holds.
Before the old one goes on, the guest comes back to where it was: what it meant for the old process there would hit it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from labmoves import Move
from labtraps import Trap
from labwaits import LONG, until

from godwit import app
from godwit.errors import MigrationFailedError, RunnerStuckError
from godwit.model import OutcomeStatus, Policy

if TYPE_CHECKING:
    from labtools import Ground

    from godwit.model import Outcome

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]

GUEST: Final = "godwit.qemu.guest:QemuGuest"
HOST: Final = "godwit.hosts.plain:PlainHost"
INVENTORY: Final = "godwit.journal.sqljournal:SqlInventory"
RUNNER: Final = "import asyncio, sys; from godwit import app; asyncio.run(app.run_migration(sys.argv[1]))"

INSTANTS: Final[dict[str, Trap]] = {
    "the target is about to be started": Trap("stop", at=f"{HOST}.launch", when="before"),
    "the stream is about to begin": Trap("stop", at=f"{GUEST}.migrate", when="before"),
    "the stream has begun": Trap("stop", at=f"{GUEST}.migrate"),
    "the door is armed": Trap("stop", "switchover"),
    "the target is about to be told to run": Trap("stop", at=f"{GUEST}.resume", when="before"),
    "the target runs": Trap("stop", at=f"{GUEST}.resume"),
    "the home is about to be recorded": Trap("stop", at=f"{INVENTORY}.put_vm", when="before"),
    "the source is about to be asked to end": Trap("stop", at=f"{GUEST}.quit", when="before"),
    "the source is about to be ended": Trap("stop", at=f"{HOST}.destroy", when="before"),
    "the send queue is about to be given back": Trap("stop", at=f"{HOST}.restore_send_queue", when="before"),
}


async def run(ground: Ground, move: Move) -> Outcome:
    """Be another controller: carry the move to its end without asking for the lock."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RUNNER, move.id), env=ground.environment(), stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(LONG):
        _, words = await process.communicate()
    assert process.returncode == 0, words.decode()
    async with app.opened(ground.home) as service:
        row, _ = await service.journal.load(move.id)
    assert row.outcome is not None
    return row.outcome


async def moved(ground: Ground, target: str) -> Outcome:
    """Move the guest while somebody else holds its lock."""
    async with app.opened(ground.home) as service:
        spec = await service.spec(ground.name, ground.host(target), Policy(), None)
        await service.journal.create(spec, service.clock.now())
    return await run(ground, Move(ground, spec.id))


QUICK: Final = {"the target is about to be told to run"}


@pytest.mark.parametrize(
    "instant",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in INSTANTS],
)
@pytest.mark.long
async def test_stopped_and_continued_when_another_took_over(ground: Ground, instant: str) -> None:
    traps = ground.lay(INSTANTS[instant])
    here, there = await ground.whereabouts()
    async with ground.client():
        move = await ground.begin(there, traps=traps)
        await until(traps.sprung, "the runner is stopped")
        _, old = move.processes()
        assert old is not None
        outcome = await run(ground, move)
        completed = outcome.status is OutcomeStatus.COMPLETED
        await ground.assert_settled(there if completed else here)
        if completed:
            assert (await moved(ground, here)).status is OutcomeStatus.COMPLETED
        await ground.assert_settled(here)
        os.kill(old, signal.SIGCONT)
        await until(lambda: move.processes() == (None, None), "the old runner and its supervisor have ended")
        await asyncio.sleep(0.5)  # whatever it may have sent has arrived by then
        await ground.assert_settled(here)
    assert (await ground.whereabouts())[0] == here
    log = (ground.home / "log" / f"{move.id}.log").read_text()
    assert f"another runner took over {move.id}" in log
    async with app.opened(ground.home) as service:
        assert (await service.journal.load(move.id))[0].outcome == outcome


@pytest.mark.long
async def test_a_stopped_runner_is_named_and_is_ended_when_a_person_says_so(ground: Ground) -> None:
    here, there = await ground.whereabouts()
    async with ground.client():
        move = await ground.begin(there, traps=ground.lay(Trap("stop", at=f"{GUEST}.migrate")))
        await until(lambda: _stopped(move), "the runner is stopped")
        old = move.processes()[1]
        told = await ground.godwit("recover", move.id)
        assert told.status == RunnerStuckError.exit_status, told
        assert f"is stopped (process {old})" in told.err
        assert f"godwit recover {move.id} --take-over" in told.err
        assert move.processes()[1] == old
        told = await ground.godwit("recover", move.id, "--take-over", deadline=2 * LONG)
        assert told.status in {0, MigrationFailedError.exit_status}, told
        outcome = await move.outcome()
    assert outcome.status in {OutcomeStatus.COMPLETED, OutcomeStatus.FAILED}
    assert move.processes() == (None, None)
    await ground.assert_settled(there if outcome.status is OutcomeStatus.COMPLETED else here)


def _stopped(move: Move) -> bool:
    runner = move.processes()[1]
    return runner is not None and "State:\tT" in Path(f"/proc/{runner}/status").read_text()
