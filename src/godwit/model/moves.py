"""Moves: what was asked for, what was found, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from godwit.model.disks import Allocation, Comparison
from godwit.model.guests import Vm
from godwit.model.policies import Policy


class Owner(StrEnum):
    """Which side may execute the guest."""

    SOURCE = "source"
    TARGET = "target"
    UNKNOWN = "unknown"


class Side(StrEnum):
    """One of the two hosts of a migration."""

    SOURCE = "source"
    TARGET = "target"


@dataclass(frozen=True, slots=True)
class Word:
    """What a person decided of a guest in LIMBO: whose it is, who said it, and when (UNIX seconds)."""

    owner: Side
    by: str
    at: float


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
    """One migration, as it was asked for.

    `defaults` leaves every decision to QEMU, for comparison; with `converge` that one slows the guest down, as it does.

    `upgrade` is there where the guest stays on its host, and only its QEMU is replaced.
    """

    id: str
    vm: str
    source: str
    target: str
    policy: Policy = field(default_factory=Policy)
    probe: ProbeRequest | None = None
    defaults: bool = False
    converge: bool = False
    upgrade: Upgrade | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading of a running stream.

    `transferred`, `remaining` and `total` are bytes of memory; `rate` is the stream's bytes a second,
    `dirty_rate` bytes dirtied a second (0 until the first pass has ended); `iteration` counts passes from 1.
    `expected_downtime` is QEMU's own estimate in seconds, `throttle` the share of its time, in percent, for which it
    lets the guest's CPUs sleep.
    """

    at: float
    iteration: int
    transferred: int
    remaining: int
    total: int
    rate: float
    dirty_rate: float
    expected_downtime: float | None = None
    throttle: int = 0


class Severity(StrEnum):
    """How bad a finding is."""

    BLOCK = "block"
    WARN = "warn"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Command:
    """A mend that is a command: `text` for a shell on `host`, and what takes it `back` again, empty where nothing does.

    `safe` says that it changes nothing for any guest that runs, touches no storage, and can be taken back.
    """

    host: str
    text: str
    back: str = ""
    safe: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that preflight found: what, why it matters, and the mend; `command` where one mends it."""

    code: str
    severity: Severity
    subject: str
    found: str
    why: str
    mend: str = ""
    command: Command | None = None


@dataclass(frozen=True, slots=True)
class Downtime:
    """The three figures, always together, in milliseconds; None where one could not be measured.

    `qemu_ms` is what QEMU reports, `blackout_ms` STOP on the source to RESUME on the target, put on one
    clock; `client_gap_ms` the longest time that an outside client waited. `breakdown` names the blackout's
    parts; `clock_uncertainty_ms` says how well the two hosts' clocks are known against each other.
    `first_packet_ms` is the time from RESUME to the first answer that the client had from the guest on the target.
    """

    qemu_ms: float | None = None
    blackout_ms: float | None = None
    client_gap_ms: float | None = None
    probe_lag_ms: float | None = None
    clock_uncertainty_ms: float | None = None
    breakdown: tuple[tuple[str, float], ...] = ()
    first_packet_ms: float | None = None


@dataclass(frozen=True, slots=True)
class WatchResult:
    """What an outside client felt. `series` is plain JSON, see godwit.measure.series; None where nothing answered.

    `first_packet_ms` is the time from RESUME to the first answer after it; None where that is not known, too.
    """

    client_gap_ms: float | None
    probe_lag_ms: float | None
    lost: int
    errors: int
    series: dict[str, object]
    first_packet_ms: float | None = None


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
    `encrypted` says whether what was sent was encrypted; None where nothing left a host, or nobody knows.
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
    encrypted: bool | None = None
