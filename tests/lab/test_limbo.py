"""Nobody can know who owns the guest: Godwit says so, shows the evidence, touches nothing, and new evidence leads out.

The runner and its supervisor die behind an armed door, so that nobody knows whether `cont` was sent; then what would
have told who owns the guest dies, too, or falls silent.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest
from labtraps import Trap
from labwaits import LONG, until

from godwit.core.state import Phase
from godwit.errors import BusyError, GuestCrashedError, LimboError, RefusedError
from godwit.model import OutcomeStatus, Owner

if TYPE_CHECKING:
    from labmoves import Move
    from labtools import Ground

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]

BEFORE_CONT: Final = Trap("kill-all", at="godwit.qemu.guest:QemuGuest.resume", when="before")


async def taken_up(ground: Ground, move: Move) -> None:
    """Type `godwit status` until it has looked at the migration anew: a young one's runner may just be starting."""
    before = await move.epoch()
    while await move.epoch() == before:
        ran = await ground.godwit("status")
        assert ran.status == 0, ran


async def in_limbo(ground: Ground, move: Move, way: tuple[str, str], evidence: tuple[str, str], why: str) -> None:
    """Assert what is told of a migration in LIMBO, and that its guest is left alone."""
    outcome = await move.outcome(90)
    assert (outcome.status, outcome.owner) == (OutcomeStatus.LIMBO, Owner.UNKNOWN)
    told = await ground.godwit("status", ground.name)
    assert told.status == 0, told
    for machine, words in zip(way, evidence, strict=True):
        assert re.search(rf"^  on {ground.host(machine)} +{words}", told.out, re.MULTILINE), told.out
    for words in ("limbo", "nobody can know", why, "godwit status shows them", "Godwit touches neither"):
        assert words in told.out
    assert (await ground.godwit("watch", move.id)).status == LimboError.exit_status
    for command in (("vm", "start", ground.name), ("vm", "stop", "--force", ground.name)):
        assert (await ground.godwit(*command)).status == BusyError.exit_status
    await settles(move, Phase.LIMBO)


async def settles(move: Move, phase: Phase) -> dict[str, Any]:
    """Wait until the runner that a command may have started has looked, and ended, and return the outcome."""
    outcome = await move.outcome(90)
    assert (await move.state()).phase is phase
    return {"status": outcome.status, "owner": outcome.owner}


async def killed(ground: Ground, machine: str) -> int:
    """End a machine's QEMU, and return which process that was."""
    pid = await ground.qemu(machine)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not any(one.pid == pid for one in ground.qemus()[machine]), "the killed QEMU is gone")
    return pid


async def test_the_target_is_gone_and_may_have_run(ground: Ground) -> None:
    """The source is never told to run; once a person has ended it, too, the guest is reported as gone."""
    here, there = way = await ground.whereabouts()
    move = await ground.begin(there, traps=ground.lay(BEFORE_CONT))
    await move.dies()
    source = await ground.qemu(here)
    await killed(ground, there)
    await taken_up(ground, move)
    await in_limbo(ground, move, way, ("postmigrate, process", "absent"), "the target's process is gone")
    assert [one.pid for one in ground.qemus()[here]] == [source]
    assert ground.run_state(source) == "postmigrate"
    assert ground.qemus()[there] == ()
    await killed(ground, here)
    await taken_up(ground, move)
    assert await settles(move, Phase.FAILED) == {"status": OutcomeStatus.GUEST_CRASHED, "owner": Owner.TARGET}
    assert (await ground.godwit("watch", move.id)).status == GuestCrashedError.exit_status


@pytest.mark.long
async def test_the_source_is_gone_and_may_have_run_on(ground: Ground) -> None:
    """The target is never told to run by Godwit; a person who knows better does, and the migration ends by itself."""
    here, there = way = await ground.whereabouts()
    async with ground.client():
        move = await ground.begin(there, traps=ground.lay(Trap("kill-all", "switchover")))
        await move.dies()
        target = await ground.qemu(there)
        await until(lambda: ground.run_state(target) == "paused", "the target has everything")
        await until(lambda: ground.run_state(ground.qemus()[here][0].pid) == "postmigrate", "the source has ended")
        await killed(ground, here)
        await taken_up(ground, move)
        await in_limbo(ground, move, way, ("absent", "paused, process"), "the source's process is gone")
        assert [one.pid for one in ground.qemus()[there]] == [target]
        assert ground.run_state(target) == "paused"
        assert ground.qemus()[here] == ()
        ground.tell(target, "cont")
        await taken_up(ground, move)
        assert await settles(move, Phase.DONE) == {"status": OutcomeStatus.COMPLETED, "owner": Owner.TARGET}
    await ground.assert_settled(there)


async def broken_at_the_switchover(ground: Ground, there: str, source: int) -> Move:
    """Begin a move whose target dies as the guest stands still: the source takes it back, and no runner sees that."""
    traps = ground.lay(Trap("hold", "precopy"), Trap("run", "switchover", "before"), Trap("kill-all", "switchover"))
    move = await ground.begin(there, "--qemu-defaults", traps=traps)
    await until(traps.sprung, "the target listens")
    traps.runs(f"kill -KILL {await ground.qemu(there)}\n", 1)
    ground.lab.set_rate(200_000_000)
    async with ground.dirtying("8M", "16M"):
        traps.release()
        await move.dies()
    assert traps.done(1)
    await until(lambda: ground.run_state(source) == "running", "the source has its guest back")
    ground.lab.set_rate(None)
    return move


