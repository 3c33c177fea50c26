"""What a move cost its guest and its neighbours, from the journal's lines of what they took of their hosts. Pure.

Three stretches: **before** is until the stream began (or the first disk was copied), **during** until the guest ran on
the target or the move was taken back, **after** as long as somebody looked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from godwit.core.working import IDLE, QUIET
from godwit.measure.curves import Curve, Piece, back_after, former_rate, from_counts, lost_seconds, lowest
from godwit.measure.narrative import mapping_of, number_of, text_of
from godwit.measure.report_data import CostRow, ThrottleRow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from godwit.measure.report_data import Unit
    from godwit.measure.series import ProbeSeries
    from godwit.ports import Entry, MigrationRow

PROCESSORS: Final = "CPU"
GOT: Final = "CPU it got"
"""The share that a guest got of what it wanted of its host's processors: what it lacks, others had."""
DISK: Final = "disk"
NETWORK: Final = "network"
ROUND_TRIP: Final = "round trip"
"""Of the outside probe, the median."""
REPLIES: Final = "replies"

_REPLY_BIN: Final = 0.1
_SLOW_DISK: Final = 100_000.0
"""Bytes a second of storage below which nothing is said of a disk."""

_FIGURES: Final = 4
_THROTTLED: Final = 2
"""Percent from which on a throttle is one: 1 is how it is held ready."""


@dataclass(frozen=True, slots=True)
class Stretches:
    """When the stream began, when the guest stood still (STOP and RESUME), and when it was over: UNIX seconds."""

    began: float
    over: float
    stop: float | None
    resume: float | None


@dataclass(slots=True)
class _Counts:
    """The counters of one guest on one side, as (instant, value)."""

    host: str
    ran: list[tuple[float, float]] = field(default_factory=list)
    wanted: list[tuple[float, float]] = field(default_factory=list)
    disk: list[tuple[float, float]] = field(default_factory=list)
    network: list[tuple[float, float]] = field(default_factory=list)


def stretches(
    row: MigrationRow, entries: Sequence[Entry], stop: float | None, resume: float | None
) -> Stretches | None:
    """Return the stretches of a move; None for one whose stream never began."""
    began = over = None
    for entry in entries:
        phase = text_of(entry.data, "phase") if entry.kind == "transition" else ""
        if began is None and phase in {"mirroring", "precopy", "powering-off"}:
            began = entry.at
        if over is None and phase in {"rolling-back", "cancelled", "failed"}:
            over = entry.at
    if began is None:
        return None
    ended = row.outcome and row.created + row.outcome.total_s
    end = resume or over or ended or max(entry.at for entry in entries)
    return Stretches(began, max(began, end), stop, resume)


def costs(
    row: MigrationRow, entries: Sequence[Entry], times: Stretches, probe: ProbeSeries | None
) -> tuple[CostRow, ...]:
    """Return a row for each rate of the guest, then of each neighbour, the one that kept least first."""
    own = row.spec.vm
    counted = _counted(entries)
    sides = {side: counts for (side, vm), counts in counted.items() if vm == own}
    # What its process reads and writes for the copies of its disks cannot be told from what the guest does.
    copied = any(entry.kind == "mirror" for entry in entries) or bool(row.outcome and row.outcome.disk_bytes)
    rows = list(_guest_rows(own, row.spec.target, sides, times, probe, copied=copied))
    others: list[CostRow] = []
    for (_, vm), counts in counted.items():
        if vm != own:
            others.extend(_rows(vm, counts.host, _curves(counts), times, moved=False))
    others.sort(key=lambda one: (1.0 if one.kept is None else one.kept, one.guest, one.what))
    return (*rows, *others)


