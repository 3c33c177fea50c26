"""Guests whose disk lies on their host alone: it is copied while they run, whole or not at all."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Final

import pytest
from labtools import Ground, Move, until

from godwit.core.state import Phase
from godwit.errors import MigrationFailedError, RefusedError
from godwit.lab import assets
from godwit.model import OutcomeStatus, Owner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from godwit.lab.laboratory import Laboratory

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]

SLOW: Final = 40_000_000
"""Bits a second at which the disk of these tests takes some seconds."""

FILL: Final = "dd if=/dev/urandom of=/data/filling bs=1M count=12 conv=fsync 2>/dev/null; sync"
SEEN_ANEW: Final = "sync; echo 3 >/proc/sys/vm/drop_caches; md5sum /data/filling; cat /data/token"


@pytest.fixture(scope="module")
def ground(build_lab: Callable[..., Laboratory], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Return a laboratory whose hosts share nothing, with a guest on host1."""
    prepared = assets.prepare(assets.cache_folder(), print)
    made = Ground(build_lab(link_rate=None, shared_storage=False), prepared, tmp_path_factory.mktemp("godwit"))
    asyncio.run(made.settle())
    yield made
    made.end_runners()


def image(ground: Ground) -> str:
    return f"/mnt/images/{ground.name}.qcow2"


def made_there(ground: Ground, machine: str) -> list[str]:
    """Return the guest's image and the mark of a copy on a host."""
    folder = ground.lab.images(machine)
    return sorted(path.name for path in folder.iterdir() if path.name == f"{ground.name}.qcow2" or "copy" in path.name)


async def fill(ground: Ground) -> tuple[str, str]:
    """Put some data on the guest's disk, take an old copy out of the way; returns where the guest is and goes."""
    here, there = await ground.whereabouts()
    (ground.lab.images(there) / f"{ground.name}.qcow2").unlink(missing_ok=True)
    ground.ssh(f"{FILL}; echo {here} > /data/token; sync")
    return here, there


async def assert_as_before(ground: Ground, move: Move, here: str, there: str) -> None:
    """The guest runs where it was, on its own disk, and nothing of the copy is left."""
    outcome = await move.outcome()
    assert outcome.owner is Owner.SOURCE
    await ground.assert_settled(here)
    assert made_there(ground, there) == []
    assert ground.ssh("echo works > /data/probe && sync && cat /data/probe") == "works"


async def test_there_and_back_with_the_disk(ground: Ground) -> None:
    for _ in range(2):
        here, there = await fill(ground)
        before = ground.ssh(SEEN_ANEW)
        async with ground.client():
            ran = await ground.godwit("migrate", ground.name, ground.host(there))
        assert ran.status == 0, ran.err
        assert "copying disks while the guest runs" in ran.out
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
    ran = await ground.godwit("migrate", ground.name, ground.host(there))
    assert ran.status == 0, ran.err
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


async def test_a_target_that_dies_while_it_is_copied_to(ground: Ground) -> None:
    here, there = await fill(ground)
    ground.lab.set_rate(SLOW)
    async with ground.client():
        move = await (await ground.begin(there)).reaches(Phase.MIRRORING)
        os.kill(ground.qemus()[there][0].pid, signal.SIGKILL)
        await assert_as_before(ground, move, here, there)


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
