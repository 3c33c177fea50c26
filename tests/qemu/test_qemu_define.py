from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.core.devices import tap_name
from godwit.errors import InvalidDefinitionError
from godwit.model import Macvtap, Tap
from godwit.qemu import options
from godwit.qemu.define import load_definition, mac_of, make_definition, valid_name
from godwit.qemu.vmline import to_vm

MINIMAL = {"name": "web1", "memory": "256M"}
FULL = """
name = "web1"
memory = "1 GiB"
vcpus = 2
kernel = "/boot/vmlinuz"
append = 'root=/dev/vda say="a, b"'
address = "198.18.0.7"
vnc = "127.0.0.1:3"

[[disks]]
path = "/mnt/images/a, b; \\"c\\".qcow2"
format = "qcow2"

[[disks]]
path = "/mnt/images/data.img"
format = "raw"
read_only = true
cache = "directsync"

[[nics]]
bridge = "br0"

[[nics]]
bridge = "br1"
mac = "52:54:00:AB:cd:01"
"""


def test_a_whole_definition_becomes_a_command_line() -> None:
    vm = to_vm(
        load_definition(FULL, "web1.toml"), host="host1", machine="pc-q35-10.0", accelerator="kvm", source_text=FULL
    )
    found = options.parse(vm.launch.argv[1:])
    values = {option.name: option.value for option in found}
    assert values["machine"] == "pc-q35-10.0,accel=kvm"
    assert (values["m"], values["smp"], values["cpu"]) == ("size=1024M", "cpus=2", "host")
    assert values["append"] == 'root=/dev/vda say="a, b"'
    nodes = [json.loads(option.value or "") for option in found if option.name == "blockdev"]
    assert [node["filename"] for node in nodes if node["driver"] == "file"] == [
        '/mnt/images/a, b; "c".qcow2',
        "/mnt/images/data.img",
    ]
    assert all(node["cache"]["direct"] for node in nodes)
    assert [node["read-only"] for node in nodes] == [False, False, True, True]
    assert vm.launch.taps == (Tap(tap_name("web1", 0), "br0"), Tap(tap_name("web1", 1), "br1"))
    assert vm.launch.folders == ("/run/godwit/web1",)
    assert (vm.control, vm.observe, vm.console) == (
        "/run/godwit/web1/control.sock",
        "/run/godwit/web1/observe.sock",
        "/run/godwit/web1/console.sock",
    )
    assert (vm.pidfile, vm.log, vm.address) == ("/run/godwit/web1/pid", "/run/godwit/web1/qemu.log", "198.18.0.7")
    assert vm.source_text == FULL
    assert not {"S", "incoming", "daemonize"} & values.keys()


