from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from godwit.errors import MonitorBusyError, MonitorCommandError, MonitorLostError, MonitorProtocolError
from godwit.qemu.monitor import LOST, Monitor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

GREETING = (
    b'{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""}, "capabilities": ["oob"]}}\r\n'
)
EVENT = {"event": "STOP", "timestamp": {"seconds": 1700000000, "microseconds": 250000}}


@asynccontextmanager
async def peer(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[socket.socket]:
    """Give the client's end of a connection to something that behaves as `serve` does."""
    ours, theirs = socket.socketpair()

    async def run() -> None:
        reader, writer = await asyncio.open_connection(sock=theirs)
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    task = asyncio.create_task(run())
    try:
        yield ours
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        ours.close()


async def wait(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


def saying(words: bytes, *, then_close: bool = False) -> Callable[..., Awaitable[None]]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(words)
        if not then_close:
            await wait(reader, writer)

    return serve


async def requests(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, object]]:
    """Yield JSON objects that follow each other without anything between them."""
    decoder = json.JSONDecoder()
    waiting = ""
    while received := await reader.read(65536):
        waiting += received.decode()
        while waiting.strip():
            try:
                message, end = decoder.raw_decode(waiting.strip())
            except json.JSONDecodeError:
                break
            waiting = waiting.strip()[end:]
            yield message


class Qmp:
    """A QMP server with a few commands, as slow and as rude as a test wants it."""

    def __init__(self, greeting: bytes = GREETING) -> None:
        self.greeting = greeting
        self.received: list[dict[str, object]] = []
        self.writer: asyncio.StreamWriter | None = None

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        writer.write(self.greeting)
        async for message in requests(reader):
            self.received.append(message)
            command = message.get("execute") or message.get("exec-oob")
            if command == "die":
                return
            if command == "malformed":
                writer.write(b"{{{ no JSON\r\n")
            elif command == "refuse":
                error = {"class": "GenericError", "desc": "not today"}
                self.send({"error": error, "id": message["id"]})
            elif command != "hang":
                self.send({"return": {"command": command}, **({"id": message["id"]} if "id" in message else {})})

    def send(self, message: dict[str, object]) -> None:
        assert self.writer is not None
        self.writer.write(json.dumps(message).encode() + b"\r\n")


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        (saying(b"HTTP/1.1 400 Bad Request\r\n"), "HTTP/1.1 400"),
        (saying(b"\r\nDebian GNU/Linux 12 web1 ttyS0\r\n\r\nweb1 login: "), "login"),
        (saying(b"QEMU 10.0.2 monitor - type 'help' for more information\r\n(qemu) "), "monitor - type"),
        (saying(os.urandom(5000) + b"\n"), "does not speak QMP"),
        (saying(b'{"return": {}}\r\n'), "does not speak QMP"),
        (saying(b'{"QMP": 3}\r\n'), "does not speak QMP"),
        (saying(b'{\r\n    "QMP": {\r\n'), "several lines"),
        (saying(b"", then_close=True), "closed the connection"),
    ],
)
async def test_what_is_no_qmp_is_named_as_such_at_once(serve: Callable[..., Awaitable[None]], words: str) -> None:
    async with peer(serve) as connection:
        began = time.monotonic()
        with pytest.raises(MonitorProtocolError, match=words):
            await Monitor.open(connection, where="web1")
        assert time.monotonic() - began < 1
        assert connection.fileno() == -1


async def test_silence_means_busy_after_the_deadline() -> None:
    async with peer(wait) as connection:
        began = time.monotonic()
        with pytest.raises(MonitorBusyError, match="another client holds it"):
            await Monitor.open(connection, where="web1", deadline=0.3)
        assert 0.25 < time.monotonic() - began < 1


async def test_a_server_that_waits_to_be_asked_is_no_busy_monitor() -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.0 400 Bad request syntax\r\n\r\n")
        await wait(reader, writer)

    async with peer(http) as connection:
        with pytest.raises(MonitorProtocolError, match=r"HTTP/1\.0 400"):
            await Monitor.open(connection, where="web1", deadline=1)


async def test_a_path_where_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(MonitorLostError, match="nothing accepts"):
        await Monitor.open(str(tmp_path / "none.sock"), where="web1")


