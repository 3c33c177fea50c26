"""Guests whose disk lies on their host alone: it is copied while they run, whole or not at all."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from typing import Final

import pytest
from diskground import FILL, SEEN_ANEW, SLOW, assert_as_before, fill, image, made_there
from labtools import MEMORY, Ground
from labwaits import LONG, until

from godwit import app
from godwit.core.state import Phase
from godwit.errors import MigrationFailedError, RefusedError
from godwit.lab.furnish import GuestPlan, place_image
from godwit.model import OutcomeStatus
from godwit.units import MIB

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]

OVERLAID: Final = """\
name = "{name}"
memory = "{memory}M"
accelerator = "tcg"
kernel = "/mnt/images/{name}.vmlinuz"
initrd = "/mnt/images/{name}.initrd"
append = "{append}"
address = "{address}"
disks = [{{ path = "/mnt/images/{name}.qcow2", format = "qcow2" }}]
nics = [{{ bridge = "br0" }}]
"""
BASE: Final = (
    "cd /mnt/images && mv {name}.qcow2 {name}.base && qemu-io -c 'write -q -P 7 40M 12M' {name}.base"
    " && qemu-img create -q -f qcow2 -b /mnt/images/{name}.base -F qcow2 {name}.qcow2"
)
"""An overlay on a base of 64 MiB, 12 of them in use beyond what the guest's file system will touch first."""


@pytest.fixture(scope="module")
def ground(apart: Ground) -> Ground:
    """Return a laboratory whose hosts share nothing, with a guest on host1."""
    return apart


async def test_there_and_back_with_the_disk(ground: Ground) -> None:
    for _ in range(2):
        here, there = await fill(ground)
        before = ground.ssh(SEEN_ANEW)
        async with ground.client():
            ran = await ground.godwit("migrate", ground.name, ground.host(there), "--verify-disks")
        assert ran.status == 0, ran.err
        assert "copying disks while the guest runs" in ran.out
        assert "disks compared: equal" in ran.out
        assert "Completed 100 %" in ran.out
        await ground.assert_settled(there)
        assert ground.ssh(SEEN_ANEW) == before
        assert made_there(ground, there) == [f"{ground.name}.qcow2"]
        sizes = [int(ground.inside(machine, "stat", "-c", "%b", image(ground))) for machine in (here, there)]
        assert sizes[1] <= 1.1 * sizes[0], "what was thin stays thin"


