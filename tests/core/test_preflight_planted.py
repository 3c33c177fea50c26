"""Mismatches of processors, limits, networks, devices and caches: each planted, and a sound pair beside each."""

from __future__ import annotations

import ast
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_preflight import BLOCK, GOOD, QEMU, SAME_DISK, WARN, Change, both, disk, guest, source, target, whole

from godwit.core import preflight
from godwit.core.preflight import check, check_upgrade
from godwit.core.preflight.rows import ROWS, SUBJECTS
from godwit.model import (
    Bond,
    BondFacts,
    BridgeFacts,
    CpuModel,
    DeviceChoice,
    DevicePolicy,
    DirectFacts,
    DiskFacts,
    GuestNeeds,
    HostResources,
    HugeMemory,
    HugeMount,
    HugePages,
    Launch,
    ListenerFacts,
    Packets,
    PciFunction,
    Policy,
    Severity,
    StorageFacts,
    Trial,
    Way,
)
from godwit.model import TrialEnd as E
from godwit.units import GIB, MIB

INFO = Severity.INFO
I386 = Launch(("/usr/bin/qemu-system-i386",))


def needs(**changes: object) -> Change:
    return lambda e: replace(e, guest=replace(e.guest, needs=GuestNeeds(**changes)))  # type: ignore[arg-type]


def has(**changes: object) -> Change:
    """What the target has."""
    return target(resources=HostResources(**changes))  # type: ignore[arg-type]


def on_source(**changes: object) -> Change:
    return source(resources=HostResources(**changes))  # type: ignore[arg-type]


def models(*here: CpuModel, there: tuple[CpuModel, ...], model: str, accelerator: str = "tcg") -> Change:
    key = f"{accelerator}_models"
    return both(
        guest(cpu_model=model, accelerator=accelerator),
        source(qemu=replace(QEMU, **{key: here})),  # type: ignore[arg-type]
        target(qemu=replace(QEMU, **{key: there})),  # type: ignore[arg-type]
    )


def bond(kind: Bond, holds: str = "") -> Change:
    return needs(bonds=(BondFacts(kind, "dev0", holds),))


def bridge(**changes: object) -> Change:
    return target(bridges=(BridgeFacts("br0", 1500, up=True, **changes),))  # type: ignore[arg-type]


def cached(kind: str, *, direct: bool = False, path: str = "/images", read_only: bool = False) -> Change:
    """A disk on a file system of the target's."""
    facts = DiskFacts("disk0", "/images/web.raw", "raw", read_only=read_only, virtual_size=GIB, direct=direct)
    storage = (StorageFacts("/", "ext4", "/dev/vda1", 9, 9), StorageFacts(path, kind, "filer:/x", 9, 9))
    return both(guest(disks=(facts,)), target(storage=storage), disk(read_only=read_only))


def sized(there: Packets, back: Packets) -> Change:
    """What pings say of the way there, and of the way back."""
    return whole(packets=(there, back))


BLACK_HOLE = sized(Packets(1500, 1400), Packets(1500, 1400))


def tried(end: E, words: str = "") -> Change:
    return whole(trial=Trial(end, words, 49160))


def knows(*devices: str) -> Change:
    return target(qemu=replace(QEMU, devices=frozenset(devices)))


def upgraded(version: tuple[int, int, int]) -> Change:
    return target(qemu=replace(QEMU, version=version))


FLAGS = frozenset({"lm", "nx", "avx2"})
NARROW = both(source(architecture="i686"), guest(launch=I386))
BROADWELL, POORER = CpuModel("Broadwell", frozenset({"hle"})), CpuModel("Broadwell", frozenset({"hle", "avx2", "rtm"}))
SKYLAKE = CpuModel("Skylake-Client")
HUGE = HostResources(huge_mounts=(HugeMount("/dev/hugepages", 0),), huge_default=2 * MIB)
AT_HUGE = both(
    needs(file_memory=(HugeMemory("/dev/hugepages", 0, 2 * GIB),)),
    source(resources=HUGE),
)
ENOUGH = replace(HUGE, huge_pages=(HugePages(2 * MIB, 1024),))
MEMFD = needs(huge_memory=(HugeMemory("", GIB, 2 * GIB),))
VNC = needs(displays=(ListenerFacts("127.0.0.1", 5901, "VNC display"),))
SPICE = needs(listens=(ListenerFacts("", 5930, "SPICE display"),))
VLAN_100 = BridgeFacts("br0", 1500, up=True, vlans=(100,))
USB_MEND = "godwit monitor web -c 'device_del dev0'"