async def test_a_qemu_that_dies_after_its_greeting_is_lost_not_foreign() -> None:
    async with peer(saying(GREETING, then_close=True)) as connection:
        with pytest.raises(MonitorLostError, match="went away"):
            await Monitor.open(connection, where="web1")


async def test_commands_and_their_failures() -> None:
    async with peer(Qmp()) as connection:
        monitor = await Monitor.open(connection, where="web1")
        assert monitor.version == (10, 0, 2)
        assert await monitor.execute("query-status") == {"command": "query-status"}
        with pytest.raises(MonitorCommandError, match="refused `refuse`: not today"):
            await monitor.execute("refuse")
        with pytest.raises(MonitorLostError, match=r"did not answer `hang` within 0\.05 s"):
            await monitor.execute("hang", deadline=0.05)
        before = monitor.connected
        with pytest.raises(MonitorLostError, match="went away during `die`: it closed the connection"):
            await monitor.execute("die")
        assert (before, monitor.connected) == (True, False)
        with pytest.raises(MonitorLostError, match="`query-status` was not sent"):
            await monitor.execute("query-status")
        await monitor.close()


async def test_an_answer_that_is_no_json_ends_the_connection() -> None:
    async with peer(Qmp()) as connection:
        monitor = await Monitor.open(connection, where="web1")
        with pytest.raises(MonitorLostError, match="during `malformed`: Failed to deserialize"):
            await monitor.execute("malformed")
        await monitor.close()


async def test_commands_out_of_band_where_qemu_offers_it() -> None:
    server = Qmp()
    async with peer(server) as connection:
        monitor = await Monitor.open(connection, where="web1")
        await monitor.execute("migrate-pause", out_of_band=True)
        assert server.received[-1]["exec-oob"] == "migrate-pause"
        await monitor.close()
    async with peer(Qmp(GREETING.replace(b'"oob"', b""))) as connection:
        monitor = await Monitor.open(connection, where="web1")
        with pytest.raises(MonitorCommandError, match="out of band"):
            await monitor.execute("migrate-pause", out_of_band=True)
        await monitor.close()


async def test_every_listener_gets_every_event_and_exactly_one_lost() -> None:
    server = Qmp()
    async with peer(server) as connection:
        monitor = await Monitor.open(connection, where="web1", now=lambda: 5.0)
        early = monitor.events()
        server.send({**EVENT})
        await monitor.execute("query-status")
        late = monitor.events()
        server.send(
            {"event": "MIGRATION", "data": {"status": "setup"}, "timestamp": {"seconds": -1, "microseconds": -1}}
        )
        await monitor.execute("query-status")
        await monitor.close()
        first = [event async for event in early]
        assert [event.name for event in first] == ["STOP", "MIGRATION", LOST]
        assert first[0].host_time == 1700000000.25
        assert first[0].received == 5.0
        assert first[1].host_time is None
        assert [event.name async for event in late] == ["MIGRATION", LOST]
        assert [event.name async for event in monitor.events()] == [LOST]
        assert [event.name async for event in early] == []


async def test_a_listener_that_waits_hears_of_the_end() -> None:
    async with peer(Qmp()) as connection:
        monitor = await Monitor.open(connection, where="web1")
        waiting = asyncio.create_task(anext(monitor.events()))
        with pytest.raises(MonitorLostError):
            await monitor.execute("die")
        assert (await waiting).name == LOST
        await monitor.close()


async def test_close_does_not_wait_for_a_peer_that_reads_nothing() -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GREETING)
        await reader.read(65536)
        writer.write(b'{"return": {}}\r\n')
        await wait(reader, writer)

    async with peer(deaf) as connection:
        monitor = await Monitor.open(connection, where="web1")
        with pytest.raises(MonitorLostError):
            await monitor.execute("device_add", {"x": "y" * 5_000_000}, deadline=0.1)
        began = time.monotonic()
        await monitor.close()
        await monitor.close()
        assert time.monotonic() - began < 0.5


async def test_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with peer(Qmp()) as connection:
        monitor = await Monitor.open(connection, where="web1")
        with pytest.raises(MonitorLostError):
            await monitor.execute("die")
        await monitor.close()
    assert not [record for record in caplog.records if not record.name.startswith("asyncio")]
