from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.core.capabilities import HELD
from godwit.core.dirtying import curve_of
from godwit.core.sleeping import AWAKE, HALVING, LADDER, ladder, nap, throttle_for, windows_of, writes_at
from godwit.hosts.fake import Workload
from godwit.model import DirtyWindow, PassRecord, Policy
from godwit.units import MIB

WINDOWS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


@given(st.floats(1e6, 4e8), st.floats(1e6, 4e8), st.integers(1, len(LADDER)), st.floats(0.05, 1.0))
def test_the_planned_sleep_halves_passes_or_is_all_that_is_permitted(
    writes: float, pace: float, rungs: int, busy: float
) -> None:
    guest = Workload(hot_set=256 * MIB, dirty_rate=writes)
    curve = curve_of([DirtyWindow(seconds, round(guest.dirtied(seconds))) for seconds in WINDOWS], 512 * MIB)
    planned = throttle_for(curve, pace, 0.03, LADDER[:rungs], busy)
    assert planned in LADDER[:rungs]
    if planned != LADDER[rungs - 1]:
        assert curve.unique(0.03 * writes_at(planned, busy)) <= pace * 0.03 * HALVING


def test_a_guest_that_works_a_part_of_its_time_loses_nothing_until_less_is_left_to_it() -> None:
    assert [writes_at(percentage, 0.2) for percentage in (0, 30, 50)] == pytest.approx([1.0, 1.0, 1.0])
    assert writes_at(90, 0.2) == pytest.approx(AWAKE / 2)
    assert writes_at(90, 1.0) == pytest.approx(AWAKE / 10)
    assert writes_at(HELD, 1.0) == 1.0


def test_no_nap_is_longer_than_the_guest_may_stand_still() -> None:
    assert nap(75) == pytest.approx(0.03)
    assert [nap(share) for share in LADDER] == sorted(nap(share) for share in LADDER)
    assert max(ladder(Policy(max_downtime=0.11))) == 80
    assert max(ladder(Policy())) == 92
    assert ladder(Policy(max_guest_slowdown=0.0)) == []


def test_what_passes_tell_of_a_guest_that_slept_is_what_it_does_awake() -> None:
    awake, slept, unseen = PassRecord(9, 9, 2.0, 7), PassRecord(9, 9, 2.0, 7, 50), PassRecord(9, 9, 0.0, 7)
    assert windows_of([awake, slept, unseen], 1.0) == [DirtyWindow(2.0, 7), DirtyWindow(2.0 * AWAKE / 2, 7)]
