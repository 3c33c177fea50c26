"""QEMU and guest agents: replies, events, what comes over the wire, and command lines that nobody foresaw."""

from __future__ import annotations

import json
import socket
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from fuzz_inputs import JSON, TEXTS, bent, bent_bytes, changed, lines, packed
from hypothesis import strategies as st
from qemu_recording import Recording

from godwit.console import arguments, commands
from godwit.console.arguments import BadArgumentsError
from godwit.errors import GodwitError, MonitorCommandError
from godwit.model import DiskCopy, DiskMode, ImageFacts
from godwit.qemu import agent, balloon, handover, mirrors, ramblocks, stamps
from godwit.qemu.blocknodes import UnknownNodeError, blockdev_options, read_graph
from godwit.qemu.commandline import guest_name, incoming_argv, move_vnc, parse, qmp_sockets, vnc_ports
from godwit.qemu.cpus import vcpu_threads
from godwit.qemu.facts import guest_facts
from godwit.qemu.features import probe
from godwit.qemu.monitor import LOST, Monitor, MonitorEvent
from godwit.qemu.offline import disks_of
from godwit.qemu.options import CommandLineError
from godwit.qemu.qom import parse_network
from godwit.qemu.reply import as_object, inner
from godwit.qemu.snapshots import entries
from godwit.qemu.views import make_event, make_result, make_sample, make_view

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RECORDED: Final = {name: Recording(name) for name in ("q35", "seed-style")}


class Liar:
    """A recorded QEMU, some of whose replies are others. Whatever else it is asked, it says the same word."""

    def __init__(self, name: str, replies: Mapping[str, object], otherwise: object = None) -> None:
        self.recording = RECORDED[name]
        self.version = self.recording.version
        self._replies, self._otherwise = replies, otherwise

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, deadline: float = 10.0
    ) -> Any:  # noqa: ANN401 - JSON
        del deadline
        if command in self._replies:
            return self._replies[command]
        try:
            return await self.recording.execute(command, arguments)
        except KeyError:
            if self._otherwise is None:
                message = f"refused `{command}`"
                raise MonitorCommandError(message) from None
            return self._otherwise


@st.composite
def liars(draw: st.DrawFn) -> Liar:
    """Make a QEMU that lies in one to three of its answers."""
    name = draw(st.sampled_from(sorted(RECORDED)))
    said = {key.partition(" ")[0]: value.get("return") for key, value in RECORDED[name]._said.items()}
    commands_ = draw(st.lists(st.sampled_from(sorted(said)), min_size=1, max_size=3))
    return Liar(name, {command: draw(changed(said[command]) | JSON) for command in commands_}, draw(JSON))


async def read_facts(liar: Liar) -> None:
    """Describe the guest, as preflight does."""
    facts = await guest_facts("web1", liar, liar.recording.process)
    assert facts.memory >= 0 or facts.memory < 0
    json.dumps([facts.blockers, facts.refusals, facts.launch.argv])


async def read_parts(liar: Liar) -> None:
    """Read everything else that QEMU is asked for, each by itself."""
    copy = DiskCopy("drive0", ImageFacts("/x.qcow2", "qcow2", 1, 1), "godwit-0", DiskMode.FULL, stamp="h-1")
    readers = (
        *(lambda: probe(liar), lambda: balloon.read(liar), lambda: balloon.left(liar), lambda: vcpu_threads(liar)),
        *(lambda: mirrors.views(liar, [copy]), lambda: mirrors.nodes_of(liar), lambda: handover.hindrances(liar)),
        *(lambda: stamps.forget_all(liar), lambda: _graph(liar), lambda: ramblocks.areas(_human(liar))),
    )
    for reader in readers:
        with suppress(GodwitError):
            await reader()


def _human(liar: Liar) -> Any:  # noqa: ANN401 - a closure
    async def human(line: str) -> str:
        return str(await liar.execute("human-monitor-command", {"command-line": line}))

    return human


async def _graph(liar: Liar) -> None:
    graph = await read_graph(liar)
    for name in list(graph.nodes):
        try:
            blockdev_options(graph, name, set())
        except UnknownNodeError:
            continue