def direct(*choices: DeviceChoice, way: Way = Way.LIVE, blockers: tuple[str, ...] = (), **changes: object) -> Change:
    """A guest with one NIC that may not travel, and what was chosen for it."""
    device = replace(DirectFacts("dev0", "vmxnet3"), **changes)  # type: ignore[arg-type]
    return both(guest(direct=(device,), blockers=blockers), whole(policy=Policy(way=way, devices=choices)))


def matched(change: Change) -> Change:
    return both(change, whole(matches=(("dev0", PciFunction("0000:03:02.4", "8086", "1520")),)))


UNPLUG, FAILOVER, REFUSE = (
    DeviceChoice("dev0", policy) for policy in (DevicePolicy.UNPLUG, DevicePolicy.FAILOVER, DevicePolicy.REFUSE)
)
VFIO: dict[str, Any] = {"driver": "vfio-pci", "function": "0000:3b:02.1", "tied": True}
SAID = ("0000:3b:02.1: VFIO migration is not supported in kernel",)

PLANTED: list[tuple[str, Severity, Change, str, str]] = [
    ("name-invalid", WARN, needs(name="my guest;rm"), "QEMU calls web 'my guest;rm'", "-name web"),
    ("kernel-differs", INFO, target(kernel="5.10.0-21"), "kernel 6.12 on one, 5.10.0-21 on two", "release"),
    ("qemu-differs", INFO, upgraded((10, 1, 0)), "QEMU 10.0.2 on one, 10.1.0 on two", "godwit upgrade"),
    ("guest-bits", BLOCK, both(guest(accelerator="tcg"), target(architecture="i686")), "two is i686", "64-bit host"),
    ("guest-bits", BLOCK, both(guest(cpu_model="Haswell"), target(cpu_flags=FLAGS - {"lm"})), "without long mode", ""),
    ("architecture", BLOCK, both(NARROW, target(architecture="armv7l")), "i686 on one, armv7l on two", "architecture"),
    ("nx-differs", BLOCK, both(guest(cpu_model="Haswell"), target(cpu_flags=FLAGS - {"nx"})),
     "one has NX, two has no NX", "in the firmware of two"),
    ("nx-gained", INFO, source(cpu_flags=FLAGS - {"nx"}), "one has no NX, two has NX", "in the firmware of one"),
    ("cpu-model", BLOCK, models(BROADWELL, there=(POORER,), model="Broadwell"), "cannot give avx2, rtm of Broadwell",
     "-cpu Broadwell,avx2=off,rtm=off"),
    ("cpu-model", BLOCK, models(BROADWELL, there=(POORER,), model="Broadwell,-rtm,hle=off", accelerator="kvm"),
     "two (Xeon Gold 6430, QEMU 10.0.2) cannot give avx2 of Broadwell", "-cpu Broadwell,-rtm,hle=off,avx2=off"),
    ("cpu-model", BLOCK, both(models(SKYLAKE, there=(SKYLAKE,), model="Skylake-Client,+avx512f", accelerator="kvm"),
     source(cpu_flags=FLAGS | {"avx512f"})), "cannot give avx512f of Skylake-Client", "avx512f=off"),
    ("cpu-model-unknown", BLOCK, models(SKYLAKE, there=(BROADWELL,), model="Skylake-Client"),
     "on two has no CPU model Skylake-Client", "install a QEMU on two"),
    ("hugepages", BLOCK, AT_HUGE, "two has no hugetlbfs there",
     "mount -t hugetlbfs -o pagesize=2M none /dev/hugepages"),
    ("hugepages", BLOCK, both(AT_HUGE, target(resources=replace(HUGE, huge_pages=(HugePages(2 * MIB, 1023, 1023),)))),
     "web needs 1024 huge pages of 2.0 MiB, two has 1023 free", "echo $((had + 1)) > $f"),
    ("hugepages", BLOCK, both(MEMFD, has(huge_pages=(HugePages(2 * MIB, 9999),))), "two has 0 free",
     "hugepages-1048576kB"),
    ("numa-node", BLOCK, both(needs(nodes=frozenset({0, 1})), has(nodes=frozenset({0}))),
     "bound to the memory nodes 0-1; two has 0", "host-nodes"),
    ("numa-node", BLOCK, both(needs(cpus=frozenset({8, 9})), has(cpus=frozenset(range(8)))),
     "bound to the processors 8-9; two has 0-7", "cpu-affinity"),
    ("cpu-pinning", INFO, both(needs(runs_on=frozenset({2, 3})), on_source(cpus=frozenset(range(8)))),
     "runs on processors 2-3 of 0-7 on one", "taskset"),
    ("memlock", BLOCK, both(needs(locks_memory=True), has(locked_memory=2 * GIB - 1)), "may lock 2.0 GiB",
     "limits.conf"),
    ("open-files", WARN, both(needs(open_files=1000), has(open_files=1024, open_files_hard=1024)),
     "has 1000 files open, on two it may have 1024", "nofile to 2048"),
    ("open-files", WARN, both(guest(qemu_version=(8, 2, 0)), upgraded((8, 2, 0)), needs(open_files=1000),
     has(open_files=1024, open_files_hard=4096)), "it may have 1024", "nofile"),
    ("confined", INFO, has(confinement=("SELinux enforces its policy",)), "two: SELinux enforces", "ausearch"),
    ("bridge-vlan", WARN, bridge(vlan_filtering=True), "br0 filters VLANs on two, and does not on one",
     "ip link set br0 type bridge vlan_filtering 0  (on two)"),
    ("bridge-vlan", WARN, both(source(bridges=(VLAN_100,)), bridge(vlans=(200,))),
     "VLAN 100 on one, into 200 on two", "interface of VLAN 100"),
    ("conntrack", WARN, has(tracks_bridged=True), "two tracks connections", "bridge-nf-call-iptables=0  (on two)"),
    ("user-network", WARN, bond(Bond.USER_NETWORK), "QEMU's user network (dev0)", "a NIC on a bridge"),
    ("vhost-user", WARN, bond(Bond.VHOST_USER, "/run/x.sock"), "(/run/x.sock on one)", "listens at /run/x.sock"),
    ("virtiofs", WARN, bond(Bond.VIRTIOFS, "/run/fs.sock"), "virtiofsd serves", "start virtiofsd"),
    ("shared-folder", WARN, bond(Bond.SHARED_FOLDER, "/srv/s"), "is a folder of the host (/srv/s", "umount -t 9p"),
    ("usb-host", WARN, bond(Bond.USB_HOST), "is a USB device of the host (on one)", USB_MEND),
    ("display-port", WARN, both(VNC, has(listeners=(ListenerFacts("", 5901),))), "port 5901 (VNC display of web)",
     "godwit monitor web -c 'info vnc'"),
    ("port-taken", BLOCK, both(SPICE, has(listeners=(ListenerFacts("10.0.0.1", 5930),))), "port 5930 (SPICE display",
     "ss -Hltnp sport = :5930  (on two)"),
    ("disk-cache", WARN, both(cached("nfs4"), needs(keeps_cache=True)), "lies on nfs4 on two", "cache=none"),
    ("disk-cached", INFO, cached("nfs4"), "lies on nfs4 on two", "cache=none"),
    ("disk-cached", INFO, cached("fuse.sshfs"), "lies on fuse.sshfs on two", "cache.direct=on"),
    ("way-back", WARN, whole(returns=False), "two does not reach 198.18.0.2, the migration address of one", "on two"),
    ("ports-taken", BLOCK, whole(ports_left=False), "to 49215 are in use on two", "ss -tanp 'sport >= 49152"),
    ("path-mtu", WARN, sized(Packets(9000, 1400), Packets(9000, 9000)), "pings of 9000 bytes vanish", "mtu 1400"),
    ("path-mtu", WARN, sized(Packets(1500, 1500), Packets(1500, 1280)), "from two to one; those of 1280", "mtu 1280"),
    ("path-mtu", WARN, sized(Packets(1500, 1460), Packets(1500, 1400)), "from one to two and from two to one; those",
     "ip route add 198.18.0.2/32 $(ip -o route get 198.18.0.2"),
    ("device-model", BLOCK, both(needs(devices=frozenset({"qxl-vga", "pcie-root-port"})), knows("pcie-root-port")),
     "two has no device qxl-vga, which web has", "as on one"),
    ("denied-lately", WARN, has(denials=("old", 'apparmor="DENIED" comm="qemu"')), 'last day: apparmor="DENIED"',
     "ausearch -m avc"),
    ("disk-rights", BLOCK, disk(forbidden="Permission denied"), "/images/web.raw for reading and writing: Permission",
     "ls -l /images/web.raw"),
    ("disk-rights", BLOCK, disk(forbidden="Permission denied", read_only=True), "for reading: Perm", "root_squash"),
    ("port-closed", BLOCK, tried(E.UNCONNECTED, "no answer within 5 s"),
     "one reaches two, and gets no connection to port 49160 of 198.18.0.2: no answer within 5 s", "49152 to 49215"),
    ("port-closed", BLOCK, tried(E.REFUSED, "Bad magic received"), "Bad magic received", "in the firewall of two"),
    ("handshake-fails", BLOCK, both(tried(E.REFUSED, "certificate has expired"), whole(encrypted=True)),
     "no encrypted connection from one to port 49160 of 198.18.0.2 (two) comes about: certificate has expired",
     "godwit tls check one two"),
    ("path-stalls", BLOCK, both(tried(E.STALLED), BLACK_HOLE), "pings of 1400 bytes arrive, and those of 1500 do not",
     "mtu 1400  (on one)"),
    ("path-stalls", BLOCK, tried(E.STALLED), "what it sends then does not arrive", "set one MTU"),
    ("link-untried", INFO, tried(E.UNTRIED, "there is no qemu-io"), "tried: there is no qemu-io", "qemu-utils"),
    ("link-measured", INFO, whole(trial=Trial(E.WORKS, "", 49160, 40 * MIB, 0.8), encrypted=True),
     "one sent 40.0 MiB to two in 800.0 ms, encrypted: 50.0 MiB/s; the 2.0 GiB of web would take", "godwit"),
    ("device-tied", BLOCK, direct(**VFIO, blockers=SAID), "dev0 of web (vfio-pci)", "--device dev0=unplug"),
    ("device-tied", BLOCK, direct(REFUSE), "dev0 of web", "--device dev0=unplug"),
    ("device-unknown", BLOCK, both(direct(DeviceChoice("nic9", DevicePolicy.UNPLUG))), "called nic9", "it has: dev0"),
    ("device-alone", BLOCK, direct(FAILOVER), "failover_pair_id", "--device dev0=unplug"),
    ("device-paired", BLOCK, direct(UNPLUG, partner="nic0"), "nic0 stands in", "leave --device dev0=unplug away"),
    ("device-fixed", BLOCK, direct(UNPLUG, pluggable=False), "root bus", "pcie-root-port"),
    ("device-unplugged", INFO, direct(UNPLUG), "dev0 is unplugged of web", "bond"),
    ("device-unplugged", INFO, direct(partner="nic0"), "QEMU takes dev0 out", "bond"),
    ("device-unplugged", INFO, matched(direct(UNPLUG, **VFIO, blockers=SAID)), "dev0 is unplugged", "bond"),
]  # fmt: skip

