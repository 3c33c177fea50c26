"""How much of disks travels before their guest's memory."""

from __future__ import annotations

from dataclasses import replace

from test_preflight_ways import TO_BE_COPIED

from godwit.core.disks import to_send
from godwit.model import DiskMode, Policy
from godwit.units import MIB


def test_a_disk_that_is_copied_travels_with_what_it_takes_and_one_that_is_shared_does_not() -> None:
    assert TO_BE_COPIED.image is not None
    disk = replace(TO_BE_COPIED, image=replace(TO_BE_COPIED.image, allocated=300 * MIB))
    assert to_send(Policy(), [disk, disk]) == 600 * MIB
    assert to_send(Policy(disks=DiskMode.SHARED), [disk]) == 0
    assert to_send(Policy(), [replace(disk, token_seen=True, target_identity=disk.source_identity)]) == 0
    assert to_send(Policy(), []) == 0
