"""What a report is made from: plain values, independent of how a migration is run or stored.

Instants are UNIX seconds; lengths carry their unit in the name. Whatever was not measured is None or empty.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from godwit.measure.series import ProbeSeries

Place = Literal["before", "blackout", "after"]


@dataclass(frozen=True, slots=True)
class PhaseSpan:
    """A phase of the migration; ``end_s`` is None for one that was cut off."""

    name: str
    start_s: float
    end_s: float | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class PassRow:
    """One pass over the guest's memory: bytes sent in it, bytes per second sent and dirtied, bytes left after it."""

    number: int
    duration_s: float
    sent_bytes: int
    rate_bytes_per_s: float
    dirty_bytes_per_s: float | None = None
    remaining_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """What was decided during the migration, and why."""

    at_s: float
    action: str
    reason: str
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class FindingRow:
    """What preflight found; ``severity`` is block, warn or info."""

    severity: str
    subject: str
    found: str
    why: str = ""
    mend: str = ""


@dataclass(frozen=True, slots=True)
class JournalRow:
    """One entry of the journal."""

    at_s: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class BreakdownRow:
    """A part of the switchover in order of time; ``place`` says on which side of STOP and RESUME it lies."""

    name: str
    length_ms: float
    place: Place = "blackout"


@dataclass(frozen=True, slots=True)
class DowntimeFigures:
    """The three figures in milliseconds, what limits their accuracy, and the parts of the switchover."""

    qemu_ms: float | None = None
    blackout_ms: float | None = None
    client_gap_ms: float | None = None
    probe_lag_ms: float | None = None
    clock_uncertainty_ms: float | None = None
    client_gap_open: bool = False
    breakdown: tuple[BreakdownRow, ...] = ()
    first_packet_ms: float | None = None


@dataclass(frozen=True, slots=True)
class DiskRow:
    """A disk that was copied: the bytes that it took on the source, and takes on the target."""

    name: str
    before_bytes: int
    after_bytes: int


@dataclass(frozen=True, slots=True)
class RunFigures:
    """One of two runs that are compared."""

    label: str
    downtime: DowntimeFigures
    total_s: float
    sent_bytes: int
    probe: ProbeSeries | None = None
    stop_s: float | None = None
    resume_s: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs of the same guest over the same link: the base, and the one that shall be better."""

    base: RunFigures
    better: RunFigures


Unit = Literal["processors", "share", "bytes", "per second", "seconds"]


@dataclass(frozen=True, slots=True)
class CostRow:
    """What a move did to one rate of one guest; rates in ``unit``, bytes a second for "bytes". None: not known.

    ``during`` is the average from the beginning of the stream until the guest ran on the target (or the move was taken
    back), ``least`` the lowest of half a second in that, ``kept`` is ``during`` by ``before``. ``back_s`` is after how
    many seconds on the target it was back at 95 % of its former rate, ``watched_s`` how long it was watched there, and
    ``lost_s`` how many seconds' worth of its former rate it came to less in all. The pieces are (start, end, rate).
    """

    guest: str
    host: str
    moved: bool
    what: str
    unit: Unit
    before: float | None = None
    during: float | None = None
    least: float | None = None
    after: float | None = None
    kept: float | None = None
    back_s: float | None = None
    watched_s: float = 0.0
    lost_s: float | None = None
    pieces: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ThrottleRow:
    """How far the guest was slowed down: the shares of its time that were permitted, and asked of QEMU.

    ``applied`` is what its CPUs worked, or waited for a core, less in a pass that was throttled so far than
    unthrottled; None: not known.
    """

    permitted: float
    asked: float
    applied: float | None = None


@dataclass(frozen=True, slots=True)
class ReportData:
    """One migration. ``status`` is completed, failed, cancelled, refused, guest-crashed, limbo or running.

    ``disk_bytes`` of disks were copied; ``disks_compared`` says what came of comparing them, empty where nobody asked.
    """

    id: str
    vm: str
    source: str
    target: str
    status: str
    started_s: float
    ended_s: float | None = None
    sent_bytes: int = 0
    owner: str = ""
    downtime: DowntimeFigures = field(default_factory=DowntimeFigures)
    stop_s: float | None = None
    resume_s: float | None = None
    probe: ProbeSeries | None = None
    guest_alive: bool | None = None
    phases: tuple[PhaseSpan, ...] = ()
    passes: tuple[PassRow, ...] = ()
    pass_count: int = 0
    disks: tuple[DiskRow, ...] = ()
    disk_bytes: int = 0
    disks_compared: str = ""
    costs: tuple[CostRow, ...] = ()
    throttle: ThrottleRow | None = None
    began_s: float | None = None
    decisions: tuple[DecisionRow, ...] = ()
    findings: tuple[FindingRow, ...] = ()
    journal: tuple[JournalRow, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    error: str = ""
    remedy: str = ""
    simulated: bool = False
    comparison: Comparison | None = None
    version: str = ""

    @property
    def total_s(self) -> float | None:
        """Seconds from the request to the end; None while it runs."""
        return None if self.ended_s is None else self.ended_s - self.started_s
