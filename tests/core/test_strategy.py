from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_dirtying import saturating

from godwit.core.capabilities import HELD
from godwit.core.dirtying import DirtyCurve, curve_of
from godwit.core.passes import Foreseen, Stream, simulate
from godwit.core.readings import pace_of, pace_within
from godwit.core.sleeping import ladder, nap
from godwit.core.strategy import (
    HAND_OVER,
    IMPROVEMENT,
    MARGIN,
    PAUSE,
    STALL_SECONDS,
    STALLED_PASSES,
    Switchover,
    adjusted,
    decide,
    eta,
    last_moment,
    stalled,
)
from godwit.model import DirtyWindow, Goal, Permission, Policy, Sample
from godwit.units import GIB, MIB

RATE = 50e6
TUNABLE = frozenset({"avail-switchover-bandwidth", "downtime-limit"})


def sample(iteration: int, remaining: float, *, at: float = 0.0, rate: float = RATE, dirty: float = 40e6) -> Sample:
    return Sample(at, iteration, int(iteration * 10 * MIB), int(remaining), 512 * MIB, rate, dirty)


def passes(*left: float, rate: float = RATE) -> list[Sample]:
    """Make a stream whose passes have left so much; each began with that, and has sent a part of it when it is read."""
    made = [sample(1, 512 * MIB, rate=rate)]
    for number, begun_with in enumerate(left, 2):
        made += [sample(number, begun_with * part, at=number + 1 - part, rate=rate) for part in (1.0, 0.4)]
    return made


sizes = st.integers(0, 1 << 32)
any_samples = st.lists(
    st.builds(
        Sample,
        at=st.floats(0, 1e4),
        iteration=st.integers(1, 12),
        transferred=sizes,
        remaining=sizes,
        total=sizes,
        rate=st.floats(0, 1e10),
        dirty_rate=st.floats(0, 1e10),
    ),
    max_size=15,
).map(lambda samples: sorted(samples, key=lambda one: (one.iteration, one.at)))
limits = st.floats(0.001, 10.0)


# -- the limit -----------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(any_samples, limits, limits, st.sampled_from([frozenset(), TUNABLE]))
def test_the_limit_is_never_past_what_is_allowed_and_never_lowered(
    samples: list[Sample], allowed: float, now: float, tunable: frozenset[str]
) -> None:
    assume(now <= allowed)
    decision = decide(Policy(max_downtime=allowed), samples, Switchover(now), tunable)
    if decision is None:
        return
    assert decision.reason
    assert decision.evidence
    told = adjusted(Switchover(now), dict(decision.parameters))
    rate = max(one.rate for one in samples[-4:])
    pace = max(rate, pace_of(samples, now * rate) or 0.0)
    # Paces are told in whole bytes, limits in whole milliseconds.
    assert told.limit * (told.pace or rate) <= (pace + 1) * max(0.001, allowed + 0.0005) * 1.01
    assert told.limit * (told.pace or rate) >= rate * (now - 0.0005)


@settings(max_examples=60)
@given(st.integers(1 << 20, 1 << 32), st.lists(st.floats(0.1, 0.94), min_size=1, max_size=10), limits, limits)
def test_nothing_is_decided_while_passes_shrink(first: int, ratios: list[float], allowed: float, now: float) -> None:
    left = [float(first)]
    for ratio in ratios:
        left.append(left[-1] * ratio)
    assert decide(Policy(max_downtime=allowed), passes(*left), Switchover(now)) is None


@settings(max_examples=60)
@given(st.integers(1, STALLED_PASSES), st.integers(1 << 20, 1 << 30))
def test_nothing_is_decided_before_enough_passes_have_ended(count: int, left: int) -> None:
    assert decide(Policy(), passes(*[float(left)] * count), Switchover(0.001)) is None


def test_a_stream_that_no_longer_shrinks_is_given_what_it_needs_and_a_margin() -> None:
    left = 4e6  # 80 ms on this link
    decision = decide(Policy(max_downtime=0.3), passes(40e6, left, left, left, left), Switchover(0.02))
    assert decision is not None
    assert decision.action == "raise-downtime-limit"
    assert decision.parameters == (("downtime-limit", round(left / RATE * MARGIN * 1000)),)
    assert "100.0 ms" in decision.reason
    assert "after 6 passes 3.8 MiB are left at best" in decision.evidence
    assert decide(Policy(max_downtime=0.1), passes(40e6, left, left, left, left), Switchover(0.1)) is None


