"""What a command line takes of its host: each option that ties a guest to it, and its like that does not."""

from __future__ import annotations

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.model import Bond, BondFacts, GuestNeeds, HugeMemory, Launch
from godwit.qemu.needs import guest_needs
from godwit.qemu.qom import NetworkClient

GIB = 1 << 30


def needs(line: str, **clients: str) -> GuestNeeds:
    network = {name: NetworkClient(name, kind) for name, kind in clients.items()}
    return guest_needs(Launch(("qemu-system-x86_64", *shlex.split(line))), network, 2 * GIB)


def json_object(**members: object) -> str:
    return shlex.quote(json.dumps(members))


def bond(kind: Bond, name: str, holds: str = "") -> tuple[BondFacts, ...]:
    return (BondFacts(kind, name, holds),)


FS = "-chardev socket,id=c0,path=/run/fs.sock -device vhost-user-fs-pci,chardev=c0,tag=share,id=share0"
BLOCK = "-chardev socket,id=c1,path=/run/blk.sock -device vhost-user-blk-pci,chardev=c1,id=spdk"
NET = "-chardev socket,id=c2,path=/run/net.sock -netdev vhost-user,id=n0,chardev=c2"
NINE = "-fsdev local,id=f0,path=/srv/share,security_model=none -device virtio-9p-pci,fsdev=f0,mount_tag=s,id=nine"

BONDS = [
    (FS, bond(Bond.VIRTIOFS, "share0", "/run/fs.sock")),
    (BLOCK, bond(Bond.VHOST_USER, "spdk", "/run/blk.sock")),
    (NET, bond(Bond.VHOST_USER, "n0", "/run/net.sock")),
    (NINE, bond(Bond.SHARED_FOLDER, "nine", "/srv/share")),
    ("-virtfs local,path=/srv/s,mount_tag=s,security_model=none", bond(Bond.SHARED_FOLDER, "s", "/srv/s")),
    ("-device usb-host,hostbus=1,hostaddr=2,id=stick", bond(Bond.USB_HOST, "stick")),
    ("-usbdevice host:1.2", bond(Bond.USB_HOST, "host:1.2")),
    ("-device vfio-pci,host=01:00.0,id=gpu", bond(Bond.HOST_DEVICE, "gpu", "01:00.0")),
    (f"-device {json_object(driver='vfio-pci', host='01:00.0')}", bond(Bond.HOST_DEVICE, "vfio-pci", "01:00.0")),
    ("-device virtio-net-pci,netdev=n0 -device usb-tablet -netdev tap,id=n0", ()),
]


@pytest.mark.parametrize(("line", "found"), BONDS, ids=[row[0][:40] for row in BONDS])
def test_devices_that_are_tied_to_their_host(line: str, found: tuple[BondFacts, ...]) -> None:
    assert needs(line).bonds == found


def test_the_network_says_what_a_command_line_need_not() -> None:
    assert needs("", user0="user", tap0="tap").bonds == bond(Bond.USER_NETWORK, "user0")


MEMORY = [
    ("-mem-path /dev/hugepages", (HugeMemory("/dev/hugepages", 0, 2 * GIB),), ()),
    (
        "-object memory-backend-file,id=m,size=1G,mem-path=/dev/hugepages-1G",
        (HugeMemory("/dev/hugepages-1G", 0, GIB),),
        (),
    ),
    (
        "-object memory-backend-memfd,id=m,size=1G,hugetlb=on,hugetlbsize=2M",
        (),
        (HugeMemory("", 2 << 20, GIB),),
    ),
    (f"-object {json_object(**{'qom-type': 'memory-backend-memfd', 'id': 'm', 'size': GIB, 'hugetlb': True})}", (),
     (HugeMemory("", 0, GIB),)),
    ("-object memory-backend-memfd,id=m,size=1G,share=on", (), ()),
    ("-object memory-backend-ram,id=m,size=99999999999999999999999999999999999999999T", (), ()),
]  # fmt: skip


@pytest.mark.parametrize(("line", "files", "huge"), MEMORY, ids=[row[0][:60] for row in MEMORY])
def test_memory_that_is_not_of_ordinary_pages(
    line: str, files: tuple[HugeMemory, ...], huge: tuple[HugeMemory, ...]
) -> None:
    found = needs(line)
    assert (found.file_memory, found.huge_memory) == (files, huge)


