"""Disks and images: what they are, how they travel, and what became of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Stamp:
    """A dirty bitmap that was set on a disk and on its copy while the guest stood still between them.

    Both have it, so that the copy left behind can be found again; in the one that lives on it records what is written
    since: `changed` bytes.
    """

    name: str
    changed: int


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """One disk of a running guest; `path` is absolute on the guest's host."""

    name: str
    path: str
    format: str
    read_only: bool
    virtual_size: int
    backs: str = ""
    """The name of the disk that this one is a backing file of."""
    stamps: tuple[Stamp, ...] = ()
    """The handover stamps that record what was written since, as far as they can be trusted."""
    firmware: bool = False
    """Whether this is the flash memory that the machine starts from (pflash)."""
    direct: bool = True
    """Whether it goes past the host's page cache (`cache.direct`); taken for granted where QEMU does not say."""


class DiskMode(StrEnum):
    """What is to become of a disk: AUTO shares what is shared, and copies the rest in the cheapest way.

    INCREMENTAL copies what the disk itself holds onto backing files that the target has already.
    """

    AUTO = "auto"
    SHARED = "shared"
    INCREMENTAL = "incremental"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """An image file as `qemu-img info` describes it; sizes in bytes.

    `allocated` is what it takes on its file system. `backing` is the absolute path of the image below it. `options`
    are what `qemu-img create` needs to make another of its kind; `refusals` say why none can be made. `stamps` are the
    handover stamps that it holds and that QEMU closed in order.
    """

    path: str
    format: str
    virtual_size: int
    allocated: int
    backing: str = ""
    backing_format: str = ""
    options: tuple[tuple[str, str], ...] = ()
    refusals: tuple[str, ...] = ()
    stamps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OlderCopy:
    """An image that was left behind when its guest moved away, as the mark beside it has it.

    `vm` is the guest, `stamp` the handover stamp of that move; `unchanged` says that the file and those that it rests
    on are what they were then, to the nanosecond. `resumed` says that a way back was begun since and taken back: a part
    of what it lacked is there. `image` is None where nobody can read it.
    """

    vm: str
    stamp: str
    unchanged: bool
    image: ImageFacts | None = None
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class PlaceFacts:
    """A place on a host where an image is to be made.

    `available` is the room there in bytes, None without a folder; `file_limit` what a file of whoever logs in there may
    grow to, in bytes (RLIMIT_FSIZE), None without a limit.
    """

    exists: bool
    writable: bool
    available: int | None
    can_create: bool
    file_limit: int | None = None


@dataclass(frozen=True, slots=True)
class DiskCopy:
    """A disk that travels with its guest: `name` is QEMU's, `image` what is to be made on the target.

    `job` names the copying itself, as an identifier that QEMU takes. `stamp` is the handover stamp that both images
    get when the guest stands still, empty for none. `older` says that the target has an older copy; it is made anew,
    unless `since` names the stamp from which on it lacks what was written.
    """

    name: str
    image: ImageFacts
    job: str
    mode: DiskMode = DiskMode.FULL
    stamp: str = ""
    older: bool = False
    since: str = ""
    verify: bool = False
    """Whether what has arrived is to be compared with what was sent, as both were when the guest stood still."""

    @property
    def frozen(self) -> str:
        """The file on the target that keeps what the guest overwrites while the copy is compared."""
        return f"{self.image.path}.godwit-frozen"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of comparing copied disks: None where they could not be; `bytes` were compared in `seconds`."""

    equal: bool | None
    detail: str = ""
    bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Allocation:
    """The bytes that a copied disk took on the source's file system, and takes on the target's."""

    disk: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class MirrorView:
    """How far the copy of one disk is: bytes done of those known to be needed; `ready` when it keeps up with writes."""

    name: str
    done: int
    needed: int
    ready: bool


@dataclass(frozen=True, slots=True)
class StrayImage:
    """A writable image that QEMU knows by a relative name which leads nowhere since it went to "/".

    `path` is where it really is, `name` what QEMU calls it.
    """

    path: str
    name: str
