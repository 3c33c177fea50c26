"""The first three seconds of a monitor connection: whether QMP is at the other end, and whether it is free.

QEMU serves one client per QMP socket. A second one is accepted by the kernel, waits in the listen queue and
hears nothing, so silence is the only sign of a socket that is in use (docs/interop/qmp-spec, chardev/char-socket.c).
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Final

from godwit.errors import MonitorBusyError, MonitorLostError, MonitorProtocolError

CONNECT_DEADLINE: Final = 3.0
"""Seconds within which QMP must have greeted."""

_PROVOKE_AFTER: Final = 0.8
"""Part of the deadline after which a silent peer is spoken to."""

_PROVOCATION: Final = b'{"execute":"qmp_capabilities"}\r\n\r\n'
"""Silence means a busy QMP socket, or a server that waits to be asked: an HTTP server and a guest agent answer this."""

_SHOWN: Final = 60
_GREETING: Final = b'{"QMP":'


def open_path(path: str, where: str) -> socket.socket:
    """Connect to the UNIX socket `path`. Raises MonitorLostError when nobody listens, MonitorBusyError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)  # noqa: FBT003 - socket's own signature
    try:
        connection.connect(os.fsencode(path))
    except BlockingIOError:
        connection.close()
        raise busy(where) from None
    except OSError as error:
        connection.close()
        message = f"nothing accepts at {path}: {error.strerror or error}"
        raise MonitorLostError(message, remedy="see whether the guest runs and whether the path is right") from None
    return connection


async def await_greeting(connection: socket.socket, where: str, deadline: float) -> None:
    """Return when a QMP greeting waits to be read from `connection`; nothing of it is consumed.

    Raises MonitorBusyError after `deadline` seconds of silence, MonitorProtocolError for anything else than QMP.
    """
    connection.setblocking(False)  # noqa: FBT003 - socket's own signature
    provoked = False
    try:
        if not await _readable(connection, deadline * _PROVOKE_AFTER):
            provoked = True
            connection.send(_PROVOCATION)
            if not await _readable(connection, deadline * (1 - _PROVOKE_AFTER)):
                raise busy(where)
        head = connection.recv(4096, socket.MSG_PEEK)
    except (ConnectionError, BlockingIOError) as error:
        raise not_qmp(where, f"it broke the connection ({error.strerror})") from None
    check(head, where)
    if provoked:  # the provocation is in the stream now, and would be answered out of turn
        raise busy(where)


def check(head: bytes, where: str) -> None:
    """Raise MonitorProtocolError unless `head` can be the beginning of a QMP greeting."""
    if not head:
        raise not_qmp(where, "it closed the connection at once")
    squeezed = b"".join(head.split())
    if _GREETING.startswith(squeezed[: len(_GREETING)]):
        line, newline, _ = head.lstrip().partition(b"\n")
        if line.strip() != b"{" or not newline:
            return
        message = f"the QMP monitor of {where} prints its JSON over several lines"
        raise MonitorProtocolError(message, remedy="give QEMU -qmp instead of -qmp-pretty, or pretty=off")
    shown = head[:_SHOWN].decode("ascii", "backslashreplace").replace("\r", "\\r").replace("\n", "\\n")
    raise not_qmp(where, f'it says "{shown}"')


def busy(where: str) -> MonitorBusyError:
    """Return the error for a QMP socket that another client holds."""
    message = f"the QMP socket of {where} accepts connections but stays silent: another client holds it"
    return MonitorBusyError(message, remedy="close the other client of this socket, or give QEMU a second -qmp")


def not_qmp(where: str, found: str) -> MonitorProtocolError:
    """Return the error for a socket that speaks something else."""
    message = f"what answers for {where} does not speak QMP: {found}"
    return MonitorProtocolError(message, remedy="name the socket that QEMU was given with -qmp")


async def _readable(connection: socket.socket, seconds: float) -> bool:
    """Say whether bytes, or the end, arrive at `connection` within `seconds`."""
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    loop.add_reader(connection, arrived.set)
    try:
        async with asyncio.timeout(seconds):
            await arrived.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(connection)
    return True
