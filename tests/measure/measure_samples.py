"""Series with known gaps, and a report with everything in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from godwit.measure.report import (
    BreakdownRow,
    DecisionRow,
    DowntimeFigures,
    FindingRow,
    JournalRow,
    PassRow,
    PhaseSpan,
    ReportData,
)
from godwit.measure.series import ProbeSeries

if TYPE_CHECKING:
    from collections.abc import Sequence

START_S = 1_800_000_000.0


def make_series(
    *,
    length_s: float = 4.0,
    interval_s: float = 0.002,
    rtt_s: float = 0.0004,
    silent: Sequence[tuple[float, float]] = (),
    lag_s: float = 0.0001,
) -> ProbeSeries:
    """A series from START_S on in which requests sent in the silent stretches (seconds from the start) are lost."""
    offsets = np.arange(0, length_s, interval_s)
    rtt = np.full(len(offsets), rtt_s)
    for first, last in silent:
        rtt[(offsets >= first) & (offsets < last)] = np.nan
    lag = np.full(len(offsets), lag_s)
    return ProbeSeries(
        kind="icmp",
        method="icmp-datagram",
        address="198.18.0.100",
        interval_s=interval_s,
        sent_s=START_S + offsets,
        rtt_s=rtt,
        lag_s=lag,
        started_s=START_S,
        ended_s=START_S + length_s,
        vantage="client",
    )


def make_report(status: str = "completed") -> ReportData:
    """A report in which nothing is missing."""
    begin = START_S - 1.0
    stop, resume = START_S + 2.0, START_S + 2.020
    rows = (
        BreakdownRow("silence before STOP", 2.0, "before"),
        BreakdownRow("STOP to source completed", 9.0),
        BreakdownRow("cont round trip", 3.0),
        BreakdownRow("to RESUME", 8.0),
        BreakdownRow("to the first reply", 10.0, "after"),
    )
    return ReportData(
        id="m-1",
        vm="web1",
        source="host1",
        target="host2",
        status=status,
        started_s=begin,
        ended_s=START_S + 3.5,
        sent_bytes=108_000_000,
        owner="target",
        downtime=DowntimeFigures(2.0, 20.0, 34.0, 0.1, 0.6, breakdown=rows),
        stop_s=stop,
        resume_s=resume,
        probe=make_series(silent=[(1.998, 2.030)]),
        guest_alive=True,
        phases=(
            PhaseSpan("preparing", begin, START_S),
            PhaseSpan("precopy", START_S, stop),
            PhaseSpan("switchover", stop, resume),
        ),
        passes=(PassRow(1, 1.5, 96_000_000, 48e6), PassRow(2, 0.3, 12_000_000, 40e6, 8e6, 1000)),
        decisions=(DecisionRow(START_S, "downtime limit 20 ms", "start low", "max-downtime 300 ms"),),
        findings=(FindingRow("warn", "accelerator", "TCG", "old ones corrupt memory", "use 8.2"),),
        journal=(JournalRow(begin, "phase", "PREPARING"), JournalRow(stop, "event", "STOP")),
        settings=(("max downtime", "300 ms"),),
        version="0.1.0",
    )
