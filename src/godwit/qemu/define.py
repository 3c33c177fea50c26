"""The definition file of a guest: TOML, read strictly, with errors that name line or key."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import tomllib
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from godwit.errors import InvalidDefinitionError
from godwit.qemu import options
from godwit.units import MIB, parse_size

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

NAME_LENGTH: Final = 64
DISKS: Final = 10
NICS: Final = 8
FIRST_DESCRIPTOR: Final = 3
MACVTAPS: Final = 7
"""A POSIX shell opens files for a program it starts as descriptors of one digit, and the first three are taken."""
DEFAULT_PROGRAM: Final = "qemu-system-x86_64"

_SHOWN: Final = 60

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_MAC: Final = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_MACHINE: Final = re.compile(r"q35|pc|pc-(q35|i440fx)-[A-Za-z0-9.]+")
_HOST_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
_BRIDGE: Final = re.compile(r"[A-Za-z0-9_.:-]{1,15}")
_VNC: Final = re.compile(r"[A-Za-z0-9_.:\[\]-]*:\d{1,4}")
_MULTICAST: Final = 1
_RESERVED: Final = frozenset(
    {"incoming", "S", "daemonize", "pidfile", "name", "machine", "M", "accel", "D", "preconfig"}
)


def valid_name(name: str) -> str:
    """Return `name` if a guest may have it. Raises ValueError, saying what is allowed."""
    if len(name) <= NAME_LENGTH and _NAME.fullmatch(name) and ".." not in name:
        return name
    message = f"must be 1 to {NAME_LENGTH} letters, digits, _ . or -, beginning with a letter or digit, without '..'"
    raise ValueError(message)


def _size(value: object) -> int:
    if not isinstance(value, str):
        message = 'must be a text with a unit, such as "512M" or "2G"'
        raise ValueError(message)  # noqa: TRY004 - pydantic turns ValueError into its own
    size = parse_size(value)
    if size < MIB or size % MIB or value.strip().isdigit():
        message = 'must be whole mebibytes with a unit, such as "512M" or "2G"'
        raise ValueError(message)
    return size


def _absolute(path: str) -> str:
    if path.startswith("/") and "\0" not in path and "\n" not in path:
        return path
    message = "must be an absolute path on the guest's host"
    raise ValueError(message)


def _mac(mac: str) -> str:
    if _MAC.fullmatch(mac) is None:
        message = "must be a MAC address such as 52:54:00:12:34:56"
        raise ValueError(message)
    if int(mac[:2], 16) & _MULTICAST:
        message = "is a group address; a NIC needs one whose first octet is even, such as 52:54:00:12:34:56"
        raise ValueError(message)
    return mac.lower()


def _matching(pattern: re.Pattern[str], expected: str) -> AfterValidator:
    def check(value: str) -> str:
        if pattern.fullmatch(value):
            return value
        message = f"must be {expected}"
        raise ValueError(message)

    return AfterValidator(check)


def _address(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        if all(_HOST_LABEL.fullmatch(label) for label in address.split(".")) and not address[-1:].isdigit():
            return address
        message = "must be an IP address or a host name"
        raise ValueError(message) from None


def _program(program: str) -> str:
    if program.startswith("/"):
        return _absolute(program)
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", program):
        return program
    message = "must be a program's name or absolute path, such as qemu-system-x86_64"
    raise ValueError(message)


def _no_conflict(arguments: list[str]) -> list[str]:
    for argument in arguments:
        if "\0" in argument:
            message = "must not hold NUL bytes"
            raise ValueError(message)
    for option in options.parse(arguments):
        if option.name in _RESERVED:
            message = f"must not hold -{option.name}: Godwit gives it itself"
            raise ValueError(message)
    return arguments


Path = Annotated[str, AfterValidator(_absolute)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DiskDefinition(_Strict):
    """One disk of a guest.

    `cache`: "none" and "directsync" go past the host's page cache, which is what makes shared storage coherent;
    "writeback" uses it and is only for file systems that cannot do without (docs of QEMU, "-blockdev", cache.direct).
    """

    path: Path
    format: Literal["raw", "qcow2"]
    interface: Literal["virtio"] = "virtio"
    read_only: bool = False
    cache: Literal["none", "directsync", "writeback"] = "none"


class NicDefinition(_Strict):
    """One network interface of a guest: the host's bridge that it is plugged into, or the interface under its macvtap.

    `model` is what the guest sees. `when_moved` says what becomes of it when the guest moves: it travels along, or is
    taken out for the way, by Godwit ("unplug") or by QEMU ("failover": the NIC before it, a virtio one with the same
    address, stands in for it). One that is taken out sits in one of the `hotplug_ports`.

    `mode` is the macvtap's. libvirt takes "vepa" where none is given; there guests of one host hear each other only
    through a switch that sends frames back where they came from, which hardly any does. So it is "bridge" here.
    """

    bridge: Annotated[str, _matching(_BRIDGE, "a bridge's name of at most 15 characters")] | None = None
    macvtap: Annotated[str, _matching(_BRIDGE, "a network interface's name of at most 15 characters")] | None = None
    mode: Literal["bridge", "private", "vepa", "passthru"] | None = None
    mac: Annotated[str, AfterValidator(_mac)] | None = None
    model: Literal["virtio", "vmxnet3", "e1000e", "igb"] = "virtio"
    when_moved: Literal["travel", "unplug", "failover", "refuse"] = "travel"

    @model_validator(mode="after")
    def _is_plugged_in_once(self) -> Self:
        if (self.bridge is None) == (self.macvtap is None):
            message = "takes either a bridge or a macvtap (the interface that it lies on)"
            raise ValueError(message)
        if self.mode is not None and self.macvtap is None:
            message = "takes a mode only with a macvtap"
            raise ValueError(message)
        return self


class GuestDefinition(_Strict):
    """A guest as its TOML file describes it. `memory` is bytes here, a text such as "512M" in the file.

    `agent`, `balloon` and `hotplug_ports` (empty root ports of a q35 machine, whose root bus takes no devices while the
    guest runs) each cost a blackout some milliseconds: every PCI device rebuilds the target's memory map as it loads.
    `shared_memory` lets a new QEMU on the same host take the guest's memory as it stands, where QEMU can do that.
    """

    name: Annotated[str, AfterValidator(valid_name)]
    memory: Annotated[int, BeforeValidator(_size)]
    vcpus: Annotated[int, Field(ge=1, le=255)] = 1
    machine: Annotated[str, _matching(_MACHINE, "one of q35, pc, pc-q35-X.Y, pc-i440fx-X.Y")] = "q35"
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    cpu: Annotated[str, Field(min_length=1)] | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    append: str | None = None
    disks: Annotated[list[DiskDefinition], Field(max_length=DISKS)] = []
    nics: Annotated[list[NicDefinition], Field(max_length=NICS)] = []
    vnc: Annotated[str, _matching(_VNC, 'ADDRESS:DISPLAY, such as "127.0.0.1:1" or ":1"')] | None = None
    address: Annotated[str, AfterValidator(_address)] | None = None
    agent: bool = True
    balloon: bool = True
    shared_memory: bool = True
    hotplug_ports: Annotated[int, Field(ge=0, le=8)] = 4
    qemu: Annotated[str, AfterValidator(_program)] = DEFAULT_PROGRAM
    extra_arguments: Annotated[list[str], AfterValidator(_no_conflict)] = []

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.kernel is None and (self.initrd or self.append):
            message = "initrd and append need a kernel"
            raise ValueError(message)
        paths = [disk.path for disk in self.disks if not disk.read_only]
        if len(set(paths)) < len(paths):
            message = "disks: the same path twice"
            raise ValueError(message)
        _check_nics(self)
        # One that is taken out may have the address of the NIC that carries its traffic meanwhile.
        macs = [mac_of(self, index) for index, nic in enumerate(self.nics) if not in_port(nic)]
        if len(set(macs)) < len(macs):
            message = "nics: the same mac twice"
            raise ValueError(message)
        parents = [nic.macvtap for nic in self.nics if nic.macvtap is not None]
        alone = {nic.macvtap for nic in self.nics if nic.mode == "passthru"}
        if len(parents) > MACVTAPS:
            message = f"nics: {len(parents)} with a macvtap; there may be {MACVTAPS}"
            raise ValueError(message)
        if shared := sorted(name for name in alone if name and parents.count(name) > 1):
            message = f"nics: a macvtap in mode passthru has {shared[0]} for itself, and another NIC lies on it, too"
            raise ValueError(message)
        return self


def _check_nics(definition: GuestDefinition) -> None:
    """Raise ValueError for a NIC that cannot be taken out as it is wanted."""
    ports = sum(in_port(nic) for nic in definition.nics)
    if ports and not definition.machine.startswith(("q35", "pc-q35")):
        message = f"nics: when_moved needs a q35 machine, and this is {definition.machine}"
        raise ValueError(message)
    if ports > definition.hotplug_ports:
        message = f"nics: {ports} of them are taken out when the guest moves, and hotplug_ports is "
        message += f"{definition.hotplug_ports}"
        raise ValueError(message)
    for index, nic in enumerate(definition.nics):
        if nic.when_moved != "failover":
            continue
        before = definition.nics[index - 1] if index else None
        if before is None or before.model != "virtio" or before.when_moved != "travel":
            message = f"nics[{index}]: with failover the NIC before it stands in for it: a virtio one that travels"
            raise ValueError(message)
        if nic.mac is not None and nic.mac != before.mac:
            message = f"nics[{index}]: with failover it has the MAC address of the NIC before it"
            raise ValueError(message)
        if nic.model == "virtio":
            message = f"nics[{index}]: with failover its model is one of vmxnet3, e1000e, igb"
            raise ValueError(message)


def in_port(nic: NicDefinition) -> bool:
    """Say whether a NIC sits in a root port of its own, from which the guest can let go of it."""
    return nic.when_moved in {"unplug", "failover"}


_MODELS: Final[dict[str, type[_Strict]]] = {"disks": DiskDefinition, "nics": NicDefinition}


def mac_of(definition: GuestDefinition, index: int) -> str:
    """Return the MAC of a NIC: the one given, or one that follows from the guest's name and the NIC's place."""
    if definition.nics[index].when_moved == "failover":
        return mac_of(definition, index - 1)
    given = definition.nics[index].mac
    if given is not None:
        return given
    digest = hashlib.sha256(f"{definition.name}/{index}".encode()).digest()
    return "52:54:00:" + ":".join(f"{octet:02x}" for octet in digest[:3])


def load_definition(text: str, source: str) -> GuestDefinition:
    """Read a definition from TOML; `source` names the file in messages.

    Raises InvalidDefinitionError that names line and column of broken TOML, or each wrong key with what is allowed.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = f"{source} is no TOML: {error}"
        raise InvalidDefinitionError(message) from None
    return make_definition(document, source)


