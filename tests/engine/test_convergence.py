"""Moves that do not end of themselves: more downtime, a throttle, a pause, and deadlines that need one."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from stage import ID, Stage, simulate, stage

from godwit.core.capabilities import PACE
from godwit.core.dirtying import WINDOWS
from godwit.core.goals import policy_for
from godwit.core.learning import PAYLOAD
from godwit.core.state import Phase
from godwit.hosts.fake import FakeGuest, Workload
from godwit.hosts.fakeqemu import FakeQemu
from godwit.model import (
    DirtyWindow,
    Features,
    Goal,
    LinkSaid,
    MemorySample,
    OutcomeStatus,
    Permission,
    Policy,
    Profile,
    RunState,
    Way,
)
from godwit.units import GIB, MIB

if TYPE_CHECKING:
    from godwit.core.state import State
    from godwit.model import Outcome
    from godwit.ports import Entry


async def ended(scene: Stage) -> Outcome:
    """Carry a move to its settled end."""
    outcome = await scene.move()
    await scene.assert_settled(outcome)
    return outcome


def test_a_guest_that_dirties_fast_is_given_more_downtime_step_by_step() -> None:
    async def scenario() -> None:
        load = Workload(256 * MIB, used=64 * MIB, hot_set=5 * MIB, dirty_rate=200 * MIB)
        scene = stage(load, policy=Policy(allows=frozenset()))
        outcome = await ended(scene)
        assert outcome.status is OutcomeStatus.COMPLETED
        decisions = [
            line.data["detail"]
            for line in await scene.journal.entries(ID)
            if line.kind == "transition" and line.data["event"] == "Decided"
        ]
        assert decisions
        limits = [detail["parameters"]["downtime-limit"] for detail in decisions]  # type: ignore[index]
        assert limits == sorted(limits)
        assert limits[-1] <= 300
        assert (outcome.downtime.blackout_ms or 0) <= 300 + 50

    simulate(scenario)


TOO_FAST = Workload(256 * MIB, used=64 * MIB, hot_set=48 * MIB, dirty_rate=120 * MIB)
"""Of a hot set that takes half a second or more over this link, rewritten more than twice a second."""


def decisions(lines: list[Entry]) -> list[str]:
    return [line.data["detail"]["action"] for line in lines if line.data.get("event") == "Decided"]  # type: ignore[index]


def test_a_guest_that_writes_faster_than_its_link_carries_is_slowed_down_and_ends() -> None:
    async def scenario() -> None:
        scene = stage(TOO_FAST)
        outcome = await ended(scene)
        assert outcome.status is OutcomeStatus.COMPLETED
        assert "throttle" in decisions(await scene.journal.entries(ID))
        assert (outcome.downtime.blackout_ms or 0) < 80

    simulate(scenario)


@pytest.mark.parametrize(("hot_set", "rate"), [(20 * MIB, 160 * MIB), (48 * MIB, 384 * MIB), (128 * MIB, 200 * MIB)])
def test_a_rescue_is_chosen_within_a_second_after_the_pass_that_shows_its_need(
    hot_set: int, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended_at: dict[int, float] = {}
    tell = FakeQemu.tell

    def telling(qemu: FakeQemu, kind: str, **data: object) -> None:
        if kind == "MIGRATION_PASS":
            ended_at[int(str(data["number"]))] = qemu.world.clock.now()
        tell(qemu, kind, **data)  # type: ignore[arg-type] # as it came

    monkeypatch.setattr(FakeQemu, "tell", telling)

    async def scenario() -> None:
        load = Workload(GIB, used=hot_set + 64 * MIB, hot_set=hot_set, dirty_rate=rate)
        scene = stage(load)
        outcome = await ended(scene)
        assert outcome.status is OutcomeStatus.COMPLETED
        lines = [line for line in await scene.journal.entries(ID) if line.data.get("event") == "Decided"]
        said = [(line.at, re.match(r"after (\d+) passes", line.data["detail"]["evidence"])) for line in lines]  # type: ignore[index]
        chosen = [(at, int(found[1])) for at, found in said if found is not None]
        assert chosen
        for at, number in chosen:
            assert at - ended_at[number] < 1.0

    simulate(scenario)


STEADY = Workload(256 * MIB, used=96 * MIB, hot_set=24 * MIB, dirty_rate=20 * MIB)
"""One that any half of this link carries."""


@pytest.mark.parametrize("delay", [0.1, 2.0, 2.4])
@pytest.mark.parametrize(("load", "factor"), [(STEADY, 0.5), (STEADY, 2.0), (TOO_FAST, 0.5), (TOO_FAST, 2.0)])
def test_a_link_that_carries_another_amount_from_some_instant_on_lets_the_move_end(
    load: Workload, factor: float, delay: float
) -> None:
    async def scenario() -> None:
        scene = stage(load)
        link = scene.world.link("one", "two")

        def changes() -> None:
            link.bandwidth *= factor

        scene.at(Phase.PRECOPY, changes, delay)
        outcome = await ended(scene)
        assert outcome.status is OutcomeStatus.COMPLETED
        assert (outcome.downtime.blackout_ms or 0) <= 300 + 50 / min(1.0, factor)

    simulate(scenario)


@pytest.mark.parametrize("delay", [0.5, 2.0, 2.5, 3.0])
def test_a_guest_that_writes_ten_times_as_fast_from_some_instant_on_ends_its_move(delay: float) -> None:
    async def scenario() -> None:
        scene = stage(STEADY)

        def jumps() -> None:
            for host in (scene.one, scene.two):
                for qemu in host.qemus.values():
                    qemu.workload = replace(STEADY, dirty_rate=10 * STEADY.dirty_rate)

        scene.at(Phase.PRECOPY, jumps, delay)
        outcome = await ended(scene)
        assert outcome.status is OutcomeStatus.COMPLETED
        assert (outcome.downtime.blackout_ms or 0) <= 350

    simulate(scenario)


def test_one_that_may_not_be_slowed_down_is_paused_if_it_may_be_paused() -> None:
    async def scenario() -> None:
        scene = stage(TOO_FAST, policy=Policy(allows=frozenset({Permission.PAUSE})))
        outcome = await ended(scene)
        assert outcome.status is OutcomeStatus.COMPLETED
        assert decisions(await scene.journal.entries(ID))[-1] == "pause"
        assert 300 < (outcome.downtime.blackout_ms or 0) < 2000

    simulate(scenario)


def test_a_deadline_is_kept_by_a_pause_that_is_permitted() -> None:
    async def scenario() -> None:
        busy = Workload(GIB, used=256 * MIB, hot_set=128 * MIB, dirty_rate=400 * MIB)
        scene = stage(busy, policy=policy_for(Goal.FINISH, deadline=12.0))
        outcome = await ended(scene)
        assert outcome.status is OutcomeStatus.COMPLETED
        assert outcome.total_s < 12

    simulate(scenario)


def test_a_deadline_that_no_pause_can_keep_costs_the_guest_nothing() -> None:
    """Its first pass takes 5.4 s: it is taken back after 4 s, and has run all the time."""

    async def scenario() -> None:
        busy = Workload(GIB, used=256 * MIB, hot_set=128 * MIB, dirty_rate=400 * MIB)
        scene = stage(busy, policy=policy_for(Goal.FINISH, deadline=4.0))
        outcome = await ended(scene)
        assert outcome.status is OutcomeStatus.FAILED
        assert "deadline of 4.00 s" in outcome.error
        assert decisions(await scene.journal.entries(ID)) == []
        assert len(scene.world.runs) == 1

    simulate(scenario)


@pytest.mark.parametrize(("spare", "blackout"), [(2.0, 5.0), (4.5, 3.0), (30.0, 1.35)])
def test_a_guest_that_is_known_is_paused_as_late_as_its_deadline_permits(spare: float, blackout: float) -> None:
    """A first pass of 5.4 s, 2.5 s for what it writes within that: the forecast says for how long it stands still."""

    async def scenario() -> None:
        busy = Workload(GIB, used=256 * MIB, hot_set=128 * MIB, dirty_rate=64 * MIB)
        deadline = 0.3 + 256 * MIB / 50e6 + spare
        policy = Policy(deadline=deadline, allows=frozenset({Permission.PAUSE}))
        scene = stage(busy, policy=policy)
        now = scene.world.clock.now()
        windows = tuple(DirtyWindow(seconds, round(busy.dirtied(seconds))) for seconds, _ in WINDOWS)
        pages = MemorySample(4096, 3072, 800, 1.0, 1.0, 1.0)
        await scene.journal.history.put_profile(Profile("web", "one", now, GIB, windows, pages))
        await scene.journal.history.put_link(LinkSaid(("one", "two"), 50e6 / PAYLOAD, now))
        outcome = await ended(scene)
        assert outcome.status is OutcomeStatus.COMPLETED
        assert outcome.total_s < deadline
        lines = await scene.journal.entries(ID)
        assert "pause" in decisions(lines)
        seen = (outcome.downtime.blackout_ms or 0) / 1000
        assert seen == pytest.approx(blackout, rel=0.25)
        ((row,),) = [
            [row for row in line.data["forecast"]["prospects"] if row["strategy"] == line.data["strategy"]]  # type: ignore[index]
            for line in lines
            if line.kind == "forecast"
        ]
        assert row["blackout"]["low"] <= seen <= row["blackout"]["high"] + 0.3

    simulate(scenario)


FEW_BYTES = Workload(256 * MIB, used=64 * MIB, hot_set=24 * MIB, dirty_rate=1000 * MIB, again=0.2)
"""Of pages that are through, as their changes, in 100 ms, which QEMU takes for 500 by what it sees on the wire."""


async def untold(guest: FakeGuest) -> Features:
    known = await FEATURES(guest)
    return replace(known, parameters=known.parameters - {PACE})


FEATURES = FakeGuest.features


@pytest.mark.parametrize("permitted", [True, False])
def test_a_qemu_that_cannot_be_told_how_fast_pages_travel_does_not_go_on_for_ever(*, permitted: bool) -> None:
    async def scenario() -> None:
        allows = frozenset({Permission.PAUSE}) if permitted else frozenset()
        scene = stage(FEW_BYTES, policy=Policy(deadline=60.0, allows=allows))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FakeGuest, "features", untold)
            outcome = await ended(scene)
        assert outcome.status is (OutcomeStatus.COMPLETED if permitted else OutcomeStatus.FAILED)
        assert outcome.total_s < 10 or not permitted
        said = set(decisions(await scene.journal.entries(ID)))
        assert said - {"raise-downtime-limit"} == {"pause" if permitted else "does-not-converge"}

    simulate(scenario)


def test_a_runner_that_took_over_asks_what_qemu_can_be_told() -> None:
    async def scenario() -> None:
        scene = stage(FEW_BYTES, policy=Policy(deadline=60.0, allows=frozenset()))
        scene.at(Phase.PRECOPY, scene.died.set, 0.5)
        outcome = await ended(scene)
        assert scene.runners == 2
        assert outcome.status is OutcomeStatus.COMPLETED
        told = [line.data["detail"] for line in await scene.journal.entries(ID) if line.data.get("event") == "Decided"]
        assert PACE in told[-1]["parameters"]  # type: ignore[index]

    simulate(scenario)


@pytest.mark.parametrize("runner", ["first", "second"])
def test_a_pause_is_taken_back_with_the_move(runner: str) -> None:
    """Whoever cancels a move whose guest was paused for it has it run again, whichever runner sees to that."""

    async def scenario() -> None:
        scene = stage(TOO_FAST, policy=Policy(allows=frozenset({Permission.PAUSE})))

        async def after(state: State) -> None:
            if state.way is Way.STATIC and scene.world.link("one", "two").bandwidth > 1e6:
                scene.world.link("one", "two").bandwidth = 1e6
                scene.cancel()
                if runner == "second":
                    await scene.die()

        scene.journal.after = after
        outcome = await ended(scene)
        assert outcome.status is OutcomeStatus.CANCELLED
        assert scene.state_on(scene.one) is RunState.RUNNING
        assert scene.runners == (2 if runner == "second" else 1)

    simulate(scenario)
