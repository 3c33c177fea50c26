"""Devices that were plugged into a running QEMU, written as options: their properties read back one by one.

A property that has its default is left out; every other one is named, with the value that the device has now. So the
device on the other host is the same even where the user gave values that nobody remembers.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final

from godwit.qemu.options import Option
from godwit.qemu.qom import children, get
from godwit.qemu.reply import as_objects, inner, text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from godwit.qemu.process import ProcessFacts
    from godwit.qemu.qom import Asks, Device, NetworkClient

REFERENCES: Final = {"drive": "block", "netdev": "network", "chardev": "chardev"}
"""Properties that name a backend by text; links name objects."""

_DERIVED: Final = frozenset({"busnr", "class", "hotplugged", "attached"})
"""Set by QEMU itself: the number follows from the bus, the class from the device."""

_READ_ONLY: Final = dict.fromkeys(("pc-dimm", "nvdimm", "virtio-mem-pci", "virtio-pmem-pci"), frozenset({"size"}))
"""Follows from the memory backend, or from what the guest has taken of it, which is in the stream."""

_UNSET: Final = frozenset({"", -1, None})
_MEMORY: Final = ("size", "share", "prealloc", "merge", "dump")
_HUGE: Final = "hugetlbsize"
_OBJECTS: Final[dict[str, tuple[str, ...]]] = {
    "iothread": ("poll-max-ns", "poll-grow", "poll-shrink", "aio-max-batch", "thread-pool-min", "thread-pool-max"),
    "rng-random": ("filename",),
    "rng-builtin": (),
    "memory-backend-ram": _MEMORY,
    "memory-backend-memfd": (*_MEMORY, "hugetlb", "hugetlbsize", "seal"),
    "memory-backend-file": (*_MEMORY, "mem-path", "align", "pmem", "readonly", "discard-data"),
}
_USER_NETWORK: Final = {"net": "10.0.2.0", "restrict": "off"}
_USER_OBJECTS: Final = "/objects/"
_VHOST: Final = "/dev/vhost-net"


class UnknownPlugError(ValueError):
    """Something that was plugged in cannot be written as options exactly; the message says why."""


async def device_properties(monitor: Asks, device: Device) -> dict[str, object]:
    """Return what -device needs to make this very device, as a JSON object."""
    document: dict[str, object] = {"driver": device.type}
    if device.identifier is not None:
        document["id"] = device.identifier
    cpu = await _cpu_place(monitor, device)
    if cpu is not None:
        return {**document, **cpu}
    if device.bus is not None:
        document["bus"] = device.bus
    if device.address is not None:
        document["addr"] = device.address
    rows = list(
        as_objects(await monitor.execute("device-list-properties", {"typename": device.type}), "device-list-properties")
    )
    values = await asyncio.gather(*(get(monitor, device.path, text(row, "name")) for row in rows))
    for row, value in zip(rows, values, strict=True):
        setting = _setting(device, row, value)
        # A PCI device without this property would get its type's own ROM, and ROMs are migrated memory.
        if setting is not None and (_is_set(row, setting) or (text(row, "name") == "romfile" and device.address)):
            document[text(row, "name")] = setting
    return document


def _setting(device: Device, row: Mapping[str, object], value: object) -> object | None:
    """Return a property's value as -device takes it; None for what cannot be set, or sets itself."""
    name, kind = text(row, "name"), text(row, "type")
    if name in _DERIVED or name in _READ_ONLY.get(device.type, ()) or kind.startswith("child<"):
        return None
    if name == "addr" and device.address is not None:
        return None
    if kind.startswith("link<") and isinstance(value, str) and value:
        # What is no object of the user's, the device has made itself and will make again.
        return value.removeprefix(_USER_OBJECTS) if value.startswith(_USER_OBJECTS) else None
    return value


def _is_set(row: Mapping[str, object], value: object) -> bool:
    if isinstance(value, list | dict):
        return bool(value)
    if "default-value" in row:
        return value is not None and value != row["default-value"]
    return value not in _UNSET


async def _cpu_place(monitor: Asks, device: Device) -> dict[str, object] | None:
    """Return a plugged CPU's place in the topology, None for what is no CPU."""
    if not device.type.endswith("-cpu"):
        return None
    rows = as_objects(await monitor.execute("query-hotpluggable-cpus"), "query-hotpluggable-cpus")
    return next((dict(inner(row, "props")) for row in rows if row.get("qom-path") == device.path), None)


async def netdev_option(
    monitor: Asks, name: str, client: NetworkClient, device: Device, process: ProcessFacts
) -> Option:
    """Return the -netdev option of a backend that netdev_add made. Raises UnknownPlugError."""
    if client.type == "tap":
        info = client.info
        if "ifname" not in info or any(key in info for key in ("fd", "fds", "helper")):
            message = f"the network backend {name} was given an open tap or made by a helper"
            raise UnknownPlugError(message)
        document: dict[str, object] = {"type": "tap", "id": name, "ifname": info["ifname"]}
        document |= {key: info.get(key, "no") for key in ("script", "downscript")}
        if await _has_vhost(monitor, device, process):
            document["vhost"] = True
        return Option("netdev", json.dumps(document, separators=(",", ":")))
    if client.type == "user" and dict(client.info) == _USER_NETWORK:
        forwards = await monitor.execute("human-monitor-command", {"command-line": "info usernet"})
        if "HOST_FORWARD" not in str(forwards):
            return Option("netdev", json.dumps({"type": "user", "id": name}, separators=(",", ":")))
    message = f"the network backend {name} is of type {client.type} with options that QEMU does not tell"
    raise UnknownPlugError(message)


async def _has_vhost(monitor: Asks, device: Device, process: ProcessFacts) -> bool:
    if _VHOST not in process.open_files:
        return False
    backends = await children(monitor, device.path)
    if "virtio-backend" not in backends:
        return False
    status = await monitor.execute("x-query-virtio-status", {"path": f"{device.path}/virtio-backend"})
    return isinstance(status, dict) and (status.get("vhost-started") is True or "vhost-dev" in status)


async def object_option(monitor: Asks, name: str) -> Option:
    """Return the -object option of an object that object-add made. Raises UnknownPlugError."""
    kind = (await children(monitor, "/objects")).get(name)
    if kind not in _OBJECTS:
        message = f"the object {name} is of type {kind}, which Godwit cannot write down exactly"
        raise UnknownPlugError(message)
    document: dict[str, object] = {"qom-type": kind, "id": name}
    policy = await get(monitor, f"/objects/{name}", "policy") if "size" in _OBJECTS[kind] else None
    if policy not in {None, "default"}:
        message = f"the memory {name} is bound to nodes of this host ({policy})"
        raise UnknownPlugError(message)
    for key in _OBJECTS[kind]:
        value = await get(monitor, f"/objects/{name}", key)
        if value is not None and (key != _HUGE or document["hugetlb"]):  # the page size of memory without is refused
            document[key] = value
    return Option("object", json.dumps(document, separators=(",", ":")))
