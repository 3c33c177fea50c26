"""The prober as a program of its own: what it writes, how well it keeps time, and how it takes trouble."""

from __future__ import annotations

import argparse
import ast
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from godwit.measure import prober

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

PROBER = Path(prober.__file__)
SOURCE = PROBER.read_bytes()


@contextlib.asynccontextmanager
async def serving(
    handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """A server on loopback that takes ends of its connections calmly; gives its port."""

    async def calm(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await handler(reader, writer)
        writer.close()

    server = await asyncio.start_server(calm, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def run(*arguments: str, stdin: bytes = b"", command: tuple[str, ...] = (str(PROBER),)) -> list[dict[str, Any]]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, *command, *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(child.communicate(stdin), 20)
    assert child.returncode == 0
    return [json.loads(line) for line in output.splitlines()]


def rows(messages: list[dict[str, Any]]) -> list[list[Any]]:
    return sorted(row for message in messages if message["t"] == "rows" for row in message["rows"])


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)


async def redis(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Just enough of redis: PING as an array, SET and GET inline."""
    store: dict[bytes, bytes] = {}
    while line := await reader.readline():
        words = line.split()
        if words[0] == b"*1":
            await reader.readline()
            await reader.readline()
            writer.write(b"+PONG\r\n")
        elif words[0] == b"SET":
            assert words[3:] == [b"EX", b"60"]
            store[words[1]] = words[2]
            writer.write(b"+OK\r\n")
        else:
            value = store[words[1]]
            writer.write(b"$%d\r\n%s\r\n" % (len(value), value))


def test_it_is_one_file_of_the_standard_library_that_python_3_9_reads() -> None:
    tree = ast.parse(PROBER.read_text(), feature_version=(3, 9))
    imported = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    } | {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names


async def test_a_kept_connection_is_asked_on_schedule_and_every_request_is_told() -> None:
    async with serving(echo) as port:
        messages = await run("tcp", "127.0.0.1", "--port", str(port), "--duration-s", "1.0", "--priority", "normal")
    header, end = messages[0], messages[-1]
    assert (header["t"], header["kind"], header["interval_us"]) == ("header", "tcp", 2000)
    assert end["t"] == "end"
    assert end["reason"] == "duration"
    told = rows(messages)
    assert [row[0] for row in told] == list(range(end["sent"]))
    assert end["replies"] + end["lost"] == end["sent"] == len(told)
    assert end["replies"] >= 100
    sent_us = np.array([row[1] for row in told])
    assert 1900 <= np.median(np.diff(sent_us)) <= 2600
    assert all(row[3] >= 0 for row in told)
    assert max(row[3] for row in told) <= end["lag_max_us"]
    assert abs(header["real_ns"] / 1e9 - time.time()) < 30
    assert [message["t"] for message in messages].count("ready") == 1


async def test_it_is_light() -> None:
    async with serving(echo) as port:
        end = (await run("tcp", "127.0.0.1", "--port", str(port), "--duration-s", "1"))[-1]
    assert end["cpu_us"] < 0.35 * 1_000_000


async def test_redis_values_come_back_as_they_were_stored() -> None:
    async with serving(redis) as port:
        for path in ("/", "/set"):
            end = (await run("redis", "127.0.0.1", "--port", str(port), "--path", path, "--duration-s", "0.3"))[-1]
            assert end["errors"] == {}
            assert end["replies"] > 2


async def test_a_lost_write_and_an_error_reply_are_told_by_name() -> None:
    async def forgetful(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for turn in count():
            if not await reader.readline():
                return
            writer.write((b"+OK\r\n", b"$3\r\nold\r\n", b"-LOADING wait\r\n")[turn % 3])

    async with serving(forgetful) as port:
        end = (await run("redis", "127.0.0.1", "--port", str(port), "--path", "/set", "--duration-s", "0.3"))[-1]
    assert end["errors"]["wrong-value"] > 0
    assert end["errors"]["error-reply"] > 0


@pytest.mark.parametrize(
    ("reply", "reconnects"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\n\r\nok", True),
    ],
)
async def test_http_replies_of_every_shape(reply: bytes, reconnects: bool) -> None:  # noqa: FBT001
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET /x HTTP/1.1"):
            head, separator, body = reply.partition(b"\r\n\r\n")
            writer.write(head + separator)
            await writer.drain()
            await asyncio.sleep(0)
            writer.write(body)
            if reconnects:
                return

    async with serving(web) as port:
        end = (await run("http", "127.0.0.1", "--port", str(port), "--path", "/x", "--duration-s", "0.4"))[-1]
    assert end["errors"] == {}
    assert end["replies"] > 2
    assert (end["reconnects"] > 0) is reconnects


async def test_http_errors_of_the_server_are_counted_although_they_are_replies() -> None:
    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")

    async with serving(broken) as port:
        end = (await run("http", "127.0.0.1", "--port", str(port), "--duration-s", "0.2"))[-1]
    assert end["errors"] == {"status-5xx": end["replies"]}


async def test_a_reset_connection_is_told_lost_and_made_anew() -> None:
    seen = count()

    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(20 if next(seen) == 0 else 10_000):
            line = await reader.readline()
            if not line:
                return
            writer.write(line)
        await reader.readline()

    async with serving(rude) as port:
        messages = await run("tcp", "127.0.0.1", "--port", str(port), "--duration-s", "0.6")
    end = messages[-1]
    assert end["errors"] == {"reset": 1}
    assert end["reconnects"] == 1
    assert end["lost"] == 1
    assert end["replies"] > 40
    assert any(message["t"] == "event" and message["what"] == "reset" for message in messages)


async def test_a_silent_server_times_out_and_a_refused_port_is_told() -> None:
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(silent) as port:
        arguments = ("tcp", "127.0.0.1", "--port", str(port), "--timeout-ms", "100", "--duration-s", "0.5")
        end = (await run(*arguments))[-1]
    assert end["errors"]["timeout"] >= 2
    assert end["replies"] == 0
    end = (await run("tcp", "127.0.0.1", "--port", str(port), "--duration-s", "0.2"))[-1]
    assert end["errors"]["refused"] >= 1


class Overworked(prober.Client):
    """A guest that takes 10 ms for each answer, one after the other, and drops nothing."""

    stamped = True

    def __init__(self, out: prober.Output) -> None:
        super().__init__(out)
        self.due: dict[int, int] = {}
        self.free_ns = 0

    def send(self, number: int) -> None:
        self.free_ns = max(self.free_ns, prober.monotonic_ns()) + 10_000_000
        self.due[number] = self.free_ns

    def replies(self, readable: list[socket.socket], writable: list[socket.socket]) -> list[tuple[int, int]]:
        del readable, writable
        now = prober.monotonic_ns()
        come = [(number, instant) for number, instant in self.due.items() if instant <= now]
        for number, _ in come:
            del self.due[number]
        return come


def test_a_guest_that_is_slower_than_it_is_asked_is_asked_less_often(capfd: pytest.CaptureFixture[str]) -> None:
    """Asked every 2 ms it would be 2 s behind after half a second, and count as silent from then on."""
    out = prober.Output(10_000_000)
    arguments = argparse.Namespace(interval_ms=2.0, timeout_ms=2000.0, duration_s=4.0, watch_stdin=False, flush_ms=10.0)
    prober.Loop(Overworked(out), out, arguments).run()
    messages = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    told = rows(messages)
    answers = [row[2] for row in told if row[1] < 3_000_000]  # the last ones are on their way as it ends
    assert len(answers) >= 100
    assert None not in answers
    assert max(answers) < 1_500_000


async def test_who_does_not_answer_is_asked_ever_less_often() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.settimeout(0)
            one.connect_ex(("127.0.0.1", port))
        wanted = ("--interval-ms", "2", "--timeout-ms", "1000", "--duration-s", "2", "--priority", "normal")
        messages = await run("tcp-connect", "127.0.0.1", "--port", str(port), *wanted)
        for one in waiting:
            one.close()
    sent_us = np.array([row[1] for row in rows(messages)])
    assert 20 <= len(sent_us) <= 200
    pauses = np.diff(sent_us)
    assert np.median(pauses[:10]) < 5_000
    assert np.median(pauses[-5:]) > 50_000


async def test_handshakes_are_slow_unless_asked_for_and_a_refused_one_is_lost() -> None:
    async with serving(echo) as port:
        slow = (await run("tcp-connect", "127.0.0.1", "--port", str(port), "--duration-s", "0.5"))[-1]
        fast = await run("tcp-connect", "127.0.0.1", "--port", str(port), "--duration-s", "0.5", "--interval-ms", "5")
    assert 1 <= slow["replies"] <= 12
    assert fast[-1]["replies"] > slow["replies"]
    closed = (await run("tcp-connect", "127.0.0.1", "--port", str(port), "--duration-s", "0.2"))[-1]
    assert closed["lost"] == closed["sent"] == closed["errors"]["refused"] > 0


async def test_it_runs_from_standard_input() -> None:
    async with serving(echo) as port:
        arguments = ("tcp", "127.0.0.1", "--port", str(port), "--duration-s", "0.2")
        messages = await run(*arguments, command=("-",), stdin=SOURCE)
    assert messages[-1]["replies"] > 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_signals_end_it_with_its_totals(number: signal.Signals) -> None:
    async with serving(echo) as port:
        child = await asyncio.create_subprocess_exec(
            sys.executable, str(PROBER), "tcp", "127.0.0.1", "--port", str(port), stdout=asyncio.subprocess.PIPE
        )
        assert child.stdout is not None
        while json.loads(await asyncio.wait_for(child.stdout.readline(), 10))["t"] != "ready":
            pass
        child.send_signal(number)
        rest, _ = await asyncio.wait_for(child.communicate(), 5)
    assert json.loads(rest.splitlines()[-1])["reason"] == number.name
    assert child.returncode == 0


async def test_it_ends_with_its_reader_and_with_its_standard_input() -> None:
    async with serving(echo) as port:
        end = (await run("tcp", "127.0.0.1", "--port", str(port), "--watch-stdin"))[-1]
        assert end["reason"] == "stdin closed"
        read_end, write_end = os.pipe()
        child = await asyncio.create_subprocess_exec(
            sys.executable, str(PROBER), "tcp", "127.0.0.1", "--port", str(port), stdout=write_end
        )
        os.close(write_end)
        await asyncio.sleep(0.2)
        os.close(read_end)
        assert await asyncio.wait_for(child.wait(), 5) == 1


async def test_a_reader_that_pauses_does_not_stop_the_probe() -> None:
    async with serving(echo) as port:
        child = await asyncio.create_subprocess_exec(
            sys.executable, str(PROBER), "tcp", "127.0.0.1", "--port", str(port), "--interval-ms", "0.2",
            "--duration-s", "1.5", stdout=asyncio.subprocess.PIPE, limit=1024, pipesize=4096,
        )  # fmt: skip
        await asyncio.sleep(1.8)
        output, _ = await asyncio.wait_for(child.communicate(), 10)
    told = rows([json.loads(line) for line in output.splitlines()])
    assert len(output) > 2 * 4096
    assert max(np.diff([row[1] for row in told])) < 500_000


def test_bad_arguments_and_unknown_addresses_are_refused_with_a_reason() -> None:
    cases = {
        ("tcp", "127.0.0.1"): "needs --port",
        ("icmp", "127.0.0.1", "--interval-ms", "0.01"): "at least 0.2 ms",
        ("http", "no.such.name.invalid"): "no.such.name.invalid",
    }
    for arguments, reason in cases.items():
        done = subprocess.run([sys.executable, str(PROBER), *arguments], capture_output=True, check=False, timeout=20)
        assert done.returncode == 2
        assert reason in done.stderr.decode()


def test_the_checksum_is_the_internet_s() -> None:
    data = bytes.fromhex("4500003044224000800600008c7c19acae241e2b")
    assert prober.checksum(data) == 0x442E  # the example of RFC 1071's literature
    assert prober.checksum(data[:10] + (0x442E).to_bytes(2, "big") + data[12:]) == 0


@pytest.mark.lab
async def test_icmp_on_loopback_keeps_its_interval_and_loses_nothing() -> None:
    messages = await run("icmp", "127.0.0.1", "--duration-s", "1")
    told = rows(messages)
    assert messages[0]["method"] in {"icmp-raw", "icmp-datagram"}
    assert messages[-1]["lost"] == 0
    assert 1950 <= np.median(np.diff([row[1] for row in told])) <= 2050


@pytest.mark.lab
async def test_icmp_version_6() -> None:
    messages = await run("icmp", "::1", "--duration-s", "0.3")
    assert messages[-1]["replies"] > 5


@pytest.mark.lab
async def test_without_any_icmp_socket_the_system_s_ping_is_used_and_said() -> None:
    if shutil.which("setpriv") is None or shutil.which("ping") is None:
        pytest.fail("this test needs setpriv and ping; script/setup installs them")
    child = await asyncio.create_subprocess_exec(
        "unshare", "--net", "sh", "-c",
        'ip link set lo up; echo "1 0" > /proc/sys/net/ipv4/ping_group_range; exec setpriv --reuid 65534 "$@"', "sh",
        sys.executable, "-", "icmp", "127.0.0.1", "--interval-ms", "200", "--duration-s", "1.5",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(child.communicate(SOURCE), 20)
    messages = [json.loads(line) for line in output.splitlines()]
    assert messages[0]["method"] == "ping-command"
    assert any(message["t"] == "note" and "ping" in message["text"] for message in messages)
    assert messages[-1]["replies"] >= 4
    assert all(row[3] is None and row[2] >= 0 for row in rows(messages))
