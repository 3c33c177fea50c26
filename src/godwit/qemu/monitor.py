"""One QMP connection: commands with deadlines, and events that always end with LOST.

Built on qemu.qmp's QMPClient. Two of its habits are made good here: its event listeners fall silent when the
connection ends, and it keeps every event for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from qemu.qmp import (
    ConnectError,
    EventListener,
    ExecInterruptedError,
    ExecuteError,
    QMPClient,
    QMPError,
    Runstate,
    StateError,
)

from godwit import clock
from godwit.errors import MonitorCommandError, MonitorLostError, MonitorProtocolError
from godwit.qemu import greeting
from godwit.qemu.reply import inner, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qemu.qmp.message import Message

LOST: Final = "LOST"
"""The event that ends every stream: the connection is gone. Godwit's own, QEMU has none of this name."""

DEADLINE: Final = 10.0
"""Seconds that a command may take unless the caller says otherwise."""

WAITING: Final = 10_000
"""Events that may wait for one listener: a QEMU that says more than that unasked is not listened to any more."""

_CLOSE_DEADLINE: Final = 2.0

_SILENT: Final = logging.getLogger(f"{__name__}.wire")
_SILENT.disabled = True


@dataclass(frozen=True, slots=True)
class MonitorEvent:
    """What QEMU said unasked; `host_time` is its own clock in UNIX seconds, `received` the controller's."""

    name: str
    data: Mapping[str, object]
    received: float
    host_time: float | None = None


class MonitorEvents:
    """The events of one monitor from the moment this was made on, in order; ends after LOST."""

    def __init__(self) -> None:
        """Begin to collect."""
        self._waiting: asyncio.Queue[MonitorEvent] = asyncio.Queue()
        self._ended = False
        self._ended_early = False

    def put(self, event: MonitorEvent) -> None:
        """Append an event; the connection counts as lost to a listener for whom too many wait."""
        if self._ended_early:
            return
        if event.name != LOST and self._waiting.qsize() >= WAITING:
            self._ended_early = True
            reason = f"more than {WAITING} events came that nobody had a use for"
            event = MonitorEvent(LOST, {"reason": reason}, event.received)
        self._waiting.put_nowait(event)

    def __aiter__(self) -> Self:
        """Iterate over this very stream."""
        return self

    async def __anext__(self) -> MonitorEvent:
        """Wait for the next event."""
        if self._ended:
            raise StopAsyncIteration
        event = await self._waiting.get()
        self._ended = event.name == LOST
        return event