STATUS: Final = {"status": "running", "running": True}
MIGRATION: Final = {
    "status": "active",
    "total-time": 10,
    "downtime": 2,
    "setup-time": 1,
    "expected-downtime": 5,
    "cpu-throttle-percentage": 20,
    "error-desc": "x",
    "blocked-reasons": ["y"],
    "ram": {
        **dict.fromkeys(("transferred", "remaining", "total", "dirty-pages-rate", "page-size"), 1),
        "mbps": 1.5,
        "dirty-sync-count": 2,
    },
}
EVENTS: Final = (
    {"event": "MIGRATION", "data": {"status": "completed"}},
    {"event": "MIGRATION_PASS", "data": {"pass": 2}},
    {"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-shutdown"}},
    {"event": "BLOCK_JOB_COMPLETED", "data": {"device": "d", "len": 2, "offset": 1, "speed": 0, "type": "mirror"}},
    {"event": "BLOCK_JOB_ERROR", "data": {"device": "d", "operation": "write", "action": "report"}},
)
SNAPSHOT: Final = {"snapshots": [{"name": "t", "id": "1", "date-sec": 1, "date-nsec": 2, "vm-state-size": 3}]}


def read_views(value: tuple[Any, Any]) -> None:
    """Read the two answers by which a stream is followed."""
    status, migration = as_object(value[0], "query-status"), as_object(value[1], "query-migrate")
    view = make_view(status, migration)
    assert isinstance(view.raw, str)
    sample = make_sample(migration, 1.0)
    assert sample is None or sample.iteration >= 1
    make_result(migration)
    list(entries(migration))


def read_event(value: Any) -> None:  # noqa: ANN401 - JSON
    """Read one event."""
    message = as_object(value, "event")
    make_event(MonitorEvent(str(message.get("event")), inner(message, "data"), 1.0))


GREETING: Final = {"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}}, "capabilities": ["oob"]}}
STAMPED: Final = {"event": "STOP", "timestamp": {"seconds": 1700000000, "microseconds": 250000}, "data": {}}
SPOKEN: Final = (GREETING, {"return": {}, "id": "__qmp#00000"}, {"return": STATUS}, STAMPED, {"error": {"desc": "x"}})


@contextmanager
def peer_says(data: bytes) -> Iterator[socket.socket]:
    """Give a connection to somebody who has said this, and has gone."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        theirs.setblocking(False)  # noqa: FBT003 - socket's own signature
        sent = theirs.send(data[: 1 << 19]) if data else 0
        assert sent == len(data[: 1 << 19])
        theirs.shutdown(socket.SHUT_WR)
        yield ours


async def speak(data: bytes) -> None:
    """Open a monitor, ask something, and listen, over a real connection."""
    with peer_says(data) as connection:
        monitor = await Monitor.open(connection.dup(), where="web1", deadline=0.5)
        events = monitor.events()
        try:
            await monitor.execute("query-status", deadline=0.5)
        finally:
            await monitor.close()
            seen = [event async for event in events]
            assert seen[-1].name == LOST


async def ask_agent(value: tuple[bool, bytes]) -> None:
    """Ask a guest's agent to switch it off, or to trim."""
    trims, data = value
    with patch("godwit.qemu.agent.secrets.randbits", return_value=5), peer_says(data) as connection:
        await (agent.trim if trims else agent.power_off)(connection.dup())


AGENT: Final[tuple[Any, ...]] = (
    {"return": 5},
    {"return": {}},
    {"error": {"class": "GenericError", "desc": "x"}},
    {"return": {"paths": [{"path": "/", "trimmed": 1, "minimum": 0}, {"path": "/x", "error": "no"}]}},
)
ARGV: Final = tuple(recording.process.argv for recording in RECORDED.values())
OPTIONS: Final = st.sampled_from(
    (
        *(
            "-device",
            "-drive",
            "-blockdev",
            "-netdev",
            "-qmp",
            "-mon",
            "-chardev",
            "-name",
            "-vnc",
            "-display",
            "-machine",
        ),
        *(
            "-object",
            "-nic",
            "-net",
            "-cdrom",
            "-hda",
            "-accel",
            "-m",
            "-S",
            "-incoming",
            "--nographic",
            "-set",
            "-spice",
        ),
        *("-global", "-pflash", "-virtfs", "-fsdev", "-smbios", "-acpitable", "-daemonize", "-snapshot", "-readconfig"),
        *("json:{", '{"driver":"x"}', '{"a":{"b":1}}', "unix:x,server", "tap,id=n,script=no", ":1,to=9", "vnc=:5"),
        *(
            "if=pflash,file=x",
            "driver=qcow2,file.filename=y",
            "type=q35,accel=kvm:tcg",
            "guest=a,,b",
            "socket,id=c,path=p",
        ),
    )
)


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[str, ...]:
    """Make the command line of a process: a QEMU's own, changed, or words."""
    words = list(draw(st.sampled_from((*ARGV, ("qemu",)))))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(words)))
        words[place : place + draw(st.integers(0, 2))] = draw(
            st.lists(OPTIONS | TEXTS | bent(words or [""]), max_size=3)
        )
    return tuple(words)


