"""The same guest as a second process on the same host: what is another name, and what stays."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.errors import InputError
from godwit.model import HostFacts, Launch, QemuFacts, Tap, Vm
from godwit.qemu import options
from godwit.qemu.beside import beside, channels, next_path, next_tap, taking_argv, unshared
from godwit.qemu.define import make_definition
from godwit.qemu.hypervisor import QemuHypervisor
from godwit.qemu.paths import made_files
from godwit.qemu.vmline import to_vm

DEFINITION = """
name = "web1"
memory = "512M"
accelerator = "tcg"
vnc = "127.0.0.1:1"

[[disks]]
path = "/images/web1.qcow2"
format = "qcow2"

[[nics]]
bridge = "br0"
"""
QEMU_10 = QemuFacts(
    "/usr/bin/qemu-system-x86_64", (10, 0, 2), ("pc-q35-10.0",), (("q35", "pc-q35-10.0"),), shares_memory=True
)
QEMU_7 = QemuFacts("/usr/bin/qemu-system-x86_64", (7, 2, 0), ("pc-q35-7.2",), (("q35", "pc-q35-7.2"),))


def facts(qemu: QemuFacts) -> HostFacts:
    return HostFacts(
        name="h1",
        hostname="h1",
        machine_id="",
        kernel="",
        architecture="x86_64",
        cpu_model="",
        cpu_vendor="",
        cpu_flags=frozenset(),
        cpu_count=1,
        memory_total=0,
        memory_available=0,
        qemu=qemu,
        accelerators=("tcg",),
        bridges=(),
        migration_address="",
        clock_offset=0.0,
        clock_uncertainty=0.0,
        can_shorten_send_queue=True,
    )


def defined(qemu: QemuFacts = QEMU_10, more: str = "") -> Vm:
    return QemuHypervisor().define(more + DEFINITION, "web1.toml", facts(qemu))


def by_hand(*words: str, control: str = "/run/web.qmp") -> Vm:
    return Vm("web", "h1", Launch(("qemu-system-x86_64", "-qmp", f"unix:{control},server,nowait", *words)), control)


def words_of(argv: tuple[str, ...], option: str) -> list[str]:
    return [value for name, value in pairwise(argv) if name == option]


# -- memory that can be taken --------------------------------------------------------------------------------------


def test_a_defined_guest_shares_all_its_memory_where_qemu_can() -> None:
    argv = defined().launch.argv
    assert words_of(argv, "-machine") == ["pc-q35-10.0,accel=tcg,memory-backend=pc.ram,aux-ram-share=on"]
    memory = json.loads(next(value for value in words_of(argv, "-object") if "memfd" in value))
    assert memory == {
        "qom-type": "memory-backend-memfd",
        "id": "pc.ram",
        "x-use-canonical-path-for-ramblock-id": False,
        "size": 512 << 20,
        "share": True,
    }
    assert words_of(argv, "-m") == ["size=512M"]


@pytest.mark.parametrize(
    ("qemu", "more"),
    [(QEMU_7, ""), (QEMU_10, "shared_memory = false\n"), (QEMU_10, 'qemu = "/opt/old/qemu-system-x86_64"\n')],
    ids=["QEMU cannot", "the user does not want it", "another QEMU than the one that was looked at"],
)
def test_and_does_not_where_it_cannot_or_shall_not(qemu: QemuFacts, more: str) -> None:
    argv = defined(qemu, more).launch.argv
    assert "aux-ram-share" not in " ".join(argv)
    assert "memory-backend" not in " ".join(argv)


def test_a_launch_fits_a_qemu_that_cannot_share_roms() -> None:
    """The memory itself stays what it is: every QEMU of these days has such an object."""
    hypervisor, launch = QemuHypervisor(), defined().launch
    assert hypervisor.fitted(launch, QEMU_10) == launch
    fitted = hypervisor.fitted(launch, QEMU_7)
    assert words_of(fitted.argv, "-machine") == ["pc-q35-10.0,accel=tcg,memory-backend=pc.ram"]
    assert len(fitted.argv) == len(launch.argv)
    assert unshared(fitted) == fitted


# -- names -----------------------------------------------------------------------------------------------------------


def test_no_file_socket_or_tap_of_a_defined_guest_is_the_same_and_all_else_is() -> None:
    vm = defined()
    other = beside(vm, vm.launch, "/opt/new/qemu")
    assert other.launch.argv[0] == "/opt/new/qemu"
    old, new = options.parse(vm.launch.argv[1:]), options.parse(other.launch.argv[1:])
    assert [option.name for option in old] == [option.name for option in new]
    changed = {one.name for one, another in zip(old, new, strict=True) if one != another}
    assert changed == {"chardev", "pidfile", "netdev"}
    assert not set(made_files(old)) & set(made_files(new))
    assert {other.control, other.observe, other.console, other.pidfile} <= set(made_files(new))
    (old_tap,), (new_tap,) = vm.launch.taps, other.launch.taps
    assert old_tap.bridge == new_tap.bridge == "br0"
    assert old_tap.interface != new_tap.interface
    assert f"ifname={new_tap.interface}," in words_of(other.launch.argv, "-netdev")[0]
    assert (other.log, other.launch.folders) == (vm.log, vm.launch.folders)


def test_names_never_come_back() -> None:
    vm = defined()
    seen: set[str] = set()
    for _ in range(12):
        assert not {vm.control, vm.launch.taps[0].interface} & seen
        seen |= {vm.control, vm.launch.taps[0].interface}
        vm = beside(vm, vm.launch, vm.launch.argv[0])
    assert vm.control == "/run/godwit/web1/control.sock.godwit-13"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("-serial", "unix:/run/c.sock,server=on,wait=off"), "unix:/run/c.sock.godwit-2,server=on,wait=off"),
        (("-monitor", "unix:/run/m.sock,server,nowait"), "unix:/run/m.sock.godwit-2,server,nowait"),
        (("-serial", "mon:unix:/run/m.sock,server"), "mon:unix:/run/m.sock.godwit-2,server"),
        (("-serial", "file:/var/log/c.log"), "file:/var/log/c.log.godwit-2"),
        (("-vnc", "unix:/run/v.sock"), "unix:/run/v.sock.godwit-2"),
        (("-pidfile", "/run/p"), "/run/p.godwit-2"),
        (("-D", "/var/log/q.log"), "/var/log/q.log.godwit-2"),
        (("-chardev", "file,id=a,path=/l"), "file,id=a,path=/l.godwit-2"),
        (("-chardev", "socket,id=a,path=/s,server=on"), "socket,id=a,path=/s.godwit-2,server=on"),
        (("-netdev", "tap,id=n,ifname=tap7,script=no"), f"tap,id=n,ifname={next_tap('web', 'tap7')},script=no"),
        # What somebody else serves, what two processes may open, and what the kernel names by itself:
        (("-chardev", "socket,id=a,path=/s"), "socket,id=a,path=/s"),
        (("-serial", "unix:/run/other.sock"), "unix:/run/other.sock"),
        (("-drive", "file=/images/a.raw,format=raw"), "file=/images/a.raw,format=raw"),
        (("-netdev", "tap,id=n,script=/etc/up"), "tap,id=n,script=/etc/up"),
        (("-vnc", ":1"), ":1"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_line_that_somebody_typed(words: tuple[str, str], expected: str) -> None:
    vm = by_hand(*words)
    assert beside(vm, vm.launch, "qemu").launch.argv[-1] == expected


@pytest.mark.parametrize(
    "words",
    [
        ("-monitor", "tcp:127.0.0.1:4444,server,nowait"),
        ("-serial", "telnet::5555,server=on,wait=off"),
        ("-chardev", "socket,id=a,host=0.0.0.0,port=4444,server=on,wait=off"),
        ("-netdev", "user,id=n,hostfwd=tcp::2222-:22"),
        ("-spice", "port=5930"),
        ("-gdb", "tcp::1234"),
        ("-s",),
    ],
    ids=" ".join,
)
def test_a_port_that_two_processes_cannot_have_is_refused_by_name(words: tuple[str, ...]) -> None:
    vm = by_hand(*words)
    with pytest.raises(InputError, match="listens at a TCP port") as caught:
        beside(vm, vm.launch, "qemu")
    assert words[-1] in caught.value.message
    assert caught.value.remedy


def test_what_cannot_be_read_or_is_too_long_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be read"):
        beside(by_hand(), Launch(("qemu", "-zork")), "qemu")
    long = "/run/" + "x" * 100
    vm = by_hand(control=long)
    with pytest.raises(InputError, match="too long for a socket"):
        beside(vm, vm.launch, "qemu")


@given(st.text(min_size=1, max_size=64), st.text(st.characters(codec="ascii", exclude_characters="/ :"), max_size=15))
def test_taps_have_names_that_the_kernel_takes(vm: str, interface: str) -> None:
    name = next_tap(vm, interface)
    assert len(name) <= 15
    assert name.isalnum()
    assert name != interface


def test_a_mark_in_the_middle_is_no_mark() -> None:
    assert next_path("/run/a.godwit-2/b") == "/run/a.godwit-2/b.godwit-2"
    assert next_path("/run/a.godwit-9") == "/run/a.godwit-10"


# -- taking over -----------------------------------------------------------------------------------------------------


def test_the_new_process_waits_paused_for_both_channels() -> None:
    vm = to_vm(
        make_definition({"name": "web1", "memory": "64M"}, "x"), host="h", machine="pc-q35-10.0", accelerator="tcg"
    )
    argv = taking_argv(vm.launch, "/run/t")
    assert argv[: len(vm.launch.argv)] == vm.launch.argv
    assert "-S" in argv
    assert [json.loads(value) for value in words_of(argv, "-incoming")] == list(channels("/run/t"))
    assert [one["channel-type"] for one in channels("/run/t")] == ["main", "cpr"]
    assert words_of(argv, "-global")[-2:] == ["migration.x-events=on", "migration.x-return-path=on"]


def test_taps_with_bridges_keep_them() -> None:
    vm = by_hand("-netdev", "tap,id=n,ifname=tap7,script=no")
    launch = Launch(vm.launch.argv, taps=(Tap("tap7", "br7"),))
    assert beside(vm, launch, "q").launch.taps == (Tap(next_tap("web", "tap7"), "br7"),)
