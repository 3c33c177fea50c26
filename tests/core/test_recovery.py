"""Recovery as a table: what both hosts show, and what follows. Then what must hold for every possible sight."""

from __future__ import annotations

from itertools import islice, product
from typing import TYPE_CHECKING

import pytest

from godwit.core.recovery import PATIENCE, TARGET_SILENCE, Verdict, recover
from godwit.core.state import Door, Failure, Held, Phase, State
from godwit.model import DiskCopy, GuestView, ImageFacts, RunState, Side, StreamStatus, Way

if TYPE_CHECKING:
    from collections.abc import Iterator

R, S, V, P, D = RunState, StreamStatus, Verdict, Phase, Door

RUNS = GuestView(R.RUNNING, S.ACTIVE)
RUNS_ALONE = GuestView(R.RUNNING)
FELL_BACK = GuestView(R.RUNNING, S.FAILED)
STOPPED = GuestView(R.STOPPED_FOR_SWITCHOVER, S.SWITCHOVER)
HELD = GuestView(R.STOPPED_FOR_SWITCHOVER, S.HELD)
GAVE = GuestView(R.POSTMIGRATE, S.COMPLETED)
GONE = GuestView(R.ABSENT)
SILENT = GuestView(R.UNREACHABLE)
WAITS = GuestView(R.INCOMING, S.ACTIVE)
HAS_ALL = GuestView(R.PAUSED, S.COMPLETED)
TOOK = GuestView(R.RUNNING, S.COMPLETED)

FELL_BACK_PAUSED = GuestView(R.PAUSED, S.FAILED)
STANDS = GuestView(R.PAUSED, S.ACTIVE)
OFF = GuestView(R.POWERED_OFF)
TAKES_DISKS = GuestView(R.INCOMING)
READY = GuestView(R.PAUSED)
RUNS_ANEW = GuestView(R.RUNNING)
COPIES = (DiskCopy("disk0", ImageFacts("/images/web.raw", "raw", 1, 1), "job"),)

ALL_HELD = frozenset(Held) - {Held.POWER}
SOON, LATE, TOO_LATE = 0.1, TARGET_SILENCE, PATIENCE


def at(
    phase: Phase,
    door: Door = D.CLOSED,
    *,
    source_ended: bool = False,
    turned_back: bool = False,
    mirrored: bool = False,
    off: bool = False,
) -> State:
    """A state as the machine has it in that phase."""
    streamed = phase not in {P.PENDING, P.PREPARING}
    if off:
        return switched_off(phase, door, source_ended=source_ended, turned_back=turned_back, mirrored=mirrored)
    return State(
        phase=phase,
        door=door,
        held=ALL_HELD if streamed else frozenset({Held.TARGET, Held.SEND_QUEUE}),
        ended=frozenset({Side.SOURCE.value}) if source_ended else frozenset(),
        failure=Failure("test", "turned back") if turned_back else None,
        mirrored=mirrored,
    )


def switched_off(phase: Phase, door: Door, *, source_ended: bool, turned_back: bool, mirrored: bool) -> State:
    """A state of a guest that is switched off for its move, from the press of its power button on."""
    sides = (Side.SOURCE.value, Side.TARGET.value) if phase is P.COMMITTING else (Side.SOURCE.value,)
    return State(
        phase=phase,
        door=door,
        held=frozenset({Held.TARGET, Held.IMAGES, Held.POWER, Held.SEND_QUEUE}),
        ended=frozenset(sides) if source_ended else frozenset(),
        failure=Failure("test", "turned back") if turned_back else None,
        copies=COPIES,
        mirrored=mirrored,
        way=Way.OFF,
    )


