"""The dirty-page curve: rising, bending down, between what was measured; and what it says of known guests."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.core.dirtying import WINDOWS, curve_of, still_rises
from godwit.hosts.fake import Workload
from godwit.model import DirtyWindow
from godwit.units import MIB

MEMORY = 512 * MIB
MEASURED = st.lists(
    st.builds(DirtyWindow, st.sampled_from([seconds for seconds, _ in WINDOWS]), st.integers(0, 2 * MEMORY)),
    max_size=20,
)


def saturating(hot_set: int, rate: float) -> list[DirtyWindow]:
    """Windows of a guest that writes to random pages of a hot set."""
    guest = Workload(hot_set=hot_set, dirty_rate=rate)
    return [DirtyWindow(seconds, round(guest.dirtied(seconds))) for seconds, times in WINDOWS for _ in range(times)]


@given(MEASURED, st.floats(0, 100), st.floats(0, 100))
def test_the_curve_rises_bends_down_and_never_exceeds_the_memory(
    windows: list[DirtyWindow], one: float, other: float
) -> None:
    curve = curve_of(windows, MEMORY)
    early, late = sorted((one, other))
    assert 0 <= curve.unique(early) <= curve.unique(late) <= MEMORY
    assert curve.unique((early + late) / 2) >= (curve.unique(early) + curve.unique(late)) / 2 - 1
    assert curve.unique(early) + curve.unique(late) >= curve.unique(early + late) - 1, "subadditive"


@given(st.integers(MIB, 256 * MIB), st.floats(MIB, 1024 * MIB))
def test_a_curve_that_bends_down_is_taken_as_it_was_measured(hot_set: int, rate: float) -> None:
    windows = saturating(hot_set, rate)
    curve = curve_of(windows, MEMORY)
    for window in windows:
        assert curve.unique(window.seconds) == pytest.approx(window.unique, rel=1e-6, abs=2)


@given(st.integers(8 * MIB, 64 * MIB), st.floats(4 * MIB, 64 * MIB))
def test_what_was_not_measured_goes_on_as_it_fell(hot_set: int, rate: float) -> None:
    curve = curve_of(saturating(hot_set, rate), MEMORY)
    assert curve.unique(10) == pytest.approx(Workload(hot_set=hot_set, dirty_rate=rate).dirtied(10), rel=0.25)


def test_the_guest_of_the_facts_has_its_hot_set_and_its_rate() -> None:
    """64 MiB written over and over at 160 MB/s, as page sampling saw it (unique bytes in each window)."""
    seen = {0.05: 8.0, 0.1: 15.5, 0.2: 29.0, 0.5: 64.0, 1.0: 62.0, 2.0: 60.0}
    curve = curve_of([DirtyWindow(seconds, round(mib * MIB)) for seconds, mib in seen.items()], MEMORY)
    assert curve.write_rate == pytest.approx(160 * MIB, rel=0.05)
    assert curve.hot_set == pytest.approx(64 * MIB, rel=0.07)
    assert curve.unique(10) == curve.unique(2)


@given(st.integers(MIB, 256 * MIB), st.floats(MIB, 1024 * MIB))
def test_a_hot_set_is_told_of_only_when_nearly_all_of_it_has_been_seen(hot_set: int, rate: float) -> None:
    found = curve_of(saturating(hot_set, rate), MEMORY).hot_set
    assert found is None or 0.97 * hot_set - 2 <= found <= hot_set + 2


def test_a_guest_that_goes_on_to_new_pages_has_no_hot_set() -> None:
    curve = curve_of([DirtyWindow(seconds, round(20 * MIB * seconds)) for seconds, _ in WINDOWS], MEMORY)
    assert curve.hot_set is None
    assert curve.write_rate == pytest.approx(20 * MIB)
    assert curve.unique(10) == pytest.approx(200 * MIB)
    assert curve.unique(1000) == MEMORY


@pytest.mark.parametrize("windows", [[], [DirtyWindow(1.0, 0)], [DirtyWindow(0.0, 5)]])
def test_a_guest_that_changes_nothing(windows: list[DirtyWindow]) -> None:
    curve = curve_of(windows, MEMORY)
    assert curve.unique(5.0) == 0
    assert curve.write_rate == 0
    assert curve.hot_set is None


def test_pieces_are_pooled_until_none_bends_upwards() -> None:
    curve = curve_of([DirtyWindow(0.1, 0), DirtyWindow(0.2, 0), DirtyWindow(0.5, 50 * MIB)], MEMORY)
    slopes = [(u1 - u0) / (t1 - t0) for (t0, u0), (t1, u1) in pairwise(curve.points)]
    assert slopes == sorted(slopes, reverse=True)
    assert curve.unique(0.5) == pytest.approx(50 * MIB)


@pytest.mark.parametrize(
    ("hot_set", "rate", "expected"),
    [
        (128, 60, True),  # half of it was seen, and it goes on to new pages
        (16, 200, False),  # it comes back within half a second
        (64, 1, False),  # it hardly writes
    ],
)
def test_a_longer_look_is_taken_where_a_guest_has_not_come_back(hot_set: int, rate: int, *, expected: bool) -> None:
    assert still_rises(saturating(hot_set * MIB, rate * MIB), MEMORY) is expected