def test_the_limit_ends_at_what_the_user_allows() -> None:
    decision = decide(Policy(max_downtime=0.09), passes(40e6, 4e6, 4e6, 4e6, 4e6), Switchover(0.02))
    assert decision is not None
    assert decision.parameters == (("downtime-limit", 90),)


def test_what_can_never_end_is_said_with_the_figure_that_would_be_needed() -> None:
    decision = decide(Policy(max_downtime=0.05), passes(40e6, 4e6, 4e6, 4e6, 4e6), Switchover(0.05))
    assert decision is not None
    assert (decision.action, decision.parameters) == ("does-not-converge", ())
    assert "80.0 ms would be needed" in decision.reason
    assert "--max-downtime" in decision.reason


def quick(left: float, *, pace: float, rate: float) -> list[Sample]:
    """Make a stream whose pages travel as their changes: each pass is through `left` bytes of pages at `pace`."""
    starts = [0.0, 5.0, *(6.0 + number * left / pace for number in range(6))]
    begun_with = [512 * MIB, left, *[left] * 6]
    return [
        sample(number, remaining, at=at, rate=rate)
        for number, (at, remaining) in enumerate(zip(starts, begun_with, strict=True), 1)
    ]


def test_of_pages_that_travel_as_their_changes_qemu_is_told_the_pace() -> None:
    """48 MB of pages are through in 160 ms, as 0.5 MB on the wire: by its own reckoning QEMU would need 15 s."""
    samples = quick(48e6, pace=300e6, rate=3.2e6)
    decision = decide(Policy(max_downtime=0.3), samples, Switchover(0.003), TUNABLE)
    assert decision is not None
    told = adjusted(Switchover(0.003), dict(decision.parameters))
    assert told.pace == pytest.approx(300e6, rel=0.01)
    assert told.limit == pytest.approx(0.2, rel=0.01)
    assert "286.0 MiB/s of pages are got through" in decision.evidence


def test_a_pace_that_falls_is_told_too_and_what_fits_now_is_no_proof_against_it() -> None:
    told = Switchover(0.1, 300e6)
    slower = decide(Policy(max_downtime=0.1), quick(90e6, pace=50e6, rate=50e6), told, TUNABLE)
    assert slower is not None
    assert slower.action == "lower-pace"
    assert dict(slower.parameters) == {"avail-switchover-bandwidth": 50_000_000}
    kept = decide(Policy(max_downtime=0.2), quick(25e6, pace=300e6, rate=3.2e6), told, TUNABLE)
    assert kept is not None
    assert kept.action == "raise-downtime-limit"


def test_a_qemu_that_cannot_be_told_gets_a_limit_that_comes_nearer_and_never_more_than_is_permitted() -> None:
    """Were more permitted in its terms, whole pages at the full rate of the link would take all of it."""
    for left, limit in ((0.3e6, 0.117), (48e6, 0.3)):
        decision = decide(Policy(max_downtime=0.3), quick(left, pace=300e6, rate=3.2e6), Switchover(0.003))
        assert decision is not None
        ((name, told),) = decision.parameters
        assert name == "downtime-limit"
        assert told == pytest.approx(limit * 1000, abs=1)


def test_a_qemu_that_cannot_be_told_and_has_all_that_is_permitted_is_given_up() -> None:
    """What is left is through in 160 ms of the 300 that are permitted: QEMU takes it for 15 s, and would go on."""
    samples, now = quick(48e6, pace=300e6, rate=3.2e6), Switchover(0.3)
    left = decide(Policy(max_downtime=0.3), samples, now)
    assert left is not None
    assert (left.action, left.parameters) == ("does-not-converge", ())
    assert "as QEMU reckons by what it sees on the wire: 15.00 s would be needed" in left.reason
    paused = decide(Policy(max_downtime=0.3, allows=frozenset({Permission.PAUSE})), samples, now)
    assert paused is not None
    assert (paused.action, paused.parameters) == (PAUSE, ())
    assert "163.3 ms would be needed" in paused.reason
    granted = decide(Policy(max_downtime=15.1), samples, now)
    assert granted is not None
    assert dict(granted.parameters)["downtime-limit"] >= 15_000


