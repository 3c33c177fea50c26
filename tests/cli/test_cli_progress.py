"""What a watcher is told of a stream: a percentage that never goes backwards, and an honest range of time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.cli.progress import Progress, Reading, advance, completed, eta_words, figures, standstill
from godwit.ports import Entry
from godwit.units import MIB

PHASES = ("pending", "preparing", "precopy", "switchover", "committing", "finishing", "rolling-back", "failed")
sizes = st.integers(min_value=0, max_value=1 << 45)
rates = st.floats(min_value=0, max_value=1e12)


@st.composite
def samples(draw: st.DrawFn) -> tuple[str, dict[str, object]]:
    eta = draw(st.none() | st.tuples(st.floats(-1, 1e9), st.floats(-1, 1e9)).map(list))
    data: dict[str, object] = {
        "at": draw(st.floats(0, 1e9)),
        "iteration": draw(st.integers(0, 50)),
        "transferred": draw(sizes),
        "remaining": draw(sizes),
        "total": draw(sizes),
        "rate": draw(rates),
        "dirty_rate": draw(rates),
        "eta": eta,
    }
    return "sample", data


phases = st.sampled_from(PHASES).map(lambda phase: ("transition", {"event": "Begin", "phase": phase}))
marks = st.sampled_from(["stream_started", "source_stopped"]).map(lambda name: ("mark", {"name": name}))


@given(st.lists(samples() | phases | marks, max_size=60))
def test_the_percentage_never_goes_backwards_and_only_the_end_is_a_hundred(
    lines: list[tuple[str, dict[str, object]]],
) -> None:
    progress, last = Progress(), 0.0
    for number, (kind, data) in enumerate(lines):
        progress = advance(progress, Entry(number + 1, float(number), kind, data))
        assert last <= progress.percent < 100.0
        last = progress.percent
        if progress.reading is not None:
            assert eta_words(progress.reading)
            assert "pass" in figures(progress.reading)
    done = advance(progress, Entry(99, 99.0, "transition", {"event": "Verified", "phase": "done"}))
    assert done.percent == 100.0


@given(st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | st.text(max_size=4) | st.integers()))
def test_a_sample_that_a_later_version_wrote_is_no_reason_to_stop(data: dict[str, object]) -> None:
    progress = advance(Progress(phase="precopy"), Entry(1, 1.0, "sample", data))
    assert 0.0 <= progress.percent <= 100.0


def _sample(at: float, iteration: int, remaining: int, eta: list[float] | None) -> Entry:
    data: dict[str, object] = {"at": at, "iteration": iteration, "transferred": 0, "remaining": remaining}
    return Entry(1, at, "sample", data | {"total": 100 * MIB, "rate": 1.0 * MIB, "dirty_rate": 2.0 * MIB, "eta": eta})


def test_a_first_pass_counts_by_what_is_left() -> None:
    progress = Progress(phase="precopy", percent=2.0, begun=0.0)
    shares = [advance(progress, _sample(1.0, 1, left * MIB, None)).percent for left in (100, 50, 0)]
    assert shares == [2.0, 41.0, 80.0]


def test_later_passes_count_by_the_time_that_is_left() -> None:
    progress = Progress(phase="precopy", percent=80.0, begun=0.0)
    assert advance(progress, _sample(30.0, 2, 10 * MIB, [1.0, 30.0])).percent == 80.0
    assert advance(progress, _sample(30.0, 2, 10 * MIB, [1.0, 1.0])).percent > 90.0


def test_the_time_left_is_a_range_or_the_reason_why_there_is_none() -> None:
    reading = Reading(0.0, 1, 0.0, 1.0, 1.0, 1.0, 0.0, None)

    def words(iteration: int, eta: tuple[float, float] | None, dirty: float = 0.0) -> str:
        return eta_words(Reading(0.0, iteration, 0.0, 1.0, 1.0, reading.rate, dirty, eta))

    assert words(1, None) == "no estimate yet"
    assert words(3, None, dirty=2.0) == "does not converge so far"
    assert words(2, (3.0, 9.0)) == "3.0 s to 9.0 s left"
    assert words(2, (100.0, 1800.0)) == "100 s to 30 min left"
    assert words(2, (10.0, 10.5)) == "about 10 s left"
    assert words(2, (0.1, 0.4)) == "under 1 s left"


def test_a_standstill_is_told_while_it_lasts_and_not_for_a_switchover() -> None:
    stopped = advance(Progress(), Entry(1, 100.0, "mark", {"name": "source_stopped"}))
    assert standstill(stopped, 100.5) == ""
    assert standstill(stopped, 172.0).endswith("1min 12s by now")
    assert standstill(stopped, 172.0).startswith("the guest stands still since ")
    for runs in (
        Entry(2, 101.0, "mark", {"name": "target_running"}),
        Entry(2, 101.0, "transition", {"event": "SourceResumed", "phase": "rolling-back"}),
        Entry(2, 101.0, "transition", {"event": "Undone", "phase": "cancelled"}),
    ):
        assert standstill(advance(stopped, runs), 172.0) == ""


def test_disks_and_memory_are_one_percentage_that_ends_with_completed() -> None:
    def mirror(at: float, done: int) -> Entry:
        data = {"name": "disk0", "done": done * MIB, "needed": 100 * MIB, "ready": done == 100, "memory": 100 * MIB}
        return Entry(1, at, "mirror", data)

    def phase(at: float, name: str) -> Entry:
        return Entry(1, at, "transition", {"event": "Begin", "phase": name})

    story = [phase(0.0, "preparing"), phase(1.0, "mirroring"), mirror(2.0, 50), mirror(3.0, 100), phase(4.0, "precopy")]
    story += [_sample(5.0, 1, 50 * MIB, None), phase(6.0, "finishing"), phase(7.0, "done")]
    shown, progress = [], Progress()
    for entry in story:
        progress = advance(progress, entry)
        shown.append(progress.percent)
        assert completed(progress) == ("Completed 100 %" if progress.phase == "done" else "")
    assert shown == sorted(shown)
    assert shown[2:6] == [25.25, 48.5, 48.5, pytest.approx(48.5 + 46.5 * 78 / 93 / 2)]
    assert completed(advance(Progress(), phase(1.0, "done"))) == "", "a move without disks ends as it always did"
