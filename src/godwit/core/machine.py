"""The life of one migration: `step(state, event) -> Step(state, commands, durable)`.

The one law: at most one copy of a guest ever executes, and its disks have one writer.

- The target starts with `-S`. The command that makes it run (ContinueTarget) is issued only when both sides said
  `completed`, or said that they go over to postcopy (`godwit.core.postcopy`), and the record that arms the door is
  durable. QEMU guards nothing here: after completion `cont` succeeds on the source and on the target, and both run.
- Once ContinueTarget was issued, ResumeSource may never be, unless the target is proven not to have executed.
- A guest whose disks are copied stands still, held before the switchover, until every copy is complete and ended; only
  then is its stream told to go on. So a target that has received everything has its disks, too.
- A guest that is switched off for its move (`godwit.core.offline`) is started anew on the target only when its process
  on the source is proven gone and its disks are there.
- Where nobody can know who owns the guest, a person may say it (`godwit.core.resolving`); what both hosts show goes
  before that word.
- Everything that a migration holds is in `State.held` before it is acquired; a rollback is the way back through it.

TRANSITIONS holds every (phase, event) pair that means something. LATE names those that may arrive after their time
and mean nothing then. Any other pair is a defect and raises IllegalTransitionError with the whole story.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from godwit.core import events as e
from godwit.core import finishing, offline, postcopy, resolving, rollback, unplugging
from godwit.core.recovery import PATIENCE, Seen, Verdict, recover
from godwit.core.state import Door, Failure, Held, Phase, State, assert_law
from godwit.core.steps import Step
from godwit.core.strategy import PAUSE, POSTCOPY
from godwit.model import Owner, Side, StreamStatus, Way

__all__ = ["LATE", "TRANSITIONS", "Handler", "IllegalTransitionError", "Step", "step"]


class IllegalTransitionError(Exception):
    """An event came that its phase knows nothing of: a defect in Godwit."""

    def __init__(self, state: State, event: e.Event) -> None:
        """Keep the whole story."""
        super().__init__(f"{type(event).__name__} in {state.phase}: {event!r} with {state!r}")


Handler = Callable[[State, e.Event], Step]

_GO_ON_AGAIN: Final = 0.05
"""Seconds until a source that did not let its held stream go on is told to once more."""

_STREAMED: Final = frozenset({Side.SOURCE.value, Side.TARGET.value})
_OUT_OF_SIGHT: Final = frozenset({"monitor-lost", "host-unreachable"})
_BESIDE_COPIES: Final = frozenset({"StartMirrors", "UnplugDevices"})
_LOOKS_AGAIN: Final = 0.3


def step(state: State, event: e.Event) -> Step:
    """Return what follows from `event`; the state given is not changed.

    Raises IllegalTransitionError for an event that cannot happen in this phase, LawBrokenError if the result
    contradicted the law.
    """
    handler = TRANSITIONS.get((state.phase, type(event)))
    if handler is None:
        if state.finished or (state.phase, type(event)) in LATE:
            return Step(state)
        raise IllegalTransitionError(state, event)
    result = handler(state, event)
    assert_law(result.state)
    return replace(result, durable=_must_be_durable(state, result.state))


def _must_be_durable(old: State, new: State) -> bool:
    """One-way doors and undos are on disk before they are acted upon; the step through an armed door adds nothing."""
    if new.phase is Phase.COMMITTING and old.door is not Door.CLOSED:
        return False
    another_way = new.way is not old.way or new.postcopy is not old.postcopy or new.resolution != old.resolution
    return new.phase is not old.phase or new.door is not old.door or another_way or not new.held <= old.held


# -- the way there -------------------------------------------------------------------------------------------------


def _begin(state: State, _: e.Event) -> Step:
    return Step(state, (e.Check(),))


def _checked(state: State, event: e.Event) -> Step:
    assert isinstance(event, e.Checked)  # noqa: S101 - the table says so; for the type checker
    images = {Held.IMAGES} if event.copies or event.media else set()
    guest = {Held.GUEST} if event.way is not Way.OFF else set()
    credentials = {Held.CREDENTIALS} if event.encrypted else set()
    held = frozenset({Held.TARGET, Held.SEND_QUEUE} | images | guest | credentials)
    state = replace(state, phase=Phase.PREPARING, held=held, copies=event.copies, way=event.way, launch=event.launch)
    state = replace(state, media=event.media, balloon=event.balloon, devices=event.devices)
    return Step(state, (e.CopyMedia(event.media, event.encrypted),)) if event.media else _prepare(state, event)


def _prepare(state: State, _: e.Event) -> Step:
    """Prepare both sides; what the target's QEMU opens at its start is there by now."""
    return Step(state, (e.PrepareTarget(state.copies, state.encrypted), e.PrepareSource(state.encrypted)))


