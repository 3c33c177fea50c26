"""Devices that a guest lets go of: found on its command line, taken out of it, asked for, and defined."""

from __future__ import annotations

import pytest

from godwit.errors import InvalidDefinitionError, MonitorCommandError
from godwit.model import DeviceChoice, DevicePolicy, DirectFacts, Launch
from godwit.qemu.define import load_definition
from godwit.qemu.unplugging import direct_devices, let_go, with_devices
from godwit.qemu.vmline import to_vm

VFIO = '{"driver":"vfio-pci","id":"hostdev0","bus":"rp2","host":"0000:3b:02.1"}'
LINE = Launch(
    (
        *("qemu-system-x86_64", "-netdev", "tap,id=net1", "-device", "virtio-net-pci,id=nic0,bus=pcie.0,netdev=net0"),
        *("-device", "vmxnet3,id=nic1,bus=rp1,netdev=net1,mac=52:54:00:00:00:01,failover_pair_id=nic0"),
        *("-device", VFIO, "-device", "usb-host,id=stick,bus=xhci.0", "-device", "virtio-blk-pci,id=disk0"),
        *("-device", "e1000e,netdev=net2"),
    )
)


def test_what_can_be_taken_is_found_on_the_command_line() -> None:
    assert direct_devices(LINE) == (
        DirectFacts("nic0", "virtio-net-pci", pluggable=False),
        DirectFacts("nic1", "vmxnet3", mac="52:54:00:00:00:01", partner="nic0"),
        DirectFacts("hostdev0", "vfio-pci", function="0000:3b:02.1", tied=True),
        DirectFacts("stick", "usb-host"),
    )
    assert direct_devices(Launch(("qemu", "--what-is-this"))) == ()


def test_a_device_is_left_out_and_what_it_is_connected_to_stays() -> None:
    there = '{"driver":"vfio-pci","id":"hostdev0","bus":"rp2","host":"0000:03:02.4"}'
    made = with_devices(LINE, {"nic1": "", "hostdev0": there}).argv
    assert not any("vmxnet3" in word for word in made)
    assert "tap,id=net1" in made
    assert there in made
    assert VFIO not in made
    assert with_devices(LINE, {}).argv == LINE.argv


class _Monitor:
    version = (10, 0, 2)

    def __init__(self, words: str) -> None:
        self._words = words

    async def execute(self, command: str, arguments: object = None) -> object:
        assert (command, arguments) == ("device_del", {"id": "nic1"})
        raise MonitorCommandError(self._words)


@pytest.mark.parametrize("words", ["Device 'nic1' not found", "Device nic1 is already in the process of unplug"])
async def test_what_is_gone_or_going_was_asked_for(words: str) -> None:
    await let_go(_Monitor(words), "nic1")


async def test_what_cannot_be_asked_is_said() -> None:
    with pytest.raises(MonitorCommandError, match="hotplugging"):
        await let_go(_Monitor("Bus 'pcie.0' does not support hotplugging"), "nic1")


PAIR = """
name = "web"
memory = "256M"
hotplug_ports = 2
[[nics]]
bridge = "br0"
[[nics]]
bridge = "br0"
model = "vmxnet3"
when_moved = "{when_moved}"
"""


def made(text: str) -> tuple[list[str], tuple[DeviceChoice, ...]]:
    vm = to_vm(load_definition(text, "web.toml"), host="one", machine="pc-q35-10.0", accelerator="tcg")
    return [word for word in vm.launch.argv if ",netdev=" in word], vm.devices


def test_a_nic_that_is_taken_out_sits_in_the_last_port() -> None:
    nics, choices = made(PAIR.format(when_moved="unplug"))
    assert nics[1].startswith("vmxnet3,bus=hotplug1,id=nic1,netdev=net1,")
    assert choices == (DeviceChoice("nic1", DevicePolicy.UNPLUG),)
    assert "failover" not in "".join(nics)


def test_a_pair_has_one_address_and_knows_of_it() -> None:
    nics, choices = made(PAIR.format(when_moved="failover"))
    macs = [pair for word in nics for pair in word.split(",") if pair.startswith("mac=")]
    assert macs[0] == macs[1]
    assert nics[0].endswith(",failover=on")
    assert nics[1].endswith(",failover_pair_id=nic0")
    assert choices == (DeviceChoice("nic1", DevicePolicy.FAILOVER),)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("hotplug_ports = 2", "hotplug_ports = 0"), "1 of them are taken out"),
        (("hotplug_ports = 2", 'hotplug_ports = 2\nmachine = "pc"'), "needs a q35 machine"),
        (('model = "vmxnet3"', 'model = "virtio"'), "one of vmxnet3, e1000e, igb"),
        (('model = "vmxnet3"', 'model = "vmxnet3"\nmac = "52:54:00:00:00:09"'), "the MAC address of the NIC before it"),
        (('[[nics]]\nbridge = "br0"\n[[nics]]', "[[nics]]"), "the NIC before it stands in for it"),
        (("failover", "fly"), "when_moved is 'fly'; allowed: 'travel', 'unplug', 'failover', 'refuse'"),
    ],
)
def test_what_cannot_be_taken_out_is_refused_with_the_reason(change: tuple[str, str], words: str) -> None:
    with pytest.raises(InvalidDefinitionError) as refused:
        made(PAIR.format(when_moved="failover").replace(*change, 1))
    assert words in str(refused.value)
