from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import pytest
from qmp_double import EVENT, GREETING, Qmp, peer, saying, wait

from godwit.errors import MonitorBusyError, MonitorCommandError, MonitorLostError, MonitorProtocolError
from godwit.qemu.monitor import LOST, Monitor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


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
