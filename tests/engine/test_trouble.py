"""What hosts, processes, links and disks do to a move: the fault, and the end state of the world on both sides."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from stage import ID, LONG, SMALL, Stage, simulate, stage

from godwit.core.state import Phase
from godwit.engine.actions import CONTINUE_PATIENCE
from godwit.errors import HostUnreachableError, JournalError
from godwit.hosts.fakeguest import FakeGuest
from godwit.model import OutcomeStatus, Owner, RunState
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from godwit.model import Outcome, Vm
    from godwit.ports import GuestEvent

FAILED, COMPLETED = OutcomeStatus.FAILED, OutcomeStatus.COMPLETED
CRASHED, LIMBO = OutcomeStatus.GUEST_CRASHED, OutcomeStatus.LIMBO
BEFORE = [(Phase.PREPARING, 0.17), (Phase.PRECOPY, 0.0), (Phase.PRECOPY, 0.1)]
SWITCHING = [(Phase.SWITCHOVER, 0.0), (Phase.SWITCHOVER, 0.005)]


async def carried(scene: Stage) -> Outcome:
    await scene.begin()
    async with asyncio.timeout(300):
        outcome = await scene.runner()
    assert outcome is not None
    await asyncio.sleep(1)
    return outcome


def later(seconds: float, act: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_later(seconds, act)


# -- processes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "delay", "expected"),
    [
        *((phase, delay, FAILED) for phase, delay in [*BEFORE, *SWITCHING]),
        (Phase.COMMITTING, 0.0, CRASHED),
        (Phase.FINISHING, 0.0, CRASHED),
    ],
)
def test_the_target_s_qemu_dies(phase: Phase, delay: float, expected: OutcomeStatus) -> None:
    async def scenario() -> None:
        scene = stage(address=None)
        scene.at(phase, lambda: scene.world.kill("two", "web"), delay)
        outcome = await carried(scene)
        assert outcome.status is expected
        await scene.assert_settled(outcome)
        if expected is FAILED:
            assert scene.state_on(scene.one) is RunState.RUNNING

    simulate(scenario)


@pytest.mark.parametrize(
    ("phase", "delay"), [(Phase.PREPARING, 0.0), *BEFORE, *SWITCHING, (Phase.COMMITTING, 0.0), (Phase.FINISHING, 0.0)]
)
def test_the_source_s_qemu_dies(phase: Phase, delay: float) -> None:
    """The guest is gone with its process, unless the target had everything: then it lives there."""

    async def scenario() -> None:
        scene = stage()
        scene.at(phase, lambda: scene.world.kill("one", "web"), delay)
        outcome = await carried(scene)
        scene.assert_lawful()
        where = scene.world.executing("web")
        assert where == (["two"] if phase in {Phase.COMMITTING, Phase.FINISHING} else [])
        assert outcome.status is (COMPLETED if where else FAILED)
        if not where:
            assert outcome.remedy
            assert scene.state_on(scene.two) is RunState.ABSENT
        assert scene.one.leases == {}

    simulate(scenario)


@pytest.mark.parametrize("host", ["one", "two"])
@pytest.mark.parametrize(("phase", "delay"), [*BEFORE, *SWITCHING, (Phase.COMMITTING, 0.0), (Phase.FINISHING, 0.0)])
def test_a_stopped_qemu_goes_on_later(phase: Phase, delay: float, host: str) -> None:
    """SIGSTOP and, 20 s later, SIGCONT: whatever a process does when it wakes up, one copy executes."""

    async def scenario() -> None:
        scene = stage(address=None)

        def stop() -> None:
            qemu = scene.world.hosts[host].qemus["web"]
            qemu.hang()
            later(20, qemu.wake)

        scene.at(phase, stop, delay)
        outcome = await carried(scene)
        await asyncio.sleep(30)
        scene.assert_lawful()
        assert len(scene.world.executing("web")) == 1
        assert outcome.status in {FAILED, COMPLETED}
        assert scene.world.executing("web") == (["two"] if outcome.status is COMPLETED else ["one"])

    simulate(scenario)


# -- the way to the hosts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.5, 5.0, 30.0])
@pytest.mark.parametrize("host", ["one", "two"])
@pytest.mark.parametrize(
    ("phase", "delay"), [(Phase.PREPARING, 0.01), *BEFORE, *SWITCHING, (Phase.COMMITTING, 0.0), (Phase.FINISHING, 0.0)]
)
def test_a_host_is_out_of_reach_for_a_while(phase: Phase, delay: float, host: str, seconds: float) -> None:
    async def scenario() -> None:
        scene = stage(address=None)

        def cut() -> None:
            scene.world.cut(host)
            later(seconds, lambda: scene.world.heal(host))

        scene.at(phase, cut, delay)
        outcome = await carried(scene)
        await asyncio.sleep(60)
        scene.assert_lawful()
        assert len(scene.world.executing("web")) == 1, outcome
        assert outcome.status in {FAILED, COMPLETED}
        assert scene.world.executing("web") == (["two"] if outcome.status is COMPLETED else ["one"])

    simulate(scenario)


@pytest.mark.parametrize("host", ["one", "two"])
def test_a_monitor_that_is_lost_in_the_middle_of_a_stream_is_opened_again(host: str) -> None:
    async def scenario() -> None:
        scene = stage(LONG)

        def lose() -> None:
            for monitor in scene.world.hosts[host].monitors():
                monitor.lose("the forwarding of its socket ended")

        scene.at(Phase.PRECOPY, lose, 1.0)
        outcome = await carried(scene)
        await scene.assert_settled(outcome)
        assert outcome.status is COMPLETED
        assert outcome.downtime.blackout_ms is not None

    simulate(scenario)


@pytest.mark.parametrize(("phase", "delay"), [*BEFORE, *SWITCHING, (Phase.COMMITTING, 0.0), (Phase.FINISHING, 0.0)])
def test_a_monitor_that_is_lost_in_any_phase(phase: Phase, delay: float) -> None:
    async def scenario() -> None:
        scene = stage()

        def lose() -> None:
            for host in scene.world.hosts.values():
                for monitor in host.monitors():
                    monitor.lose("the forwarding of its socket ended")

        scene.at(phase, lose, delay)
        outcome = await carried(scene)
        await scene.assert_settled(outcome)
        assert scene.world.executing("web")

    simulate(scenario)


@pytest.mark.parametrize(("phase", "delay"), [*BEFORE, *SWITCHING])
def test_the_target_s_host_loses_its_power(phase: Phase, delay: float) -> None:
    async def scenario() -> None:
        scene = stage()
        scene.at(phase, lambda: scene.world.crash_host("two"), delay)
        outcome = await carried(scene)
        scene.assert_lawful()
        assert outcome.status is FAILED
        assert scene.world.executing("web") == ["one"]
        assert scene.one.leases == {}

    simulate(scenario)


@pytest.mark.parametrize("phase", [Phase.COMMITTING, Phase.FINISHING])
def test_the_target_s_host_loses_its_power_after_the_hand_over(phase: Phase) -> None:
    """Nobody can ask a silent host whether it ran the guest: the source stays stopped, and a person is asked."""

    async def scenario() -> None:
        scene = stage(address=None)
        scene.at(phase, lambda: scene.world.crash_host("two"))
        outcome = await carried(scene)
        scene.assert_lawful()
        assert scene.world.executing("web") == []
        if phase is Phase.COMMITTING:
            assert outcome.status is LIMBO
            assert outcome.owner is Owner.UNKNOWN
            assert "source: postmigrate" in outcome.error
            assert "target: unreachable" in outcome.error

    simulate(scenario)


def test_limbo_ends_when_the_silent_host_is_back() -> None:
    async def scenario() -> None:
        scene = stage(address=None)
        scene.at(Phase.COMMITTING, lambda: scene.world.cut("two"))
        outcome = await carried(scene)
        assert outcome.status is LIMBO
        scene.world.heal("two")
        outcome = await scene.go_on()
        await scene.assert_settled(outcome)
        assert outcome.status is COMPLETED

    simulate(scenario)


def test_a_guest_that_may_stand_still_on_a_silent_host_is_not_forgotten() -> None:
    """The target is ended, and nobody could tell the source to run on: that is made good when it can be."""

    async def scenario() -> None:
        scene = stage(address=None)
        scene.at(Phase.PRECOPY, lambda: scene.world.cut("one"), 0.05)
        outcome = await carried(scene)
        scene.assert_lawful()
        assert outcome.status is LIMBO
        assert "may stand still" in outcome.error
        assert "can be reached" in outcome.remedy
        scene.world.heal("one")
        outcome = await scene.go_on()
        await scene.assert_settled(outcome)
        assert outcome.status is FAILED
        assert scene.world.executing("web") == ["one"]

    simulate(scenario)


def test_a_send_queue_behind_a_host_that_is_away_for_moments_is_given_back() -> None:
    async def scenario() -> None:
        scene = stage()
        restore, tries = scene.one.restore_send_queue, iter([True, True, False])

        async def away(lease: str) -> None:
            if next(tries):
                raise HostUnreachableError("one does not answer")
            await restore(lease)

        scene.one.restore_send_queue = away  # type: ignore[method-assign]
        outcome = await carried(scene)
        await scene.assert_settled(outcome)
        assert outcome.status is COMPLETED
        assert outcome.leftovers == ()

    simulate(scenario)


# -- the link ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("phase", "delay"), [*BEFORE, *SWITCHING])
def test_the_link_is_cut_for_good(phase: Phase, delay: float) -> None:
    async def scenario() -> None:
        scene = stage()
        scene.at(phase, lambda: scene.world.cut("one", "two"), delay)
        outcome = await carried(scene)
        await scene.assert_settled(outcome)
        assert outcome.status is FAILED
        assert outcome.total_s < 30

    simulate(scenario)


@pytest.mark.parametrize("phase", [Phase.COMMITTING, Phase.FINISHING])
def test_a_link_that_is_cut_after_the_stream_is_needed_no_more(phase: Phase) -> None:
    async def scenario() -> None:
        scene = stage()
        scene.at(phase, lambda: scene.world.cut("one", "two"))
        outcome = await carried(scene)
        await scene.assert_settled(outcome)
        assert outcome.status is COMPLETED

    simulate(scenario)


def test_a_guest_never_stands_still_for_long_in_a_switchover_that_fails() -> None:
    async def scenario() -> None:
        scene = stage()
        scene.at(Phase.SWITCHOVER, lambda: scene.world.cut("one", "two"))
        await scene.assert_settled(await carried(scene))
        before, after = scene.world.runs
        assert before.ended is not None
        # The patience with a switchover, and what passes until a monitor that waits with its stream counts as silent.
        assert after.began - before.ended < 9

    simulate(scenario)


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "command"),
    [
        ("two", "launch"),
        ("two", "query-commands"),
        ("two", "migrate-set-capabilities"),
        ("two", "migrate-incoming"),
        ("one", "migrate-set-capabilities"),
        ("one", "migrate-set-parameters"),
        ("one", "migrate"),
    ],
)
def test_a_command_on_the_way_there_is_refused(host: str, command: str) -> None:
    async def scenario() -> None:
        scene = stage()
        scene.world.refuse(host, command)
        outcome = await carried(scene)
        await scene.assert_settled(outcome)
        assert outcome.status is FAILED
        assert "it was planted so" in outcome.error
        assert {run.host for run in scene.world.runs} == {"one"}

    simulate(scenario)


def test_a_parameter_that_is_refused_while_the_stream_runs_ends_nothing() -> None:
    from godwit.hosts.fake import Workload  # noqa: PLC0415
    from godwit.units import MIB  # noqa: PLC0415

    async def scenario() -> None:
        scene = stage(Workload(256 * MIB, used=64 * MIB, hot_set=5 * MIB, dirty_rate=200 * MIB))
        scene.at(Phase.PRECOPY, lambda: scene.world.refuse("one", "migrate-set-parameters", times=1), 0.1)
        outcome = await carried(scene)
        await scene.assert_settled(outcome)
        assert outcome.status is COMPLETED

    simulate(scenario)


def test_a_target_that_refuses_to_run_once_is_told_again() -> None:
    async def scenario() -> None:
        scene = stage()
        scene.world.refuse("two", "cont", times=1)
        outcome = await carried(scene)
        await scene.assert_settled(outcome)
        assert outcome.status is COMPLETED

    simulate(scenario)


def test_a_target_that_never_runs_does_not_bring_the_source_back_by_itself() -> None:
    """`cont` was sent: whoever says now that the source may run, says it as a person. Until then a look tries again."""

    async def scenario() -> None:
        scene = stage()
        scene.world.refuse("two", "cont", "the disk is locked")
        outcome = await carried(scene)
        assert (outcome.status, outcome.owner) == (LIMBO, Owner.UNKNOWN)
        assert "the disk is locked" in outcome.error
        scene.assert_lawful()
        assert scene.world.executing("web") == []
        assert (scene.state_on(scene.one), scene.state_on(scene.two)) == (RunState.POSTMIGRATE, RunState.PAUSED)
        told = [line for line in await scene.journal.entries(ID) if "ContinueTarget" in str(line.data.get("commands"))]
        assert 10 < len(told) < 100
        assert told[-1].at - told[0].at > CONTINUE_PATIENCE - 5
        scene.world.refuse("two", "cont", times=2)
        outcome = await scene.go_on()
        assert outcome.status is COMPLETED
        await scene.assert_settled(outcome)

    simulate(scenario)


@pytest.mark.parametrize(("host", "command"), [("two", "announce-self"), ("one", "quit"), ("one", "query-migrate")])
def test_what_is_refused_after_the_hand_over_takes_nothing_back(host: str, command: str) -> None:
    async def scenario() -> None:
        scene = stage()
        scene.at(Phase.FINISHING, lambda: scene.world.refuse(host, command))
        outcome = await carried(scene)
        scene.assert_lawful()
        assert outcome.status is COMPLETED
        assert scene.world.executing("web") == ["two"]

    simulate(scenario)


# -- the journal ---------------------------------------------------------------------------------------------------


def failing(scene: Stage, choose: Callable[[int], bool]) -> None:
    scene.journal.failing = choose


@pytest.mark.parametrize("number", range(1, 13))
def test_one_write_fails(number: int) -> None:
    """With an error to the runner's supervisor or without one, the guest ends on exactly one side."""

    async def scenario() -> None:
        scene = stage(SMALL)
        failing(scene, lambda count: count == number)
        await scene.begin()
        try:
            outcome = await scene.runner()
        except JournalError:
            scene.world.drop_controller()
            outcome = await scene.go_on()
        assert outcome is not None
        await scene.assert_settled(outcome)
        assert outcome.status in {COMPLETED, FAILED}

    simulate(scenario)