# fmt: off
TABLE = [
    # state                                             source      target   waited    verdict
    # Nothing was streamed yet.
    (at(P.PREPARING),                                   RUNS_ALONE, WAITS,   SOON,     V.ROLL_BACK),
    (at(P.PREPARING),                                   RUNS_ALONE, GONE,    SOON,     V.ROLL_BACK),
    (at(P.PREPARING),                                   SILENT,     WAITS,   SOON,     V.ROLL_BACK),
    (at(P.PREPARING),                                   GONE,       WAITS,   SOON,     V.LOST_SOURCE),
    (at(P.PREPARING),                                   RUNS_ALONE, TOOK,    SOON,     V.LIMBO),
    # The disks are on their way.
    (at(P.MIRRORING),                                   RUNS_ALONE, WAITS,   SOON,     V.CONTINUE),
    (at(P.MIRRORING, turned_back=True),                 RUNS_ALONE, WAITS,   SOON,     V.ROLL_BACK),
    (at(P.MIRRORING),                                   RUNS_ALONE, GONE,    SOON,     V.ROLL_BACK),
    (at(P.MIRRORING),                                   RUNS_ALONE, SILENT,  SOON,     V.WAIT),
    (at(P.MIRRORING),                                   RUNS_ALONE, SILENT,  TOO_LATE, V.ROLL_BACK),
    (at(P.MIRRORING),                                   SILENT,     WAITS,   SOON,     V.WAIT),
    (at(P.MIRRORING),                                   SILENT,     WAITS,   TOO_LATE, V.ROLL_BACK),
    (at(P.MIRRORING),                                   GONE,       WAITS,   SOON,     V.LOST_SOURCE),
    (at(P.MIRRORING),                                   RUNS_ALONE, TOOK,    SOON,     V.LIMBO),
    # The guest is held before the switchover.
    (at(P.PRECOPY),                                     HELD,       WAITS,   SOON,     V.END_MIRRORS),
    (at(P.SWITCHOVER, D.ARMED),                         HELD,       WAITS,   SOON,     V.END_MIRRORS),
    (at(P.SWITCHOVER, D.ARMED, mirrored=True),          HELD,       WAITS,   SOON,     V.GO_ON),
    (at(P.SWITCHOVER, D.ARMED, turned_back=True),       HELD,       WAITS,   SOON,     V.ROLL_BACK),
    (at(P.SWITCHOVER, D.SENT, mirrored=True),           HELD,       WAITS,   SOON,     V.GO_ON),
    (at(P.SWITCHOVER, D.ARMED),                         HELD,       GONE,    SOON,     V.ROLL_BACK),
    (at(P.LIMBO, D.SENT, mirrored=True),                HELD,       WAITS,   SOON,     V.ROLL_BACK),
    # The stream runs; the door is closed.
    (at(P.PRECOPY),                                     RUNS,       WAITS,   SOON,     V.CONTINUE),
    (at(P.PRECOPY, turned_back=True),                   RUNS,       WAITS,   SOON,     V.ROLL_BACK),
    (at(P.PRECOPY),                                     FELL_BACK,  WAITS,   SOON,     V.ROLL_BACK),
    (at(P.PRECOPY),                                     RUNS_ALONE, WAITS,   SOON,     V.ROLL_BACK),
    (at(P.PRECOPY),                                     RUNS,       SILENT,  SOON,     V.WAIT),
    (at(P.PRECOPY),                                     RUNS,       SILENT,  LATE,     V.ROLL_BACK),
    (at(P.PRECOPY),                                     RUNS,       GONE,    SOON,     V.ROLL_BACK),
    (at(P.PRECOPY),                                     SILENT,     WAITS,   SOON,     V.WAIT),
    (at(P.PRECOPY),                                     SILENT,     WAITS,   TOO_LATE, V.ROLL_BACK),
    (at(P.PRECOPY),                                     SILENT,     GONE,    TOO_LATE, V.ROLL_BACK),
    (at(P.PRECOPY),                                     SILENT,     SILENT,  TOO_LATE, V.LIMBO),
    (at(P.PRECOPY),                                     GONE,       WAITS,   SOON,     V.WAIT),
    (at(P.PRECOPY),                                     GONE,       WAITS,   LATE,     V.LOST_SOURCE),
    (at(P.PRECOPY),                                     GONE,       GONE,    SOON,     V.LOST_SOURCE),
    (at(P.PRECOPY),                                     GAVE,       HAS_ALL, SOON,     V.COMMIT),
    # The source's end went unseen: it may have fallen back and run on before it died.
    (at(P.PRECOPY),                                     GONE,       HAS_ALL, SOON,     V.LIMBO),
    # The door is armed, and this very runner knows that it did not go through.
    (at(P.SWITCHOVER, D.ARMED),                         STOPPED,    WAITS,   SOON,     V.CONTINUE),
    (at(P.SWITCHOVER, D.ARMED),                         STOPPED,    HAS_ALL, SOON,     V.CONTINUE),
    (at(P.SWITCHOVER, D.ARMED),                         GAVE,       WAITS,   SOON,     V.WAIT),
    (at(P.SWITCHOVER, D.ARMED),                         GAVE,       GONE,    SOON,     V.ROLL_BACK),
    (at(P.SWITCHOVER, D.ARMED),                         GAVE,       HAS_ALL, SOON,     V.COMMIT),
    (at(P.SWITCHOVER, D.ARMED, source_ended=True),      GONE,       HAS_ALL, SOON,     V.COMMIT),
    (at(P.SWITCHOVER, D.ARMED, source_ended=True),      SILENT,     HAS_ALL, SOON,     V.COMMIT),
    (at(P.SWITCHOVER, D.ARMED),                         GONE,       HAS_ALL, SOON,     V.LIMBO),
    (at(P.SWITCHOVER, D.ARMED),                         FELL_BACK,  HAS_ALL, SOON,     V.ROLL_BACK),
    (at(P.SWITCHOVER, D.ARMED),                         SILENT,     HAS_ALL, TOO_LATE, V.LIMBO),
    # A former runner may have gone through the door.
    (at(P.SWITCHOVER, D.SENT),                          STOPPED,    WAITS,   SOON,     V.CONTINUE),
    (at(P.SWITCHOVER, D.SENT, turned_back=True),        STOPPED,    WAITS,   SOON,     V.ROLL_BACK),
    (at(P.SWITCHOVER, D.SENT),                          STOPPED,    GONE,    SOON,     V.ROLL_BACK),
    (at(P.SWITCHOVER, D.SENT),                          GAVE,       HAS_ALL, SOON,     V.COMMIT),
    (at(P.SWITCHOVER, D.SENT),                          GAVE,       TOOK,    SOON,     V.FINISH),
    (at(P.SWITCHOVER, D.SENT),                          GAVE,       GONE,    SOON,     V.LIMBO),
    (at(P.SWITCHOVER, D.SENT),                          GAVE,       SILENT,  SOON,     V.WAIT),
    (at(P.SWITCHOVER, D.SENT),                          GAVE,       SILENT,  TOO_LATE, V.LIMBO),
    (at(P.SWITCHOVER, D.SENT),                          FELL_BACK,  HAS_ALL, SOON,     V.ROLL_BACK),
    (at(P.SWITCHOVER, D.SENT),                          FELL_BACK,  SILENT,  SOON,     V.WAIT),
    (at(P.SWITCHOVER, D.SENT),                          GONE,       GONE,    SOON,     V.CRASHED),
    # This runner went through the door.
    (at(P.COMMITTING, D.SENT, source_ended=True),       GAVE,       HAS_ALL, SOON,     V.COMMIT),
    (at(P.COMMITTING, D.SENT, source_ended=True),       SILENT,     HAS_ALL, SOON,     V.COMMIT),
    (at(P.COMMITTING, D.SENT, source_ended=True),       GAVE,       TOOK,    SOON,     V.FINISH),
    (at(P.COMMITTING, D.SENT, source_ended=True),       GAVE,       GONE,    SOON,     V.CRASHED),
    (at(P.COMMITTING, D.SENT, source_ended=True),       GAVE,       SILENT,  SOON,     V.WAIT),
    (at(P.COMMITTING, D.SENT, source_ended=True),       GAVE,       SILENT,  TOO_LATE, V.LIMBO),
    (at(P.COMMITTING, D.SENT, source_ended=True),       RUNS_ALONE, TOOK,    SOON,     V.LIMBO),
    # The target was seen running.
    (at(P.FINISHING, D.SENT),                           GAVE,       TOOK,    SOON,     V.FINISH),
    (at(P.FINISHING, D.SENT),                           GONE,       SILENT,  TOO_LATE, V.FINISH),
    (at(P.FINISHING, D.SENT),                           GAVE,       GONE,    SOON,     V.CRASHED),
    # Going back.
    (at(P.ROLLING_BACK),                                GAVE,       HAS_ALL, SOON,     V.ROLL_BACK),
    (at(P.ROLLING_BACK),                                RUNS_ALONE, GONE,    SOON,     V.ROLL_BACK),
    (at(P.ROLLING_BACK),                                GONE,       HAS_ALL, SOON,     V.LOST_SOURCE),
    # The guest stands still all the time.
    (at(P.MIRRORING),                                   READY,      WAITS,   SOON,     V.CONTINUE),
    (at(P.PRECOPY),                                     STANDS,     WAITS,   SOON,     V.CONTINUE),
    (at(P.PRECOPY),                                     FELL_BACK_PAUSED, GONE, SOON,  V.ROLL_BACK),
    (at(P.SWITCHOVER, D.SENT),                          FELL_BACK_PAUSED, HAS_ALL, SOON, V.ROLL_BACK),
    (at(P.COMMITTING, D.SENT, source_ended=True),       FELL_BACK_PAUSED, HAS_ALL, SOON, V.COMMIT),
    # The guest is switched off, and nothing was started on the target yet.
    (at(P.POWERING_OFF, off=True),                      RUNS_ALONE, TAKES_DISKS, SOON, V.CONTINUE),
    (at(P.POWERING_OFF, off=True),                      OFF,        TAKES_DISKS, SOON, V.CONTINUE),
    (at(P.POWERING_OFF, off=True),                      GONE,       TAKES_DISKS, SOON, V.ROLL_BACK),
    (at(P.POWERING_OFF, off=True),                      RUNS_ALONE, GONE,    SOON,     V.ROLL_BACK),
    (at(P.POWERING_OFF, off=True),                      SILENT,     TAKES_DISKS, SOON, V.WAIT),
    (at(P.POWERING_OFF, off=True),                      SILENT,     TAKES_DISKS, TOO_LATE, V.ROLL_BACK),
    (at(P.POWERING_OFF, off=True),                      RUNS_ALONE, TOOK,    SOON,     V.LIMBO),
    (at(P.STARTING, off=True, mirrored=True),           OFF,        TAKES_DISKS, SOON, V.CONTINUE),
    (at(P.STARTING, off=True, mirrored=True),           GONE,       TAKES_DISKS, SOON, V.CONTINUE),
    (at(P.STARTING, off=True, mirrored=True),           GONE,       GONE,    SOON,     V.CONTINUE),
    (at(P.STARTING, off=True, mirrored=True),           GONE,       READY,   SOON,     V.CONTINUE),
    (at(P.STARTING, off=True, mirrored=True, source_ended=True), SILENT, GONE, SOON,   V.CONTINUE),
    (at(P.STARTING, off=True, mirrored=True),           SILENT,     GONE,    SOON,     V.WAIT),
    (at(P.STARTING, off=True, mirrored=True),           SILENT,     GONE,    TOO_LATE, V.ROLL_BACK),
    (at(P.STARTING, off=True, mirrored=True),           GONE,       SILENT,  SOON,     V.WAIT),
    (at(P.STARTING, off=True, mirrored=True),           GONE,       SILENT,  TOO_LATE, V.ROLL_BACK),
    (at(P.STARTING, off=True, mirrored=True),           RUNS_ALONE, READY,   SOON,     V.ROLL_BACK),
    (at(P.STARTING, off=True, mirrored=True),           GONE,       RUNS_ANEW, SOON,   V.LIMBO),
    (at(P.COMMITTING, D.SENT, off=True, source_ended=True), GONE,   READY,   SOON,     V.COMMIT),
    (at(P.COMMITTING, D.SENT, off=True, source_ended=True), GONE,   RUNS_ANEW, SOON,   V.FINISH),
    (at(P.COMMITTING, D.SENT, off=True, source_ended=True), GONE,   GONE,    SOON,     V.CRASHED),
    (at(P.COMMITTING, D.SENT, off=True, source_ended=True), GONE,   SILENT,  TOO_LATE, V.LIMBO),
    (at(P.COMMITTING, D.SENT, off=True, source_ended=True), RUNS_ALONE, READY, SOON,   V.ROLL_BACK),
    (at(P.ROLLING_BACK, off=True),                      GONE,       GONE,    SOON,     V.ROLL_BACK),
    (at(P.ROLLING_BACK, off=True),                      OFF,        TAKES_DISKS, SOON, V.ROLL_BACK),
]
# fmt: on


