"""The walk finds what it is there to find: each planted defect breaks the law, or the walk, soon."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from walking import tapes, walk, walk_from_limbo
from worldmodel import LawViolationError

from godwit.core import events as e
from godwit.core import machine, offline, recovery, resolving, rollback
from godwit.core.machine import TRANSITIONS, IllegalTransitionError, Step
from godwit.core.recovery import Verdict
from godwit.core.state import Door, Held, LawBrokenError, Phase, State
from godwit.model import RunState, Side, Way

if TYPE_CHECKING:
    from collections.abc import Callable

    Plant = Callable[[pytest.MonkeyPatch], None]

WALKS = 20_000


def handler(phase: Phase, kind: type[e.Event], made: machine.Handler) -> Plant:
    return lambda patch: patch.setitem(TRANSITIONS, (phase, kind), made)


def ruling(verdict: Verdict, made: Callable[[State, str], Step]) -> Plant:
    return lambda patch: patch.setitem(machine._RULINGS, verdict, made)


def forced_back(state: State, _: object) -> Step:
    return rollback.begin(replace(state, door=Door.CLOSED))


def commit_at_the_first_completed(state: State, event: e.Event) -> Step:
    return machine._commit(replace(state, ended=machine._STREAMED)) if isinstance(event, e.StreamEnded) else Step(state)


def commit_and_remove(state: State) -> Step:
    state = replace(state, phase=Phase.COMMITTING, door=Door.SENT)
    return Step(state, (e.ContinueTarget(), e.RemoveSource()))


def done_at_once(state: State, _: e.Event) -> Step:
    return Step(
        replace(machine._running(state, e.TargetRunning()).state, phase=Phase.DONE, held=frozenset()), (e.Finish(),)
    )


def without_retry(state: State, event: e.Event) -> Step:
    name = event.step if isinstance(event, e.Undone | e.StepFailed) else ""
    held = rollback.UNDO_STEPS.get(name)
    if held is None or held not in state.held:
        return Step(state)
    return rollback.next_undo(replace(state, held=state.held - {held}, leftovers=("something",)))


def stops_without_holding(state: State, event: e.Event) -> Step:
    result = machine._prepared(state, event)
    return (
        replace(result, state=replace(result.state, held=state.held)) if e.StopSource() in result.commands else result
    )


def starts_beside_the_source(state: State, _: e.Event) -> Step:
    return Step(replace(state, phase=Phase.STARTING), (e.StartTarget(),))


def ends_the_source_at_once(state: State, _: e.Event) -> Step:
    return offline._end_source(state)


def arms_nothing(state: State, _: e.Event) -> Step:
    return Step(replace(state, phase=Phase.COMMITTING, door=Door.SENT), (e.ContinueTarget(), e.EndSource()))


def presses_without_holding(state: State) -> Step:
    return Step(replace(state, phase=Phase.POWERING_OFF), (e.PowerOff(),))


def ends_copies_under_the_guest(state: State) -> Step:
    made = replace(state, phase=Phase.POWERING_OFF, held=state.held | {Held.POWER})
    return Step(made, (e.EndMirrors(state.copies),) if state.copies else (e.PowerOff(),))


def without_undo(left_out: Held) -> Plant:
    kept = tuple((held, command) for held, command in rollback.UNDO_ORDER if held is not left_out)
    return lambda patch: patch.setattr(rollback, "UNDO_ORDER", kept)


def without_rule(why: str) -> Plant:
    kept = tuple(rule for rule in recovery.RULES if not rule[2].startswith(why))
    assert len(kept) == len(recovery.RULES) - 1
    return lambda patch: patch.setattr(recovery, "RULES", kept)


def evidence(name: str, made: Callable[[recovery.Seen], bool]) -> Plant:
    return lambda patch: patch.setattr(recovery.Seen, name, property(made))


DEFECTS: dict[str, Plant] = {
    "commits when one side has completed": handler(Phase.SWITCHOVER, e.StreamEnded, commit_at_the_first_completed),
    "sends cont before the record is durable": lambda p: p.setattr(machine, "_must_be_durable", lambda *_: False),
    "cancels behind the door": handler(Phase.COMMITTING, e.CancelRequested, forced_back),
    "gives up behind the door": handler(Phase.COMMITTING, e.GiveUp, forced_back),
    "takes a failed cont for a proof": handler(Phase.COMMITTING, e.StepFailed, forced_back),
    "takes a lost target for a dead one": handler(Phase.COMMITTING, e.Lost, forced_back),
    "takes over an armed door as unopened": lambda p: p.setattr(State, "inherited", lambda self: self),
    "removes the source while it commits": lambda p: p.setattr(machine, "_commit", commit_and_remove),
    "is done before its duties": handler(Phase.COMMITTING, e.TargetRunning, done_at_once),
    "resumes the source of a guest that crashed": ruling(Verdict.CRASHED, forced_back),
    "guesses instead of limbo": ruling(Verdict.LIMBO, forced_back),
    "never looks again": ruling(Verdict.WAIT, lambda state, _: Step(state)),
    "commits what only may be complete": ruling(Verdict.CONTINUE, machine._recommit),
    "forgets to destroy the target": without_undo(Held.TARGET),
    "forgets to resume the source": without_undo(Held.SOURCE_STOPPED),
    "forgets to cancel the stream": without_undo(Held.STREAM),
    "does not try an undo again": handler(Phase.ROLLING_BACK, e.StepFailed, without_retry),
    "trusts a source that is gone": evidence(
        "handed_over", lambda seen: seen.s in {RunState.POSTMIGRATE, RunState.ABSENT}
    ),
    "forgets that a streaming source is a proof": evidence("sent", lambda seen: seen.state.door is Door.SENT),
    "stays when it was decided to go back": without_rule("the stream still runs, and going back"),
    "knows nothing of late decisions": lambda p: p.setattr(
        machine, "LATE", machine.LATE - {(Phase.SWITCHOVER, e.Decided)}
    ),
}


STANDING: dict[str, Plant] = {
    "stops the guest before it holds that": handler(Phase.PREPARING, e.SourcePrepared, stops_without_holding),
    "forgets to resume a guest that it stopped": without_undo(Held.SOURCE_STOPPED),
}
SWITCHED_OFF: dict[str, Plant] = {
    "presses the button before it holds that": lambda p: p.setattr(offline, "power_off", presses_without_holding),
    "forgets to start the guest again": without_undo(Held.POWER),
    "ends copies that the guest still writes to": lambda p: p.setattr(
        offline, "power_off", ends_copies_under_the_guest
    ),
    "ends the source before the copies": handler(Phase.POWERING_OFF, e.PoweredOff, ends_the_source_at_once),
    "starts the target beside the source": handler(Phase.POWERING_OFF, e.MirrorsEnded, starts_beside_the_source),
    "commits before the target was started": handler(Phase.STARTING, e.SourceEnded, arms_nothing),
    "goes back behind the door": handler(Phase.COMMITTING, e.GiveUp, forced_back),
}


def obeys_at_once(state: State, event: e.Event) -> Step:
    """Do what a person says without a look at what both sides show."""
    assert isinstance(event, e.Resolved)
    if event.owner is Side.TARGET:
        return machine._commit(state)
    return rollback.begin(replace(state, held=state.held | {Held.SOURCE_STOPPED}))


def starts_both(state: State, seen: recovery.Seen, story: str, commit: Callable[[State], Step]) -> Step:
    """Tell the target to run, by a person's word, beside a source that stands still with the disks."""
    settled = replace(state, resolution=None)
    return commit(settled) if seen.t is RunState.PAUSED else REAL_TO_TARGET(state, seen, story, commit)