def throttle(row: MigrationRow, entries: Sequence[Entry], times: Stretches) -> ThrottleRow | None:
    """Return how far the guest was slowed down; None for one that was not."""
    taken = [
        (number_of(entry.data, "at") or entry.at, number_of(entry.data, "throttle") or 0.0)
        for entry in entries
        if entry.kind == "sample"
    ]
    asked = max((percent for _, percent in taken), default=0.0)
    if asked < _THROTTLED:
        return None
    counts = _counted(entries).get(("source", row.spec.vm))
    # A throttle lets it sleep; that others, or the stream itself, keep a core from it is another matter.
    worked = from_counts(counts.wanted or counts.ran) if counts else Curve(())
    last = times.stop or times.over
    slowed = [(at, until) for (at, percent), (until, _) in pairwise([*taken, (last, 0.0)]) if percent == asked]
    first = next((at for at, percent in taken if percent >= _THROTTLED), last)
    free = worked.mean(float("-inf"), first)
    within = [worked.within(start, end) for start, end in slowed if end > start]
    seconds = sum(length for _, length in within)
    applied = None
    if free and free >= IDLE and seconds:
        applied = max(0.0, 1 - sum(amount for amount, _ in within) / seconds / free)
    return ThrottleRow(row.spec.policy.most_throttle / 100, asked / 100, applied)


def _counted(entries: Sequence[Entry]) -> dict[tuple[str, str], _Counts]:
    """Gather the counters by side and guest."""
    found: dict[tuple[str, str], _Counts] = {}
    for entry in entries:
        if entry.kind != "work":
            continue
        side, host, at = text_of(entry.data, "side"), text_of(entry.data, "host"), number_of(entry.data, "at")
        for vm, figures in mapping_of(entry.data, "guests").items():
            if at is None or not isinstance(figures, list) or len(figures) != _FIGURES:
                continue
            numbers = [number_of({"one": one}, "one") for one in figures]
            _add(found.setdefault((side, vm), _Counts(host)), at, numbers)
    return found


def _add(counts: _Counts, at: float, numbers: Sequence[float | None]) -> None:
    ran, waited, disk, network = numbers
    if ran is not None:
        counts.ran.append((at, ran))
        if waited is not None:
            counts.wanted.append((at, ran + waited))
    if disk is not None:
        counts.disk.append((at, disk))
    if network is not None:
        counts.network.append((at, network))


def _curves(counts: _Counts) -> dict[str, Curve]:
    return {
        PROCESSORS: from_counts(counts.ran),
        GOT: _got(counts),
        DISK: from_counts(counts.disk),
        NETWORK: from_counts(counts.network),
    }


def _got(counts: _Counts) -> Curve:
    """Return the share that a guest got of the processors, where it wanted any to speak of."""
    pieces = []
    ran = dict(counts.ran)
    for (early, before), (late, after) in pairwise(counts.wanted):
        seconds, wanted = late - early, after - before
        if seconds > 0 and wanted >= IDLE * seconds:
            pieces.append(Piece(early, late, min(1.0, max(0.0, (ran[late] - ran[early]) / wanted))))
    return Curve(pieces)


def _guest_rows(
    vm: str, target: str, sides: dict[str, _Counts], times: Stretches, probe: ProbeSeries | None, *, copied: bool
) -> Iterator[CostRow]:
    """Put together what the guest did on either side, and what its clients got of it."""
    if probe is not None and len(probe.sent_s):
        yield from _rows(vm, target, {REPLIES: _replies(probe)}, times, moved=True)
        yield _round_trips(vm, target, probe, times)
    joined: dict[str, Curve] = {}
    here, there = sides.get("source"), sides.get("target")
    if here is not None:
        _end_at_stop(here, times)
    if there is not None:
        _begin_at_resume(there, times)
    for name in (PROCESSORS, GOT, NETWORK) if copied else (PROCESSORS, GOT, DISK, NETWORK):
        pieces = [*(_curves(here)[name].pieces if here else ()), *_standstill(name, times)]
        if there is not None:
            pieces += _curves(there)[name].pieces
        joined[name] = Curve(pieces)
    yield from _rows(vm, target, joined, times, moved=True)


