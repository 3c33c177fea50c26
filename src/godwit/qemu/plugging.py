"""Plugging devices into a running QEMU, and taking them out: what is said over QMP, and what is waited for.

Rests on QEMU's device_add and device_del (qapi/qdev.json): the first returns when the device is there, the second when
the guest has been asked. DEVICE_DELETED with the device's name says that the guest let go; one with a path alone
speaks of a part of it, and comes before.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from godwit.errors import HypervisorError, InputError, MonitorCommandError, MonitorLostError
from godwit.model import DiskPlan, NicPlan, PluggedDevice
from godwit.qemu import qom
from godwit.qemu.monitor import LOST
from godwit.qemu.reply import as_objects, text
from godwit.qemu.unplugging import let_go

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from godwit.model import DeviceKind, DevicePlan
    from godwit.qemu.monitor import Monitor, MonitorEvents
    from godwit.qemu.qom import Asks, Device

PORTS: Final = frozenset({"pcie-root-port", "ioh3420", "xio3130-downstream"})
"""Bridges with one slot, in which the guest can be given a device, and be asked to let go of one."""

_OLD_ROOT: Final = "pci.0"
_NEW_ROOT: Final = "pcie.0"
_DELETED: Final = "DEVICE_DELETED"
_REFUSED: Final = frozenset({"DEVICE_UNPLUG_GUEST_ERROR", "MEM_UNPLUG_ERROR"})
_CACHES: Final[Mapping[str, Mapping[str, bool]]] = {
    "none": {"direct": True, "no-flush": False},
    "directsync": {"direct": True, "no-flush": False},
    "writeback": {"direct": False, "no-flush": False},
}


def suffixed(identifier: str, part: str) -> str:
    """Return how what is behind a device is called that Godwit plugs in: `nic1-net`, `disk2-format`, `disk2-file`."""
    return f"{identifier}-{part}"


def free_port(vm: str, devices: Sequence[Device], roots: Iterable[str]) -> str | None:
    """Return the bus that a device can be plugged into now: an empty port, or None for a root bus that takes any.

    `roots` are the names of the machine's own buses. Raises HypervisorError where there is none, with the mend.
    """
    used = {device.bus for device in devices}
    ports = [device.identifier for device in devices if device.type in PORTS and device.identifier]
    free = next((port for port in sorted(ports, key=_natural) if port not in used), None)
    if free is not None:
        return free
    if _NEW_ROOT not in roots:
        return None
    message = f"{vm} has no free port: " + (f"{', '.join(sorted(ports, key=_natural))} are taken" if ports else "none")
    raise HypervisorError(
        message,
        remedy="take another device out (godwit device detach), or define the guest with more hotplug_ports and start "
        "it anew: the root bus of a q35 machine takes no devices while the guest runs",
    )


def _natural(name: str) -> tuple[str, int]:
    head = name.rstrip("0123456789")
    return head, int(name[len(head) :] or 0)


def _kind(driver: str, netdev: object, drive: object) -> DeviceKind:
    if driver.startswith("vfio-pci"):
        return "function"
    if netdev:
        return "nic"
    return "disk" if drive else "other"


async def devices_of(monitor: Asks) -> tuple[PluggedDevice, ...]:
    """Return the devices that have a name and sit on a bus, ports and controllers left out."""
    found, clients, block = await asyncio.gather(
        qom.plugged(monitor), qom.network(monitor), monitor.execute("query-block")
    )
    removable = _ports_of(found)
    interfaces = {client.name: client.info.get("ifname", "") for client in clients}
    images = {
        text(row, "qdev"): _image_of(row)
        for row in as_objects(block, "query-block")
        if isinstance(row.get("qdev"), str)
    }
    rows = [device for device in found if device.identifier and device.type not in PORTS]
    return tuple(await asyncio.gather(*(_described(monitor, one, removable, interfaces, images) for one in rows)))


def _ports_of(found: Sequence[Device]) -> frozenset[str]:
    return frozenset(one.identifier for one in found if one.type in PORTS and one.identifier) | {_OLD_ROOT}


def _image_of(row: Mapping[str, object]) -> str:
    inserted = row.get("inserted")
    return text(inserted, "file") if isinstance(inserted, dict) else ""


async def _described(
    monitor: Asks,
    device: Device,
    removable: frozenset[str],
    interfaces: Mapping[str, str],
    images: Mapping[str, str],
) -> PluggedDevice:
    netdev, drive, host = await asyncio.gather(
        *(qom.get(monitor, device.path, name) for name in ("netdev", "drive", "host"))
    )
    kind = _kind(device.type, netdev, drive)
    name = device.identifier or ""
    backend = str(netdev or drive or "")
    image = next((path for qdev, path in images.items() if name in qdev.split("/")), "")
    source = interfaces.get(backend, "") if kind == "nic" else str(host or "") if kind == "function" else image
    return PluggedDevice(
        identifier=name,
        driver=device.type,
        kind=kind,
        bus=device.bus or "",
        mac=device.mac or "",
        backend=backend,
        source=source,
        removable=device.bus in removable,
        added=device.hotplugged,
    )


# -- plugging in -----------------------------------------------------------------------------------------------------


async def names_in_use(monitor: Asks) -> set[str]:
    """Return the names that a new device, or what is behind it, cannot have."""
    devices, clients, nodes, objects = await asyncio.gather(
        qom.children(monitor, qom.PERIPHERAL),
        qom.network(monitor),
        monitor.execute("query-named-block-nodes", {"flat": True}),
        qom.children(monitor, "/objects"),
    )
    named = {text(row, "node-name") for row in as_objects(nodes, "query-named-block-nodes")}
    return {*devices, *objects, *named, *(client.name for client in clients)}


async def plug(monitor: Asks, vm: str, plan: DevicePlan, *, tap: str = "", vhost: bool = False) -> PluggedDevice:
    """Plug a device in; its tap is there already. What was made for it is undone where QEMU refuses it.

    Raises HypervisorError where no port is free, MonitorCommandError with QEMU's own words.
    """
    devices = await qom.plugged(monitor)
    roots = {device.bus or "" for device in devices}
    bus = free_port(vm, devices, roots)
    undo: list[Callable[[], Awaitable[object]]] = []
    try:
        properties = await _make_backend(monitor, plan, undo, tap=tap, vhost=vhost)
        if bus is not None:
            properties["bus"] = bus
        await monitor.execute("device_add", properties)
    except MonitorCommandError:
        for step in reversed(undo):
            with contextlib.suppress(MonitorCommandError):  # QEMU's first refusal is the one to tell
                await step()
        raise
    found = await devices_of(monitor)
    made = next((one for one in found if one.identifier == plan.identifier), None)
    if made is None:
        message = f"QEMU of {vm} accepted {plan.identifier} and does not show it"
        raise HypervisorError(message, remedy=f"godwit device list {vm}")
    return made


async def _make_backend(
    monitor: Asks, plan: DevicePlan, undo: list[Callable[[], Awaitable[object]]], *, tap: str, vhost: bool
) -> dict[str, object]:
    """Make what a device takes from QEMU, note how to remove it in `undo`; returns what device_add needs."""
    name = plan.identifier
    if isinstance(plan, NicPlan):
        netdev = suffixed(name, "net")
        options = {"type": "tap", "id": netdev, "ifname": tap, "script": "no", "downscript": "no"}
        await monitor.execute("netdev_add", {**options, **({"vhost": True} if vhost else {})})
        undo.append(lambda: monitor.execute("netdev_del", {"id": netdev}))
        # No boot ROM: it would be one more thing that must be the same on both hosts.
        return {"driver": plan.model, "id": name, "netdev": netdev, "mac": plan.mac, "romfile": ""}
    if isinstance(plan, DiskPlan):
        for node in _nodes(plan):
            await monitor.execute("blockdev-add", node)
            made = node["node-name"]
            undo.append(lambda made=made: monitor.execute("blockdev-del", {"node-name": made}))  # type: ignore[misc]
        drive = suffixed(name, "format")
        more = {"write-cache": "off"} if plan.cache == "directsync" else {}
        return {"driver": "virtio-blk-pci", "id": name, "drive": drive, **more}
    return {"driver": "vfio-pci", "id": name, "host": plan.address}


def _nodes(plan: DiskPlan) -> tuple[dict[str, object], dict[str, object]]:
    """Return the file below and the format above it, as the disks of a definition have them."""
    if plan.image_format not in {"raw", "qcow2"}:
        message = f"the format of {plan.path} is {plan.image_format!r}; raw and qcow2 can be attached"
        raise InputError(message)
    common = {"read-only": plan.read_only, "discard": "unmap", "cache": dict(_CACHES[plan.cache])}
    file = suffixed(plan.identifier, "file")
    below = {"driver": "file", "node-name": file, "filename": plan.path, **common}
    above = {"driver": plan.image_format, "node-name": suffixed(plan.identifier, "format"), "file": file, **common}
    return below, above


# -- taking out ------------------------------------------------------------------------------------------------------


async def unplug(monitor: Monitor, vm: str, identifier: str, *, deadline: float) -> PluggedDevice | None:
    """Ask the guest to let go of a device, wait `deadline` seconds for it, and remove what was behind it.

    One that is gone already, while what was behind it was left, is tidied up after: None then. Raises InputError for a
    name that nothing has, HypervisorError where the guest does not let go: it keeps the device, and may yet let go.
    """
    known = await devices_of(monitor)
    device = next((one for one in known if one.identifier == identifier), None)
    if device is None:
        if await _remove_own(monitor, identifier):
            return None
        names = ", ".join(one.identifier for one in known) or "none"
        message = f"{vm} has no device {identifier!r}; it has: {names}"
        raise InputError(message, remedy=f"godwit device list {vm}")
    if not device.removable:
        message = f"{identifier} of {vm} cannot be taken out while the guest runs: it sits on {device.bus or 'no bus'}"
        raise InputError(message, remedy="only what sits in a hot-plug port can: godwit device list says which do")
    nodes = await _own_nodes(monitor, identifier, device)
    events = monitor.events()
    await let_go(monitor, identifier)
    try:
        async with asyncio.timeout(deadline):
            await _await_deleted(events, vm, identifier)
    except TimeoutError:
        # Its event may have been overtaken: what QEMU shows is what counts.
        if identifier in await qom.children(monitor, qom.PERIPHERAL):
            raise _kept(vm, identifier, f"within {deadline:g} s") from None
    if device.kind == "nic":
        await _forgiving(monitor, "netdev_del", {"id": device.backend})
    for node in nodes:
        await _forgiving(monitor, "blockdev-del", {"node-name": node})
    return device


async def _await_deleted(events: MonitorEvents, vm: str, identifier: str) -> None:
    async for event in events:
        if event.name == _DELETED and event.data.get("device") == identifier:
            return
        if event.name in _REFUSED and event.data.get("device") == identifier:
            raise _kept(vm, identifier, f"({event.name}: its system refused)")
        if event.name == LOST:
            message = f"the monitor of {vm} went away while the guest was to let go of {identifier}"
            raise MonitorLostError(message, remedy=f"godwit device list {vm}")


def _kept(vm: str, identifier: str, how: str) -> HypervisorError:
    message = f"{vm} has not let go of {identifier} {how}: it keeps it, and may still let go of it"
    remedy = (
        f"see in the guest that nothing uses it (a mounted disk, a driver without hot-plug, a system that has not come "
        f"up); then once more: godwit device detach {vm} {identifier}"
    )
    return HypervisorError(message, remedy=remedy)


async def _own_nodes(monitor: Asks, identifier: str, device: PluggedDevice) -> tuple[str, ...]:
    """Return the block nodes to remove with a disk, the upper one first: those that were made for it."""
    if device.kind != "disk":
        return ()
    ours = (suffixed(identifier, "format"), suffixed(identifier, "file"))
    if device.backend in ours:
        return ours
    used = await names_in_use(monitor)
    return (device.backend,) if device.backend in used and device.added else ()


async def _remove_own(monitor: Asks, identifier: str) -> bool:
    """Remove what Godwit had made for a device that is gone; returns whether there was any."""
    used = await names_in_use(monitor)
    found = False
    for part, command, key in (
        ("net", "netdev_del", "id"),
        ("format", "blockdev-del", "node-name"),
        ("file", "blockdev-del", "node-name"),
    ):
        name = suffixed(identifier, part)
        if name in used:
            found = True
            await _forgiving(monitor, command, {key: name})
    return found


async def _forgiving(monitor: Asks, command: str, arguments: Mapping[str, object]) -> None:
    """Remove something that QEMU may have removed with the device."""
    try:
        await monitor.execute(command, arguments)
    except MonitorCommandError as error:
        if "not found" not in error.message.lower() and "failed to find" not in error.message.lower():
            raise
