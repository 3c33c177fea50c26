"""Guests that stand still all the way, or are switched off, whose disk lies on their host alone."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Final

import pytest
from diskground import SEEN_ANEW, SLOW, assert_as_before, fill, made_there
from labtraps import Trap
from labwaits import until

from godwit.core.state import Phase
from godwit.model import OutcomeStatus

if TYPE_CHECKING:
    from labtools import Ground

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]

BOOT: Final = "cat /proc/sys/kernel/random/boot_id"


@pytest.fixture(scope="module")
def ground(apart: Ground) -> Ground:
    """Return a laboratory whose hosts share nothing, with a guest on host1."""
    return apart


@pytest.mark.long
async def test_every_acknowledged_write_arrives_and_the_work_goes_on(ground: Ground) -> None:
    """A writer in the guest counts up, each number synced before the next, while it and its disk are moved."""
    _, there = await fill(ground)
    boot = ground.ssh(BOOT)
    count = "i=0; while [ ! -e /tmp/enough ]; do i=$((i+1)); echo $i > /data/count; sync; echo $i; done"
    ground.ssh("rm -f /tmp/enough")
    writer = await asyncio.create_subprocess_exec(
        *ground.login(), count, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    ran = await ground.godwit("migrate", ground.name, ground.host(there), "--static")
    assert ran.status == 0, ran
    assert "copying disks while the guest stands still" in ran.out
    then = int(ground.ssh("cat /data/count"))
    await until(lambda: int(ground.ssh("cat /data/count") or 0) > then, "the writer counts on")
    ground.ssh("touch /tmp/enough")
    said, _ = await writer.communicate()
    last = int(said.split()[-1])
    assert last > 3
    assert int(ground.ssh("echo 3 >/proc/sys/vm/drop_caches; cat /data/count")) == last
    assert ground.ssh(BOOT) == boot
    await ground.assert_settled(there)


@pytest.mark.long
async def test_a_target_that_is_killed_while_the_disk_is_copied(ground: Ground) -> None:
    here, there = await fill(ground)
    ground.lab.set_rate(SLOW)
    async with ground.client():
        move = await (await ground.begin(there, "--static")).reaches(Phase.MIRRORING)
        os.kill(ground.qemus()[there][0].pid, signal.SIGKILL)
        await assert_as_before(ground, move, here, there, 90)


@pytest.mark.long
async def test_a_runner_that_is_killed_while_the_disk_is_copied(ground: Ground) -> None:
    _, there = await fill(ground)
    before = ground.ssh(SEEN_ANEW)
    ground.lab.set_rate(SLOW)
    async with ground.client():
        move = await (await ground.begin(there, "--static")).reaches(Phase.MIRRORING)
        await move.kill_runner()
        await move.taken_over(2)
        ground.lab.set_rate(None)
        assert (await move.outcome()).status is OutcomeStatus.COMPLETED
    await ground.assert_settled(there)
    assert ground.ssh(SEEN_ANEW) == before


@pytest.mark.long
async def test_it_is_switched_off_and_boots_there_from_its_copied_disk(ground: Ground) -> None:
    """What is written until the very end is in the copy: the guest is off when that is ended."""
    here, there = await fill(ground)
    before, boot = ground.ssh(SEEN_ANEW), ground.ssh(BOOT)
    # The guest's shutdown unmounts the disk first: what is written into the folder after that was never on it.
    mounted = "grep -q ' /data ' /proc/mounts"
    count = f"i=0; while :; do i=$((i+1)); echo $i > /data/count && sync && {mounted} && echo $i; done"
    writer = await asyncio.create_subprocess_exec(
        *ground.login(), count, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    ran = await ground.godwit("migrate", ground.name, ground.host(there), "--static", "--off", deadline=120)
    assert ran.status == 0, ran
    said, _ = await writer.communicate()
    last = int(said.decode().rpartition("\n")[0].split()[-1])
    await ground.answers()
    await ground.assert_settled(there)
    assert ground.ssh(BOOT) != boot
    assert ground.ssh(SEEN_ANEW) == before
    assert int(ground.ssh("cat /data/count")) >= last
    assert made_there(ground, there) == [f"{ground.name}.qcow2"]
    assert made_there(ground, here) == [f"{ground.name}.qcow2"]


@pytest.mark.long
async def test_a_target_that_is_killed_while_the_guest_switches_itself_off(ground: Ground) -> None:
    """Nobody can take the press of a power button back: the guest is off for a moment, and starts where it was."""
    here, there = await fill(ground)
    boot = ground.ssh(BOOT)
    traps = ground.lay(Trap("hold", at="godwit.qemu.guest:QemuGuest.powerdown"))
    move = await ground.begin(there, "--static", "--off", traps=traps)
    await until(traps.sprung, "the button was pressed")
    os.kill(ground.qemus()[there][0].pid, signal.SIGKILL)
    traps.release()
    assert (await move.outcome(120)).status is OutcomeStatus.FAILED
    await ground.answers()
    await assert_as_before(ground, move, here, there, 90)
    assert ground.ssh(BOOT) != boot