SOUND: list[tuple[str, Change]] = [
    ("name", needs(name="web.1_a-B")),
    ("name", needs(name=None)),
    ("kernel", target(kernel="6.13-rc1")),
    ("32-bit guest to a 32-bit host", both(NARROW, target(architecture="i686"))),
    ("32-bit guest to a 64-bit host", NARROW),
    ("32-bit guest of a 64-bit host", both(guest(launch=I386, accelerator="tcg"), target(architecture="i686"))),
    ("32-bit CPU model", both(guest(cpu_model="pentium3", accelerator="tcg"), target(architecture="i686"))),
    ("no NX on both", both(source(cpu_flags=FLAGS - {"nx"}), target(cpu_flags=FLAGS - {"nx"}))),
    ("NX off for the guest", both(guest(cpu_model="Haswell,nx=off"), target(cpu_flags=FLAGS - {"nx"}))),
    ("NX emulated", both(guest(accelerator="tcg"), target(cpu_flags=FLAGS - {"nx"}))),
    ("what neither gives", models(POORER, there=(POORER,), model="Broadwell")),
    ("what only the source lacks", models(POORER, there=(BROADWELL,), model="Broadwell")),
    ("flags that are off", models(BROADWELL, there=(POORER,), model="Broadwell,-avx2,rtm=off")),
    ("models of the other accelerator", both(models(BROADWELL, there=(POORER,), model="Broadwell"),
     guest(accelerator="kvm", cpu_model="Broadwell"))),
    ("max of one version", guest(cpu_model="max", accelerator="tcg")),
    ("models that nobody asked for", guest(cpu_model="Broadwell")),
    ("huge pages", both(AT_HUGE, target(resources=ENOUGH))),
    ("huge pages beside little memory", both(AT_HUGE, target(resources=ENOUGH, memory_available=GIB))),
    ("memory at a path of ordinary pages", needs(file_memory=(HugeMemory("/dev/shm", 0, 2 * GIB),))),
    ("a host that does not say its huge pages", MEMFD),
    ("nodes", both(needs(nodes=frozenset({0}), cpus=frozenset({1})), has(nodes=frozenset({0}), cpus=frozenset({1})))),
    ("a host that does not say its nodes", needs(nodes=frozenset({7}))),
    ("all processors", both(needs(runs_on=frozenset(range(64))), on_source(cpus=frozenset(range(8))))),
    ("processors that nobody counted", needs(runs_on=frozenset({2}))),
    ("locked memory", both(needs(locks_memory=True), has(locked_memory=2 * GIB))),
    ("locked memory without limit", needs(locks_memory=True)),
    ("a limit that is not felt", has(locked_memory=0)),
    ("open files", both(needs(open_files=1000), has(open_files=1024, open_files_hard=4096))),
    ("open files that nobody counted", has(open_files=16, open_files_hard=16)),
    ("VLANs", both(source(bridges=(BridgeFacts("br0", 1500, up=True, vlan_filtering=True, vlans=(7,)),)),
     bridge(vlan_filtering=True, vlans=(7,)))),
    ("VLANs that the switch knows on one side", bridge(vlans=(7,))),
    ("a firewall, and no bridge", both(guest(nics=()), has(tracks_bridged=True))),
    ("a firewall on the source", on_source(tracks_bridged=True)),
    ("another port", both(VNC, SPICE, has(listeners=(ListenerFacts("", 22),)))),
    ("another address", both(VNC, has(listeners=(ListenerFacts("10.0.0.1", 5901),)))),
    ("the source's own port", both(SPICE, on_source(listeners=(ListenerFacts("", 5930),)))),
    ("past the cache", cached("nfs4", direct=True)),
    ("only read", cached("nfs4", read_only=True)),
    ("a cluster file system", cached("ocfs2")),
    ("a cluster file system in user space", cached("fuse.glusterfs")),
    ("network storage elsewhere", cached("nfs4", path="/image")),
    ("a device of the host", bond(Bond.HOST_DEVICE, "01:00.0")),  # QEMU itself says whether it can be moved
    ("large packets that arrive", sized(Packets(9000, 9000), Packets(9000, 9000))),
    ("jumbo frames on one side alone", sized(Packets(9000, 1500), Packets(1500, 1500))),
    ("a way that says what passes", sized(Packets(1500, 1400, told=True), Packets(1500, 1500))),
    ("hosts without ping", sized(Packets(1500), Packets(1500))),
    ("a host that does not say its MTU", sized(Packets(0, 1400), Packets(1500, 1400))),
    ("devices that nobody asked for", needs(devices=frozenset({"qxl-vga"}))),
    ("devices that both know", both(needs(devices=frozenset({"virtio-blk"})), knows("virtio-blk", "virtio-blk-pci"))),
    ("what the source has forbidden", on_source(denials=("avc: denied",))),
    ("a connection that was tried", tried(E.WORKS)),
    ("large pings that are dropped where connections are not", both(BLACK_HOLE, tried(E.WORKS))),
    ("a NIC that QEMU sends", direct()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "severity", "change", "words", "mend"), PLANTED, ids=[f"{row[0]}-{row[3][:30]}" for row in PLANTED]
)
def test_a_planted_mismatch_is_named_with_its_mend(
    code: str, severity: Severity, change: Change, words: str, mend: str
) -> None:
    (finding,) = check(change(GOOD))
    assert (finding.code, finding.severity) == (code, severity)
    assert words in finding.found
    assert mend in finding.mend
    assert finding.subject
    assert finding.why
    assert "None" not in finding.found + finding.mend


