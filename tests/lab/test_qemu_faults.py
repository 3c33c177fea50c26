"""SIGKILL and SIGSTOP of either QEMU before the switchover, and the crash of a host; test_fault_matrix.py has more.

Each row says what the law demands. The source owns the guest until it was handed over; a guest whose only process
dies is gone, and is reported as gone; a target that was told to run and died is never replaced by the stale source.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest
from labtools import CRAWL
from labtraps import Trap
from labwaits import until

from godwit.model import OutcomeStatus, Owner

if TYPE_CHECKING:
    from labmoves import Move
    from labtools import Ground

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]

GUEST: Final = "godwit.qemu.guest:QemuGuest"


@dataclass(frozen=True, slots=True)
class Fault:
    """A signal to one side's QEMU in one phase, and the end of the world: outcome, owner, where the guest runs."""

    side: str
    number: signal.Signals
    phase: str
    status: frozenset[OutcomeStatus]
    owner: Owner
    survives: bool


FAILED: Final = frozenset({OutcomeStatus.FAILED})
STARTS: Final = {
    "target killed while preparing": Fault("target", signal.SIGKILL, "preparing", FAILED, Owner.SOURCE, survives=True),
    "target stopped while preparing": Fault("target", signal.SIGSTOP, "preparing", FAILED, Owner.SOURCE, survives=True),
    "source killed while preparing": Fault("source", signal.SIGKILL, "preparing", FAILED, Owner.SOURCE, survives=False),
    "target killed in precopy": Fault("target", signal.SIGKILL, "precopy", FAILED, Owner.SOURCE, survives=True),
    "target stopped in precopy": Fault("target", signal.SIGSTOP, "precopy", FAILED, Owner.SOURCE, survives=True),
    "source killed in precopy": Fault("source", signal.SIGKILL, "precopy", FAILED, Owner.SOURCE, survives=False),
}


async def assert_end(ground: Ground, move: Move, ways: tuple[str, str], fault: Fault, deadline: float = 60.0) -> None:
    """Assert the row's end on both hosts."""
    outcome = await move.outcome(deadline)
    assert outcome.status in fault.status
    assert outcome.owner is fault.owner
    assert outcome.error
    assert outcome.remedy
    if fault.survives:
        await ground.assert_settled(ways[0] if fault.owner is Owner.SOURCE else ways[1])
        return
    assert ground.qemus() == {"host1": (), "host2": ()}
    assert ground.left_on(ways[1]) == []
    assert ground.send_queue(ways[0])[1] == []


@pytest.mark.parametrize(
    "row", [pytest.param(row, marks=pytest.mark.long if "preparing" in row else ()) for row in STARTS]
)
async def test_before_the_switchover(ground: Ground, row: str) -> None:
    fault = STARTS[row]
    here, there = ways = await ground.whereabouts()
    listens = Trap("hold", at=f"{GUEST}.listen", when="before")
    traps = ground.lay(listens) if fault.phase == "preparing" else ground.lay()
    ground.lab.set_rate(CRAWL)

    async def strike() -> Move:
        move = await ground.begin(there, traps=traps)
        if fault.phase == "preparing":
            await until(traps.sprung, "the target waits")
        else:
            await move.streams(1)
        os.kill(await ground.qemu(there if fault.side == "target" else here), fault.number)
        traps.release() if fault.phase == "preparing" else None
        return move

    if fault.survives:
        async with ground.client():
            await assert_end(ground, await strike(), ways, fault)
    else:
        move = await strike()
        await assert_end(ground, move, ways, fault)
        failure = (await move.state()).failure
        assert failure is not None
        # A step that was under way, or just begun, may have told of it before anybody had looked.
        assert failure.code in {"guest-lost", "monitor-lost", "qemu-died"}


@pytest.mark.long
async def test_a_source_that_hangs_for_a_while_goes_on(ground: Ground) -> None:
    """SIGSTOP of the source: nobody else may run the guest; when it is continued, the guest goes on, moved or not."""
    here, there = await ground.whereabouts()
    ground.lab.set_rate(CRAWL)
    async with ground.client():
        move = await (await ground.begin(there)).streams(1)
        source = await ground.qemu(here)
        os.kill(source, signal.SIGSTOP)
        await move.notices("no sample", 40)
        assert (await move.state()).owner is Owner.SOURCE
        os.kill(source, signal.SIGCONT)
        ground.lab.set_rate(None)
        outcome = await move.outcome(90)
        await ground.assert_settled(there if outcome.owner is Owner.TARGET else here)


@pytest.mark.long
@pytest.mark.parametrize("phase", ["precopy", "switchover"])
async def test_the_target_host_crashes(ground: Ground, phase: str) -> None:
    here, there = await ground.whereabouts()
    async with ground.client():
        if phase == "precopy":
            ground.lab.set_rate(CRAWL)
            move = await (await ground.begin(there)).streams(1)
            ground.lab.crash(there)
        else:
            crash = Fault("target", signal.SIGKILL, phase, FAILED, Owner.SOURCE, survives=True)
            traps = ground.lay(Trap("hold", "precopy"), Trap("run", "switchover", "before"))
            move = await ground.begin(there, traps=traps)
            await until(traps.sprung, "the target listens")
            traps.runs(f"kill -{crash.number.value} {ground.init(there)}\n", 1)
            traps.release()
        outcome = await move.outcome(90)
        assert (outcome.status, outcome.owner) == (OutcomeStatus.FAILED, Owner.SOURCE)
        assert ground.run_state(await ground.qemu(here)) == "running"
    ground.lab.restart(there)
    assert ground.left_on(there) == []


async def test_the_source_host_crashes_in_precopy_and_boots_again(ground: Ground) -> None:
    """The guest dies with its host; what waits on the target is removed and never runs."""
    here, there = await ground.whereabouts()
    ground.lab.set_rate(CRAWL)
    move = await (await ground.begin(there)).streams(1)
    ground.lab.crash(here)
    assert all(ground.run_state(one.pid) != "running" for one in ground.qemus()[there])
    assert (await move.state()).owner is Owner.SOURCE
    ground.lab.restart(here)
    outcome = await move.outcome(90)
    assert (outcome.status, outcome.owner) == (OutcomeStatus.FAILED, Owner.SOURCE)
    assert "died" in outcome.error
    assert ground.qemus()[there] == ()
    assert ground.left_on(there) == []
