"""A host that is reached over SSH: one connection for all calls, made on demand and made anew after a loss.

What decides who the host is stands in its HostRecord and in the known_hosts file alone: ~/.ssh/config is not read,
since an alias, a jump host or a switched-off key check in it would change what a registered host means.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import asyncssh

from godwit.errors import (
    HostError,
    HostUnreachableError,
    MonitorBusyError,
    MonitorLostError,
    RemoteCommandError,
)
from godwit.hosts.sessions import end_sessions, session_of
from godwit.hosts.sshbridge import bridge_unix
from godwit.hosts.sshlogin import Login, dial
from godwit.hosts.transport import COMMAND_DEADLINE, CONNECT_DEADLINE, Reach, read_all, remote_command, shown
from godwit.ports import Completed

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from godwit.ports import Fence

_SESSIONS: Final = 8
"""Commands at a time on one connection: sshd permits 10 sessions (MaxSessions), forwarded sockets not counted."""

_REFUSED_WORDS: Final = ("refused", f"errno {errno.ECONNREFUSED}")
_RESOLVE_WORDS: Final = ("name or service", "resolve", "hostname", "name resolution", "unknown host")
_NO_STATUS: Final = -1
_TIMED_OUT: Final = 124

_TCP_PROBE: Final = 'exec 3<>"/dev/tcp/$0/$1"'
"""For bash, where sshd forwards no TCP."""


class SshTransport:
    """Commands and sockets of a host over one SSH connection. Implements Transport."""

    def __init__(self, login: Login) -> None:
        """Keep how to log in; nothing is opened yet."""
        self._login = login
        self._connection: asyncssh.SSHClientConnection | None = None
        self._attempt: asyncio.Task[asyncssh.SSHClientConnection] | None = None
        self._sessions = asyncio.Semaphore(_SESSIONS)
        self._fence: Fence | None = None
        _silence_asyncssh()

    @property
    def where(self) -> str:
        """How messages call the host."""
        return self._login.where

    def guard(self, fence: Fence) -> None:
        """Use each connection from the next one on only when `fence` let it in, and what it names has ended."""
        self._fence = fence

    async def connect(self) -> None:
        """Reach the host, or raise what keeps us from it."""
        await self._connected()

    async def close(self) -> None:
        """Close the connection and everything that runs through it."""
        attempt, self._attempt = self._attempt, None
        if attempt is not None and not attempt.done():
            attempt.cancel()
            await asyncio.wait([attempt])
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
            await connection.wait_closed()

    async def _connected(self) -> asyncssh.SSHClientConnection:
        """Return the open connection; several callers share one attempt to make it."""
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        if self._attempt is None or self._attempt.done():
            self._attempt = asyncio.create_task(self._opened())
            self._attempt.add_done_callback(_retrieve)
        self._connection = await asyncio.shield(self._attempt)
        return self._connection

    async def _opened(self) -> asyncssh.SSHClientConnection:
        """Make a connection, and end what former ones may still do before it is used."""
        connection = await dial(self._login)
        if self._fence is None:
            return connection
        try:
            through = _Through(self, connection)
            session = await session_of(through)
            if former := await self._fence.enter(session):
                await end_sessions(through, session, former)
                await self._fence.ended(former)
        except BaseException:
            connection.abort()
            raise
        return connection

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline: float = COMMAND_DEADLINE) -> Completed:
        """Run a command through the user's login shell, every argument quoted once."""
        remote_command(argv)  # refuses what no process can be given before anything is opened for it
        return await self.run_on(await self._connected(), argv, stdin, deadline)

    async def run_on(
        self, connection: asyncssh.SSHClientConnection, argv: Sequence[str], stdin: bytes, deadline: float
    ) -> Completed:
        """Run a command on this very connection; see `run`."""
        try:
            async with asyncio.timeout(deadline), self._sessions:
                return await self._execute(connection, remote_command(argv), stdin, argv)
        except TimeoutError:
            message = f"{shown(argv)} on {self.where} did not end within {deadline:g} s"
            raise RemoteCommandError(message, remedy="see whether the host is overloaded or a disk hangs") from None
        except asyncssh.ChannelOpenError as error:
            if connection.is_closed():
                raise self._loss(shown(argv)) from None
            message = f"{self.where} opens no session for {shown(argv)}: {error.reason}"
            raise RemoteCommandError(message, remedy="see MaxSessions and ForceCommand in its sshd_config") from None
        except (OSError, asyncssh.Error):
            raise self._loss(shown(argv)) from None

    async def _execute(
        self, connection: asyncssh.SSHClientConnection, command: bytes, stdin: bytes, argv: Sequence[str]
    ) -> Completed:
        process: asyncssh.SSHClientProcess[bytes] = await connection.create_process(
            command,
            encoding=None,
        )
        try:
            if stdin:
                process.stdin.write(stdin)
            process.stdin.write_eof()
            what = f"{shown(argv)} on {self.where}"
            stdout, stderr = await asyncio.gather(read_all(process.stdout, what), read_all(process.stderr, what))
            await process.wait_closed()
        except BaseException:
            if not process.channel.is_closing():
                process.kill()
                process.channel.abort()
            raise
        if process.exit_status is None:
            raise self._loss(shown(argv))
        status = process.returncode
        return Completed(_NO_STATUS if status is None else status, stdout, stderr)

    async def open_unix(self, path: str, *, deadline: float = CONNECT_DEADLINE) -> socket.socket:
        """Forward one connection to a UNIX socket (direct-streamlocal of OpenSSH's PROTOCOL, 2.4)."""
        doing = f"opening {path}"
        connection = await self._connected()
        try:
            async with asyncio.timeout(deadline):
                return await bridge_unix(connection, path)
        except TimeoutError:
            message = f"the socket {path} on {self.where} has other clients waiting already"
            raise MonitorBusyError(message, remedy="close the other client of this socket") from None
        except asyncssh.ChannelOpenError as error:
            if connection.is_closed():
                raise self._loss(doing) from None
            if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
                message = f"sshd on {self.where} forwards no UNIX sockets, so {path} cannot be reached"
                remedy = "set AllowStreamLocalForwarding yes (and DisableForwarding no) in its sshd_config"
                raise HostError(message, remedy=remedy) from None
            message = f"nothing accepts at the socket {path} on {self.where}: {error.reason}"
            # OpenSSH gives the same answer where its configuration forbids it.
            remedy = (
                "see whether the guest runs, whether the path is right, whether the user may open it, "
                "and whether sshd may forward it (AllowStreamLocalForwarding yes)"
            )
            raise MonitorLostError(message, remedy=remedy) from None
        except (OSError, asyncssh.Error):
            raise self._loss(doing) from None

    async def reaches(self, address: str, port: int, *, deadline: float = CONNECT_DEADLINE) -> Reach:
        """Let sshd connect (direct-tcpip); where it forwards no TCP, ask bash on the host."""
        doing = f"reaching {address}:{port}"
        connection = await self._connected()
        try:
            async with asyncio.timeout(deadline):
                channel, _ = await connection.create_connection(asyncssh.SSHTCPSession, address, port)
        except TimeoutError:
            return "silent"
        except asyncssh.ChannelOpenError as error:
            if connection.is_closed():
                raise self._loss(doing) from None
            if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
                return await self._reaches_by_bash(address, port, deadline)
            return self._meant(error.reason, address)
        except (OSError, asyncssh.Error):
            raise self._loss(doing) from None
        channel.abort()
        return "accepted"

    async def _reaches_by_bash(self, address: str, port: int, deadline: float) -> Reach:
        argv = ["timeout", f"{deadline:g}", "bash", "-c", _TCP_PROBE, address, str(port)]
        completed = await self.run(argv, deadline=deadline + 2)
        if completed.status == 0:
            return "accepted"
        words = completed.stderr.decode(errors="replace")
        if "/dev/tcp" not in words and completed.status != _TIMED_OUT:
            message = f"{self.where} cannot try {address}:{port}: its sshd forwards no TCP, and: {words.strip()}"
            raise HostError(message, remedy="set AllowTcpForwarding yes in its sshd_config, or install bash")
        return self._meant(words, address)

    def _meant(self, words: str, address: str) -> Reach:
        lower = words.lower()
        if any(word in lower for word in _RESOLVE_WORDS):
            message = f"{self.where} cannot resolve the name {address}: {words.strip()}"
            raise HostError(message, remedy="give the host a numeric migration address")
        return "refused" if any(word in lower for word in _REFUSED_WORDS) else "silent"

    async def peer_address(self) -> str:
        """Return the address that the connection really goes to."""
        connection = await self._connected()
        peer = connection.get_extra_info("peername")
        return str(peer[0]) if peer else ""

    def _loss(self, doing: str) -> HostUnreachableError:
        message = f"the connection to {self.where} was lost ({doing}); whether it took effect is unknown"
        return HostUnreachableError(message, remedy=self._login.reach_remedy)


@dataclass(frozen=True, slots=True)
class _Through:
    """A connection that nobody else uses yet."""

    transport: SshTransport
    connection: asyncssh.SSHClientConnection

    @property
    def where(self) -> str:
        return self.transport.where

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline: float = COMMAND_DEADLINE) -> Completed:
        return await self.transport.run_on(self.connection, argv, stdin, deadline)


def _retrieve(attempt: asyncio.Task[asyncssh.SSHClientConnection]) -> None:
    """Take note of a failure that nobody may be left to hear."""
    if not attempt.cancelled():
        attempt.exception()


def _silence_asyncssh() -> None:
    """Keep the library's own log lines out of ours, unless the application asked for them."""
    logger = logging.getLogger("asyncssh")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