@pytest.mark.parametrize(("name", "change"), SOUND, ids=[row[0] for row in SOUND])
def test_a_sound_pair_has_no_finding(name: str, change: Change) -> None:
    assert check(change(GOOD)) == (), name


def test_each_command_is_shown_and_those_that_are_safe_can_be_taken_back() -> None:
    commands = [one.command for _, _, change, _, _ in PLANTED for one in check(change(GOOD)) if one.command]
    assert len(commands) >= 6
    for _, _, change, _, _ in PLANTED:
        for one in check(change(GOOD)):
            assert one.command is None or one.mend.startswith(f"{one.command.text}  (on {one.command.host})")
    assert {command.host for command in commands} == {"one", "two"}
    assert all(command.back for command in commands if command.safe)
    safe = {
        command.text.partition("=" if command.text.startswith("f=") else " ")[0] for command in commands if command.safe
    }
    assert safe == {"ip", "mkdir", "f"}
    kept = {"bridge-mtu", "bridge-missing", "bridge-vlan", "conntrack"}
    found = [one for _, _, change, _, _ in PLANTED for one in check(change(GOOD)) if one.code in kept]
    assert not [one for one in found if one.command and one.command.safe]


def test_huge_pages_are_taken_unasked_only_where_much_memory_is_left() -> None:
    for available, safe in ((8 * GIB, True), (GIB, False)):
        short = target(resources=HostResources(huge_pages=(HugePages(GIB, 0, 5),)), memory_available=available)
        (finding,) = [one for one in check(both(MEMFD, short)(GOOD)) if one.code == "hugepages"]
        assert finding.command is not None
        assert finding.command.safe is safe
        file = "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages"
        assert finding.command.text.startswith(f"f={file}; had=$(cat $f) && echo $((had + 2)) > $f")
        assert finding.command.back == f"echo 5 > {file}"


