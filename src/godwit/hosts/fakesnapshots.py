"""Snapshots in the images of a simulated guest, in QEMU's words: a load that fails leaves the guest in `restore-vm`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.core.snapshots import DiskSnapshots, ImageSnapshot
from godwit.hosts.fakeworld import FakeSnapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.hosts.fakeqemu import FakeQemu
    from godwit.hosts.fakeworld import FakeWorld, File

BANDWIDTH: Final = 200_000_000
"""Bytes of memory a second that go into an image."""


def format_of(path: str) -> str:
    """Return the format of a simulated image, which its name says."""
    return "qcow2" if path.endswith(".qcow2") else "raw"


def disks(qemu: FakeQemu) -> tuple[DiskSnapshots, ...]:
    """Return the guest's disks as query-block does."""
    return tuple(
        DiskSnapshots(
            name=f"disk{number}",
            path=path,
            format=format_of(path),
            read_only=path.endswith(".iso"),
            node=f"node{number}",
            snapshots=held(qemu.world, _file(qemu, path)),
        )
        for number, (path, _) in enumerate(qemu.world.disks_of(qemu))
    )


def held(world: FakeWorld, file: File) -> tuple[ImageSnapshot, ...]:
    """Return the snapshots in an image."""
    return tuple(one.entry for one in world.images.get(file.inode, ()))


def seconds(qemu: FakeQemu) -> float:
    """Return how long the guest stands still for a snapshot."""
    return qemu.workload.used / BANDWIDTH


def save(qemu: FakeQemu, tag: str, vmstate: str, nodes: Sequence[str]) -> None:
    """Obey snapshot-save."""
    chosen = _chosen(qemu, nodes)
    if any(entry.tag == tag for disk in chosen for entry in disk.snapshots):
        qemu.refuse("snapshot-save", f"Snapshot '{tag}' already exists in one or more devices")
    if qemu.host.name in qemu.world.full:
        qemu.refuse("snapshot-save", "Error while writing VM state: Input/output error")
    now = qemu.host.time()
    for disk in chosen:
        file = _file(qemu, disk.path)
        size = qemu.workload.used if disk.node == vmstate else 0
        entry = ImageSnapshot(tag, str(len(disk.snapshots) + 1), now, qemu.world.executed(qemu, 0.0), size)
        kept = FakeSnapshot(entry, qemu.memory if size else 0)
        qemu.world.images[file.inode] = (*qemu.world.images.get(file.inode, ()), kept)


def load(qemu: FakeQemu, tag: str, nodes: Sequence[str]) -> None:
    """Obey snapshot-load."""
    ran = qemu.raw == "running"
    qemu.halt("restore-vm" if ran else qemu.raw)
    words = qemu.world.planted_refusal(qemu.host, "loading")
    chosen = _chosen(qemu, nodes)
    if not all(any(entry.tag == tag for entry in disk.snapshots) for disk in chosen):
        words = f"Snapshot '{tag}' does not exist in one or more devices"
    if words is not None:
        qemu.refuse("snapshot-load", words)
    entries = [one for disk in chosen for one in qemu.world.images[_file(qemu, disk.path).inode]]
    memory = max(one.memory for one in entries if one.entry.tag == tag)
    qemu.fresh = False
    qemu.world.went_back(qemu, memory)
    if ran:
        qemu.execute()


def delete(qemu: FakeQemu, tag: str, nodes: Sequence[str]) -> None:
    """Obey snapshot-delete."""
    for disk in _chosen(qemu, nodes):
        forget(qemu.world, _file(qemu, disk.path), tag)


def forget(world: FakeWorld, file: File, tag: str) -> None:
    """Remove a snapshot from an image."""
    world.images[file.inode] = tuple(one for one in world.images.get(file.inode, ()) if one.entry.tag != tag)


def _chosen(qemu: FakeQemu, nodes: Sequence[str]) -> list[DiskSnapshots]:
    return [disk for disk in disks(qemu) if disk.node in nodes]


def _file(qemu: FakeQemu, path: str) -> File:
    file = qemu.world.file(path, qemu.host.name)
    assert file is not None  # noqa: S101 - disks_of names only what is there; for the type checker
    return file