def _prepared(state: State, event: e.Event) -> Step:
    if isinstance(event, e.TargetPrepared):
        prepared = state.prepared | {Side.TARGET.value}
        state = replace(state, prepared=prepared, uri=event.uri, disks_uri=event.disks_uri)
    else:
        state = replace(state, prepared=state.prepared | {Side.SOURCE.value})
    if state.prepared != _STREAMED:
        return Step(state)
    if state.way is not Way.STATIC:
        return _carry(state, event)
    # One that stands still can let go of nothing.
    return unplugging.begin(state) if state.unplugged else _stand_still(state)


def _stand_still(state: State) -> Step:
    """Let the guest stand still all the way: it runs again on every way back, and that is held before it is stopped."""
    return Step(replace(state, held=state.held | {Held.SOURCE_STOPPED}), (e.StopSource(),))


def _carry(state: State, event: e.Event) -> Step:
    """Let the disks travel, if there are any that must, or else the guest."""
    if not state.copies:
        return _start_stream(state, event)
    state = replace(state, phase=Phase.MIRRORING, held=state.held | {Held.MIRRORS})
    return Step(state, (_mirror(state),))


def _mirror(state: State) -> e.Command:
    return e.StartMirrors(state.disks_uri, state.copies, state.encrypted, state.uri)


def _mirrors_ready(state: State, event: e.Event) -> Step:
    """Let the guest follow its disks: the target listens for it only now."""
    assert isinstance(event, e.MirrorsReady)  # noqa: S101 - the table says so; for the type checker
    return _start_stream(replace(state, uri=event.uri or state.uri), event)


def _start_stream(state: State, _: e.Event) -> Step:
    if state.way is Way.OFF:
        return offline.power_off(state)
    if state.unplugged and Held.DEVICES not in state.held:
        return unplugging.begin(state)
    devices = {Held.DEVICES} if state.devices else set()
    held = state.held | {Held.STREAM, Held.SOURCE_STOPPED} | devices
    return Step(replace(state, phase=Phase.PRECOPY, held=held), (e.StartStream(state.uri),))


def _unplugged(state: State, event: e.Event) -> Step:
    """Send what the guest is now; one that is to stand still can do so when it has let go."""
    if state.way is not Way.STATIC:
        return _start_stream(state, event)
    return Step(state) if Held.SOURCE_STOPPED in state.held else _stand_still(state)


def _end_mirrors(state: State, _: e.Event) -> Step:
    """End the copies now that nobody writes; in SWITCHOVER, whether the STOP before it was seen or not."""
    if state.phase is Phase.PRECOPY:
        state = _stopped(state, _).state
    return Step(state, (e.EndMirrors(state.copies),))


def _mirrors_ended(state: State, _: e.Event) -> Step:
    return Step(replace(state, mirrored=True), (e.ContinueStream(),))


def _mirror_lost(state: State, event: e.Event) -> Step:
    """Go back with the disks that the guest has; what ended as it should has nothing to lose any more."""
    return Step(state) if state.mirrored else rollback.go_back(state, event)


def _mirroring_step_failed(state: State, event: e.Event) -> Step:
    """Go back, unless only the way to a monitor was lost: the copies go on without us, some of them for hours."""
    if isinstance(event, e.StepFailed) and event.step in _BESIDE_COPIES and event.code in _OUT_OF_SIGHT:
        return Step(state, (e.Observe(_LOOKS_AGAIN),))
    return rollback.go_back(state, event)


def _nothing(state: State, _: e.Event) -> Step:
    return Step(state)


