"""Values that the journals' tests write, and the strategies that make any State."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from godwit.core.state import Door, Failure, Held, Phase, Resolution, State
from godwit.model import (
    DevicePolicy,
    DirectDevice,
    DiskCopy,
    Downtime,
    Finding,
    HostRecord,
    ImageFacts,
    Launch,
    Outcome,
    OutcomeStatus,
    Owner,
    Severity,
    Side,
    Spec,
    Tap,
    Vm,
)
from godwit.ports import Entry

PRECOPY = State(phase=Phase.PRECOPY, held=frozenset({Held.STREAM, Held.TARGET}), uri="tcp:198.18.0.2:4444")
ARMED = replace(PRECOPY, phase=Phase.SWITCHOVER, door=Door.ARMED)
FAILED = State(phase=Phase.FAILED, failure=Failure("stalled", "not a byte was sent", "look at the link"))

VM = Vm(
    "web1",
    "alpha",
    Launch(("qemu-system-x86_64", "-name", "a 'quoted' name"), "/srv", ("/run/web1",), (Tap("tap0", "br0"),)),
    control="/run/web1/control",
    observe="/run/web1/observe",
    address="198.18.0.9",
    source_text='name = "web1"\n',
)
HOST = HostRecord("alpha", "ssh://root@198.18.0.1:2222", "/keys/id", "/keys/known_hosts", use_agent=False)


def spec(identifier: str = "web1-1", vm: str = "web1") -> Spec:
    return Spec(identifier, vm, "alpha", "beta")


def entry(at: float = 1.0, **data: object) -> Entry:
    return Entry(0, at, "transition", data)


def outcome(identifier: str = "web1-1") -> Outcome:
    return Outcome(
        id=identifier,
        vm="web1",
        source="alpha",
        target="beta",
        status=OutcomeStatus.COMPLETED,
        owner=Owner.TARGET,
        total_s=4.5,
        bytes=7_000_000_000,
        downtime=Downtime(qemu_ms=3.0, blackout_ms=11.25, breakdown=(("decide to continue", 0.4),)),
        guest_alive=True,
        findings=(Finding("send-queue", Severity.WARN, "alpha", "may not be set", "longer blackout"),),
    )


# Text as it comes from hosts and users: anything that UTF-8 can carry.
_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)

_images = st.builds(
    ImageFacts,
    path=_text,
    format=st.sampled_from(["raw", "qcow2"]),
    virtual_size=st.integers(0, 1 << 50),
    allocated=st.integers(0, 1 << 50),
    options=st.lists(st.tuples(_text, _text), max_size=2).map(tuple),
)
states = st.builds(
    State,
    disks_uri=_text,
    copies=st.lists(st.builds(DiskCopy, name=_text, image=_images, job=_text), max_size=2).map(tuple),
    mirrored=st.booleans(),
    phase=st.sampled_from(Phase),
    owner=st.sampled_from(Owner),
    door=st.sampled_from(Door),
    held=st.frozensets(st.sampled_from(Held)),
    uri=_text,
    prepared=st.frozensets(st.sampled_from([side.value for side in Side])),
    ended=st.frozensets(st.sampled_from([side.value for side in Side])),
    tried=st.frozensets(st.sampled_from(Held)),
    duties=st.frozensets(st.sampled_from(["Verify", "RemoveSource", "RestoreSendQueue"])),
    cancel_requested=st.booleans(),
    failure=st.none() | st.builds(Failure, code=_text, message=_text, remedy=_text),
    alive=st.none() | st.booleans(),
    leftovers=st.lists(_text, max_size=3).map(tuple),
    balloon=st.integers(0, 1 << 40),
    devices=st.lists(
        st.builds(DirectDevice, _text, st.sampled_from(DevicePolicy), _text, _text, _text, _text, st.integers(0, 4094)),
        max_size=2,
    ).map(tuple),
    resolution=st.none() | st.builds(Resolution, st.sampled_from(Side), _text, st.booleans()),
)
