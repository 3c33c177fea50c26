"""What differs between a running QEMU and its command line: plugged, unplugged, moved; and what nobody can tell.

Rests on QEMU's order of creation (system/vl.c, qemu_create_cli_devices): -device options as lists in their order, then
the devices of -drive if=virtio, then -device options in JSON; those without an identifier are numbered in that order.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from godwit.qemu import plugs, qom
from godwit.qemu.blocknodes import BlockGraph, UnknownNodeError, blockdev_options, read_graph
from godwit.qemu.options import Option
from godwit.qemu.paths import split
from godwit.qemu.plugs import UnknownPlugError
from godwit.qemu.reply import as_objects, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from godwit.qemu.process import ProcessFacts
    from godwit.qemu.qom import Asks, Device, NetworkClient

_ALIASES: Final = {
    "ahci": "ich9-ahci",
    "lsi": "lsi53c895a",
    "es1370": "ES1370",
    "ac97": "AC97",
    "e1000-82540em": "e1000",
}
_LISTED: Final = frozenset({"device", "virtfs", "watchdog"})


@dataclass(slots=True)
class Comparison:
    """What must change in a command line; keys of `put` and members of `removed` are places in it (0 is the first)."""

    put: dict[int, dict[str, str]] = field(default_factory=dict)
    removed: set[int] = field(default_factory=set)
    added: list[Option] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Backends:
    """Everything in a running QEMU that devices refer to by name."""

    clients: Mapping[str, NetworkClient]
    graph: BlockGraph
    drives: frozenset[str]
    objects: frozenset[str]
    chardevs: frozenset[str]


async def read_backends(monitor: Asks) -> Backends:
    """Ask for all backends."""
    clients, graph, block, objects, chardevs = await asyncio.gather(
        qom.network(monitor),
        read_graph(monitor),
        monitor.execute("query-block"),
        qom.children(monitor, "/objects"),
        monitor.execute("query-chardev"),
    )
    return Backends(
        clients={client.name: client for client in clients},
        graph=graph,
        drives=frozenset(text(row, "device") for row in as_objects(block, "query-block")),
        objects=frozenset(objects),
        chardevs=frozenset(text(row, "label") for row in as_objects(chardevs, "query-chardev")),
    )


async def compare(monitor: Asks, found: Sequence[Option], process: ProcessFacts, backends: Backends) -> Comparison:
    """Compare the running machine with the command line `found`."""
    result = Comparison()
    devices = await qom.plugged(monitor)
    _match_devices(found, [device for device in devices if not device.hotplugged], result)
    await _match_board_nics(monitor, found, backends, result)
    _match_backends(found, backends, result)
    known = _named(found, result.removed)
    for device in _parents_first([device for device in devices if device.hotplugged]):
        try:
            await _add(monitor, device, known, process, backends, result)
        except (UnknownPlugError, UnknownNodeError) as error:
            called = device.identifier or device.path
            result.refusals.append(f"the device {called} ({device.type}) was plugged in while the guest ran: {error}")
    return result


def _match_devices(found: Sequence[Option], cold: Sequence[Device], result: Comparison) -> None:
    """Find the device of each option: pin it to its place, or leave the option out where the device is gone."""
    named = {device.identifier: device for device in cold if device.identifier}
    numbered = {device.number: device for device in cold if not device.identifier}
    number = 0
    automatic = False
    for place, option in _creation_order(found):
        pairs = split(option)
        identifier = pairs.get("id") if option.name == "device" else None
        if identifier is not None:
            device = named.get(identifier)
        else:
            device, number = numbered.get(number), number + 1
        automatic = automatic or option.name != "device"
        if device is None:
            result.removed.add(place)
        elif option.name == "device" and not _same_type(pairs.get("driver") or "", device.type):
            result.refusals.append(f"-device {option.value}: the machine has a {device.type} in its place")
        elif option.name == "device":
            wanted = {"addr": device.address, "bus": device.bus if device.address else None, "mac": device.mac}
            values = {key: value for key, value in wanted.items() if value is not None and pairs.get(key) is None}
            if values:
                result.put[place] = values
    if automatic and result.removed:
        result.refusals.append(
            "a device was unplugged, and another one has no option that could keep it in its place (-drive if=virtio)"
        )


def _creation_order(found: Sequence[Option]) -> Iterable[tuple[int, Option]]:
    """Yield the options that make numbered or named devices, with their places, in QEMU's order of creation."""
    places = list(enumerate(found))
    yield from (
        (place, option)
        for place, option in places
        if option.name in _LISTED and not (option.value or "").startswith("{")
    )
    yield from (
        (place, option) for place, option in places if option.name == "drive" and split(option).get("if") == "virtio"
    )
    yield from (
        (place, option) for place, option in places if option.name == "device" and (option.value or "").startswith("{")
    )


