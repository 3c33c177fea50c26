"""What a guest takes of its host beside disks and taps, and what a host has of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Bond(StrEnum):
    """What ties a guest to its host, or is not carried along when it moves."""

    USER_NETWORK = "user-network"
    VHOST_USER = "vhost-user"
    VIRTIOFS = "virtiofs"
    SHARED_FOLDER = "shared-folder"
    USB_HOST = "usb-host"
    HOST_DEVICE = "host-device"


@dataclass(frozen=True, slots=True)
class BondFacts:
    """One such bond: the device's or backend's name, and what of the host it holds (a socket, a folder, a device)."""

    kind: Bond
    name: str
    holds: str = ""


@dataclass(frozen=True, slots=True)
class HugeMemory:
    """Memory of a guest in huge pages: from the mount at `path`, or, where that is empty, from the kernel itself.

    `page` is the size of a page, 0 where the host's default counts.
    """

    path: str
    page: int
    size: int


@dataclass(frozen=True, slots=True)
class ListenerFacts:
    """A TCP port at which somebody listens; `address` is empty for every address. `name` says who it is, if known."""

    address: str
    port: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class GuestNeeds:
    """What a guest's QEMU takes of its host beside disks and taps.

    `name` is what QEMU itself calls the guest, None where it was not told. `file_memory` is memory at a path: only the
    host knows whether that is one of huge pages. `displays` are VNC servers, which Godwit moves to the next free port,
    `listens` what must have its port. `keeps_cache` says that a disk is told to keep what the page cache has of it
    when its guest comes (`drop-cache=off`). `open_files` is the number of descriptors that QEMU has, 0 if unknown,
    `runs_on` the processors that its process may use now, empty if unknown. `devices` are its device models.
    """

    name: str | None = None
    file_memory: tuple[HugeMemory, ...] = ()
    huge_memory: tuple[HugeMemory, ...] = ()
    nodes: frozenset[int] = frozenset()
    cpus: frozenset[int] = frozenset()
    locks_memory: bool = False
    bonds: tuple[BondFacts, ...] = ()
    displays: tuple[ListenerFacts, ...] = ()
    listens: tuple[ListenerFacts, ...] = ()
    keeps_cache: bool = False
    open_files: int = 0
    runs_on: frozenset[int] = frozenset()
    devices: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class HugePages:
    """Huge pages of one size: how many the kernel can still give out, reserves and overcommit counted.

    `pool` is how many it keeps at any time; None where it does not say.
    """

    size: int
    available: int
    pool: int | None = None


@dataclass(frozen=True, slots=True)
class HugeMount:
    """A hugetlbfs mount, and the size of its pages (0: the host's default)."""

    path: str
    page: int


@dataclass(frozen=True, slots=True)
class HostResources:
    """What a host has for guests beside memory, disks and bridges; what is empty or None is not known.

    `locked_memory` and `open_files` are limits of Godwit's login there, `open_files_hard` what a program may raise the
    latter to; None stands for no limit, too. `confinement` names what confines QEMUs, `tracks_bridged` says that the
    host's stateful firewall sees what its bridges carry. `denials` are what the kernel has forbidden to QEMUs
    during the last day, as far as its log says.
    """

    huge_pages: tuple[HugePages, ...] = ()
    huge_mounts: tuple[HugeMount, ...] = ()
    huge_default: int = 0
    nodes: frozenset[int] = frozenset()
    cpus: frozenset[int] = frozenset()
    locked_memory: int | None = None
    open_files: int | None = None
    open_files_hard: int | None = None
    listeners: tuple[ListenerFacts, ...] = ()
    confinement: tuple[str, ...] = ()
    denials: tuple[str, ...] = ()
    tracks_bridged: bool = False


@dataclass(frozen=True, slots=True)
class CpuModel:
    """A CPU model that a QEMU knows, and the flags of it that it cannot give on its host."""

    name: str
    lacks: frozenset[str] = frozenset()