@pytest.mark.parametrize(("state", "source", "target", "waited", "verdict"), TABLE)
def test_table(state: State, source: GuestView, target: GuestView, waited: float, verdict: Verdict) -> None:
    ruling = recover(state, source, target, waited)

    assert ruling.verdict is verdict, ruling.why
    assert ruling.why


def test_a_new_runner_does_not_trust_copies_whose_end_it_has_not_seen() -> None:
    held = at(P.SWITCHOVER, D.SENT)

    assert recover(held, HELD, WAITS, SOON, restarted=True).verdict is V.ROLL_BACK
    assert recover(at(P.SWITCHOVER, D.SENT, mirrored=True), HELD, WAITS, SOON, restarted=True).verdict is V.GO_ON


def everything() -> Iterator[tuple[State, GuestView, GuestView, float]]:
    """Every phase, door, memory of the state, and every sight of both sides, at all ages of the silence."""
    closed, armed, sent = (D.CLOSED,), (D.ARMED, D.SENT), (D.SENT,)
    doors = {
        P.PREPARING: closed,
        P.MIRRORING: closed,
        P.PRECOPY: closed,
        P.SWITCHOVER: armed,
        P.COMMITTING: sent,
        P.POSTCOPY: sent,
        P.FINISHING: sent,
        P.ROLLING_BACK: closed,
        P.LIMBO: tuple(Door),
    }
    blind = {R.ABSENT, R.UNREACHABLE}  # where nobody answers there is no word of a stream, either
    sights = [GuestView(state, stream) for state, stream in product(RunState, StreamStatus) if state not in blind]
    sights += [GuestView(state) for state in blind]
    told_apart = {S.NONE, S.ACTIVE, S.COMPLETED, S.FAILED, S.POSTCOPY, S.BROKEN}  # the rest says nothing of a target
    targets = [sight for sight in sights if sight.stream in told_apart]
    for phase, possible in doors.items():
        states = [
            at(phase, door, source_ended=ended, turned_back=back, mirrored=mirrored)
            for door, ended, back in product(possible, (False, True), (False, True))
            for mirrored in ((False, True) if phase in {P.SWITCHOVER, P.LIMBO} else (False,))
        ]
        yield from product(states, sights, targets, (SOON, LATE, TOO_LATE))
    plainly = [GuestView(state) for state in RunState]  # a guest that is switched off has no stream
    for phase, possible in {**doors, P.POWERING_OFF: closed, P.STARTING: closed}.items():
        states = [
            at(phase, door, source_ended=ended, turned_back=back, mirrored=mirrored, off=True)
            for door, ended in product(possible, (False, True))
            for back, mirrored in product((False, True), (False, True))
        ]
        yield from product(states, plainly, plainly, (SOON, LATE, TOO_LATE))


