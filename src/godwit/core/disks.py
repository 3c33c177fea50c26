"""How each disk of a guest travels: it stays where it is, since the target sees it too, or it is copied. Pure.

A disk is shared when a token written beside it on the source was read on the target, and a backing file may be used
when that, or its content, is the same: nothing that a name says counts.
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
    from godwit.model import ImageFacts, Policy

_COPYING: Final = frozenset({DiskMode.FULL, DiskMode.INCREMENTAL})


def is_copied(policy: Policy, disk: DiskProof) -> bool:
    """Say whether a disk is to be copied: the user wants it, or leaves it open and the target has no such file."""
    mode = policy.mode_of(disk.name)
    if is_network_address(disk.path):
        return False
    return not disk.read_only and (mode in _COPYING or (mode is DiskMode.AUTO and not disk.target_identity))


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


def copies(policy: Policy, disks: Sequence[DiskProof]) -> tuple[DiskCopy, ...]:
    """Return the disks that are to be copied, in order; whether they can be is for preflight to say.

    A full copy holds what the disk and all its backing files hold together, so it has none below it.
    """
    return tuple(
        replace(_copy(disk.name, disk.image, mode_of(policy, disk, disks)), verify=policy.verify_disks)
        for disk in disks
        if disk.image is not None and is_copied(policy, disk)
    )


def _copy(name: str, image: ImageFacts, mode: DiskMode) -> DiskCopy:
    if mode is DiskMode.FULL:
        image = replace(image, backing="", backing_format="")
    return DiskCopy(name, image, job_name(name), mode)


def job_name(disk: str) -> str:
    """Return an identifier for the copying of a disk: short and plain, whatever QEMU calls the disk."""
    return f"godwit-{hashlib.sha256(disk.encode()).hexdigest()[:12]}"
