"""What a simulated host does with images that no QEMU has open, and with the memory of a process."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from godwit.errors import HostError, RemoteCommandError
from godwit.hosts import fakesnapshots

if TYPE_CHECKING:
    from godwit.core.snapshots import DiskSnapshots
    from godwit.hosts.fakeworld import FakeWorld, File

THIN: Final = 16
"""The share of a simulated disk that is in use: one part in so many."""


class LooksIntoFiles:
    """The part of a simulated host that looks into images of guests that are off; see `godwit.ports.Host`."""

    world: FakeWorld

    @property
    def name(self) -> str:
        """The name under which the host is registered."""
        raise NotImplementedError

    async def _reach(self) -> None:
        raise NotImplementedError

    def _there(self, path: str) -> File:
        file = self.world.file(path, self.name)
        if file is None:
            message = f"{self.name} has no {path}"
            raise HostError(message)
        return file

    async def image_snapshots(self, disk: DiskSnapshots) -> DiskSnapshots:
        """Return the disk of a guest that is off with its format and its snapshots."""
        await self._reach()
        held = fakesnapshots.held(self.world, self._there(disk.path))
        return replace(disk, format=fakesnapshots.format_of(disk.path), snapshots=held)

    async def delete_image_snapshot(self, path: str, tag: str) -> None:
        """Remove a snapshot from an image that no QEMU has open."""
        await self._reach()
        fakesnapshots.forget(self.world, self._there(path), tag)

    async def resident(self, pid: int) -> int:
        """Return how many bytes of memory a process has resident."""
        await self._reach()
        for qemu in self.world.hosts[self.name].qemus.values():
            if qemu.pid == pid:
                return qemu.used
        message = f"{self.name} has no process {pid}"
        raise RemoteCommandError(message)