@pytest.mark.parametrize("machine", ["pc-q35-10.0", "pc-i440fx-10.0"])
def test_every_pci_device_has_a_place_of_its_own(machine: str) -> None:
    definition = make_definition(
        {
            **MINIMAL,
            "vnc": ":1",
            "disks": [{"path": f"/d{index}", "format": "raw"} for index in range(10)],
            "nics": [{"bridge": "br0"} for _ in range(8)],
        },
        "x",
    )
    vm = to_vm(definition, host="h", machine=machine, accelerator="tcg")
    devices = [value for name, value in pairwise(vm.launch.argv) if name == "-device" and "serial0.0" not in value]
    places = [pair for value in devices for pair in value.split(",") if pair.startswith("addr=")]
    assert len(places) == len(devices) == len(set(places))
    assert all(f"bus={'pcie.0' if 'q35' in machine else 'pci.0'}" in value for value in devices)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "../x"}, "name is '../x': must be 1 to 64 letters"),
        ({"name": "a" * 65}, "name is"),
        ({"name": 'a"; rm -rf /'}, "name is"),
        ({"name": "-x"}, "name is"),
        ({"memory": 512}, "memory is 512: must be a text with a unit"),
        ({"memory": "512"}, "memory is '512': must be whole mebibytes"),
        ({"memory": "a lot"}, "memory is 'a lot': 'a lot' is no size"),
        ({"vcpus": 0}, "vcpus is 0: input should be greater"),
        ({"vcpus": "2"}, "vcpus is '2': input should be a valid integer"),
        ({"machine": "microvm"}, "machine is 'microvm': must be one of q35, pc"),
        ({"accelerator": "xen"}, "accelerator is 'xen'; allowed: 'auto', 'kvm', 'tcg'"),
        ({"colour": 1}, "colour is no key here; there are name, memory"),
        ({"initrd": "/x"}, "initrd and append need a kernel"),
        ({"kernel": "vmlinuz"}, "kernel is 'vmlinuz': must be an absolute path"),
        ({"disks": [{"path": "/a", "format": "qed"}]}, r"disks[0].format is 'qed'; allowed: 'raw', 'qcow2'"),
        ({"disks": [{"path": "a", "format": "raw"}]}, r"disks[0].path is 'a': must be an absolute path"),
        ({"disks": [{"path": "/a", "format": "raw", "x": 1}]}, r"disks[0].x is no key here; there are path, format"),
        ({"disks": [{"format": "raw"}]}, r"disks[0].path is missing"),
        ({"disks": [{"path": "/a", "format": "raw"}] * 2}, "disks: the same path twice"),
        ({"nics": [{"bridge": "br0", "mac": "x"}]}, r"nics[0].mac is 'x': must be a MAC address"),
        ({"nics": [{"bridge": "br0", "mac": "01:00:00:00:00:00"}]}, "is a group address"),
        ({"nics": [{"bridge": "a-bridge-with-a-long-name"}]}, r"nics[0].bridge is"),
        ({"address": "not an address"}, "address is 'not an address': must be an IP address or a host name"),
        ({"qemu": "qemu; reboot"}, "qemu is 'qemu; reboot': must be a program's name"),
        ({"extra_arguments": ["-S"]}, "must not hold -S: Godwit gives it itself"),
        ({"extra_arguments": ["-zork"]}, "-zork is no option of QEMU"),
        ({"extra_arguments": ["-m"]}, "-m lacks its value"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(change: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidDefinitionError) as caught:
        make_definition({**MINIMAL, **change}, "web1.toml")
    assert caught.value.message.startswith("web1.toml: ")
    assert words in caught.value.message


def test_broken_toml_is_named_with_line_and_column() -> None:
    with pytest.raises(InvalidDefinitionError, match=r"web1\.toml is no TOML: .*line 2, column 10"):
        load_definition('name = "a"\nmemory = \n', "web1.toml")


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(InvalidDefinitionError) as caught:
        make_definition({"name": "", "vcpus": -1}, "x")
    assert [part.split()[0] for part in caught.value.message.removeprefix("x: ").split("; ")] == [
        "name",
        "memory",
        "vcpus",
    ]


def test_a_machine_without_a_pcs_pci_is_refused() -> None:
    with pytest.raises(InvalidDefinitionError, match="microvm"):
        to_vm(make_definition(dict(MINIMAL), "x"), host="h", machine="microvm", accelerator="tcg")


@given(st.text(max_size=80))
def test_valid_names_hold_nothing_that_a_path_or_a_list_minds(name: str) -> None:
    try:
        valid_name(name)
    except ValueError:
        return
    assert name.isascii()
    assert not set(name) & set("/, =;'\"\\\n")
    assert ".." not in name
    assert len(f"/run/godwit/{name}/control.sock") < 108


@given(st.from_regex(r"[a-z0-9]{1,64}", fullmatch=True), st.from_regex(r"[a-z0-9]{1,64}", fullmatch=True))
def test_macs_and_taps_follow_from_the_name(one: str, other: str) -> None:
    definition = make_definition({**MINIMAL, "name": one, "nics": [{"bridge": "br0"}, {"bridge": "br0"}]}, "x")
    assert mac_of(definition, 0) != mac_of(definition, 1)
    assert mac_of(definition, 0).startswith("52:54:00:")
    assert len(tap_name(one, 99)) <= 15
    assert (tap_name(one, 0) == tap_name(other, 0)) == (one == other)


def test_a_macvtap_is_opened_for_qemu_and_a_tap_by_it() -> None:
    nics = [{"macvtap": "eth0"}, {"bridge": "br0"}, {"macvtap": "eth1", "mode": "passthru", "mac": "52:54:00:00:00:09"}]
    definition = make_definition({**MINIMAL, "nics": nics}, "x")
    vm = to_vm(definition, host="h", machine="pc-q35-10.0", accelerator="kvm")
    first, second, third = vm.launch.taps
    assert first.macvtap == Macvtap("eth0", "bridge", mac_of(definition, 0), 3)
    assert (second.bridge, second.macvtap) == ("br0", None)
    assert third.macvtap == Macvtap("eth1", "passthru", "52:54:00:00:00:09", 4)
    netdevs = [after for word, after in zip(vm.launch.argv, vm.launch.argv[1:], strict=False) if word == "-netdev"]
    assert netdevs == [
        "tap,id=net0,fd=3,vhost=on",
        f"tap,id=net1,ifname={second.interface},script=no,downscript=no,vhost=on",
        "tap,id=net2,fd=4,vhost=on",
    ]


@pytest.mark.parametrize(
    ("nics", "words"),
    [
        ([{}], "either a bridge or a macvtap"),
        ([{"bridge": "br0", "macvtap": "eth0"}], "either a bridge or a macvtap"),
        ([{"bridge": "br0", "mode": "vepa"}], "a mode only with a macvtap"),
        ([{"macvtap": "eth0", "mode": "source"}], "allowed: 'bridge', 'private', 'vepa', 'passthru'"),
        ([{"macvtap": "eth 0"}], "a network interface's name"),
        ([{"macvtap": "eth0"}, {"macvtap": "eth0", "mode": "passthru"}], "has eth0 for itself"),
        ([{"macvtap": "eth0"}] * 8, "8 with a macvtap; there may be 7"),
    ],
)
def test_a_macvtap_that_cannot_be_is_named(nics: list[dict[str, str]], words: str) -> None:
    with pytest.raises(InvalidDefinitionError, match=words):
        make_definition({**MINIMAL, "nics": nics}, "x")
