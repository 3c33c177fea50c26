"""Passes that are played: they end or are given up, within what is permitted."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from test_dirtying import MEMORY, saturating

from godwit.core.capabilities import FIRST_DOWNTIME_LIMIT
from godwit.core.dirtying import curve_of
from godwit.core.passes import MOST_PASSES, Simulated, Stream, simulate
from godwit.core.strategy import HAND_OVER, MARGIN
from godwit.model import Permission, Policy
from godwit.units import MIB

LINKS = st.floats(4 * MIB, 4096 * MIB)
HOT_SETS = st.integers(MIB, 256 * MIB)
WRITES = st.floats(MIB, 1024 * MIB)
DOWNTIMES = st.floats(0.003, 5.0)


def simulated(hot_set: int, writes: float, link: float, most: float, again: float = 1.0) -> Simulated:
    curve = curve_of(saturating(hot_set, writes), MEMORY)
    return simulate(curve, MEMORY / 2, Stream(link, again), Policy(max_downtime=most), min(most, FIRST_DOWNTIME_LIMIT))


@given(HOT_SETS, WRITES, LINKS, DOWNTIMES, st.floats(0.01, 1.0))
def test_a_stream_ends_within_what_is_permitted_or_is_given_up(
    hot_set: int, writes: float, link: float, most: float, again: float
) -> None:
    found = simulated(hot_set, writes, link, most, again)
    assert 1 <= found.passes <= MOST_PASSES
    assert found.seconds >= MEMORY / 2 / link * 0.999
    assert found.bytes >= MEMORY / 2
    if found.converges:
        assert found.blackout <= most * 1.001 + 0.0005  # QEMU takes whole milliseconds


@given(HOT_SETS, WRITES, LINKS, DOWNTIMES)
def test_one_that_has_leave_for_more_downtime_ends_too(hot_set: int, writes: float, link: float, most: float) -> None:
    assume(simulated(hot_set, writes, link, most).converges)
    assert simulated(hot_set, writes, link, most * 2).converges


@given(HOT_SETS, WRITES, LINKS, DOWNTIMES, st.floats(1.0, 8.0))
def test_a_faster_link_ends_whatever_a_slower_one_ends_and_sooner(
    hot_set: int, writes: float, link: float, most: float, more: float
) -> None:
    slow = simulated(hot_set, writes, link, most)
    assume(slow.converges)
    fast = simulated(hot_set, writes, link * more, most)
    assert fast.converges
    # A pass more may go by until passes no longer leave less.
    assert fast.seconds <= slow.seconds * 1.001 or fast.passes > slow.passes


@given(HOT_SETS, WRITES, LINKS, st.floats(0.01, 1.0))
def test_changes_never_take_more_bytes_or_time_than_whole_pages(
    hot_set: int, writes: float, link: float, again: float
) -> None:
    whole, changes = (simulated(hot_set, writes, link, 1.0, share) for share in (1.0, again))
    assume(whole.converges and changes.converges and whole.passes == changes.passes)
    assert changes.seconds <= whole.seconds * 1.001
    assert changes.bytes <= whole.bytes * 1.001


def test_the_guest_of_the_facts_does_not_end_and_needs_its_hot_set() -> None:
    """160 MB/s to 64 MiB over 400 Mbit/s: 1.3 s of downtime for whole pages."""
    found = simulated(64 * MIB, 160e6, 50e6, 0.3)
    assert not found.converges
    assert found.blackout == pytest.approx(64 * MIB / 50e6, rel=0.1)
    assert simulated(64 * MIB, 160e6, 50e6, 1.5).converges


def test_pages_travel_as_their_changes_only_when_they_were_sent_twice() -> None:
    """64 MiB that are rewritten in less than a pass: whole in the first two passes, as their changes from then on."""
    found = simulated(64 * MIB, 1024 * MIB, 50e6, 0.3, again=0.01)
    assert found.converges
    assert found.bytes == pytest.approx(MEMORY / 2 + 64 * MIB, rel=0.05)


def test_a_guest_that_writes_nothing_takes_one_pass() -> None:
    assert simulate(curve_of([], MEMORY), 100e6, Stream(50e6), Policy(), 0.003) == Simulated(
        2.0, 100e6, 1, 0.0, converges=True
    )


# -- a QEMU that cannot be told the pace of pages ----------------------------------------------------------------------


def untold(hot_set: int, writes: float, again: float, most: float) -> Simulated:
    curve = curve_of(saturating(hot_set, writes), MEMORY)
    stream = Stream(50e6, again, pages=400e6, tunable=frozenset())
    return simulate(curve, MEMORY / 2, stream, Policy(max_downtime=most), min(most, FIRST_DOWNTIME_LIMIT))


def test_one_that_only_its_changes_end_does_not_end_there_and_it_is_said_what_would_have_to_be_permitted() -> None:
    """QEMU takes 64 MiB of pages, of which 2 % are on the wire, for what they would take at the rate of that."""
    known = simulated(64 * MIB, 1e9, 50e6, 0.3, again=0.02)
    old = untold(64 * MIB, 1e9, 0.02, 0.3)
    assert known.converges
    assert not old.converges
    assert old.blackout > 0.3
    granted = untold(64 * MIB, 1e9, 0.02, old.blackout * MARGIN)
    assert granted.converges
    assert granted.blackout < old.blackout / 2  # the guest itself does not stand still for so long


@given(HOT_SETS, WRITES, st.floats(0.01, 1.0), DOWNTIMES)
def test_it_ends_within_what_is_permitted_or_is_given_up(
    hot_set: int, writes: float, again: float, most: float
) -> None:
    found = untold(hot_set, writes, again, most)
    assert 1 <= found.passes <= MOST_PASSES
    if found.converges:
        assert found.blackout <= most * 1.001 + 0.0005
    else:
        assert found.blackout > most * 0.9


# -- a guest that may be paused ----------------------------------------------------------------------------------------

MAY = Policy(allows=frozenset({Permission.PAUSE}))


def within(hot_set: int, writes: float, link: float, until: float, most: float = 0.3) -> Simulated:
    curve = curve_of(saturating(hot_set, writes), MEMORY)
    return simulate(curve, MEMORY / 2, Stream(link), replace(MAY, max_downtime=most), FIRST_DOWNTIME_LIMIT, until)


@given(HOT_SETS, WRITES, LINKS, st.floats(0.0, 60.0))
def test_a_guest_that_is_paused_is_through_in_time_whenever_standing_still_from_the_start_would_do(
    hot_set: int, writes: float, link: float, spare: float
) -> None:
    first = MEMORY / 2 / link
    until = first * (1 + 1e-9) + spare
    found = within(hot_set, writes, link, until)
    assert found.converges
    assert found.seconds + found.blackout <= until + 1e-6
    assert found.bytes >= MEMORY / 2
    if found.paused and found.seconds < first:
        assert found.blackout >= first - found.seconds  # what the pass had still to send, at least


@given(HOT_SETS, WRITES, LINKS, st.floats(0.0, 60.0), st.floats(1.0, 8.0))
def test_over_a_faster_link_it_is_in_time_too(
    hot_set: int, writes: float, link: float, spare: float, more: float
) -> None:
    until = MEMORY / 2 / link * (1 + 1e-9) + spare
    found = within(hot_set, writes, link * more, until)
    assert found.converges
    assert found.seconds + found.blackout <= until + 1e-6


@given(HOT_SETS, WRITES, LINKS, st.floats(0.0, 1.0))
def test_nobody_is_paused_for_a_deadline_that_cannot_be_kept(
    hot_set: int, writes: float, link: float, share: float
) -> None:
    first = MEMORY / 2 / link
    assert within(hot_set, writes, link, first * share * 0.999) == within(hot_set, writes, link, math.inf)


def test_a_guest_is_paused_as_late_as_its_deadline_permits() -> None:
    """A first pass of 5.4 s, 1.3 s for the hot set, a margin, and 1 s for the handover: it may run until 8.1 s."""
    first, again = MEMORY / 2 / 50e6, 64 * MIB / 50e6
    kept, short = (within(64 * MIB, 160e6, 50e6, first + spare) for spare in (again * MARGIN + HAND_OVER + 0.1, 1.5))
    assert kept.seconds >= first  # paused after it
    assert again < kept.blackout < again * MARGIN
    assert 0 < short.seconds < first
    changed = short.blackout - (first - short.seconds)
    assert changed == pytest.approx(1.5 / (MARGIN + 1), rel=0.01)


def test_without_a_deadline_it_is_paused_when_nothing_else_ends_it() -> None:
    found = within(64 * MIB, 160e6, 50e6, math.inf)
    assert (found.converges, found.paused) == (True, True)
    assert found.blackout == pytest.approx(64 * MIB / 50e6, rel=0.1)
    calm = within(MIB, MIB, 50e6, math.inf)
    assert (calm.converges, calm.paused) == (True, False)