@settings(max_examples=60)
@given(any_samples, limits, limits, st.sampled_from([frozenset(), TUNABLE]))
def test_nothing_is_told_twice(samples: list[Sample], allowed: float, limit: float, tunable: frozenset[str]) -> None:
    """Else the same decision would be taken at the end of each pass, for ever, and none that helps."""
    now, policy, seen = Switchover(min(limit, allowed)), Policy(max_downtime=allowed), set()
    while (decision := decide(policy, samples, now, tunable)) is not None and decision.parameters:
        assert decision.parameters not in seen
        seen.add(decision.parameters)
        now = adjusted(now, dict(decision.parameters))


def test_where_more_was_left_than_anybody_saw_the_limit_is_doubled_until_it_is_enough() -> None:
    """Passes of a few milliseconds are over before they are looked at: nothing seems to be left, and QEMU goes on."""
    now, seen = Switchover(0.003), []
    while (decision := decide(Policy(max_downtime=0.1), passes(40e6, 0.0, 0.0, 0.0, 0.0), now, TUNABLE)) is not None:
        now = adjusted(now, dict(decision.parameters))
        seen.append(now.limit)
    assert seen == [0.006, 0.012, 0.024, 0.048, 0.096]  # 0.1 is no more than that


def test_no_pace_gets_more_downtime_than_the_user_allows() -> None:
    decision = decide(Policy(max_downtime=0.1), quick(48e6, pace=300e6, rate=3.2e6), Switchover(0.003), TUNABLE)
    assert decision is not None
    assert dict(decision.parameters)["downtime-limit"] == 100


def test_what_was_told_before_is_undone_by_zero() -> None:
    now = adjusted(Switchover(0.003), {"avail-switchover-bandwidth": 5, "downtime-limit": 20})
    assert now == Switchover(0.02, 5)
    assert adjusted(now, {"avail-switchover-bandwidth": 0}) == Switchover(0.02)
    assert adjusted(now, {"max-bandwidth": 7}) == Switchover(0.02, 5, bandwidth=7)
    assert adjusted(now, {"max-postcopy-bandwidth": 7}) == now


def test_a_dead_link_is_no_evidence() -> None:
    assert decide(Policy(), passes(4e6, 4e6, 4e6, 4e6, 4e6, rate=0.0), Switchover(0.02)) is None


def test_one_pass_that_left_more_is_no_evidence_while_the_best_improves() -> None:
    assert decide(Policy(), passes(40e6, 20e6, 60e6, 30e6, 10e6), Switchover(0.003)) is None


def test_an_improvement_that_is_too_small_is_none() -> None:
    left = [40e6 * (1 - IMPROVEMENT / 2) ** number for number in range(3)]
    assert decide(Policy(max_downtime=10), passes(40e6, *left), Switchover(0.02)) is not None


# -- a guest that is slowed down ---------------------------------------------------------------------------------------

BUSY = passes(*[40e6] * 5, rate=RATE)  # 0.8 s on this link


def asleep(samples: list[Sample], percentage: int) -> list[Sample]:
    return [replace(one, throttle=percentage) for one in samples]


def test_a_guest_that_writes_too_fast_is_slowed_down_before_anybody_waits_longer_for_it() -> None:
    decision = decide(Policy(), BUSY, Switchover(0.003, throttle=HELD), TUNABLE)
    assert decision is not None
    assert decision.action == "throttle"
    told = dict(decision.parameters)
    assert told["max-cpu-throttle"] in ladder(Policy())
    assert told["cpu-throttle-increment"] == told["max-cpu-throttle"] - HELD  # in one step
    assert "let its CPUs sleep" in decision.reason
    assert "are left at best" in decision.evidence
    assert adjusted(Switchover(0.003, throttle=HELD), told).throttle == told["max-cpu-throttle"]


