"""Hosts that lie, and probers at vantage points."""

from __future__ import annotations

import base64
import contextlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fuzz_inputs import bent, bent_bytes, changed, lines, packed
from fuzz_liar import LyingTransport
from hypothesis import strategies as st

from godwit.cli.hosts import print_facts
from godwit.core.snapshots import DiskSnapshots
from godwit.hosts.cputimes import cpu_times
from godwit.hosts.hostfacts import Identity
from godwit.hosts.memorysample import sample_memory
from godwit.hosts.plain import PlainHost
from godwit.measure.collect import Collector
from godwit.measure.gaps import client_view
from godwit.measure.series import ProbeSeries
from godwit.model import ImageFacts, Launch, Tap, Vm

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_RECORDED: Final = Path(__file__).parents[1] / "hosts" / "recorded"
FACTS: Final = (_RECORDED / "facts-qemu-10.0.txt").read_text()
SCANS: Final = tuple((_RECORDED / f"scan-{name}.txt").read_text() for name in ("none", "one", "three"))
VM: Final = Vm(
    "one",
    "h1",
    Launch(("qemu-system-x86_64", "-name", "one"), "/", ("/run/one",), (Tap("tap0", "br0"),)),
    control="/run/one.sock",
    pidfile="/run/one.pid",
    log="/run/one.log",
)
INFO: Final[dict[str, Any]] = {
    "format": "qcow2",
    "virtual-size": 1 << 30,
    "actual-size": 1 << 20,
    "cluster-size": 65536,
    "full-backing-filename": "/b.qcow2",
    "backing-filename-format": "qcow2",
    "snapshots": [{"name": "t", "id": "1", "date-sec": 1, "date-nsec": 2, "vm-clock-sec": 3, "vm-state-size": 4}],
    "format-specific": {
        "type": "qcow2",
        "data": {
            "compat": "1.1",
            "refcount-bits": 32,
            "compression-type": "zstd",
            "bitmaps": [{"name": "godwit-x", "flags": ["auto"], "granularity": 65536}],
        },
    },
}
SAMPLE: Final = dict.fromkeys(
    ("pages", "zero", "changed", "changes", "looked", "packed", "seconds", "again_looked", "again_packed"), 1
)
_SCREEN: Final = io.StringIO()
"""One for all: typer remembers every stream that it has written to."""

STAT: Final = "9 (qemu (x) y) S 1 9 9 0 -1 4 0 0 0 0 12 13 0 0 20 0 3 0 2776 1425 5036\n"
SAID: Final = (
    *(
        FACTS,
        *SCANS,
        "100\n" + STAT,
        STAT,
        json.dumps(SAMPLE),
        f"image\n{json.dumps(INFO)}\n",
        "1700000000.123456789\n",
    ),
    *("started 7\n", "died 1\nqemu: x\n", "silent 9\n", "refused 7 no\n", "remains 7 D\n", "planted\n", "busy /x\n"),
    *("identity 9:9\ntoken abc\n", "exists\nfolder\navailable 5\nqemu-img\nlimit 7\n", "created\n", "claimed\n"),
    *(
        "vm one\nstamp h\nunchanged yes\n",
        "begun\n",
        "length 9\ndisk 1 2.5\n",
        "complete\n",
        "length 1048577\nGODWIT-SAVE",
    ),
    *("  sl  local_address\n   0: 0100007F:0016 00000000:0000 0A\n", "file|\n", "deleted\n", "done\n", "0\n", "12\n"),
    *("[]", '[{"ifname":"br0","mtu":1500,"master":"x","linkinfo":{"info_kind":"bridge"}}]', "taken\n", "ready 5\n"),
)


@st.composite
def answers(draw: st.DrawFn) -> list[tuple[int, bytes, bytes]]:
    """Make what a host answers to one command after another."""
    statuses = st.sampled_from((0, 0, 0, 1, 3, 127, -9))
    image = changed(INFO).map(lambda info: f"image\n{json.dumps(info)}\n".encode())
    sample = changed(SAMPLE).map(packed)
    said = bent(SAID).map(lambda text: text.encode(errors="surrogateescape" if _encodes(text) else "replace"))
    outputs = (
        said | st.sampled_from(SAID).map(str.encode) | image | sample | bent_bytes([one.encode() for one in SCANS])
    )
    return draw(
        st.lists(
            st.tuples(statuses, outputs | processes(), st.just(b"") | bent_bytes([b"sh: no\n"])), min_size=1, max_size=4
        )
    )


def _encodes(text: str) -> bool:
    return not any("\ud800" <= letter < "\udc80" or "\udcff" < letter <= "\udfff" for letter in text)


@st.composite
def processes(draw: st.DrawFn) -> bytes:
    """Make the lines of a scan about a process with any command line."""
    argv = draw(st.lists(bent(["qemu-system-x86_64", "-name", "one", "-qmp", "unix:/run/one.sock,server"]), max_size=6))
    words = base64.b64encode("\0".join(argv).encode(errors="surrogatepass")).decode()
    folder = base64.b64encode(draw(st.binary(max_size=9))).decode()
    stat = draw(bent([STAT.rstrip()])).encode(errors="replace").decode()
    return f"socket|11\nprocess|{draw(st.sampled_from(('9', '-1', 'x', '')))}|{stat}|{folder}|{words}\nend|\n".encode()


