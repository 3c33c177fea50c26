"""What a move did to a rate: what was lost of it, and when it was back."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from godwit.measure.curves import FORMER, HOLD, Curve, Piece, back_after, from_counts, lost_seconds, lowest

BEGAN, OVER = 10.0, 20.0


def curve(*rates: float, step: float = 1.0, start: float = 0.0) -> Curve:
    return Curve(Piece(start + n * step, start + (n + 1) * step, rate) for n, rate in enumerate(rates))


RATES = st.lists(st.floats(0, 1000), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ([100.0] * 10, 0.0),
        ([96.0] * 10, 0.0),
        ([0.0, 0.0, 100.0, 100.0], 1.975),
        ([0.0] * 3 + [50.0] * 3, None),
        ([94.0] * 10, None),
        ([0.0, 200.0, 0.0], 0.7375),
    ],
    ids=["at once", "within 5 %", "after two seconds", "never", "not quite", "what it makes up for counts"],
)
def test_when_a_guest_is_back(after: list[float], expected: float | None) -> None:
    whole = curve(*[100.0] * 10, *[30.0] * 10, *after)
    found = back_after(whole, BEGAN, OVER)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-3))


def test_a_rate_that_went_up_and_down_before_is_back_at_what_it_was_at_worst() -> None:
    before = [120.0, 80.0] * 5
    assert back_after(curve(*before, *[10.0] * 10, *[85.0] * 5), BEGAN, OVER) == 0.0
    assert back_after(curve(*before, *[10.0] * 10, *[75.0] * 5), BEGAN, OVER) is None
    wild = [200.0, 0.0] * 5
    assert back_after(curve(*wild, *[10.0] * 10, *[40.0] * 5), BEGAN, OVER) is None


@pytest.mark.parametrize(("seconds", "rate", "expected"), [(0.3, 96.0, 0.0), (0.3, 90.0, None), (0.05, 100.0, None)])
def test_of_one_that_was_watched_for_a_moment_all_of_it_counts(
    seconds: float, rate: float, expected: float | None
) -> None:
    short = Curve([*curve(*[100.0] * 20).pieces, Piece(20.0, 20.0 + seconds, rate)])
    assert back_after(short, BEGAN, OVER) == expected


def test_where_nothing_was_known_before_nothing_is_said() -> None:
    assert back_after(curve(50.0, 50.0, start=BEGAN), BEGAN, BEGAN) is None
    assert back_after(curve(*[0.0] * 30), BEGAN, OVER) is None
    assert lost_seconds(curve(50.0, start=BEGAN), BEGAN, OVER) is None


def test_a_piece_that_nobody_knows_is_no_zero() -> None:
    gap = Curve([Piece(0, 10, 4.0), Piece(15, 20, 4.0)])
    assert gap.mean(0, 20) == pytest.approx(4.0)
    assert lost_seconds(gap, 10, 20) == pytest.approx(0.0)
    assert lowest(gap, 0, 20) == pytest.approx(4.0)
    assert gap.mean(11, 14) is None


def test_a_standstill_costs_as_long_as_it_lasted() -> None:
    assert lost_seconds(curve(*[50.0] * 10, 0.0, 0.0, *[50.0] * 8), BEGAN, OVER) == pytest.approx(2.0)


def test_a_counter_that_was_started_anew_tells_nothing_of_between() -> None:
    assert [piece.rate for piece in from_counts([(0, 0), (1, 5), (2, 1), (4, 3)]).pieces] == [5.0, 1.0]


@given(RATES, st.floats(0.1, 100), st.floats(-1e4, 1e4))
def test_neither_the_unit_nor_the_clock_matters(rates: list[float], scale: float, shift: float) -> None:
    whole = curve(*[50.0] * 10, *rates)
    other = curve(*[50.0 * scale] * 10, *(rate * scale for rate in rates), start=shift)
    for ask in (back_after, lost_seconds):
        one, two = ask(whole, BEGAN, BEGAN + 2), ask(other, BEGAN + shift, BEGAN + 2 + shift)
        assert (one is None) == (two is None)
        assert one is None or two == pytest.approx(one, abs=1e-3)


@given(RATES)
def test_a_guest_that_is_back_did_what_it_did_before_for_so_long(rates: list[float]) -> None:
    whole = curve(*[50.0] * 10, *rates)
    found = back_after(whole, BEGAN, BEGAN)
    if found is None:
        assert all(mean < 50.0 * FORMER for _, mean in whole.part(BEGAN, 1e9).windows())
    else:
        assert 0 <= found <= len(rates) - HOLD + 1e-6
        mean = whole.mean(BEGAN + found, BEGAN + found + HOLD)
        assert mean is not None
        assert mean >= 50.0 * FORMER * 0.999


@given(RATES, st.floats(0, 1))
def test_who_does_more_is_back_no_later_and_has_lost_no_more(rates: list[float], more: float) -> None:
    less, better = (curve(*[50.0] * 10, *(rate + extra for rate in rates)) for extra in (0.0, more * 50))
    late, soon = back_after(less, BEGAN, BEGAN), back_after(better, BEGAN, BEGAN)
    assume(late is not None)
    assert soon is not None
    assert late is not None
    assert soon <= late + 1e-6
    lost, fewer = lost_seconds(less, BEGAN, 1e3), lost_seconds(better, BEGAN, 1e3)
    assert lost is not None
    assert fewer is not None
    assert fewer <= lost + 1e-6


@given(RATES)
def test_the_lowest_is_no_more_than_the_average(rates: list[float]) -> None:
    whole = curve(*rates)
    least, mean = lowest(whole, 0, len(rates)), whole.mean(0, len(rates))
    assert least is not None
    assert mean is not None
    assert min(rates) - 1e-6 <= least <= mean + 1e-6
