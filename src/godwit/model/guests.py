"""Guests: how they are started, and what their QEMUs say of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from godwit.model.direct import DeviceChoice, DirectFacts
from godwit.model.disks import DiskFacts, StrayImage
from godwit.model.needs import GuestNeeds

if TYPE_CHECKING:
    from collections.abc import Mapping


class RunState(StrEnum):
    """What one host says of a guest at one instant."""

    ABSENT = "absent"
    """The host answers and has no process of this guest."""
    RUNNING = "running"
    PAUSED = "paused"
    """Stopped and able to run: an operator's pause, or a target that has received everything."""
    INCOMING = "incoming"
    """Waiting for, or receiving, a migration stream: cannot run yet."""
    STOPPED_FOR_SWITCHOVER = "stopped-for-switchover"
    """A source between its stop and the end of the stream."""
    POSTMIGRATE = "postmigrate"
    """A source that has handed everything over and could still be told to run."""
    POWERED_OFF = "powered-off"
    """A guest that has switched itself off, in a QEMU that outlived it: it cannot run until it is reset."""
    OTHER = "other"
    UNREACHABLE = "unreachable"
    """The host, or the guest's monitor, did not answer: nothing is known."""


class StreamStatus(StrEnum):
    """QEMU's migration status, reduced to what decisions need; `raw` words travel beside it."""

    NONE = "none"
    SETUP = "setup"
    ACTIVE = "active"
    HELD = "held"
    """Before the switchover, with the guest stopped, until it is told to go on (`pause-before-switchover`)."""
    SWITCHOVER = "switchover"
    POSTCOPY = "postcopy"
    """The guest may run on the target while the rest of its memory is still on the source."""
    BROKEN = "broken"
    """Postcopy that stands still because its connection was lost: it waits to be taken up again."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class PortVlan:
    """VLANs that a port of a bridge carries, from `first` to `last`.

    What comes without a tag belongs to the one that is the port's `pvid`; `untagged` ones leave the port without a tag.
    """

    first: int
    last: int
    pvid: bool = False
    untagged: bool = False


@dataclass(frozen=True, slots=True)
class Port:
    """How a tap is plugged into its bridge, as far as it matters to who uses the guest.

    `vlans` are None where the bridge does not filter VLANs; `flags` are those that are not as the kernel has them by
    default, by their names in bridge(8).
    """

    vlans: tuple[PortVlan, ...] | None = None
    flags: tuple[tuple[str, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class Macvtap:
    """What makes a tap a macvtap, which lies on an interface of the host (`parent`) and is plugged into no bridge.

    `mode` is "bridge", "private", "vepa" or "passthru" (see ip-link(8)), `mac` the NIC's own address, by which the
    parent knows whose a frame is. QEMU opens no macvtap: it inherits it as the file descriptor `descriptor`.
    """

    parent: str
    mode: str
    mac: str
    descriptor: int


@dataclass(frozen=True, slots=True)
class Tap:
    """A host network interface that a guest's NIC is plugged into; `port` is None where nobody has looked.

    A macvtap has an empty `bridge`.
    """

    interface: str
    bridge: str
    port: Port | None = None
    macvtap: Macvtap | None = None


@dataclass(frozen=True, slots=True)
class Launch:
    """How a QEMU process is started: what its own command line says, and where it says it.

    `argv[0]` is the program. `sockets` are the folders that must exist before the start,
    `taps` the interfaces that must exist and be plugged into their bridges (QEMU's own
    scripts make the others).
    """

    argv: tuple[str, ...]
    working_directory: str = "/"
    folders: tuple[str, ...] = ()
    taps: tuple[Tap, ...] = ()


@dataclass(frozen=True, slots=True)
class Vm:
    """A guest that Godwit knows.

    `control` and `observe` are QMP sockets on the guest's host (a socket serves one client at a time);
    an adopted guest may have only `control`. `address` is where clients reach the guest, if known.
    `source_text` keeps the definition file of a defined guest, for `vm show`. `sibling` is the control socket of the
    other process of this very guest on the same host, while one of them replaces the other: it is no namesake.
    `devices` is what its definition says of devices that do not travel.
    """

    name: str
    host: str
    launch: Launch
    control: str
    observe: str | None = None
    console: str | None = None
    pidfile: str | None = None
    log: str | None = None
    address: str | None = None
    adopted: bool = False
    source_text: str = ""
    sibling: str = ""
    devices: tuple[DeviceChoice, ...] = ()


@dataclass(frozen=True, slots=True)
class NicFacts:
    """One network interface of a running guest."""

    name: str
    mac: str
    tap: Tap | None


@dataclass(frozen=True, slots=True)
class Announced:
    """A NIC as a network is told of it: its MAC address, the tap that it is on, and its IP addresses, if known.

    `router`: it is known to be an IPv6 router's.
    """

    mac: str
    tap: str
    addresses: tuple[str, ...] = ()
    router: bool = False


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What a host knows of the addresses around it.

    `addresses` are those under which NICs, by their MAC addresses in small letters, have answered this host lately;
    `routers` are the NICs that have said to be an IPv6 router's. `others` holds the addresses that are certainly not a
    guest's: the host's own, its gateways', and those that another NIC is known to have.
    """

    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    routers: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class GuestFacts:
    """What a running guest's QEMU says of it.

    `machine` is never an alias. `launch` starts the same guest elsewhere: its command line as it is
    now, with what was hot-plugged since, without an earlier `-incoming` or `-S`.
    `blockers` are QEMU's own reasons why it cannot be migrated, `refusals` ours why it cannot be started elsewhere
    exactly as it is.
    """

    vm: str
    run_state: RunState
    qemu_version: tuple[int, int, int]
    machine: str
    accelerator: str
    cpu_model: str
    memory: int
    vcpus: int
    disks: tuple[DiskFacts, ...]
    nics: tuple[NicFacts, ...]
    launch: Launch
    pid: int
    libvirt: bool = False
    inherited_descriptors: tuple[str, ...] = ()
    blockers: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    stray_images: tuple[StrayImage, ...] = ()
    needs: GuestNeeds = field(default_factory=GuestNeeds)
    """What it takes of its host beside disks and taps, as far as its command line and its network say."""
    direct: tuple[DirectFacts, ...] = ()
    """Its NICs and what it has of its host, as far as each has a name: what a move may take from it."""


@dataclass(frozen=True, slots=True)
class Balloon:
    """The balloon of a running guest, in bytes: the memory that it leaves to the guest, and what of that is free.

    `available` is what its kernel could give to a program, most of which it may keep of its disks meanwhile. Both are
    None where the guest does not say. `yields` says that the guest takes memory back from it by itself before
    it ends a process for lack of memory (`deflate-on-oom`).
    """

    size: int
    free: int | None = None
    yields: bool = False
    available: int | None = None


@dataclass(frozen=True, slots=True)
class GuestView:
    """One side's answer to "what is this guest doing": the evidence that recovery decides on."""

    state: RunState
    stream: StreamStatus = StreamStatus.NONE
    raw: str = ""
    pid: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class WaitingQemu:
    """A QEMU that listens for a stream: its QMP sockets, as paths on its host, and whether it was started with -S."""

    pid: int
    monitors: tuple[str, ...]
    stays_stopped: bool


@dataclass(frozen=True, slots=True)
class Features:
    """What a QEMU can do, found by introspection.

    `compressions` are the ways in which its multifd can compress; a guest's monitor is not asked for them, see
    `QemuFacts`.
    """

    commands: frozenset[str]
    capabilities: frozenset[str]
    parameters: frozenset[str]
    compressions: frozenset[str] = frozenset()
