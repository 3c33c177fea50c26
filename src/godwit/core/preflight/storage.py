"""Checks of the disks: the target must see the very same files."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

from godwit.model import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from godwit.core.preflight.evidence import DiskProof, Evidence


def storage_findings(e: Evidence) -> Iterator[Finding]:
    """Yield the disks that the target does not see, or sees another of, and those that QEMU could not hand over."""
    yield from _images_are_found_again(e)
    for disk in e.disks:
        yield from _disk(e, disk)


def _images_are_found_again(e: Evidence) -> Iterator[Finding]:
    for image in e.guest.stray_images:
        folder, slash, _ = image.name.rpartition("/")
        prepare = f"mkdir -p {quote('/' + folder)}; " if slash else ""
        yield Finding(
            "image-not-found-again",
            Severity.BLOCK,
            image.path,
            f"QEMU knows {image.path} as {image.name} and went to / when it daemonized",
            "it would not find its disk again at the very end of the move, and refuse to hand it over",
            f"{prepare}ln -s {quote(image.path)} {quote('/' + image.name)}  (on {e.source.name}, until the guest has "
            "moved), or start the guest with absolute paths",
        )


def _disk(e: Evidence, disk: DiskProof) -> Iterator[Finding]:
    if not disk.target_identity:
        yield Finding(
            "disk-missing",
            Severity.BLOCK,
            disk.path,
            f"{e.target.name} has no {disk.path}",
            f"disk {disk.name} of the guest would be missing",
            f"mount the shared storage at the same place on {e.target.name}",
        )
    elif disk.token_seen is None:
        yield Finding(
            "disk-unproven",
            Severity.BLOCK,
            disk.path,
            f"no proof that {disk.path} is the same on both hosts: {disk.error}",
            "another file of the same name would be taken for the guest's disk",
            f"make the folder of {disk.path} writable for Godwit on {e.source.name}",
        )
    elif not disk.token_seen:
        yield Finding(
            "disk-not-shared",
            Severity.BLOCK,
            disk.path,
            f"{disk.path} exists on both hosts, but they are different files "
            f"({disk.source_identity} on {e.source.name}, {disk.target_identity} on {e.target.name})",
            "the guest would go on with another disk's content",
            "put the disk on storage that both hosts mount at the same place",
        )