def test_huge_pages_that_could_not_be_given_back_are_for_a_person_to_take() -> None:
    short = target(resources=HostResources(huge_pages=(HugePages(2 * MIB, 9999, 9999),)), memory_available=8 * GIB)
    (finding,) = [one for one in check(both(MEMFD, short)(GOOD)) if one.code == "hugepages"]
    assert finding.command is not None
    assert (finding.command.safe, finding.command.back) == (False, "")


@pytest.mark.parametrize(("most", "left", "status"), [(100, 7, 0), (6, 5, 1), (5, 5, 1)])
def test_a_kernel_that_gives_too_few_huge_pages_is_told_of_and_keeps_as_many_as_before(
    tmp_path: Path, most: int, left: int, status: int
) -> None:
    """A file stands in for the kernel's, with a `cat` of its own: it never shows more than `most`."""
    pool = tmp_path / "nr_hugepages"
    pool.write_text("5\n")
    cat = tmp_path / "cat"
    cat.write_text(f'#!/bin/sh\nread -r n < "$1"; [ "$n" -le {most} ] || n={most}; echo "$n"\n')
    cat.chmod(0o755)
    short = target(resources=HostResources(huge_pages=(HugePages(GIB, 0, 5),)), memory_available=8 * GIB)
    (finding,) = [one for one in check(both(MEMFD, short)(GOOD)) if one.code == "hugepages"]
    assert finding.command is not None
    file = "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages"
    text = f'PATH="{tmp_path}:$PATH"; {finding.command.text.replace(file, str(pool))}'
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == status, done
    assert done.stderr == ("" if status == 0 else f"it has memory for {most - 5} of 2\n")
    assert int(pool.read_text()) == left
    subprocess.run(["sh", "-c", finding.command.back.replace(file, str(pool))], check=True)
    assert int(pool.read_text()) == 5


