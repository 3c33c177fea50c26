"""Cancel in every phase before the commit leaves the guest on the source; after it, it is too late, and says so."""

from __future__ import annotations

import os
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import pytest
from labtools import CRAWL
from labtraps import Trap
from labwaits import until

from godwit.core.state import Phase
from godwit.lab import plan as names
from godwit.model import OutcomeStatus, Owner

if TYPE_CHECKING:
    from labmoves import Move
    from labtools import Ground, Ran

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]

GUEST: Final = "godwit.qemu.guest:QemuGuest"
HOST: Final = "godwit.hosts.plain:PlainHost"


async def assert_cancelled(ground: Ground, move: Move, ran: Ran, here: str) -> None:
    outcome = await move.outcome()
    assert ran.status == 0, ran
    assert (outcome.status, outcome.owner) == (OutcomeStatus.CANCELLED, Owner.SOURCE)
    await ground.assert_settled(here)


@pytest.mark.parametrize(
    ("trap", "phase"),
    [
        pytest.param(Trap("hold", at=f"{HOST}.facts", when="before"), Phase.PENDING, marks=pytest.mark.long),
        pytest.param(Trap("hold", at=f"{HOST}.launch", when="before"), Phase.PREPARING, marks=pytest.mark.long),
        (Trap("hold", at=f"{GUEST}.listen", when="before"), Phase.PREPARING),
        (Trap("hold", "precopy"), Phase.PRECOPY),
    ],
    ids=["pending", "preparing, before the target's QEMU", "preparing, with it", "precopy, before the stream"],
)
async def test_before_the_stream(ground: Ground, trap: Trap, phase: Phase) -> None:
    here, there = await ground.whereabouts()
    traps = ground.lay(trap)
    async with ground.client():
        move = await ground.begin(there, traps=traps)
        await until(traps.sprung, "the runner is held")
        assert (await move.state()).phase is phase
        asked = await ground.godwit("cancel", move.id, "--no-wait")
        traps.release()
        await assert_cancelled(ground, move, asked, here)


@pytest.mark.parametrize("number", [1, pytest.param(2, marks=pytest.mark.long)])
async def test_in_precopy(ground: Ground, number: int) -> None:
    here, there = await ground.whereabouts()
    ground.lab.set_rate(CRAWL if number == 1 else 200_000_000)
    async with ground.client(), AsyncExitStack() as stack:
        if number > 1:
            await stack.enter_async_context(ground.dirtying())
        move = await (await ground.begin(there)).streams(number)
        await assert_cancelled(ground, move, await ground.godwit("cancel", move.id), here)


async def test_in_a_switchover_that_hangs(ground: Ground) -> None:
    """The source stands still and the last pages do not get through: who cancels has the guest back at once."""
    here, there = await ground.whereabouts()
    traps = ground.lay(Trap("hold", "precopy"), Trap("run", "switchover", "before"))
    ground.lab.set_rate(200_000_000)
    async with ground.client() as ticks:
        async with ground.dirtying("8M", "16M"):
            move = await ground.begin(there, "--qemu-defaults", "--max-downtime", "30s", traps=traps)
            await until(traps.sprung, "the target listens")
            plan = ground.lab.plan
            cable = names.migration_port(there)
            traps.runs(f"ip -netns {plan.switch_namespace} link set dev {cable} nomaster\n", 1)
            traps.release()
            await move.reaches(Phase.SWITCHOVER)
            ran = await ground.godwit("cancel", move.id)
        await assert_cancelled(ground, move, ran, here)
    assert ticks.longest_silence < 10


async def test_after_the_commit_it_is_too_late(ground: Ground) -> None:
    _, there = await ground.whereabouts()
    traps = ground.lay(Trap("hold", "finishing"))
    async with ground.client():
        move = await ground.begin(there, traps=traps)
        await until(traps.sprung, "the guest runs on the target")
        process = await ground.spawn("cancel", move.id)
        await move.cancel_is_asked_for()
        traps.release()
        _, err = await process.communicate()
        assert process.returncode == 1
        assert b"too late to cancel" in err
        assert b"Traceback" not in err
        assert (await move.outcome()).status is OutcomeStatus.COMPLETED
    await ground.assert_settled(there)
    again = await ground.godwit("cancel", move.id)
    assert again.status == 2
    assert "has ended already: completed" in again.err


# -- the command line is killed, the move is not --------------------------------------------------------------------


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.long),
        pytest.param(signal.SIGHUP, marks=pytest.mark.long),
        pytest.param(signal.SIGKILL, marks=pytest.mark.long),
    ],
)
async def test_a_signal_to_the_command_never_touches_the_move(ground: Ground, number: signal.Signals) -> None:
    """The whole process group gets it, as from a terminal: in each phase that changes something, one move each."""
    for trap in (
        Trap("hold", at=f"{GUEST}.listen", when="before"),
        Trap("hold", "precopy"),
        Trap("hold", "switchover"),
        Trap("hold", "committing"),
        Trap("hold", "finishing"),
    ):
        _, there = await ground.whereabouts()
        traps = ground.lay(trap)
        process = await ground.spawn("migrate", ground.name, ground.host(there), traps=traps)
        await until(traps.sprung, "the runner is held")
        os.killpg(process.pid, number)
        out, err = await process.communicate()
        assert process.returncode == (-9 if number is signal.SIGKILL else 128 + number)
        assert b"Traceback" not in out + err
        assert number is signal.SIGKILL or b"the migration goes on" in err
        traps.release()
        move = await ground.latest()
        assert (await move.outcome()).status is OutcomeStatus.COMPLETED
        await ground.assert_settled(there)
