"""What a guest takes of its host beside disks and taps, as its command line and its network say. Pure.

What cannot be read is left out: these are grounds for warnings, and for looking at the target; nothing is started by
them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from godwit.model import Bond, BondFacts, GuestNeeds, HugeMemory, ListenerFacts
from godwit.qemu import options, properties
from godwit.qemu.options import CommandLineError
from godwit.qemu.paths import split
from godwit.units import parse_numbers, parse_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from godwit.model import Launch
    from godwit.qemu.options import Option
    from godwit.qemu.properties import Properties
    from godwit.qemu.qom import NetworkClient

_YES: Final = frozenset({"on", "yes", "true", "y"})
_LOCKS: Final = {"overcommit": ("mem-lock", _YES | {"on-fault"}), "realtime": ("mlock", _YES)}
_BACKENDS: Final = {"memory-backend-file", "memory-backend-memfd", "memory-backend-ram"}
_CHARACTER: Final = frozenset("serial parallel monitor qmp qmp-pretty debugcon gdb".split())  # noqa: SIM905
_CONNECTS: Final = frozenset({"tcp", "telnet", "websocket", "tn3270"})
_NETWORK: Final = frozenset({"netdev", "net", "nic"})
_VNC_BASE: Final = 5900
_GDB_PORT: Final = 1234
_PORTS: Final = range(1, 1 << 16)
_VNC: Final = re.compile(r"^(?P<host>[^,]*):(?P<display>\d{1,5})(?=,|$)")
_ADDRESS: Final = re.compile(r"^(?P<host>[^,]*):(?P<port>\d{1,5})(?=,|-|$)")
_FORWARD: Final = re.compile(r"^tcp:(?P<host>[^:]*):(?P<port>\d{1,5})-")
_BONDS: Final = (
    ("vhost-user-fs", Bond.VIRTIOFS),
    ("vhost-user-", Bond.VHOST_USER),
    ("usb-host", Bond.USB_HOST),
    ("vfio-", Bond.HOST_DEVICE),
    ("virtio-9p", Bond.SHARED_FOLDER),
)
_HELD: Final = ("host", "sysfsdev", "hostdevice", "path")
_LOCAL: Final = {"localhost": "127.0.0.1", "0.0.0.0": "", "::": "", "*": ""}  # noqa: S104 - nothing is bound here


def guest_needs(launch: Launch, clients: Mapping[str, NetworkClient], memory: int) -> GuestNeeds:
    """Read the needs of a guest with `memory` bytes, which `launch` starts as it is now; `clients` are its network's.

    A command line that cannot be read needs nothing that anybody knows of.
    """
    try:
        found = options.parse(launch.argv[1:])
        pairs = [(option, split(option)) for option in found]
    except CommandLineError:
        return GuestNeeds()
    huge, files = _memory(pairs, memory)
    bonds = (*_user_networks(clients), *_device_bonds(pairs))
    return GuestNeeds(
        name=next((values.get("guest") for option, values in reversed(pairs) if option.name == "name"), None),
        file_memory=tuple(files),
        huge_memory=tuple(huge),
        nodes=frozenset(_numbers(pairs, {"host-nodes", "node-affinity"})),
        cpus=frozenset(_numbers(pairs, {"cpu-affinity"})),
        locks_memory=any(bond.kind is Bond.HOST_DEVICE for bond in bonds) or any(_locks(*pair) for pair in pairs),
        bonds=bonds,
        displays=tuple(_displays(found)),
        listens=tuple(_listeners(pairs)),
        devices=frozenset(
            values.get("driver") or "" for option, values in pairs if option.name == "device" and values.get("driver")
        ),
        keeps_cache=any(
            key.rsplit(".", 1)[-1] == "drop-cache" and value not in _YES
            for option, values in pairs
            if option.name in {"drive", "blockdev"}
            for key, value in values.items()
        ),
    )


def _memory(pairs: Sequence[tuple[Option, Properties]], memory: int) -> tuple[list[HugeMemory], list[HugeMemory]]:
    """Return memory that is in huge pages for sure, and memory at a path."""
    huge, files = [], []
    for option, values in pairs:
        if option.name == "mem-path":
            files.append(HugeMemory(option.value or "", 0, memory))
        elif option.name == "object" and values.get("qom-type") in _BACKENDS:
            size = _size(values.get("size"))
            path = values.get("mem-path")
            if path is not None:
                files.append(HugeMemory(path, 0, size))
            elif values.get("hugetlb") in _YES:
                huge.append(HugeMemory("", _size(values.get("hugetlbsize")), size))
    return huge, files


def _size(text: str | None) -> int:
    try:
        return parse_size(text or "0")
    except (ValueError, OverflowError):
        return 0


def _numbers(pairs: Sequence[tuple[Option, Properties]], keys: set[str]) -> Iterator[int]:
    for option, values in pairs:
        if option.name != "object":
            continue
        for key, value in _lists(values):
            if key in keys:
                try:
                    yield from parse_numbers(value)
                except ValueError:
                    continue


def _lists(values: Properties) -> Iterator[tuple[str, str]]:
    """Yield keys and values; a JSON list becomes several values."""
    yield from ((key, value) for key, value in values.items() if value is not None)
    for key, value in (values.document or {}).items():
        if isinstance(value, list):
            yield from ((key, str(one)) for one in value)


def _locks(option: Option, values: Properties) -> bool:
    key, yes = _LOCKS.get(option.name, ("", frozenset()))
    return values.get(key) in yes


def _user_networks(clients: Mapping[str, NetworkClient]) -> Iterator[BondFacts]:
    """Yield the user networks; a guest that was told of no network at all has one."""
    yield from (BondFacts(Bond.USER_NETWORK, client.name) for client in clients.values() if client.type == "user")


def _device_bonds(pairs: Sequence[tuple[Option, Properties]]) -> Iterator[BondFacts]:
    held = {
        values.get("id"): values.get("path") or ""
        for option, values in pairs
        if option.name in {"chardev", "fsdev"} and values.get("id")
    }
    for option, values in pairs:
        if option.name == "virtfs":
            yield BondFacts(Bond.SHARED_FOLDER, values.get("mount_tag") or "", values.get("path") or "")
        elif option.name == "usbdevice" and (option.value or "").startswith("host:"):
            yield BondFacts(Bond.USB_HOST, option.value or "")
        elif option.name == "netdev" and values.get("type") == "vhost-user":
            yield BondFacts(Bond.VHOST_USER, values.get("id") or "", held.get(values.get("chardev"), ""))
        elif option.name == "device":
            driver = values.get("driver") or ""
            kind = next((kind for prefix, kind in _BONDS if driver.startswith(prefix)), None)
            if kind is not None:
                behind = held.get(values.get("chardev") or values.get("fsdev") or "", "")
                holds = behind or next(filter(None, map(values.get, _HELD)), "")
                yield BondFacts(kind, values.get("id") or driver, holds)


def _displays(found: Iterable[Option]) -> Iterator[ListenerFacts]:
    """Yield the ports of VNC servers that are fixed: one with `to` looks for a free one itself."""
    for option in found:
        value = option.value or ""
        if option.name == "display" and value.startswith("vnc="):
            value = value.removeprefix("vnc=")
        elif option.name != "vnc":
            continue
        match = _VNC.match(value)
        if match is None or properties.parse(value).get("to") is not None or ",reverse" in value:
            continue
        yield from _listener(match["host"], str(_VNC_BASE + int(match["display"])), "VNC display")


def _listeners(pairs: Sequence[tuple[Option, Properties]]) -> Iterator[ListenerFacts]:
    """Yield the other TCP ports at which QEMU listens."""
    for option, values in pairs:
        if option.name == "spice":
            for key in ("port", "tls-port"):
                yield from _listener(values.get("addr") or "", values.get(key), "SPICE display")
        elif option.name == "chardev" and values.get("backend") == "socket" and _serves(values):
            yield from _listener(values.get("host") or "", values.get("port"), f"chardev {values.get('id')}")
        elif option.name in _CHARACTER:
            yield from _character(option)
        elif option.name == "s":
            yield from _listener("", str(_GDB_PORT), "-s")
        elif option.name in _NETWORK:
            for key, value in values.items():
                match = _FORWARD.match(value or "") if key.startswith("hostfwd") else None
                if match is not None:
                    yield from _listener(match["host"], match["port"], "hostfwd")


def _character(option: Option) -> Iterator[ListenerFacts]:
    kind, _, rest = (option.value or "").removeprefix("mon:").partition(":")
    match = _ADDRESS.match(rest) if kind in _CONNECTS else None
    if match is not None and (option.name == "gdb" or _serves(properties.parse(rest, "address"))):
        yield from _listener(match["host"], match["port"], f"-{option.name}")


def _serves(values: Properties) -> bool:
    return any(key == "server" and (value is None or value in _YES) for key, value in values.items())


def _listener(host: str, port: str | None, name: str) -> Iterator[ListenerFacts]:
    number = int(port) if port is not None and re.fullmatch(r"\d{1,5}", port) else 0
    if number in _PORTS:
        host = host.strip("[]")
        yield ListenerFacts(_LOCAL.get(host, host), number, name)