@pytest.mark.parametrize(
    ("address", "route"),
    [
        ("198.18.0.2", "198.18.0.2/32"),
        ("2001:db8::2", "2001:db8::2/128"),
        ("two.example", ""),
        ("fe80::2%mig0", ""),
        ("fe80::2%$(reboot)", ""),
        ("198.18.0.2; reboot", ""),
    ],
)
def test_a_route_is_offered_to_what_a_route_can_lead_to(address: str, route: str) -> None:
    found = check(both(tried(E.STALLED), BLACK_HOLE, target(migration_address=address))(GOOD))
    (command,) = [one.command for one in found if one.code == "path-stalls"]
    assert bool(command) is bool(route)
    if command:
        assert command.text.startswith(f"ip route add {route} $(ip -o route get {address} |")
        assert command.back == f"ip route del {route}"


def test_what_could_not_be_tried_leaves_what_pings_say() -> None:
    found = check(both(tried(E.UNTRIED, "there is no qemu-nbd"), BLACK_HOLE)(GOOD))
    assert [one.code for one in found] == ["path-mtu", "link-untried"]


def test_a_guest_that_is_off_and_shares_its_disks_needs_no_link() -> None:
    off = whole(policy=Policy(way=Way.OFF))
    for change in (tried(E.STALLED), BLACK_HOLE, whole(returns=False), whole(ports_left=False)):
        assert [one.code for one in check(both(change, off)(GOOD))] == ["switched-off"]


