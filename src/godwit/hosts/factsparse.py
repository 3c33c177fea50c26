"""Reads what a host says of itself. Pure: text in, values out."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from godwit.errors import HostError
from godwit.hosts.resources import parse_models
from godwit.model import BridgeFacts, InterfaceFacts, Port, PortVlan, QemuFacts, StorageFacts, Tap
from godwit.plaintext import from_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_VERSION: Final = re.compile(r"version (\d+)\.(\d+)\.(\d+)")
_MACHINE: Final = re.compile(r"^(?P<name>\S+)\s+(?P<about>.*?)\s*$")
_ALIAS: Final = re.compile(r"\(alias of (\S+)\)")
_MODEL: Final = re.compile(r'^(?:name|alias) "([^"]{1,80})"$', re.MULTILINE)
_KIB: Final = 1024


@dataclass(frozen=True, slots=True)
class Processor:
    """The host's processor; `vendor` and `model` are empty where the kernel does not say."""

    model: str
    vendor: str
    flags: frozenset[str]
    count: int


@dataclass(frozen=True, slots=True)
class Network:
    """The host's interfaces, as far as guests care: its bridges, which interface is plugged into which, and how."""

    bridges: tuple[BridgeFacts, ...]
    masters: tuple[tuple[str, str], ...]
    ports: tuple[tuple[str, Port], ...] = ()
    interfaces: tuple[InterfaceFacts, ...] = ()

    def plugged(self, tap: Tap) -> Tap:
        """Return a tap with its bridge and how it is plugged in; as it was where it is plugged into none.

        A macvtap comes with the interface that it lies on, and its mode.
        """
        if tap.macvtap is not None:
            lies = [(one.name, mode) for one in self.interfaces for name, mode in one.carried if name == tap.interface]
            return replace(tap, macvtap=replace(tap.macvtap, parent=lies[0][0], mode=lies[0][1])) if lies else tap
        bridge = dict(self.masters).get(tap.interface)
        return tap if bridge is None else Tap(tap.interface, bridge, dict(self.ports).get(tap.interface))


@dataclass(frozen=True, slots=True)
class Clock:
    """A host's clock minus the controller's in seconds, known to within `uncertainty`."""

    offset: float
    uncertainty: float


def split_sections(text: str) -> dict[str, str]:
    """Return what follows each line "== NAME", by name."""
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("== "):
            lines = sections.setdefault(line.removeprefix("== "), [])
        else:
            lines.append(line)
    return {name: "\n".join(body).strip() for name, body in sections.items()}


def parse_processor(cpuinfo: str) -> Processor:
    """Read /proc/cpuinfo, of x86 or of Arm; see proc(5)."""
    values: dict[str, str] = {}
    count = 0
    for line in cpuinfo.splitlines():
        key, separator, value = line.partition(":")
        if separator:
            count += key.strip() == "processor"
            values.setdefault(key.strip(), value.strip())
    return Processor(
        model=values.get("model name") or values.get("cpu") or values.get("CPU part", ""),
        vendor=values.get("vendor_id") or values.get("CPU implementer", ""),
        flags=frozenset((values.get("flags") or values.get("Features", "")).split()),
        count=max(count, 1),
    )


def parse_memory(meminfo: str) -> tuple[int, int]:
    """Return total and available memory in bytes from /proc/meminfo. Raises HostError where they are missing."""
    values = {key.strip(): value.split() for key, _, value in (line.partition(":") for line in meminfo.splitlines())}
    try:
        return int(values["MemTotal"][0]) * _KIB, int(values["MemAvailable"][0]) * _KIB
    except (KeyError, IndexError, ValueError) as error:
        message = f"the host's /proc/meminfo does not say how much memory there is: {error!r}"
        raise HostError(message) from None


_UPON: Final = frozenset({"macvtap", "macvlan"})

_PORT_FLAGS: Final[Mapping[str, bool]] = {
    "isolated": False,
    "hairpin": False,
    "learning": True,
    "flood": True,
    "mcast_flood": True,
    "bcast_flood": True,
    "mcast_to_unicast": False,
    "neigh_suppress": False,
    "locked": False,
    "guard": False,
}
"""Flags of a bridge's port that decide what a guest gets and gives, as the kernel has them by default."""