def _adjust(state: State, event: e.Event) -> Step:
    assert isinstance(event, e.Decided)  # noqa: S101 - the table says so; for the type checker
    if event.action == POSTCOPY:
        return postcopy.begin(state)
    if event.action == PAUSE:  # from here on it travels as one that stands still all the way
        return Step(state if state.way is Way.STATIC else replace(state, way=Way.STATIC), (e.StopSource(),))
    return Step(state, (e.Adjust(event.parameters, event.reason),) if event.parameters else ())


def _stopped(state: State, _: e.Event) -> Step:
    """Arm the door while the last of the stream is on its way, so that the journal stays out of the blackout."""
    return Step(replace(state, phase=Phase.SWITCHOVER, door=Door.ARMED))


def _stopped_by_qemu(state: State, event: e.Event) -> Step:
    """Take a stop for the beginning of the switchover, unless the guest has been told to stand still all the time."""
    return Step(state) if state.way is Way.STATIC else _stopped(state, event)


def _stream_ended(state: State, event: e.Event) -> Step:
    assert isinstance(event, e.StreamEnded)  # noqa: S101 - the table says so; for the type checker
    if event.status is not StreamStatus.COMPLETED:
        return _observe(state, event)  # what both sides show then decides, and says why
    state = replace(state, ended=state.ended | {event.side.value})
    if state.phase is Phase.PRECOPY:  # the STOP before it went unseen: a former runner died, or the connection did
        return _stopped(state, event)
    return _commit(state) if state.ended == _STREAMED else Step(state)


def _memory_ended(state: State, event: e.Event) -> Step:
    """Finish when both sides say that all memory is there; look where one says otherwise."""
    if isinstance(event, e.StreamEnded) and event.status is not StreamStatus.COMPLETED:
        return _observe(state, event)
    state = postcopy.with_ended(state, event)
    return _running(state, event) if postcopy.complete(state) else Step(state)


def _went_over(state: State, event: e.Event) -> Step:
    """Go through the door when both sides say that the guest goes over: the source stands still for good by then."""
    assert isinstance(event, e.WentOver)  # noqa: S101 - the table says so; for the type checker
    state = replace(state, postcopy=True, over=state.over | {event.side.value})
    if state.over != _STREAMED:
        return Step(state)
    return _commit(state) if state.phase is Phase.SWITCHOVER else _stopped(state, event)


def _commit(state: State) -> Step:
    """Go through the door. A held stream ended only because it was told to go on, when the disks were there."""
    ended = state.ended if state.postcopy else _STREAMED
    state = replace(
        state, phase=Phase.COMMITTING, door=Door.SENT, owner=Owner.UNKNOWN, ended=ended, mirrored=bool(state.copies)
    )
    return Step(state, (e.ContinueTarget(),))


def _started_anew(state: State, _: e.Event) -> Step:
    """Go through the door: the source's process is proven gone, the target's is ready, and the disks are there."""
    return _commit(state)


def _running(state: State, event: e.Event) -> Step:
    state = postcopy.with_ended(replace(state, door=Door.SENT), event)
    if not postcopy.complete(state):
        return postcopy.follow(state)
    return finishing.begin(state)


def _precopy_step_failed(state: State, event: e.Event) -> Step:
    """Go back, unless QEMU only did not take a parameter, or did not stop the guest: the stream runs on."""
    if isinstance(event, e.StepFailed) and event.step in {"Adjust", "StopSource", "GoOver"}:
        return Step(state)
    return rollback.go_back(state, event)


# -- when all that is known is what both sides show ----------------------------------------------------------------


def _observe(state: State, _: e.Event) -> Step:
    return Step(state, (e.Observe(),))


def _source_resumed(state: State, _: e.Event) -> Step:
    """Take back what its stop had led to: the source runs, so what the target holds may be older than the disks."""
    state = replace(state, ended=state.ended - {Side.SOURCE.value}, postcopy=False, over=frozenset())
    if state.door is Door.ARMED:
        state = replace(state, phase=Phase.PRECOPY, door=Door.CLOSED)
    return Step(state, (e.Observe(),))


def _step_failed_late(state: State, event: e.Event) -> Step:
    """Look, since a failed ContinueTarget proves nothing about who runs; give up when it says that it is at its end."""
    if isinstance(event, e.StepFailed) and event.code == "limbo":
        return finishing.limbo(state, event.message)
    if isinstance(event, e.StepFailed) and event.step == "EndMirrors":
        return rollback.go_back(state, event)
    if isinstance(event, e.StepFailed) and event.step == "ContinueStream":  # told at once, it would refuse at once
        return Step(state, (e.Observe(_GO_ON_AGAIN),))
    return _observe(state, event)


