"""A move that nothing disturbs, moves that are refused, and moves that somebody or something ends."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from stage import ID, LONG, SMALL, Stage, simulate, stage

from godwit.core.state import Door, Phase
from godwit.hosts.fake import FakeGuest, Workload
from godwit.model import (
    MIGRATION_PORTS,
    Features,
    OutcomeStatus,
    Owner,
    Policy,
    ProbeRequest,
    RunState,
    Sending,
    Severity,
)
from godwit.units import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from godwit.model import GuestFacts, Outcome

THE_WAY = [
    Phase.PENDING,
    Phase.PREPARING,
    Phase.PRECOPY,
    Phase.SWITCHOVER,
    Phase.COMMITTING,
    Phase.FINISHING,
    Phase.DONE,
]


def moved(scene: Callable[[], Stage]) -> tuple[Stage, Outcome]:
    """Carry a move to its settled end."""

    async def scenario() -> tuple[Stage, Outcome]:
        made = scene()
        outcome = await made.move()
        await made.assert_settled(outcome)
        return made, outcome

    return simulate(scenario)


# -- nothing disturbs it -------------------------------------------------------------------------------------------


def test_a_whole_move() -> None:
    scene, outcome = moved(lambda: stage(LONG))
    assert outcome.status is OutcomeStatus.COMPLETED
    assert scene.phases() == THE_WAY
    assert outcome.guest_alive is True
    assert outcome.simulated
    assert outcome.error == ""
    assert LONG.used <= outcome.bytes <= 1.1 * LONG.used
    assert outcome.passes >= 2
    assert outcome.stream_s is not None
    assert outcome.start_delay_s is not None
    assert outcome.total_s == pytest.approx(outcome.start_delay_s + outcome.stream_s)
    assert outcome.total_s == pytest.approx(400 * MIB / 50e6, rel=0.1)


def test_the_three_figures_are_those_of_the_world() -> None:
    """The blackout by our ledger is the gap between the two runs that the world itself has written down."""
    scene, outcome = moved(lambda: stage(LONG, clock_offset=1234.5))
    here, there = scene.world.runs
    assert here.ended is not None
    true_ms = (there.began - here.ended) * 1000
    down = outcome.downtime
    assert down.blackout_ms is not None
    assert down.clock_uncertainty_ms is not None
    assert down.blackout_ms == pytest.approx(true_ms, abs=down.clock_uncertainty_ms + 0.01)
    assert down.client_gap_ms is not None
    assert down.client_gap_ms >= true_ms
    assert 0 < (down.qemu_ms or 0) <= true_ms
    assert sum(part for _, part in down.breakdown) == pytest.approx(down.blackout_ms, abs=0.01)
    assert all(part >= -down.clock_uncertainty_ms for _, part in down.breakdown)


def test_the_commit_is_durable_before_the_target_is_told_to_run() -> None:
    async def scenario() -> None:
        scene = stage()
        doors: list[Door] = []
        seen = FakeGuest.resume

        async def watched(guest: FakeGuest) -> None:
            doors.append(scene.journal._story(ID).durable_state.door)
            await seen(guest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FakeGuest, "resume", watched)
            await scene.assert_settled(await scene.move())
        assert doors == [Door.ARMED]

    simulate(scenario)


def test_qemu_s_own_defaults_are_left_to_qemu_and_cost_more() -> None:
    def with_defaults() -> Stage:
        scene = stage(LONG)
        scene.spec = replace(scene.spec, defaults=True)
        return scene

    _, ours = moved(lambda: stage(LONG))
    scene, theirs = moved(with_defaults)
    assert theirs.status is OutcomeStatus.COMPLETED
    assert theirs.downtime.blackout_ms is not None
    assert ours.downtime.blackout_ms is not None
    assert theirs.downtime.blackout_ms > 5 * ours.downtime.blackout_ms
    assert scene.phases() == THE_WAY
    lines = simulate(lambda: scene.journal.entries(ID))
    assert [line.data["sending"] for line in lines if line.kind == "strategy"] == [Sending.WHOLE]


def test_a_guest_without_an_address_is_moved_and_nobody_claims_that_it_lives() -> None:
    _, outcome = moved(lambda: stage(address=None))
    assert outcome.status is OutcomeStatus.COMPLETED
    assert outcome.guest_alive is None
    assert outcome.downtime.client_gap_ms is None
    assert outcome.downtime.blackout_ms is not None


def test_a_probe_that_cannot_start_hinders_nothing() -> None:
    def blind() -> Stage:
        scene = stage()
        scene.spec = replace(scene.spec, probe=ProbeRequest("198.18.0.77"))
        return scene

    _, outcome = moved(blind)
    assert outcome.status is OutcomeStatus.COMPLETED
    assert [finding.code for finding in outcome.findings] == ["probe"]


def test_a_send_queue_that_may_not_be_shortened_is_a_finding_and_no_obstacle() -> None:
    def scene() -> Stage:
        made = stage()
        made.one._may_shorten = False
        return made

    _, outcome = moved(scene)
    assert outcome.status is OutcomeStatus.COMPLETED
    assert [finding.code for finding in outcome.findings] == ["send-queue"]


def test_a_port_that_was_taken_meanwhile_is_another_port() -> None:
    async def scenario() -> None:
        scene = stage()
        scene.two.unseen_ports = set(MIGRATION_PORTS) - {MIGRATION_PORTS[-1]}
        outcome = await scene.move()
        await scene.assert_settled(outcome)
        assert outcome.status is OutcomeStatus.COMPLETED

    simulate(scenario)


def test_without_a_port_the_guest_stays_on_its_source() -> None:
    async def scenario() -> None:
        scene = stage()
        scene.two.unseen_ports = set(MIGRATION_PORTS)
        outcome = await scene.move()
        await scene.assert_settled(outcome)
        assert outcome.status is OutcomeStatus.FAILED
        assert "49215 are in use on two" in outcome.error
        assert "ss -tan" in outcome.remedy

    simulate(scenario)


def test_there_and_back_and_there_again() -> None:
    async def scenario() -> None:
        scene = stage()
        for number in range(3):
            here, there = (scene.one, scene.two) if number % 2 == 0 else (scene.two, scene.one)
            scene.vm = await scene.inventory.vm("web") if number else scene.vm
            begun = Stage(scene.world, here, there, scene.vm, replace(scene.spec, source=here.name, target=there.name))
            begun.inventory = scene.inventory
            outcome = await begun.move()
            assert outcome.status is OutcomeStatus.COMPLETED
            assert scene.world.executing("web") == [there.name]
        assert scene.world.broken_laws == []

    simulate(scenario)


# -- refused -------------------------------------------------------------------------------------------------------


def taken(scene: Stage) -> None:
    scene.two.boot(replace(scene.vm, host="two"))
    scene.world.broken_laws.clear()
    scene.two.qemus["web"].stop()


def cut_off_from_each_other(scene: Stage) -> None:
    scene.world.cut("one", "two")


def full_disk(scene: Stage) -> None:
    scene.world.fill_disk("one")


def paused(scene: Stage) -> None:
    scene.one.qemus["web"].stop()


def undisturbed(_: Stage) -> None:
    """Change nothing."""


@pytest.mark.parametrize(
    ("code", "options", "prepare"),
    [
        ("memory-short", {"memory": 32 * MIB}, undisturbed),
        ("bridge-missing", {"bridges": ()}, undisturbed),
        ("qemu-missing", {"has_qemu": False}, undisturbed),
        ("disk-not-shared", {"shared": False}, undisturbed),
        ("disk-unproven", {}, full_disk),
        ("migration-path", {}, cut_off_from_each_other),
        ("name-taken", {}, taken),
        ("not-running", {}, paused),
    ],
)
def test_what_blocks_is_refused_and_nothing_is_changed(
    code: str, options: dict[str, object], prepare: Callable[[Stage], None]
) -> None:
    async def scenario() -> None:
        scene = stage(SMALL, **options)  # type: ignore[arg-type]
        prepare(scene)
        before = (scene.state_on(scene.one), scene.state_on(scene.two), list(scene.world.runs))
        outcome = await scene.move()
        assert outcome.status is OutcomeStatus.REFUSED
        assert code in {finding.code for finding in outcome.findings if finding.severity is Severity.BLOCK}
        assert outcome.remedy
        assert (scene.state_on(scene.one), scene.state_on(scene.two), scene.world.runs) == before
        assert (scene.one.leases, scene.world.tokens, scene.one._prepared, scene.two._prepared) == (
            {},
            {},
            set(),
            set(),
        )
        assert scene.world.broken_laws == []
        assert outcome.owner is Owner.SOURCE

    simulate(scenario)


@pytest.mark.parametrize("host", ["one", "two"])
def test_a_host_that_is_down_is_refused_by_name(host: str) -> None:
    async def scenario() -> None:
        scene = stage()
        scene.world.cut(host)
        outcome = await scene.move()
        assert outcome.status is OutcomeStatus.FAILED
        assert host in outcome.error
        assert scene.world.executing("web") == ["one"]
        scene.world.heal(host)
        await scene.assert_settled(outcome)

    simulate(scenario)


def test_a_qemu_without_what_a_move_needs_is_never_told_to_send() -> None:
    """Without events nobody would learn of the switchover, and the guest would stand still meanwhile."""

    async def scenario() -> None:
        scene = stage()
        full = FakeGuest.features

        async def features(guest: FakeGuest) -> Features:
            known = await full(guest)
            return replace(known, capabilities=known.capabilities - {"events"})

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FakeGuest, "features", features)
            outcome = await scene.move()
        await scene.assert_settled(outcome)
        assert outcome.status is OutcomeStatus.FAILED
        assert "events: unknown to the source and the target" in outcome.error
        assert Phase.PRECOPY not in scene.phases()

    simulate(scenario)


# -- cancelled -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "delay", "expected"),
    [
        (Phase.PENDING, 0.0, OutcomeStatus.CANCELLED),
        (Phase.PENDING, 0.004, OutcomeStatus.CANCELLED),
        (Phase.PREPARING, 0.0, OutcomeStatus.CANCELLED),
        (Phase.PREPARING, 0.1, OutcomeStatus.CANCELLED),
        (Phase.PREPARING, 0.16, OutcomeStatus.CANCELLED),
        (Phase.PRECOPY, 0.0, OutcomeStatus.CANCELLED),
        (Phase.PRECOPY, 0.001, OutcomeStatus.CANCELLED),
        (Phase.PRECOPY, 0.1, OutcomeStatus.CANCELLED),
        (Phase.SWITCHOVER, 0.0, OutcomeStatus.CANCELLED),
        (Phase.SWITCHOVER, 0.005, OutcomeStatus.CANCELLED),
        (Phase.COMMITTING, 0.0, OutcomeStatus.COMPLETED),
        (Phase.FINISHING, 0.0, OutcomeStatus.COMPLETED),
    ],
)
def test_cancel_in_every_phase(phase: Phase, delay: float, expected: OutcomeStatus) -> None:
    async def scenario() -> None:
        scene = stage()
        scene.at(phase, scene.cancel, delay)
        outcome = await scene.move()
        await scene.assert_settled(outcome)
        assert outcome.status is expected
        if expected is OutcomeStatus.CANCELLED:
            assert outcome.error == ""
            assert len(scene.world.runs) <= 2  # the source at most stood still in between
            assert {run.host for run in scene.world.runs} == {"one"}

    simulate(scenario)


def test_a_move_that_was_cancelled_can_be_made_afterwards() -> None:
    async def scenario() -> None:
        scene = stage()
        scene.at(Phase.PRECOPY, scene.cancel, 0.05)
        await scene.assert_settled(await scene.move())
        again = Stage(scene.world, scene.one, scene.two, scene.vm, scene.spec)
        outcome = await again.move()
        await again.assert_settled(outcome)
        assert outcome.status is OutcomeStatus.COMPLETED

    simulate(scenario)


# -- limits --------------------------------------------------------------------------------------------------------


def test_the_deadline_ends_a_move_that_takes_too_long() -> None:
    async def scenario() -> None:
        scene = stage(LONG, policy=Policy(deadline=3.0))
        outcome = await scene.move()
        await scene.assert_settled(outcome)
        assert outcome.status is OutcomeStatus.FAILED
        assert "deadline of 3.00 s" in outcome.error
        assert outcome.total_s < 4

    simulate(scenario)


def test_a_deadline_that_passes_after_the_hand_over_ends_nothing() -> None:
    async def scenario() -> None:
        scene = stage(policy=Policy(deadline=0.36))
        outcome = await scene.move()
        await scene.assert_settled(outcome)
        assert outcome.status is OutcomeStatus.COMPLETED

    simulate(scenario)


def test_a_stream_that_stands_still_is_given_up() -> None:
    async def scenario() -> None:
        scene = stage(LONG)
        scene.at(Phase.PRECOPY, lambda: scene.world.cut("one", "two"), 1.0)
        outcome = await scene.move()
        await scene.assert_settled(outcome)
        assert outcome.status is OutcomeStatus.FAILED
        assert "not a byte was sent" in outcome.error
        assert 15 <= outcome.total_s <= 25

    simulate(scenario)


def test_a_short_break_of_the_link_is_lived_through() -> None:
    async def scenario() -> None:
        scene = stage(LONG)

        scene.at(Phase.PRECOPY, lambda: scene.world.cut("one", "two"), 1.0)
        asyncio.get_running_loop().call_later(7.0, scene.world.heal, "one", "two")
        outcome = await scene.move()
        await scene.assert_settled(outcome)
        assert outcome.status is OutcomeStatus.COMPLETED

    simulate(scenario)


def test_a_guest_too_busy_for_its_link_runs_until_the_deadline_and_stays() -> None:
    async def scenario() -> None:
        busy = Workload(GIB, used=256 * MIB, hot_set=128 * MIB, dirty_rate=400 * MIB)
        scene = stage(busy, policy=Policy(max_downtime=0.1, deadline=60.0, allows=frozenset()))
        outcome = await scene.move()
        await scene.assert_settled(outcome)
        assert outcome.status is OutcomeStatus.FAILED
        said = [line.data for line in await scene.journal.entries(ID) if line.data.get("event") == "Decided"]
        assert said[-1]["detail"]["action"] == "does-not-converge"  # type: ignore[index]
        assert {run.host for run in scene.world.runs} == {"one"}

    simulate(scenario)


def facts_with(**changes: object) -> Callable[[FakeGuest], GuestFacts]:
    original = FakeGuest._facts
    return lambda guest: replace(original(guest), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("libvirt-owned", {"libvirt": True}),
        ("inherited-descriptor", {"inherited_descriptors": ("fd=7",)}),
        ("cannot-be-repeated", {"refusals": ("device x was hot-plugged and cannot be described",)}),
        ("blocked-by-qemu", {"blockers": ("device nvme is not migratable",)}),
        ("machine-type", {"machine": "pc-q35-99.0"}),
        ("accelerator", {"accelerator": "kvm"}),
    ],
)
def test_a_guest_that_cannot_be_moved_is_refused(code: str, changes: dict[str, object]) -> None:
    async def scenario() -> None:
        scene = stage()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FakeGuest, "_facts", facts_with(**changes))
            outcome = await scene.move()
        await scene.assert_settled(outcome)
        assert outcome.status is OutcomeStatus.REFUSED
        assert [finding.code for finding in outcome.findings] == [code]
        assert scene.state_on(scene.two) is RunState.ABSENT

    simulate(scenario)
