"""There and back with a disk that lies on each host alone: the second time only what was written since is copied."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Final

import pytest
from diskground import image
from labwaits import until

from godwit.core.state import Phase
from godwit.errors import RefusedError
from godwit.model import OutcomeStatus
from godwit.units import MIB

if TYPE_CHECKING:
    from labtools import Ground

    from godwit.model import Outcome

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]

LARGE = 24 * MIB
SLOW: Final = 40_000_000
"""Bits a second at which a small change takes more than a second."""

FILL: Final = f"dd if=/dev/urandom of=/data/filling bs=1M count={LARGE // MIB} conv=fsync 2>/dev/null; sync"
CHANGE: Final = "dd if=/dev/urandom of=/data/change bs=1M count=3 conv=fsync 2>/dev/null; sync"
SEEN_ANEW: Final = "sync; echo 3 >/proc/sys/vm/drop_caches; cat /data/filling /data/change | md5sum"


@pytest.fixture(scope="module")
def ground(apart: Ground) -> Ground:
    """Return a laboratory whose hosts share nothing, with a guest on host1."""
    return apart


def marks(ground: Ground, machine: str) -> list[str]:
    return [path.name for path in ground.lab.images(machine).iterdir() if path.name.startswith(".godwit-")]


def bitmaps(ground: Ground, machine: str) -> list[str]:
    said = json.loads(ground.inside(machine, "qemu-img", "info", "-U", "--output=json", image(ground)))
    return [row["name"] for row in said["format-specific"]["data"].get("bitmaps", [])]


async def moved(ground: Ground, *options: str) -> tuple[Outcome, str]:
    """Move the guest to the other host and look whether its disk is what it was; returns what was said, too."""
    here, there = await ground.whereabouts()
    before = ground.ssh(SEEN_ANEW)
    async with ground.client():
        ran = await ground.godwit("migrate", ground.name, ground.host(there), *options)
    assert ran.status == 0, ran.err
    await ground.assert_settled(there)
    assert ground.ssh(SEEN_ANEW) == before
    ground.inside(there, "qemu-img", "check", "-q", "-U", image(ground))
    outcome = await (await ground.latest()).outcome()
    assert outcome.source == ground.host(here)
    return outcome, ran.out


async def filled(ground: Ground) -> tuple[str, str]:
    """Give the guest a disk of some size, and leave none on the other host."""
    here, there = await ground.whereabouts()
    ground.inside(there, "sh", "-c", f"rm -f {image(ground)} /mnt/images/.godwit-*")
    ground.ssh(f"{FILL}; {CHANGE}")
    return here, there


@pytest.mark.long
async def test_there_and_back_and_there_again(ground: Ground) -> None:
    here, _ = await filled(ground)
    first, _ = await moved(ground)
    assert first.disk_bytes > LARGE
    assert any("left" in mark for mark in marks(ground, here))
    for turn in range(3):
        ground.ssh(CHANGE)
        outcome, said = await moved(ground)
        assert outcome.disk_bytes < LARGE / 2, f"turn {turn}"
        assert "only what was written since it was there" in said
    assert len(bitmaps(ground, here)) <= 1, "former stamps are gone"
    checked = await ground.godwit("check", ground.name, ground.host((await ground.whereabouts())[1]))
    assert "has kept the copy" in checked.out


@pytest.mark.long
async def test_a_guest_that_was_killed_is_copied_whole_and_it_says_so(ground: Ground) -> None:
    _, there = await filled(ground)
    await moved(ground)
    (qemu,) = ground.qemus()[there]
    os.kill(qemu.pid, signal.SIGKILL)
    await until(lambda: not ground.qemus()[there], "it is gone")
    assert (await ground.godwit("vm", "start", ground.name)).status == 0
    await ground.answers()
    outcome, said = await moved(ground)
    assert outcome.disk_bytes > LARGE
    assert "has not been recorded without a gap" in said


@pytest.mark.long
async def test_a_guest_that_was_started_anew_in_order_keeps_its_short_way_back(ground: Ground) -> None:
    _, there = await filled(ground)
    await moved(ground)
    (qemu,) = ground.qemus()[there]
    os.kill(qemu.pid, signal.SIGTERM)
    await until(lambda: not ground.qemus()[there], "it is gone")
    assert (await ground.godwit("vm", "start", ground.name)).status == 0
    await ground.answers()
    outcome, _ = await moved(ground)
    assert outcome.disk_bytes < LARGE / 2


async def test_an_old_copy_that_was_written_to_is_left_alone(ground: Ground) -> None:
    here, there = await filled(ground)
    await moved(ground)
    ground.inside(here, "qemu-io", "-c", "write -P 9 1M 64k", image(ground))
    refused = await ground.godwit("migrate", ground.name, ground.host(here), "--disks", "full")
    assert refused.status == RefusedError.exit_status
    assert "somebody has changed it since" in refused.err
    await ground.assert_settled(there)


@pytest.mark.long
async def test_a_disk_that_was_taken_back_to_a_snapshot_has_lost_its_stamp(ground: Ground) -> None:
    await filled(ground)
    await moved(ground)
    made = await ground.godwit("snapshot", "create", ground.name, "before")
    assert made.status == 0, made.err
    applied = await ground.godwit("snapshot", "apply", ground.name, "before", "--yes")
    assert applied.status == 0, applied.err
    await ground.answers()
    assert "before" in (await ground.godwit("monitor", ground.name, "-c", "info snapshots")).out
    assert (await ground.godwit("monitor", ground.name, "-c", "loadvm before")).status == 0
    assert (await ground.godwit("snapshot", "delete", ground.name, "before")).status == 0
    outcome, said = await moved(ground)
    assert outcome.disk_bytes > LARGE
    assert "has not been recorded without a gap" in said


@pytest.mark.long
async def test_a_guest_that_is_switched_off_for_it_has_its_short_way_back_too(ground: Ground) -> None:
    await filled(ground)
    for turn in range(2):
        _, there = await ground.whereabouts()
        ran = await ground.godwit("migrate", ground.name, ground.host(there), "--static", "--off")
        assert ran.status == 0, ran.err
        await ground.answers()
        outcome = await (await ground.latest()).outcome()
        assert (outcome.disk_bytes < LARGE / 2) is (turn == 1), outcome.disk_bytes


@pytest.mark.long
async def test_no_keep_leaves_nothing_behind(ground: Ground) -> None:
    here, _ = await filled(ground)
    await moved(ground, "--no-keep")
    assert not (ground.lab.images(here) / f"{ground.name}.qcow2").exists()
    assert marks(ground, here) == []


@pytest.mark.long
@pytest.mark.parametrize("phase", [Phase.MIRRORING, Phase.PRECOPY])
@pytest.mark.parametrize("fault", ["cancel", "target dies"])
async def test_a_way_back_that_ends_early_can_be_gone_again(ground: Ground, phase: Phase, fault: str) -> None:
    here, there = await filled(ground)
    await moved(ground)
    ground.ssh(CHANGE)
    stamps = bitmaps(ground, there)
    ground.lab.set_rate(SLOW)
    async with ground.client():
        move = await (await ground.begin(here)).reaches(phase)
        if fault == "cancel":
            assert (await ground.godwit("cancel", move.id)).status == 0
        else:
            os.kill(ground.qemus()[here][0].pid, signal.SIGKILL)
        outcome = await move.outcome()
        assert outcome.status in {OutcomeStatus.CANCELLED, OutcomeStatus.FAILED}
        await ground.assert_settled(there)
    ground.lab.set_rate(None)
    assert bitmaps(ground, there) == stamps
    assert not any("copy" in mark for mark in marks(ground, here))
    again, _ = await moved(ground)
    assert again.disk_bytes < LARGE / 2


@pytest.mark.long
async def test_a_runner_that_is_killed_on_the_way_back(ground: Ground) -> None:
    here, _ = await filled(ground)
    await moved(ground)
    ground.ssh(CHANGE)
    before = ground.ssh(SEEN_ANEW)
    ground.lab.set_rate(SLOW)
    async with ground.client():
        move = await (await ground.begin(here)).reaches(Phase.MIRRORING)
        await move.kill_runner()
        await move.taken_over(2)
        ground.lab.set_rate(None)
        outcome = await move.outcome()
    assert outcome.status is OutcomeStatus.COMPLETED
    assert outcome.disk_bytes < LARGE / 2
    await ground.assert_settled(here)
    assert ground.ssh(SEEN_ANEW) == before
