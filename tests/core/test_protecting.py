"""How fast a stream may be so that neighbours keep what they were promised."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.core.protecting import (
    DEEPEST,
    EASE,
    FIRST,
    FIRST_UNKNOWN,
    FLOOR,
    IN_VAIN,
    LEAST,
    LEAST_BYTES,
    VAIN,
    YIELD,
    Change,
    Lane,
    Watched,
    first_bandwidth,
    protect,
)
from godwit.core.working import Kept
from godwit.model import Policy, Sample
from godwit.units import MIB

if TYPE_CHECKING:
    from godwit.core.strategy import Decision

POLICY = replace(Policy(), protect_neighbours=0.9)
FREE = Lane(0, 0)
RATE = 50.0 * MIB


def sample(at: float = 100.0, rate: float = RATE, **more: float) -> Sample:
    given_ = {"iteration": 1, "remaining": 400 * MIB, "dirty_rate": 0.0} | more
    return Sample(at, int(given_["iteration"]), 0, int(given_["remaining"]), 512 * MIB, rate, given_["dirty_rate"])


def look(share: float | None, at: float = 100.0) -> Watched:
    return Watched(at, 1.0, None if share is None else Kept(share, "db", "one", "processor time"))


def limit_of(decision: Decision | None) -> int:
    assert decision is not None
    return dict(decision.parameters)["max-bandwidth"]


def decided(
    looks: list[Watched],
    lane: Lane = FREE,
    changes: list[Change] | None = None,
    *,
    last: Sample | None = None,
    policy: Policy = POLICY,
) -> Decision | None:
    return protect(policy, [last or sample()], looks, changes or [], lane, requested=0.0)


def test_nobody_is_protected_unasked() -> None:
    assert decided([look(0.1)], policy=Policy()) is None
    assert first_bandwidth(Policy(), RATE) is None


@pytest.mark.parametrize(
    ("share", "left"),
    [(0.89, 0.9), (0.85, 2 / 3), (0.8, DEEPEST), (0.1, DEEPEST)],
    ids=["a little", "some", "much", "most"],
)
def test_a_stream_is_held_back_as_much_as_is_missing(share: float, left: float) -> None:
    found = decided([look(share, at) for at in (98.0, 99.0, 100.0)])
    assert found is not None
    assert found.action == YIELD
    assert limit_of(found) == pytest.approx(RATE * left)
    assert f"db on one keeps {share:.0%} of its processor time, 90% were promised" in found.evidence


def test_a_single_look_that_is_a_little_low_may_be_chance() -> None:
    assert decided([look(0.85)]) is None
    assert decided([look(0.95, 98.0), look(0.95, 99.0), look(0.85)]) is None, "in the mean it keeps its share"
    assert decided([look(0.86, 98.0), look(0.88, 99.0), look(0.89)]) is not None
    assert decided([look(0.8)]) is not None


def test_a_look_from_before_the_last_change_tells_nothing() -> None:
    changes = [Change(99.8, YIELD, 0.8)]
    assert decided([look(0.5, at=100.0)], Lane(20 * MIB, 0), changes) is None
    assert decided([look(0.5, at=100.4)], Lane(20 * MIB, 0), changes) is not None


def test_a_stream_is_let_faster_while_all_are_well() -> None:
    opening = decided([look(None)], Lane(round(RATE), 0))
    assert opening is not None
    assert opening.action == EASE
    assert limit_of(opening) == pytest.approx(RATE * 1.5)
    assert decided([look(0.99)]) is None, "it has no limit that could be raised"
    assert decided([look(0.99)], Lane(50, 50)) is None


def test_one_that_was_held_back_waits_until_all_have_been_well_for_a_while() -> None:
    changes = [Change(90.0, YIELD, 0.8)]
    lane = Lane(round(RATE), 0)
    assert decided([look(0.99, 99.0), look(0.99)], lane, changes) is None
    assert decided([look(0.99, 98.0), look(0.75, 99.0), look(0.99)], lane, changes) is None, "with nothing to spare"
    eased = decided([look(0.99, 98.0), look(None, 99.0), look(0.99)], lane, changes)
    assert limit_of(eased) == pytest.approx(RATE * 1.25)


def test_a_limit_that_is_not_reached_is_lifted() -> None:
    found = decided([look(None)], Lane(round(RATE * 4), 0))
    assert limit_of(found) == 0
    found = decided([look(None)], Lane(round(RATE * 4), round(RATE * 8)))
    assert limit_of(found) == round(RATE * 8), "what the user permits stays the most"


def test_a_guest_has_to_be_overtaken_and_a_deadline_kept() -> None:
    writes = sample(iteration=3, dirty_rate=45.0 * MIB)
    found = decided([look(0.5)], last=writes)
    assert found is not None
    assert found.action == FLOOR
    assert not found.parameters
    assert "has to be overtaken" in found.reason
    late = replace(POLICY, deadline=110.0)
    found = decided([look(0.5)], last=sample(), policy=late)
    assert found is not None
    assert found.action == FLOOR
    assert "until its deadline" in found.reason
    raised = decided([look(0.99)], Lane(10 * MIB, 0), [Change(90.0, YIELD, 0.8)], last=writes)
    assert raised is not None
    assert "whatever neighbours lose" in raised.reason
    assert limit_of(raised) >= 45 * MIB


def test_who_sees_nothing_protects_nobody() -> None:
    seen = [sample(90.0), sample(100.0)]
    for looks in ([], [look(0.5, 93.0)]):
        found = protect(POLICY, seen, looks, [], Lane(20 * MIB, 0), requested=0.0)
        assert limit_of(found) == 0
        assert protect(POLICY, seen, looks, [], FREE, requested=0.0) is None
    assert protect(POLICY, seen[:1], [], [], Lane(20 * MIB, 0), requested=0.0) is None, (
        "the first look is still to come"
    )


def test_a_neighbour_that_is_no_better_off_loses_by_something_else() -> None:
    changes = [Change(90.0 + n, YIELD, 0.6) for n in range(VAIN)]
    found = decided([look(0.61)], Lane(20 * MIB, 30 * MIB), changes)
    assert found is not None
    assert found.action == IN_VAIN
    assert limit_of(found) == 30 * MIB
    better = decided([look(0.7)], Lane(20 * MIB, 30 * MIB), changes)
    assert better is not None
    assert better.action == YIELD
    by_chance = [Change(90.0, YIELD, 0.8), *changes[1:]]
    assert (found := decided([look(0.7)], Lane(20 * MIB, 30 * MIB), by_chance)) is not None
    assert found.action == YIELD, "it is better off than it was at worst"
    nearly = [look(0.87, at) for at in (98.0, 99.0, 100.0)]
    well = [Change(90.0 + n, YIELD, 0.88) for n in range(VAIN)]
    assert (found := decided(nearly, Lane(20 * MIB, 30 * MIB), well)) is not None
    assert found.action == YIELD, "it lacks next to nothing"
    assert decided([look(0.1)], FREE, [*changes, Change(95.0, IN_VAIN, 0.6)]) is None


def test_a_stream_begins_with_a_part_of_its_link() -> None:
    assert first_bandwidth(POLICY, 40.0 * MIB) == 40 * MIB * FIRST
    assert first_bandwidth(POLICY, None) == FIRST_UNKNOWN
    assert first_bandwidth(replace(POLICY, bandwidth=2 * MIB), None) == 2 * MIB
    assert first_bandwidth(POLICY, 1.0) == LEAST_BYTES


@given(
    share=st.floats(0, 1) | st.none(),
    rate=st.floats(1, 1e10),
    limit=st.integers(0, 10**10),
    ceiling=st.integers(0, 10**10),
    dirty=st.floats(0, 1e10),
    before=st.lists(st.sampled_from([YIELD, EASE]), max_size=5),
)
def test_it_never_stops_a_stream_and_never_passes_what_is_permitted(
    share: float | None, rate: float, limit: int, ceiling: int, dirty: float, before: list[str]
) -> None:
    changes = [Change(float(n), action, 0.5) for n, action in enumerate(before)]
    looks = [look(share, 100.0 + n) for n in range(3)]
    last = sample(rate=rate, iteration=2, dirty_rate=dirty)
    found = decided(looks, Lane(limit, ceiling), changes, last=last)
    if found is None or not found.parameters:
        return
    most = limit_of(found)
    assert not ceiling or 0 < most <= ceiling
    if most and most != ceiling:
        assert most >= min(LEAST * rate, limit or rate) * 0.99
