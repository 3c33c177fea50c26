"""The machine in single stories: the way there, the way back, and each defect that the walk once found."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from godwit.core import events as e
from godwit.core.machine import LATE, TRANSITIONS, IllegalTransitionError, step
from godwit.core.state import Door, Held, Phase, State
from godwit.model import GuestView, Owner, RunState, Side, StreamStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

TO_PREPARING: tuple[e.Event, ...] = (e.Begin(), e.Checked())
TO_PRECOPY: tuple[e.Event, ...] = (*TO_PREPARING, e.TargetPrepared("tcp:two:1"), e.SourcePrepared(), e.StreamStarted())
TO_SWITCHOVER: tuple[e.Event, ...] = (*TO_PRECOPY, e.SourceStopped())
SOURCE_DONE = e.StreamEnded(Side.SOURCE, StreamStatus.COMPLETED)
TARGET_DONE = e.StreamEnded(Side.TARGET, StreamStatus.COMPLETED)
TO_COMMITTING: tuple[e.Event, ...] = (*TO_SWITCHOVER, TARGET_DONE, SOURCE_DONE)
TO_FINISHING: tuple[e.Event, ...] = (*TO_COMMITTING, e.TargetRunning())

RUNS = GuestView(RunState.RUNNING, StreamStatus.FAILED)
GAVE = GuestView(RunState.POSTMIGRATE, StreamStatus.COMPLETED)
GONE = GuestView(RunState.ABSENT)
SILENT = GuestView(RunState.UNREACHABLE)
STREAMS = GuestView(RunState.STOPPED_FOR_SWITCHOVER, StreamStatus.SWITCHOVER)
WAITS = GuestView(RunState.INCOMING, StreamStatus.ACTIVE)
HAS_ALL = GuestView(RunState.PAUSED, StreamStatus.COMPLETED)


def told(events: Sequence[e.Event], state: State | None = None) -> tuple[State, list[e.Command]]:
    """Tell the machine a story; return where it ends and all that it asked for."""
    state = state or State()
    commands: list[e.Command] = []
    for event in events:
        result = step(state, event)
        state = result.state
        commands += result.commands
    return state, commands


def names(commands: Sequence[e.Command]) -> list[str]:
    return [type(command).__name__ for command in commands]


def test_the_way_there() -> None:
    tidied = (e.Undone("RecordHome"), e.SourceRemoved(), e.Undone("RestoreGuest"), e.Undone("RestoreSendQueue"))
    state, commands = told((*TO_FINISHING, e.Verified(alive=True), *tidied))

    assert names(commands) == [
        *("Check", "PrepareTarget", "PrepareSource", "StartStream", "ContinueTarget"),
        *("Verify", "RecordHome", "RestoreGuest", "RestoreSendQueue", "RemoveSource", "Finish"),
    ]
    assert state.phase is Phase.DONE
    assert state.owner is Owner.TARGET
    assert state.alive is True
    assert not state.held


def test_the_journal_stays_out_of_the_blackout() -> None:
    """The record that arms the door is durable at the stop; the step through it adds nothing to wait for."""
    armed = step(told(TO_PRECOPY)[0], e.SourceStopped())
    half = step(armed.state, TARGET_DONE)
    through = step(half.state, SOURCE_DONE)

    assert (armed.durable, armed.state.door) == (True, Door.ARMED)
    assert not half.durable
    assert not through.durable
    assert through.commands == (e.ContinueTarget(),)


def test_a_door_that_was_not_armed_is_durable_before_it_is_passed() -> None:
    """Both ends went unseen: the evidence alone leads to the commit, and that must be on disk first."""
    result = step(told(TO_PRECOPY)[0], e.Observed(GAVE, HAS_ALL, 0.0))

    assert result.commands == (e.ContinueTarget(),)
    assert result.durable


@pytest.mark.parametrize("way", [TO_PREPARING, TO_PRECOPY, TO_SWITCHOVER], ids=["preparing", "precopy", "switchover"])
@pytest.mark.parametrize("event", [e.CancelRequested("me"), e.GiveUp("slow", "too slow")], ids=["cancel", "give-up"])
def test_before_the_commit_everything_is_undone_in_order(way: tuple[e.Event, ...], event: e.Event) -> None:
    state, commands = told((*way, event))
    undone = []
    while not state.finished:
        undone.append(names(commands)[-1])
        state, commands = told([e.Undone(undone[-1])], state)

    expected = ["CancelStream", "DestroyTarget", "ResumeSource", "RestoreGuest", "RestoreSendQueue"]
    assert undone == (expected[1:2] + expected[3:] if way is TO_PREPARING else expected)
    assert state.phase is (Phase.CANCELLED if isinstance(event, e.CancelRequested) else Phase.FAILED)
    assert state.owner is Owner.SOURCE
    assert not state.held


@pytest.mark.parametrize("way", [TO_COMMITTING, TO_FINISHING], ids=["committing", "finishing"])
def test_behind_the_door_a_cancel_is_noted_and_not_obeyed(way: tuple[e.Event, ...]) -> None:
    before, _ = told(way)
    result = step(before, e.CancelRequested("me"))

    assert result.state == replace(before, cancel_requested=True)
    assert result.commands == ()


def test_the_stop_may_go_unseen() -> None:
    state, commands = told((*TO_PRECOPY, SOURCE_DONE, TARGET_DONE))

    assert state.phase is Phase.COMMITTING
    assert names(commands)[-1] == "ContinueTarget"


def test_a_failed_cont_proves_nothing() -> None:
    state, commands = told((*TO_COMMITTING, e.StepFailed("ContinueTarget", "monitor-lost", "no answer")))

    assert state.phase is Phase.COMMITTING
    assert names(commands)[-1] == "Observe"


# -- what the walk found -----------------------------------------------------------------------------------------------


def test_a_new_runner_that_is_cancelled_before_it_has_looked_touches_nothing() -> None:
    state, commands = told([e.CancelRequested("me")], told(TO_SWITCHOVER)[0].inherited())

    assert names(commands) == ["Observe"]
    assert state.phase is Phase.SWITCHOVER


def test_a_source_that_ran_on_before_it_died_is_not_replaced_by_an_older_copy() -> None:
    """The stream broke after the target had all, QEMU took the source back, and then it was killed."""
    broke = (e.StreamEnded(Side.SOURCE, StreamStatus.FAILED), TARGET_DONE, e.SourceResumed())
    _, commands = told((*TO_SWITCHOVER, *broke, e.Observed(GONE, HAS_ALL, 0.1)))

    assert "ContinueTarget" not in names(commands)


def test_a_rollback_never_turns_into_a_commit() -> None:
    back = (e.CancelRequested("me"), e.Undone("CancelStream"), e.StepFailed("DestroyTarget", "host", "silent"))
    state, commands = told((*TO_COMMITTING[:-1], *back, e.Undone("ResumeSource"), e.Observed(GONE, HAS_ALL, 0.1)))

    assert "ContinueTarget" not in names(commands)
    assert state.failure is not None
    assert state.failure.code == "guest-lost"


def test_a_source_that_resumed_by_itself_takes_the_arming_back() -> None:
    result = step(told(TO_SWITCHOVER)[0], e.SourceResumed())

    assert (result.state.phase, result.state.door) == (Phase.PRECOPY, Door.CLOSED)
    assert result.durable
    assert names(result.commands) == ["Observe"]


def test_a_stuck_stream_is_taken_back_though_a_former_runner_had_armed_the_door() -> None:
    restarted = told(TO_SWITCHOVER)[0].inherited()
    state, commands = told(
        [e.GiveUp("stuck", "nothing moves"), e.Observed(STREAMS, WAITS, 0.1, restarted=True)], restarted
    )

    assert state.phase is Phase.ROLLING_BACK
    assert names(commands) == ["Observe", "CancelStream"]


def test_what_the_source_could_not_undo_is_tried_again_when_it_answers() -> None:
    lost = (e.GiveUp("slow", "too slow"), e.StepFailed("CancelStream", "host", "silent"), e.Undone("DestroyTarget"))
    state, commands = told((*TO_PRECOPY, *lost, e.StepFailed("ResumeSource", "host", "silent")))
    back = (e.Undone("RestoreGuest"), e.Undone("RestoreSendQueue"))
    state, later = told([*back, e.Observed(SILENT, GONE, 1.0)], state)

    assert names(commands)[-1] == "RestoreGuest"
    assert names(later) == ["RestoreSendQueue", "Observe", "Observe"]
    assert state.held == {Held.STREAM, Held.SOURCE_STOPPED}
    state, again = told([e.Observed(GAVE, GONE, 2.0), e.Undone("CancelStream")], state)
    state, end = told([e.Observed(GAVE, GONE, 0.1), e.Undone("ResumeSource")], state)
    assert names(again) == ["CancelStream", "Observe"]
    assert names(end) == ["ResumeSource", "Finish"]
    assert not state.leftovers


def test_what_fails_twice_is_named() -> None:
    failing = e.StepFailed("RestoreSendQueue", "host", "the queue stays short")
    to_queue = (e.CancelRequested("me"), e.Undone("DestroyTarget"), e.Undone("RestoreGuest"), failing)
    state, _ = told((*TO_PREPARING, *to_queue, e.Observed(RUNS, GONE, 0.1), failing))

    assert state.phase is Phase.CANCELLED
    assert state.leftovers == ("the queue stays short",)


def test_a_guest_that_died_behind_the_door_ends_with_nothing_held() -> None:
    tidied = (e.Undone("RecordHome"), e.Undone("RestoreSendQueue"))
    state, commands = told((*TO_COMMITTING, e.Observed(GAVE, GONE, 0.1), *tidied))

    assert names(commands)[-3:] == ["RecordHome", "RestoreSendQueue", "Finish"]
    assert (state.phase, state.owner) == (Phase.FAILED, Owner.TARGET)
    assert "ResumeSource" not in names(commands)
    assert not state.held
    assert len(state.leftovers) == 1


def test_a_step_that_failed_late_is_no_leftover() -> None:
    state, _ = told((*TO_FINISHING, e.StepFailed("ContinueTarget", "monitor-lost", "no answer")))

    assert not state.leftovers


def test_a_guest_that_nobody_reaches_is_looked_at_before_it_is_said_to_have_moved() -> None:
    state, commands = told((*TO_FINISHING, e.Verified(alive=False)))
    assert names(commands)[-1] == "Observe"

    crashed, _ = told([e.Observed(GAVE, GONE, 0.1)], state)
    assert crashed.failure is not None
    assert crashed.failure.code == "guest-crashed"

    runs, _ = told([e.Observed(GAVE, RUNS, 0.1)], state)
    assert runs.failure is None
    assert runs.alive is False
    assert "Verify" not in runs.duties


def test_a_guest_that_cannot_be_told_to_run_on_is_no_leftover() -> None:
    silent = GuestView(RunState.UNREACHABLE)
    back = (e.GiveUp("stuck", "it does not end"), e.Undone("CancelStream"), e.Undone("DestroyTarget"))
    fails = e.StepFailed("ResumeSource", "host-unreachable", "one does not answer")
    tidied = (e.Undone("RestoreGuest"), e.Undone("RestoreSendQueue"))
    state, commands = told((*TO_SWITCHOVER, *back, fails, *tidied, e.Observed(silent, GONE, 90.0), fails))

    assert state.phase is Phase.LIMBO
    assert state.failure is not None
    assert "may stand still" in state.failure.message
    assert names(commands)[-1] == "Finish"

    stands = GuestView(RunState.POSTMIGRATE, StreamStatus.COMPLETED)
    state, commands = told([e.Observed(stands, GONE, 0.1, restarted=True), e.Undone("ResumeSource")], state)
    assert names(commands)[:1] == ["ResumeSource"]
    assert state.phase is Phase.FAILED
    assert state.owner is Owner.SOURCE


def test_copies_of_disks_go_on_when_only_the_way_to_them_is_lost() -> None:
    mirroring = State(phase=Phase.MIRRORING, held=frozenset({Held.TARGET, Held.MIRRORS}))
    state, commands = told([e.StepFailed("StartMirrors", "monitor-lost", "it went away")], mirroring)
    assert (state.phase, names(commands)) == (Phase.MIRRORING, ["Observe"])
    state, commands = told([e.Observed(RUNS, WAITS, 0.1)], state)
    assert (state.phase, names(commands)) == (Phase.MIRRORING, ["StartMirrors"])
    state, _ = told([e.StepFailed("StartMirrors", "hypervisor", "no room")], state)
    assert state.phase is Phase.ROLLING_BACK


def test_limbo_remembers_that_the_guest_was_never_sent() -> None:
    """A guest of the same name runs on the target: that ours is paused later makes it no move."""
    foreign = GuestView(RunState.RUNNING)
    state, _ = told((*TO_PREPARING, e.Lost(Side.TARGET), e.Observed(RUNS, foreign, 0.1)))
    state, commands = told([e.Observed(GuestView(RunState.PAUSED), foreign, 0.1)], state)

    assert state.phase is Phase.LIMBO
    assert "RemoveSource" not in names(commands)


# -- the table ---------------------------------------------------------------------------------------------------------


def test_no_pair_is_both_meant_and_late() -> None:
    assert not LATE & TRANSITIONS.keys()


@pytest.mark.parametrize("event", [e.Undone("DestroyTarget"), e.Verified(None), e.SourceRemoved()])
def test_an_event_that_cannot_happen_is_a_defect_and_says_so(event: e.Event) -> None:
    with pytest.raises(IllegalTransitionError, match=type(event).__name__):
        step(told(TO_PRECOPY)[0], event)


@pytest.mark.parametrize("phase", [Phase.DONE, Phase.CANCELLED, Phase.FAILED])
def test_nothing_leaves_an_end(phase: Phase) -> None:
    state = State(phase=phase, owner=Owner.TARGET if phase is Phase.DONE else Owner.SOURCE, door=Door.SENT)
    events: tuple[e.Event, ...] = (e.CancelRequested(), e.Observed(GAVE, HAS_ALL, 0.0), e.TargetRunning())
    for event in events:
        assert step(state, event).state == state
        assert not step(state, event).commands


def test_a_crash_stays_one_whatever_is_seen_later() -> None:
    """The target of a guest in postcopy whose source has died runs on until it touches memory that is gone."""
    over = GuestView(RunState.RUNNING, StreamStatus.POSTCOPY)
    to_postcopy = (*TO_PRECOPY, e.Decided("postcopy", {}, "", ""), *(e.WentOver(side) for side in Side))
    state, _ = told((*to_postcopy, e.TargetRunning(), e.Observed(GONE, over, 0.1), e.Observed(GONE, over, 0.1)))

    assert state.phase is Phase.FINISHING
    assert state.failure is not None
    assert state.failure.code == "guest-crashed"


def test_a_guest_in_postcopy_is_whole_when_its_target_says_so() -> None:
    """The last page was in when the source died, or lost the connection: nothing of it is missed."""
    whole = GuestView(RunState.RUNNING, StreamStatus.COMPLETED)
    broke = GuestView(RunState.STOPPED_FOR_SWITCHOVER, StreamStatus.BROKEN)
    to_postcopy = (*TO_PRECOPY, e.Decided("postcopy", {}, "", ""), *(e.WentOver(side) for side in Side))
    for source in (GONE, broke):
        state, commands = told((*to_postcopy, e.TargetRunning(), e.Observed(source, whole, 0.1)))
        assert state.phase is Phase.FINISHING
        assert state.failure is None
        assert "RecordHome" in names(commands)


def test_a_source_that_runs_again_while_the_target_is_told_to_is_looked_at() -> None:
    _, commands = told((*TO_COMMITTING, e.SourceResumed()))

    assert names(commands)[-1] == "Observe"