async def read_command_line(argv: tuple[str, ...]) -> None:
    """Read back whatever a process in /proc calls its command line."""
    liar = Liar("q35", {})
    process = replace(liar.recording.process, argv=argv)
    facts = await guest_facts("web1", liar, process)
    vnc_ports_safe(facts.launch)
    incoming_argv(facts.launch)
    agent.channel_of(process)
    for read in (parse, lambda words: list(qmp_sockets(process, parse(words)))):
        try:
            read(argv)
        except CommandLineError:
            continue


def vnc_ports_safe(launch: Any) -> None:  # noqa: ANN401 - a Launch
    """Read the ports and disks of a launch as callers do."""
    for read in (vnc_ports, lambda one: move_vnc(one, frozenset({5900})), disks_of, lambda one: guest_name(one.argv)):
        try:
            read(launch)
        except CommandLineError:
            continue


def read_lines(value: tuple[str, str]) -> None:
    """Read a line that somebody types at the monitor, and what QEMU prints."""
    line, said = value
    wrong = commands.untypeable(line)
    if wrong is not None:
        assert wrong.isascii()
        return
    _, rest = arguments.split_name(line)
    for command in commands.OWN.values():
        try:
            arguments.parse_arguments(command.name, command.arguments, rest)
        except BadArgumentsError:
            continue
    commands.whole_help(said)
    commands.names_in(said)
    for read in (
        commands.disk_percent,
        commands.copying,
        commands.bandwidth_in,
        commands.received,
        commands.is_refusal,
    ):
        read(said)
    parse_network(said)
    ramblocks.blocks_of(said)


PRINTED: Final = (
    "migrate [-d] [-r] uri -- migrate to URI\r\nquit|q  -- quit the emulator\r\n",
    "transferred disk: 3 kbytes\r\nremaining disk: 1 kbytes\r\ntotal disk: 4 kbytes\r\n",
    "Type mirror, device godwit-disk0: Completed 5 of 10 bytes, speed limit 0 bytes/s\r\n",
    "max-bandwidth: 134217728 bytes/second\r\n",
    "hub 0\r\n \\ hub0port0: u: index=0,type=user\r\nn0: index=0,type=nic,model=virtio,macaddr=52:54:00:12:34:56\r\n",
    *(
        (
            "              Block Name    PSize              Offset               Used              Total                HVA\r\n"
            "                  pc.ram    4 KiB  0x0000000000000000 0x0000000010000000 0x0000000010000000 0x00007f0000000000\r\n"
        ),
    ),
)
TYPED: Final = ("migrate -d -b tcp:h2:4444", "migrate_set_speed 1.5g", 'migrate "exec:cat"', "info migrate", "x/4x 0")


def _after(head: bytes, rest: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return rest.map(lambda data: head + data)


READERS: Final = {
    "facts": (liars(), read_facts),
    "parts": (liars(), read_parts),
    "views": (st.tuples(changed(STATUS), changed(MIGRATION) | changed(SNAPSHOT)), read_views),
    "event": (st.sampled_from(EVENTS).flatmap(changed), read_event),
    "wire": (
        st.builds(
            lambda head, rest: packed(head) + b"\r\n" + rest,
            st.just(GREETING) | changed(GREETING),
            lines(st.sampled_from(SPOKEN).flatmap(changed).map(packed) | bent_bytes([packed(one) for one in SPOKEN])),
        ),
        speak,
    ),
    "agent": (
        st.tuples(
            st.booleans(),
            (st.just(b'{"return": 5}\n') | st.just(b"")).flatmap(
                lambda head: _after(
                    head,
                    lines(
                        st.sampled_from(AGENT).flatmap(changed).map(packed) | bent_bytes([packed(one) for one in AGENT])
                    ),
                )
            ),
        ),
        ask_agent,
    ),
    "command-line": (command_lines(), read_command_line),
    "lines": (st.tuples(bent(TYPED), bent(PRINTED)), read_lines),
}
