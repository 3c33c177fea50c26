"""What is learned from profiles and moves, what a forecast makes of it, and how it is judged afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_dirtying import saturating

from godwit.core.forecast import Estimate
from godwit.core.foretelling import expected, foretell, remember
from godwit.core.learning import FIXED, PAYLOAD, START, Known, accuracy, basis_of, learned, pace_of, said_of
from godwit.errors import InputError
from godwit.model import (
    Downtime,
    LinkSaid,
    MemorySample,
    MoveRecord,
    Outcome,
    OutcomeStatus,
    Owner,
    PassRecord,
    Policy,
    Profile,
    Sample,
    Sending,
    Spec,
    Strategy,
    Way,
)
from godwit.units import MIB

MEMORY = 384 * MIB
LINK = 50e6
QUIET = Profile("web1", "one", 100.0, MEMORY, tuple(saturating(8 * MIB, MIB)))
BUSY = Profile("web1", "one", 100.0, MEMORY, tuple(saturating(64 * MIB, 160e6)))
KNOWN = Known("web1", "one", "two", MEMORY, 256 * MIB, Policy(), QUIET, LINK, usual=Strategy(armed=True))


def move(name: str = "m1", **other: Any) -> MoveRecord:  # noqa: ANN401 - any field
    passes = (
        PassRecord(MEMORY, 200 * MIB, 5.0, 20 * MIB),
        PassRecord(20 * MIB, 20 * MIB, 0.5, 10 * MIB),
        PassRecord(10 * MIB, MIB, 0.05, MIB),
    )
    figures: dict[str, Any] = {
        "vm": "web1",
        "source": "one",
        "target": "two",
        "at": 200.0,
        "memory": MEMORY,
        "passes": passes,
        "start_delay": 0.9,
        "total": 6.2,
        "bytes": 203 * MIB,
        "blackout": 0.02,
        "client_gap": 0.06,
    }
    return MoveRecord(name, **(figures | other))


# -- estimates -----------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.5, 2.0), max_size=30))
def test_what_is_learned_lies_between_what_was_thought_and_what_was_seen(seen: list[float]) -> None:
    found = learned(seen, Estimate(1.0, 0.2))
    assert min([1.0, *seen]) <= found.likely <= max([1.0, *seen]) + 1e-9
    assert found.spread >= 0


def test_many_moves_outweigh_the_laboratory() -> None:
    assert learned([], START) == START
    assert learned([0.5] * 50, START).likely == pytest.approx(0.5, abs=0.04)
    assert learned([0.5] * 50, START).spread < START.spread


# -- what a forecast rests on --------------------------------------------------------------------------------------


def test_without_any_move_it_rests_on_the_profile_and_on_what_was_said_of_the_link() -> None:
    basis, words = basis_of(KNOWN, now=160.0)
    assert basis.bandwidth.likely == LINK * PAYLOAD
    assert basis.first.likely == pytest.approx(256 * MIB, rel=0.25)
    assert basis.start == START
    assert "its writes from a profile, 1min 00s old" in words
    assert "fixed parts as measured in a laboratory" in words


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (KNOWN, LINK * PAYLOAD),
        (replace(KNOWN, link=None), None),
        (replace(KNOWN, link=None, moves=[move(source="one", target="three")]), None),
        (replace(KNOWN, link=None, moves=[move(vm="web9", source="two", target="one")]), 200 * MIB / 5.0),
        (replace(KNOWN, link=None, policy=Policy(bandwidth=3_000_000)), 3e6),
        (replace(KNOWN, policy=Policy(bandwidth=3_000_000)), 3e6),
        (replace(KNOWN, policy=Policy(bandwidth=3_000_000_000)), LINK * PAYLOAD),
        (replace(KNOWN, profile=None, memory=0, resident=0), LINK * PAYLOAD),  # it says nothing of the guest
    ],
)
def test_the_pace_of_a_stream_is_known_by_moves_by_what_was_said_and_by_what_is_permitted(
    known: Known, expected: float | None
) -> None:
    assert pace_of(known) == expected


def test_a_look_at_pages_says_what_the_first_pass_sends_and_what_changes_take() -> None:
    sample = MemorySample(4096, 3072, 400, 0.05, 0.4, 0.2)
    basis, words = basis_of(replace(KNOWN, profile=replace(QUIET, sample=sample)), now=160.0)
    assert basis.first.likely == pytest.approx(MEMORY / 4, rel=0.02)
    assert basis.first.spread < 0.05 * basis.first.likely
    assert basis.again.likely == 0.05
    assert any("25% of its pages are not zero" in word for word in words)


def test_a_later_move_of_the_guest_says_more_than_its_profile() -> None:
    basis, words = basis_of(replace(KNOWN, link=None, moves=[move()]), now=300.0)
    assert basis.bandwidth.likely == 200 * MIB / 5.0
    assert basis.first.likely == 200 * MIB
    assert basis.again.likely == pytest.approx(0.1)
    assert basis.curve.unique(5.0) == pytest.approx(20 * MIB)
    assert basis.start.likely < START.likely
    assert any("the passes of its move m1" in word for word in words)
    assert any("fixed parts from 1 move between one and two" in word for word in words)


def test_an_earlier_move_says_less_than_a_later_profile_of_what_the_guest_writes_and_all_of_the_link() -> None:
    basis, _ = basis_of(replace(KNOWN, link=None, moves=[move(at=50.0)]), now=300.0)
    assert basis.bandwidth.likely == 200 * MIB / 5.0
    assert basis.curve.unique(2.0) < 3 * MIB


def test_moves_the_other_way_and_of_other_guests_tell_of_the_link_and_not_of_the_guest() -> None:
    other = move(vm="db1", source="two", target="one")
    basis, _ = basis_of(replace(KNOWN, link=None, moves=[other]), now=300.0)
    assert basis.bandwidth.likely == 200 * MIB / 5.0
    assert basis.curve.unique(2.0) < 3 * MIB
    elsewhere = move(vm="db1", source="two", target="three")
    with pytest.raises(InputError, match="nobody knows what the link between one and two carries"):
        basis_of(replace(KNOWN, link=None, moves=[elsewhere, move(limited=True)]), now=300.0)


def test_a_move_whose_first_pass_nobody_saw_end_tells_of_the_link_by_all_that_it_sent() -> None:
    seen = move(passes=(), bytes=200 * MIB, start_delay=1.0, total=6.0)
    basis, words = basis_of(replace(KNOWN, link=None, moves=[seen]), now=300.0)
    assert basis.bandwidth.likely == 40 * MIB
    assert basis.fixed.likely == FIXED.likely
    assert any("in 1 move" in word for word in words)


@pytest.mark.parametrize(("passes", "sent"), [((PassRecord(MEMORY, 4 * MIB, 2.0, MIB),), 5 * MIB), ((), 5 * MIB)])
def test_of_a_move_that_went_through_zeroes_counts_what_was_carried_where_there_was_more(
    passes: tuple[PassRecord, ...], sent: int
) -> None:
    idle = move(passes=passes, bytes=sent, carried=40e6)
    basis, _ = basis_of(replace(KNOWN, link=None, moves=[idle]), now=300.0)
    assert basis.bandwidth.likely == 40e6
    with pytest.raises(InputError, match="nobody knows what the link between one and two carries: no move showed it"):
        basis_of(replace(KNOWN, link=None, moves=[replace(idle, carried=None)]), now=300.0)


def test_a_link_that_has_changed_is_known_after_three_moves() -> None:
    slow = [move(f"new{number}", passes=(PassRecord(MEMORY, 200 * MIB, 10.0, MIB),)) for number in range(3)]
    basis, _ = basis_of(replace(KNOWN, link=None, moves=[*slow, *[move()] * 5]), now=300.0)
    assert basis.bandwidth.likely == 20 * MIB


def test_what_is_permitted_is_no_more_than_the_link_carries() -> None:
    for permitted, sent in ((10_000_000, 10e6), (90_000_000, LINK * PAYLOAD)):
        basis, _ = basis_of(replace(KNOWN, policy=Policy(bandwidth=permitted)), now=160.0)
        assert basis.bandwidth.likely == sent
    basis, _ = basis_of(replace(KNOWN, link=None, policy=Policy(bandwidth=10_000_000)), now=160.0)
    assert basis.bandwidth.likely == 10e6


def test_of_a_guest_of_which_nothing_is_known_nothing_is_said() -> None:
    with pytest.raises(InputError, match="nothing is known of what web1 writes"):
        basis_of(replace(KNOWN, profile=None), now=160.0)


def test_what_the_last_pages_took_is_no_fixed_part() -> None:
    passes = (PassRecord(MEMORY, 200 * MIB, 5.0, MIB),)
    # 25 ms for 1 MiB at 40 MiB/s, as far as so much may have been left; of a high limit nobody can say.
    for limit, fixed in ((0.05, 0.015), (0.01, 0.03), (0.3, FIXED.likely)):
        basis, _ = basis_of(replace(KNOWN, moves=[move(passes=passes, blackout=0.04, limit=limit)] * 8), now=300.0)
        assert basis.fixed.likely == pytest.approx((FIXED.likely + 8 * fixed) / 9)


# -- forecasts -----------------------------------------------------------------------------------------------------


def test_a_quiet_guest_ends_and_the_likely_value_lies_in_each_interval() -> None:
    found = foretell(KNOWN, 160.0)
    assert [row.strategy for row in found.prospects] == [Sending.WHOLE, Sending.CHANGES]
    for row in found.prospects:
        assert row.converges
        for interval in (row.total, row.blackout, row.client_gap, row.bytes):
            assert interval.likely in interval
        assert row.blackout.likely < row.client_gap.likely < row.total.likely
    assert found.prospect.strategy == Sending.CHANGES
    assert expected(found, Policy()).startswith("expected by xbzrle: ")


def test_a_guest_that_whole_pages_never_end_is_told_of_and_why() -> None:
    sample = MemorySample(4096, 2048, 800, 0.02, 0.4, 0.2)
    found = foretell(replace(KNOWN, profile=replace(BUSY, sample=sample)), 160.0)
    plain, changes = found.prospects[:2]
    assert not plain.converges
    assert plain.why.startswith("does not end below 1.")
    assert "the link carries 45.3 MiB/s; a page sent again takes 2% of its size" in found.situation
    assert changes.converges
    assert "only as their changes" in found.reason
    unable = replace(KNOWN, profile=BUSY, sendings=(Sending.WHOLE,), usual=Strategy())
    without = foretell(unable, 160.0)
    assert [row.strategy for row in without.prospects] == [Sending.WHOLE]
    assert expected(without, Policy()).endswith(
        "--allow pause lets it stand still at the end, --static moves it standing still"
    )
    granted = Policy(max_downtime=int(expected(without, Policy()).split("--max-downtime ")[1].split("ms")[0]) / 1000)
    assert foretell(replace(unable, policy=granted), 160.0).prospect.converges
    assert expected(without, Policy()).startswith("expected not to end by itself: the guest writes 143.")


@settings(max_examples=15)
@given(st.integers(8 * MIB, 256 * MIB), st.floats(MIB, 400 * MIB), st.floats(8 * MIB, 1024 * MIB))
def test_whatever_the_guest_and_the_link_a_forecast_says_something_that_can_be(
    hot_set: int, writes: float, link: float
) -> None:
    found = foretell(replace(KNOWN, link=link, profile=replace(QUIET, windows=tuple(saturating(hot_set, writes)))), 1.0)
    for row in found.prospects:
        for interval in (row.total, row.blackout, row.client_gap, row.bytes):
            assert 0 <= interval.low <= interval.likely <= interval.high


# -- records -------------------------------------------------------------------------------------------------------

SPEC = Spec("m1", "web1", "one", "two")
OUTCOME = Outcome(
    "m1",
    "web1",
    "one",
    "two",
    OutcomeStatus.COMPLETED,
    Owner.TARGET,
    6.2,
    start_delay_s=0.9,
    downtime=Downtime(blackout_ms=20.0, client_gap_ms=60.0),
)
SAMPLES = [Sample(205.0, 2, 200 * MIB, 20 * MIB, MEMORY, 40e6, 1e6)]


def test_a_move_is_remembered_as_it_was() -> None:
    found = remember(SPEC, OUTCOME, SAMPLES, 200.0, MEMORY, None, how=Strategy(), limit=0.003)
    assert found is not None
    assert (found.total, found.start_delay, found.blackout, found.client_gap) == (6.2, 0.9, 0.02, 0.06)
    assert found.passes == (PassRecord(MEMORY, 200 * MIB, 5.0, 20 * MIB),)
    assert not found.limited


@pytest.mark.parametrize(
    ("spec", "outcome"),
    [
        (replace(SPEC, policy=Policy(way=Way.STATIC)), OUTCOME),
        (SPEC, replace(OUTCOME, status=OutcomeStatus.CANCELLED)),
        (SPEC, replace(OUTCOME, disk_bytes=5)),
        (SPEC, replace(OUTCOME, start_delay_s=None)),
    ],
)
def test_what_says_nothing_of_a_live_move_of_memory_is_not_remembered(spec: Spec, outcome: Outcome) -> None:
    assert remember(spec, outcome, SAMPLES, 200.0, MEMORY, None, how=Strategy(), limit=0.003) is None


def test_a_stream_that_had_all_that_it_was_permitted_says_nothing_of_the_link() -> None:
    rate = 200 * MIB / 5.0
    idle = [Sample(at, 1, round(50e6 * (at - 201)), 300 * MIB, MEMORY, 40e6, 0.0) for at in (201.0, 202.0)]
    idle.append(Sample(205.0, 2, 60_000_000, 20 * MIB, MEMORY, 40e6, 1e6))
    for seen, permitted, limited in ((idle, 50_000_000, True), (idle, 80_000_000, False)):
        spec = replace(SPEC, policy=Policy(bandwidth=permitted))
        found = remember(spec, OUTCOME, seen, 200.0, MEMORY, None, how=Strategy(), limit=0.003)
        assert found is not None
        assert (found.carried, found.limited) == (50e6, limited)
    for spec, limited in (
        (replace(SPEC, policy=Policy(bandwidth=round(rate))), True),
        (replace(SPEC, policy=Policy(bandwidth=round(rate * 2))), False),
        (replace(SPEC, defaults=True), False),  # QEMU permits itself 128 MiB/s
    ):
        found = remember(spec, OUTCOME, SAMPLES, 200.0, MEMORY, None, how=Strategy(), limit=0.003)
        assert found is not None
        assert found.limited is limited
        assert found.limit == (0.3 if spec.defaults else 0.003)


def test_forecasts_are_judged_by_what_came() -> None:
    forecast = foretell(KNOWN, 160.0)
    likely = forecast.prospect
    moves = [
        move("right", total=likely.total.likely, client_gap=likely.client_gap.likely, forecast=forecast),
        move("late", total=likely.total.likely * 2, client_gap=likely.client_gap.likely + 0.5, forecast=forecast),
        move("unmeasured", total=likely.total.likely, client_gap=None, forecast=forecast),
        move("unexpected", forecast=None),
    ]
    found = accuracy(moves)
    assert (found.moves, found.gaps) == (3, 2)
    assert found.total_median == pytest.approx(0.0)
    assert found.total_p90 == pytest.approx(0.5)
    assert found.total_held == pytest.approx(2 / 3)
    assert found.gap_p90 == pytest.approx(0.5)
    assert found.gap_held == 0.5
    assert accuracy([]).total_median is None


def test_what_was_said_of_a_link_counts_until_a_move_shows_it() -> None:
    said = LinkSaid(("two", "one"), 5e6, 150.0)
    assert said_of(None, []) is None
    assert said_of(said, []) == 5e6
    assert said_of(said, [move(at=said.at + 1, limited=True)]) == 5e6, "that was held back"
    shown = move(passes=(PassRecord(MEMORY, 200 * MIB, 10.0, MIB),))
    assert said_of(said, [replace(shown, at=149.0)]) == 5e6
    assert said_of(said, [replace(shown, at=151.0)]) is None
    assert said_of(said, [replace(shown, at=151.0, target="three")]) == 5e6


def test_what_is_written_to_disks_that_travel_along_takes_its_part_of_the_link() -> None:
    assert KNOWN.profile is not None
    writes = replace(KNOWN, profile=replace(KNOWN.profile, disk_writes=10e6))
    still, busy = (foretell(replace(known, disks=200 * MIB), 160.0) for known in (KNOWN, writes))
    link = still.bandwidth.likely
    for one, other in zip(still.prospects, busy.prospects, strict=True):
        assert other.total.likely - one.total.likely >= 200 * MIB / (link - 10e6) - 200 * MIB / link
    assert foretell(writes, 160.0).prospects == foretell(KNOWN, 160.0).prospects  # shared disks travel by another way


def test_disks_that_have_to_be_copied_travel_first_and_it_is_said() -> None:
    alone, with_disks = foretell(KNOWN, 160.0), foretell(replace(KNOWN, disks=200 * MIB), 160.0)
    for one, other in zip(alone.prospects, with_disks.prospects, strict=True):
        later = other.total.likely - one.total.likely
        assert later == pytest.approx(200 * MIB / alone.bandwidth.likely, rel=0.01)
        assert other.total.high - other.total.likely > one.total.high - one.total.likely
        assert other.blackout == one.blackout
    assert "200.0 MiB of disks travel first" in with_disks.situation
    assert "disks" not in alone.situation