@pytest.mark.parametrize(
    ("policy", "throttle"),
    [
        (Policy(allows=frozenset()), HELD),  # not permitted
        (Policy(max_guest_slowdown=0.0), HELD),
        (Policy(), None),  # not armed
        (Policy(), 92),  # as far as it may be, already
        (Policy(goal=Goal.FAST, max_downtime=1.0), HELD),  # 0.8 s are permitted, and nobody minds
    ],
)
def test_it_is_not_slowed_down_where(policy: Policy, throttle: int | None) -> None:
    samples = BUSY if throttle is None or throttle <= HELD else asleep(BUSY, throttle)
    decision = decide(policy, samples, Switchover(0.003, throttle=throttle), TUNABLE)
    assert decision is not None
    assert decision.action != "throttle"


def test_nothing_is_decided_until_qemu_has_slowed_it_down_as_it_was_told() -> None:
    """Each step takes two looks a second apart, and the passes before it say nothing of how it helps."""
    told = Switchover(nap(50), throttle=50)
    assert decide(Policy(), BUSY, told, TUNABLE) is None
    assert decide(Policy(), [*BUSY, *asleep(passes(40e6), 50)], told, TUNABLE) is None
    further = decide(Policy(), [*BUSY, *asleep(BUSY, 50)], told, TUNABLE)
    assert further is not None
    assert further.action == "throttle"
    assert 50 < dict(further.parameters)["max-cpu-throttle"] <= 95


def test_a_guest_that_is_slowed_down_may_stand_still_for_as_long_as_one_of_its_naps() -> None:
    samples = [*BUSY, *asleep(passes(40e6)[1:], 90)]
    decision = decide(Policy(), samples, Switchover(0.003, throttle=90), TUNABLE)
    assert decision is not None
    assert dict(decision.parameters) == {"downtime-limit": 90}
    assert "90.0 ms in one piece" in decision.reason
    assert decide(Policy(), samples, Switchover(0.09, throttle=90), TUNABLE) is None
    strict = decide(Policy(max_downtime=0.05), samples, Switchover(0.003, throttle=90), TUNABLE)
    assert strict is not None
    assert dict(strict.parameters) == {"downtime-limit": 50}


def test_a_guest_that_is_to_go_over_does_so_after_the_pass_that_was_said_unless_little_is_left() -> None:
    now = Switchover(0.003, postcopy=True, over_after=1)
    assert decide(Policy(), passes()[:1], now, TUNABLE) is None
    decision = decide(Policy(), passes(40e6), now, TUNABLE)
    assert decision is not None
    assert decision.action == "postcopy"
    assert "as forecast" in decision.reason
    assert decide(Policy(), passes(2e6), now, TUNABLE) is None  # 40 ms
    assert decide(Policy(), passes(40e6), Switchover(0.003, postcopy=True), TUNABLE) is None


def test_a_guest_that_was_looked_at_is_slowed_down_as_soon_as_it_is_known_how_fast_its_pages_are_sent() -> None:
    fast, slow = [DirtyWindow(0.05, 10_000_000)], [DirtyWindow(0.05, 1_000_000)]
    now = Switchover(0.003, throttle=HELD)
    for windows, seen, acts in ((fast, 3, True), (slow, 3, False), ([], 3, False), (fast, 2, False)):
        decision = decide(Policy(), passes(*[40e6] * seen), now, TUNABLE, windows=windows)
        assert (decision is not None) is acts
        assert decision is None or decision.action == "throttle"
    over = decide(Policy(), passes(*[40e6] * 3), Switchover(0.003, postcopy=True), TUNABLE, windows=fast)
    assert over is not None
    assert over.action == "postcopy"
    nothing = Switchover(0.003)  # what is not yet shown by passes is no reason to give up
    assert decide(Policy(allows=frozenset()), passes(*[40e6] * 3), nothing, TUNABLE, windows=fast) is None
    planned = [decide(Policy(), BUSY, now, TUNABLE, windows=windows) for windows in (fast, [])]
    told = [dict(one.parameters)["max-cpu-throttle"] for one in planned if one is not None]
    assert told[0] > told[1]  # what it changes within a short time is more than passes of a second let guess


