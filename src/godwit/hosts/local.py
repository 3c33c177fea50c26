"""The machine that Godwit itself runs on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from godwit.errors import HostError, MonitorBusyError, MonitorLostError, RemoteCommandError
from godwit.hosts.sessions import end_sessions
from godwit.hosts.transport import COMMAND_DEADLINE, CONNECT_DEADLINE, Reach, check_arguments, read_all, shown
from godwit.ports import Completed, Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.ports import Fence

_NO_SUCH_PROGRAM: Final = 127
_CHUNK: Final = 1 << 16

_END: Final = 2.0
"""Seconds within which a killed process has ended, unless somebody else holds its outputs."""

_STARTED: Final = 19
"""Where /proc/PID/stat has the start, counted behind the name of the program; see proc_pid_stat(5)."""


class LocalTransport:
    """Commands and sockets of this very machine. Implements Transport."""

    def __init__(self, name: str) -> None:
        """Serve the host registered as `name`."""
        self._name = name
        self._fence: Fence | None = None
        self._entering = asyncio.Lock()

    @property
    def where(self) -> str:
        """How messages call the host."""
        return f"{self._name} (this machine)"

    def guard(self, fence: Fence) -> None:
        """Let `fence` say whether this process may act here, once, before it does."""
        self._fence = fence

    async def connect(self) -> None:
        """End what a former runner may still do here: it was a process of this machine, as we are."""
        async with self._entering:
            fence = self._fence
            if fence is None:
                return
            here = own_session()
            if former := await fence.enter(here):
                await end_sessions(LocalTransport(self._name), here, former)
                await fence.ended(former)
            self._fence = None

    async def close(self) -> None:
        """Do nothing: nothing is held."""

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline: float = COMMAND_DEADLINE) -> Completed:
        """Run a command in a session of its own, so that a closed terminal or Ctrl-C does not reach it."""
        arguments = check_arguments(argv)
        await self.connect()
        try:
            process = await asyncio.create_subprocess_exec(
                *(os.fsencode(argument) for argument in arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except (FileNotFoundError, PermissionError) as error:
            return Completed(_NO_SUCH_PROGRAM, b"", f"{arguments[0]}: {error.strerror}\n".encode())
        try:
            async with asyncio.timeout(deadline):
                stdout, stderr = await _talk(process, stdin, f"{shown(arguments)} on {self.where}")
                await process.wait()
        except TimeoutError:
            message = f"{shown(arguments)} on {self.where} did not end within {deadline:g} s"
            raise RemoteCommandError(message, remedy="see whether the machine is overloaded or a disk hangs") from None
        finally:
            if process.returncode is None:
                await _kill_group(process)
        return Completed(process.returncode or 0, stdout, stderr)

    async def open_unix(self, path: str, *, deadline: float = CONNECT_DEADLINE) -> socket.socket:
        """Connect to a UNIX socket; the kernel answers at once, so `deadline` is never needed here."""
        del deadline
        await self.connect()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(0)
        try:
            connection.connect(os.fsencode(path))
        except BlockingIOError:
            connection.close()
            message = f"the socket {path} on {self.where} has other clients waiting already"
            raise MonitorBusyError(message, remedy="close the other client of this socket") from None
        except OSError as error:
            connection.close()
            message = f"nothing accepts at the socket {path} on {self.where}: {error.strerror or error}"
            raise MonitorLostError(message, remedy="see whether the guest runs and whether the path is right") from None
        return connection

    async def reaches(self, address: str, port: int, *, deadline: float = CONNECT_DEADLINE) -> Reach:
        """Open a TCP connection and close it again."""
        await self.connect()
        try:
            async with asyncio.timeout(deadline):
                _, writer = await asyncio.open_connection(address, port)
        except ConnectionRefusedError:
            return "refused"
        except TimeoutError:
            return "silent"
        except OSError as error:
            if isinstance(error, socket.gaierror):
                message = f"{self.where} cannot resolve the name {address}: {error.strerror}"
                raise HostError(message, remedy="give the host a numeric migration address") from None
            # Of a name with several addresses asyncio joins the errors into one text.
            return "refused" if f"[Errno {errno.ECONNREFUSED}]" in str(error) else "silent"
        writer.transport.abort()
        return "accepted"

    async def peer_address(self) -> str:
        """Return nothing: there is no connection that would have an address."""
        return ""


def own_session() -> Session:
    """Return the session of what acts on this machine without a connection: this very process."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(") ")[2].split()
    return Session(boot, os.getpid(), int(fields[_STARTED]))


async def _talk(process: asyncio.subprocess.Process, stdin: bytes, what: str) -> tuple[bytes, bytes]:
    """Give a command its input and take its output and error output, as far as they may go."""
    assert process.stdin and process.stdout and process.stderr  # noqa: S101, PT018 - pipes all three; for the type checker
    feeding = asyncio.ensure_future(_feed(process.stdin, stdin))
    reading = [asyncio.ensure_future(read_all(pipe, what)) for pipe in (process.stdout, process.stderr)]
    try:
        await asyncio.gather(*reading, feeding)
    finally:
        for task in (feeding, *reading):
            task.cancel()
        await asyncio.wait([feeding, *reading])
    stdout, stderr = reading
    return stdout.result(), stderr.result()


async def _feed(pipe: asyncio.StreamWriter, data: bytes) -> None:
    """Write to a command's standard input and close it; what a command does not want to read it need not."""
    with contextlib.suppress(ConnectionError):
        pipe.write(data)
        await pipe.drain()
    pipe.close()
    with contextlib.suppress(ConnectionError):
        await pipe.wait_closed()


async def _kill_group(process: asyncio.subprocess.Process) -> None:
    """End a command that ran out of time with all that it started, and wait for its end.

    asyncio says that a process has ended only when its pipes have, and sees that of none that nobody reads. A child
    that left the group may hold them: it is given _END seconds.
    """
    with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_END):
            await asyncio.gather(process.wait(), *(_drain(pipe) for pipe in (process.stdout, process.stderr) if pipe))
    process._transport.close()  # type: ignore[attr-defined] # noqa: SLF001 - no other way to let go of held pipes


async def _drain(pipe: asyncio.StreamReader) -> None:
    """Read what is left in a pipe, to its end."""
    while await pipe.read(_CHUNK):
        pass