@pytest.mark.parametrize("number", range(1, 13))
def test_every_write_fails_from_here_on_until_somebody_makes_room(number: int) -> None:
    async def scenario() -> None:
        scene = stage(SMALL)
        failing(scene, lambda count: count >= number)
        await scene.begin()
        try:
            async with asyncio.timeout(120):
                await scene.runner()
        except JournalError:
            scene.world.drop_controller()
        scene.assert_lawful()
        assert len(scene.world.executing("web")) == 1  # whatever the journal does, the guest runs on
        failing(scene, lambda _: False)
        outcome = await scene.go_on()
        await scene.assert_settled(outcome)

    simulate(scenario)


def test_a_journal_that_cannot_be_read_for_a_wish_to_cancel_ends_nothing() -> None:
    async def scenario() -> None:
        scene = stage(LONG)

        async def unreadable(_: str) -> str | None:
            raise JournalError("the journal failed: disk I/O error")

        scene.journal.cancel_requested = unreadable  # type: ignore[method-assign, assignment]
        outcome = await carried(scene)
        await scene.assert_settled(outcome)
        assert outcome.status is COMPLETED
        notes = [line.data["text"] for line in await scene.journal.entries(ID) if line.kind == "note"]
        assert any("disk I/O error" in str(text) for text in notes)

    simulate(scenario)


