"""Devices that are given to a running guest, and taken from it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DeviceKind = Literal["nic", "disk", "function", "other"]


@dataclass(frozen=True, slots=True)
class NicPlan:
    """A NIC on a bridge of the host; an empty `mac` follows from the guest's and the device's name."""

    bridge: str
    mac: str = ""
    model: str = "virtio-net-pci"
    identifier: str = ""


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """A disk that is an image on the host; `cache` is as in a guest's definition."""

    path: str
    image_format: str
    read_only: bool = False
    cache: str = "none"
    identifier: str = ""


@dataclass(frozen=True, slots=True)
class FunctionPlan:
    """A PCI function of the host that the guest drives itself (vfio-pci), such as a virtual function of a NIC.

    It is named by its `address`, or is any free one of a `pool`; `mac` and `vlan` (0: none) are what its physical
    function lets it use.
    """

    address: str = ""
    pool: str = ""
    mac: str = ""
    vlan: int = 0
    identifier: str = ""


DevicePlan = NicPlan | DiskPlan | FunctionPlan


@dataclass(frozen=True, slots=True)
class PluggedDevice:
    """A device of a running guest that can be called by its name.

    `bus` is the port that it sits in. `backend` is what it takes from QEMU (a network backend or a block node),
    `source` what of the host is behind that: a tap, an image, a PCI address. `removable` says that its place lets it be
    taken out while the guest runs, `added` that it came after the guest's start.
    """

    identifier: str
    driver: str
    kind: DeviceKind = "other"
    bus: str = ""
    mac: str = ""
    backend: str = ""
    source: str = ""
    removable: bool = False
    added: bool = False


@dataclass(frozen=True, slots=True)
class DevicePool:
    """PCI functions of a host under a name: addresses, `ADDRESS/*` for all virtual functions of one, VENDOR:DEVICE."""

    name: str
    functions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PciFunction:
    """A PCI network function of a host, as its sysfs shows it.

    `vendor` and `device` are four hexadecimal digits each. `group` is its IOMMU group, empty without an IOMMU.
    `interfaces` are the host's names for it, `up` says that one of them is in use there. `physical` is the function
    that a virtual one belongs to, `number` its place there; `vfs` of `vfs_total` virtual functions exist. `guest` has
    it by Godwit's doing, and `former` was its driver before; `held` says that a process has its group open, whoever
    that is. `mac` and `vlan` are what its physical function lets a virtual one use, empty and 0 where nothing was set.
    """

    address: str
    vendor: str
    device: str
    driver: str = ""
    group: str = ""
    interfaces: tuple[str, ...] = ()
    up: bool = False
    physical: str = ""
    number: int | None = None
    vfs: int = 0
    vfs_total: int = 0
    guest: str = ""
    former: str = ""
    held: bool = False
    mac: str = ""
    vlan: int = 0

    @property
    def kind(self) -> str:
        """Its vendor and device, as lspci -n writes them."""
        return f"{self.vendor}:{self.device}"
