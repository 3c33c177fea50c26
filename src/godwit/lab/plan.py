"""What a laboratory consists of and what everything in it is called. Pure: nothing here touches the machine.

Every name in the kernel follows from the laboratory's number alone, so whoever knows the number knows
everything that may exist, even if the process that was building it died half-way.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Literal

from godwit.errors import InputError, InvalidNameError, LabError

MAX_NUMBER: Final = 255
MAX_HOSTS: Final = 80
DEFAULT_LINK_RATE: Final = 400_000_000
LINK_MTU: Final = 1500
PREFIX_LENGTH: Final = 24
CLIENT: Final = "client"
"""The name of the machine from which the outside probes look."""

SWITCH_BRIDGE: Final = "switch"
MIGRATION_BRIDGE: Final = "migswitch"
HOST_BRIDGE: Final = "br0"
HOST_UPLINK: Final = "uplink0"
HOST_MIGRATION: Final = "mig0"
CLIENT_INTERFACE: Final = "eth0"

Link = Literal["management", "migration", "all"]
"""A host's connection: `management` carries the guests' traffic too, `migration` only migration streams."""

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}")
_FIRST_HOST: Final = 10
_FIRST_GUEST: Final = 100
_LAST_GUEST: Final = 254


def check_name(name: str) -> str:
    """Return `name` if a laboratory may be called so, else raise InvalidNameError.

    Letters, digits, `_`, `.` and `-`, at most 32 characters, not starting with `.` or `-`: the name is a
    folder's name and an argument of commands.
    """
    if _NAME.fullmatch(name) is None:
        message = f"{name[:40]!r} cannot be a laboratory's name"
        raise InvalidNameError(
            message, remedy="use 1 to 32 letters, digits, '_', '.' or '-', starting with a letter, a digit or '_'"
        )
    return name


@dataclass(frozen=True, slots=True)
class LabPlan:
    """A laboratory as asked for: `hosts` hosts, a client, a switch, a shaped migration link.

    `link_rate` is in bits a second, None leaves the migration link unshaped. With `shared_storage` every host
    sees the same `/mnt/images`, without it each has its own. `number` chooses the addresses and the names in
    the kernel; None lets the laboratory take the lowest free one.
    """

    name: str
    hosts: int = 2
    link_rate: int | None = DEFAULT_LINK_RATE
    shared_storage: bool = True
    number: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be built; raises InvalidNameError or InputError."""
        check_name(self.name)
        if not 1 <= self.hosts <= MAX_HOSTS:
            message = f"a laboratory has 1 to {MAX_HOSTS} hosts, not {self.hosts}"
            raise InputError(message)
        if self.number is not None and not 0 <= self.number <= MAX_NUMBER:
            message = f"a laboratory's number is 0 to {MAX_NUMBER}, not {self.number}"
            raise InputError(message)
        check_rate(self.link_rate)

    def numbered(self, number: int) -> LabPlan:
        """Return this plan with its number settled."""
        return dataclasses.replace(self, number=number)

    @property
    def network_number(self) -> int:
        """The settled number; raises LabError while there is none, since nothing has an address before."""
        if self.number is None:
            message = f"laboratory {self.name} has no number yet, so it has no addresses"
            raise LabError(message)
        return self.number

    # Names

    @property
    def host_names(self) -> tuple[str, ...]:
        """`host1`, `host2`, ..."""
        return tuple(f"host{i}" for i in range(1, self.hosts + 1))

    @property
    def machine_names(self) -> tuple[str, ...]:
        """The hosts and the client: all that has processes of its own."""
        return (*self.host_names, CLIENT)

    def host_index(self, host: str) -> int:
        """Return i of `host<i>`; raises InputError for a host that is not in the plan."""
        if host not in self.host_names:
            message = f"laboratory {self.name} has no host {host!r}"
            raise InputError(message, remedy=f"it has {', '.join(self.host_names)}")
        return self.host_names.index(host) + 1

    def check_machine(self, machine: str) -> str:
        """Return `machine` if it is a host or the client; raises InputError otherwise."""
        if machine != CLIENT:
            self.host_index(machine)
        return machine

    @property
    def controller_interface(self) -> str:
        """The one interface that the laboratory puts into the machine's own network namespace."""
        return controller_interface(self.network_number)

    @property
    def switch_namespace(self) -> str:
        """The network namespace that holds both switches."""
        return f"gwl{self.network_number}-sw"

    def namespace(self, machine: str) -> str:
        """Return the network namespace of a host or of the client."""
        return f"gwl{self.network_number}-{self.check_machine(machine)}"

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Every network namespace that the laboratory may have."""
        return (self.switch_namespace, *(self.namespace(name) for name in self.machine_names))

    # Addresses

    @property
    def management_network(self) -> ipaddress.IPv4Network:
        """The network of management, of the guests and of the client."""
        return ipaddress.IPv4Network(f"198.18.{self.network_number}.0/{PREFIX_LENGTH}")

    @property
    def migration_network(self) -> ipaddress.IPv4Network:
        """The network that only migration streams use."""
        return ipaddress.IPv4Network(f"198.19.{self.network_number}.0/{PREFIX_LENGTH}")

    @property
    def controller_address(self) -> str:
        """The address in the machine's own network namespace."""
        return str(self.management_network[1])

    def management_address(self, machine: str) -> str:
        """Return the address at which `machine` has its sshd."""
        if machine == CLIENT:
            return str(self.management_network[2])
        return str(self.management_network[_FIRST_HOST + self.host_index(machine)])

    def migration_address(self, host: str) -> str:
        """Return the address to which a migration towards `host` connects."""
        return str(self.migration_network[_FIRST_HOST + self.host_index(host)])

    def guest_address(self, index: int) -> str:
        """Return the address for the guest `index`, counted from 0; raises InputError past the last one."""
        if not 0 <= index <= _LAST_GUEST - _FIRST_GUEST:
            message = f"guests are numbered 0 to {_LAST_GUEST - _FIRST_GUEST}, not {index}"
            raise InputError(message)
        return str(self.management_network[_FIRST_GUEST + index])

    def hardware_address(self, machine: str, link: Literal["bridge", "uplink", "migration"]) -> str:
        """Return the fixed MAC of an interface: a bridge that took its ports' would change it with every tap."""
        index = 0 if machine == CLIENT else self.host_index(machine)
        kind = {"bridge": 0, "uplink": 1, "migration": 2}[link]
        return f"02:67:77:{self.network_number:02x}:{kind:02x}:{index:02x}"


def check_rate(rate: int | None) -> int | None:
    """Return `rate` (bits a second, None is unshaped) if a link can be shaped to it, else raise InputError."""
    lowest = 1_000_000
    if rate is not None and rate < lowest:
        message = f"a link's rate is at least {lowest} bit/s, not {rate}"
        raise InputError(message)
    return rate


def controller_interface(number: int) -> str:
    """Return the name of the controller's interface of the laboratory with this number."""
    return f"gwl{number}c"


def switch_port(machine: str) -> str:
    """Return the name of `machine`'s port on the switch, inside the switch's namespace."""
    return f"p-{machine}"


def migration_port(host: str) -> str:
    """Return the name of `host`'s port on the migration switch, inside the switch's namespace."""
    return f"m-{host}"
