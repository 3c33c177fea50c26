"""Commands that keep running at a registered host while somebody reads and writes them: an outside probe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncssh

from godwit.errors import HostUnreachableError, ProbeError
from godwit.hosts.connect import parse_login
from godwit.hosts.sshlogin import dial
from godwit.hosts.transport import remote_command
from godwit.measure.probe import last_words

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from godwit.model import HostRecord


def spawner(record: HostRecord) -> Callable[[Sequence[str]], Awaitable[SshProcess]]:
    """Return what starts a command at the host of `record`, over a connection of its own."""

    async def start(argv: Sequence[str]) -> SshProcess:
        if record.url == "local":
            message = f"{record.name} is this machine: leave the vantage point out"
            raise ProbeError(message)
        connection = await dial(parse_login(record))
        try:
            process = await connection.create_process(remote_command(argv), encoding=None)
        except (OSError, asyncssh.Error) as error:
            connection.abort()
            message = f"{record.name} starts no process: {error}"
            raise HostUnreachableError(message) from error
        return SshProcess(connection, process)

    return start


class SshProcess:
    """A process at the far end of an SSH connection that is its own; implements measure.probe.ProberProcess."""

    def __init__(self, connection: asyncssh.SSHClientConnection, process: asyncssh.SSHClientProcess[bytes]) -> None:
        """Own both."""
        self._connection = connection
        self._process = process

    async def write(self, data: bytes) -> None:
        """Write to its standard input."""
        self._process.stdin.write(data)
        await self._process.stdin.drain()

    def close_input(self) -> None:
        """Close its standard input."""
        if not self._process.is_closing():
            self._process.stdin.write_eof()

    async def read_line(self) -> bytes:
        """Read a line of its standard output; empty at the end or when the connection is lost."""
        try:
            return await self._process.stdout.readline()
        except (OSError, asyncssh.Error):
            return b""

    async def read_errors(self) -> bytes:
        """Read its standard error to the end, and return the end of it."""
        try:
            return await last_words(self._process.stderr)
        except (OSError, asyncssh.Error) as error:
            return str(error).encode()

    def terminate(self) -> None:
        """Send SIGTERM, if it still runs."""
        if not self._process.is_closing():
            self._process.terminate()

    def kill(self) -> None:
        """Close the channel: the far end gets SIGHUP, and nothing here waits for it any more."""
        self._process.close()
        self._connection.abort()

    async def wait(self) -> int:
        """Wait for its end and give its exit status (-1 where a signal ended it or nobody said)."""
        await self._process.wait_closed()
        status = self._process.exit_status
        self._connection.abort()
        await self._connection.wait_closed()
        return -1 if status is None else status