@pytest.mark.parametrize(
    ("line", "nodes", "cpus"),
    [
        ("-object memory-backend-ram,id=m,size=1G,host-nodes=0-1,policy=bind", {0, 1}, set()),
        ("-object memory-backend-ram,id=m,size=1G,host-nodes=0,host-nodes=3", {0, 3}, set()),
        (f"-object {json_object(**{'qom-type': 'memory-backend-ram', 'host-nodes': [1, 2]})}", {1, 2}, set()),
        ("-object thread-context,id=t,cpu-affinity=4-5 -object thread-context,id=u,node-affinity=1", {1}, {4, 5}),
        ("-object memory-backend-ram,id=m,size=1G,host-nodes=0-99999999", set(), set()),
        ("-object memory-backend-ram,id=m,size=1G,host-nodes=some", set(), set()),
        ("-object memory-backend-ram,id=m,size=1G", set(), set()),
    ],
)
def test_nodes_and_processors_that_are_named(line: str, nodes: set[int], cpus: set[int]) -> None:
    assert needs(line).nodes == nodes
    assert needs(line).cpus == cpus


@pytest.mark.parametrize(
    ("line", "locks"),
    [
        ("-overcommit mem-lock=on", True),
        ("-overcommit mem-lock=on-fault", True),
        ("-realtime mlock=on", True),
        ("-device vfio-pci,host=01:00.0", True),
        ("-overcommit mem-lock=off,cpu-pm=on", False),
        ("", False),
    ],
)
def test_memory_that_is_locked(line: str, locks: bool) -> None:  # noqa: FBT001 - a column of the table
    assert needs(line).locks_memory is locks


@pytest.mark.parametrize(
    ("line", "displays", "listens"),
    [
        ("-vnc :1", [("", 5901)], []),
        ("-vnc 127.0.0.1:0,password=on", [("127.0.0.1", 5900)], []),
        ("-display vnc=localhost:7", [("127.0.0.1", 5907)], []),
        ("-vnc :1,to=99", [], []),
        ("-vnc unix:/run/vnc.sock", [], []),
        ("-vnc none", [], []),
        ("-vnc :99999", [], []),
        ("-spice port=5930,tls-port=5931,addr=0.0.0.0", [], [("", 5930), ("", 5931)]),
        ("-spice port=0,unix=on", [], []),
        ("-chardev socket,id=c,host=::1,port=4444,server=on,wait=off", [], [("::1", 4444)]),
        ("-chardev socket,id=c,host=log.lan,port=514", [], []),
        ("-serial telnet::4445,server,nowait", [], [("", 4445)]),
        ("-serial tcp:log.lan:514", [], []),
        ("-gdb tcp::1235", [], [("", 1235)]),
        ("-s", [], [("", 1234)]),
        ("-netdev user,id=n,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=udp::53-:53", [], [("127.0.0.1", 2222)]),
    ],
)
def test_ports_that_only_one_process_can_have(
    line: str, displays: list[tuple[str, int]], listens: list[tuple[str, int]]
) -> None:
    found = needs(line)
    assert [(one.address, one.port) for one in found.displays] == displays
    assert [(one.address, one.port) for one in found.listens] == listens
    assert all(one.name for one in (*found.displays, *found.listens))


@pytest.mark.parametrize(
    ("line", "keeps"),
    [
        ("-drive file=/a.raw,format=raw,file.drop-cache=off", True),
        (f"-blockdev {json_object(driver='file', filename='/a.raw', **{'drop-cache': False})}", True),
        ("-drive file=/a.raw,format=raw,file.drop-cache=on", False),
        ("-drive file=/a.raw,format=raw", False),
    ],
)
def test_a_disk_that_is_told_to_keep_its_cache(line: str, keeps: bool) -> None:  # noqa: FBT001 - a column of the table
    assert needs(line).keeps_cache is keeps


def test_the_name_is_the_last_that_was_given() -> None:
    assert needs("-name a -name guest=b,debug-threads=on").name == "b"
    assert needs("").name is None


_WORDS = ["-vnc", "-object", "-device", ":1", "{", '{"a":1}', "host-nodes=1", "-s", "-gdb", "tcp:"]


@given(st.lists(st.sampled_from(_WORDS)))
def test_a_command_line_that_nobody_can_read_needs_nothing_and_fails_nobody(words: list[str]) -> None:
    assert isinstance(guest_needs(Launch(("q", *words)), {}, GIB), GuestNeeds)
