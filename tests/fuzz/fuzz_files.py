"""Files that somebody hands over, and the journal as another may have written it."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from fuzz_inputs import JSON, TEXTS, bent, bent_bytes, changed
from hypothesis import strategies as st

from godwit.cli.policies import Typed, policy_of
from godwit.cli.progress import Progress, advance, completed, disk_figures, eta_words, figures, standstill
from godwit.cli.reporting import _data
from godwit.cli.screens import lines_of
from godwit.cli.summary import summary
from godwit.core.savefile import DiskState, Header, Seal, decode_header, decode_seal, encode_header, encode_seal
from godwit.core.saves import SEAL_AT, STREAM_AT, Job, Way, Work
from godwit.core.sending import SendRecord, SendStep
from godwit.core.state import Phase, State
from godwit.errors import error_of_code
from godwit.identifiers import is_name
from godwit.journal import codec
from godwit.measure.narrative import sentence
from godwit.measure.report import render_html
from godwit.measure.story import decisions, findings, journal_rows, passes, phases, settings
from godwit.model import HostRecord, Launch, LinkSaid, Outcome, OutcomeStatus, Owner, Profile, Spec, Tap, Vm
from godwit.plaintext import from_json
from godwit.ports import Entry, MigrationRow
from godwit.qemu.define import load_definition
from godwit.qemu.vmline import to_vm

DEFINITION: Final = """\
name = "web1"
memory = "512M"
vcpus = 2
machine = "q35"
cpu = "max"
kernel = "/boot/k"
initrd = "/boot/i"
append = "console=ttyS0"
vnc = "127.0.0.1:1"
address = "192.0.2.9"
hotplug_ports = 2
extra_arguments = ["-device", "virtio-rng-pci"]
[[disks]]
path = "/d/web1.qcow2"
format = "qcow2"
cache = "none"
[[nics]]
bridge = "br0"
mac = "52:54:00:12:34:56"
"""
POLICY: Final = """\
goal = "seamless"
max_downtime = "30ms"
deadline = "10min"
bandwidth = "400mbit"
max_guest_slowdown = "50%"
allow = ["throttle", "postcopy"]
forbid = ["balloon"]
"""
VM: Final = Vm("web1", "h1", Launch(("qemu", "-m", "1"), "/", ("/run/w",), (Tap("t", "b"),)), "/run/w/c", "/run/w/o")
LENGTH: Final = STREAM_AT + 5
HEADER: Final = Header(
    "web1-s1", VM, "pc-q35-10.0", (10, 0, 2), "kvm", 1 << 29, Way.MAPPED, running=True, saved_at=1.5, length=LENGTH,
    disks=(DiskState("/d/web1.qcow2", 5, 6),),
)  # fmt: skip
SEAL: Final = Seal("web1-s1", ("0" * 64,), (("/d/web1.qcow2", "5 a"),))


def read_definition(text: str) -> None:
    """Read a definition, and make the guest of it."""
    definition = load_definition(text, "web1.toml")
    assert is_name(definition.name)
    vm = to_vm(definition, host="h1", machine="pc-q35-10.0", accelerator="tcg", source_text=text)
    paths = (*vm.launch.folders, vm.control, vm.observe or "", vm.console or "", vm.pidfile or "", vm.log or "")
    for path in paths:
        assert path.startswith("/run/godwit/")
        assert ".." not in path
    assert not [word for word in vm.launch.argv if "\0" in word]


def read_policy(text: str) -> None:
    """Read a policy of somebody's own."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        path = Path(folder) / "own.toml"
        path.write_bytes(text.encode(errors="surrogateescape" if "\udc9b" in text else "replace"))
        policy = policy_of(Typed(str(path)))
    assert policy.max_downtime > 0


def _framed(word: bytes, body: bytes, length: int) -> bytes:
    digest = hashlib.sha256(body).hexdigest().encode()
    return (b"%s 1 %d %s\n%s\n" % (word, len(body), digest, body))[:length].ljust(length, b"\0")


@st.composite
def saves(draw: st.DrawFn) -> tuple[bytes, int]:
    """Make the beginning of a save: damaged, or whole and with another content."""
    header, seal = encode_header(HEADER), encode_seal(SEAL)
    if draw(st.booleans()):
        head = draw(st.just(header) | bent_bytes([header])).ljust(SEAL_AT, b"\0")[:SEAL_AT]
        tail = draw(st.just(seal) | bent_bytes([seal])).ljust(SEAL_AT, b"\0")[:SEAL_AT]
        return head + tail, draw(st.just(LENGTH) | st.integers(-1, 1 << 40))
    contents = (json.loads(one.split(b"\n", 1)[1]) for one in (header, seal))
    bodies = [json.dumps(draw(changed(content))).encode() for content in contents]
    return _framed(b"GODWIT-SAVE", bodies[0], SEAL_AT) + _framed(b"GODWIT-SEAL", bodies[1], SEAL_AT), LENGTH


def read_save(value: tuple[bytes, int]) -> None:
    """Read what stands in front of a saved guest."""
    head, length = value
    header = decode_header(head, length, "/s")
    assert header.length == length
    assert header.vm.launch.argv[0]
    assert header.vm.control.startswith("/")
    decode_seal(head, header, "/s")


