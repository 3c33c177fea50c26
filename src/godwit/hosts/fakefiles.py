"""The files of a simulated host: tokens beside them, images, what guests left behind; and a process's memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from godwit.errors import HostError, HypervisorError, RemoteCommandError
from godwit.hosts import fakesnapshots
from godwit.model import ImageFacts, OlderCopy, PlaceFacts
from godwit.storage.sharedproof import check_token

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.core.snapshots import DiskSnapshots
    from godwit.hosts.fakeworld import FakeWorld, File

THIN: Final = 16
"""The share of a simulated disk that is in use: one part in so many."""

_ROOM: Final = 1 << 40


class FakeFiles:
    """The part of the port `Host` that sees to files, and to the memory of a process: what `FakeHost` has of it."""

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

    async def plant_token(self, path: str, token: str) -> None:
        """Leave `token` beside a file. Raises RemoteCommandError where the disk is full or the file is absent."""
        check_token(token)
        await self._reach()
        file = self.world.file(path, self.name)
        if file is None or self.name in self.world.full:
            words = "No such file or directory" if file is None else "No space left on device"
            message = f"no token can be left beside {path} on {self.name}: {words}"
            raise RemoteCommandError(message)
        self.world.tokens[file.inode] = token

    async def find_token(self, path: str) -> tuple[str | None, str]:
        """Return the token beside a file, and the file's identity."""
        await self._reach()
        file = self.world.file(path, self.name)
        return (self.world.tokens.get(file.inode), f"{file.size} {file.inode}") if file else (None, "")

    async def forbidden(self, files: Sequence[tuple[str, bool]]) -> tuple[str, ...]:
        """Say of each file why it cannot be opened here."""
        await self._reach()
        locked = self.world.locked
        return tuple("Permission denied" if (self.name, path) in locked else "" for path, _ in files)

    async def remove_token(self, path: str, token: str) -> None:
        """Remove `token` from beside a file; another's is left alone. Idempotent."""
        await self._reach()
        file = self.world.file(path, self.name)
        if file is not None and self.world.tokens.get(file.inode) == token:
            del self.world.tokens[file.inode]

    async def image(self, path: str, image_format: str) -> ImageFacts:
        """Describe an image. Raises HypervisorError where there is none."""
        await self._reach()
        file = self.world.file(path, self.name)
        if file is None:
            message = f"{self.name} has no {path}"
            raise HypervisorError(message)
        stamps = tuple(self.world.disks.stamps.get(file.inode, {}))
        allocated = file.size // THIN // (2 if path in self.world.trimmed else 1)
        return ImageFacts(path, image_format, file.size, allocated, stamps=stamps)

    async def digest(self, path: str, *, all_of_it: bool) -> str:
        """Return size and content of a file: files of one content are made so by `FakeWorld.add_file`."""
        del all_of_it
        await self._reach()
        file = self.world.file(path, self.name)
        if file is None:
            message = f"{self.name} has no {path}"
            raise RemoteCommandError(message)
        return f"{file.size} {file.content or file.inode}"

    async def place(self, path: str) -> PlaceFacts:
        """Say whether an image could be made at `path`."""
        await self._reach()
        full = self.name in self.world.full
        return PlaceFacts(
            exists=self.world.file(path, self.name) is not None,
            writable=True,
            available=0 if full else _ROOM,
            can_create=True,
        )

    async def create_image(self, image: ImageFacts, owner: str) -> None:
        """Make an empty image. Raises HostError where there is a file of that name, or no room."""
        await self._reach()
        if self.world.file(image.path, self.name) is not None or self.name in self.world.full:
            message = f"{self.name} cannot make {image.path}"
            raise HostError(message)
        self.world.make_image(image.path, self.name, image.virtual_size, owner)

    async def keep_image(self, path: str, owner: str) -> None:
        """Let an image of `owner`'s be nobody's but the guest's. Idempotent."""
        await self._reach()
        file = self.world.file(path, self.name)
        if file is not None and self.world.owned.get(file.inode) == owner:
            del self.world.owned[file.inode]
            self.world.disks.left.pop(file.inode, None)

    async def remove_image(self, path: str, owner: str) -> None:
        """Remove an image that is `owner`'s; any other is left alone. Idempotent."""
        await self._reach()
        file = self.world.file(path, self.name)
        if file is not None and self.world.owned.get(file.inode) == owner:
            self.world.remove_image(path, self.name)

    async def leave_image(self, path: str, image_format: str, vm: str, stamp: str) -> None:
        """Mark an image that its guest left behind. Raises HostError where there is none."""
        await self.image(path, image_format)
        file = self.world.file(path, self.name)
        if file is not None:
            self.world.disks.leave(file.inode, vm, stamp)

    async def older_copy(self, path: str, image_format: str) -> OlderCopy | None:
        """Describe what a guest left behind."""
        await self._reach()
        file = self.world.file(path, self.name)
        mark = self.world.disks.left.get(file.inode) if file else None
        if file is None or mark is None:
            return None
        image = await self.image(path, image_format)
        return OlderCopy(mark.vm, mark.stamp, self.world.disks.untouched(file.inode), image, mark.resumed)

    async def claim_image(self, path: str, owner: str) -> None:
        """Take an untouched image that was left behind. Raises HostError."""
        await self._reach()
        file = self.world.file(path, self.name)
        if file is None or not self.world.disks.untouched(file.inode) or file.inode in self.world.owned:
            message = f"{path} on {self.name} has changed since the guest left it there"
            raise HostError(message)
        self.world.owned[file.inode] = owner
        self.world.incomplete.add(file.inode)

    async def give_back_image(self, path: str, owner: str) -> None:
        """Leave an image that was claimed as it is now. Idempotent."""
        await self._reach()
        file = self.world.file(path, self.name)
        if file is not None and self.world.owned.get(file.inode) == owner:
            del self.world.owned[file.inode]
            self.world.incomplete.discard(file.inode)
            self.world.disks.give_back(file.inode)

    async def discard_image(self, path: str) -> None:
        """Remove an untouched image that was left behind. Idempotent."""
        await self._reach()
        file = self.world.file(path, self.name)
        if file is not None and self.world.disks.untouched(file.inode):
            self.world.remove_image(path, self.name)

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