class Monitor:
    """An open QMP connection. Made by `Monitor.open`; close it when done, the guest is not touched by that."""

    def __init__(self, client: QMPClient, connection: socket.socket, where: str, now: Callable[[], float]) -> None:
        """Take over a client that is connected over `connection`; use `open` instead."""
        self._client = client
        self._connection = connection
        self._where = where
        self._now = now
        self._streams: weakref.WeakSet[MonitorEvents] = weakref.WeakSet()
        self._lost: MonitorEvent | None = None
        client.register_listener(_Listener(self._dispatch))
        self._watcher = asyncio.create_task(self._watch(), name=f"monitor of {where}")

    @classmethod
    async def open(
        cls,
        connection: socket.socket | str,
        *,
        where: str,
        deadline: float = greeting.CONNECT_DEADLINE,
        now: Callable[[], float] = clock.now,
    ) -> Self:
        """Speak QMP over a connected socket (which the monitor owns from now on) or the UNIX socket at a path.

        `where` names the guest in messages; `deadline` in seconds. Raises MonitorBusyError when the other end stays
        silent, MonitorProtocolError when it is no QMP, MonitorLostError when nobody listens at the path.
        """
        sock = greeting.open_path(connection, where) if isinstance(connection, str) else connection
        client = _QuietClient()
        try:
            began = asyncio.get_running_loop().time()
            await greeting.await_greeting(sock, where, deadline)
            async with asyncio.timeout_at(began + deadline):
                await client.connect(sock)
        except TimeoutError:
            raise greeting.busy(where) from None
        except ConnectError as error:
            if isinstance(error.exc, EOFError | OSError):
                message = f"the QEMU of {where} greeted and went away: {_reason(error.exc)}"
                raise MonitorLostError(message) from None
            raise greeting.not_qmp(where, _reason(error.exc)) from error
        except AssertionError:  # qemu.qmp takes it for granted that what was agreed upon a moment ago still stands
            message = f"the QEMU of {where} greeted and went away: {await _ended(client)}"
            raise MonitorLostError(message) from None
        finally:
            if client.runstate is not Runstate.RUNNING:
                sock.close()
        return cls(client, sock, where, now)

    @property
    def where(self) -> str:
        """How messages call the guest."""
        return self._where

    @property
    def version(self) -> tuple[int, int, int]:
        """QEMU's version, from its greeting."""
        said = self._client.greeting
        qemu = inner(said.QMP.version, "qemu") if said else {}
        return whole(qemu, "major"), whole(qemu, "minor"), whole(qemu, "micro")

    @property
    def out_of_band(self) -> bool:
        """Whether QEMU takes commands that overtake the ones it is busy with."""
        said = self._client.greeting
        return said is not None and "oob" in said.QMP.capabilities

    @property
    def connected(self) -> bool:
        """Whether the connection stands."""
        return self._lost is None

    def now(self) -> float:
        """Return the clock by which events are stamped, in UNIX seconds."""
        return self._now()

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        deadline: float = DEADLINE,
        out_of_band: bool = False,
    ) -> object:
        """Run a command and return its reply, plain JSON.

        Raises MonitorCommandError when QEMU refuses, MonitorLostError when the connection ended or `deadline` seconds
        passed: whether the command took effect is then unknown; MonitorProtocolError for an answer that is none.
        """
        if out_of_band and not self.out_of_band:
            message = f"the monitor of {self._where} takes no commands out of band, `{command}` would have to wait"
            raise MonitorCommandError(message)
        try:
            async with asyncio.timeout(deadline):
                return await self._client.execute(command, arguments, oob=out_of_band)
        except ExecuteError as error:
            message = f"QEMU of {self._where} refused `{command}`: {error}"
            raise MonitorCommandError(message) from error
        except TimeoutError:
            message = f"QEMU of {self._where} did not answer `{command}` within {deadline:g} s"
            raise MonitorLostError(message, remedy="see whether the process is stopped or its disk hangs") from None
        except ExecInterruptedError as error:
            message = f"the monitor of {self._where} went away during `{command}`: {await self._why()}"
            raise MonitorLostError(message) from error
        except StateError as error:
            message = f"the monitor of {self._where} is gone ({await self._why()}): `{command}` was not sent"
            raise MonitorLostError(message) from error
        except QMPError as error:
            message = f"QEMU of {self._where} answered `{command}` with what is no answer: {error}"
            raise MonitorProtocolError(message) from error

    def events(self) -> MonitorEvents:
        """Return all events from this moment on; any number of listeners may be at it at once."""
        stream = MonitorEvents()
        if self._lost is not None:
            stream.put(self._lost)
        else:
            self._streams.add(stream)
        return stream

    async def lost(self) -> None:
        """Return when the connection has ended, for whatever reason."""
        await asyncio.shield(self._watcher)

    async def close(self) -> None:
        """End the connection; QEMU is free for its next client when this returns. Never raises."""
        with contextlib.suppress(OSError):  # it ended by itself already
            # Unlike a plain disconnect this does not wait for a stopped QEMU to read what is still unsent.
            self._connection.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_DEADLINE):
                await self.lost()

    async def _watch(self) -> None:
        """Wait for the end of the connection, then tell every listener."""
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()
        reason = await _ended(self._client)
        self._connection.close()
        self._lost = MonitorEvent(LOST, {"reason": reason}, self._now())
        self._tell(self._lost)

    async def _why(self) -> str:
        """Return why the connection ended, once that is known."""
        await self.lost()
        return str(self._lost.data["reason"]) if self._lost else ""

    def _dispatch(self, message: Message) -> None:
        """Stamp one of QEMU's events and hand it to every listener."""
        stamp = inner(message, "timestamp")
        host_time = whole(stamp, "seconds", -1) + whole(stamp, "microseconds") / 1e6
        self._tell(
            MonitorEvent(
                name=str(message["event"]),
                data=inner(message, "data"),
                received=self._now(),
                host_time=host_time if host_time >= 0 else None,  # QEMU says -1 where it cannot tell
            )
        )

    def _tell(self, event: MonitorEvent) -> None:
        for stream in self._streams:
            stream.put(event)


class _QuietClient(QMPClient):
    """QMPClient without its logging, which prints every message with indentation whether anybody reads it or not."""

    def __init__(self) -> None:
        super().__init__()
        self.logger = _SILENT
        self.events.event_filter = _nothing  # its own listener would keep every event for ever

    def _cb_outbound(self, msg: Message) -> Message:
        return msg

    def _cb_inbound(self, msg: Message) -> Message:
        return msg


class _Listener(EventListener):
    """Hands events on at the instant they are read, and keeps none."""

    def __init__(self, sink: Callable[[Message], None]) -> None:
        super().__init__()
        self._sink = sink

    async def put(self, event: Message) -> None:
        self._sink(event)


def _nothing(_: Message) -> bool:
    return False


async def _ended(client: QMPClient) -> str:
    """End what is left of a connection, and say why it ended."""
    try:
        await client.disconnect()
    except Exception as error:  # noqa: BLE001 - whatever the other end made the library stumble over
        return _reason(error)
    return "it was closed"


def _reason(error: BaseException) -> str:
    """Say in words why a connection ended."""
    if isinstance(error, EOFError):
        return "it closed the connection"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return " ".join(str(error).split())
