from __future__ import annotations

import pytest

from godwit.model import RunState, StreamStatus
from godwit.ports import GuestEvent
from godwit.qemu.monitor import MonitorEvent
from godwit.qemu.views import make_event, make_result, make_sample, make_view

ACTIVE = {
    "status": "active",
    "expected-downtime": 300,
    "ram": {
        "transferred": 1000,
        "remaining": 2000,
        "total": 4000,
        "mbps": 8.0,
        "dirty-pages-rate": 10,
        "page-size": 4096,
        "dirty-sync-count": 3,
    },
}


@pytest.mark.parametrize(
    ("run", "stream", "state", "status"),
    [
        ("running", "", RunState.RUNNING, StreamStatus.NONE),
        ("running", "active", RunState.RUNNING, StreamStatus.ACTIVE),
        ("running", "failed", RunState.RUNNING, StreamStatus.FAILED),
        ("running", "cancelled", RunState.RUNNING, StreamStatus.CANCELLED),
        ("running", "cancelling", RunState.RUNNING, StreamStatus.OTHER),
        ("running", "wait-unplug", RunState.RUNNING, StreamStatus.SETUP),
        ("paused", "", RunState.PAUSED, StreamStatus.NONE),
        ("paused", "completed", RunState.PAUSED, StreamStatus.COMPLETED),
        ("prelaunch", "", RunState.PAUSED, StreamStatus.NONE),
        ("inmigrate", "setup", RunState.INCOMING, StreamStatus.SETUP),
        ("finish-migrate", "device", RunState.STOPPED_FOR_SWITCHOVER, StreamStatus.SWITCHOVER),
        ("finish-migrate", "pre-switchover", RunState.STOPPED_FOR_SWITCHOVER, StreamStatus.HELD),
        ("postmigrate", "completed", RunState.POSTMIGRATE, StreamStatus.COMPLETED),
        ("io-error", "postcopy-active", RunState.OTHER, StreamStatus.POSTCOPY),
        ("finish-migrate", "postcopy-paused", RunState.STOPPED_FOR_SWITCHOVER, StreamStatus.BROKEN),
        ("zork", "zork", RunState.OTHER, StreamStatus.OTHER),
    ],
)
def test_qemus_words_are_read(run: str, stream: str, state: RunState, status: StreamStatus) -> None:
    view = make_view({"status": run, "running": run == "running"}, {"status": stream} if stream else {})
    assert (view.state, view.stream) == (state, status)
    assert view.raw == (f"{run}/{stream}" if stream else run)


def test_the_reason_of_a_failure_is_kept() -> None:
    view = make_view(
        {"status": "running"}, {"status": "failed", "error-desc": "Unable to write to socket: Broken pipe"}
    )
    assert view.detail == "Unable to write to socket: Broken pipe"


def test_counters_become_bytes_and_seconds() -> None:
    sample = make_sample(ACTIVE, 7.0)
    assert sample is not None
    assert (sample.at, sample.iteration, sample.transferred, sample.remaining, sample.total) == (
        7.0,
        3,
        1000,
        2000,
        4000,
    )
    assert (sample.rate, sample.dirty_rate, sample.expected_downtime) == (1e6, 40960, 0.3)
    assert make_sample({"status": "setup"}, 7.0) is None


def test_final_figures() -> None:
    completed = {**ACTIVE, "status": "completed", "total-time": 31, "downtime": 17, "setup-time": 1}
    assert make_result(completed) == {
        "total-time": 31.0,
        "downtime": 17.0,
        "setup-time": 1.0,
        "transferred": 1000.0,
        "passes": 3.0,
    }
    assert make_result({}) == {}


def test_events() -> None:
    assert make_event(MonitorEvent("MIGRATION", {"status": "active"}, 2.0, 1.0)) == GuestEvent(
        "MIGRATION", 2.0, 1.0, status="active"
    )
    assert make_event(MonitorEvent("MIGRATION_PASS", {"pass": 4}, 2.0, 1.0)) == GuestEvent(
        "MIGRATION_PASS", 2.0, 1.0, number=4
    )
    assert make_event(MonitorEvent("LOST", {"reason": "gone"}, 2.0)) == GuestEvent("LOST", 2.0, status="gone")
    assert make_event(MonitorEvent("BALLOON_CHANGE", {"actual": 1}, 2.0, 1.0)) is None