def _too_late(state: State, _: e.Event) -> Step:
    """Note a wish to cancel that came after the door, and do not obey it."""
    return Step(replace(state, cancel_requested=True))


def _observed(state: State, event: e.Event) -> Step:
    assert isinstance(event, e.Observed)  # noqa: S101 - the table says so; for the type checker
    if event.restarted:
        state = state.inherited()
    state = postcopy.with_ended(state, event)
    if state.phase is Phase.LIMBO:
        state = replace(state, failure=None)
    ruling = recover(state, event.source, event.target, event.waited, restarted=event.restarted)
    story = f"{ruling.why} (source: {event.source.state}, target: {event.target.state})"
    if event.source.stream is StreamStatus.FAILED and event.source.detail:
        story = f"{story}: {event.source.detail}"
    if state.phase is Phase.LIMBO and (ruling.verdict in resolving.OPEN or resolving.begun(state)):
        return _open(state, event, ruling.verdict, story)
    return _RULINGS[ruling.verdict](replace(state, resolution=None), story)


def _open(state: State, event: e.Observed, verdict: Verdict, story: str) -> Step:
    """Let a person's word decide what the evidence does not; else look again for as long as that may help."""
    if state.resolution is not None:
        seen = Seen(state, event.source, event.target, event.waited, event.restarted)
        return resolving.decide(state, seen, story, _commit)
    if verdict is not Verdict.LIMBO and event.waited < PATIENCE:
        return Step(state, (e.Observe(delay=0.3),))
    return finishing.limbo(state, story)


def _ruled_roll_back(state: State, story: str) -> Step:
    return rollback.begin(
        state
        if state.cancel_requested
        else state.with_failure(Failure("stream-failed", story, rollback.LOOK_AND_RETRY))
    )


def _ruled_lost_source(state: State, story: str) -> Step:
    """Remove what was prepared on the target: the guest is gone where it was."""
    if Held.POWER in state.held:  # it was to be switched off, and is: it is started anew where it was
        return _ruled_roll_back(state, story)
    failure = Failure("guest-lost", story, "start the guest again from its disks")
    return rollback.begin(replace(state, held=state.held - {Held.STREAM, Held.SOURCE_STOPPED}, failure=failure))


def _recommit(state: State, _: str) -> Step:
    """Go through the door although the stream's end went unseen: both sides show that only the target can go on."""
    return _commit(state)


_RULINGS: Final[dict[Verdict, Callable[[State, str], Step]]] = {
    Verdict.CONTINUE: lambda state, _: Step(state),
    Verdict.END_MIRRORS: lambda state, _: _end_mirrors(state, e.StreamHeld()),
    Verdict.GO_ON: lambda state, _: Step(state, (e.ContinueStream(),)),
    Verdict.MEND: lambda state, _: Step(state, (e.MendStream(postcopy.MEND_AGAIN),)),
    Verdict.WAIT: lambda state, _: Step(state, (e.Observe(delay=0.3),)),
    Verdict.COMMIT: _recommit,
    Verdict.FINISH: lambda state, _: _running(state, e.TargetRunning()),
    Verdict.ROLL_BACK: _ruled_roll_back,
    Verdict.CRASHED: finishing.crashed,
    Verdict.LOST_SOURCE: _ruled_lost_source,
    Verdict.LIMBO: finishing.limbo,
}


def _observed_while_finishing(state: State, event: e.Event) -> Step:
    """Do again what a former runner did not finish; every duty is idempotent. What has crashed stays so."""
    ruled = Step(state) if state.failure and state.failure.code == finishing.CRASHED else _observed(state, event)
    if ruled.state.phase is not Phase.FINISHING or (ruled.state.failure and ruled.state.failure != state.failure):
        return ruled
    went_on = finishing.looked(state) if finishing.LOOK in state.duties else Step(state)
    again = isinstance(event, e.Observed) and event.restarted and not went_on.state.finished
    return Step(went_on.state, finishing.due(went_on.state)) if again else went_on


