"""Checks of the disks: the target must see the very same files."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

from godwit.core.addresses import is_network_address
from godwit.core.disks import chain_of, is_copied, is_left_over, mode_of, since, why_not
from godwit.core.preflight.media import media_findings
from godwit.core.preflight.network import network_findings
from godwit.model import DiskMode, Finding, Severity
from godwit.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from godwit.core.preflight.evidence import DiskProof, Evidence
    from godwit.model import ImageFacts


def storage_findings(e: Evidence) -> Iterator[Finding]:
    """Yield the disks that the target does not see, or sees another of, and those that QEMU could not hand over."""
    yield from images_are_found_again(e)
    yield from _disks_are_known(e)
    copied = {disk.name for disk in e.disks if is_copied(e.policy, disk)}
    for disk in e.disks:
        if disk.name in copied:
            yield from _copied(e, disk)
        elif is_network_address(disk.path):
            yield from network_findings(e, disk)
        elif _is_a_medium(e, disk):
            yield from media_findings(e, disk, tuple(_keeps_from_copying(e, disk)))
        elif disk.backs not in copied and not (disk.backs and disk.same):
            yield from _disk(e, disk)


def _is_a_medium(e: Evidence, disk: DiskProof) -> bool:
    """Say whether a disk is one that the guest only reads, and need not be the very same file on both hosts."""
    shared = e.policy.mode_of(disk.name) is DiskMode.SHARED and not disk.firmware
    return disk.read_only and not disk.backs and not disk.token_seen and not shared


def _disks_are_known(e: Evidence) -> Iterator[Finding]:
    known = [disk.name for disk in e.disks if not disk.backs]
    for name, mode in e.policy.disk_modes:
        if name not in known:
            yield Finding(
                "disk-unknown",
                Severity.BLOCK,
                e.vm.name,
                f"{e.vm.name} has no disk {name}; it has {', '.join(known) or 'none'}",
                f"--disk {name}={mode} would mean nothing",
                "name one of its disks",
            )


def images_are_found_again(e: Evidence) -> Iterator[Finding]:
    """Yield the images that QEMU would not find again by the names that it has for them."""
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


def _copied(e: Evidence, disk: DiskProof) -> Iterator[Finding]:
    troubles = (*_backing_differs(e, disk), *_keeps_from_copying(e, disk))
    yield from troubles
    if troubles or disk.image is None:
        return
    chain = chain_of(disk, e.disks)
    if mode_of(e.policy, disk, e.disks) is DiskMode.INCREMENTAL:
        how = "shared" if all(one.token_seen for one in chain) else "compared whole"
        if how != "shared" and not e.policy.compare_all:
            how = "compared by size and samples (--compare-all reads all of it)"
        what = f"the overlay alone; {chain[0].path} is there already, {how}"
    else:
        what = "with all that its backing files hold" if chain else "the whole disk"
    size = f"{format_size(disk.image.allocated)} of {format_size(disk.image.virtual_size)}"
    why, mend = f"{e.target.name} has no such file", "if the disk should be shared, mount its storage there first"
    if (stamp := since(e.policy, disk)) is not None:
        what, size = "only what was written since it was there", format_size(stamp.changed)
        why, mend = f"{e.target.name} has kept the copy that the guest left there", ""
    elif is_left_over(disk):
        why = f"the older copy on {e.target.name} is made anew: {why_not(disk) or 'that is what --disks says'}"
        mend = ""
    found = f"disk {disk.name} is copied to {disk.path} on {e.target.name} ({what}): {size}"
    yield Finding("disk-copied", Severity.INFO, disk.path, found, why, mend)


def _backing_differs(e: Evidence, disk: DiskProof) -> Iterator[Finding]:
    """Yield what keeps a disk that is to be copied incrementally from it."""
    if e.policy.mode_of(disk.name) is not DiskMode.INCREMENTAL:
        return
    chain = chain_of(disk, e.disks)
    mend = f"copy the backing file there first, or say --disk {disk.name}=full"
    why = "the overlay alone means nothing"
    if not chain:
        found = f"{disk.path} has no backing file"
        yield Finding("backing-missing", Severity.BLOCK, disk.path, found, "there is nothing to add to", mend)
    for one in chain:
        if not one.target_identity:
            found = f"{e.target.name} has no {one.path}, on which {disk.path} rests"
            yield Finding("backing-missing", Severity.BLOCK, one.path, found, why, mend)
        elif not one.same:
            here, there = one.digests or ("?", one.error or "?")
            found = f"{one.path} is another file on {e.target.name} ({here} here, {there} there)"
            yield Finding("backing-differs", Severity.BLOCK, one.path, found, why, mend)


def _room_needed(e: Evidence, disk: DiskProof, image: ImageFacts) -> int:
    """Return the bytes that a copy may take: a full one holds what lies below, too; what it replaces makes room."""
    if (stamp := since(e.policy, disk)) is not None:
        return stamp.changed
    needed = _size_of_copy(e, disk, image)
    freed = disk.older.image.allocated if is_left_over(disk) and disk.older and disk.older.image else 0
    return max(0, needed - freed)


def _size_of_copy(e: Evidence, disk: DiskProof, image: ImageFacts) -> int:
    if mode_of(e.policy, disk, e.disks) is DiskMode.INCREMENTAL:
        return image.allocated
    below = sum(int(one.source_identity.partition(":")[0] or 0) for one in chain_of(disk, e.disks))
    return min(image.virtual_size, image.allocated + below) if below else image.allocated


def _keeps_from_copying(e: Evidence, disk: DiskProof) -> Iterator[Finding]:
    def block(code: str, found: str, why: str, mend: str) -> Finding:
        return Finding(code, Severity.BLOCK, disk.path, found, why, mend)

    folder = disk.path.rpartition("/")[0] or "/"
    if disk.token_seen:
        yield block(
            "disk-is-shared",
            f"both hosts see the same {disk.path}",
            "it cannot be copied onto itself",
            f"leave --disks at auto, or say --disk {disk.name}=shared",
        )
    elif disk.target_identity and not is_left_over(disk):
        ours = disk.older is not None and disk.older.vm == disk.vm
        older = f"{e.target.name} has kept an older {disk.path}, and somebody has changed it since"
        yield block(
            "disk-exists",
            older if ours else f"{e.target.name} has another {disk.path} already",
            "nothing is overwritten that may be somebody's",
            f"move it away, if nobody needs it  (on {e.target.name})",
        )
    elif disk.image is None or disk.place is None:
        yield block("disk-not-copied", f"{disk.path}: {disk.error}", "it would have to be copied", "see the reason")
    elif disk.image.refusals:
        why, mend = "; ".join(disk.image.refusals), "put it on shared storage"
        with_snapshots = f"godwit snapshot send {e.vm.name} takes it along with its snapshots; or {mend}"
        mend = with_snapshots if "snapshots" in why else mend
        yield block("disk-not-copied", f"{disk.path}: {why}", "the copy would not be the same", mend)
    elif not disk.place.can_create:
        mend = f"apt-get install qemu-utils, or the like  (on {e.target.name})"
        yield block("qemu-img-missing", f"{e.target.name} has no qemu-img", "no image can be made there", mend)
    elif not disk.place.writable or disk.place.available is None:
        mend = f"make it, or mount the storage that holds it  (on {e.target.name})"
        yield block("disk-folder", f"{e.target.name} has no folder {folder} to write to", "the copy has no place", mend)
    elif disk.place.available < (needed := _room_needed(e, disk, disk.image)):
        found = f"{folder} on {e.target.name} has {format_size(disk.place.available)} left, "
        found += f"{disk.path} takes {format_size(needed)}"
        yield block("disk-room", found, "the copy would fill the disk", f"make room on {e.target.name}")
    elif disk.place.file_limit is not None and disk.place.file_limit < disk.image.virtual_size:
        found = f"files on {e.target.name} may not be larger than {format_size(disk.place.file_limit)}, "
        found += f"{disk.path} holds {format_size(disk.image.virtual_size)}"
        why = "a QEMU that writes beyond the limit is killed"
        yield block("file-size-limit", found, why, f"raise ulimit -f for Godwit's login on {e.target.name}")


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
