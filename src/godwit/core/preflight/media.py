"""Checks of what a guest only reads: media in its drives, seeds of cloud-init, the firmware's code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from godwit.core.disks import is_copied_beforehand
from godwit.core.preflight.rows import found
from godwit.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from godwit.core.preflight.evidence import DiskProof, Evidence
    from godwit.model import Finding


def media_findings(e: Evidence, disk: DiskProof, troubles: Sequence[Finding]) -> Iterator[Finding]:
    """Yield what is to be known of a read-only file that no token proves; `troubles` keep it from being copied."""
    if disk.target_identity:
        yield _there_already(e, disk)
    elif disk.firmware:
        yield found(
            "firmware-missing",
            disk.path,
            f"{e.target.name} has no {disk.path}, the firmware of {e.vm.name}",
            f"install the same firmware package there as on {e.source.name}, in the same version",
        )
    elif is_copied_beforehand(e.policy, disk):
        yield from troubles
        if not troubles and disk.image is not None:
            size = f"{format_size(disk.image.allocated)} of {format_size(disk.image.virtual_size)}"
            yield found(
                "disk-copied",
                disk.path,
                f"disk {disk.name} is copied to {disk.path} on {e.target.name} (read-only, before its QEMU starts; "
                f"compared whole afterwards): {size}",
                "if it should be shared, mount its storage there first",
            )


def _there_already(e: Evidence, disk: DiskProof) -> Finding:
    if disk.digests is None:
        return found(
            "disk-unproven",
            disk.path,
            f"no proof that {disk.path} is the same on both hosts: {disk.error}",
            f"see whether Godwit may read {disk.path} on both hosts",
        )
    here, there = disk.digests
    if here != there:
        return found(
            "disk-differs",
            disk.path,
            f"{disk.path} is another file on {e.target.name} ({here} here, {there} there)",
            f"install the same version on {e.target.name}" if disk.firmware else f"move it away on {e.target.name}",
        )
    how = "compared whole" if disk.compared_whole else "compared by size and samples (--compare-all reads all of it)"
    return found(
        "disk-same",
        disk.path,
        f"disk {disk.name}: {e.target.name} has the same {disk.path}, {how}",
    )
