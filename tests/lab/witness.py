"""Who watches a guest from outside while something happens to its hosts: what executes it, and what its disk has kept.

Both measure rather than ask Godwit: QEMU's own events on a monitor that is nobody else's, and a program in the guest
that says a number only when the record with it is on the disk (`ackwriter`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from godwit.lab import state as records

if TYPE_CHECKING:
    from collections.abc import Callable

ACK_PORT: Final = 7001
MONITOR: Final = ("-qmp", "unix:/run/godwit/{name}/witness.sock,server=on,wait=off")
"""What gives a guest's QEMU a monitor for `Executions`."""

_CHALLENGES: Final = 0.05
_LOOKS: Final = 0.02
_GREETS: Final = 2.0
_CONNECTS: Final = 3.0
_DUMPS: Final = 20.0


@dataclass(slots=True)
class Acknowledged:
    """A TCP client of the guest's writer: what was acknowledged to it, and whether its one connection is whole."""

    address: str
    acked: dict[int, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    silences: list[tuple[float, float]] = field(default_factory=list)
    heard: float = 0.0
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _writer: asyncio.StreamWriter | None = None
    _found: dict[int, int] = field(default_factory=dict)
    _dumped: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        """Connect, and return when the first write was acknowledged."""
        async with asyncio.timeout(_CONNECTS):
            reader, self._writer = await asyncio.open_connection(self.address, ACK_PORT)
        self.heard = time.monotonic()
        self._tasks = [asyncio.create_task(self._read(reader)), asyncio.create_task(self._challenge())]
        async with asyncio.timeout(_CONNECTS):
            while not self.acked:  # noqa: ASYNC110 - the reader's task says it
                await asyncio.sleep(_LOOKS)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()

    def silence_after(self, instant: float) -> float:
        """Return for how long it was silent at most from an instant of the monotonic clock on."""
        ended = [min(seconds, at - instant) for at, seconds in self.silences if at >= instant]
        return max([*ended, time.monotonic() - max(self.heard, instant)])

    @property
    def first(self) -> int:
        """The first number that was acknowledged here."""
        return next(iter(self.acked))

    async def goes_on(self, within: float) -> bool:
        """Say whether another write is acknowledged within so many seconds."""
        before, end = len(self.acked), time.monotonic() + within
        while len(self.acked) == before and time.monotonic() < end and not self.faults:  # noqa: ASYNC110 - as above
            await asyncio.sleep(_LOOKS)
        return len(self.acked) > before

    async def found(self) -> dict[int, int]:
        """Let the guest read its disk anew, and return what is there: token by number."""
        assert self._writer is not None
        self._dumped.clear()
        self._writer.write(b"dump %d\n" % self.first)
        async with asyncio.timeout(_DUMPS):
            await self._dumped.wait()
        return self._found

    def lost(self, found: dict[int, int], acked: dict[int, int]) -> list[str]:
        """Return the acknowledged writes that are not on the disk, or are there with somebody else's content."""
        return [
            f"write {number} was acknowledged with {token:x} and is {found.get(number, 'gone')}"
            for number, token in acked.items()
            if found.get(number) != token
        ]

    async def _read(self, reader: asyncio.StreamReader) -> None:
        last = 0
        try:
            while line := await reader.readline():
                words = line.split()
                if words[0] == b"=":
                    self._found[int(words[1])] = int(words[2])
                    continue
                if words[0] == b"end":
                    self._dumped.set()
                    continue
                now, number = time.monotonic(), int(words[0])
                self.silences.append((now, now - self.heard))
                self.heard = now
                if last and number != last + 1:
                    self.faults.append(f"write {number} was acknowledged after {last}")
                last = number
                self.acked[number] = int(words[1])
            self.faults.append("the connection was closed")
        except (OSError, ValueError, IndexError) as error:
            self.faults.append(f"the connection broke: {error}")

    async def _challenge(self) -> None:
        assert self._writer is not None
        while not self.faults:
            self._writer.write(b"%d\n" % random.getrandbits(63))
            await asyncio.sleep(_CHALLENGES)


@dataclass(slots=True)
class Span:
    """A time for which a QEMU has executed the guest, by the machine's clock; no end while it still does."""

    machine: str
    pid: int
    began: float
    ended: float | None = None


@dataclass(slots=True)
class Executions:
    """Hears from every QEMU of a guest, on whichever host, when it begins and when it stops to execute it."""

    lab: str
    vm: str
    machines: tuple[str, ...] = ("host1", "host2")
    spans: list[Span] = field(default_factory=list)
    pids: dict[str, int] = field(default_factory=dict)
    """The QEMU that was last heard of on each machine, as this machine counts."""
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        """Begin to listen."""
        self._tasks = [asyncio.create_task(self._listen(machine)) for machine in self.machines]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop to listen."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def running(self) -> list[str]:
        """Return the machines on which the guest is executed now."""
        return [span.machine for span in self.spans if span.ended is None]

    def doubled(self) -> list[str]:
        """Return each time for which two have executed the guest at once: there may be none."""
        found = []
        for number, one in enumerate(self.spans):
            for other in self.spans[number + 1 :]:
                began = max(one.began, other.began)
                ended = min(one.ended or time.time(), other.ended or time.time())
                if one.pid != other.pid and ended > began:
                    found.append(f"{one.machine} ({one.pid}) and {other.machine} ({other.pid}): {ended - began:.3f} s")
        return found

    async def hears(self, what: Callable[[], bool], within: float) -> bool:
        """Wait until `what` holds, for so many seconds at most; say whether it does."""
        end = time.monotonic() + within
        while not what() and time.monotonic() < end:  # noqa: ASYNC110 - whatever it looks at tells nobody
            await asyncio.sleep(_LOOKS)
        return what()

    async def _listen(self, machine: str) -> None:
        while True:
            with contextlib.suppress(OSError, TimeoutError, ValueError):
                await self._hear(machine)
            await asyncio.sleep(_LOOKS)

    async def _hear(self, machine: str) -> None:
        recorded = records.read(self.lab)
        init = recorded.inits.get(machine) if recorded else None
        if init is None:
            return
        path = Path(f"/proc/{init.pid}/root/run/godwit/{self.vm}/witness.sock")
        async with asyncio.timeout(_GREETS):
            reader, writer = await asyncio.open_unix_connection(str(path))
        try:
            peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pid = int(struct.unpack("3i", peer)[0])
            self.pids[machine] = pid
            await self._follow(machine, pid, reader, writer)
        finally:
            writer.close()
            self._ends(machine, time.time())
            self.pids.pop(machine, None)

    async def _follow(self, machine: str, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        for command in ("qmp_capabilities", "query-status"):
            writer.write(json.dumps({"execute": command}).encode() + b"\n")
        while line := await reader.readline():
            said = json.loads(line)
            if said.get("return", {}).get("running") or said.get("event") == "RESUME":
                if not any(span.pid == pid and span.ended is None for span in self.spans):
                    self.spans.append(Span(machine, pid, _instant(said)))
            elif said.get("event") == "STOP":
                self._ends(machine, _instant(said))

    def _ends(self, machine: str, at: float) -> None:
        for span in self.spans:
            if span.machine == machine and span.ended is None:
                span.ended = at


def _instant(said: dict[str, dict[str, int]]) -> float:
    stamp = said.get("timestamp")
    return time.time() if stamp is None else stamp["seconds"] + stamp["microseconds"] / 1e6
