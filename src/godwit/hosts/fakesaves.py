"""Simulated files of saved guests, and the streams that QEMU writes to them and reads from them."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from godwit.core.savefile import DiskState
from godwit.core.saves import SEAL_AT, STREAM_AT
from godwit.errors import HostError
from godwit.hosts.fakestream import LIVE
from godwit.model import Sample
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from godwit.hosts.fakeqemu import FakeQemu
    from godwit.hosts.fakeworld import FakeWorld

DISK_BANDWIDTH: Final = 400.0 * MIB
"""Bytes a second that a simulated disk takes."""

STEP: Final = 0.02
"""Seconds between looks at the disk."""

_FULL: Final = "No space left on device"
_FILE: Final = re.compile(r"^file:(?P<path>[^,]*)")
_WRITTEN: Final = re.compile(r" >> '?(?P<path>[^';]*)'?;")
_READ: Final = re.compile(r" -- '?(?P<path>[^'|]*?)'? \|")


@dataclass(slots=True)
class FakeSave:
    """One file: its beginning, how much stream follows, and whose memory that is; `damaged` bytes are not its own."""

    head: bytearray = field(default_factory=lambda: bytearray(STREAM_AT))
    stream: int = 0
    memory: int | None = None
    damaged: bool = False
    status: str = ""

    @property
    def length(self) -> int:
        """Bytes of the file."""
        return len(self.head) + self.stream


class FakeSaveFiles:
    """See `godwit.ports.SaveFiles`. All hosts of a world see the same files, as on storage that they share."""

    def __init__(self, world: FakeWorld, host: str, reach: Callable[[], Awaitable[None]]) -> None:
        """Work on `host` of a world; `reach` takes a round trip to it."""
        self._world, self._host, self._reach = world, host, reach

    def _found(self, path: str) -> FakeSave:
        save = self._world.saves.get(path)
        if save is None:
            message = f"{self._host}: there is no {path}"
            raise HostError(message, remedy="name the file as that host sees it")
        return save

    def _refuse_full(self, path: str) -> None:
        if self._host in self._world.full:
            message = f"{self._host} cannot write {path}: {_FULL}"
            raise HostError(message, remedy="see the folder's rights and the room on its disk")

    async def begin(self, path: str, part: str, program: str) -> None:
        """Make `part`; a full disk shows only when something is written to it."""
        del program  # a simulated host has every one
        await self._reach()
        if path in self._world.saves or self._world.file(path, self._host) is not None:
            message = f"{self._host} has a file {path} already, and it is not overwritten"
            raise HostError(message, remedy="choose another name, or move that file away")
        self._world.saves[part] = FakeSave()

    async def program_ended(self, part: str) -> str:
        """Return the status of what writes to `part`."""
        await self._reach()
        return self._found(part).status

    async def measure(self, part: str, disks: Sequence[str]) -> tuple[int, tuple[DiskState, ...]]:
        """Return the length of `part` and the state of disks."""
        states = await self.disks(disks)
        absent = [path for path, state in zip(disks, states, strict=True) if state is None]
        if absent:
            message = f"{absent[0]} is not to be seen as a file on {self._host}"
            raise HostError(message, remedy="see whether its storage is mounted, and who may read it")
        return self._found(part).length, tuple(state for state in states if state is not None)

    async def complete(self, path: str, part: str, header: bytes) -> None:
        """Put the header in front, and give `part` its name."""
        await self._reach()
        self._refuse_full(path)
        if path in self._world.saves:
            message = f"{self._host} has a file {path} by now, and it is not overwritten"
            raise HostError(message, remedy="choose another name, or move that file away")
        save = self._found(part)
        save.head[: len(header)] = header
        self._world.saves[path] = self._world.saves.pop(part)

    async def discard(self, part: str) -> None:
        """Remove a file that was begun. Idempotent."""
        await self._reach()
        self._world.saves.pop(part, None)

    async def head(self, path: str) -> tuple[int, bytes]:
        """Return length and beginning of a file."""
        await self._reach()
        save = self._found(path)
        return save.length, bytes(save.head)

    async def disks(self, paths: Sequence[str]) -> tuple[DiskState | None, ...]:
        """Return the state of files: a disk changes when a guest begins to run on it."""
        await self._reach()
        files = [(path, self._world.file(path, self._host)) for path in paths]
        return tuple(
            None if file is None else DiskState(path, file.size, self._world.changed.get(file.inode, 0))
            for path, file in files
        )

    async def chunk_sum(self, path: str, number: int) -> str:
        """Return the digest of one chunk."""
        await self._reach()
        save = self._found(path)
        return f"{save.memory} {number} {save.damaged} {save.stream}"

    async def seal(self, path: str, seal: bytes) -> None:
        """Put the seal in its place."""
        await self._reach()
        self._refuse_full(path)
        self._found(path).head[SEAL_AT : SEAL_AT + len(seal)] = seal


class FakeFileStream:
    """A stream from a simulated QEMU to a file, or from a file to it."""

    def __init__(self, qemu: FakeQemu, uri: str, *, reading: bool) -> None:
        """Begin. Raises MonitorCommandError where the file is not there."""
        self.source = qemu
        self.iteration = 0
        self.result: dict[str, float] = {}
        self._reading = reading
        self._done = 0.0
        self._piped = uri.startswith("exec:")
        found = _FILE.match(uri) or (_READ if reading else _WRITTEN).search(uri)
        save = qemu.world.saves.get(found["path"]) if found else None
        if save is None:
            qemu.refuse(
                "migrate-incoming" if reading else "migrate", f"Could not open '{uri}': No such file or directory"
            )
            raise AssertionError  # refuse() always raises; for the type checker
        self._save: FakeSave = save
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"file-{qemu.vm.name}")

    def changed(self) -> None:
        """Do nothing: the disk is looked at again and again."""

    def release(self) -> None:
        """Do nothing: nothing is held."""

    def sample(self) -> Sample:
        """Return the counters of this instant."""
        workload = self.source.workload
        left = max(0, int(workload.used - self._done))
        now = self.source.world.clock.now()
        return Sample(now, max(1, self.iteration), int(self._done), left, workload.memory, DISK_BANDWIDTH, 0.0)

    def end(self, status: str) -> None:
        """End the stream before its time."""
        if self.source.alive and self.source.hung:
            self.source.backlog.append(partial(self.end, status))
            return
        if self._task is not asyncio.current_task():
            self._task.cancel()
        if self.source.alive and (self.source.migration in LIVE or self.source.migration == "cancelling"):
            self.source.set_migration(status)

    async def _run(self) -> None:
        qemu = self.source
        qemu.set_migration("setup")
        qemu.set_migration("active")
        self.iteration = 1
        while self._done < qemu.workload.used:
            await qemu.world.clock.sleep(STEP)
            if qemu.hung:
                continue
            self._done += DISK_BANDWIDTH * STEP
            if not self._reading and qemu.host.name in qemu.world.full:
                qemu.detail = f"Unable to write to file: {_FULL}"
                self.end("failed")
                return
        if self._reading:
            self._arrive()
            return
        self._save.stream, self._save.memory = qemu.workload.used, qemu.memory
        self._save.status = "0" if self._piped else ""
        qemu.complete_stream()

    def _arrive(self) -> None:
        """Have read everything: what is no whole save makes QEMU exit."""
        qemu, save = self.source, self._save
        if save.memory is None or save.damaged or save.stream < qemu.workload.used:
            qemu.set_migration("failed")
            qemu.exit("load of migration failed: Input/output error")
            return
        qemu.memory, qemu.raw = save.memory, "paused"
        qemu.set_migration("completed")
