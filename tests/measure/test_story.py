"""The journal's lines as sentences, and as what the report is made from."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from godwit.core import events as e
from godwit.core.state import Phase, State
from godwit.engine.story import transition
from godwit.measure.narrative import Sentence, Weight, sentence
from godwit.measure.report import DiskRow, render_html
from godwit.measure.story import decisions, findings, instants, passes, phases, report_data, settings
from godwit.model import (
    Allocation,
    Comparison,
    Downtime,
    GuestView,
    Outcome,
    OutcomeStatus,
    Owner,
    Policy,
    ProbeRequest,
    RunState,
    Side,
    Spec,
    StreamStatus,
)
from godwit.ports import Entry, MigrationRow
from godwit.units import MIB

SPEC = Spec("web1-1", "web1", "host1", "host2", Policy(0.1, 60.0, 40 * MIB), ProbeRequest("198.18.0.9", "client"))
OUTCOME = Outcome(
    "web1-1",
    "web1",
    "host1",
    "host2",
    OutcomeStatus.COMPLETED,
    Owner.TARGET,
    7.0,
    bytes=110 * MIB,
    downtime=Downtime(12.0, 30.0, 42.0, 0.5, 0.1, (("stop to stream end on the source", 25.0), ("continue", 5.0))),
    guest_alive=True,
)
ROW = MigrationRow(SPEC, 100.0, Phase.DONE, 1, OUTCOME)
VIEW = GuestView(RunState.RUNNING, StreamStatus.ACTIVE)

EVENTS: list[tuple[e.Event, Weight, str]] = [
    (e.Begin(), Weight.DETAIL, "the migration was asked for"),
    (e.Checked(), Weight.STEP, "preflight found nothing that blocks"),
    (e.TargetPrepared("tcp:198.18.0.2:49152"), Weight.DETAIL, "the target waits, paused, at tcp:198.18.0.2:49152"),
    (e.SourcePrepared(), Weight.DETAIL, "the source is prepared"),
    (e.Unplugged(), Weight.STEP, "the guest has let go"),
    (e.MirrorsReady(), Weight.STEP, "the disks are on the target"),
    (e.MirrorLost("disk0", "Input/output error"), Weight.ERROR, "the copy of disk disk0 ended before its time: Input"),
    (e.StreamHeld(), Weight.DETAIL, "the source waits before the switchover"),
    (e.WentOver(Side.SOURCE), Weight.DETAIL, "the source says that the guest goes over before its memory"),
    (e.StreamBroke(Side.TARGET), Weight.WARNING, "the target has lost the connection to the guest's memory"),
    (e.StreamMended(), Weight.STEP, "the guest is connected to the rest of its memory again"),
    (e.MirrorsEnded(), Weight.DETAIL, "the disks on the target are complete"),
    (e.StreamStarted(), Weight.DETAIL, "the stream runs"),
    (e.Decided("raise", {"downtime-limit": 90}, "stalls", "3 passes"), Weight.DECISION, "stalls [downtime-limit=90]"),
    (e.SourceStopped(), Weight.DETAIL, "the source has stopped the guest"),
    (e.SourceResumed(), Weight.WARNING, "the source has taken the guest back"),
    (e.SourcePaused(), Weight.STEP, "the guest stands still from now on"),
    (e.PoweredOff(), Weight.STEP, "the guest is off"),
    (e.SourceEnded(), Weight.DETAIL, "nothing on the source has the guest's disks open"),
    (e.TargetStarted(), Weight.DETAIL, "the target is ready to start the guest"),
    (e.StreamEnded(Side.TARGET, StreamStatus.FAILED), Weight.WARNING, "the target says that the stream failed"),
    (e.TargetRunning(), Weight.DETAIL, "the target runs the guest"),
    (e.Verified(alive=False, detail="not seen"), Weight.WARNING, "the guest does not answer: not seen"),
    (e.SourceRemoved(), Weight.STEP, "nothing of the guest is left on the source"),
    (e.Undone("DestroyTarget"), Weight.STEP, "nothing of the guest is left on the target"),
    (
        e.StepFailed("Check", "host", "host2 is silent", "wake it"),
        Weight.ERROR,
        "looking at both hosts failed: host2",
    ),
    (e.Lost(Side.SOURCE), Weight.WARNING, "the connection to the source's monitor ended"),
    (
        e.Observed(VIEW, VIEW, 0.0, restarted=True),
        Weight.WARNING,
        "a new runner looked: source running, stream",
    ),
    (e.MediaCopied(), Weight.STEP, "what the guest only reads is on the target"),
    (e.DisksCompared(Comparison(equal=True)), Weight.STEP, "the copied disks are what"),
    (e.DisksCompared(Comparison(equal=True), "what kept them is left"), Weight.WARNING, "the copied disks are"),
    (e.DisksCompared(Comparison(equal=False, detail="disk0 differs")), Weight.ERROR, "disk0 differs"),
    (e.CancelRequested("anna"), Weight.WARNING, "anna asked to cancel"),
    (e.Resolved(Side.TARGET, "anna"), Weight.WARNING, "anna decided that the guest is the target's"),
    (e.GiveUp("deadline", "the deadline passed", "more time"), Weight.ERROR, "the deadline passed"),
]


def _transition(at: float, event: e.Event, phase: Phase) -> Entry:
    return Entry(1, at, "transition", transition(event, State(phase=phase, owner=Owner.SOURCE), ()))


@pytest.mark.parametrize(("event", "weight", "text"), EVENTS, ids=lambda one: type(one).__name__)
def test_every_event_has_its_sentence(event: e.Event, weight: Weight, text: str) -> None:
    told = sentence(_transition(1.0, event, Phase.PRECOPY))
    assert told is not None
    assert told.weight is weight
    assert told.text.startswith(text)


def test_no_event_is_without_a_sentence_of_its_own() -> None:
    assert {type(event) for event, _, _ in EVENTS} == set(e.EVENTS)


@pytest.mark.parametrize(("ends", "weight"), [(True, Weight.STEP), (False, Weight.WARNING)])
def test_what_is_expected_is_told_and_a_warning_where_the_move_will_not_end(*, ends: bool, weight: Weight) -> None:
    assert sentence(Entry(1, 5.0, "forecast", {"text": "expected: much", "ends": ends})) == Sentence(
        5.0, weight, "expected: much"
    )


def test_what_a_later_version_wrote_is_told_by_its_name() -> None:
    told = sentence(Entry(1, 1.0, "transition", {"event": "Teleported", "detail": 3, "phase": "beyond"}))
    assert told is not None
    assert told.text == "Teleported"
    assert sentence(Entry(1, 1.0, "aura", {})) is None


def _sample(at: float, iteration: int, transferred: int, remaining: int, dirty: int = 0) -> Entry:
    data: dict[str, object] = {"at": at, "iteration": iteration, "transferred": transferred * MIB}
    return Entry(1, at, "sample", data | {"remaining": remaining * MIB, "total": 200 * MIB, "dirty_rate": dirty * MIB})


STORY = [
    _transition(100.1, e.Begin(), Phase.PENDING),
    _transition(100.5, e.Checked(), Phase.PREPARING),
    _transition(101.0, e.SourcePrepared(), Phase.PRECOPY),
    Entry(1, 101.0, "mark", {"name": "stream_started", "received": 101.0}),
    _sample(102.0, 1, 40, 150),
    _sample(103.0, 1, 80, 100),
    _sample(104.0, 2, 90, 10, 5),
    _sample(105.0, 2, 100, 4, 5),
    _transition(105.2, e.Decided("raise-downtime-limit", {"downtime-limit": 90}, "stalls", "3 passes"), Phase.PRECOPY),
    Entry(1, 105.5, "finding", {"severity": "info", "subject": "s", "found": "f", "why": "w", "mend": ""}),
    Entry(1, 105.5, "finding", {"severity": "warn", "subject": "s", "found": "g", "why": "w", "mend": "m"}),
    Entry(1, 105.9, "mark", {"name": "source_stopped", "received": 105.9, "host_time": 1.0}),
    _transition(105.9, e.SourceStopped(), Phase.SWITCHOVER),
    Entry(1, 106.0, "mark", {"name": "target_running", "received": 106.0, "host_time": 9.0}),
    _transition(106.0, e.TargetRunning(), Phase.FINISHING),
    _transition(107.0, e.SourceRemoved(), Phase.DONE),
]


def test_phases_follow_each_other_without_a_hole() -> None:
    spans = phases(ROW, STORY)
    assert [span.name for span in spans] == ["pending", "preparing", "precopy", "switchover", "finishing"]
    assert spans[0].start_s == ROW.created
    assert all(one.end_s == other.start_s for one, other in pairwise(spans))
    assert spans[-1].end_s == 107.0
    assert phases(ROW, STORY[:4])[-1].end_s is None


def test_passes_are_summed_up_from_the_samples() -> None:
    first, second = passes(STORY)
    assert (first.number, first.duration_s, first.sent_bytes, first.remaining_bytes) == (1, 2.0, 80 * MIB, 100 * MIB)
    assert first.rate_bytes_per_s == 40 * MIB
    assert first.dirty_bytes_per_s is None
    assert (second.number, second.duration_s, second.sent_bytes, second.remaining_bytes) == (2, 2.0, 20 * MIB, 4 * MIB)
    assert second.dirty_bytes_per_s == 5 * MIB
    assert passes([]) == ()


def test_resume_follows_stop_by_the_measured_blackout() -> None:
    stop, resume = instants(ROW, STORY)
    assert stop == 105.9
    assert resume == pytest.approx(105.93)
    assert instants(replace(ROW, outcome=None), STORY) == (105.9, 106.0)


def test_decisions_and_findings_are_word_for_word_the_bad_first() -> None:
    (decided,) = decisions(STORY)
    assert (decided.action, decided.reason, decided.evidence) == (
        "raise-downtime-limit (downtime-limit=90)",
        "stalls",
        "3 passes",
    )
    assert [one.severity for one in findings(STORY)] == ["warn", "info"]


def test_settings_say_what_was_asked_for() -> None:
    told = dict(settings(ROW))
    assert told["downtime at most"] == "100.0 ms"
    assert told["outside probe"] == "198.18.0.9 from client"
    defaults = replace(ROW, spec=replace(SPEC, defaults=True))
    assert dict(settings(defaults))["decisions"].startswith("left to QEMU's defaults")


def test_a_report_can_be_made_of_it_also_while_it_runs() -> None:
    data = report_data(ROW, STORY, version="1")
    assert (data.status, data.total_s, data.owner, data.guest_alive) == ("completed", 7.0, "target", True)
    assert [row.name for row in data.downtime.breakdown] == ["stop to stream end on the source", "continue"]
    page = render_html(data)
    assert "stalls" in page
    running = report_data(replace(ROW, outcome=None), STORY[:8])
    assert (running.status, running.total_s) == ("running", None)
    assert "web1" in render_html(running)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Comparison(equal=True, bytes=1 << 30, seconds=3.0), "equal (1.0 GiB in 3.00 s)"),
        (Comparison(equal=False, detail="disk0 differs at 7"), "DIFFERENT: disk0 differs at 7"),
        (Comparison(equal=None, detail="no room"), "NOT done: no room"),
        (None, ""),
    ],
)
def test_copied_disks_stand_in_the_report(found: Comparison | None, words: str) -> None:
    assert ROW.outcome is not None
    outcome = replace(ROW.outcome, disk_bytes=9, allocations=(Allocation("vda", 5, 6),), comparison=found)
    data = report_data(replace(ROW, outcome=outcome), STORY)
    assert (data.disks, data.disk_bytes, data.disks_compared) == ((DiskRow("vda", 5, 6),), 9, words)
