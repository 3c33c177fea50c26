"""What plain precopy needs: zero where passes shrink without end, else where the curve and the link meet."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from test_dirtying import MEASURED, MEMORY, saturating

from godwit.core.dirtying import WINDOWS, DirtyCurve, curve_of
from godwit.core.forecast import least_downtime
from godwit.model import DirtyWindow
from godwit.units import MIB

RATES = st.floats(MIB, 4096 * MIB)


def passes_end(curve: DirtyCurve, bandwidth: float, limit: float) -> bool:
    """Go through the passes one by one, as QEMU does."""
    left = float(MEMORY)
    for _ in range(20_000):
        if left <= bandwidth * limit:
            return True
        left = curve.unique(left / bandwidth)
    return False


@given(MEASURED, RATES)
def test_a_move_ends_with_that_downtime_and_not_with_noticeably_less(
    windows: list[DirtyWindow], bandwidth: float
) -> None:
    curve = curve_of(windows, MEMORY)
    needed = least_downtime(curve, bandwidth)
    assert 0 <= needed <= MEMORY / bandwidth * (1 + 1e-9)
    assert passes_end(curve, bandwidth, needed * 1.01 + 0.001)
    if needed > 0.01:
        assert not passes_end(curve, bandwidth, needed * 0.98)


@given(MEASURED, RATES, RATES)
def test_a_faster_link_never_needs_more(windows: list[DirtyWindow], one: float, other: float) -> None:
    curve = curve_of(windows, MEMORY)
    slow, fast = sorted((one, other))
    assert least_downtime(curve, fast) <= least_downtime(curve, slow) + 1e-9


@given(st.integers(8 * MIB, 256 * MIB), RATES, RATES, st.floats(1.1, 4))
def test_a_guest_that_writes_faster_never_needs_less(hot_set: int, rate: float, bandwidth: float, more: float) -> None:
    quiet, busy = (curve_of(saturating(hot_set, one), MEMORY) for one in (rate, rate * more))
    needed = least_downtime(quiet, bandwidth)
    assume(needed <= WINDOWS[-1][0])  # beyond what was measured it is a guess
    assert least_downtime(busy, bandwidth) >= needed - 1e-6


def test_the_guest_of_the_facts() -> None:
    """64 MiB written over and over at 160 MB/s over 400 Mbit/s: 1.3 s for the whole hot set."""
    curve = curve_of(saturating(64 * MIB, 1e6 * MIB), MEMORY)
    assert least_downtime(curve, 50e6) == pytest.approx(64 * MIB / 50e6, rel=0.01)


def test_a_quiet_guest_needs_nothing() -> None:
    assert least_downtime(curve_of([], MEMORY), 50e6) == 0
    assert least_downtime(curve_of([DirtyWindow(1.0, MIB)], MEMORY), 50e6) == 0


def test_a_guest_that_goes_on_to_new_pages_faster_than_the_link_carries_needs_all_its_memory() -> None:
    curve = curve_of([DirtyWindow(s, round(100 * MIB * s)) for s in (0.5, 1.0)], MEMORY)
    assert least_downtime(curve, 50 * MIB) == MEMORY / (50 * MIB)
