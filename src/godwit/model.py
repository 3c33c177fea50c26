"""The values that Godwit's rooms hand to each other: frozen, comparable, without behaviour of their own.

Times are UNIX seconds as floats unless a name says otherwise; sizes are bytes; rates are bytes a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

MIGRATION_PORTS: Final = range(49152, 49216)
"""TCP ports for streams. libvirt migrates over these, too: firewalls between hosts are often open for them already."""


class Owner(StrEnum):
    """Which side may execute the guest."""

    SOURCE = "source"
    TARGET = "target"
    UNKNOWN = "unknown"


class Side(StrEnum):
    """One of the two hosts of a migration."""

    SOURCE = "source"
    TARGET = "target"


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
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Tap:
    """A host network interface that a guest's NIC is plugged into."""

    interface: str
    bridge: str


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


@dataclass(frozen=True, slots=True)
class HostRecord:
    """A host as the user registered it.

    `url` is "local" or "ssh://user@host[:port]". `migration_address` is where other hosts send the
    stream to; empty means the address of the URL.
    """

    name: str
    url: str
    identity_file: str | None = None
    known_hosts: str | None = None
    use_agent: bool = True
    migration_address: str = ""


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


@dataclass(frozen=True, slots=True)
class BridgeFacts:
    """One bridge on a host."""

    name: str
    mtu: int
    up: bool


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


class DiskMode(StrEnum):
    """What is to become of a disk: AUTO shares what is shared, and copies the rest in the cheapest way.

    INCREMENTAL copies what the disk itself holds onto backing files that the target has already.
    """

    AUTO = "auto"
    SHARED = "shared"
    INCREMENTAL = "incremental"
    FULL = "full"


class Way(StrEnum):
    """How a guest travels: running, standing still from the first byte on, or switched off and started anew."""

    LIVE = "live"
    STATIC = "static"
    OFF = "off"


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
    """A place on a host where an image is to be made; `available` is the room there in bytes, None without a folder."""

    exists: bool
    writable: bool
    available: int | None
    can_create: bool


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


@dataclass(frozen=True, slots=True)
class NicFacts:
    """One network interface of a running guest."""

    name: str
    mac: str
    tap: Tap | None


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
    """What a QEMU can do, found by introspection."""

    commands: frozenset[str]
    capabilities: frozenset[str]
    parameters: frozenset[str]


@dataclass(frozen=True, slots=True)
class Policy:
    """What the user allows a migration to cost. Seconds and bytes a second; None means no limit.

    `disks` is how disks travel, `disk_modes` the exceptions by name; `compare_all` reads backing files whole where
    they are compared, instead of samples of them; `verify_disks` compares copied disks with their sources afterwards.
    `keep_old` keeps copied disks on the source, so that the way back is short. `off_timeout` is how long a guest that
    is to be switched off may take to obey its power button.
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

    def mode_of(self, disk: str) -> DiskMode:
        """Return how the disk of that name is to travel."""
        return dict(self.disk_modes).get(disk, self.disks)


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """An outside probe that is to watch a migration: what to ask, how often, and from which vantage point.

    `interval` is in seconds, None means what suits the kind; `vantage` is a registered host, None this machine.
    """

    target: str
    vantage: str | None = None
    interval: float | None = None


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A migration to another QEMU process on the same host: the guest under its names before, and after.

    The program of `after` is what it is to run in. They are kept with the migration, since the inventory has the new
    names before the old process is gone.
    """

    before: Vm
    after: Vm


@dataclass(frozen=True, slots=True)
class Spec:
    """One migration, as it was asked for. `defaults` leaves every decision to QEMU, for comparison.

    `upgrade` is there where the guest stays on its host, and only its QEMU is replaced.
    """

    id: str
    vm: str
    source: str
    target: str
    policy: Policy = field(default_factory=Policy)
    probe: ProbeRequest | None = None
    defaults: bool = False
    upgrade: Upgrade | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading of a running stream.

    `transferred`, `remaining` and `total` are bytes of memory; `rate` is the stream's bytes a second,
    `dirty_rate` bytes dirtied a second (0 until the first pass has ended); `iteration` counts passes from 1.
    `expected_downtime` is QEMU's own estimate in seconds.
    """

    at: float
    iteration: int
    transferred: int
    remaining: int
    total: int
    rate: float
    dirty_rate: float
    expected_downtime: float | None = None


class Severity(StrEnum):
    """How bad a finding is."""

    BLOCK = "block"
    WARN = "warn"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that preflight found: what, why it matters, and the mend."""

    code: str
    severity: Severity
    subject: str
    found: str
    why: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Downtime:
    """The three figures, always together, in milliseconds; None where one could not be measured.

    `qemu_ms` is what QEMU reports, `blackout_ms` STOP on the source to RESUME on the target, put on one
    clock; `client_gap_ms` the longest time that an outside client waited. `breakdown` names the blackout's
    parts; `clock_uncertainty_ms` says how well the two hosts' clocks are known against each other.
    """

    qemu_ms: float | None = None
    blackout_ms: float | None = None
    client_gap_ms: float | None = None
    probe_lag_ms: float | None = None
    clock_uncertainty_ms: float | None = None
    breakdown: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class WatchResult:
    """What an outside client felt. `series` is plain JSON, see godwit.measure.series; None where nothing answered."""

    client_gap_ms: float | None
    probe_lag_ms: float | None
    lost: int
    errors: int
    series: dict[str, object]


class OutcomeStatus(StrEnum):
    """How a migration ended."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"
    REFUSED = "refused"
    GUEST_CRASHED = "guest-crashed"
    UNVERIFIED = "unverified"
    """The guest runs on the target, and its copied disks differ from the source's, or could not be compared."""
    LIMBO = "limbo"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a migration ended, and what it cost.

    `total_s` runs from the request to the end; `stream_s` is the time from stream start to RESUME.
    `bytes` are those of the memory's stream, `disk_bytes` what was copied of disks before it.
    `guest_alive` is None where nobody could look from outside or inside; `leftovers` says what could not be removed.
    `qemus` are the old and the new QEMU's versions where the guest stayed on its host and its QEMU was replaced.
    """

    id: str
    vm: str
    source: str
    target: str
    status: OutcomeStatus
    owner: Owner
    total_s: float
    stream_s: float | None = None
    start_delay_s: float | None = None
    bytes: int = 0
    disk_bytes: int = 0
    passes: int = 0
    downtime: Downtime = field(default_factory=Downtime)
    guest_alive: bool | None = None
    error: str = ""
    remedy: str = ""
    findings: tuple[Finding, ...] = ()
    leftovers: tuple[str, ...] = ()
    simulated: bool = False
    allocations: tuple[Allocation, ...] = ()
    comparison: Comparison | None = None
    qemus: tuple[str, str] | None = None
