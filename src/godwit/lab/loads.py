"""Users of a laboratory's guest: an SSH session that shows `top`, a reader of its ticks, a redis client.

Each of them notices what a person would: a broken connection, a lost line, a silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from godwit.errors import LabError
from godwit.units import KIB

if TYPE_CHECKING:
    from godwit.lab.laboratory import Laboratory

TICK_PORT: Final = 7000
REDIS_PORT: Final = 6379
_VALUE_BYTES: Final = 64 * KIB
_FILL_DEADLINE: Final = 120.0
_SESSION_DEADLINE: Final = 60.0
_END_DEADLINE: Final = 3.0


@dataclass(slots=True)
class SshTop:
    """An SSH session with `top` in it, refreshed every second."""

    lab: Laboratory
    address: str
    bytes_seen: int = 0
    last_seen: float = 0.0
    _process: asyncio.subprocess.Process | None = None
    _reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Log in and wait for the first screen. Raises LabError."""
        session = ["ssh", "-tt", "-i", str(self.lab.client.key_file), "-o", "IdentitiesOnly=yes"]
        session += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        session += ["-o", "ServerAliveInterval=1", f"root@{self.address}", "top", "-d", "1"]
        self._process = await asyncio.create_subprocess_exec(
            *session,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self._reader = asyncio.create_task(self._read())
        try:
            async with asyncio.timeout(_SESSION_DEADLINE):
                while not self.bytes_seen:
                    if self._process.returncode is not None:
                        break
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pass
        if not self.bytes_seen:
            await self.__aexit__()
            message = f"no SSH session to {self.address}"
            raise LabError(message)
        return self

    async def _read(self) -> None:
        assert self._process is not None  # noqa: S101 - set just before; for the type checker
        assert self._process.stdout is not None  # noqa: S101 - as above
        while chunk := await self._process.stdout.read(4096):
            self.bytes_seen += len(chunk)
            self.last_seen = time.time()

    async def survives(self, within: float = 5.0) -> bool:
        """Say whether the session goes on: new output within `within` seconds, on the same connection."""
        seen, end = self.bytes_seen, time.time() + within
        while time.time() < end and self._process is not None and self._process.returncode is None:
            if self.bytes_seen > seen:
                return True
            await asyncio.sleep(0.05)
        return False

    async def __aexit__(self, *_: object) -> None:
        """End the session."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), _END_DEADLINE)
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)


@dataclass(slots=True)
class TickReader:
    """Reads the guest's ticks over one TCP connection and notices what is missing, doubled or out of order."""

    address: str
    ticks: int = 0
    faults: list[str] = field(default_factory=list)
    longest_silence: float = 0.0
    _reader: asyncio.Task[None] | None = None
    _writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        """Connect, trying again while the guest boots. Raises LabError."""
        end = time.time() + _SESSION_DEADLINE
        while True:
            try:
                async with asyncio.timeout(2.0):
                    reader, self._writer = await asyncio.open_connection(self.address, TICK_PORT)
                    first = await reader.readline()
                break
            except (OSError, TimeoutError) as error:
                if time.time() > end:
                    message = f"the guest at {self.address} does not tick: {str(error) or 'no answer'}"
                    raise LabError(message) from error
                await asyncio.sleep(0.1)
        self._reader = asyncio.create_task(self._read(reader, int(first.split()[0])))
        return self

    async def _read(self, reader: asyncio.StreamReader, last: int) -> None:
        heard = time.monotonic()
        try:
            while line := await reader.readline():
                now = time.monotonic()
                self.longest_silence = max(self.longest_silence, now - heard)
                heard = now
                number = int(line.split()[0])
                if number != last + 1:
                    self.faults.append(f"tick {number} came after {last}")
                last = number
                self.ticks += 1
            self.faults.append("the connection was closed")
        except (OSError, ValueError) as error:
            self.faults.append(f"the connection broke: {error}")

    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()


async def fill_redis(address: str, size: int, seed: int = 1) -> None:
    """Give the guest's redis `size` bytes of random values, so that its memory is as full as that of one in use.

    A guest fresh from boot is mostly zero pages, which cost a move next to nothing. Raises LabError.
    """
    chance = random.Random(seed)  # noqa: S311 - contents, not secrets
    try:
        async with asyncio.timeout(_FILL_DEADLINE):
            reader, writer = await asyncio.open_connection(address, REDIS_PORT)
            for number in range(size // _VALUE_BYTES):
                key = b"fill:%d" % number
                head = b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n" % (len(key), key, _VALUE_BYTES)
                writer.write(head + chance.randbytes(_VALUE_BYTES) + b"\r\n")
                await writer.drain()
                answer = await reader.readline()
                if answer != b"+OK\r\n":
                    message = f"redis at {address} took no more: {answer.decode(errors='replace').strip()}"
                    raise LabError(message)
            writer.close()
            await writer.wait_closed()
    except (OSError, TimeoutError) as error:
        message = f"redis at {address} cannot be filled: {str(error) or 'it is too slow'}"
        raise LabError(message) from error