@pytest.mark.long
async def test_a_silent_source_that_is_heard_again_tells_who_owns_the_guest(ground: Ground) -> None:
    """The stream broke with the target at the switchover: the source took its guest back, which nobody can see yet."""
    here, there = way = await ground.whereabouts()
    source = await ground.qemu(here)
    async with ground.client():
        move = await broken_at_the_switchover(ground, there, source)
        ground.lab.cut(here, "management")
        await taken_up(ground, move)
        await in_limbo(ground, move, way, ("unreachable", "absent"), "the target's process is gone")
        assert ground.run_state(source) == "running"
        assert ground.qemus()[there] == ()
        ground.lab.heal(here, "management")
        while (await move.state()).phase is Phase.LIMBO:  # until the healed way carries an answer
            await taken_up(ground, move)
            await move.outcome(90)
        assert await settles(move, Phase.FAILED) == {"status": OutcomeStatus.FAILED, "owner": Owner.SOURCE}
    assert await ground.qemu(here) == source
    await ground.assert_settled(here)


async def can_be_fenced(ground: Ground, machine: str) -> None:
    """Say what cuts a machine's power: here that is its init, and every process on it dies with that."""
    crash = (sys.executable, "-m", "godwit", "lab", "crash", machine, "--silent", "--name", ground.lab.name)
    status = ("test", "!", "-e", f"/proc/{ground.init(machine)}")
    words = ("--off-command", shlex.join(crash), "--status-command", shlex.join(status))
    told = await ground.godwit("host", "fencing", ground.host(machine), *words)
    assert told.status == 0, told
    told = await ground.godwit("host", "fence", ground.host(machine), "--status")
    assert "NOT proven to be off" in told.out


IMPATIENT: Final = Trap("set", at="godwit.core.recovery:PATIENCE", value=8.0)


async def fenced(ground: Ground, move: Move, machine: str, status: int) -> str:
    """Cut the power of the silent host of a move, and return what was told."""
    refused = await ground.godwit("recover", move.id, "--fence")
    assert refused.status == RefusedError.exit_status, refused
    assert f"{ground.name} may be on it" in refused.err
    words = ("recover", move.id, "--fence", "--yes")
    told = await ground.godwit(*words, traps=ground.lay(IMPATIENT), deadline=2 * LONG)
    assert told.status == status, told
    assert f"{ground.host(machine)} is proven to be off" in told.out
    assert ground.qemus()[machine] == ()
    return told.out


@pytest.mark.long
async def test_a_silent_target_that_is_fenced_leaves_the_guest_to_its_source(ground: Ground) -> None:
    """The stream broke with the target at the switchover, and the source took its guest back; the target's host is cut
    off before anybody could see that nothing runs there.
    """
    here, there = await ground.whereabouts()
    await can_be_fenced(ground, there)
    source = await ground.qemu(here)
    async with ground.client():
        move = await broken_at_the_switchover(ground, there, source)
        ground.lab.cut(there, "management")
        told = await ground.godwit("recover", move.id, traps=ground.lay(IMPATIENT), deadline=2 * LONG)
        assert told.status == LimboError.exit_status, told
        for words in (
            "nobody can know who owns",
            f"godwit recover {move.id} --fence --yes",
            "not now: the guest runs on",
        ):
            assert words in told.out, told.out
        await fenced(ground, move, there, 0)
        assert await settles(move, Phase.FAILED) == {"status": OutcomeStatus.FAILED, "owner": Owner.SOURCE}
    assert ground.run_state(source) == "running"
    ground.lab.restart(there)
    ground.lab.heal(there, "all")
    await ground.assert_settled(here)


@pytest.mark.long
async def test_a_source_that_is_fenced_leaves_it_to_a_person_who_gives_the_guest_to_the_target(ground: Ground) -> None:
    """The source falls silent in the switchover; whether it ran on, once the target had everything, dies with it."""
    here, there = await ground.whereabouts()
    await can_be_fenced(ground, here)
    async with ground.client():
        move = await ground.begin(there, traps=ground.lay(Trap("kill-all", "switchover")))
        await move.dies()
        target = await ground.qemu(there)
        await until(lambda: ground.run_state(target) == "paused", "the target has everything")
        ground.lab.cut(here, "management")
        out = await fenced(ground, move, here, LimboError.exit_status)
        assert "was proven to be off" in out
        refused = await ground.godwit("resolve", move.id, "--owner", "target")
        assert refused.status == RefusedError.exit_status, refused
        assert ground.run_state(target) == "paused"
        told = await ground.godwit("resolve", move.id, "--owner", "target", "--i-have-checked", deadline=2 * LONG)
        assert told.status == 0, told
        assert await settles(move, Phase.DONE) == {"status": OutcomeStatus.COMPLETED, "owner": Owner.TARGET}
    assert ground.run_state(target) == "running"
    assert ground.qemus()[here] == ()
