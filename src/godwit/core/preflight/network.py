"""Checks of disks that lie behind an address of the network: both hosts must get the same from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from godwit.core.addresses import unreachable
from godwit.core.preflight.rows import found
from godwit.model import DiskMode, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from godwit.core.preflight.evidence import DiskProof, Evidence


def network_findings(e: Evidence, disk: DiskProof) -> Iterator[Finding]:
    """Yield why a disk behind an address cannot be used from the target, or may not travel as it is asked to."""
    if why := unreachable(disk.path):
        yield found(
            "disk-unreachable",
            disk.path,
            f"{e.target.name} cannot reach {disk.path}: {why}",
            "serve it at an address that both hosts reach, and start the guest with that",
        )
    elif disk.error:
        yield found(
            "disk-unproven",
            disk.path,
            f"no proof that {disk.path} is the same from both hosts: {disk.error}",
            f"qemu-img info {disk.path}  (on {e.source.name} and on {e.target.name}); a server of NBD must take "
            "several clients at once (qemu-nbd --shared=4)",
        )
    elif not disk.token_seen:
        here, there = disk.source_identity, disk.target_identity
        yield found(
            "disk-differs",
            disk.path,
            f"{disk.path} is another disk from {e.target.name} ({here} here, {there} there)",
            "see what the name of the server means on both hosts",
        )
    elif e.policy.mode_of(disk.name) in {DiskMode.FULL, DiskMode.INCREMENTAL} and not disk.read_only:
        yield found(
            "disk-is-shared",
            disk.path,
            f"both hosts get the same from {disk.path}",
            f"leave --disks at auto, or say --disk {disk.name}=shared",
        )