def _same_type(driver: str, kind: str) -> bool:
    return kind == driver or kind.startswith(f"{driver}-") or _ALIASES.get(driver) == kind


async def _match_board_nics(monitor: Asks, found: Sequence[Option], backends: Backends, result: Comparison) -> None:
    """Write the MAC of each -net nic and -nic out: QEMU makes them up in the order of creation, -nic first."""
    options = [(place, option) for name in ("nic", "net") for place, option in enumerate(found) if option.name == name]
    places = [
        (place, "mac" if option.name == "nic" else "macaddr")
        for place, option in options
        if split(option).get("type") != "none" and (option.name == "nic" or split(option).get("type") == "nic")
    ]
    open_places = [(place, key) for place, key in places if split(found[place]).get(key) is None]
    if not open_places:
        return
    models = frozenset(client.info.get("model", "") for client in backends.clients.values() if client.type == "nic")
    nics = await qom.board_nics(monitor, models)
    given = [(split(found[place]).get(key) or "").lower() for place, key in places]
    if len(nics) != len(places) or any(
        mac and mac != (nic.mac or "").lower() for mac, nic in zip(given, nics, strict=False)
    ):
        result.refusals.append("the MAC addresses of -net nic and -nic cannot be told apart: write macaddr= to each")
        return
    for (place, key), nic in zip(places, nics, strict=True):
        if nic.mac is not None and (place, key) in open_places:
            result.put[place] = {key: nic.mac}


def _match_backends(found: Sequence[Option], backends: Backends, result: Comparison) -> None:
    """Leave out the backends that are gone."""
    present: dict[str, tuple[str, frozenset[str] | Mapping[str, object]]] = {
        "netdev": ("id", backends.clients),
        "blockdev": ("node-name", backends.graph.nodes),
        "object": ("id", backends.objects),
        "chardev": ("id", backends.chardevs),
        "drive": ("id", backends.drives),
    }
    for place, option in enumerate(found):
        if option.name not in present:
            continue
        key, names = present[option.name]
        name = split(option).get(key)
        if name is not None and name not in names:
            result.removed.add(place)


def _named(found: Sequence[Option], removed: set[int]) -> dict[str, set[str]]:
    """Return the names that the options give to backends, by what they are."""
    kinds = {"netdev": ("network", "id"), "blockdev": ("block", "node-name"), "drive": ("block", "id")}
    kinds |= {"object": ("object", "id"), "chardev": ("chardev", "id")}
    names: dict[str, set[str]] = {"network": set(), "block": set(), "object": set(), "chardev": set()}
    for place, option in enumerate(found):
        if option.name in kinds and place not in removed:
            kind, key = kinds[option.name]
            names[kind].add(split(option).get(key) or "")
    return names


def _parents_first(devices: Iterable[Device]) -> list[Device]:
    """Sort devices so that each comes after the one whose bus it sits on."""
    return sorted(devices, key=lambda device: (device.bus_path.count("/"), device.number, device.path))


async def _add(
    monitor: Asks,
    device: Device,
    known: dict[str, set[str]],
    process: ProcessFacts,
    backends: Backends,
    result: Comparison,
) -> None:
    """Write down a plugged device after everything that it refers to."""
    document = await plugs.device_properties(monitor, device)
    options: list[Option] = []
    drive, netdev, chardev = (document.get(key) for key in ("drive", "netdev", "chardev"))
    if isinstance(drive, str) and drive not in known["block"]:
        if drive not in backends.graph.nodes:
            message = f"its disk {drive} came by drive_add, whose options QEMU does not tell"
            raise UnknownPlugError(message)
        options += blockdev_options(backends.graph, drive, known["block"])
    if isinstance(netdev, str) and netdev not in known["network"]:
        client = backends.clients.get(netdev)
        if client is None:
            message = f"its network backend {netdev} is unknown"
            raise UnknownPlugError(message)
        options.append(await plugs.netdev_option(monitor, netdev, client, device, process))
        known["network"].add(netdev)
    if isinstance(chardev, str) and chardev not in known["chardev"]:
        message = f"its character device {chardev} was added later, and QEMU does not tell its options"
        raise UnknownPlugError(message)
    for name in _objects(document):
        if name not in known["object"]:
            options.append(await plugs.object_option(monitor, name))
            known["object"].add(name)
    result.added += [*options, Option("device", json.dumps(document, separators=(",", ":")))]


def _objects(document: Mapping[str, object]) -> Iterable[str]:
    """Yield the identifiers of the objects that a device refers to."""
    for key in ("iothread", "rng", "memdev"):
        value = document.get(key)
        if isinstance(value, str):
            yield value
    mapping = document.get("iothread-vq-mapping")
    if isinstance(mapping, list):
        yield from (
            row["iothread"] for row in mapping if isinstance(row, dict) and isinstance(row.get("iothread"), str)
        )