@pytest.mark.parametrize("share", [11, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_safety_in_every_possible_sight(share: int) -> None:
    """One pass over everything that can be seen, or each so many-th of it; each line is a promise of the law."""
    count = 0
    for state, source, target, waited in islice(everything(), 0, None, share):
        restarted = count % 2 == 0
        verdict = recover(state, source, target, waited, restarted=restarted).verdict
        sight = (state, source, target, waited, restarted)
        sent = state.door is D.SENT
        streaming = source.stream in {S.SETUP, S.ACTIVE, S.HELD, S.SWITCHOVER}
        count += 1

        assert not (source.state is R.RUNNING and target.state is R.RUNNING) or verdict is V.LIMBO, sight
        if verdict is V.COMMIT:
            assert target.state is R.PAUSED, sight
            over = {S.POSTCOPY, S.BROKEN}
            complete = target.stream is S.COMPLETED or (state.way is Way.OFF and sent)
            assert complete or target.stream in over, sight
            assert source.state is not R.RUNNING, sight
            proven = source.state is R.POSTMIGRATE or Side.SOURCE.value in state.ended or source.stream in over
            assert proven or state.phase is P.COMMITTING, sight
        if verdict is V.ROLL_BACK:
            assert target.state is not R.RUNNING, sight
            assert state.phase not in {P.FINISHING, P.POSTCOPY}, sight
            if sent:  # the target is proven not to have run: the source runs or streams, or the target waits
                proven = source.state is R.RUNNING or (streaming and state.phase is not P.COMMITTING)
                alone = target.state is R.ABSENT and source.state in {R.PAUSED, R.POWERED_OFF, R.OTHER}
                broke = source.state is R.PAUSED and source.stream in {S.FAILED, S.CANCELLED}
                alone = alone or (broke and target.state is R.PAUSED)
                assert proven or (alone and state.phase is not P.COMMITTING) or target.state is R.INCOMING, sight
        if verdict is V.FINISH:
            assert target.state is R.RUNNING or state.phase in {P.FINISHING, P.POSTCOPY}, sight
        if verdict in {V.CRASHED, V.LOST_SOURCE}:
            assert source.state is not R.RUNNING or state.phase in {P.FINISHING, P.POSTCOPY}, sight
        if verdict is V.CRASHED:
            assert target.state is R.ABSENT or (state.phase is P.POSTCOPY and source.state is R.ABSENT), sight
        if verdict is V.LOST_SOURCE:
            assert not sent, sight
        if verdict is V.WAIT:
            assert waited < PATIENCE, sight
        # A held guest goes on only with its disks.
        assert verdict is not V.GO_ON or (state.mirrored and source.stream is S.HELD), sight
        assert verdict is not V.END_MIRRORS or (not state.mirrored and source.stream is S.HELD), sight

    assert count > 500_000 / share


def test_a_closed_door_and_a_source_in_sight_never_ends_in_limbo_without_a_running_target() -> None:
    for state, source, target, waited in everything():
        if state.door is not D.CLOSED or target.state is R.RUNNING:
            continue
        if source.state in {R.ABSENT, R.UNREACHABLE} or source.stream in {S.POSTCOPY, S.BROKEN}:
            continue
        assert recover(state, source, target, waited).verdict is not V.LIMBO, (state, source, target)


def test_the_reason_is_a_sentence_for_people() -> None:
    why = recover(at(P.SWITCHOVER, D.SENT), GAVE, GONE, SOON).why

    assert "former runner" in why
