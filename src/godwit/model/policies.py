"""What a move may cost, and what it is to be best at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from godwit.model.direct import DeviceChoice
from godwit.model.disks import DiskMode


class Way(StrEnum):
    """How a guest travels: running, standing still from the first byte on, or switched off and started anew."""

    LIVE = "live"
    STATIC = "static"
    OFF = "off"


class Goal(StrEnum):
    """What a move is to be best at; see `godwit.core.goals` for what each means."""

    SEAMLESS = "seamless"
    FAST = "fast"
    GENTLE = "gentle"
    FINISH = "finish"


class Permission(StrEnum):
    """What may be done to a guest so that its move ends."""

    THROTTLE = "throttle"
    """Let its CPUs sleep a share of their time, so that it writes less."""
    POSTCOPY = "postcopy"
    """Let it run on the target before all of its memory is there: a lost source, or a link that stays lost, is then the
    end of the guest."""
    PAUSE = "pause"
    """Let it stand still for as long as it takes to send the rest."""
    BALLOON = "balloon"
    """Let its balloon take free memory, which then need not be sent, until it has moved."""
    PAGE_CACHE = "page-cache"
    """Let that take what its kernel keeps of its disks, too: it reads that anew when somebody asks for it."""
    TRIM = "trim"
    """Let its agent give back what its file systems have freed of disks, before these are copied (guest-fstrim)."""


class Sending(StrEnum):
    """How pages travel: set before a stream starts, and not to be changed once it runs."""

    WHOLE = "plain precopy"
    CHANGES = "xbzrle"
    ZSTD = "multifd with zstd"
    ZLIB = "multifd with zlib"


@dataclass(frozen=True, slots=True)
class Strategy:
    """How pages travel, and the share of its time, in percent, for which the guest is to sleep once passes tell so.

    `armed` says whether it can be let sleep at all; a `throttle` of 0 then means: as little as QEMU can, until there is
    evidence that it takes more. `postcopy` says that the guest can go over to the target before its memory, `pauses`
    that it is expected to stand still while the rest is sent. `over_after` is after how many passes it goes over, where
    that is known beforehand; 0: when passes are seen to leave no less. `reclaim` is how many bytes of free memory its
    balloon takes before the stream.
    """

    sending: Sending = Sending.CHANGES
    throttle: int = 0
    armed: bool = False
    postcopy: bool = False
    pauses: bool = False
    reclaim: int = 0
    over_after: int = 0

    @property
    def name(self) -> str:
        """What it is called."""
        throttled = f", throttled by {self.throttle} %" if self.throttle else ""
        reclaimed = ", without free memory" if self.reclaim else ""
        over = f", over after pass {self.over_after}" if self.over_after else ""
        return f"{self.sending}{reclaimed}{throttled}{over}{', paused at its end' if self.pauses else ''}"

    @property
    def compresses(self) -> bool:
        """Whether pages travel compressed."""
        return self.sending in {Sending.ZSTD, Sending.ZLIB}


@dataclass(frozen=True, slots=True)
class Policy:
    """What the user allows a migration to cost. Seconds and bytes a second; None means no limit.

    `goal` is what it is to be best at; `allows` what may be done to the guest so that it ends, `max_guest_slowdown` the
    share of its time for which it may be made to sleep while it travels, where throttling is allowed.

    `disks` is how disks travel, `disk_modes` the exceptions by name; `compare_all` reads backing files whole where
    they are compared, instead of samples of them; `verify_disks` compares copied disks with their sources afterwards.
    `keep_old` keeps copied disks on the source, so that the way back is short. `off_timeout` is how long a guest that
    is to be switched off may take to obey its power button. `wait` is for how long a move may be put off until the
    guest writes less, where it would be slowed down, paused, or not end. `plaintext` lets everything travel in the
    clear, between hosts that do not prove who they are. `protect_neighbours` is the share of what they come to do that
    the other guests of both hosts are to keep while the stream runs; None: nobody looks after them. `devices` is what
    becomes of devices that do not travel, and `unplug_timeout` how long the guest may take to let go of one.
    """

    max_downtime: float = 0.3
    deadline: float | None = None
    bandwidth: int | None = None
    disks: DiskMode = DiskMode.AUTO
    disk_modes: tuple[tuple[str, DiskMode], ...] = ()
    compare_all: bool = False
    keep_old: bool = True
    way: Way = Way.LIVE
    off_timeout: float = 60.0
    verify_disks: bool = False
    goal: Goal = Goal.SEAMLESS
    max_guest_slowdown: float = 0.95
    allows: frozenset[Permission] = frozenset({Permission.THROTTLE, Permission.BALLOON})
    wait: float = 0.0
    plaintext: bool = False
    protect_neighbours: float | None = None
    devices: tuple[DeviceChoice, ...] = ()
    unplug_timeout: float = 20.0

    def choice_of(self, device: str) -> DeviceChoice | None:
        """Return what was chosen for the device of that name, None where nothing was; the last choice counts."""
        return next((choice for choice in reversed(self.devices) if choice.device == device), None)

    def mode_of(self, disk: str) -> DiskMode:
        """Return how the disk of that name is to travel."""
        return dict(self.disk_modes).get(disk, self.disks)

    @property
    def most_throttle(self) -> int:
        """The share of its time, in percent, for which the guest may be made to sleep."""
        return round(self.max_guest_slowdown * 100) if Permission.THROTTLE in self.allows else 0
