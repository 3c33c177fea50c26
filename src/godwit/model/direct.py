"""Devices that do not travel with their guest: how each is dealt with, and what it takes to plug it in again."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DevicePolicy(StrEnum):
    """What becomes of a device when its guest moves."""

    FAILOVER = "failover"
    """QEMU takes the NIC out and puts it in again itself; its virtio partner carries the traffic meanwhile."""
    UNPLUG = "unplug"
    """Godwit takes it out before the stream, and puts its match in on the target; the guest gets by without it."""
    REFUSE = "refuse"
    """The guest does not move."""


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """What somebody chose for a device. `match` says what may stand for it on the target, empty for one of its kind.

    That is a PCI address there (0000:3b:02.1), a vendor and device (8086:1520), or the name of a pool of functions.
    """

    device: str
    policy: DevicePolicy
    match: str = ""


@dataclass(frozen=True, slots=True)
class DirectFacts:
    """A device of a running guest that can be taken from it: a NIC, or a part of its host.

    `function` is the PCI address that it has on
    its host, empty for one that QEMU emulates. `tied` says that QEMU does not send it; `pluggable` that it sits where
    a guest can let go of it. `partner` names the virtio NIC that stands in for it by QEMU's own failover.
    """

    name: str
    driver: str
    function: str = ""
    mac: str = ""
    tied: bool = False
    pluggable: bool = True
    partner: str = ""


@dataclass(frozen=True, slots=True)
class DirectDevice:
    """A device that a move takes from the guest, and gives back.

    `here` is what plugs it in again on the source, `there` its match on the target, both for `device_add`; `there` is
    empty where the target has none. `function` is the PCI address of the match, empty for one that QEMU emulates; it
    gets the address and VLAN of the device that it stands for, where that has any.
    """

    name: str
    policy: DevicePolicy
    here: str
    there: str = ""
    function: str = ""
    mac: str = ""
    vlan: int = 0
