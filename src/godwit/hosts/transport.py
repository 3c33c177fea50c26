"""How commands and socket connections reach a host: the protocol, and what its two siblings share."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Final, Literal, Protocol

from godwit.errors import InputError, RemoteCommandError

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from godwit.ports import Completed, Fence

COMMAND_DEADLINE: Final = 30.0
"""Seconds that a command may take unless the caller says otherwise."""

CONNECT_DEADLINE: Final = 5.0
"""Seconds until a host counts as unreachable, or a socket on it as silent."""

OUTPUT_LIMIT: Final = 16 << 20
"""Bytes of a command's output, and of its error output, that are taken: more than anything asked for has."""

_CHUNK: Final = 1 << 16
_SHOWN: Final = 120

Reach = Literal["accepted", "refused", "silent"]
"""What a connection attempt met: a listener, a machine without one, or nothing."""


class Readable(Protocol):
    """One output of a command, as asyncio and asyncssh have it."""

    async def read(self, n: int = -1, /) -> bytes:
        """Return up to `n` bytes, none at the end."""
        ...


class Transport(Protocol):
    """The way to one host. Every call ends within its deadline or raises."""

    @property
    def where(self) -> str:
        """How messages call the host: its registered name and address."""
        ...

    async def connect(self) -> None:
        """Reach the host. Raises HostUnreachableError, HostKeyError, AuthenticationError."""
        ...

    async def close(self) -> None:
        """Let go of the host; never raises."""
        ...

    def guard(self, fence: Fence) -> None:
        """Use each connection only when `fence` let it in, and what it names has ended; see `godwit.ports.Fence`."""
        ...

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline: float = COMMAND_DEADLINE) -> Completed:
        """Run a command to its end, `deadline` seconds at most, and return its status and output.

        A command that a signal ended has the signal's negative number as its status, or -1 where the host
        does not say which. Raises RemoteCommandError when the deadline passes or more than OUTPUT_LIMIT is said
        (the command is then killed), HostUnreachableError when the host went away meanwhile.
        """
        ...

    async def open_unix(self, path: str, *, deadline: float = CONNECT_DEADLINE) -> socket.socket:
        """Return a non-blocking socket that is connected to the UNIX socket `path` on the host.

        Closing it ends the connection on the host, too. Raises MonitorLostError where nothing accepts at `path`,
        MonitorBusyError where the listener's queue is full.
        """
        ...

    async def reaches(self, address: str, port: int, *, deadline: float = CONNECT_DEADLINE) -> Reach:
        """Say what a TCP connection from the host to `address`:`port` meets. Raises HostError if that cannot be had."""
        ...

    async def peer_address(self) -> str:
        """Return the numeric address at which the controller reaches the host; empty for its own machine."""
        ...


def check_arguments(argv: Sequence[str]) -> tuple[str, ...]:
    """Return `argv` as a tuple; raise InputError for what no process can be given: nothing at all, or a NUL byte."""
    arguments = tuple(argv)
    if not arguments or not arguments[0]:
        message = "there is no command to run"
        raise InputError(message)
    for argument in arguments:
        if "\0" in argument:
            message = f"{argument!r} holds a NUL byte and can be no argument of a command"
            raise InputError(message)
    return arguments


def remote_command(argv: Sequence[str]) -> bytes:
    """Return the line that makes a POSIX login shell run exactly `argv`.

    SSH carries one string, which the user's login shell splits (RFC 4254, 6.5): each argument is quoted once.
    Bytes that are no UTF-8 survive as surrogate escapes.
    """
    return os.fsencode(shlex.join(check_arguments(argv)))


async def read_all(stream: Readable, what: str) -> bytes:
    """Read an output to its end; `what` says whose. Raises RemoteCommandError beyond OUTPUT_LIMIT."""
    parts: list[bytes] = []
    size = 0
    while chunk := await stream.read(_CHUNK):
        size += len(chunk)
        if size > OUTPUT_LIMIT:
            message = f"{what} says more than {OUTPUT_LIMIT >> 20} MiB"
            raise RemoteCommandError(message, remedy="see what it prints there: it is asked for much less")
        parts.append(chunk)
    return b"".join(parts)


def shown(argv: Sequence[str]) -> str:
    """Return the command for a message: quoted, and cut where it is long."""
    text = shlex.join(argv)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
