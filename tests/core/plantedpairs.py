"""Pairs of hosts with a guest, made from what a real host answered: sound ones, and each with one thing amiss.

What a host says is planted in its answers as text, what a guest needs in its command line, and both are read by the
code that reads them from real ones. Only what comes of looking at both hosts at once (disks, the way between them) is
planted as it is found.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from godwit.core.preflight.evidence import DiskProof, Evidence
from godwit.hosts.factsparse import Clock, split_sections
from godwit.hosts.hostfacts import Identity, read_facts
from godwit.model import (
    CertificateFacts,
    DiskFacts,
    GuestFacts,
    GuestView,
    HostFacts,
    ImageFacts,
    Launch,
    NicFacts,
    PlaceFacts,
    Policy,
    RunState,
    Tap,
    Vm,
)
from godwit.qemu.needs import guest_needs
from godwit.qemu.qom import NetworkClient
from godwit.qemu.unplugging import direct_devices
from godwit.units import GIB

RECORDED = Path(__file__).parents[1] / "hosts" / "recorded" / "facts-qemu-10.0.txt"
DISK = "/mnt/images/rhel7.img"
QEMU = "qemu-system-x86_64"
NOW = 1_800_000_000.0
DAY = 86_400.0


def storage(*rows: tuple[str, str, str]) -> str:
    """Return what findmnt says of mounts: where, what, which kind."""
    names = ("target", "source", "fstype")
    return json.dumps({"filesystems": [dict(zip(names, row, strict=True)) | {"size": 9, "avail": 9} for row in rows]})


def models(**lacks: list[str]) -> str:
    """Return what QEMU says of CPU models, by what each lacks; `_` stands for `-`."""
    rows = [{"name": name.replace("_", "-"), "unavailable-features": flags} for name, flags in lacks.items()]
    return json.dumps({"return": rows})


SHARED = storage(("/", "/dev/vda1", "ext4"), ("/mnt/images", "filer:/rw-images", "nfs4"))
KVM_MODELS = models(Broadwell=[], Skylake_Client=["mpx"], qemu64=[], EPYC=["sse4a"])
ANSWERS = split_sections(RECORDED.read_text(encoding="utf-8")) | {
    "storage": SHARED,
    "kvm": "works",
    "kvm-models": KVM_MODELS,
}
PROOF = DiskProof("disk0", DISK, read_only=False, token_seen=True, source_identity="1 7", target_identity="1 7")
IMAGE = ImageFacts(DISK, "raw", 10 * GIB, GIB)
ROOM = PlaceFacts(exists=False, writable=True, available=20 * GIB, can_create=True)


@dataclass(frozen=True)
class Pair:
    """Two hosts' answers, a guest on the first, and what was found by looking at both."""

    here: dict[str, str] = field(default_factory=lambda: dict(ANSWERS))
    there: dict[str, str] = field(
        default_factory=lambda: ANSWERS | {"hostname": "host2", "machine-id": "fedcba9876543210fedcba9876543210"}
    )
    clocks: tuple[Clock, Clock] = (Clock(0.0, 0.01), Clock(0.0, 0.01))
    arguments: tuple[str, ...] = ("-name", "guest=web1", "-M", "pc-q35-10.0", "-cpu", "Broadwell", "-m", "2G")
    clients: tuple[NetworkClient, ...] = ()
    program: str = QEMU
    guest: dict[str, object] = field(default_factory=dict)
    found: dict[str, object] = field(default_factory=dict)
    upgrade: bool = False

    def evidence(self) -> Evidence:
        """Read all of it, as it is read from real hosts."""
        here = read_facts(self.here, self.clocks[0], Identity("host1", ""), "198.18.0.11", None)
        there = read_facts(self.there, self.clocks[1], Identity("host2", ""), "198.18.0.12", None)
        evidence = Evidence(
            vm=Vm("web1", "host1", Launch((self.program,)), "/run/web1.qmp"),
            policy=Policy(),
            guest=self._guest(here),
            source=here,
            target=there,
            on_target=GuestView(RunState.ABSENT),
            disks=(PROOF,),
            reachable=True,
            now=NOW,
        )
        return replace(evidence, **self.found)  # type: ignore[arg-type]

    def _guest(self, here: HostFacts) -> GuestFacts:
        launch = Launch((self.program, *self.arguments))
        needs = guest_needs(launch, {client.name: client for client in self.clients}, 2 * GIB)
        facts = GuestFacts(
            vm="web1",
            run_state=RunState.RUNNING,
            qemu_version=here.qemu.version if here.qemu else (10, 0, 2),
            machine="pc-q35-10.0",
            accelerator="kvm",
            cpu_model=self.arguments[self.arguments.index("-cpu") + 1],
            memory=2 * GIB,
            vcpus=2,
            disks=(DiskFacts("disk0", DISK, "raw", read_only=False, virtual_size=10 * GIB, direct=True),),
            nics=(NicFacts("net0", "52:54:00:00:00:01", Tap("tap0", "br0")),),
            launch=launch,
            pid=77,
            needs=needs,
            direct=direct_devices(launch),
        )
        known = {name: value for name, value in self.guest.items() if not name.startswith("needs_")}
        more = {name.removeprefix("needs_"): value for name, value in self.guest.items() if name.startswith("needs_")}
        return replace(facts, needs=replace(needs, **more), **known)  # type: ignore[arg-type]


Plant = Callable[[Pair], Pair]


def there(**answers: str) -> Plant:
    """Let the target answer something else; `_` stands for `-` in a section's name."""
    return lambda pair: replace(pair, there=pair.there | _sections(answers))


