from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.core.clocks import Bracket, ClockOffset, blackout_s, drift_ppm, estimate_offset

delays = st.floats(1e-4, 0.5)
offsets = st.floats(-1000, 1000)


@given(offsets, st.lists(st.tuples(delays, delays), min_size=1, max_size=20))
def test_the_true_offset_lies_within_the_uncertainty(offset: float, trips: list[tuple[float, float]]) -> None:
    now, brackets = 1_800_000_000.0, []
    for there, back in trips:
        brackets.append(Bracket(now, now + there + offset, now + there + back))
        now += 1.0
    found = estimate_offset(brackets)
    assert abs(found.offset_s - offset) <= found.uncertainty_s + 2e-6
    assert found.agreed == found.asked == len(trips)
    assert found.uncertainty_s <= min(there + back for there, back in trips) / 2 + 2e-6


@given(offsets, delays, delays)
def test_more_brackets_never_make_it_less_certain(offset: float, there: float, back: float) -> None:
    one = Bracket(0.0, there + offset, there + back)
    two = Bracket(10.0, 10.1 + offset, 10.3)
    assert estimate_offset([one, two]).uncertainty_s <= estimate_offset([one]).uncertainty_s + 1e-9


def test_a_clock_that_was_stepped_is_outvoted_and_shows() -> None:
    good = [Bracket(float(at), at + 5.01, at + 0.02) for at in range(5)]
    found = estimate_offset([*good, Bracket(9.0, 9.0, 9.02)])
    assert found.offset_s == pytest.approx(5.0, abs=0.011)
    assert (found.agreed, found.asked) == (5, 6)


def test_no_bracket_and_a_reply_before_its_question_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        estimate_offset([])
    with pytest.raises(ValueError, match="before it begins"):
        Bracket(2.0, 1.0, 1.5)


@given(offsets, offsets, st.floats(0, 5))
def test_stop_and_resume_meet_on_one_clock(source: float, target: float, length: float) -> None:
    stop, resume = 100.0 + source, 100.0 + length + target
    got, unsure = blackout_s(stop, ClockOffset(source, 0.001), resume, ClockOffset(target, 0.002))
    assert got == pytest.approx(length, abs=1e-9)
    assert unsure == pytest.approx(0.003)


@given(offsets, st.floats(0, 2e9))
def test_there_and_back_is_the_same_instant(offset: float, instant: float) -> None:
    clock = ClockOffset(offset, 0.0)
    assert clock.to_theirs(clock.to_ours(instant)) == pytest.approx(instant, abs=1e-5)


def test_drift() -> None:
    assert drift_ppm([(0.0, 50.0), (100.0, 150.005)]) == pytest.approx(50.0, abs=0.01)
    assert drift_ppm([(0.0, 1.0)]) == 0.0
