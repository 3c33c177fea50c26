from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measure_samples import START_S, make_series

from godwit.measure.gaps import (
    RateSeries,
    client_view,
    find_gaps,
    first_reply,
    gap_at,
    latency,
    longest_gap,
    noticeable_gaps,
    quiet_spells,
    reply_rate,
)
from godwit.measure.series import ProbeSeries


@st.composite
def any_series(draw: st.DrawFn) -> ProbeSeries:
    count = draw(st.integers(1, 60))
    steps = draw(st.lists(st.floats(0.0002, 0.5), min_size=count, max_size=count))
    round_trips = draw(st.lists(st.one_of(st.just(math.nan), st.floats(1e-5, 2.0)), min_size=count, max_size=count))
    sent = START_S + np.cumsum(steps)
    base = make_series(length_s=0.01)
    rtt = np.asarray(round_trips)
    end = float(np.nanmax(np.concatenate((sent, sent + rtt)))) + draw(st.floats(0, 1))
    return replace(base, sent_s=sent, rtt_s=rtt, lag_s=np.zeros(count), started_s=START_S, ended_s=end)


def test_gap_is_the_time_from_the_last_reply_before_to_the_first_after() -> None:
    series = make_series(silent=[(1.0, 1.1)])
    gap = longest_gap(series)
    assert gap is not None
    assert gap.start_s == pytest.approx(START_S + 0.998 + 0.0004, abs=1e-6)
    assert gap.end_s == pytest.approx(START_S + 1.1 + 0.0004, abs=1e-6)
    assert gap.lost == 50
    assert not gap.open_start
    assert not gap.open_end


def test_replies_held_back_count_in_full_although_nothing_was_lost() -> None:
    series = make_series()
    held = (series.sent_s >= START_S + 1.0) & (series.sent_s < START_S + 1.5)
    late = replace(series, rtt_s=np.where(held, START_S + 1.5 - series.sent_s, series.rtt_s))
    gap = longest_gap(late)
    assert late.lost == 0
    assert gap is not None
    assert gap.length_s == pytest.approx(0.502 - 0.0004, abs=1e-5)


def test_a_guest_that_never_answers_again_leaves_an_open_gap() -> None:
    gap = longest_gap(make_series(silent=[(3.0, 99.0)]))
    assert gap is not None
    assert gap.open_end
    assert gap.length_s == pytest.approx(1.002, abs=0.001)


def test_no_reply_at_all_is_one_gap_over_everything() -> None:
    series = make_series(silent=[(0.0, 99.0)])
    (gap,) = find_gaps(series)
    assert gap.open_start
    assert gap.open_end
    assert gap.lost == len(series.sent_s)


def test_an_empty_series_has_no_gap() -> None:
    empty = make_series(length_s=0.0)
    assert longest_gap(empty) is None
    assert client_view(empty).client_gap_s is None
    assert reply_rate(empty).per_s.sum() == 0


def test_the_probe_s_own_lateness_stands_beside_the_gap_and_is_not_taken_off() -> None:
    series = make_series(silent=[(1.0, 1.1)])
    lag = series.lag_s.copy()
    lag[525] = 0.04
    lag[10] = 0.2
    view = client_view(replace(series, lag_s=lag), START_S + 1.02, START_S + 1.05)
    assert view.at_switchover is not None
    assert view.at_switchover.lag_max_s == 0.04
    assert view.lag_max_s == 0.2
    assert view.at_switchover.length_s == pytest.approx(0.102, abs=1e-6)


def test_the_switchover_s_gap_is_the_one_that_touches_it_not_the_longest() -> None:
    series = make_series(silent=[(0.5, 1.0), (2.0, 2.05)])
    view = client_view(series, START_S + 2.01, START_S + 2.03)
    assert view.longest is not None
    assert view.at_switchover is not None
    assert view.longest.length_s == pytest.approx(0.502, abs=1e-6)
    assert view.at_switchover.length_s == pytest.approx(0.052, abs=1e-6)
    assert len(view.gaps) == 2
    assert (view.before.lost, view.during.lost, view.after.lost) == (250, 25, 0)


def test_a_gap_far_from_the_switchover_is_not_its_gap() -> None:
    gaps = noticeable_gaps(make_series(length_s=10, silent=[(1.0, 1.1)]))
    assert gap_at(gaps, START_S + 1.5, START_S + 1.6) == gaps[0]
    assert gap_at(gaps, START_S + 8.0, START_S + 8.1) is None


def test_the_first_reply_after_resume_counts_whenever_it_was_asked_for() -> None:
    series = make_series(silent=[(1.0, 1.1)])
    # The last request before the gap was answered at 0.9984, the first one after it at 1.1004.
    stop = START_S + 1.0
    assert first_reply(series, stop, START_S + 1.08) == pytest.approx(0.0204, abs=1e-6)
    assert first_reply(series, stop, START_S + 1.1002) == pytest.approx(0.0002, abs=1e-6)
    assert first_reply(series, stop, series.ended_s + 10) is None


