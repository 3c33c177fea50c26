from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from godwit.core.ledger import Ledger
from godwit.core.state import Door, Failure, Phase, State
from godwit.model import Finding, OutcomeStatus, Owner, Severity, Side, Spec, WatchResult

SPEC = Spec("web-1", "web", "one", "two")
MOVED = {
    "requested": 100.0,
    "stream_started": 100.8,
    "source_stopped": 105.000,
    "target_completed": 105.010,
    "source_completed": 105.012,
    "continue_sent": 105.013,
    "continue_returned": 105.014,
    "target_running": 105.015,
    "ended": 106.0,
}
DONE = State(phase=Phase.DONE, owner=Owner.TARGET, door=Door.SENT, alive=True)
WATCHED = WatchResult(client_gap_ms=31.0, probe_lag_ms=0.4, lost=3, errors=0, series={}, first_packet_ms=12.0)


def ledger(*missing: str, source: float | None = None, target: float | None = None) -> Ledger:
    """Make a whole story but for `missing`; `source` and `target` are the hosts' clocks against ours."""
    made = Ledger({name: at for name, at in MOVED.items() if name not in missing})
    for side, offset, mark in ((Side.SOURCE, source, "source_stopped"), (Side.TARGET, target, "target_running")):
        if offset is not None:
            made.mark(f"{mark}_host", MOVED[mark] - 0.001 + offset)  # it took 1 ms until we heard of it
            made.bracket(side, 101.000, 101.001 + offset, 101.002)
    return made


def test_the_first_instant_of_a_name_counts() -> None:
    made = Ledger()
    assert made.mark("source_stopped", 5.0)
    assert not made.mark("source_stopped", 6.0)
    assert made.marks == {"source_stopped": 5.0}


def test_an_outcome_adds_up() -> None:
    findings = (Finding("send-queue", Severity.WARN, "one", "found", "why"),)
    result = {"downtime": 3.0, "transferred": 1e9, "passes": 4.0}
    outcome = ledger(source=0.0, target=0.0).outcome(
        SPEC, DONE, result=result, watched=WATCHED, findings=findings, simulated=True
    )
    assert (outcome.status, outcome.owner, outcome.guest_alive) == (OutcomeStatus.COMPLETED, Owner.TARGET, True)
    assert (outcome.total_s, outcome.start_delay_s, outcome.stream_s) == pytest.approx((5.015, 0.8, 4.215))
    assert (outcome.bytes, outcome.passes, outcome.findings, outcome.simulated) == (10**9, 4, findings, True)
    down = outcome.downtime
    assert (down.qemu_ms, down.client_gap_ms, down.probe_lag_ms) == (3.0, 31.0, 0.4)
    assert down.first_packet_ms == 12.0
    assert down.blackout_ms == pytest.approx(15.0)
    assert down.clock_uncertainty_ms == pytest.approx(2.0)


@pytest.mark.parametrize(("source", "target"), [(0.0, 0.0), (3600.0, -7200.0), (-0.5, 0.25)])
def test_clocks_of_the_hosts_do_not_show_in_the_blackout(source: float, target: float) -> None:
    made = ledger(source=source, target=target)
    assert made.stopped == pytest.approx(104.999)
    assert made.running == pytest.approx(105.014)
    assert made.downtime(None, None).blackout_ms == pytest.approx(15.0)


def test_a_clock_that_was_stepped_is_outvoted() -> None:
    made = ledger(source=0.0, target=0.0)
    for number in range(3):
        made.bracket(Side.SOURCE, 102.0 + number, 102.0005 + number, 102.001 + number)
    made.bracket(Side.SOURCE, 103.5, 9999.0, 103.501)
    offset = made.offset(Side.SOURCE)
    assert offset is not None
    assert (offset.agreed, offset.asked) == (4, 5)
    assert offset.offset_s == pytest.approx(0.0, abs=0.001)


def test_our_own_clock_stepped_back_spoils_only_that_reading() -> None:
    made = ledger(source=0.0)
    made.bracket(Side.SOURCE, 102.0, 102.0, 90.0)
    offset = made.offset(Side.SOURCE)
    assert offset is not None
    assert offset.asked == 1