def _asks(host: PlainHost, transport: LyingTransport) -> list[Callable[[], Awaitable[Any]]]:
    """Return everything that a host is asked for."""
    image = ImageFacts("/x.qcow2", "qcow2", 1 << 30, 1, "/b", "qcow2", (("compat", "1.1"),))
    disk = DiskSnapshots("d", "/x.qcow2", "qcow2", read_only=False)
    return [
        *(host.facts, lambda: host.observe(VM), lambda: host.attach(VM), lambda: host.destroy(VM)),
        *(lambda: host.find_qemu("/run/one.sock"), lambda: host.waiting_at("tcp:0:4444"), host.free_port),
        *(lambda: host.prepare_launch(VM, VM.launch), lambda: host.launch(VM, VM.launch, incoming=True)),
        *(lambda: host.plant_token("/x", "t"), lambda: host.find_token("/x"), lambda: host.image("/x", "qcow2")),
        *(lambda: host.digest("/x", all_of_it=True), lambda: host.place("/x"), lambda: host.create_image(image, "o")),
        *(lambda: host.leave_image("/x", "qcow2", "v", "s"), lambda: host.older_copy("/x", "qcow2")),
        *(lambda: host.claim_image("/x", "o"), lambda: host.shorten_send_queue("l", 5), lambda: host.used("/x")),
        *(lambda: host.take_file("/x", "o", "192.0.2.1", 1, 5), lambda: host.end_transfer("o")),
        *(lambda: host.compare_image("/x", "raw", "nbd://x", size=5), lambda: host.served_head("nbd://x")),
        *(lambda: host.image_snapshots(disk), lambda: host.delete_image_snapshot("/x", "t"), lambda: host.resident(7)),
        *(lambda: host.saves.begin("/s", "/s.part", "zstd"), lambda: host.saves.program_ended("/s.part")),
        *(
            lambda: host.saves.measure("/s", ["/x"]),
            lambda: host.saves.disks(["/x", "/y"]),
            lambda: host.saves.head("/s"),
        ),
        *(lambda: host.saves.complete("/s", "/p", b"h"), lambda: host.saves.chunk_sum("/s", 1)),
        *(lambda: sample_memory(transport, 7, [(0, 4096)]), lambda: cpu_times(transport, [7])),
    ]


QUESTIONS: Final = len(_asks(PlainHost(Identity("h1", ""), LyingTransport([])), LyingTransport([])))


async def ask_host(value: tuple[int, list[tuple[int, bytes, bytes]]]) -> None:
    """Ask a host that lies for one thing."""
    number, said = value
    transport = LyingTransport(said)
    found = await _asks(PlainHost(Identity("h1", ""), transport), transport)[number]()
    json.dumps(repr(found))


async def ask_facts(text: str) -> None:
    """Ask a host that lies what it is, and show it."""
    clock = (0, b"1700000000.5", b"")
    facts = await PlainHost(
        Identity("h1", ""), LyingTransport([(0, text.encode(errors="replace"), b""), clock])
    ).facts()
    assert facts.cpu_count >= 1
    _SCREEN.seek(0)
    _SCREEN.truncate()
    with contextlib.redirect_stdout(_SCREEN) as shown:
        print_facts(facts)
    assert not [
        one for one in shown.getvalue() if not one.isprintable() and one not in "\n\t\u202f\u00a0" and one != " "
    ]


HEADER: Final = {
    "t": "header", "version": 1, "kind": "tcp", "method": "tcp-echo", "host": "192.0.2.1", "port": 7, "interval_us": 2000,
    "timeout_us": 1000000, "mono_us": 0, "real_ns": 1700000000000000000, "vantage": "h1", "scheduling": "fifo",
}  # fmt: skip
LINES: Final = (
    {"t": "ready", "mono_us": 5, "real_ns": 1700000000000005000},
    {"t": "rows", "rows": [[0, 0, 500.5, 1], [1, 2000, None, 2], [2, 4000, 400, None]]},
    {"t": "note", "text": "x"},
    {"t": "clock", "id": "1", "mono_us": 9, "real_ns": 1700000000000009000},
    {
        "t": "end",
        "reason": "eof",
        "mono_us": 9000,
        "asked_until_us": 8000,
        "errors": {"reset": 1},
        "reconnects": 1,
        "skipped": 0,
    },
)


def collect(data: bytes) -> None:
    """Take what a prober at a vantage point says, up to the first line that is none; sum it up, and keep it."""
    collector = Collector()
    for line in data.split(b"\n"):
        try:
            collector.feed(line)
        except ValueError:
            break
    if collector.header is not None:
        series = collector.series()
        view = client_view(series, series.started_s + 0.001, series.started_s + 0.002)
        assert view.lost <= view.sent == len(series.sent_s)
        ProbeSeries.from_json(json.loads(json.dumps(series.to_json())))


READERS: Final = {
    "answers": (st.tuples(st.integers(0, QUESTIONS - 1), answers()), ask_host),
    "facts": (bent([FACTS]), ask_facts),
    "prober": (
        st.builds(
            lambda head, rest: packed(head) + b"\n" + rest.replace(b"\r", b""),
            st.just(HEADER) | changed(HEADER),
            lines(st.sampled_from(LINES).flatmap(changed).map(packed) | st.sampled_from(LINES).map(packed)),
        ),
        collect,
    ),
}
