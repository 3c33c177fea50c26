"""What samples say of passes: how long each took, what it sent, what it left, and the pace of the last ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.core.readings import (
    RECENT_PASSES,
    busiest,
    carried_of,
    left_after_passes,
    pace_of,
    pace_within,
    passes_of,
    passes_seen,
    thinned,
)
from godwit.core.strategy import Switchover, decide, eta, last_moment, stalled, still
from godwit.model import PassRecord, Permission, Policy, Sample


def sample(at: float, iteration: int, transferred: int, remaining: int) -> Sample:
    return Sample(at, iteration, transferred, remaining, 1000, 10.0, 1.0)


def test_passes_are_read_off_samples() -> None:
    seen = [
        sample(10.1, 1, 100, 900),
        sample(14.0, 1, 500, 100),
        sample(15.0, 2, 600, 200),
        sample(16.0, 2, 700, 100),
        sample(17.0, 3, 780, 60),
        sample(17.2, 3, 800, 10),
    ]
    assert passes_of(seen, 10.0) == (PassRecord(1000, 600, 5.0, 200), PassRecord(200, 180, 2.0, 60))


def test_passes_are_read_off_a_part_of_a_stream() -> None:
    seen = [
        sample(16.0, 2, 700, 100),
        sample(17.0, 3, 780, 60),
        sample(17.2, 3, 800, 10),
        sample(17.5, 4, 830, 30),
        sample(17.75, 5, 850, 20),
    ]
    assert passes_seen(seen) == (PassRecord(60, 50, 0.5, 30), PassRecord(30, 20, 0.25, 20))
    assert passes_seen(seen[:2]) == passes_seen([]) == ()
    assert passes_of(seen[1:], 10.0) == ()


@pytest.mark.parametrize(
    "seen", [[], [sample(10.1, 1, 100, 900)], [sample(10.1, 1, 100, 900), sample(12.0, 3, 700, 10)]]
)
def test_a_pass_whose_end_nobody_saw_is_not_told(seen: list[Sample]) -> None:
    assert passes_of(seen, 10.0) == ()


def test_the_pace_within_a_pass_is_how_fast_its_pages_become_fewer() -> None:
    seen = [sample(1, 1, 0, 900), sample(3, 1, 4, 500), sample(4, 2, 5, 80), sample(4.9, 2, 6, 60), sample(6, 2, 7, 40)]
    assert [pace_within(seen[:count]) for count in range(6)] == [None, None, 200.0, None, None, 20.0]
    assert pace_within([sample(1, 1, 0, 500), sample(2, 1, 0, 500)]) == 0.0


def test_what_a_pass_left_is_what_the_next_began_with_however_much_of_that_is_sent() -> None:
    seen = [sample(1, 1, 0, 900), sample(2, 2, 0, 40), sample(3, 2, 0, 16), sample(4, 3, 0, 20), sample(5, 4, 0, 10)]
    assert left_after_passes(seen) == [40, 20, 10]
    assert left_after_passes([sample(1, 1, 0, 9), sample(2, 1, 0, 5)]) == []
    assert left_after_passes([]) == []


def test_the_pace_is_that_of_the_last_passes_and_the_first_says_nothing() -> None:
    assert pace_of([], 0.0) is None
    assert pace_of([sample(0, 1, 0, 900), sample(5, 2, 600, 200)], 0.0) is None
    starts = [(0, 900), (5, 200), (9, 300), (10, 300), (11, 300), (12, 10)]
    seen = [sample(at, number, 0, left) for number, (at, left) in enumerate(starts, 1)]
    assert pace_of(seen, 0.0) == 300.0


def test_what_a_pass_may_have_left_to_the_next_counts_as_left() -> None:
    """QEMU begins another pass as soon as what is left fits: who counts that as sent takes it for ever quicker."""
    starts = [(0, 900), (5, 300), (7, 300), (9, 300), (11, 300)]
    seen = [sample(at, number, 0, left) for number, (at, left) in enumerate(starts, 1)]
    assert pace_of(seen, 100.0) == 100.0
    assert pace_of(seen, 200.0) is None


@given(st.lists(st.tuples(st.floats(0, 1e4), st.integers(1, 9), st.integers(0, 1000), st.integers(0, 1000))))
def test_whatever_was_read_no_figure_is_negative(rows: list[tuple[float, int, int, int]]) -> None:
    seen = [sample(*row) for row in sorted(rows)]
    for one in passes_of(seen, 0.0):
        assert min(one.due, one.sent, one.seconds, one.left) >= 0
    assert (pace_of(seen, 10.0) or 0.0) >= 0


# -- what the link carried ---------------------------------------------------------------------------------------------

THROUGH = 2e9
"""Bytes of zeroes a second that a QEMU goes through."""

HEAD = 9 / 4096
"""What it sends for each byte of them."""


def first_pass(runs: list[tuple[float, float]], link: float) -> list[Sample]:
    """Return what is seen, every quarter of a second, of a pass over memory: so many zeroes, then bytes, in turns."""
    times, through, sent = [0.0], [0.0], [0.0]
    for zeroes, full in runs:
        for some, rate, share in ((zeroes, THROUGH, HEAD), (full, link, 1.0)):
            times.append(times[-1] + some / rate)
            through.append(through[-1] + some)
            sent.append(sent[-1] + some * share)
    seen = np.arange(0.0, times[-1], 0.25)
    rows = zip(seen, np.interp(seen, times, sent), np.interp(seen, times, through), strict=True)
    whole = through[-1]
    return [Sample(float(at), 1, int(out), int(whole - gone), int(whole), 0.0, 0.0) for at, out, gone in rows]


@pytest.mark.parametrize(
    ("runs", "told"),
    [
        ([(0.0, 2e9)], True),
        ([(32e9, 0.65e9), (32e9, 0.0)], True),
        ([(4e9, 0.04e9)] * 16, True),
        ([(4e6, 0.04e6)] * 16000, False),  # each stretch is mostly zeroes: the link is never seen at work
        ([(64e9, 0.0)], False),
    ],
    ids=["full", "in one place", "in several", "scattered", "nothing but zeroes"],
)
def test_an_idle_guest_says_what_the_link_carries_or_nothing(runs: list[tuple[float, float]], *, told: bool) -> None:
    """64 GB over 1 Gbit/s, 0.65 GB of them not zero, take 37 s: 18 MB/s in the mean."""
    found = carried_of(first_pass(runs, 125e6), compressed=False)
    assert found == (pytest.approx(125e6, rel=0.05) if told else None)


@given(
    st.lists(st.tuples(st.floats(0, 8e9), st.floats(0, 1e9)), min_size=1, max_size=12),
    st.floats(1e6, 1.2e9),
)
def test_however_much_is_zeroes_the_link_is_not_taken_for_much_slower_than_it_is(
    runs: list[tuple[float, float]], link: float
) -> None:
    """A stretch that counts is at least half full: what QEMU went through beside that took it link / THROUGH longer."""
    found = carried_of(first_pass(runs, link), compressed=False)
    assert found is None or link / (1 + link / THROUGH) * 0.99 <= found <= link * 1.01


@given(st.lists(st.tuples(st.floats(0, 1e4), st.integers(1, 9), st.integers(0, 10**9), st.integers(0, 10**9))))
def test_whatever_was_read_the_link_carried_no_more_than_was_seen(rows: list[tuple[float, int, int, int]]) -> None:
    seen = [sample(*row) for row in sorted(rows)]
    for compressed in (False, True):
        found = carried_of(seen, compressed=compressed)
        assert found is None or 0 < found < math.inf


def test_of_compressed_pages_every_stretch_counts_and_what_is_too_close_together_never() -> None:
    seen = [sample(0, 1, 0, 900), sample(1, 1, 100, 600), sample(2, 1, 200, 300), sample(2.01, 2, 290, 300)]
    assert carried_of(seen, compressed=True) == 100
    assert carried_of(seen, compressed=False) is None


def test_the_busiest_cpu_counts() -> None:
    assert busiest((1.0, 5.0), (1.5, 5.1), 1.0) == pytest.approx(0.5)
    assert busiest((1.0,), (3.0,), 1.0) == 1.0  # a tick may be counted late
    assert busiest((1.0,), (1.1,), 0.1) is None
    assert busiest((), (1.0,), 1.0) is None


@st.composite
def streams(draw: st.DrawFn) -> list[Sample]:
    """Streams of passes of any length, slowed down now and then, with rests without a byte."""
    found: list[Sample] = []
    at, transferred, iteration, left, throttle = 0.0, 0, 1, 100_000, 0
    for _ in range(draw(st.integers(1, 120))):
        at += draw(st.sampled_from([0.01, 0.25, 0.25, 0.3]))
        gone = draw(st.sampled_from([0, 500, 3000, 20_000]))
        transferred, left = transferred + min(gone, left), max(0, left - gone)
        if left < 2000 and draw(st.booleans()):
            iteration, left = iteration + 1, draw(st.integers(0, 50_000))
            throttle = draw(st.sampled_from([throttle, throttle, 1, 40, 80]))
        rate = draw(st.sampled_from([0.0, 4000.0, 9000.0]))
        found.append(Sample(at, iteration, transferred, left, 100_000, rate, 700.0, throttle=throttle))
    return found


@given(streams(), st.integers(1, 4))
def test_what_is_decided_by_is_the_same_without_the_samples_that_are_left_out(seen: list[Sample], times: int) -> None:
    """However often it is thinned while it grows."""
    grown: list[Sample] = []
    for part in range(times):
        size = len(seen) // times + 1
        grown = thinned([*grown, *seen[part * size : (part + 1) * size]])
    policy, now = Policy(0.3, allows=frozenset(Permission)), Switchover(0.05, throttle=1)
    assert passes_of(grown, 0.0) == passes_of(seen, 0.0)
    assert left_after_passes(grown) == left_after_passes(seen)
    assert pace_within(grown) == pace_within(seen)
    assert pace_of(grown, 1000) == pace_of(seen, 1000)
    assert eta(grown, now) == eta(seen, now)
    assert decide(policy, grown, now) == decide(policy, seen, now)
    assert last_moment(policy, grown, now, 0.0, 1.0) == last_moment(policy, seen, now, 0.0, 1.0)
    for later in (1.0, 30.0, 60.0):
        assert stalled(grown, seen[-1].at + later, 0.0) == stalled(seen, seen[-1].at + later, 0.0)
        assert still(grown, later) == still(seen, later)


def test_what_is_decided_by_is_bounded_however_many_passes_there_were() -> None:
    seen = [sample(n / 4, 1 + n // 4, n * 10, 100_000 - n % 4 * 10) for n in range(4000)]
    grown: list[Sample] = []
    for one in seen:
        grown = thinned([*grown, one], passes=RECENT_PASSES) if len(grown) >= 300 else [*grown, one]
    assert len(grown) <= 300
    policy, now = Policy(0.3, allows=frozenset(Permission)), Switchover(0.05)
    assert left_after_passes(grown)[-20:] == left_after_passes(seen)[-20:]
    assert pace_of(grown, 1000) == pace_of(seen, 1000)
    assert eta(grown, now) == eta(seen, now)
    found, whole = decide(policy, grown, now), decide(policy, seen, now)
    assert found is not None
    assert whole is not None
    assert found.action == whole.action


def test_a_pass_of_any_length_takes_little_room() -> None:
    seen = [sample(n / 4, 1, n * 10, 100_000 - n * 10) for n in range(5000)]
    assert len(thinned(seen)) < 20
    assert thinned([]) == []