def _port(link: Mapping[str, Any], vlans: Mapping[str, tuple[PortVlan, ...]], filtering: frozenset[str]) -> Port:
    shown = link.get("linkinfo", {}).get("info_slave_data", {})
    flags = tuple((name, shown[name]) for name, usual in _PORT_FLAGS.items() if shown.get(name, usual) is (not usual))
    carried = vlans.get(str(link["ifname"]), ()) if link["master"] in filtering else None
    return Port(carried, flags)


def _port_vlans(said: str) -> dict[str, tuple[PortVlan, ...]]:
    """Read `bridge -j vlan show`; a host whose kernel cannot filter has none."""
    return {
        str(row["ifname"]): tuple(
            PortVlan(
                int(vlan["vlan"]),
                int(vlan.get("vlanEnd", vlan["vlan"])),
                pvid="PVID" in vlan.get("flags", ()),
                untagged="Egress Untagged" in vlan.get("flags", ()),
            )
            for vlan in row.get("vlans", ())
        )
        for row in _json(said or "[]")
    }


_UNFIT: Final = frozenset({"tun", *_UPON})
"""Kinds of interfaces that carry no macvtap: taps, and those that lie on another themselves."""


def _interfaces(links: Sequence[Mapping[str, Any]], addresses: Sequence[Mapping[str, Any]]) -> list[InterfaceFacts]:
    """Return the interfaces on which macvtaps may lie."""
    upon: dict[str, list[tuple[str, str]]] = {}
    for link in links:
        about = link.get("linkinfo", {})
        if about.get("info_kind") in _UPON:
            mode = str(about.get("info_data", {}).get("mode", ""))
            upon.setdefault(str(link.get("link", "")), []).append((str(link["ifname"]), mode))
    own = {
        str(row["ifname"]): tuple(str(entry["local"]) for entry in row.get("addr_info", ()) if "local" in entry)
        for row in addresses
        if "ifname" in row
    }
    return [
        InterfaceFacts(
            name=str(link["ifname"]),
            mtu=int(link["mtu"]),
            up="UP" in link.get("flags", ()),
            master=str(link.get("master", "")),
            addresses=own.get(str(link["ifname"]), ()),
            carried=tuple(upon.get(str(link["ifname"]), ())),
        )
        for link in links
        if link.get("link_type") == "ether" and link.get("linkinfo", {}).get("info_kind") not in _UNFIT
    ]


