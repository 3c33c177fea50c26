"""PCI functions of a host: listed, taken for a guest and given back, over a tree that behaves as the kernel's does."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sysfstree import DISK, FREE_PF, HOST_PF, VFS, Tree, build

from godwit.core.devices import with_pools
from godwit.errors import BusyError, HostError, InputError
from godwit.hosts import functions
from godwit.hosts.local import LocalTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from godwit.model import PciFunction

MAC = "52:54:00:12:34:56"
HERE = LocalTransport("h1")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tree]:
    made = build(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    yield made
    made.stop()


async def listed(tree: Tree) -> dict[str, PciFunction]:
    return {one.address: one for one in await functions.look(HERE, root=str(tree.root))}


async def test_network_functions_are_listed_with_what_they_hang_on(tree: Tree) -> None:
    found = await listed(tree)
    assert list(found) == [HOST_PF, FREE_PF, *VFS]
    assert DISK not in found
    own, second = found[HOST_PF], found[VFS[1]]
    assert (own.kind, own.driver, own.group, own.interfaces, own.up) == ("8086:1572", "i40e", "40", ("ens1f0",), True)
    assert (own.vfs, own.vfs_total, own.physical) == (2, 64, "")
    assert (second.kind, second.physical, second.number, second.up) == ("8086:154c", HOST_PF, 1, False)
    assert (found[FREE_PF].vfs_total, found[FREE_PF].up, found[FREE_PF].guest) == (0, False, "")


async def test_a_virtual_function_is_taken_with_its_address_and_given_back(tree: Tree) -> None:
    root = str(tree.root)
    for _ in range(2):  # who died between asking and hearing asks again
        await functions.take(HERE, "web1", VFS[1], mac=MAC, vlan=7, root=root)
        assert tree.driver(VFS[1]) == "vfio-pci"
    assert f"link set dev ens1f0 vf 1 mac {MAC}" in tree.ip_calls()
    assert "link set dev ens1f0 vf 1 vlan 7" in tree.ip_calls()
    one = (await listed(tree))[VFS[1]]
    assert (one.guest, one.former, one.driver) == ("web1", "iavf", "vfio-pci")
    with pytest.raises(BusyError, match="is web1's"):
        await functions.take(HERE, "web2", VFS[1], root=root)
    assert await functions.give_back(HERE, "web2", root=root) == ()
    assert tree.driver(VFS[1]) == "vfio-pci"
    assert await functions.give_back(HERE, "web1", VFS[1], root=root) == (VFS[1],)
    assert tree.driver(VFS[1]) == "iavf"
    assert (tree.device(VFS[1]) / "driver_override").read_text().strip() == ""
    assert "link set dev ens1f0 vf 1 mac 00:00:00:00:00:00" in tree.ip_calls()
    assert (await listed(tree))[VFS[1]].guest == ""
    assert await functions.give_back(HERE, "web1", root=root) == ()


async def test_what_a_virtual_function_had_before_it_has_again(tree: Tree) -> None:
    (tree.root / "ip.shows").write_text(
        "5: ens1f0: <BROADCAST,UP> mtu 1500\n"
        "    vf 0     link/ether 02:00:00:00:00:01 brd ff:ff:ff:ff:ff:ff, spoof checking on\n"
        "    vf 1     link/ether 02:00:00:00:00:02 brd ff:ff:ff:ff:ff:ff, vlan 30, spoof checking on\n"
    )
    root = str(tree.root)
    await functions.take(HERE, "web1", VFS[1], mac=MAC, root=root)
    await functions.give_back(HERE, "web1", root=root)
    assert tree.ip_calls()[-2:] == [
        "link set dev ens1f0 vf 1 mac 02:00:00:00:00:02",
        "link set dev ens1f0 vf 1 vlan 30",
    ]
    before = tree.ip_calls()
    await functions.take(HERE, "web1", VFS[1], root=root)
    await functions.give_back(HERE, "web1", root=root)
    assert tree.ip_calls() == before, "nobody asked for another address"


@pytest.mark.parametrize("former", ["vfio-pci", ""])
async def test_a_function_that_no_driver_of_the_host_had_is_given_back_as_it_was(tree: Tree, former: str) -> None:
    root, link = str(tree.root), tree.device(VFS[1]) / "driver"
    link.unlink()
    if former:
        (tree.device(VFS[1]) / "driver_override").write_text("vfio-pci\n")
        tree.bind(VFS[1], former)
    await functions.take(HERE, "web1", VFS[1], root=root)
    assert tree.driver(VFS[1]) == "vfio-pci"
    await functions.take(HERE, "web1", VFS[0], root=root)
    assert set(await functions.give_back(HERE, "web1", root=root)) == set(VFS)
    assert [tree.driver(one) for one in VFS] == ["iavf", former]
    assert (tree.device(VFS[1]) / "driver_override").read_text().strip() == former


async def test_a_function_that_a_process_has_open_is_not_taken(tree: Tree) -> None:
    (tree.device(VFS[1]) / "driver").unlink()
    tree.bind(VFS[1], "vfio-pci")
    descriptor = tree.root / "proc/4711/fd/9"
    descriptor.parent.mkdir(parents=True)
    for opened in ("/dev/vfio/61", "/dev/vfio/devices/vfio3"):
        (tree.device(VFS[1]) / "vfio-dev/vfio3").mkdir(parents=True, exist_ok=True)
        descriptor.unlink(missing_ok=True)
        descriptor.symlink_to(opened)
        assert (await listed(tree))[VFS[1]].held
        with pytest.raises(HostError, match="open in a process"):
            await functions.take(HERE, "web1", VFS[1], mac=MAC, root=str(tree.root))
    assert tree.ip_calls() == []
    descriptor.unlink()
    descriptor.symlink_to("/dev/vfio/6")
    await functions.take(HERE, "web1", VFS[1], root=str(tree.root))


async def test_a_guest_that_has_ended_gives_back_all_that_it_had(tree: Tree) -> None:
    root = str(tree.root)
    for address in (*VFS, FREE_PF):
        await functions.take(HERE, "web1", address, root=root)
    assert sorted(await functions.give_back(HERE, "web1", root=root)) == sorted((*VFS, FREE_PF))
    assert [tree.driver(one) for one in (*VFS, FREE_PF)] == ["iavf", "iavf", "i40e"]


SAID = """[{"ifname":"ens1f0","vfinfo_list":[
{"vf":0,"address":"00:00:00:00:00:00","vlan_list":[{"vlan":0}]},
{"vf":1,"address":"52:54:00:00:00:07","vlan_list":[{"vlan":5}]}]}]"""


async def test_mac_and_vlan_of_a_virtual_function_are_those_that_its_physical_one_lets_it_use(tree: Tree) -> None:
    (tree.root / "ip.says").write_text(SAID)
    found = await listed(tree)
    assert [(found[one].mac, found[one].vlan) for one in (*VFS, FREE_PF)] == [
        ("", 0),
        ("52:54:00:00:00:07", 5),
        ("", 0),
    ]


@pytest.mark.parametrize("said", ["", "{}", "[]", "[{}]", "[{}", '[{"vfinfo_list":[{"vf":1,"vlan_list":7}]}]'])
def test_an_ip_that_says_less_is_heard_out(said: str) -> None:
    assert set(functions.parse_virtual(said).values()) <= {("", 0)}


def test_an_older_ip_has_other_words() -> None:
    assert functions.parse_virtual('[{"vfinfo_list":[{"vf":3,"mac":"52:54:00:00:00:07","vlan":5}]}]') == {
        "3": ("52:54:00:00:00:07", 5)
    }


async def test_one_that_some_process_has_open_is_not_free(tree: Tree) -> None:
    """A QEMU that Godwit does not know has no record here, and holds the group all the same."""
    root = str(tree.root)
    await functions.take(HERE, "web1", VFS[0], root=root)
    assert not (await listed(tree))[VFS[0]].held
    opened = tree.root / "proc/77/fd"
    opened.mkdir(parents=True)
    (opened / "9").symlink_to("/dev/vfio/60")
    found = await listed(tree)
    assert [found[one].held for one in VFS] == [True, False]
    assert [one.free for one in with_pools([replace(found[one], guest="") for one in VFS], ())] == [False, True]


def no_vfio(tree: Tree) -> None:
    place = tree.pci / "drivers" / "vfio-pci"
    (place / "unbind").unlink()
    place.rmdir()


def no_iommu(tree: Tree) -> None:
    (tree.device(VFS[0]) / "iommu_group").unlink()


def crowded(tree: Tree) -> None:
    (tree.root / "sys/kernel/iommu_groups/60/devices" / FREE_PF).symlink_to(tree.device(FREE_PF))


def refused_by_ip(tree: Tree) -> None:
    (tree.root / "ip.fails").touch()


def used(tree: Tree) -> None:
    (tree.device(VFS[0]) / "net/ens1f0v0/flags").write_text("0x1003\n")


BROKEN = {
    "no driver": (no_vfio, "has no driver vfio-pci", "modprobe vfio-pci"),
    "no IOMMU": (no_iommu, "has no IOMMU", "intel_iommu=on"),
    "a group with others": (crowded, f"{FREE_PF} .i40e. is in the same IOMMU group", "another slot"),
    "in use": (used, "its interface is up", "ip link set"),
    "no rights": (refused_by_ip, "cannot set the MAC or VLAN of 0000:3b:02.0 on ens1f0: RTNETLINK", "root"),
    "a driver that does not let go": (lambda tree: tree.deaf.add("iavf"), "from its driver iavf", "see who uses it"),
    "a driver that does not take it": (lambda tree: tree.deaf.add("vfio-pci"), "has not bound", "dmesg"),
}


@pytest.mark.parametrize("row", BROKEN)
async def test_what_is_in_the_way_is_named_and_undone(tree: Tree, row: str) -> None:
    breaks, words, mend = BROKEN[row]
    act: Callable[[Tree], object] = breaks
    act(tree)
    root = str(tree.root)
    with pytest.raises(HostError, match=words) as caught:
        await functions.take(HERE, "web1", VFS[0], mac=MAC, root=root)
    assert mend in caught.value.remedy
    (tree.root / "ip.fails").unlink(missing_ok=True)
    await functions.give_back(HERE, "web1", VFS[0], root=root)
    assert tree.driver(VFS[0]) == "iavf"
    assert (await listed(tree))[VFS[0]].guest == ""


async def test_the_host_s_own_and_unknown_ones_are_not_given_away(tree: Tree) -> None:
    root = str(tree.root)
    with pytest.raises(HostError, match="its interface is up"):
        await functions.take(HERE, "web1", HOST_PF, root=root)
    (tree.device(HOST_PF) / "net/ens1f0/flags").write_text("0x1002\n")
    with pytest.raises(HostError, match="has virtual functions on"):
        await functions.take(HERE, "web1", HOST_PF, root=root)
    with pytest.raises(HostError, match="has no PCI function"):
        await functions.take(HERE, "web1", "0000:ff:00.0", root=root)
    assert tree.driver(HOST_PF) == "i40e"


@pytest.mark.parametrize("address", ["", "3b:00.0", "0000:3b:00.8", "0000:3b:00.0/..", "../../x", "0000:3B:00.0"])
async def test_what_is_no_address_never_reaches_a_host(tree: Tree, address: str) -> None:
    with pytest.raises(InputError, match="no PCI address"):
        await functions.take(HERE, "web1", address, root=str(tree.root))


async def test_a_host_without_pci_has_none(tmp_path: Path) -> None:
    assert await functions.look(HERE, root=str(tmp_path)) == ()


@given(st.text(max_size=300))
def test_a_host_may_say_anything_of_its_functions(said: str) -> None:
    for one in functions.parse_functions(said):
        assert functions.ADDRESS.fullmatch(one.address)


async def test_this_very_machine_s_sysfs_is_read() -> None:
    """The folder tree of the other tests is made up; this one is a kernel's, whatever is in it."""
    for one in await functions.look(HERE):
        assert one.vendor
        assert one.device
        assert not one.guest
