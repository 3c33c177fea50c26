"""A guest is sent where both hosts see its images: nothing is copied, and its work goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from diskground import image
from labwaits import until
from test_snapshots_lab import counting, counts

from godwit.errors import MigrationFailedError

if TYPE_CHECKING:
    from labtools import Ground

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]


@pytest.mark.long
async def test_a_guest_is_sent_over_shared_storage(ground: Ground) -> None:
    _, there = await ground.whereabouts()
    async with counting(ground):
        before = int(ground.ssh("cat /dev/shm/count"))
        sent = await ground.godwit("snapshot", "send", ground.name, "shared_tag", ground.host(there))
        assert sent.status == 0, sent.err + sent.out
        assert "nothing: both hosts see its images" in sent.out
        await until(lambda: int(ground.ssh("cat /dev/shm/count") or 0) > before + 3, "the writer counts on")
    in_memory, on_disk = counts(ground)
    assert 0 <= on_disk - in_memory <= 1
    await ground.assert_settled(there)
    assert ground.inside(there, "stat", "-c", "%s", image(ground)).strip() != "0"


@pytest.mark.long
async def test_a_target_whose_qemu_does_not_start_gives_the_guest_back(ground: Ground) -> None:
    """Its QEMU cannot be started: the guest is started again where it was, on the very images."""
    here, there = await ground.whereabouts()
    ground.ssh("echo here > /dev/shm/mark")
    kernel = f"/mnt/images/{ground.name}.vmlinuz"
    ground.inside(there, "sh", "-c", f"echo nothing > /tmp/no-kernel && mount --bind /tmp/no-kernel {kernel}")
    try:
        ran = await ground.godwit("snapshot", "send", ground.name, "again", ground.host(there))
    finally:
        ground.inside(there, "umount", kernel)
    assert ran.status == MigrationFailedError.exit_status, ran.err + ran.out
    assert "runs on" in ran.err
    assert ground.ssh("cat /dev/shm/mark") == "here"
    await ground.assert_settled(here)