def test_the_seed_s_hosts_both_ways() -> None:
    """Broadwell to Skylake is sound where Skylake has all that Broadwell has; the way back is not, and says why."""
    old = (CpuModel("Broadwell"), CpuModel("Skylake-Client", frozenset({"xsavec", "mpx"})))
    new = (CpuModel("Broadwell"), CpuModel("Skylake-Client"))
    assert check(models(*old, there=new, model="Broadwell", accelerator="kvm")(GOOD)) == ()
    (finding,) = check(models(*new, there=old, model="Skylake-Client", accelerator="kvm")(GOOD))
    assert finding.code == "cpu-model"
    assert "cannot give mpx, xsavec of Skylake-Client" in finding.found


TSX = {"hle", "invpcid", "pcid", "rtm", "tsc-deadline"}
TCG_10 = (CpuModel("Broadwell", frozenset(TSX)), CpuModel("Skylake-Client", frozenset({*TSX, "xsavec"})))
TCG_7 = tuple(CpuModel(one.name, one.lacks | {"3dnowprefetch", "rdseed", "x2apic"}) for one in TCG_10)
"""What QEMU 10.0.2 and 7.2.22 of Debian say that they cannot emulate."""


@pytest.mark.parametrize("model", ["Broadwell", "Skylake-Client"])
def test_generations_under_emulation_as_two_versions_of_qemu_have_them(model: str) -> None:
    assert check(models(*TCG_7, there=TCG_10, model=model)(GOOD)) == ()
    (finding,) = check(models(*TCG_10, there=TCG_7, model=model)(GOOD))
    assert finding.code == "cpu-model"
    assert f"cannot give 3dnowprefetch, rdseed, x2apic of {model}" in finding.found


@pytest.mark.parametrize(("version", "differs"), [((10, 1, 0), True), ((10, 0, 9), False)])
def test_max_is_what_each_version_can_emulate(version: tuple[int, int, int], *, differs: bool) -> None:
    evidence = both(guest(cpu_model="max", accelerator="tcg"), upgraded(version))(GOOD)
    found = {one.code: one for one in check(evidence)}
    assert ("cpu-max-differs" in found) is differs
    if differs:
        assert found["cpu-max-differs"].severity is WARN
        assert "QEMU 10.0 on one, 10.1 on two" in found["cpu-max-differs"].found
        assert "-cpu qemu64" in found["cpu-max-differs"].mend
    assert "cpu-max-differs" not in {one.code for one in check(both(guest(cpu_model="max"), upgraded(version))(GOOD))}