def resumes_beside_the_target(state: State, seen: recovery.Seen, _: str) -> Step:
    """Resume the source, by a person's word, before the target is gone."""
    held = frozenset({Held.SOURCE_STOPPED})
    return rollback.begin(replace(state, resolution=None, held=held)) if seen.t else Step(state)


REAL_TO_TARGET = resolving._to_target
PERSONS: dict[str, Plant] = {
    "obeys a person without looking": handler(Phase.LIMBO, e.Resolved, obeys_at_once),
    "obeys a person against the evidence": lambda p: p.setattr(resolving, "contradiction", lambda *_: ""),
    "runs the target beside a source that has the disks": lambda p: p.setattr(resolving, "_to_target", starts_both),
    "resumes the source before the target is gone": lambda p: p.setattr(
        resolving, "_to_source", resumes_beside_the_target
    ),
    "takes an end that failed for an end": handler(Phase.LIMBO, e.StepFailed, lambda s, _: machine._commit(s)),
}


@pytest.mark.parametrize("name", PERSONS)
def test_the_walk_finds_a_planted_defect_of_a_person_s_word(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PERSONS[name](monkeypatch)
    chance = random.Random(1)  # noqa: S311 - not for secrets
    with pytest.raises((LawViolationError, LawBrokenError, IllegalTransitionError)):
        decide_much(chance)


@pytest.mark.parametrize("name", STANDING)
def test_the_walk_finds_a_planted_defect_of_a_guest_that_stands_still(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    STANDING[name](monkeypatch)
    with pytest.raises((LawViolationError, LawBrokenError, IllegalTransitionError)):
        walk_much(random.Random(1), Way.STATIC)  # noqa: S311 - not for secrets


@pytest.mark.parametrize("name", SWITCHED_OFF)
def test_the_walk_finds_a_planted_defect_of_a_guest_that_is_switched_off(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    SWITCHED_OFF[name](monkeypatch)
    with pytest.raises((LawViolationError, LawBrokenError, IllegalTransitionError)):
        walk_much(random.Random(1), Way.OFF)  # noqa: S311 - not for secrets


@pytest.mark.parametrize("name", DEFECTS)
def test_the_walk_finds_a_planted_defect(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    DEFECTS[name](monkeypatch)
    with pytest.raises((LawViolationError, LawBrokenError, IllegalTransitionError)):
        walk_much(random.Random(1))  # noqa: S311 - not for secrets


def decide_much(chance: random.Random) -> None:
    for _ in range(WALKS):
        walk_from_limbo([chance.randrange(1000) for _ in range(60)])


def walk_much(chance: random.Random, way: Way = Way.LIVE) -> None:
    for number, (tape, length, silent) in enumerate(tapes(chance, WALKS)):
        walk(tape, length, silent, copying=way is not Way.LIVE and number % 2 == 1, way=way)
