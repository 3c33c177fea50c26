"""The story of a migration, made from its journal: passes, phases, decisions, and what a report is made from. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.measure.costs import costs, stretches, throttle
from godwit.measure.narrative import Weight, mapping_of, number_of, phase_words, sentence, text_of
from godwit.measure.report_data import (
    BreakdownRow,
    DecisionRow,
    DiskRow,
    DowntimeFigures,
    FindingRow,
    JournalRow,
    PassRow,
    PhaseSpan,
    ReportData,
    RunFigures,
)
from godwit.units import format_bandwidth, format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.measure.report_data import CostRow, ThrottleRow
    from godwit.measure.series import ProbeSeries
    from godwit.model import Comparison as DisksCompared
    from godwit.ports import Entry, MigrationRow

_ENDS: Final = frozenset({"done", "cancelled", "failed", "limbo"})


def phases(row: MigrationRow, entries: Sequence[Entry]) -> tuple[PhaseSpan, ...]:
    """Return the phases in order with their ends; the one that still lasts has none."""
    spans: list[PhaseSpan] = []
    name, begun = "pending", row.created
    for entry in entries:
        phase = text_of(entry.data, "phase") if entry.kind == "transition" else ""
        if not phase or phase == name:
            continue
        spans.append(PhaseSpan(name, begun, entry.at, phase_words(name, row.spec.policy.way)))
        name, begun = phase, entry.at
    if name not in _ENDS:
        spans.append(PhaseSpan(name, begun, None, phase_words(name, row.spec.policy.way)))
    return tuple(spans)


@dataclass(frozen=True, slots=True)
class _Taken:
    at: float
    iteration: int
    transferred: float
    remaining: float
    dirty_rate: float


def passes(entries: Sequence[Entry]) -> tuple[PassRow, ...]:
    """Return the passes over memory as the samples show them.

    A pass begins with the last sample before it, or with the start of the stream; what was left after it is the least
    that was seen in it. A stream that was started anew begins with pass 1 again.
    """
    taken = [_take(entry) for entry in entries if entry.kind == "sample"]
    if not taken:
        return ()
    begun = next((entry.at for entry in entries if _is_mark(entry, "stream_started")), taken[0].at)
    rows: list[PassRow] = []
    before = _Taken(begun, taken[0].iteration, 0.0, 0.0, 0.0)
    group: list[_Taken] = []
    for sample, following in zip(taken, [*taken[1:], None], strict=True):
        group.append(sample)
        if following is None or following.iteration != sample.iteration:
            rows.append(_pass(before, group))
            before, group = sample, []
    return tuple(rows)


def _take(entry: Entry) -> _Taken:
    def figure(name: str) -> float:
        return number_of(entry.data, name) or 0.0

    at = number_of(entry.data, "at") or entry.at
    return _Taken(at, int(figure("iteration")), figure("transferred"), figure("remaining"), figure("dirty_rate"))


def _is_mark(entry: Entry, name: str) -> bool:
    return entry.kind == "mark" and text_of(entry.data, "name") == name


def _pass(before: _Taken, group: Sequence[_Taken]) -> PassRow:
    last = group[-1]
    length = max(0.0, last.at - before.at)
    sent = max(0.0, last.transferred - before.transferred)
    return PassRow(
        number=max(1, last.iteration),
        duration_s=length,
        sent_bytes=round(sent),
        rate_bytes_per_s=sent / length if length > 0 else 0.0,
        dirty_bytes_per_s=last.dirty_rate if last.iteration > 1 else None,
        remaining_bytes=round(min(sample.remaining for sample in group)),
    )


def decisions(entries: Sequence[Entry]) -> tuple[DecisionRow, ...]:
    """Return what was decided, with reasons and evidence word for word."""
    rows = []
    for entry in entries:
        if entry.kind != "transition" or text_of(entry.data, "event") != "Decided":
            continue
        detail = mapping_of(entry.data, "detail")
        changed = ", ".join(f"{name}={value}" for name, value in mapping_of(detail, "parameters").items())
        action = text_of(detail, "action") + (f" ({changed})" if changed else "")
        rows.append(DecisionRow(entry.at, action, text_of(detail, "reason"), text_of(detail, "evidence")))
    return tuple(rows)


def findings(entries: Sequence[Entry]) -> tuple[FindingRow, ...]:
    """Return what preflight and the move itself found, the bad first."""
    order = {"block": 0, "warn": 1}
    rows = [
        FindingRow(*(text_of(entry.data, name) for name in ("severity", "subject", "found", "why", "mend")))
        for entry in entries
        if entry.kind == "finding"
    ]
    return tuple(sorted(rows, key=lambda one: order.get(one.severity, 2)))


def instants(row: MigrationRow, entries: Sequence[Entry]) -> tuple[float | None, float | None]:
    """Return STOP and RESUME on the controller's clock.

    STOP is when it was heard of. RESUME follows it by the blackout, which was measured with both hosts' clocks put on
    one; where there is no such figure, it is when RESUME was heard of.
    """
    heard: dict[str, float] = {}
    for entry in entries:
        received = number_of(entry.data, "received")
        if entry.kind == "mark" and received is not None:
            heard.setdefault(text_of(entry.data, "name"), received)
    stop, resume = heard.get("source_stopped"), heard.get("target_running")
    blackout = row.outcome.downtime.blackout_ms if row.outcome else None
    if stop is not None and blackout is not None:
        return stop, stop + blackout / 1000
    return stop, resume


def probe_series(entries: Sequence[Entry]) -> ProbeSeries | None:
    """Return what the outside probe saw, or None. ValueError for a series of another version of Godwit."""
    found = next((entry for entry in reversed(entries) if entry.kind == "series"), None)
    if found is None or not found.data:
        return None
    from godwit.measure.series import ProbeSeries  # noqa: PLC0415 - loads numpy, which few stories need

    return ProbeSeries.from_json(found.data)


ENCRYPTED: Final = "TLS, and both ends prove who they are"
IN_THE_CLEAR: Final = "NONE: everything travels in the clear"


def settings(row: MigrationRow) -> tuple[tuple[str, str], ...]:
    """Return what was asked for, in words."""
    policy = row.spec.policy
    if row.spec.defaults:
        plainly = ("encryption", "NONE, as QEMU does by itself")
        return (("decisions", "left to QEMU's defaults, for comparison"), plainly, *_probe_setting(row))
    told = [("downtime at most", format_duration(policy.max_downtime))]
    told.append(("deadline", "none" if policy.deadline is None else format_duration(policy.deadline)))
    told.append(("bandwidth", "no limit" if policy.bandwidth is None else format_bandwidth(policy.bandwidth)))
    if policy.protect_neighbours is not None:
        told.append(("neighbours", f"keep at least {policy.protect_neighbours:.0%}"))
    if row.spec.upgrade is None:
        told.append(("encryption", IN_THE_CLEAR if policy.plaintext else ENCRYPTED))
    return (*told, *_probe_setting(row))


def _probe_setting(row: MigrationRow) -> tuple[tuple[str, str], ...]:
    probe = row.spec.probe
    if probe is None:
        return ()
    vantage = f" from {probe.vantage}" if probe.vantage else ""
    every = f", every {format_duration(probe.interval)}" if probe.interval is not None else ""
    return (("outside probe", f"{probe.target}{vantage}{every}"),)


def journal_rows(entries: Sequence[Entry]) -> tuple[JournalRow, ...]:
    """Return the journal as readable lines, samples left out: the passes tell them."""
    rows = []
    for entry in entries:
        told = sentence(entry)
        if told is None:
            continue
        text = f"{told.text} (because {told.because})" if told.because else told.text
        kind = "decision" if told.weight is Weight.DECISION else entry.kind
        rows.append(JournalRow(entry.at, kind, text))
    return tuple(rows)


def pass_line(row: PassRow) -> str:
    """Say in a line what a pass was."""
    dirty = f", dirtied at {format_bandwidth(row.dirty_bytes_per_s)}" if row.dirty_bytes_per_s is not None else ""
    left = f", {format_size(row.remaining_bytes)} left" if row.remaining_bytes is not None else ""
    length = format_duration(row.duration_s)
    return f"{format_size(row.sent_bytes)} in {length} at {format_bandwidth(row.rate_bytes_per_s)}{dirty}{left}"


def report_data(row: MigrationRow, entries: Sequence[Entry], *, version: str = "") -> ReportData:
    """Return what the report of a migration is made from; one that still runs has a report, too.

    ValueError when the probe's series was written by another version of Godwit.
    """
    stop, resume = instants(row, entries)
    series = probe_series(entries)
    end = row.outcome
    times, (rates, slowed) = stretches(row, entries, stop, resume), _cost(row, entries, series)
    return ReportData(
        id=row.spec.id,
        vm=row.spec.vm,
        source=row.spec.source,
        target=row.spec.target,
        status=end.status.value if end else "running",
        started_s=row.created,
        ended_s=row.created + end.total_s if end else None,
        sent_bytes=end.bytes if end else 0,
        owner=end.owner.value if end else "",
        downtime=_downtime(row, series, stop, resume),
        stop_s=stop,
        resume_s=resume,
        probe=series,
        guest_alive=end.guest_alive if end else None,
        phases=phases(row, entries),
        passes=passes(entries),
        pass_count=end.passes if end else 0,
        disks=tuple(DiskRow(one.disk, one.before, one.after) for one in end.allocations) if end else (),
        disk_bytes=end.disk_bytes if end else 0,
        disks_compared=compared(end.comparison) if end and end.comparison else "",
        costs=rates,
        throttle=slowed,
        began_s=times.began if times else None,
        decisions=decisions(entries),
        findings=findings(entries),
        journal=journal_rows(entries),
        settings=settings(row),
        error=end.error if end else "",
        remedy=end.remedy if end else "",
        simulated=end.simulated if end else False,
        version=version,
    )


def what_it_cost(row: MigrationRow, entries: Sequence[Entry]) -> tuple[tuple[CostRow, ...], ThrottleRow | None]:
    """Return what the move did to rates of its guest and its neighbours; without the probe's where that is unreadable.

    That is one that another version of Godwit wrote.
    """
    try:
        series = probe_series(entries)
    except ValueError:
        series = None
    return _cost(row, entries, series)


def _cost(
    row: MigrationRow, entries: Sequence[Entry], series: ProbeSeries | None
) -> tuple[tuple[CostRow, ...], ThrottleRow | None]:
    times = stretches(row, entries, *instants(row, entries))
    return ((), None) if times is None else (costs(row, entries, times, series), throttle(row, entries, times))


def compared(found: DisksCompared) -> str:
    """Say what came of comparing copied disks."""
    took = f"({format_size(found.bytes)} in {format_duration(found.seconds)})"
    return {True: f"equal {took}", False: f"DIFFERENT: {found.detail}", None: f"NOT done: {found.detail}"}[found.equal]


def run_figures(label: str, row: MigrationRow, entries: Sequence[Entry]) -> RunFigures:
    """Return what a comparison of two migrations needs of one."""
    data = report_data(row, entries)
    outcome = row.outcome
    return RunFigures(
        label=label,
        downtime=data.downtime,
        total_s=(outcome.stream_s or outcome.total_s) if outcome else 0.0,
        sent_bytes=outcome.bytes if outcome else 0,
        probe=data.probe,
        stop_s=data.stop_s,
        resume_s=data.resume_s,
    )


def _downtime(
    row: MigrationRow, series: ProbeSeries | None, stop: float | None, resume: float | None
) -> DowntimeFigures:
    if row.outcome is None:
        return DowntimeFigures()
    measured = row.outcome.downtime
    return DowntimeFigures(
        qemu_ms=measured.qemu_ms,
        blackout_ms=measured.blackout_ms,
        client_gap_ms=measured.client_gap_ms,
        probe_lag_ms=measured.probe_lag_ms,
        clock_uncertainty_ms=measured.clock_uncertainty_ms,
        client_gap_open=_gap_is_open(series, stop, resume),
        breakdown=tuple(BreakdownRow(name, length) for name, length in measured.breakdown),
        first_packet_ms=measured.first_packet_ms,
    )


def _gap_is_open(series: ProbeSeries | None, stop: float | None, resume: float | None) -> bool:
    """Say whether the client never heard of the guest again, so that its gap is longer than could be seen."""
    if series is None:
        return False
    from godwit.measure.gaps import client_view  # noqa: PLC0415 - numpy again

    longest = client_view(series, stop, resume).longest
    return longest is not None and longest.open_end
