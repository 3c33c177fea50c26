"""How each disk of a guest travels: it stays where it is, since the target sees it too, or it is copied. Pure.

A disk is shared when a token written beside it on the source was read on the target, and a backing file may be used
when that, or its content, is the same: nothing that a name says counts. A copy that was left behind on the target by
an earlier move is filled up with what was written since, if both images prove that this is all that it lacks.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from godwit.core.addresses import is_network_address
from godwit.model import DiskCopy, DiskMode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.core.preflight.evidence import DiskProof
    from godwit.model import ImageFacts, Policy, Stamp

STAMP_PREFIX: Final = "godwit-handover-"
"""How the dirty bitmaps begin that Godwit sets when a guest is handed over."""

_COPYING: Final = frozenset({DiskMode.FULL, DiskMode.INCREMENTAL})


def is_copied(policy: Policy, disk: DiskProof) -> bool:
    """Say whether a disk is to be copied: the user wants it, or leaves it open and the target has no file of its own.

    What an earlier move left there is none, as long as nobody has touched it since.
    """
    mode = policy.mode_of(disk.name)
    if is_network_address(disk.path):
        return False
    missing = not disk.target_identity or is_left_over(disk)
    return not disk.read_only and (mode in _COPYING or (mode is DiskMode.AUTO and missing))


def is_left_over(disk: DiskProof) -> bool:
    """Say whether what the target has is an older copy of this very disk, which nobody has touched since."""
    return disk.older is not None and disk.older.unchanged and disk.older.vm == disk.vm and not disk.token_seen


def is_copied_beforehand(policy: Policy, disk: DiskProof) -> bool:
    """Say whether a file that the guest only reads is to be copied before its QEMU starts on the target.

    Firmware belongs to a package of its host, and is not.
    """
    return (
        disk.read_only
        and not disk.backs
        and not disk.firmware
        and not is_network_address(disk.path)
        and not disk.target_identity
        and policy.mode_of(disk.name) is not DiskMode.SHARED
    )


def media(policy: Policy, disks: Sequence[DiskProof]) -> tuple[DiskCopy, ...]:
    """Return the files that are to be copied before, byte by byte, in order; each of them once."""
    found = {
        disk.path: DiskCopy(disk.name, disk.image, job_name(disk.name))
        for disk in disks
        if disk.image is not None and is_copied_beforehand(policy, disk)
    }
    return tuple(found.values())


def chain_of(disk: DiskProof, disks: Sequence[DiskProof]) -> tuple[DiskProof, ...]:
    """Return the backing files of a disk, the nearest first."""
    return tuple(one for one in disks if one.backs == disk.name)


def mode_of(policy: Policy, disk: DiskProof, disks: Sequence[DiskProof]) -> DiskMode:
    """Return how a disk that is to be copied is: incrementally where all that lies below it is there already."""
    mode = policy.mode_of(disk.name)
    chain = chain_of(disk, disks)
    if mode is DiskMode.AUTO:
        return DiskMode.INCREMENTAL if chain and all(one.same for one in chain) else DiskMode.FULL
    return mode


def since(policy: Policy, disk: DiskProof) -> Stamp | None:
    """Return the stamp from which on the target's older copy lacks what was written; None where it cannot be used.

    The running image must have recorded without a gap since then (its bitmap is whole), and the older one must have
    been closed in order with the same bitmap. A raw image holds no bitmaps: for it the mark beside it alone speaks. So
    it does for one that a former way back had begun to fill up: QEMU does not close its disks when a stream to it
    fails. Whatever came is among what the running image has recorded, and is sent again.
    """
    if policy.mode_of(disk.name) is not DiskMode.AUTO or not is_left_over(disk) or why_not(disk):
        return None
    return next((one for one in disk.stamps if disk.older is not None and one.name == disk.older.stamp), None)


def why_not(disk: DiskProof) -> str:
    """Say why an untouched older copy cannot be filled up, empty where it can."""
    older = disk.older
    if older is None or older.image is None or disk.image is None:
        return "it cannot be read"
    if (older.image.format, older.image.virtual_size) != (disk.image.format, disk.image.virtual_size):
        return "the disk has another format or size by now"
    if not older.stamp:
        return "no stamp was set when it was left behind"
    if older.stamp not in {one.name for one in disk.stamps}:
        return "what was written since has not been recorded without a gap"
    if older.image.format != "raw" and older.stamp not in older.image.stamps and not older.resumed:
        return "its own stamp is missing, or was not closed in order"
    return ""


def copies(policy: Policy, disks: Sequence[DiskProof], stamp: str = "") -> tuple[DiskCopy, ...]:
    """Return the disks that are to be copied, in order; whether they can be is for preflight to say.

    A full copy holds what the disk and all its backing files hold together, so it has none below it. `stamp` is what
    both images get at the handover, empty for nothing.
    """
    return tuple(
        _copy(policy, disk, disk.image, disks, stamp)
        for disk in disks
        if disk.image is not None and is_copied(policy, disk)
    )


def to_send(policy: Policy, disks: Sequence[DiskProof]) -> int:
    """Return the bytes that travel of disks before the guest's memory does, as far as anybody can say beforehand."""
    total = 0
    for disk in disks:
        if disk.image is not None and is_copied(policy, disk):
            found = since(policy, disk)
            total += found.changed if found else disk.image.allocated
    return total


def _copy(policy: Policy, disk: DiskProof, image: ImageFacts, disks: Sequence[DiskProof], stamp: str) -> DiskCopy:
    mode = mode_of(policy, disk, disks)
    if mode is DiskMode.FULL:
        image = replace(image, backing="", backing_format="")
    found = since(policy, disk)
    return DiskCopy(
        disk.name,
        image,
        job_name(disk.name),
        mode,
        stamp=stamp if policy.keep_old else "",
        older=is_left_over(disk),
        since=found.name if found else "",
        verify=policy.verify_disks,
    )


def stamp_name(identifier: str) -> str:
    """Return the handover stamp of a migration."""
    return f"{STAMP_PREFIX}{identifier}"


def job_name(disk: str) -> str:
    """Return an identifier for the copying of a disk: short and plain, whatever QEMU calls the disk."""
    return f"godwit-{hashlib.sha256(disk.encode()).hexdigest()[:12]}"
