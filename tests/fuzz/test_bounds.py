"""What is read from a peer has a bound, and an error that names it."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest
from fuzz_hosts import INFO
from fuzz_liar import LyingTransport
from fuzz_qemu import GREETING, RECORDED, peer_says

from godwit.errors import (
    HostError,
    HypervisorError,
    JournalError,
    MonitorLostError,
    MonitorProtocolError,
    ProbeError,
    RemoteCommandError,
)
from godwit.hosts import transport as transports
from godwit.hosts.hostfacts import Identity
from godwit.hosts.local import LocalTransport
from godwit.hosts.plain import PlainHost
from godwit.journal import codec
from godwit.measure.probe import OutsideProbe, ProbeSpec, last_words
from godwit.qemu import agent, monitor, reply
from godwit.qemu.blocknodes import BlockGraph, UnknownNodeError, blockdev_options
from godwit.qemu.commandline import resolver_of
from godwit.qemu.media import LONGEST_CHAIN, disks
from godwit.qemu.monitor import LOST, WAITING, Monitor, MonitorEvent, MonitorEvents
from godwit.storage import images


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_a_command_that_says_too_much_is_ended(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "OUTPUT_LIMIT", 1 << 20)
    script = "yes x" if stream == "stdout" else "yes x >&2"
    with pytest.raises(RemoteCommandError, match="says more than 1 MiB") as refused:
        await LocalTransport("h1").run(["sh", "-c", script])
    assert "asked for much less" in refused.value.remedy


async def test_a_command_whose_child_holds_its_output_does_not_hold_us() -> None:
    begun = asyncio.get_running_loop().time()
    with pytest.raises(RemoteCommandError, match="did not end within"):
        await LocalTransport("h1").run(["sh", "-c", "setsid sleep 20 & wait"], deadline=0.3)
    assert asyncio.get_running_loop().time() - begun < 15


async def test_a_command_need_not_read_what_it_is_given() -> None:
    completed = await LocalTransport("h1").run(["true"], stdin=b"x" * (1 << 20))
    assert completed.status == 0


@pytest.mark.parametrize("below", ["/x", "/y"])
async def test_backing_files_that_have_no_end(below: str) -> None:
    info = {**INFO, "full-backing-filename": below}
    said = (0, f"image\n{json.dumps(info)}\n".encode(), b"")
    with pytest.raises(HostError, match="have no end") as refused:
        await PlainHost(Identity("h1", ""), LyingTransport([said])).leave_image("/x", "qcow2", "v", "s")
    assert "--backing-chain" in refused.value.remedy


def test_a_chain_of_backing_files_that_is_too_long() -> None:
    image: dict[str, object] = {"filename": "/b", "format": "qcow2", "virtual-size": 1}
    for _ in range(LONGEST_CHAIN + 1):
        image = {"filename": "/b", "format": "qcow2", "virtual-size": 1, "backing-image": image}
    row = {"device": "d0", "inserted": {"file": "/x", "drv": "qcow2", "ro": False, "image": image}}
    process = RECORDED["q35"].process
    with pytest.raises(HypervisorError, match="more than 256 backing files") as refused:
        list(disks([row], resolver_of(process, ())))
    assert "commit" in refused.value.remedy


def test_block_nodes_that_hang_in_a_ring() -> None:
    node: dict[str, object] = {"node-name": "#a", "drv": "qcow2", "file": "/x", "ro": False, "cache": {}}
    graph = BlockGraph({"a": node, "#a": node}, {"a": {"file": "#a"}, "#a": {"file": "#a"}})
    with pytest.raises(UnknownNodeError, match="a loop"):
        blockdev_options(graph, "a", set())


def test_a_block_node_below_another_that_is_none() -> None:
    node: dict[str, object] = {"node-name": "a", "drv": "qcow2", "file": "/x", "ro": False, "cache": {}}
    below: dict[str, object] = {"node-name": "#f", "drv": "file", "file": "/x", "ro": False, "cache": {}}
    graph = BlockGraph({"a": node, "#f": below}, {"a": {"file": "#f", "backing": "#gone"}})
    with pytest.raises(UnknownNodeError, match="another backing file"):
        blockdev_options(graph, "a", set())


@pytest.mark.parametrize("options", [{"compat": "1.1,data_file=/dev/sda"}, {"compression-type": "zlib,x=y"}])
def test_an_image_puts_no_options_of_its_own_into_a_command(options: dict[str, str]) -> None:
    data = {**INFO["format-specific"]["data"], **options}
    info = {**INFO, "format-specific": {"data": data}}
    with pytest.raises(HypervisorError, match="cannot be read"):
        images.parse_info(f"image\n{json.dumps(info)}", "/x", "h1")


async def test_events_that_nobody_reads_end_their_stream() -> None:
    events = MonitorEvents()
    for number in range(3 * WAITING):
        events.put(MonitorEvent("STOP", {}, float(number)))
    seen = [event async for event in events]
    assert len(seen) == WAITING + 1
    assert seen[-1].name == LOST
    assert "nobody had a use for" in str(seen[-1].data["reason"])


async def test_a_qemu_that_ends_right_after_its_greeting_is_lost() -> None:
    agreed = json.dumps(GREETING).encode() + b"\r\n" + b'{"return": {}, "id": "__qmp#00000"}\r\n'
    with peer_says(agreed) as connection, pytest.raises(MonitorLostError, match="greeted and went away"):
        await Monitor.open(connection.dup(), where="web1")


DEEP = b"[" * 200_000


async def _asked(opened: Monitor) -> None:
    try:
        await opened.execute("query-status", deadline=2.0)
    finally:
        await opened.close()


@pytest.mark.parametrize("line", [DEEP, b'{"return": ' + DEEP, b'{"return": {}, "id": []}', b"\xff"])
async def test_an_answer_without_end_is_an_end(line: bytes) -> None:
    agreed = json.dumps(GREETING).encode() + b"\r\n" + b'{"return": {}, "id": "__qmp#00000"}\r\n'
    with peer_says(agreed + line + b"\r\n") as connection, pytest.raises((MonitorLostError, MonitorProtocolError)):
        await _asked(await Monitor.open(connection.dup(), where="web1"))


def test_a_message_of_qemus_has_a_bound() -> None:
    assert 1 << 20 <= monitor._QuietClient().readbuflen <= 64 << 20


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**30, -(10**30)])
def test_a_number_beyond_all_measure_is_none(value: float) -> None:
    with pytest.raises(MonitorProtocolError, match="a number was promised"):
        reply.number({"x": value}, "x")


@pytest.mark.parametrize("said", [b"x" * 100_000, b"[" * 60_000, b'{"error": {"desc": "' + b"\x1b" * 9 + b'"}}', b"{"])
async def test_an_agent_that_says_too_much_is_an_error_of_ours(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("godwit.qemu.agent.secrets.randbits", lambda _: 5)
    with peer_says(b'{"return": 5}\n' + said + b"\n") as connection, pytest.raises(HypervisorError):
        await agent.trim(connection.dup())


async def test_a_prober_that_floods_is_ended() -> None:
    flood = "import time\nwhile True: print('x' * 999, flush=False)"
    probe = OutsideProbe([sys.executable, "-c", flood], ProbeSpec.parse("192.0.2.1"))
    with pytest.raises(ProbeError, match="more than it was asked for"):
        await probe.__aenter__()


async def test_of_error_output_the_end_is_kept() -> None:
    class Endless:
        left = 1000

        async def read(self, n: int = -1, /) -> bytes:
            self.left -= 1
            return b"x" * (n - 1) + b"y" if self.left else b""

    kept = await last_words(Endless())
    assert len(kept) == 4096
    assert kept.endswith(b"y")


@pytest.mark.parametrize(
    "read",
    [
        lambda: codec.decode("[" * 100_000),
        lambda: codec.decode("[]"),
        lambda: codec.decode("{"),
        lambda: codec.phase_of("dancing"),
        lambda: codec.load(dict, "x"),
    ],
)
def test_what_no_godwit_wrote_into_the_journal_is_named(read: Any) -> None:  # noqa: ANN401 - a reader
    with pytest.raises(JournalError) as refused:
        read()
    assert "backup" in refused.value.remedy