def here(**answers: str) -> Plant:
    """The same for the source."""
    return lambda pair: replace(pair, here=pair.here | _sections(answers))


def on_both(**answers: str) -> Plant:
    """The same for both hosts."""
    return then(here(**answers), there(**answers))


def _sections(answers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): text for name, text in answers.items()}


def said(section: str, old: str, new: str, *, source: bool = False) -> Plant:
    """Let the target (or the source) say `new` where it says `old`."""

    def plant(pair: Pair) -> Pair:
        answers = pair.here if source else pair.there
        assert old in answers[section], f"{old!r} is not in {section}"
        changed = answers | {section: answers[section].replace(old, new)}
        return replace(pair, here=changed) if source else replace(pair, there=changed)

    return plant


def flags(*lost: str, source: bool = False) -> Plant:
    """Let a host's processor lack flags."""
    return then(*(said("cpuinfo", f" {flag} ", " ", source=source) for flag in lost))


def version(number: str, *, source: bool = False) -> Plant:
    """Let a host have a QEMU of another version."""
    return said("version", "10.0.2", number, source=source)


def bridge(*, source: bool = False, plugged: int = 0, **changes: object) -> Plant:
    """Let a host's bridge br0 be another; `plugged` is the VLAN of an interface in it."""

    def plant(pair: Pair) -> Pair:
        answers = pair.here if source else pair.there
        links = json.loads(answers["links"])
        for link in links:
            if link["ifname"] == "br0":
                data = link["linkinfo"].setdefault("info_data", {})
                (data if "vlan_filtering" in changes else link).update(changes)
        if plugged:
            info = {"info_kind": "vlan", "info_data": {"id": plugged}}
            links.append({"ifname": f"eth0.{plugged}", "mtu": 1500, "master": "br0", "linkinfo": info})
        changed = answers | {"links": json.dumps(links)}
        return replace(pair, here=changed) if source else replace(pair, there=changed)

    return plant


def parent(*, source: bool = False, upon: str = "", address: str = "", **changes: object) -> Plant:
    """Give a host an interface eth0; `upon` is the mode of somebody's macvtap on it, `address` the host's own there."""

    def plant(pair: Pair) -> Pair:
        answers = pair.here if source else pair.there
        eth0 = {"ifname": "eth0", "mtu": 1500, "flags": ["UP"], "link_type": "ether", **changes}
        links = [*json.loads(answers["links"]), eth0]
        if upon:
            info = {"info_kind": "macvtap", "info_data": {"mode": upon}}
            links.append({"ifname": "macvtap0", "mtu": 1500, "link": "eth0", "link_type": "ether", "linkinfo": info})
        changed = answers | {"links": json.dumps(links)}
        if address:
            row = {"ifname": "eth0", "addr_info": [{"family": "inet", "local": address}]}
            changed |= {"addresses": json.dumps([row])}
        return replace(pair, here=changed) if source else replace(pair, there=changed)

    return plant


def listens(*rows: str) -> Plant:
    """Let somebody listen on the target at these addresses with their ports."""
    return there(listening="\n".join(f"LISTEN 0 128 {row} 0.0.0.0:*" for row in rows))


def arguments(*words: str) -> Plant:
    """Start the guest with more on its command line."""
    return lambda pair: replace(pair, arguments=(*pair.arguments, *words))


def cpu(model: str) -> Plant:
    """Start the guest with another CPU model."""

    def plant(pair: Pair) -> Pair:
        words = list(pair.arguments)
        words[words.index("-cpu") + 1] = model
        return replace(pair, arguments=tuple(words))

    return plant


def guest(**changes: object) -> Plant:
    """Let the guest's QEMU say something else; what begins with `needs_` is of its process."""
    return lambda pair: replace(pair, guest=pair.guest | changes)


def with_client(name: str, kind: str) -> Plant:
    """Let the guest's network have one more client."""
    return lambda pair: replace(pair, clients=(*pair.clients, NetworkClient(name, kind)))


def found(**changes: object) -> Plant:
    """Let something else come of looking at both hosts."""
    return lambda pair: replace(pair, found=pair.found | changes)


def disk(**changes: object) -> Plant:
    """Let something else come of the proof of the guest's disk."""
    return found(disks=(replace(PROOF, **changes),))  # type: ignore[arg-type]


def away(**changes: object) -> Plant:
    """Let the target not have the guest's disk, so that it would be copied."""
    return disk(**{"token_seen": False, "target_identity": "", "image": IMAGE, "place": ROOM} | changes)


def policy(**changes: object) -> Plant:
    """Ask for another kind of move."""
    return found(policy=Policy(**changes))  # type: ignore[arg-type]


def ahead(seconds: float) -> Plant:
    """Let the target's clock be ahead."""
    return lambda pair: replace(pair, clocks=(pair.clocks[0], Clock(seconds, 0.01)))


def emulated(pair: Pair) -> Pair:
    """Let the guest run under emulation."""
    return guest(accelerator="tcg")(pair)


def encrypted(until: float = 300 * DAY, since: float = -DAY) -> Plant:
    """Let the move be encrypted, by an authority that holds so long."""
    return found(encrypted=True, authority=CertificateFacts("CN=godwit", (), NOW + since, NOW + until, "ab"))


def upgraded(pair: Pair) -> Pair:
    """Let it be an upgrade of the guest's QEMU on its own host."""
    return replace(pair, upgrade=True)


def then(*plants: Plant) -> Plant:
    """Plant one after the other."""

    def plant(pair: Pair) -> Pair:
        for one in plants:
            pair = one(pair)
        return pair

    return plant
