from __future__ import annotations

import json
from pathlib import Path

import pytest

from godwit.errors import HostError
from godwit.hosts import factsparse
from godwit.hosts.hostfacts import Identity, read_facts
from godwit.model import BridgeFacts, HugeMount, InterfaceFacts, Macvtap, Port, PortVlan, StorageFacts, Tap

RECORDED = Path(__file__).parent / "recorded"


def recorded() -> dict[str, str]:
    return factsparse.split_sections((RECORDED / "facts-qemu-10.0.txt").read_text(encoding="utf-8"))


def test_a_recorded_host_is_read_whole() -> None:
    clock = factsparse.Clock(offset=0.25, uncertainty=0.004)
    facts = read_facts(recorded(), clock, Identity("h1", ""), "198.18.0.11", None)
    assert facts.name == "h1"
    assert facts.hostname == "host1"
    assert facts.kernel == "6.1.0-37-amd64"
    assert facts.cpu_vendor == "GenuineIntel"
    assert {"nx", "lm", "avx2"} <= facts.cpu_flags
    assert facts.cpu_count == 2
    assert facts.memory_total > facts.memory_available > 0
    assert facts.bridges == (BridgeFacts("br0", 1500, up=True),)
    assert facts.qemu is not None
    assert facts.qemu.compressions == ("none", "zlib", "zstd")
    assert facts.accelerators == ("tcg",)
    assert facts.notes == (
        "KVM opens, but a guest hangs in it: a nested or broken virtualisation; TCG is used instead",
    )
    assert facts.can_shorten_send_queue
    assert facts.resources.huge_mounts == (HugeMount("/dev/hugepages", 2 << 20),)
    assert [one.port for one in facts.resources.listeners] == [22, 5901]
    assert facts.resources.locked_memory is None  # root may lock what there is, whatever its limit
    assert {one.name: "rtm" in one.lacks for one in facts.qemu.tcg_models} == {
        **dict.fromkeys(("max", "qemu64", "EPYC"), False),
        **dict.fromkeys(("Broadwell", "Skylake-Client"), True),
    }
    assert facts.qemu.kvm_models == ()
    assert facts.qemu is not None
    assert facts.qemu.version == (10, 0, 2)
    assert ("q35", "pc-q35-10.0") in facts.qemu.machine_aliases
    assert "pc-q35-7.2" in facts.qemu.machine_types
    assert "q35" not in facts.qemu.machine_types
    assert "Supported" not in facts.qemu.machine_types
    assert (facts.clock_offset, facts.migration_address) == (0.25, "198.18.0.11")


def test_storage_is_what_findmnt_says() -> None:
    row = '{"target": "/mnt/images", "source": "filer:/images[/a]", "fstype": "nfs4", "size": 2048, "avail": 1024}'
    hung = '{"target": "/mnt/hung", "source": "filer:/old", "fstype": "nfs", "size": null, "avail": null}'
    assert factsparse.parse_storage(f'{{"filesystems": [{row}, {hung}]}}') == (
        StorageFacts("/mnt/images", "nfs4", "filer:/images[/a]", 2048, 1024),
        StorageFacts("/mnt/hung", "nfs", "filer:/old", 0, 0),
    )


@pytest.mark.parametrize("said", ["", "findmnt: unrecognized option '--real'", "[]", '{"filesystems": [{}]}'])
def test_a_host_that_cannot_tell_of_its_storage_tells_of_none(said: str) -> None:
    assert factsparse.parse_storage(said) == ()


def test_a_host_without_qemu_says_what_is_missing() -> None:
    said = recorded() | {"path": "", "version": "", "accelerators": "", "kvm": "", "compressions": ""}
    facts = read_facts(said, factsparse.Clock(0, 0), Identity("h1", ""), "x", None)
    assert facts.qemu is None
    assert facts.accelerators == ()
    assert facts.notes == ("there is no qemu-system-x86_64 on the PATH, nor /usr/libexec/qemu-kvm",)


def test_a_program_that_is_no_qemu_is_named() -> None:
    said = recorded() | {"path": "/usr/bin/true", "version": "true (GNU coreutils) 9.1"}
    facts = read_facts(said, factsparse.Clock(0, 0), Identity("h1", ""), "x", "true")
    assert facts.qemu is None
    assert facts.notes[0].startswith("/usr/bin/true does not say that it is a QEMU")


def test_a_host_that_answers_nothing_is_an_error_with_the_names_of_what_is_missing() -> None:
    with pytest.raises(HostError, match="kernel, architecture"):
        read_facts({"hostname": "h"}, factsparse.Clock(0, 0), Identity("h1", ""), "x", None)


def test_arm_processors_have_no_model_name() -> None:
    text = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n\nprocessor\t: 1\n"
    processor = factsparse.parse_processor(text)
    assert (processor.vendor, processor.model, processor.count) == ("0x41", "0xd0c", 2)
    assert processor.flags == {"fp", "asimd"}


@pytest.mark.parametrize(
    ("kvm", "usable", "note"),
    [
        ("works", ("kvm", "tcg"), ""),
        ("absent", ("tcg",), "no /dev/kvm"),
        ("forbidden", ("tcg",), "group kvm"),
        ("fails Could not access KVM kernel module: No such device", ("tcg",), "No such device"),
        ("unprobed", ("kvm", "tcg"), "not tried"),
        ("", ("tcg",), ""),
    ],
)
def test_only_accelerators_that_run_a_guest_count(kvm: str, usable: tuple[str, ...], note: str) -> None:
    found, notes = factsparse.parse_accelerators("Accelerators supported in QEMU binary:\ntcg\nkvm\n", kvm)
    assert found == usable
    assert bool(notes) == bool(note)
    assert note in "".join(notes)


