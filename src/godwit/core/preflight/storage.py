"""Checks of the disks: the target must see the very same files."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

from godwit.core.addresses import is_network_address
from godwit.core.disks import chain_of, is_copied, is_left_over, mode_of, since, why_not
from godwit.core.preflight.media import media_findings
from godwit.core.preflight.network import network_findings
from godwit.core.preflight.rows import found
from godwit.model import Command, DiskMode
from godwit.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from godwit.core.preflight.evidence import DiskProof, Evidence
    from godwit.model import Finding, ImageFacts


def storage_findings(e: Evidence) -> Iterator[Finding]:
    """Yield the disks that the target does not see, or sees another of, and those that QEMU could not hand over."""
    yield from images_are_found_again(e)
    yield from _disks_are_known(e)
    copied = {disk.name for disk in e.disks if is_copied(e.policy, disk)}
    for disk in e.disks:
        if disk.forbidden and disk.name not in copied:
            yield _forbidden(e, disk)
        if disk.name in copied:
            yield from _copied(e, disk)
        elif is_network_address(disk.path):
            yield from network_findings(e, disk)
        elif _is_a_medium(e, disk):
            yield from media_findings(e, disk, tuple(_keeps_from_copying(e, disk)))
        elif disk.backs not in copied and not (disk.backs and disk.same):
            yield from _disk(e, disk)


def _forbidden(e: Evidence, disk: DiskProof) -> Finding:
    reading = disk.read_only or disk.backs
    return found(
        "disk-rights",
        disk.path,
        f"a QEMU that Godwit starts on {e.target.name} could not open {disk.path} "
        f"for {'reading' if reading else 'reading and writing'}: {disk.forbidden}",
        f"see ls -l {quote(disk.path)} and id  (on {e.target.name}), and how the storage is exported and mounted: "
        "ro, root_squash",
    )


def _is_a_medium(e: Evidence, disk: DiskProof) -> bool:
    """Say whether a disk is one that the guest only reads, and need not be the very same file on both hosts."""
    shared = e.policy.mode_of(disk.name) is DiskMode.SHARED and not disk.firmware
    return disk.read_only and not disk.backs and not disk.token_seen and not shared


def _disks_are_known(e: Evidence) -> Iterator[Finding]:
    known = [disk.name for disk in e.disks if not disk.backs]
    for name, _ in e.policy.disk_modes:
        if name not in known:
            yield found(
                "disk-unknown",
                e.vm.name,
                f"{e.vm.name} has no disk {name}; it has {', '.join(known) or 'none'}",
                "name one of its disks",
            )


def images_are_found_again(e: Evidence) -> Iterator[Finding]:
    """Yield the images that QEMU would not find again by the names that it has for them."""
    for image in e.guest.stray_images:
        folder, slash, _ = image.name.rpartition("/")
        prepare = f"mkdir -p {quote('/' + folder)}; " if slash else ""
        link = quote("/" + image.name)
        yield found(
            "image-not-found-again",
            image.path,
            f"QEMU knows {image.path} as {image.name} and went to / when it daemonized",
            ", until the guest has moved; or start the guest with absolute paths",
            Command(e.source.name, f"{prepare}ln -s {quote(image.path)} {link}", f"rm {link}", safe=True),
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
    old, mend = "", "if the disk should be shared, mount its storage there first"
    if (stamp := since(e.policy, disk)) is not None:
        what, size = "only what was written since it was there", format_size(stamp.changed)
        old, mend = f"; {e.target.name} has kept the copy that the guest left there", ""
    elif is_left_over(disk):
        old = f"; the older copy on {e.target.name} is made anew: {why_not(disk) or 'that is what --disks says'}"
        mend = ""
    copied = f"disk {disk.name} is copied to {disk.path} on {e.target.name} ({what}): {size}{old}"
    yield found("disk-copied", disk.path, copied, mend)


def _backing_differs(e: Evidence, disk: DiskProof) -> Iterator[Finding]:
    """Yield what keeps a disk that is to be copied incrementally from it."""
    if e.policy.mode_of(disk.name) is not DiskMode.INCREMENTAL:
        return
    chain = chain_of(disk, e.disks)
    mend = f"copy the backing file there first, or say --disk {disk.name}=full"
    if not chain:
        yield found("backing-missing", disk.path, f"{disk.path} has no backing file", mend)
    for one in chain:
        if not one.target_identity:
            absent = f"{e.target.name} has no {one.path}, on which {disk.path} rests"
            yield found("backing-missing", one.path, absent, mend)
        elif not one.same:
            here, there = one.digests or ("?", one.error or "?")
            other = f"{one.path} is another file on {e.target.name} ({here} here, {there} there)"
            yield found("backing-differs", one.path, other, mend)


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
    folder = disk.path.rpartition("/")[0] or "/"
    if disk.token_seen:
        mend = f"leave --disks at auto, or say --disk {disk.name}=shared"
        yield found("disk-is-shared", disk.path, f"both hosts see the same {disk.path}", mend)
    elif disk.target_identity and not is_left_over(disk):
        ours = disk.older is not None and disk.older.vm == disk.vm
        older = f"{e.target.name} has kept an older {disk.path}, and somebody has changed it since"
        what = older if ours else f"{e.target.name} has another {disk.path} already"
        yield found("disk-exists", disk.path, what, f"move it away, if nobody needs it  (on {e.target.name})")
    elif disk.image is None or disk.place is None:
        yield found("disk-not-copied", disk.path, f"{disk.path}: {disk.error}", "see the reason")
    elif disk.image.refusals:
        why, mend = "; ".join(disk.image.refusals), "put it on shared storage"
        with_snapshots = f"godwit snapshot send {e.vm.name} takes it along with its snapshots; or {mend}"
        mend = with_snapshots if "snapshots" in why else mend
        yield found("disk-not-copied", disk.path, f"{disk.path}: {why}", mend)
    elif not disk.place.can_create:
        mend = f"apt-get install qemu-utils, or the like  (on {e.target.name})"
        yield found("qemu-img-missing", disk.path, f"{e.target.name} has no qemu-img", mend)
    elif not disk.place.writable or disk.place.available is None:
        mend = f"make it, or mount the storage that holds it  (on {e.target.name})"
        yield found("disk-folder", disk.path, f"{e.target.name} has no folder {folder} to write to", mend)
    elif disk.place.available < (needed := _room_needed(e, disk, disk.image)):
        what = f"{folder} on {e.target.name} has {format_size(disk.place.available)} left, "
        what += f"{disk.path} takes {format_size(needed)}"
        yield found("disk-room", disk.path, what, f"make room on {e.target.name}")
    elif disk.place.file_limit is not None and disk.place.file_limit < disk.image.virtual_size:
        what = f"files on {e.target.name} may not be larger than {format_size(disk.place.file_limit)}, "
        what += f"{disk.path} holds {format_size(disk.image.virtual_size)}"
        yield found("file-size-limit", disk.path, what, f"raise ulimit -f for Godwit's login on {e.target.name}")


def _disk(e: Evidence, disk: DiskProof) -> Iterator[Finding]:
    if not disk.target_identity:
        yield found(
            "disk-missing",
            disk.path,
            f"{e.target.name} has no {disk.path}",
            f"mount the shared storage at the same place on {e.target.name}",
        )
    elif disk.token_seen is None:
        yield found(
            "disk-unproven",
            disk.path,
            f"no proof that {disk.path} is the same on both hosts: {disk.error}",
            f"make the folder of {disk.path} writable for Godwit on {e.source.name}",
        )
    elif not disk.token_seen:
        yield found(
            "disk-not-shared",
            disk.path,
            f"{disk.path} exists on both hosts, but they are different files "
            f"({disk.source_identity} on {e.source.name}, {disk.target_identity} on {e.target.name})",
            "put the disk on storage that both hosts mount at the same place",
        )