def test_a_guest_that_is_off_leaves_behind_what_only_a_running_one_has() -> None:
    off = whole(policy=Policy(way=Way.OFF))
    cases = [change for code, _, change, _, _ in PLANTED if code in {"cpu-model", "nx-differs", "user-network"}]
    assert len(cases) == 5
    for change in cases:
        assert [one.code for one in check(both(change, off)(GOOD))] == ["switched-off"]
    blocked = check(both(bond(Bond.SHARED_FOLDER, "/srv/s"), off)(GOOD))
    assert [one.code for one in blocked] == ["shared-folder", "switched-off"]


def test_what_would_help_a_guest_with_another_processor_is_said() -> None:
    (finding,) = check(models(BROADWELL, there=(POORER,), model="Broadwell")(GOOD))
    assert "--static --off" in finding.mend


def test_a_new_qemu_that_does_not_know_the_model_is_found_before_an_upgrade() -> None:
    change = models(SKYLAKE, there=(BROADWELL,), model="Skylake-Client")
    assert "cpu-model-unknown" in {one.code for one in check_upgrade(change(GOOD))}
    assert not {"qemu-differs", "kernel-differs"} & {one.code for one in check_upgrade(upgraded((11, 0, 0))(GOOD))}


def test_only_proven_shared_disks_are_cached_by_two_hosts() -> None:
    evidence = cached("nfs4")(GOOD)
    apart = replace(evidence, disks=(replace(SAME_DISK, token_seen=False, target_identity="1 8"),))
    assert "disk-cached" not in {one.code for one in check(apart)}


def test_a_nic_that_qemu_takes_out_needs_a_guest_that_runs() -> None:
    still = {one.code: one for one in check(direct(partner="nic0", way=Way.STATIC)(GOOD))}
    assert set(still) == {"device-stands-still", "stands-still"}
    assert "device-stands-still" not in {one.code for one in check(direct(UNPLUG, way=Way.STATIC)(GOOD))}


def test_a_target_without_a_match_leaves_the_guest_on_its_other_nic() -> None:
    found = {one.code: one for one in check(direct(UNPLUG, **VFIO, blockers=SAID)(GOOD))}
    assert set(found) == {"device-no-match", "device-unplugged"}
    assert found["device-no-match"].severity is WARN
    assert "dev0 (0000:3b:02.1)" in found["device-no-match"].found
    assert "dev0=unplug:" in found["device-no-match"].mend


def test_what_qemu_names_beside_the_device_still_blocks() -> None:
    other = "State blocked by non-migratable device '0000:00:05.0/nvme'"
    found = check(matched(direct(UNPLUG, **VFIO, blockers=(*SAID, other)))(GOOD))
    assert [one.found for one in found if one.severity is BLOCK] == [other]


# -- the table ---------------------------------------------------------------------------------------------------------


def calls(name: str) -> list[tuple[str, ast.Call]]:
    """Return each call of that name in the package, and the file that it stands in."""
    return [
        (file.name, node)
        for file in Path(preflight.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == name
    ]


def written() -> set[str]:
    """Return the codes of the findings that the checks write out."""
    codes = [node.args[0] for _, node in calls("found")]
    return {str(code.value) for code in codes if isinstance(code, ast.Constant)}


def test_severity_and_reason_of_every_finding_come_from_the_table() -> None:
    assert {file for file, _ in calls("Finding")} == {"rows.py"}
    assert len(written()) > 60, "the pattern does not fit the code any more"
    assert written() - set(ROWS) == set()


def test_each_check_of_the_table_is_made() -> None:
    planted = {row[0] for row in PLANTED} | {"cpu-max-differs", "device-stands-still", "device-no-match"}
    assert [code for code in ROWS if code not in planted | written()] == []


def test_each_code_stands_once() -> None:
    counted = Counter(row.code for rows in SUBJECTS.values() for row in rows)
    assert [code for code, times in counted.items() if times > 1] == []
    assert all(row.finds and row.why for row in ROWS.values())