def make_definition(document: dict[str, object], source: str) -> GuestDefinition:
    """Check a definition that was read already. Raises InvalidDefinitionError."""
    try:
        return GuestDefinition.model_validate(document)
    except ValidationError as error:
        faults = [_explain(fault) for fault in error.errors(include_url=False)]
        message = f"{source}: {'; '.join(faults)}"
        raise InvalidDefinitionError(message) from None


def _explain(fault: ErrorDetails) -> str:
    """Say in words which key is wrong and what is allowed."""
    place = _place(fault["loc"])
    given = fault["input"]
    match fault["type"]:
        case "missing":
            return f"{place} is missing"
        case "extra_forbidden":
            return f"{place} is no key here; there are {', '.join(_keys_beside(fault['loc']))}"
        case "literal_error":
            return f"{place} is {given!r}; allowed: {fault['ctx']['expected'].replace(' or ', ', ')}"
        case "value_error" if not place:
            return str(fault["ctx"]["error"])
        case "value_error":
            return f"{place} is {_shown(given)}: {fault['ctx']['error']}"
        case _:
            return f"{place} is {_shown(given)}: {fault['msg'][:1].lower()}{fault['msg'][1:]}"


def _place(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    model = _MODELS.get(str(location[0]), GuestDefinition) if len(location) > 1 else GuestDefinition
    return list(model.model_fields)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
