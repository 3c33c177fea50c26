"""What may be done with the snapshots inside a guest's images: which are whole, which names they may have. Pure.

A snapshot of a guest is an entry of the same name in each of its writable disks, one of which holds the memory, too.
QEMU finds an entry by its name when it looks, and by its identifier or its name when it goes back to it (read in
block/qcow2-snapshot.c): a name of digits alone could mean another entry, so Godwit makes none and touches none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.errors import InputError, InvalidNameError, RefusedError, UnknownSnapshotError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_WITH_SNAPSHOTS: Final = "qcow2"
_LONGEST: Final = 255
"""Bytes of a name that QEMU keeps (QEMUSnapshotInfo in block/snapshot.h)."""


@dataclass(frozen=True, slots=True)
class ImageSnapshot:
    """One entry of an image. `taken` is in UNIX seconds, `vm_clock` in seconds of the guest's life.

    `state_size` is how many bytes of the guest's memory and devices it holds: 0 on all disks but one.
    """

    tag: str
    identifier: str
    taken: float
    vm_clock: float
    state_size: int


@dataclass(frozen=True, slots=True)
class DiskSnapshots:
    """A disk of a guest and the snapshots in it. `node` is what QEMU calls it, empty where no QEMU runs."""

    name: str
    path: str
    format: str
    read_only: bool
    node: str = ""
    snapshots: tuple[ImageSnapshot, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot of a guest: on which of its disks it is, and on which it is missing.

    `taken` is in UNIX seconds, `vm_clock` in seconds of the guest's life, `state_size` in bytes.
    """

    tag: str
    taken: float
    vm_clock: float
    state_size: int
    disks: tuple[str, ...]
    missing: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the guest can go back to it: it is on all writable disks, and one has the memory."""
        return not self.missing and self.state_size > 0

    @property
    def lacks(self) -> str:
        """What keeps it from being complete, in words; empty where nothing does."""
        if self.missing:
            return f"it is not on {', '.join(self.missing)}"
        return "" if self.state_size else "it holds disks alone, no memory"


def writable(disks: Iterable[DiskSnapshots]) -> tuple[DiskSnapshots, ...]:
    """Return the disks that a snapshot is made of."""
    return tuple(disk for disk in disks if not disk.read_only)


def catalogue(disks: Sequence[DiskSnapshots]) -> tuple[Snapshot, ...]:
    """Put the entries of all writable disks together, the oldest snapshot first."""
    mine = writable(disks)
    found: dict[str, list[tuple[str, ImageSnapshot]]] = {}
    for disk in mine:
        for entry in disk.snapshots:
            found.setdefault(entry.tag, []).append((disk.name, entry))
    made = [
        Snapshot(
            tag=tag,
            taken=max(entry.taken for _, entry in entries),
            vm_clock=max(entry.vm_clock for _, entry in entries),
            state_size=max(entry.state_size for _, entry in entries),
            disks=tuple(name for name, _ in entries),
            missing=tuple(disk.name for disk in mine if disk.name not in {name for name, _ in entries}),
        )
        for tag, entries in found.items()
    ]
    return tuple(sorted(made, key=lambda one: (one.taken, one.tag)))


def refuse_unfit(vm: str, disks: Sequence[DiskSnapshots]) -> None:
    """Raise RefusedError where a snapshot could not hold all that the guest may write, naming the disk."""
    mine = writable(disks)
    if not mine:
        message = f"{vm} has no writable disk, and its memory is kept in one"
        raise RefusedError(message, remedy="give it a qcow2 disk")
    unfit = [disk for disk in mine if disk.format != _WITH_SNAPSHOTS]
    if unfit:
        names = ", ".join(f"{disk.name} ({disk.path}) is {disk.format}" for disk in unfit)
        first = unfit[0]
        message = f"{vm} cannot have snapshots: {names}, and only qcow2 images hold them"
        remedy = (
            f"switch {vm} off, qemu-img convert -f {first.format} -O qcow2 {first.path} {first.path}.qcow2, "
            "and give it that one"
        )
        raise RefusedError(message, remedy=remedy)


def new_tag(tag: str, known: Sequence[Snapshot]) -> str:
    """Return a name that a snapshot may have and none has. Raises InvalidNameError, InputError."""
    if _TAG.fullmatch(tag) is None or tag.isdigit():
        message = f"{tag[:80]!r} cannot be the name of a snapshot"
        raise InvalidNameError(
            message,
            remedy="use at most 64 letters, digits, _ . - and not digits alone: QEMU would take these for its own "
            "numbers",
        )
    taken = next((one for one in known if one.tag == tag), None)
    if taken is not None:
        message = f"there is a snapshot {tag} already" + ("" if taken.complete else f", and {taken.lacks}")
        raise InputError(message, remedy="choose another name, or remove it: godwit snapshot delete VM TAG")
    return tag


def known_tag(vm: str, tag: str, known: Sequence[Snapshot]) -> Snapshot:
    """Return the snapshot of that name, complete or not. Raises UnknownSnapshotError, InvalidNameError."""
    found = next((one for one in known if one.tag == tag), None)
    if found is None:
        names = ", ".join(one.tag for one in known) or "none"
        message = f"{vm} has no snapshot {tag[:80]!r}; it has: {names}"
        raise UnknownSnapshotError(message, remedy=f"godwit snapshot list {vm}")
    if tag.isdigit() or len(tag.encode()) > _LONGEST:
        message = f"the snapshot {tag[:80]!r} has a name that QEMU may take for another's number"
        raise InvalidNameError(message, remedy="use QEMU's own commands for it, and look twice: godwit monitor VM")
    return found


def whole_tag(vm: str, tag: str, known: Sequence[Snapshot]) -> Snapshot:
    """Return the complete snapshot of that name. Raises RefusedError for one that is not, and as `known_tag` does."""
    found = known_tag(vm, tag, known)
    if not found.complete:
        message = f"{vm} cannot go back to {tag}: {found.lacks}"
        raise RefusedError(message, remedy=f"godwit snapshot delete {vm} {tag}, if nobody needs it")
    return found


def state_node(disks: Sequence[DiskSnapshots], tag: str = "") -> str:
    """Return the node that holds the memory of the snapshot `tag`, or where that of a new one is to go."""
    mine = writable(disks)
    holders = [disk.node for disk in mine for entry in disk.snapshots if entry.tag == tag and entry.state_size]
    return (holders or [disk.node for disk in mine])[0]


def nodes(disks: Sequence[DiskSnapshots]) -> tuple[str, ...]:
    """Return the nodes of all writable disks."""
    return tuple(disk.node for disk in writable(disks))


def holders(disks: Sequence[DiskSnapshots], tag: str) -> tuple[DiskSnapshots, ...]:
    """Return the writable disks that have an entry of that name."""
    return tuple(disk for disk in writable(disks) if any(entry.tag == tag for entry in disk.snapshots))
