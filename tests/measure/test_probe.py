"""The driver: starting, waiting, following and ending a prober, and what it says when one dies."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest
from test_prober import echo, serving

from godwit.errors import ProbeError
from godwit.measure.collect import Collector
from godwit.measure.gaps import client_view
from godwit.measure.probe import OutsideProbe, ProbeSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HERE = (sys.executable,)


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with serving(echo) as number:
        yield number


@pytest.mark.parametrize(
    ("text", "kind", "host", "port", "path"),
    [
        ("198.18.0.100", "icmp", "198.18.0.100", 0, "/"),
        ("web1.example", "icmp", "web1.example", 0, "/"),
        ("fd00::1", "icmp", "fd00::1", 0, "/"),
        ("icmp://[fd00::1]", "icmp", "fd00::1", 0, "/"),
        ("redis://198.18.0.100", "redis", "198.18.0.100", 6379, "/"),
        ("redis://198.18.0.100:6380/set", "redis", "198.18.0.100", 6380, "/set"),
        ("tcp://198.18.0.100:7000", "tcp", "198.18.0.100", 7000, "/"),
        ("tcp-connect://[fd00::1]:22", "tcp-connect", "fd00::1", 22, "/"),
        ("http://web1/health?deep=1", "http", "web1", 80, "/health?deep=1"),
    ],
)
def test_addresses(text: str, kind: str, host: str, port: int, path: str) -> None:
    spec = ProbeSpec.parse(text)
    assert (spec.kind, spec.host, spec.port, spec.path) == (kind, host, port, path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "missing"),
        ("tcp://198.18.0.100", "needs a port"),
        ("198.18.0.100:22", "ICMP has no ports; tcp-connect://198.18.0.100:22"),
        ("gopher://198.18.0.100:70", "one of icmp, tcp-connect, tcp, http, redis"),
        ("tcp://198.18.0.100:99999", "port"),
        ("tcp://198.18.0.100:x", "port"),
        ("a b", "characters"),
    ],
)
def test_addresses_that_are_none(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ProbeSpec.parse(text)


async def test_a_probe_sees_replies_and_gives_its_series(port: int) -> None:
    begin = time.time()
    async with OutsideProbe(HERE, ProbeSpec.parse(f"tcp://127.0.0.1:{port}")) as probe:
        await probe.ready(5)
        asked = time.time()
        sent = await probe.replied_since(asked, 5)
        assert asked <= sent <= time.time()
        assert len(probe.collected().sent_s) > 0
        series = await probe.finish()
    assert series.kind == "tcp"
    assert series.address == f"tcp://127.0.0.1:{port}"
    assert begin < series.started_s <= series.sent_s[0] < series.ended_s < time.time() + 0.05
    assert series.lost == 0
    assert series.clock_uncertainty_s < 0.2
    assert client_view(series).lag_max_s >= 0


@pytest.mark.parametrize("through_shell", [False, True])
async def test_the_source_is_sent_where_nothing_is_installed(
    port: int,
    through_shell: bool,  # noqa: FBT001
) -> None:
    command = ("sh", "-c", 'eval "$*"', "sh", sys.executable) if through_shell else HERE
    spec = ProbeSpec.parse(f"tcp://127.0.0.1:{port}")
    async with OutsideProbe(command, spec, send_source=True, through_shell=through_shell) as probe:
        await probe.ready(5)
        assert (await probe.finish()).method == "tcp-echo"


async def test_nothing_of_an_address_reaches_a_shell(tmp_path: Path) -> None:
    bait = tmp_path / "bait"
    spec = ProbeSpec("http", f"127.0.0.1;touch${{IFS}}{shlex.quote(str(bait))}", 80, path="/$(touch bait)")
    command = ("sh", "-c", 'eval "$*"', "sh", sys.executable)
    with pytest.raises(ProbeError):
        async with OutsideProbe(command, spec, send_source=True, through_shell=True):
            pass
    assert [one.name for one in os.scandir(tmp_path)] == []


async def test_a_gap_is_measured_and_its_end_is_seen_at_once() -> None:
    quiet = asyncio.Event()
    quiet.set()

    async def pausing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            await quiet.wait()
            writer.write(line)

    async with (
        serving(pausing) as port,
        OutsideProbe(HERE, ProbeSpec.parse(f"tcp://127.0.0.1:{port}")) as probe,
    ):
        await probe.ready(5)
        await asyncio.sleep(0.2)
        quiet.clear()
        stop = time.time()
        await asyncio.sleep(0.3)
        resume = time.time()
        quiet.set()
        await probe.replied_since(resume, 5)
        noticed = time.time() - resume
        series = await probe.finish()
    view = client_view(series, stop, resume)
    assert view.at_switchover is not None
    assert 0.28 <= view.at_switchover.length_s <= 0.6
    assert noticed < 0.3


async def test_a_probe_without_replies_says_so_in_time() -> None:
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with (
        serving(silent) as port,
        OutsideProbe(HERE, ProbeSpec.parse(f"tcp://127.0.0.1:{port}")) as probe,
    ):
        with pytest.raises(ProbeError, match=r"no reply from 127\.0\.0\.1 within 0\.2 s"):
            await probe.ready(0.2)
        series = await probe.finish()
    view = client_view(series)
    assert view.longest is None or view.longest.open_end


async def test_a_prober_that_dies_ends_every_wait_with_its_own_words(port: int) -> None:
    async with OutsideProbe(HERE, ProbeSpec.parse(f"tcp://127.0.0.1:{port}")) as probe:
        await probe.ready(5)
        waiting = asyncio.create_task(probe.replied_since(time.time() + 100))
        await asyncio.sleep(0.05)
        os.kill(_child(probe), signal.SIGKILL)
        with pytest.raises(ProbeError, match="ended"):
            await asyncio.wait_for(waiting, 5)
        with pytest.raises(ProbeError, match="ended"):
            await probe.finish()
        assert len(probe.collected().sent_s) > 0


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("/no/such/program",), "cannot start"),
        (("sh", "-c", "echo no python here >&2; exit 3"), "no python here"),
        (("sh", "-c", 'echo \'{"t":"header","version":99}\'; cat'), "version 99"),
        (("sh", "-c", "echo '{nonsense'; cat"), "Expecting"),
    ],
)
async def test_a_prober_that_does_not_come_up(command: tuple[str, ...], words: str) -> None:
    with pytest.raises(ProbeError, match=words):
        async with asyncio.timeout(10), OutsideProbe(command, ProbeSpec.parse("198.18.0.1")):
            pass


async def test_an_unknown_address_is_named() -> None:
    with pytest.raises(ProbeError, match=r"no\.such\.name\.invalid"):
        async with OutsideProbe(HERE, ProbeSpec.parse("no.such.name.invalid")):
            pass


async def test_a_stuck_prober_is_ended_by_force(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setattr("godwit.measure.probe.END_DEADLINE_S", 0.1)
    monkeypatch.setattr("godwit.measure.probe.KILL_DEADLINE_S", 0.2)
    async with OutsideProbe(HERE, ProbeSpec.parse(f"tcp://127.0.0.1:{port}")) as probe:
        await probe.ready(5)
        child = _child(probe)
        os.kill(child, signal.SIGSTOP)
        with pytest.raises(ProbeError, match="ended"):
            await probe.finish()
    assert not _lives(child)


async def test_leaving_the_block_by_an_error_leaves_no_process(port: int) -> None:
    children = []

    async def leave() -> None:
        async with OutsideProbe(HERE, ProbeSpec.parse(f"tcp://127.0.0.1:{port}")) as probe:
            children.append(_child(probe))
            raise KeyError

    with pytest.raises(KeyError):
        await leave()
    (child,) = children
    assert not _lives(child)


def test_the_collector_follows_a_wall_clock_that_is_slewed() -> None:
    collector = Collector()
    collector.feed(
        b'{"t":"header","version":1,"kind":"icmp","method":"m","host":"h","port":0,"interval_us":2000,'
        b'"timeout_us":1,"mono_us":0,"real_ns":1000000000000000000,"scheduling":"fifo","vantage":"v"}'
    )
    collector.feed(b'{"t":"rows","rows":[[1,500000,100,5],[0,0,null,null]]}')
    collector.feed(b'{"t":"clock","mono_us":1000000,"real_ns":1000000001000500000}')
    series = collector.series()
    assert series.sent_s[1] - series.sent_s[0] == pytest.approx(0.50025, abs=1e-6)
    assert series.lost == 1
    assert series.rtt_s[1] == pytest.approx(0.0001)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _child(probe: OutsideProbe) -> int:
    process = probe._process
    assert process is not None
    pid: int = process._child.pid  # type: ignore[attr-defined]
    return pid
