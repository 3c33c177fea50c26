"""Devices of running guests: what a guest's QEMU and its host are asked for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.model import DevicePlan, PciFunction, PluggedDevice, Tap


class HotPlugs(Protocol):
    """A running guest into which devices can be plugged. Raises as `Guest` does."""

    async def devices(self) -> tuple[PluggedDevice, ...]:
        """Return the devices that have a name, ports left out."""
        ...

    async def names_in_use(self) -> frozenset[str]:
        """Return the names that a new device, or what is behind it, cannot have."""
        ...

    async def plug(self, plan: DevicePlan, *, tap: str = "", vhost: bool = False) -> PluggedDevice:
        """Plug a device in under the identifier of its plan; a NIC's `tap` is there already.

        What was made for a device that QEMU refuses is undone. Raises HypervisorError where no port is free.
        """
        ...

    async def unplug(self, identifier: str, *, deadline: float) -> PluggedDevice | None:
        """Let the guest let go of a device, within `deadline` seconds, and remove what was behind it in QEMU.

        Returns None where the device was gone already and only that was left. Raises InputError for a name that nothing
        has, HypervisorError where the guest does not let go.
        """
        ...

    async def plugged(self) -> frozenset[str]:
        """Return the names of all devices that the guest has, ports among them."""
        ...

    async def properties(self, identifier: str) -> str:
        """Return what `put_back` needs to make a device again, as it is now. Raises HypervisorError for none such."""
        ...

    async def let_go(self, identifier: str) -> None:
        """Ask the guest to let go of a device, of which nothing else is removed; `plugged` tells when it has.

        Idempotent. One that is not there is none the worse.
        """
        ...

    async def put_back(self, properties: str) -> None:
        """Plug a device in again whose backend is there, as `device_add` takes it in JSON.

        Raises MonitorCommandError where its name is taken.
        """
        ...


class GivesDevices(Protocol):
    """A host that gives devices to guests. Raises HostError."""

    async def plug_taps(self, taps: Sequence[Tap]) -> None:
        """Make taps and plug them into their bridges. Idempotent."""
        ...

    async def remove_taps(self, interfaces: Sequence[str]) -> None:
        """Remove taps; an interface of another kind is left alone. Idempotent."""
        ...

    async def functions(self) -> tuple[PciFunction, ...]:
        """Return the host's PCI network functions."""
        ...

    async def take_function(self, address: str, vm: str, *, mac: str = "", vlan: int = 0) -> None:
        """Take a PCI function from the host for a guest, with that MAC and VLAN where one is given. Idempotent.

        Raises BusyError for another guest's.
        """
        ...

    async def give_back_functions(self, vm: str, address: str = "") -> tuple[str, ...]:
        """Give a function that a guest had, or all of them, back to the host's drivers; returns which. Idempotent."""
        ...