def test_without_readings_of_a_clock_our_own_instants_count_and_nobody_claims_to_know_better() -> None:
    down = ledger().downtime(None, None)
    assert down.blackout_ms == pytest.approx(15.0)
    assert down.clock_uncertainty_ms is None
    half = ledger(source=5.0).downtime(None, None)
    assert half.blackout_ms == pytest.approx(16.0)
    assert half.clock_uncertainty_ms is None


@pytest.mark.parametrize("missing", ["source_stopped", "target_running"])
def test_a_blackout_with_an_unknown_end_is_unknown(missing: str) -> None:
    down = ledger(missing).downtime(3.0, WATCHED)
    assert (down.blackout_ms, down.clock_uncertainty_ms, down.breakdown) == (None, None, ())
    assert (down.qemu_ms, down.client_gap_ms) == (3.0, 31.0)


@pytest.mark.parametrize("target_first", [True, False])
def test_the_parts_are_in_order_and_make_up_the_blackout(*, target_first: bool) -> None:
    made = ledger(source=0.0, target=0.0)
    if not target_first:  # without a return path the source is done first
        made.marks["source_completed"], made.marks["target_completed"] = 105.010, 105.012
    down = made.downtime(None, None)
    assert [round(part, 3) for _, part in down.breakdown] == [11.0, 2.0, 1.0, 1.0]
    assert sum(part for _, part in down.breakdown) == pytest.approx(down.blackout_ms)


@pytest.mark.parametrize(
    ("missing", "parts"),
    [
        ("continue_sent", ["stop to stream end", "until both sides had said so"]),
        ("source_completed", ["stop to stream end", "continue: round trip to the target"]),
        ("target_completed", ["stop to stream end", "continue: round trip to the target"]),
    ],
)
def test_a_part_with_an_unknown_end_is_left_out(missing: str, parts: list[str]) -> None:
    assert [name for name, _ in ledger(missing).breakdown()] == parts


def test_a_move_that_failed_lasted_until_its_end() -> None:
    failed = State(phase=Phase.FAILED, failure=Failure("stalled", "not a byte was sent", "look at the link"))
    made = Ledger({"requested": 100.0, "stream_started": 101.0, "ended": 130.0})
    outcome = made.outcome(SPEC, failed, result={}, watched=None, findings=(), simulated=False)
    assert (outcome.status, outcome.total_s, outcome.stream_s) == (OutcomeStatus.FAILED, 30.0, None)
    assert (outcome.error, outcome.remedy) == ("not a byte was sent", "look at the link")
    assert (outcome.bytes, outcome.passes, outcome.guest_alive) == (0, 0, None)


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (State(phase=Phase.CANCELLED), OutcomeStatus.CANCELLED),
        (State(phase=Phase.FAILED, failure=Failure("refused", "no")), OutcomeStatus.REFUSED),
        (replace(DONE, phase=Phase.FAILED), OutcomeStatus.GUEST_CRASHED),
        (State(phase=Phase.LIMBO, owner=Owner.UNKNOWN), OutcomeStatus.LIMBO),
    ],
)
def test_the_state_names_the_outcome(state: State, status: OutcomeStatus) -> None:
    made = Ledger({"requested": 1.0})
    outcome = made.outcome(SPEC, state, result={}, watched=None, findings=(), simulated=False)
    assert (outcome.status, outcome.owner, outcome.total_s) == (status, state.owner, 0.0)


@settings(max_examples=60)
@given(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5), st.lists(st.floats(1e-5, 0.05), min_size=1, max_size=20))
def test_the_true_blackout_is_within_the_uncertainty(source: float, target: float, trips: list[float]) -> None:
    made = Ledger({"source_stopped": 105.02, "target_running": 105.09})
    made.mark("source_stopped_host", 105.0 + source)
    made.mark("target_running_host", 105.07 + target)
    for number, trip in enumerate(trips):
        for side, offset in ((Side.SOURCE, source), (Side.TARGET, target)):
            at = 100.0 + number
            made.bracket(side, at, at + offset + trip / 3, at + trip)
    down = made.downtime(None, None)
    assert down.blackout_ms is not None
    assert down.clock_uncertainty_ms is not None
    assert abs(down.blackout_ms - 70.0) <= down.clock_uncertainty_ms + 1e-3
