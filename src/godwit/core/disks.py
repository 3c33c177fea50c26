"""How each disk of a guest travels: it stays where it is, since the target sees it too, or it is copied. Pure.

A disk is shared when a token written beside it on the source was read on the target: nothing that a name says counts.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from godwit.model import DiskCopy, DiskMode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from godwit.core.preflight.evidence import DiskProof
    from godwit.model import Policy


def is_copied(policy: Policy, disk: DiskProof) -> bool:
    """Say whether a disk is to be copied: the user wants it, or leaves it open and the target has no such file."""
    mode = policy.mode_of(disk.name)
    return not disk.read_only and (mode is DiskMode.FULL or (mode is DiskMode.AUTO and not disk.target_identity))


def copies(policy: Policy, disks: Iterable[DiskProof]) -> tuple[DiskCopy, ...]:
    """Return the disks that are to be copied, in order; whether they can be is for preflight to say.

    A copy holds what the disk and all its backing files hold together, so it has none below it.
    """
    return tuple(
        DiskCopy(disk.name, replace(disk.image, backing="", backing_format=""), job_name(disk.name))
        for disk in disks
        if disk.image is not None and is_copied(policy, disk)
    )


def job_name(disk: str) -> str:
    """Return an identifier for the copying of a disk: short and plain, whatever QEMU calls the disk."""
    return f"godwit-{hashlib.sha256(disk.encode()).hexdigest()[:12]}"