def parse_network(links: str, vlans_shown: str = "", addresses: str = "") -> Network:
    """Read `ip -j -d link show`, `bridge -j vlan show` and `ip -j addr show scope global`.

    Raises HostError when they are no such thing.
    """
    try:
        found = _json(links or "[]")
        vlans = [(link.get("master"), _vlan(link)) for link in found]
        bridges = tuple(
            BridgeFacts(
                name=link["ifname"],
                mtu=int(link["mtu"]),
                up="UP" in link.get("flags", ()),
                vlan_filtering=link["linkinfo"].get("info_data", {}).get("vlan_filtering") == 1,
                vlans=tuple(sorted({vlan for master, vlan in vlans if vlan and master == link["ifname"]})),
            )
            for link in found
            if link.get("linkinfo", {}).get("info_kind") == "bridge"
        )
        masters = tuple((str(link["ifname"]), str(link["master"])) for link in found if "master" in link)
        filtering = frozenset(bridge.name for bridge in bridges if bridge.vlan_filtering)
        carried = _port_vlans(vlans_shown) if filtering else {}
        ports = tuple(
            (str(link["ifname"]), _port(link, carried, filtering))
            for link in found
            if link.get("linkinfo", {}).get("info_slave_kind") == "bridge" and "master" in link
        )
        interfaces = _interfaces(found, _json(addresses or "[]"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"the host's `ip -j -d link show` cannot be read: {error!r}"
        raise HostError(message, remedy="install iproute2 4.13 or later on the host") from None
    return Network(bridges, masters, ports, tuple(interfaces))


def _vlan(link: Mapping[str, Any]) -> int:
    """Return the VLAN of an interface such as eth0.100, 0 for another."""
    about = link.get("linkinfo", {})
    return int(about.get("info_data", {}).get("id", 0)) if about.get("info_kind") == "vlan" else 0


def parse_storage(mounts: str) -> tuple[StorageFacts, ...]:
    """Read `findmnt --json --bytes`; a host whose storage hangs, or with an old util-linux, tells of none."""
    try:
        return tuple(
            StorageFacts(
                path=str(row["target"]),
                kind=str(row["fstype"]),
                source=str(row["source"]),
                size=int(row["size"] or 0),
                available=int(row["avail"] or 0),
            )
            for row in _json(mounts or "{}").get("filesystems", ())
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()


def parse_addresses(addresses: str) -> tuple[str, ...]:
    """Return the host's addresses that others may reach, from `ip -j addr show scope global`; IPv4 first."""
    try:
        found = [
            (entry["family"] != "inet", str(ip_address(str(entry["local"]))))
            for link in _json(addresses or "[]")
            for entry in link.get("addr_info", ())
            if "family" in entry and "local" in entry  # an interface that vanishes meanwhile leaves empty entries
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"the host's `ip -j addr show` cannot be read: {error!r}"
        raise HostError(message, remedy="install iproute2 4.13 or later on the host") from None
    return tuple(address for _, address in sorted(found, key=lambda pair: pair[0]))


def _json(text: str) -> Any:  # noqa: ANN401 - what comes is checked as it is read
    return from_json(text)


def parse_version(text: str) -> tuple[int, int, int] | None:
    """Return QEMU's version from `qemu --version`, None where the program is no QEMU."""
    match = _VERSION.search(text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def parse_machines(text: str) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Return machine types and (alias, type) pairs from `qemu -machine help`."""
    types: list[str] = []
    aliases: list[tuple[str, str]] = []
    for line in text.splitlines():
        match = _MACHINE.match(line)
        if match is None or line.rstrip().endswith(":"):
            continue
        alias = _ALIAS.search(match["about"])
        if alias is None:
            types.append(match["name"])
        else:
            aliases.append((match["name"], alias[1]))
    return tuple(types), tuple(aliases)


def parse_qemu(path: str, sections: Mapping[str, str]) -> QemuFacts | None:
    """Put together what is said of the QEMU at `path`; what it can compress with is a piece of its QMP schema."""
    version = parse_version(sections.get("version", ""))
    if not path or version is None:
        return None
    types, aliases = parse_machines(sections.get("machines", ""))
    options = {line.strip().partition("=")[0] for line in sections.get("machine-options", "").splitlines()}
    return QemuFacts(
        path=path,
        version=version,
        machine_types=types,
        machine_aliases=aliases,
        shares_memory="aux-ram-share" in options,
        encrypts="credentials /nonexistent" in sections.get("tls", "credentials /nonexistent"),
        tcg_models=parse_models(sections.get("tcg-models", "")),
        kvm_models=parse_models(sections.get("kvm-models", "")),
        devices=frozenset(_MODEL.findall(sections.get("devices", ""))),
        compressions=tuple(re.findall(r'"([^"]+)"', sections.get("compressions", "").partition("[")[2])),
    )


def parse_accelerators(available: str, kvm: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the accelerators that run a guest, and notes on those that do not.

    `available` is what `qemu -accel help` says, `kvm` the verdict of the probe: a word and its details.
    """
    offered = {line.strip() for line in available.splitlines()}
    verdict, _, details = kvm.strip().partition(" ")
    notes: list[str] = []
    usable: list[str] = []
    if verdict == "works":
        usable.append("kvm")
    elif verdict in _KVM_NOTES:
        notes.append(_KVM_NOTES[verdict])
    elif verdict == "fails":
        notes.append(f"KVM cannot be used: {details}")
    if verdict == "unprobed":
        usable.append("kvm")
    if "tcg" in offered:
        usable.append("tcg")
    return tuple(usable), tuple(notes)


_KVM_NOTES: Final[dict[str, str]] = {
    "absent": "there is no /dev/kvm: the processor's virtualisation is off or not passed on to this machine",
    "forbidden": "/dev/kvm may not be opened by this user: add it to the group kvm",
    "hangs": "KVM opens, but a guest hangs in it: a nested or broken virtualisation; TCG is used instead",
    "unprobed": "KVM opens; whether a guest runs in it was not tried on this architecture",
    "unsupported": "this QEMU is built without KVM",
}


def parse_clock(before: float, said: str, after: float) -> Clock:
    """Put the host's `date +%s.%N` between the controller's clock before and after the question.

    The answer was made somewhere in between, so half the round trip is what is not known.
    """
    try:
        host = float(said.strip())
    except ValueError:
        message = f"the host's `date +%s.%N` cannot be read: {said.strip()!r}"
        raise HostError(message, remedy="install coreutils on the host") from None
    return Clock(offset=host - (before + after) / 2, uncertainty=max(after - before, 0.0) / 2)