def test_the_clock_is_known_to_half_the_round_trip() -> None:
    clock = factsparse.parse_clock(100.0, "103.010000000\n", 100.02)
    assert clock.offset == pytest.approx(3.0)
    assert clock.uncertainty == pytest.approx(0.01)
    with pytest.raises(HostError, match="date"):
        factsparse.parse_clock(1, "1700000000.%N", 2)


def test_masters_of_interfaces_are_found() -> None:
    network = factsparse.parse_network(recorded()["links"])
    assert dict(network.masters)["tap7"] == "br0"
    with pytest.raises(HostError, match="cannot be read"):
        factsparse.parse_network("Option -j is unknown")


def test_global_addresses_come_with_ipv4_first() -> None:
    text = '[{"addr_info":[{"family":"inet6","local":"2001:db8::1"},{"family":"inet","local":"1.2.3.4"}]},{}]'
    assert factsparse.parse_addresses(text) == ("1.2.3.4", "2001:db8::1")
    assert factsparse.parse_addresses("") == ()


@pytest.mark.parametrize("said", ["$(reboot)", "1.2.3.4; reboot", "host2", "1.2.3.4/24", ""])
def test_what_is_no_address_is_no_answer(said: str) -> None:
    with pytest.raises(HostError, match="cannot be read"):
        factsparse.parse_addresses(json.dumps([{"addr_info": [{"family": "inet", "local": said}]}]))


def test_memory_that_is_not_told_is_an_error() -> None:
    with pytest.raises(HostError, match="meminfo"):
        factsparse.parse_memory("MemTotal: 12 kB")


LINKS = """[
    {"ifname":"br0","mtu":1500,"flags":["UP"],"linkinfo":{"info_kind":"bridge","info_data":{"vlan_filtering":1}}},
    {"ifname":"br1","mtu":1500,"flags":["UP"],"linkinfo":{"info_kind":"bridge","info_data":{"vlan_filtering":0}}},
    {"ifname":"tap0","mtu":1500,"flags":[],"master":"br0","linkinfo":{"info_kind":"tun","info_slave_kind":"bridge",
     "info_slave_data":{"state":"forwarding","hairpin":false,"learning":false,"flood":true,"isolated":true}}},
    {"ifname":"tap1","mtu":1500,"flags":[],"master":"br1","linkinfo":{"info_kind":"tun","info_slave_kind":"bridge",
     "info_slave_data":{"hairpin":false,"learning":true}}},
    {"ifname":"eth1","mtu":1500,"flags":[],"master":"bond0","linkinfo":{"info_slave_kind":"bond"}}
]"""
VLANS = """[
    {"ifname":"tap0","vlans":[{"vlan":100,"flags":["PVID","Egress Untagged"]},{"vlan":200,"vlanEnd":210}]},
    {"ifname":"tap1","vlans":[{"vlan":1,"flags":["PVID","Egress Untagged"]}]}
]"""


def test_how_taps_are_plugged_in() -> None:
    network = factsparse.parse_network(LINKS, VLANS)
    vlans = (PortVlan(100, 100, pvid=True, untagged=True), PortVlan(200, 210))

    # Names are in the order in which they are set, and only what is not as usual.
    assert network.plugged(Tap("tap0", "")) == Tap(
        "tap0", "br0", Port(vlans, (("isolated", True), ("learning", False)))
    )
    assert network.plugged(Tap("tap1", "old")) == Tap("tap1", "br1", Port())
    assert network.plugged(Tap("eth1", "")) == Tap("eth1", "bond0", None)
    assert network.plugged(Tap("tap9", "br9")) == Tap("tap9", "br9")


@pytest.mark.parametrize("vlans", ["", "[]", '[{"ifname": "tap9", "vlans": []}]'])
def test_a_host_that_tells_of_no_vlans_has_none(vlans: str) -> None:
    tap = factsparse.parse_network(LINKS, vlans).plugged(Tap("tap0", ""))
    assert tap.port is not None
    assert tap.port.vlans == ()


def test_vlans_that_are_none_are_an_error() -> None:
    with pytest.raises(HostError):
        factsparse.parse_network(LINKS, '[{"ifname": "tap0", "vlans": [{}]}]')


def test_a_macvtap_is_read_back_with_its_parent_and_mode() -> None:
    info = {"info_kind": "macvtap", "info_data": {"mode": "vepa"}}
    links = [
        {"ifname": "eth0", "mtu": 1400, "flags": ["UP"], "link_type": "ether"},
        {"ifname": "gw0", "mtu": 1400, "link": "eth0", "link_type": "ether", "linkinfo": info},
        {"ifname": "tap0", "mtu": 1500, "link_type": "ether", "linkinfo": {"info_kind": "tun"}},
    ]
    own = [{"ifname": "eth0", "addr_info": [{"family": "inet", "local": "192.0.2.7"}]}, {}]
    network = factsparse.parse_network(json.dumps(links), addresses=json.dumps(own))
    assert network.interfaces == (
        InterfaceFacts("eth0", 1400, up=True, addresses=("192.0.2.7",), carried=(("gw0", "vepa"),)),
    )
    tap = Tap("gw0", "", macvtap=Macvtap("eth9", "bridge", "52:54:00:00:00:01", 3))
    assert network.plugged(tap) == Tap("gw0", "", macvtap=Macvtap("eth0", "vepa", "52:54:00:00:00:01", 3))
    gone = Tap("gw1", "", macvtap=Macvtap("eth9", "bridge", "52:54:00:00:00:01", 3))
    assert network.plugged(gone) == gone