@given(st.integers(HELD + 1, 99), limits, limits)
def test_what_is_allowed_for_a_nap_is_asked_for_once(sleeps: int, allowed: float, now: float) -> None:
    """QEMU takes whole milliseconds; none of them is asked for again, and the limit never falls."""
    assume(now <= allowed)
    samples, told = asleep(passes(40e6)[1:], sleeps), Switchover(now, throttle=sleeps)
    decision = decide(Policy(max_downtime=allowed), samples, told, TUNABLE)
    if decision is not None:
        after = adjusted(told, dict(decision.parameters))
        assert told.limit < after.limit <= allowed
        assert decide(Policy(max_downtime=allowed), samples, after, TUNABLE) is None


@pytest.mark.parametrize(("left", "further"), [(39e6, True), (20e6, False)])
def test_one_long_pass_tells_whether_a_guest_sleeps_in_vain(left: float, further: bool) -> None:  # noqa: FBT001
    """Its first pass was under way when it was slowed down, and tells nothing; the second began so."""
    samples = [*BUSY, *asleep(passes(40e6, 40e6, left)[1:], 80)]
    decision = decide(Policy(), samples, Switchover(nap(80), throttle=80), TUNABLE)
    assert (decision is not None) is further
    if decision is not None:
        assert dict(decision.parameters)["max-cpu-throttle"] > 80
    assert decide(Policy(), samples[:-2], Switchover(nap(80), throttle=80), TUNABLE) is None


@settings(max_examples=60)
@given(any_samples, st.floats(0.0, 0.99), st.integers(HELD, 99), st.sampled_from(Goal))
def test_no_guest_is_slowed_down_more_than_is_permitted_and_never_less_than_before(
    samples: list[Sample], slowdown: float, now: int, goal: Goal
) -> None:
    policy = Policy(goal=goal, max_guest_slowdown=slowdown)
    decision = decide(policy, samples, Switchover(0.003, throttle=now), TUNABLE)
    if decision is not None and decision.action == "throttle":
        told = dict(decision.parameters)["max-cpu-throttle"]
        assert now < told <= policy.most_throttle
        assert nap(told) <= policy.max_downtime


def test_a_guest_that_works_a_part_of_its_time_is_made_to_sleep_the_longer() -> None:
    lazy, keen = (decide(Policy(), BUSY, Switchover(0.003, throttle=HELD), TUNABLE, busy=busy) for busy in (0.2, 1.0))
    assert lazy is not None
    assert keen is not None
    assert dict(lazy.parameters)["max-cpu-throttle"] > 60 > dict(keen.parameters)["max-cpu-throttle"]


# -- a guest that may be paused ----------------------------------------------------------------------------------------

MAY = Policy(allows=frozenset({Permission.PAUSE}))


def test_what_cannot_end_otherwise_is_paused_where_that_is_permitted() -> None:
    decision = decide(MAY, BUSY, Switchover(0.3))
    assert decision is not None
    assert decision.action == PAUSE
    assert decision.parameters == ()
    assert "800.0 ms would be needed" in decision.reason


START = Switchover(0.003)


def moment(*samples: Sample, deadline: float | None = 60.0, owed: float | None = None) -> str | None:
    """Return why the guest is paused now, None where it is not."""
    decision = last_moment(replace(MAY, deadline=deadline), samples, START, 0.0, owed)
    return None if decision is None else f"{decision.reason}; {decision.evidence}"


def test_a_guest_is_paused_just_in_time_for_its_deadline() -> None:
    """40 MB are left at 50 MB/s, and as much may have changed since: 0.8 s, 1 s with a margin, 1 s for the handover."""
    early, late = (moment(sample(2, 40e6, at=at)) for at in (57.1, 57.3))
    assert early is None
    assert late is not None
    assert "2.70 s are left until the deadline" in late
    assert "38.1 MiB are left of pass 2" in late
    assert "takes up to 800.0 ms more" in late
    assert moment(sample(2, 40e6, at=57.3), owed=0.1) is None  # who knows that little has changed can wait
    assert moment(sample(2, 40e6, at=57.3), deadline=None) is None
    assert moment() is None
    nobody = Policy(deadline=60.0, allows=frozenset())
    assert last_moment(nobody, [sample(2, 40e6, at=57.3)], START, 0.0) is None


def zeroes(seconds: float) -> list[Sample]:
    """Make the first moments of 8 GiB that are mostly empty: 2 GB/s of pages are 4.2 MiB/s on the wire."""
    return [
        sample(1, 8 * GIB - 2e9 * number / 4, at=number / 4, rate=4.2 * MIB, dirty=0.0)
        for number in range(round(seconds * 4) + 1)
    ]


