"""The state by itself: how it ends, what a new runner makes of it, and the law that it must obey."""

from __future__ import annotations

from dataclasses import replace

import pytest

from godwit.core.state import Door, Failure, Held, LawBrokenError, Phase, State, assert_law, outcome_status
from godwit.model import OutcomeStatus, Owner

FIRST, SECOND = Failure("first", "the cause"), Failure("second", "a consequence")


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (State(phase=Phase.DONE, owner=Owner.TARGET), OutcomeStatus.COMPLETED),
        (State(phase=Phase.CANCELLED), OutcomeStatus.CANCELLED),
        (State(phase=Phase.LIMBO, owner=Owner.UNKNOWN), OutcomeStatus.LIMBO),
        (State(phase=Phase.FAILED, failure=FIRST), OutcomeStatus.FAILED),
        (State(phase=Phase.FAILED), OutcomeStatus.FAILED),
        (State(phase=Phase.FAILED, failure=Failure("refused", "no")), OutcomeStatus.REFUSED),
        (State(phase=Phase.FAILED, owner=Owner.TARGET, failure=FIRST), OutcomeStatus.GUEST_CRASHED),
    ],
)
def test_how_a_migration_ended(state: State, status: OutcomeStatus) -> None:
    assert outcome_status(state) is status


def test_the_first_failure_is_kept() -> None:
    assert State().with_failure(FIRST).with_failure(SECOND).failure == FIRST


@pytest.mark.parametrize(
    ("door", "taken"), [(Door.CLOSED, Door.CLOSED), (Door.ARMED, Door.SENT), (Door.SENT, Door.SENT)]
)
def test_a_new_runner_takes_an_armed_door_for_one_that_was_passed(door: Door, taken: Door) -> None:
    state = State(phase=Phase.SWITCHOVER, door=door)

    assert state.inherited() == replace(state, door=taken)


@pytest.mark.parametrize("phase", Phase)
def test_limbo_is_no_end(phase: Phase) -> None:
    assert State(phase=phase).finished == (phase in {Phase.DONE, Phase.CANCELLED, Phase.FAILED})


@pytest.mark.parametrize(
    "state",
    [
        State(phase=Phase.FINISHING, owner=Owner.SOURCE, door=Door.SENT),
        State(phase=Phase.DONE, owner=Owner.UNKNOWN, door=Door.SENT),
        State(phase=Phase.COMMITTING, owner=Owner.UNKNOWN, door=Door.ARMED),
        State(phase=Phase.FINISHING, owner=Owner.TARGET, door=Door.CLOSED),
        State(phase=Phase.ROLLING_BACK, owner=Owner.UNKNOWN),
        State(phase=Phase.ROLLING_BACK, door=Door.SENT),
        State(phase=Phase.CANCELLED, owner=Owner.TARGET, door=Door.SENT),
        State(phase=Phase.FAILED, held=frozenset({Held.TARGET})),
    ],
)
def test_states_that_contradict_the_law_are_refused(state: State) -> None:
    with pytest.raises(LawBrokenError):
        assert_law(state)


@pytest.mark.parametrize(
    "state",
    [
        State(),
        State(phase=Phase.PRECOPY, held=frozenset(Held)),
        State(phase=Phase.SWITCHOVER, door=Door.ARMED),
        State(phase=Phase.COMMITTING, owner=Owner.UNKNOWN, door=Door.SENT),
        State(phase=Phase.FINISHING, owner=Owner.TARGET, door=Door.SENT),
        State(phase=Phase.FAILED, held=frozenset({Held.TARGET}), leftovers=("a paused copy is left",)),
        State(phase=Phase.LIMBO, owner=Owner.UNKNOWN, door=Door.SENT, held=frozenset(Held)),
    ],
)
def test_states_that_obey_the_law_pass(state: State) -> None:
    assert_law(state)
