"""Joins a socket of ours to a channel of an SSH connection, so that QMP runs through it as through a local socket.

Both ends share one fate: whichever ends first closes the other. A forwarded channel that outlived its client would keep
a QMP socket, which serves one client at a time, silent for the next one.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, cast

import asyncssh

if TYPE_CHECKING:
    from collections.abc import Callable


class _Near(asyncio.Protocol):
    """Our end: what the client writes goes into the channel."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.channel: asyncssh.SSHUNIXChannel[bytes] | None = None
        self._early: list[bytes] = []
        self._ended = False

    def join(self, channel: asyncssh.SSHUNIXChannel[bytes]) -> None:
        """Hand over what was written before the channel was open; close it if nobody waits for it any more."""
        self.channel = channel
        if self._ended:
            channel.abort()
            return
        for data in self._early:
            channel.write(data)
        self._early.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.channel is None:
            self._early.append(data)
        elif not self.channel.is_closing():
            self.channel.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._ended = True
        if self.channel is not None:
            self.channel.abort()

    def pause_writing(self) -> None:
        if self.channel is not None:
            self.channel.pause_reading()

    def resume_writing(self) -> None:
        if self.channel is not None:
            self.channel.resume_reading()


class _Far(asyncssh.SSHUNIXSession[bytes]):
    """The host's end: what the host writes goes to the client."""

    def __init__(self, near: _Near) -> None:
        self._near = near

    def connection_made(self, chan: asyncssh.SSHUNIXChannel[bytes]) -> None:
        self._near.join(chan)

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        del datatype
        if self._near.transport is not None:
            self._near.transport.write(data)

    def eof_received(self) -> bool:
        # A QMP server that has no more to say is gone. What it said is still delivered, then both ends close.
        if self._near.transport is not None:
            self._near.transport.close()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._near.transport is not None:
            self._near.transport.close()

    def pause_writing(self) -> None:
        if self._near.transport is not None:
            self._near.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._near.transport is not None and not self._near.transport.is_closing():
            self._near.transport.resume_reading()


async def bridge_unix(connection: asyncssh.SSHClientConnection, path: str) -> socket.socket:
    """Open a channel to the UNIX socket `path` on the host and return the non-blocking socket that speaks through it.

    Cancelling it leaves no channel behind. Raises asyncssh.ChannelOpenError when the host refuses.
    """
    client, inner = socket.socketpair()
    client.settimeout(0)
    inner.settimeout(0)
    near = _Near()
    loop = asyncio.get_running_loop()
    try:
        transport, _ = await loop.create_unix_connection(lambda: near, sock=inner)
    except BaseException:
        client.close()
        inner.close()
        raise
    opening = asyncio.ensure_future(connection.create_unix_connection(lambda: _Far(near), path))
    try:
        await asyncio.shield(opening)
    except BaseException:
        # A channel whose opening is given up may still be confirmed: it must be closed then.
        opening.add_done_callback(_abandon(transport))
        client.close()
        raise
    return client


def _abandon(transport: asyncio.Transport) -> Callable[[asyncio.Future[Any]], None]:
    def close(opening: asyncio.Future[Any]) -> None:
        transport.abort()
        if not opening.cancelled():
            opening.exception()  # retrieved, so that asyncio does not report it

    return close