@pytest.mark.parametrize("seconds", [20, 45, 200])
def test_where_a_guest_lives_is_written_down_before_its_source_is_removed(seconds: float) -> None:
    """However long nothing can be written: a source that is still in the inventory could be started again."""

    async def scenario() -> None:
        scene = stage()
        full = asyncio.Event()
        put = scene.inventory.put_vm

        async def full_disk(vm: Vm, *, under: tuple[str, int] | None = None) -> None:
            if full.is_set():
                assert scene.state_on(scene.one) is not RunState.ABSENT
                raise JournalError("the journal failed: the disk is full", remedy="make room")
            await put(vm, under=under)

        await scene.begin()
        scene.inventory.put_vm = full_disk  # type: ignore[method-assign]
        scene.at(Phase.FINISHING, full.set)
        later(seconds, full.clear)
        runners, outcome = 0, None
        while outcome is None:
            runners += 1
            try:
                outcome = await scene.runner()
            except JournalError:
                scene.world.drop_controller()
        await scene.assert_settled(outcome)
        assert outcome.status is COMPLETED
        assert scene.journal.states[-1].leftovers == ()
        assert runners == 1 + seconds // 32

    simulate(scenario)


# -- what nobody hears ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("used", [mebibytes * MIB for mebibytes in range(60, 220, 20)])
def test_a_switchover_of_which_nothing_is_heard_is_looked_at_before_it_counts_as_stuck(
    used: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the guest travelled before: looks are counted from the last event, not from the beginning."""
    heard = FakeGuest.hear

    async def scenario() -> None:
        scene = stage(replace(LONG, used=used))
        deaf = False

        def hear(guest: FakeGuest, event: GuestEvent) -> None:
            if not deaf:
                heard(guest, event)

        def lose_all() -> None:
            nonlocal deaf
            deaf = True

        monkeypatch.setattr(FakeGuest, "hear", hear)
        scene.at(Phase.SWITCHOVER, lose_all)
        outcome = await carried(scene)
        assert outcome.status is COMPLETED, outcome.error
        await scene.assert_settled(outcome)

    simulate(scenario)