def test_an_answer_of_the_source_that_comes_after_resume_is_not_the_target_s() -> None:
    """The way takes 200 ms, the blackout 50."""
    series = make_series(silent=[(1.0, 1.05)])
    far = replace(series, rtt_s=np.where(series.answered, 0.2, np.nan))
    first = first_reply(far, START_S + 1.0, START_S + 1.05)
    assert first == pytest.approx(0.2, abs=0.005)


def test_latency_percentiles_and_losses() -> None:
    series = make_series(length_s=0.2)
    known = replace(series, rtt_s=np.arange(1, len(series.sent_s) + 1) / 1e3)
    summary = latency(known)
    assert summary.sent == 100
    assert summary.median_ms == pytest.approx(50.5)
    assert summary.p99_ms == pytest.approx(99.01)
    assert summary.max_ms == pytest.approx(100)
    nothing = latency(known, START_S + 5, START_S + 6)
    assert nothing.sent == 0
    assert math.isnan(nothing.median_ms)


def test_reply_rate_counts_per_second_and_refuses_an_empty_bin() -> None:
    rate = reply_rate(make_series(silent=[(1.0, 1.1)]), 0.1)
    assert rate.per_s[5] == pytest.approx(500, abs=10.1)
    assert rate.per_s[10] == pytest.approx(0, abs=10.1)
    assert rate.middle_s[0] == pytest.approx(START_S + 0.05)
    with pytest.raises(ValueError, match="bin"):
        reply_rate(make_series(), 0.0)


def test_quiet_spells_of_a_throughput_curve() -> None:
    curve = RateSeries(100.0, 0.1, np.array([9.0, 9.1, 0.0, 0.2, 9.0, 8.9, 0.0]))
    first, last = quiet_spells(curve)
    assert first.start_s == pytest.approx(100.2)
    assert first.length_s == pytest.approx(0.2)
    assert not first.open_end
    assert last.open_end
    (all_quiet,) = quiet_spells(RateSeries(0.0, 1.0, np.zeros(3)))
    assert all_quiet.length_s == 3.0


@given(any_series())
def test_gaps_cover_the_series_without_overlap(series: ProbeSeries) -> None:
    gaps = find_gaps(series)
    assert sum(gap.length_s for gap in gaps) == pytest.approx(series.ended_s - float(series.sent_s[0]), abs=1e-5)
    assert all(one.end_s == two.start_s for one, two in pairwise(gaps))
    longest = longest_gap(series)
    assert longest is not None
    assert longest.length_s == max(gap.length_s for gap in gaps)


@given(any_series(), st.floats(-1.0, 12.0), st.floats(0.0, 2.0))
def test_the_switchover_s_gap_is_found_among_those_near_it(series: ProbeSeries, begins: float, lasts: float) -> None:
    stop = series.started_s + begins
    view = client_view(series, stop, stop + lasts)
    assert view.longest == max(find_gaps(series), key=lambda gap: gap.length_s)
    assert view.at_switchover == gap_at(find_gaps(series), stop, stop + lasts)


@given(any_series(), st.floats(0.001, 1.0))
def test_no_reply_lies_inside_a_gap_and_every_gap_is_long_enough(series: ProbeSeries, threshold: float) -> None:
    for gap in find_gaps(series, threshold):
        assert gap.length_s >= threshold
        assert not np.any((series.replied_s > gap.start_s) & (series.replied_s < gap.end_s))


@given(any_series(), st.floats(0.01, 1.0))
def test_every_reply_is_counted_in_one_bin_at_most(series: ProbeSeries, bin_s: float) -> None:
    rate = reply_rate(series, bin_s)
    total = float(rate.per_s.sum() * bin_s)
    assert total <= len(series.replied_s) + 1e-6
    covered = rate.start_s + len(rate.per_s) * bin_s
    assert total >= np.count_nonzero(series.replied_s < covered - 1e-6) - 1e-6


@given(any_series())
def test_a_series_survives_the_journal(series: ProbeSeries) -> None:
    again = ProbeSeries.from_json(json.loads(json.dumps(series.to_json())))
    np.testing.assert_allclose(again.sent_s, series.sent_s, atol=2e-6, rtol=0)
    np.testing.assert_allclose(again.rtt_s, series.rtt_s, atol=1e-6, rtol=0)
    assert again.lost == series.lost
    assert (again.kind, again.ended_s, again.notes) == (series.kind, series.ended_s, series.notes)


def test_a_series_of_another_version_or_with_a_hole_is_refused() -> None:
    data = make_series().to_json()
    with pytest.raises(ValueError, match="version 2"):
        ProbeSeries.from_json({**data, "version": 2})
    del data["lag_us"]
    with pytest.raises(ValueError, match="lag_us"):
        ProbeSeries.from_json(data)
    with pytest.raises(ValueError, match="columns differ"):
        replace(make_series(), rtt_s=np.zeros(3))


def test_between_keeps_a_stretch() -> None:
    part = make_series().between(START_S + 1, START_S + 2)
    assert len(part.sent_s) == pytest.approx(500, abs=1)
    assert (part.started_s, part.ended_s) == (START_S + 1, START_S + 2)
