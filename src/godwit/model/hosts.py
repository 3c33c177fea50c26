"""Hosts: as the user registered them, and what they say of themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

from godwit.model.devices import DevicePool
from godwit.model.needs import CpuModel, HostResources

MIGRATION_PORTS: Final = range(49152, 49216)
"""TCP ports for streams. libvirt migrates over these, too: firewalls between hosts are often open for them already."""


@dataclass(frozen=True, slots=True)
class FenceCommand:
    """Programs of the controller that cut a host's power, and that say whether it is off.

    Both are argument lists and no shell reads them; `{host}` in an argument stands for the host's name. `status` must
    end with 0 if the host is off, and with another status if it is not.
    """

    off: tuple[str, ...]
    status: tuple[str, ...]
    kind: Literal["command"] = "command"


@dataclass(frozen=True, slots=True)
class Redfish:
    """A management controller that speaks Redfish; `system` is needed where it has several.

    The password itself is kept nowhere: it is read from `password_file`, which nobody else may read, or from the
    environment variable `password_variable`. `ca_file` holds what its certificate is verified with, if not the system's
    own authorities; `insecure` leaves that out.
    """

    url: str
    user: str
    password_file: str | None = None
    password_variable: str | None = None
    system: str = ""
    ca_file: str | None = None
    insecure: bool = False
    kind: Literal["redfish"] = "redfish"


@dataclass(frozen=True, slots=True)
class FenceProof:
    """A host was proven to be without power: when (UNIX seconds), by whose word, and what said so."""

    host: str
    at: float
    said: str
    by: str = ""


@dataclass(frozen=True, slots=True)
class HostRecord:
    """A host as the user registered it.

    `url` is "local" or "ssh://user@host[:port]". `migration_address` is where other hosts send the
    stream to; empty means the address of the URL. `fence` cuts its power when it is dead; `fence_automatic` permits
    that without a person's word, where nothing but its silence leaves a guest in LIMBO. `pools` are the PCI functions
    that guests may be given, by name.
    """

    name: str
    url: str
    identity_file: str | None = None
    known_hosts: str | None = None
    use_agent: bool = True
    migration_address: str = ""
    fence: FenceCommand | Redfish | None = None
    fence_automatic: bool = False
    pools: tuple[DevicePool, ...] = ()


@dataclass(frozen=True, slots=True)
class QemuFacts:
    """One QEMU binary on a host."""

    path: str
    version: tuple[int, int, int]
    machine_types: tuple[str, ...] = ()
    """Canonical machine types, aliases resolved."""
    machine_aliases: tuple[tuple[str, str], ...] = ()
    """(alias, canonical) pairs, such as ("q35", "pc-q35-10.0")."""
    shares_memory: bool = False
    """Whether all of a guest's memory can be such that another process may take it over (`aux-ram-share`)."""
    compressions: tuple[str, ...] = ()
    """The ways in which multifd can compress (`multifd-compression`): QEMU is built with some of them, or without."""
    encrypts: bool = True
    """Whether it can encrypt: some are built without GnuTLS."""
    tcg_models: tuple[CpuModel, ...] = ()
    """The CPU models that it knows, with what it cannot emulate of them; empty where it was not asked."""
    kvm_models: tuple[CpuModel, ...] = ()
    """The same under KVM, with what this host's processor does not have; empty where KVM does not run, too."""
    devices: frozenset[str] = frozenset()
    """The device models that it knows, by all their names; empty where it was not asked."""


@dataclass(frozen=True, slots=True)
class BridgeFacts:
    """One bridge on a host; `vlans` are the VLANs of the interfaces that are plugged into it (such as eth0.100)."""

    name: str
    mtu: int
    up: bool
    vlan_filtering: bool = False
    vlans: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class InterfaceFacts:
    """An interface of a host on which macvtaps may lie: network cards, bonds, VLANs, bridges.

    `master` is the bridge or bond that it is a part of, `addresses` are the host's own there. `carried` are the names
    and modes of the macvtaps and macvlans that lie on it.
    """

    name: str
    mtu: int
    up: bool
    master: str = ""
    addresses: tuple[str, ...] = ()
    carried: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Packets:
    """How large packets may be on the way from a host to an address, in bytes with their headers.

    `mtu` is that of the interface which they leave by, 0 where it is not known. `largest` is the largest of several
    that came through whole; 0 where none did, or nobody can know. `told` says that the way itself answers that larger
    ones do not pass: TCP sends smaller ones then.
    """

    mtu: int = 0
    largest: int = 0
    told: bool = False


class TrialEnd(StrEnum):
    """What became of a connection that was tried as a move would make it."""

    WORKS = "works"
    UNCONNECTED = "unconnected"
    REFUSED = "refused"
    STALLED = "stalled"
    UNTRIED = "untried"


@dataclass(frozen=True, slots=True)
class Trial:
    """A connection that was tried between two hosts, at `port` of the target: how it ended, and who said why.

    One that works and has words was cut off: the link is slow.
    `sent` bytes of a burst, if there was one, took `seconds`.
    """

    end: TrialEnd
    words: str = ""
    port: int = 0
    sent: int = 0
    seconds: float = 0.0

    @property
    def bandwidth(self) -> float:
        """Return the bytes a second that the burst was sent with, 0 where there was none."""
        return self.sent / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class StorageFacts:
    """One file system of a host that lies on a disk or comes over the network; `size` and `available` in bytes.

    `source` is the device or export, with the folder in brackets where only that is mounted.
    """

    path: str
    kind: str
    source: str
    size: int
    available: int


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a host says of itself.

    `clock_offset` is the host's clock minus the controller's in seconds, known to within
    `clock_uncertainty`. `accelerators` lists those that really run a guest, found by a probe
    with a deadline; `notes` says what was found on the way ("kvm opens, but a guest hangs").
    """

    name: str
    hostname: str
    machine_id: str
    kernel: str
    architecture: str
    cpu_model: str
    cpu_vendor: str
    cpu_flags: frozenset[str]
    cpu_count: int
    memory_total: int
    memory_available: int
    qemu: QemuFacts | None
    accelerators: tuple[str, ...]
    bridges: tuple[BridgeFacts, ...]
    migration_address: str
    clock_offset: float
    clock_uncertainty: float
    can_shorten_send_queue: bool
    storage: tuple[StorageFacts, ...] = ()
    notes: tuple[str, ...] = ()
    resources: HostResources = field(default_factory=HostResources)
    """What it has for guests beside all this, as far as it says."""
    interfaces: tuple[InterfaceFacts, ...] = ()
