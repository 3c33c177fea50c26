"""Devices of simulated guests and hosts: ports that fill up, guests that do not let go, functions that change hands."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from godwit.errors import BusyError, HostError, HypervisorError, InputError
from godwit.model import DiskPlan, NicPlan, PciFunction, PluggedDevice, Tap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from godwit.hosts.fakeqemu import FakeQemu
    from godwit.hosts.fakeworld import FakeWorld
    from godwit.model import DevicePlan

T = TypeVar("T")

PORTS: Final = ("hotplug0", "hotplug1", "hotplug2", "hotplug3")


class FakePlugs:
    """What a simulated guest's monitor does of `godwit.ports.HotPlugs`; devices stand in its command line."""

    _qemu: FakeQemu
    _world: FakeWorld

    async def _tell(self, command: str, act: Callable[[], T]) -> T:
        raise NotImplementedError

    async def devices(self) -> tuple[PluggedDevice, ...]:
        """Return the devices that were plugged in."""
        return await self._tell("qom-list", lambda: tuple(devices_of(self._qemu)))

    async def names_in_use(self) -> frozenset[str]:
        """Return the names that are taken."""
        return frozenset(one.identifier for one in await self.devices())

    async def plug(self, plan: DevicePlan, *, tap: str = "", vhost: bool = False) -> PluggedDevice:
        """Plug a device into the first free port."""
        del vhost
        return await self._tell("device_add", lambda: _plug(self._qemu, plan, tap))

    async def unplug(self, identifier: str, *, deadline: float) -> PluggedDevice | None:
        """Let the guest let go of a device, unless it is one that holds on to it (`FakeWorld.holds_on`)."""
        qemu = self._qemu
        found = await self._tell("device_del", lambda: _find(qemu, identifier))
        if (qemu.vm.name, identifier) in self._world.holds_on:
            await self._world.clock.sleep(deadline)
            message = f"{qemu.vm.name} has not let go of {identifier} within {deadline:g} s: it keeps it"
            raise HypervisorError(message, remedy="see in the guest that nothing uses it")
        return await self._tell("netdev_del", lambda: _remove(qemu, found))

    async def plugged(self) -> frozenset[str]:
        """Return the names of the devices that the guest has."""
        return await self._tell("qom-list", lambda: frozenset(self._qemu.direct.there))

    async def properties(self, identifier: str) -> str:
        """Return what `put_back` needs to make a device again."""
        return await self._tell("qom-get", lambda: self._qemu.direct.properties(identifier))

    async def let_go(self, identifier: str) -> None:
        """Ask the guest to let go of a device; whether it does is up to it (`Workload.lets_go`)."""
        await self._tell("device_del", lambda: self._qemu.direct.let_go(identifier))

    async def put_back(self, properties: str) -> None:
        """Plug a device in again."""
        await self._tell("device_add", lambda: self._qemu.direct.put_back(properties))


def devices_of(qemu: FakeQemu) -> Iterator[PluggedDevice]:
    """Read the devices in a command line."""
    for option, value in zip(qemu.launch.argv, qemu.launch.argv[1:], strict=False):
        if option == "-device" and value.startswith("{"):
            said = json.loads(value)
            yield PluggedDevice(
                identifier=said["id"],
                driver=said["driver"],
                kind="nic" if "netdev" in said else "disk" if "drive" in said else "function",
                bus=said["bus"],
                mac=said.get("mac", ""),
                backend=said.get("netdev") or said.get("drive") or "",
                source=said["source"],
                removable=True,
                added=True,
            )


def _plug(qemu: FakeQemu, plan: DevicePlan, tap: str) -> PluggedDevice:
    used = {one.bus for one in devices_of(qemu)}
    bus = next((port for port in PORTS if port not in used), None)
    if bus is None:
        message = f"{qemu.vm.name} has no free port: {', '.join(PORTS)} are taken"
        raise HypervisorError(message, remedy="take another device out (godwit device detach)")
    said = {"id": plan.identifier, "bus": bus}
    more: tuple[str, ...] = ()
    launch = qemu.launch
    if isinstance(plan, NicPlan):
        said |= {"driver": plan.model, "netdev": f"{plan.identifier}-net", "mac": plan.mac, "source": tap}
        launch = replace(launch, taps=(*launch.taps, Tap(tap, plan.bridge)))
    elif isinstance(plan, DiskPlan):
        if qemu.world.file(plan.path, qemu.host.name) is None:
            qemu.refuse("blockdev-add", f"Could not open '{plan.path}': No such file or directory")
        said |= {"driver": "virtio-blk-pci", "drive": f"{plan.identifier}-format", "source": plan.path}
        more = ("-drive", f"if=none,id={plan.identifier}-format,file={plan.path}")
    else:
        said |= {"driver": "vfio-pci", "host": plan.address, "source": plan.address}
        qemu.direct.there[plan.identifier] = dict(said)
    qemu.launch = replace(launch, argv=(*launch.argv, *more, "-device", json.dumps(said)))
    return _find(qemu, plan.identifier)