async def test_every_acknowledged_write_arrives(ground: Ground) -> None:
    """A writer in the guest counts up, each number synced before the next, while its disk and it are moved."""
    _, there = await fill(ground)
    count = "i=0; while [ ! -e /tmp/enough ]; do i=$((i+1)); echo $i > /data/count; sync; echo $i; done"
    ground.ssh("rm -f /tmp/enough")
    writer = await asyncio.create_subprocess_exec(
        *ground.login(), count, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    ran = await ground.godwit("migrate", ground.name, ground.host(there), "--verify-disks")
    assert ran.status == 0, ran.err
    assert "disks compared: equal" in ran.out, "as they were at the switchover, though the guest goes on to write"
    ground.ssh("touch /tmp/enough")
    said, _ = await writer.communicate()
    last = int(said.split()[-1])
    assert last > 3
    assert int(ground.ssh("echo 3 >/proc/sys/vm/drop_caches; cat /data/count")) == last
    checked = "qemu-img check -q -U " + image(ground)
    ground.inside(there, "sh", "-c", checked)
    await ground.assert_settled(there)


async def test_a_file_that_is_there_already_is_not_overwritten(ground: Ground) -> None:
    here, there = await fill(ground)
    (ground.lab.images(there) / f"{ground.name}.qcow2").write_text("somebody's")
    ran = await ground.godwit("migrate", ground.name, ground.host(there))
    assert ran.status == RefusedError.exit_status
    assert f"{ground.host(there)}" in ran.err
    assert (ground.lab.images(there) / f"{ground.name}.qcow2").read_text() == "somebody's"
    (ground.lab.images(there) / f"{ground.name}.qcow2").unlink()
    asked = await ground.godwit("migrate", ground.name, ground.host(there), "--disks", "shared")
    assert asked.status == RefusedError.exit_status
    assert "mount the shared storage" in asked.err
    await ground.assert_settled(here)


async def test_cancel_leaves_no_half_image(ground: Ground) -> None:
    here, there = await fill(ground)
    ground.lab.set_rate(SLOW)
    async with ground.client():
        move = await (await ground.begin(there)).reaches(Phase.MIRRORING)
        await until(lambda: made_there(ground, there) != [], "the image is made")
        assert (await ground.godwit("cancel", move.id)).status == 0
        await assert_as_before(ground, move, here, there)


@pytest.mark.long
async def test_a_target_that_dies_while_it_is_copied_to(ground: Ground) -> None:
    here, there = await fill(ground)
    ground.lab.set_rate(SLOW)
    async with ground.client():
        move = await (await ground.begin(there)).reaches(Phase.MIRRORING)
        os.kill(ground.qemus()[there][0].pid, signal.SIGKILL)
        await assert_as_before(ground, move, here, there)


@pytest.mark.long
async def test_a_disk_that_fills_up_on_the_way(ground: Ground) -> None:
    """Something else takes the room that was there when it was looked for."""
    here, there = await fill(ground)
    hide = "mkdir -p /tmp/kept && cp /mnt/images/* /tmp/kept/ && mount -t tmpfs -o size=110m tmpfs /mnt/images"
    ground.inside(there, "sh", "-c", f"{hide} && cp /tmp/kept/{ground.name}.* /mnt/images/")
    ground.lab.set_rate(SLOW)
    try:
        async with ground.client():
            move = await (await ground.begin(there)).reaches(Phase.MIRRORING)
            ground.inside(there, "sh", "-c", "dd if=/dev/zero of=/mnt/images/other bs=64k 2>/dev/null; true")
            outcome = await move.outcome()
            assert outcome.status is OutcomeStatus.FAILED
            assert "disk" in outcome.error
            assert ground.inside(there, "ls", "-A", "/mnt/images").split() == sorted(
                ["other", f"{ground.name}.initrd", f"{ground.name}.vmlinuz"]
            )
            await ground.assert_settled(here)
            status = (await ground.godwit("watch", move.id)).status
            assert status == MigrationFailedError.exit_status
    finally:
        ground.inside(there, "umount", "/mnt/images")


async def test_a_runner_that_is_killed_goes_on_with_the_copy(ground: Ground) -> None:
    _, there = await fill(ground)
    before = ground.ssh(SEEN_ANEW)
    ground.lab.set_rate(SLOW)
    async with ground.client():
        move = await (await ground.begin(there)).reaches(Phase.MIRRORING)
        await move.kill_runner()
        await move.taken_over(2)
        ground.lab.set_rate(None)
        assert (await move.outcome()).status is OutcomeStatus.COMPLETED
    await ground.assert_settled(there)
    assert ground.ssh(SEEN_ANEW) == before


async def start_overlaid(ground: Ground) -> str:
    """Start a guest on host1 whose disk is an overlay; the base lies on both hosts. Returns its name."""
    number, ground.guests = ground.guests, ground.guests + 1
    image = await place_image(ground.lab, ground.assets, GuestPlan(f"over{number}", number, MEMORY), "host1")
    ground.inside("host1", "sh", "-c", BASE.format(name=image.name))
    base = f"{image.name}.base"
    shutil.copyfile(ground.lab.images("host1") / base, ground.lab.images("host2") / base)
    text = OVERLAID.format(name=image.name, memory=MEMORY // MIB, append=image.append, address=ground.addressed(number))
    async with app.opened(ground.home) as service:
        await service.define_vm(text, "overlaid.toml", ground.host("host1"))
        await service.start_vm(image.name)
    ground.use(image.name, number)
    await until(lambda: ground.ssh("cat /proc/mounts | grep -c /data") == "1", "the guest is up", 60)
    return image.name


@pytest.mark.long
async def test_only_the_overlay_is_copied_onto_a_base_of_the_same_content(ground: Ground) -> None:
    before, number = ground.name, ground.number
    assert (await ground.godwit("vm", "stop", "--force", before)).status == 0
    name = await start_overlaid(ground)
    folder = ground.lab.images("host2")
    try:
        ground.ssh(f"{FILL}; echo overlay > /data/token; sync")
        seen = ground.ssh(SEEN_ANEW)
        base = (folder / f"{name}.base").read_bytes()
        (folder / f"{name}.base").write_bytes(base[:-70_000] + bytes(70_000))
        refused = await ground.godwit("migrate", name, ground.host("host2"), "--disks", "incremental")
        assert refused.status == RefusedError.exit_status
        assert f"{name}.base is another file on {ground.host('host2')}" in refused.err
        (folder / f"{name}.base").write_bytes(base)
        checked = await ground.godwit("check", name, ground.host("host2"))
        assert "the overlay alone" in checked.out
        assert "compared by size and samples" in checked.out
        async with ground.client():
            moved = await ground.godwit("migrate", name, ground.host("host2"), "--compare-all")
        assert moved.status == 0, moved.err
        await ground.assert_settled("host2")
        assert ground.ssh(SEEN_ANEW) == seen
        info = json.loads(ground.inside("host2", "qemu-img", "info", "-U", "--output=json", image(ground)))
        assert info["full-backing-filename"] == f"/mnt/images/{name}.base"
        used = [ground.lab.images(one) / f"{name}.qcow2" for one in ("host1", "host2")]
        assert used[1].stat().st_blocks <= 1.1 * used[0].stat().st_blocks
        (ground.lab.images("host1") / f"{name}.qcow2").unlink()
        whole = await ground.godwit("migrate", name, ground.host("host1"), "--disks", "full")
        assert whole.status == 0, whole.err
        assert ground.ssh(SEEN_ANEW) == seen
        info = json.loads(ground.inside("host1", "qemu-img", "info", "-U", "--output=json", image(ground)))
        assert "full-backing-filename" not in info
    finally:
        await ground.godwit("vm", "stop", "--force", name)
        ground.use(before, number)


@pytest.mark.long
async def test_what_was_freed_of_a_disk_does_not_travel_where_the_agent_may_trim_it(ground: Ground) -> None:
    here, there = await ground.whereabouts()
    assert (await ground.godwit("vm", "stop", ground.name, "--force")).status == 0
    await ground.fresh_guest(here, agent=True)
    ground.ssh("dd if=/dev/urandom of=/data/freed bs=1M count=30 conv=fsync 2>/dev/null; rm /data/freed; sync")
    move = await ground.begin(there, "--allow", "trim")
    outcome = await move.outcome(LONG)
    assert outcome.status is OutcomeStatus.COMPLETED, outcome
    (allocation,) = outcome.allocations
    assert max(allocation.before, allocation.after) < 20 * MIB
    notes = [str(line.data.get("text", "")) for line in await move.entries()]
    assert any("less to copy" in note for note in notes), notes
    await ground.assert_settled(there)
