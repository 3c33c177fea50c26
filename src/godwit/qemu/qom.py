"""The running machine as QEMU's object model shows it: its devices, where they sit, and its network backends."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from godwit.errors import MonitorCommandError
from godwit.qemu.reply import as_objects, text

if TYPE_CHECKING:
    from collections.abc import Mapping

PERIPHERAL: Final = "/machine/peripheral"
ANONYMOUS: Final = "/machine/peripheral-anon"
UNATTACHED: Final = "/machine/unattached"

_CHILD: Final = re.compile(r"child<(.+)>")
_NUMBERED: Final = re.compile(r"device\[(\d+)\]")
_HUB_PORT: Final = re.compile(r"^(hub\d+)port\d+: (.+)$")
_CLIENT: Final = re.compile(r"^(?P<peer> \\ )?(?P<name>.+?): index=\d+,type=(?P<type>[^,]+)(?:,(?P<info>.*))?$")


class Asks(Protocol):
    """Something that answers QMP commands: a Monitor, or a recording of one."""

    @property
    def version(self) -> tuple[int, int, int]:
        """QEMU's version."""
        ...

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Run a command and return its reply."""
        ...


@dataclass(frozen=True, slots=True)
class Device:
    """One device of the running machine.

    `number` counts devices without an identifier in the order of their creation. `bus` and `address` (slot.function)
    are None where it sits on no bus, or on one that is no PCI bus; `mac` is None unless it is a NIC.
    """

    path: str
    type: str
    identifier: str | None
    number: int
    hotplugged: bool
    bus: str | None
    bus_path: str
    address: str | None
    mac: str | None


@dataclass(frozen=True, slots=True)
class NetworkClient:
    """One line of `info network`: a NIC (type "nic") or a backend; `info` are the pairs that QEMU prints.

    `peer` is the NIC that a backend is connected to, or the hub that either is plugged into.
    """

    name: str
    type: str
    info: Mapping[str, str] = field(default_factory=dict)
    peer: str | None = None


async def get(monitor: Asks, path: str, name: str) -> object | None:
    """Return a property's value, None where the object has none of this name."""
    try:
        return await monitor.execute("qom-get", {"path": path, "property": name})
    except MonitorCommandError:
        return None


async def children(monitor: Asks, path: str) -> dict[str, str]:
    """Return the names of an object's children with their types; nothing where there is no such object."""
    try:
        reply = await monitor.execute("qom-list", {"path": path})
    except MonitorCommandError:
        return {}
    rows = ((text(row, "name"), _CHILD.fullmatch(text(row, "type"))) for row in as_objects(reply, "qom-list"))
    return {name: match[1] for name, match in rows if match}


async def plugged(monitor: Asks) -> tuple[Device, ...]:
    """Return every device that -device, -drive if=virtio or device_add made; those without identifier by number."""
    named, anonymous = await asyncio.gather(children(monitor, PERIPHERAL), children(monitor, ANONYMOUS))
    found = await asyncio.gather(
        *(_device(monitor, f"{PERIPHERAL}/{name}", kind, name) for name, kind in named.items()),
        *(_device(monitor, f"{ANONYMOUS}/{name}", kind, None) for name, kind in anonymous.items()),
    )
    return tuple(sorted(found, key=lambda device: (device.number, device.path)))


async def board_nics(monitor: Asks, models: frozenset[str]) -> tuple[Device, ...]:
    """Return the NICs that -net nic and -nic made, in the order of their creation; `models` are their types."""
    made = await children(monitor, UNATTACHED)
    nics = await asyncio.gather(
        *(_device(monitor, f"{UNATTACHED}/{name}", kind, None) for name, kind in made.items() if kind in models)
    )
    return tuple(sorted((nic for nic in nics if nic.mac), key=lambda nic: nic.number))


async def network(monitor: Asks) -> tuple[NetworkClient, ...]:
    """Return NICs and network backends. QMP has no query for them, so this reads HMP's `info network`."""
    reply = await monitor.execute("human-monitor-command", {"command-line": "info network"})
    return parse_network(str(reply))


def parse_network(said: str) -> tuple[NetworkClient, ...]:
    """Read the text of `info network` (net/net.c, hmp_info_network)."""
    clients: list[NetworkClient] = []
    last = None
    for line in said.splitlines():
        match = _CLIENT.match(line.rstrip("\r"))
        if match is None:
            last = None  # "hub 0"
            continue
        pairs = (part.partition("=") for part in (match["info"] or "").split(","))
        info = {key: value for key, equals, value in pairs if equals}
        port = _HUB_PORT.match(match["name"])
        if port is not None:
            clients.append(NetworkClient(port[2], match["type"], info, port[1]))
            continue
        clients.append(NetworkClient(match["name"], match["type"], info, last if match["peer"] else None))
        if not match["peer"]:
            last = match["name"]
    return tuple(clients)


async def _device(monitor: Asks, path: str, kind: str, identifier: str | None) -> Device:
    bus, address, mac, hotplugged = await asyncio.gather(
        get(monitor, path, "parent_bus"),
        get(monitor, path, "legacy-addr"),
        get(monitor, path, "mac"),
        get(monitor, path, "hotplugged"),
    )
    numbered = _NUMBERED.search(path.rsplit("/", 1)[-1]) if identifier is None else None
    bus_path = bus if isinstance(bus, str) else ""
    return Device(
        path=path,
        type=kind,
        identifier=identifier,
        number=int(numbered[1]) if numbered else -1,
        hotplugged=hotplugged is True,
        bus=bus_path.rsplit("/", 1)[-1] or None,
        bus_path=bus_path,
        address=address if isinstance(address, str) else None,
        mac=mac if isinstance(mac, str) else None,
    )