def _find(qemu: FakeQemu, identifier: str) -> PluggedDevice:
    found = {one.identifier: one for one in devices_of(qemu)}
    if identifier not in found:
        message = f"{qemu.vm.name} has no device {identifier!r}; it has: {', '.join(found) or 'none'}"
        raise InputError(message, remedy=f"godwit device list {qemu.vm.name}")
    return found[identifier]


def _remove(qemu: FakeQemu, device: PluggedDevice) -> PluggedDevice:
    qemu.direct.there.pop(device.identifier, None)
    drive = f"if=none,id={device.backend},file={device.source}"
    argv: list[str] = []
    for word in qemu.launch.argv:
        if word == drive or (word.startswith("{") and json.loads(word).get("id") == device.identifier):
            argv.pop()  # the option whose value it is
        else:
            argv.append(word)
    taps = tuple(tap for tap in qemu.launch.taps if tap.interface != device.source)
    qemu.launch = replace(qemu.launch, argv=tuple(argv), taps=taps)
    return device


class FakeGiving:
    """What a simulated host does of `godwit.ports.GivesDevices`; `pci` are its network functions, `made` its taps."""

    world: FakeWorld
    _bridges: tuple[str, ...]

    def __init__(self) -> None:
        """Begin without any."""
        self.pci: dict[str, PciFunction] = {}
        self.made: set[str] = set()
        self._addressed: dict[str, tuple[str, int]] = {}

    @property
    def name(self) -> str:
        """The name under which the host is registered."""
        raise NotImplementedError

    async def _reach(self) -> None:
        raise NotImplementedError

    async def plug_taps(self, taps: Sequence[Tap]) -> None:
        """Make taps on bridges that there are."""
        await self._reach()
        for tap in taps:
            if tap.bridge not in self._bridges:
                message = f"{self.name} has no bridge {tap.bridge}, which the guest's interface {tap.interface} needs"
                raise HostError(message, remedy=f"make it on the host: ip link add {tap.bridge} type bridge")
            self.made.add(tap.interface)

    async def remove_taps(self, interfaces: Sequence[str]) -> None:
        """Remove taps."""
        await self._reach()
        self.made -= set(interfaces)

    async def functions(self) -> tuple[PciFunction, ...]:
        """Return the functions that were planted."""
        await self._reach()
        return tuple(self.pci.values())

    async def take_function(self, address: str, vm: str, *, mac: str = "", vlan: int = 0) -> None:
        """Bind a function to vfio-pci."""
        await self._reach()
        one = self.pci.get(address)
        if one is None:
            message = f"{self.name} has no PCI function {address}"
            raise HostError(message, remedy="godwit host devices names those that there are")
        if one.guest not in {"", vm}:
            message = f"{address} of {self.name} is {one.guest}'s"
            raise BusyError(message, remedy=f"take another one, or: godwit device list {one.guest}")
        if not one.guest:
            self._addressed[address] = (one.mac, one.vlan)
            one = replace(one, guest=vm, former=one.driver, driver="vfio-pci")
        self.pci[address] = replace(one, mac=mac or one.mac, vlan=vlan if mac else one.vlan)

    async def give_back_functions(self, vm: str, address: str = "") -> tuple[str, ...]:
        """Give functions back to their former drivers."""
        await self._reach()
        return self.return_functions(vm, address)

    def return_functions(self, vm: str, address: str = "") -> tuple[str, ...]:
        """Give functions back at once, as the end of a guest does."""
        mine = [one for one in self.pci.values() if one.guest == vm and address in {"", one.address}]
        for one in mine:
            mac, vlan = self._addressed.pop(one.address, ("", 0))
            self.pci[one.address] = replace(one, guest="", former="", driver=one.former, mac=mac, vlan=vlan)
        return tuple(one.address for one in mine)