@pytest.mark.parametrize("seconds", [0.0, 0.25, 1.0, 3.0])
@pytest.mark.parametrize("deadline", [10.0, 30.0, 600.0])
def test_pages_of_zeroes_are_no_slow_stream(seconds: float, deadline: float) -> None:
    assert moment(*zeroes(seconds), deadline=deadline) is None


@pytest.mark.parametrize(
    ("iteration", "remaining", "left"),
    [(1, 4 * GIB, 9.0), (1, 4 * GIB, 80.0), (3, 4 * GIB, 9.0), (3, 60e6, 1.1), (2, 1e6, -0.5)],
)
def test_a_guest_that_would_be_late_standing_still_is_not_paused(iteration: int, remaining: float, left: float) -> None:
    """It would be taken back at its deadline, and would have stood still for nothing."""
    at = 60.0 - left
    begun_with = remaining + 2 * RATE
    assert moment(sample(iteration, begun_with, at=at - 2), sample(iteration, remaining, at=at)) is None


def test_what_a_first_pass_has_still_to_send_is_no_reason_for_a_pause() -> None:
    """It takes as long for a guest that stands still; what it writes meanwhile is one, where somebody knows of it."""
    running = [sample(1, 40 * RATE, at=0.0), sample(1, 30 * RATE, at=10.0)]  # through at 40 s
    for deadline, owed, paused in (
        (45.0, None, False),
        (40.1, None, False),
        (45.0, 3.1, False),
        (45.0, 3.3, True),  # 4.1 s with a margin, and 1 s
        (40.1, 0.01, False),  # it would be no sooner through than by 10 ms
        (40.1, 0.1, True),
        (39.9, 0.1, False),  # too late
    ):
        assert (moment(*running, deadline=deadline, owed=owed) is not None) is paused
    assert moment(*running[:1], deadline=45.0, owed=3.3) is None  # nobody knows how fast it is yet


@settings(max_examples=60)
@given(any_samples, st.floats(0.0, 1e4), st.none() | st.floats(0.0, 100.0))
def test_a_pause_keeps_a_deadline_that_it_can_keep_and_that_hardly_anything_else_would(
    samples: list[Sample], deadline: float, owed: float | None
) -> None:
    if moment(*samples, deadline=deadline, owed=owed) is None:
        return
    last, left = samples[-1], deadline - samples[-1].at
    rate = max(one.rate for one in samples[-4:])
    fastest = max(rate, pace_within(samples) or 0.0, pace_of(samples, START.limit * rate) or 0.0)
    assert 0 <= last.remaining <= left * fastest * (1 + 1e-9)
    again = owed if owed is not None else max(one.remaining for one in samples) / rate if rate else 0.0
    assert left <= last.remaining / rate + again * MARGIN + HAND_OVER + 1e-6 if rate else True


def paused_at(curve: DirtyCurve, first: float, deadline: float, period: float = 0.25) -> float | None:
    """Let a guest be sent as whole pages and looked at each quarter of a second; return when its first pass pauses."""
    foreseen = Foreseen(curve, Stream(RATE))
    seen: list[Sample] = []
    while (at := len(seen) * period) < first / RATE:
        seen.append(Sample(at, 1, round(RATE * at), round(first - RATE * at), MEMORY, RATE, 0.0))
        if moment(*seen, deadline=deadline, owed=foreseen.owed_after(seen, 0.0)):
            return at
    return None


MEMORY = 1024 * MIB


@settings(max_examples=60)
@given(st.integers(MIB, 512 * MIB), st.floats(MIB, 400e6), st.floats(0.0, 15.0))
def test_a_guest_is_paused_when_a_forecast_says_so(hot_set: int, writes: float, spare: float) -> None:
    """And is through in time, though not earlier than it has to be."""
    curve, first, period = curve_of(saturating(hot_set, writes), MEMORY), 600e6, 0.25
    deadline = first / RATE + spare
    policy = replace(MAY, deadline=deadline, max_downtime=100.0)
    foreseen = simulate(curve, first, Stream(RATE), policy, 0.003, deadline)
    paused = paused_at(curve, first, deadline, period)
    if paused is None:
        assert not foreseen.paused or foreseen.seconds >= first / RATE - 2 * period
        return
    assert foreseen.paused
    assert foreseen.seconds <= paused + period
    assert paused <= max(foreseen.seconds, HAND_OVER) + period  # the pace of the first second is not known yet
    assert foreseen.seconds + foreseen.blackout <= deadline + 1e-3