def _observed_while_mirroring(state: State, event: e.Event) -> Step:
    """Follow copies that outlived their runner or its connection, or begin them; those that are followed are left."""
    ruled = _observed(state, event)
    goes_on = ruled == Step(state)
    return Step(state, (_mirror(state),)) if goes_on else ruled


def _observed_while_unplugging(state: State, event: e.Event) -> Step:
    """Do again what a former runner, or one whose monitor was lost, was at."""
    ruled = _observed(state, event)
    return unplugging.again(state) if ruled == Step(state) else ruled


def _observed_while_off(state: State, event: e.Event) -> Step:
    """Do again what a former runner was at: each of these commands finds out by itself how far it is."""
    ruled = _observed(state, event)
    goes_on = isinstance(event, e.Observed) and event.restarted and ruled == Step(state)
    return offline.again(state) if goes_on else ruled


def _observed_while_rolling_back(state: State, event: e.Event) -> Step:
    """Leave a step of the rollback that is under way alone; a new runner, or one that waits to try again, goes on."""
    ruled = _observed(state, event)
    under_way = isinstance(event, e.Observed) and not event.restarted and not state.held <= state.tried
    same = ruled.state.phase is Phase.ROLLING_BACK and ruled.state.held == state.held
    return Step(ruled.state) if under_way and same else ruled


def _lost_while_finishing(state: State, event: e.Event) -> Step:
    """Look when the target's monitor is lost; the source's ends because the source is removed."""
    return finishing.look(state) if isinstance(event, e.Lost) and event.side is Side.TARGET else Step(state)


# -- the table -----------------------------------------------------------------------------------------------------

