"""A guest's serial console on this terminal. Ctrl-] leaves, as in telnet and virsh."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING, Final

from godwit.cli.terminal import echo
from godwit.errors import InputError

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

LEAVE: Final = b"\x1d"
"""Ctrl-]."""

_CHUNK: Final = 1 << 14


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Hand every key through as it is pressed, and give the terminal back as it was."""
    import termios  # noqa: PLC0415 - only here
    import tty  # noqa: PLC0415 - only here

    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


async def attach(connection: socket.socket, name: str) -> None:
    """Join terminal and console until Ctrl-], or until the console ends. Raises InputError without a terminal."""
    if not sys.stdin.isatty():
        connection.close()
        message = "a console needs a terminal"
        raise InputError(message)
    echo(f"godwit: console of {name}; Ctrl-] leaves, Enter wakes it", err=True)
    descriptor = sys.stdin.fileno()
    keys: asyncio.Queue[bytes] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, lambda: keys.put_nowait(os.read(descriptor, _CHUNK)))
    try:
        with _raw(descriptor):
            left = await _join(connection, keys)
    finally:
        loop.remove_reader(descriptor)
        connection.close()
    echo(err=True)
    echo(f"godwit: {'left the console' if left else 'the console ended'} of {name}", err=True)


async def _join(connection: socket.socket, keys: asyncio.Queue[bytes]) -> bool:
    """Carry bytes both ways; return whether the user left."""
    showing = asyncio.create_task(_show(connection))
    sending = asyncio.create_task(_send(connection, keys))
    done, pending = await asyncio.wait([showing, sending], return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()
    return sending in done


async def _show(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):  # the guest's QEMU ended: so does the console
        while data := await loop.sock_recv(connection, _CHUNK):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


async def _send(connection: socket.socket, keys: asyncio.Queue[bytes]) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):
        while True:
            typed, leave, _ = (await keys.get()).partition(LEAVE)
            if typed:
                await loop.sock_sendall(connection, typed)
            if leave or not typed:
                return