def _begin_at_resume(counts: _Counts, times: Stretches) -> None:
    """Let the target's counters begin with nothing at RESUME: its process did nothing for the guest before.

    Only those that were counted from its start, or the first look would have shown nothing yet.
    """
    if times.resume is None or not counts.ran or counts.ran[0][1] <= 0 or counts.ran[0][0] <= times.resume:
        return
    for one in (counts.ran, counts.wanted, counts.network):
        if one:
            one.insert(0, (times.resume, 0.0))


def _end_at_stop(counts: _Counts, times: Stretches) -> None:
    """Let the source's counters end at STOP: whatever they show later they had come to by then."""
    if times.stop is None or times.resume is None:
        return
    for one in (counts.ran, counts.wanted, counts.disk, counts.network):
        later = [value for at, value in one if at > times.stop]
        one[:] = [(at, value) for at, value in one if at <= times.stop]
        if later and one:
            one.append((times.stop, later[0]))


def _standstill(name: str, times: Stretches) -> Iterator[Piece]:
    if name != GOT and times.stop is not None and times.resume is not None:
        yield Piece(times.stop, times.resume, 0.0)


def _replies(probe: ProbeSeries) -> Curve:
    from godwit.measure.gaps import reply_rate  # noqa: PLC0415 - loads numpy, which few stories need

    rate = reply_rate(probe, max(_REPLY_BIN, 2 * probe.interval_s))
    edges = [rate.start_s + number * rate.bin_s for number in range(len(rate.per_s) + 1)]
    return Curve(Piece(early, late, float(one)) for early, late, one in zip(edges, edges[1:], rate.per_s, strict=False))


def _round_trips(vm: str, target: str, probe: ProbeSeries, times: Stretches) -> CostRow:
    """Return the median round trips of a client in each stretch."""
    from godwit.measure.gaps import latency  # noqa: PLC0415 - numpy again

    before, during, after = (
        None if math.isnan(found) else found / 1000
        for found in (
            latency(probe, end_s=times.began).median_ms,
            latency(probe, times.began, times.over).median_ms,
            latency(probe, times.over).median_ms,
        )
    )
    return CostRow(vm, target, True, ROUND_TRIP, "seconds", before=before, during=during, after=after)  # noqa: FBT003


_UNITS: Final[dict[str, Unit]] = {
    PROCESSORS: "processors",
    GOT: "share",
    DISK: "bytes",
    NETWORK: "bytes",
    REPLIES: "per second",
}
_WORTH: Final = {PROCESSORS: IDLE, GOT: 0.0, DISK: _SLOW_DISK, NETWORK: QUIET / 10, REPLIES: 0.0}
"""The rate below which nothing is said."""


def _rows(vm: str, host: str, curves: dict[str, Curve], times: Stretches, *, moved: bool) -> Iterator[CostRow]:
    for what, curve in curves.items():
        if curve and max(piece.rate for piece in curve.pieces) > _WORTH[what]:
            yield _row(vm, host, what, curve, times, moved=moved)


def _row(vm: str, host: str, what: str, curve: Curve, times: Stretches, *, moved: bool) -> CostRow:
    known = former_rate(curve, times.began)
    before, end = known[0] if known else None, curve.pieces[-1].end
    if before is not None and what == GOT and not moved:  # what the move's own preparations took is no former rate
        before = max(before, *(rate for _, rate in curve.part(float("-inf"), times.began).windows()), before)
    worth = before is not None and before > _WORTH[what]
    during = curve.mean(times.began, times.over)
    least = lowest(curve, times.began, times.over)
    return CostRow(
        guest=vm,
        host=host,
        moved=moved,
        what=what,
        unit=_UNITS[what],
        before=before,
        during=during,
        least=least,
        after=curve.mean(times.over, end) if end > times.over else None,
        kept=during / before if worth and before and during is not None else None,
        back_s=back_after(curve, times.began, times.over) if worth and what != GOT else None,
        watched_s=max(0.0, end - times.over),
        lost_s=lost_seconds(curve, times.began, end) if worth and what != GOT else None,
        pieces=tuple((piece.start, piece.end, piece.rate) for piece in curve.pieces),
    )