_P = Phase
TRANSITIONS: Final[dict[tuple[Phase, type[e.Event]], Handler]] = {
    (_P.PENDING, e.Begin): _begin,
    (_P.PENDING, e.Checked): _checked,
    (_P.PENDING, e.StepFailed): rollback.refuse,
    (_P.PENDING, e.CancelRequested): rollback.refuse,
    (_P.PENDING, e.GiveUp): rollback.refuse,
    (_P.PREPARING, e.MediaCopied): _prepare,
    (_P.PREPARING, e.TargetPrepared): _prepared,
    (_P.PREPARING, e.SourcePrepared): _prepared,
    (_P.PREPARING, e.SourcePaused): _carry,
    (_P.PREPARING, e.StepFailed): rollback.go_back,
    (_P.PREPARING, e.CancelRequested): rollback.go_back,
    (_P.PREPARING, e.GiveUp): rollback.go_back,
    (_P.PREPARING, e.TargetRunning): _observe,
    (_P.PREPARING, e.Lost): _observe,
    (_P.PREPARING, e.Observed): _observed,
    (_P.MIRRORING, e.MirrorsReady): _mirrors_ready,
    (_P.MIRRORING, e.MirrorLost): _mirror_lost,
    (_P.MIRRORING, e.StepFailed): _mirroring_step_failed,
    (_P.MIRRORING, e.CancelRequested): rollback.go_back,
    (_P.MIRRORING, e.GiveUp): rollback.go_back,
    (_P.MIRRORING, e.TargetRunning): _observe,
    (_P.MIRRORING, e.Lost): _observe,
    (_P.MIRRORING, e.Observed): _observed_while_mirroring,
    (_P.UNPLUGGING, e.Unplugged): _unplugged,
    (_P.UNPLUGGING, e.SourcePaused): _carry,
    (_P.UNPLUGGING, e.MirrorLost): _mirror_lost,
    (_P.UNPLUGGING, e.StepFailed): _mirroring_step_failed,
    (_P.UNPLUGGING, e.CancelRequested): rollback.go_back,
    (_P.UNPLUGGING, e.GiveUp): rollback.go_back,
    (_P.UNPLUGGING, e.TargetRunning): _observe,
    (_P.UNPLUGGING, e.Lost): _observe,
    (_P.UNPLUGGING, e.Observed): _observed_while_unplugging,
    (_P.PRECOPY, e.MirrorLost): _mirror_lost,
    (_P.PRECOPY, e.StreamHeld): _end_mirrors,
    (_P.PRECOPY, e.StreamStarted): _nothing,
    (_P.PRECOPY, e.Decided): _adjust,
    (_P.PRECOPY, e.SourcePaused): _nothing,
    (_P.PRECOPY, e.WentOver): _went_over,
    (_P.PRECOPY, e.StreamBroke): _observe,
    (_P.PRECOPY, e.SourceStopped): _stopped_by_qemu,
    (_P.PRECOPY, e.StreamEnded): _stream_ended,
    (_P.PRECOPY, e.TargetRunning): _observe,
    (_P.PRECOPY, e.StepFailed): _precopy_step_failed,
    (_P.PRECOPY, e.CancelRequested): rollback.go_back,
    (_P.PRECOPY, e.GiveUp): rollback.go_back,
    (_P.PRECOPY, e.Lost): _observe,
    (_P.PRECOPY, e.Observed): _observed,
    (_P.SWITCHOVER, e.StreamHeld): _end_mirrors,
    (_P.SWITCHOVER, e.MirrorsEnded): _mirrors_ended,
    (_P.SWITCHOVER, e.MirrorLost): _mirror_lost,
    (_P.SWITCHOVER, e.WentOver): _went_over,
    (_P.SWITCHOVER, e.StreamBroke): _observe,
    (_P.SWITCHOVER, e.StreamEnded): _stream_ended,
    (_P.SWITCHOVER, e.SourceResumed): _source_resumed,
    (_P.SWITCHOVER, e.TargetRunning): _observe,
    (_P.SWITCHOVER, e.StepFailed): _step_failed_late,
    (_P.SWITCHOVER, e.CancelRequested): rollback.go_back,
    (_P.SWITCHOVER, e.GiveUp): rollback.go_back,
    (_P.SWITCHOVER, e.Lost): _observe,
    (_P.SWITCHOVER, e.Observed): _observed,
    (_P.POWERING_OFF, e.PoweredOff): offline.powered_off,
    (_P.POWERING_OFF, e.MirrorsEnded): offline.mirrors_ended,
    (_P.POWERING_OFF, e.MirrorLost): _mirror_lost,
    (_P.POWERING_OFF, e.TargetRunning): _observe,
    (_P.POWERING_OFF, e.StepFailed): rollback.go_back,
    (_P.POWERING_OFF, e.CancelRequested): rollback.go_back,
    (_P.POWERING_OFF, e.GiveUp): rollback.go_back,
    (_P.POWERING_OFF, e.Lost): _observe,
    (_P.POWERING_OFF, e.Observed): _observed_while_off,
    (_P.STARTING, e.SourceEnded): offline.source_ended,
    (_P.STARTING, e.TargetStarted): _started_anew,
    (_P.STARTING, e.TargetRunning): _observe,
    (_P.STARTING, e.StepFailed): rollback.go_back,
    (_P.STARTING, e.CancelRequested): rollback.go_back,
    (_P.STARTING, e.GiveUp): rollback.go_back,
    (_P.STARTING, e.Observed): _observed_while_off,
    (_P.COMMITTING, e.TargetRunning): _running,
    (_P.COMMITTING, e.StepFailed): _step_failed_late,
    (_P.COMMITTING, e.CancelRequested): _too_late,
    (_P.COMMITTING, e.Lost): _observe,
    (_P.COMMITTING, e.Observed): _observed,
    (_P.COMMITTING, e.StreamEnded): postcopy.ended_early,
    (_P.COMMITTING, e.StreamBroke): _observe,
    (_P.COMMITTING, e.SourceResumed): _observe,
    (_P.POSTCOPY, e.StreamEnded): _memory_ended,
    (_P.POSTCOPY, e.StreamBroke): postcopy.broke,
    (_P.POSTCOPY, e.StreamMended): _nothing,
    (_P.POSTCOPY, e.StepFailed): postcopy.failed,
    (_P.POSTCOPY, e.CancelRequested): _too_late,
    (_P.POSTCOPY, e.Lost): _observe,
    (_P.POSTCOPY, e.SourceResumed): _observe,
    (_P.POSTCOPY, e.Observed): _observed,
    (_P.FINISHING, e.Verified): finishing.duty_done,
    (_P.FINISHING, e.DisksCompared): finishing.duty_done,
    (_P.FINISHING, e.SourceRemoved): finishing.duty_done,
    (_P.FINISHING, e.Undone): finishing.duty_done,
    (_P.FINISHING, e.StepFailed): finishing.duty_done,
    (_P.FINISHING, e.CancelRequested): _too_late,
    (_P.FINISHING, e.Lost): _lost_while_finishing,
    (_P.FINISHING, e.Observed): _observed_while_finishing,
    (_P.ROLLING_BACK, e.TargetRunning): _observe,
    (_P.ROLLING_BACK, e.Undone): rollback.undone,
    (_P.ROLLING_BACK, e.StepFailed): rollback.undone,
    (_P.ROLLING_BACK, e.Observed): _observed_while_rolling_back,
    (_P.LIMBO, e.Observed): _observed,
    (_P.LIMBO, e.Resolved): resolving.resolved,
    (_P.LIMBO, e.Undone): resolving.ended,
    (_P.LIMBO, e.SourceEnded): resolving.ended,
    (_P.LIMBO, e.StepFailed): resolving.ended,
}