def test_what_was_foreseen_counts_until_a_pass_has_left_more() -> None:
    foreseen = Foreseen(curve_of(saturating(64 * MIB, 160e6), MEMORY), Stream(RATE))
    first = sample(1, MEMORY, at=10.0)
    started = 10.0
    assert foreseen.owed_after([first, replace(first, at=12.0)], started) == pytest.approx(64 * MIB / RATE, rel=0.05)
    for left, known in ((64 * MIB, True), (100 * MIB, False)):
        second = sample(2, left, at=30.0)
        owed = foreseen.owed_after([first, second, replace(second, at=30.2)], started)
        assert (owed is not None) is known
        if owed is not None:
            assert owed == pytest.approx(foreseen.stream.seconds(foreseen.curve.unique(0.2), 0.0))


# -- a stream that stands still ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.0, False), (STALL_SECONDS - 0.01, False), (STALL_SECONDS, True), (1e6, True)]
)
def test_a_stream_is_dead_when_not_a_byte_was_sent_for_long(seconds: float, expected: bool) -> None:  # noqa: FBT001
    flowing = [replace(sample(1, 1e8, at=float(n)), transferred=n * 1000) for n in range(5)]
    still = [*flowing, replace(flowing[-1], at=5.0), replace(flowing[-1], at=4.0 + seconds)]
    assert stalled(still, 4.0 + seconds, began=0.0) is expected


def test_a_stream_that_never_began_to_flow_is_dead_as_well() -> None:
    assert not stalled([], 100.0, began=100.0 - STALL_SECONDS + 0.1)
    assert stalled([], 100.0, began=100.0 - STALL_SECONDS)


@settings(max_examples=60)
@given(any_samples, st.floats(0, 1e4))
def test_a_stream_that_sent_a_byte_just_now_is_alive(samples: list[Sample], now: float) -> None:
    assume(samples)
    newest = replace(samples[-1], at=now, transferred=max(one.transferred for one in samples) + 1)
    assert not stalled([*samples, newest], now, began=0.0)


# -- how long it will take -----------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(any_samples, limits)
def test_an_estimate_is_an_interval(samples: list[Sample], limit: float) -> None:
    expected = eta(samples, Switchover(limit))
    if expected is not None:
        shortest, longest = expected
        assert 0 <= shortest <= longest < float("inf")


def test_an_idle_guest_takes_what_is_left_over_the_rate() -> None:
    assert eta([sample(1, 100e6, dirty=0.0)], Switchover(0.02)) == (2.0, 2.0)


def test_a_guest_that_dirties_half_as_fast_as_the_link_doubles_the_longest() -> None:
    shortest, longest = eta([sample(2, 100e6, dirty=RATE / 2)], Switchover(0.02)) or (0.0, 0.0)
    assert (shortest, longest) == pytest.approx((2.0, 4.0))


def test_a_rate_that_varies_widens_the_interval() -> None:
    varying = [sample(1, 100e6, rate=rate, dirty=0.0) for rate in (25e6, 100e6, 50e6)]
    assert eta(varying, Switchover(0.02)) == pytest.approx((1.0, 4.0))


@pytest.mark.parametrize(
    "samples",
    [
        [],
        [sample(1, 100e6, rate=0.0)],
        [sample(1, 100e6, rate=1e-300)],
        [sample(3, 100e6, dirty=RATE)],
        [sample(3, 100e6, dirty=2 * RATE)],
    ],
)
def test_nobody_can_say_while_nothing_is_known_or_nothing_shrinks(samples: list[Sample]) -> None:
    assert eta(samples, Switchover(0.02)) is None


def test_a_fast_guest_whose_rest_fits_already_is_about_to_be_switched_over() -> None:
    expected = eta([sample(3, 0.5e6, dirty=2 * RATE)], Switchover(0.02))
    assert expected is not None
    assert expected[0] == pytest.approx(0.01)
