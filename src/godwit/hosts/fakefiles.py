"""What a simulated host does with whole files: it gives them to other hosts over their links."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from godwit.errors import HostError, RemoteCommandError
from godwit.hosts import fakesnapshots
from godwit.ports import ServedFile

if TYPE_CHECKING:
    from godwit.core.snapshots import DiskSnapshots
    from godwit.hosts.fakeworld import FakeWorld, File

THIN: Final = 16
"""The share of a simulated disk that is in use: one part in so many."""

PATIENCE: Final = 5.0
"""Seconds after which a fetch over a link that is cut is given up."""


class GivesFiles:
    """The part of a simulated host that concerns whole files; see `godwit.ports.Host`."""

    world: FakeWorld
    leases: dict[str, int]
    served: dict[str, str]

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

    async def serve_file(self, path: str, lease: str, address: str) -> ServedFile:
        """Give a file away to one other host."""
        await self._reach()
        self.served[lease] = path
        return ServedFile(path, self._there(path).size, f"nbd://{address}:1/{lease}", lease)

    async def renew_lease(self, lease: str) -> None:
        """Let it be served for another while; here it is served until it is stopped."""
        del lease
        await self._reach()

    async def stop_serving_file(self, lease: str) -> None:
        """Serve it no longer."""
        await self._reach()
        self.served.pop(lease, None)

    async def fetch_file(self, served: ServedFile, path: str, owner: str) -> None:
        """Copy what another host serves, at the pace of the link between them."""
        await self._reach()
        giver = next((host for host in self.world.hosts.values() if served.lease in host.served), None)
        if self.world.file(path, self.name) is not None or self.name in self.world.full or giver is None:
            message = f"{self.name} could not copy {path}: " + ("nobody serves it" if giver is None else "no place")
            raise HostError(message)
        original = self.world.file(served.path, giver.name)
        assert original is not None  # noqa: S101 - it is served; for the type checker
        self.world.make_image(path, self.name, served.size, owner)
        link = self.world.link(giver.name, self.name)
        left = served.size / THIN / link.bandwidth
        if await self.world.until(lambda: not link.up or giver.crashed or self.name in self.world.full, left):
            await self.world.clock.sleep(PATIENCE)
            message = f"{self.name} could not copy {path}: the way to {giver.name} broke, or the disk is full"
            raise HostError(message)
        await self._reach()
        self.world.complete(path, self.name, original)

    async def resident(self, pid: int) -> int:
        """Return how many bytes of memory a process has resident."""
        await self._reach()
        for qemu in self.world.hosts[self.name].qemus.values():
            if qemu.pid == pid:
                return qemu.workload.used
        message = f"{self.name} has no process {pid}"
        raise RemoteCommandError(message)