_IN_LIMBO: Final = frozenset(kind for phase, kind in TRANSITIONS if phase is Phase.LIMBO)

LATE: Final[frozenset[tuple[Phase, type[e.Event]]]] = frozenset(
    (phase, kind)
    for phase, kinds in {
        _P.MIRRORING: (
            *(e.SourceStopped, e.SourceResumed, e.StreamEnded, e.SourcePrepared, e.TargetPrepared, e.Decided),
            *(e.StreamStarted, e.StreamHeld, e.Unplugged, e.SourcePaused),
        ),
        _P.UNPLUGGING: (
            *(e.SourceStopped, e.SourceResumed, e.StreamEnded, e.SourcePrepared, e.TargetPrepared, e.Decided),
            *(e.StreamStarted, e.StreamHeld, e.MirrorsReady),
        ),
        _P.POWERING_OFF: (e.SourceStopped, e.SourceResumed, e.MirrorsReady, e.SourcePrepared, e.TargetPrepared),
        _P.STARTING: (e.SourceStopped, e.SourceResumed, e.PoweredOff, e.MirrorLost, e.MirrorsEnded, e.Lost),
        _P.PRECOPY: (e.SourceResumed, e.SourcePrepared, e.TargetPrepared, e.MirrorsReady, e.MirrorsEnded, e.Unplugged),
        _P.SWITCHOVER: (e.StreamStarted, e.Decided, e.SourceStopped, e.SourcePaused, e.MirrorsReady, e.Unplugged),
        _P.COMMITTING: (
            *(e.StreamStarted, e.Decided, e.SourceStopped, e.GiveUp, e.WentOver, e.SourcePaused),
            *(e.MirrorsReady, e.MirrorLost, e.StreamHeld, e.MirrorsEnded, e.StreamMended, e.Unplugged),
        ),
        _P.POSTCOPY: (
            *(e.StreamStarted, e.Decided, e.SourceStopped, e.SourcePaused, e.TargetRunning, e.GiveUp, e.WentOver),
            *(e.MirrorsReady, e.MirrorLost, e.StreamHeld, e.MirrorsEnded, e.Unplugged),
        ),
        _P.FINISHING: (
            *(e.StreamStarted, e.Decided, e.StreamEnded, e.SourceStopped, e.TargetRunning),
            *(e.GiveUp, e.SourceResumed, e.MirrorsReady, e.MirrorLost, e.StreamHeld, e.MirrorsEnded),
            *(e.SourcePaused, e.WentOver, e.StreamBroke, e.StreamMended, e.Unplugged),
        ),
        _P.ROLLING_BACK: tuple(
            kind for kind in e.EVENTS if kind not in {e.Undone, e.StepFailed, e.Observed, e.TargetRunning}
        ),
        _P.LIMBO: tuple(kind for kind in e.EVENTS if kind not in _IN_LIMBO),
        _P.PENDING: (e.Lost, e.Observed, e.SourceStopped, e.SourceResumed, e.StreamEnded),
        _P.PREPARING: (e.Begin, e.Checked, e.SourceStopped, e.SourceResumed, e.StreamEnded),
    }.items()
    for kind in kinds
) | {(phase, e.Resolved) for phase in Phase if phase is not Phase.LIMBO}