SPEC: Final = Spec("web1-00000001", "web1", "h1", "h2")
ROW: Final = MigrationRow(
    SPEC, 1.0, Phase.DONE, 1, Outcome(SPEC.id, "web1", "h1", "h2", OutcomeStatus.COMPLETED, Owner.TARGET, 2.0)
)
KEPT: Final = (
    *(
        SPEC,
        State(),
        ROW.outcome,
        VM,
        HostRecord("h1", "ssh://root@h1"),
        Job("web1-s1", Work.SAVE, "web1", "h1", "/s", 1.0),
    ),
    *(Profile("web1", "h1", 1.0, 5, ()), LinkSaid(("h1", "h2"), 5.0, 1.0)),
    SendRecord("i", "web1", "t", "h1", "h2", SendStep.SAVING, VM.launch, running=True, made=True),
)


def _texts(value: object) -> st.SearchStrategy[tuple[Any, str]]:
    text = codec.dump(value)
    document = json.loads(text)
    return st.tuples(st.just(type(value)), changed(document).map(json.dumps) | bent([text]))


def read_kept(value: tuple[Any, str]) -> None:
    """Read a value of the journal's; one that is read can be written again."""
    kind, text = value
    found = codec.load(kind, text)
    codec.dump(found)
    if isinstance(found, Outcome):
        summary(found)
    if isinstance(found, Job):
        error_of_code(found.code, found.error, found.remedy)


EVENTS: Final[tuple[tuple[str, dict[str, object]], ...]] = (
    ("transition", {"event": "Decided", "phase": "precopy", "detail": {"reason": "r", "evidence": "e", "parameters": {"a": 1}}}),
    ("transition", {"event": "Observed", "phase": "precopy", "owner": "source", "detail": {"source": {"state": "running"}}}),
    ("transition", {"event": "StepFailed", "phase": "failed", "detail": {"step": "Check", "message": "m", "remedy": "r"}}),
    ("transition", {"event": "Verified", "phase": "done", "detail": {"alive": True, "detail": "d"}}),
    ("transition", {"event": "SourceStopped", "phase": "switchover", "owner": "source", "detail": {"at": 1.5}}),
    ("sample", {"at": 1.0, "iteration": 2, "transferred": 5, "remaining": 6, "total": 9, "rate": 1.5, "dirty_rate": 2.5, "eta": [1.0, 2.0]}),
    ("mirror", {"name": "d0", "done": 5, "needed": 9, "memory": 4, "ready": False}),
    ("finding", {"code": "c", "severity": "warn", "subject": "s", "found": "f", "why": "w", "mend": "m"}),
    ("forecast", {"text": "t", "why": "w", "ends": True, "downtime": [0.1, 0.2], "seconds": [1.0, 2.0]}),
    ("mark", {"name": "source_stopped", "at": 1.0, "host_time": 1.0}),
    ("note", {"text": "t"}),
    ("allocation", {"disk": "d0", "before": 1, "after": 2}),
    ("series", {
        "version": 1, "kind": "tcp", "method": "m", "address": "a", "interval_s": 0.002, "started_s": 1.0, "ended_s": 2.0,
        "reconnects": 0, "skipped": 0, "vantage": "", "scheduling": "normal", "clock_offset_s": 0.0,
        "clock_uncertainty_s": 0.0, "errors": {}, "notes": [], "sent_step_us": [0, 2000], "rtt_us": [500, -1], "lag_us": [1, 2],
    }),
)  # fmt: skip


@st.composite
def stories(draw: st.DrawFn) -> list[Entry]:
    """Make a journal of some lines, of which one or more are not as Godwit writes them."""
    entries = []
    for number in range(draw(st.integers(1, 6))):
        kind, data = draw(st.sampled_from(EVENTS))
        if draw(st.integers(0, 2)):
            found = draw(changed(data))
            data = found if isinstance(found, dict) else {}
        if draw(st.integers(0, 9)) == 0:
            kind = draw(TEXTS)
        entries.append(Entry(number + 1, 1.0 + number, kind, data))
    return entries


def read_story(entries: list[Entry]) -> None:
    """Tell a story, follow it, and sum it up."""
    progress = Progress()
    for entry in entries:
        told = sentence(entry)
        if told is not None:
            lines_of(told)
        progress = advance(progress, entry)
        assert 0 <= progress.percent <= 100
    if progress.reading is not None:
        eta_words(progress.reading)
        figures(progress.reading)
    disk_figures(progress)
    completed(progress)
    standstill(progress, 2.0)
    for read in (passes, decisions, findings, journal_rows):
        read(entries)
    phases(ROW, entries)
    settings(ROW)


def read_page(entries: list[Entry]) -> None:
    """Write the report of a story."""
    page = render_html(_data(replace(ROW, created=1.0), entries))
    assert "<script" not in page


def read_line(text: str) -> None:
    """Read a line of the journal's."""
    codec.decode(text)


def read_any_json(text: str) -> None:
    """Read JSON from nobody knows where."""
    try:
        json.dumps(from_json(text), allow_nan=False)
    except ValueError:
        return


READERS: Final = {
    "definition": (bent([DEFINITION]), read_definition),
    "policy": (bent([POLICY]), read_policy),
    "save": (saves(), read_save),
    "kept": (st.sampled_from(KEPT).flatmap(_texts), read_kept),
    "line": (
        bent(['{"a":{"b":[1,2.5,"x",null]}}', "[" * 2000]) | JSON.map(json.dumps),
        read_line,
    ),
    "story": (stories(), read_story),
    "page": (stories(), read_page),
    "json": (bent(['{"a":{"b":[1,2.5,"x",null]}}', "[" * 2000, "1" * 50]), read_any_json),
}
