"""What a host says of its huge pages, limits, listeners and the like: read where it makes sense, else not known."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.hosts import factsparse, resources
from godwit.hosts.resources import parse_models, parse_resources
from godwit.model import CpuModel, HostResources, HugeMount, HugePages, ListenerFacts

MIB = 1 << 20
SAID = {
    "meminfo": "MemTotal:  9 kB\nHugepagesize:       2048 kB",
    "huge-pages": "1048576 4 0 0 0\n2048 100 30 50 20 140\nbad\n2048 1 2 3",
    "huge-mounts": (
        "hugetlbfs /dev/hugepages hugetlbfs rw,relatime,pagesize=2M 0 0\n"
        "none /mnt/my\\040pages hugetlbfs rw,pagesize=1024M 0 0\n"
        "none /plain hugetlbfs rw 0 0\n"
        "tmpfs /x tmpfs rw 0 0"
    ),
    "nodes": "0-1",
    "cpus": "0-3,8",
    "limits": "8192 1024 524288",
    "capabilities": "CapEff:\t0000000000000000",
    "listening": (
        "LISTEN 0 128 0.0.0.0:22 0.0.0.0:*\nLISTEN 0 5 [::1]:5901 [::]:*\nLISTEN 0 5 *:80 *:*\n"
        "LISTEN 0 5 127.0.0.1%lo:53 0.0.0.0:*\nLISTEN 0 5 1.2.3.4:99999 *:*\nrubbish"
    ),
    "confinement": "SELinux\nqemu-system-x86_64 (enforce)",
    "denials": (
        "1700086400\n"
        '[ 1.5] audit: type=1400 audit(1700000000.123:44): apparmor="DENIED" comm="qemu-system-x86" name="/old"\n'
        '[ 9.5] audit: type=1400 audit(1700000001.123:45): apparmor="DENIED" comm="qemu-system-x86" name="/srv/x"\n'
        "type=AVC msg=audit(1700086399.5:9): avc:  denied  { read } for pid=1 scontext=svirt_t\n"
        "qemu: no stamp"
    ),
    "bridged-firewall": "1",
}


def test_all_of_it_is_read() -> None:
    found = parse_resources(SAID)
    assert found.huge_pages == (HugePages(1024 * MIB, 4), HugePages(2 * MIB, 100, 120))
    assert found.huge_mounts == (
        HugeMount("/dev/hugepages", 2 * MIB),
        HugeMount("/mnt/my pages", 1024 * MIB),
        HugeMount("/plain", 0),
    )
    assert found.huge_default == 2 * MIB
    assert found.nodes == {0, 1}
    assert found.cpus == {0, 1, 2, 3, 8}
    assert (found.locked_memory, found.open_files, found.open_files_hard) == (8 * MIB, 1024, 524288)
    assert found.listeners == (
        ListenerFacts("", 22),
        ListenerFacts("::1", 5901),
        ListenerFacts("", 80),
        ListenerFacts("127.0.0.1", 53),
    )
    assert found.confinement == ("SELinux", "qemu-system-x86_64 (enforce)")
    assert found.denials == (
        'apparmor="DENIED" comm="qemu-system-x86" name="/srv/x"',
        "avc:  denied  { read } for pid=1 scontext=svirt_t",
    )
    assert found.tracks_bridged


@pytest.mark.parametrize(
    ("limits", "capabilities"),
    [("unlimited unlimited unlimited", ""), ("8192 unlimited unlimited", "CapEff:\t000001ffffffffff"), ("", "")],
)
def test_no_limit_is_none(limits: str, capabilities: str) -> None:
    found = parse_resources({"limits": limits, "capabilities": capabilities})
    assert (found.locked_memory, found.open_files, found.open_files_hard) == (None, None, None)


def test_a_host_that_says_nothing_is_not_known() -> None:
    assert parse_resources({}) == HostResources()


@given(st.dictionaries(st.sampled_from(sorted(SAID)), st.text(max_size=80) | st.sampled_from(sorted(SAID.values()))))
def test_a_host_may_say_anything(said: dict[str, str]) -> None:
    parse_resources(said)
    parse_models(said.get("listening", ""))


DEFINITIONS = """{"return": [
  {"name": "Broadwell", "typename": "x", "unavailable-features": ["hle", "rtm"], "static": false},
  {"name": "silent"}, {"name": 7, "unavailable-features": []}, {"name": "a b", "unavailable-features": []}, 9,
  {"name": "qemu64", "unavailable-features": [3, "bad flag"]}]}"""


def test_models_are_those_of_which_qemu_says_what_they_lack() -> None:
    assert parse_models(DEFINITIONS) == (CpuModel("Broadwell", frozenset({"hle", "rtm"})), CpuModel("qemu64"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"return": {}}', '{"error": {}}', "qemu: no"])
def test_what_is_no_list_of_models_has_none(text: str) -> None:
    assert parse_models(text) == ()


def test_this_machine_answers_the_script() -> None:
    script = 'set -u\nsection() { echo "== $1"; }\n' + resources.LIST
    completed = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False, timeout=30)
    assert completed.stderr == ""
    said = factsparse.split_sections(completed.stdout)
    assert set(SAID) - {"meminfo"} <= set(said)
    found = parse_resources(said)
    assert 0 in found.cpus
    assert found.open_files is None or found.open_files > 0


def test_vlans_of_bridges_are_those_of_what_is_plugged_into_them() -> None:
    links = """[
      {"ifname": "br0", "mtu": 1500, "flags": ["UP"],
       "linkinfo": {"info_kind": "bridge", "info_data": {"vlan_filtering": 1}}},
      {"ifname": "eth0.7", "mtu": 1500, "master": "br0", "linkinfo": {"info_kind": "vlan", "info_data": {"id": 7}}},
      {"ifname": "eth0.9", "mtu": 1500, "linkinfo": {"info_kind": "vlan", "info_data": {"id": 9}}},
      {"ifname": "br1", "mtu": 1500, "linkinfo": {"info_kind": "bridge"}}]"""
    first, second = factsparse.parse_network(links).bridges
    assert (first.vlan_filtering, first.vlans) == (True, (7,))
    assert (second.vlan_filtering, second.vlans) == (False, ())
