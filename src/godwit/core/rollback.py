"""The way back: everything that a migration holds is released, newest first, each step with proof. Pure.

A step that fails is tried again when both sides have been looked at; what fails twice is named to the user as a
leftover, and the way back goes on. On the target it is tried once: a copy there is paused and stays so. A guest that
cannot be told to run on, its host being out of reach, is not left for a leftover: the migration is in LIMBO until it
can be seen again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from godwit.core import events as e
from godwit.core.state import Door, Failure, Held, Phase, State
from godwit.core.steps import Step
from godwit.model import Owner, Side

if TYPE_CHECKING:
    from collections.abc import Callable

UNDO_ORDER: Final[tuple[tuple[Held, Callable[[State], e.Command]], ...]] = (
    (Held.STREAM, lambda _: e.CancelStream()),
    (Held.MIRRORS, lambda state: e.CancelMirrors(state.copies)),
    (Held.TARGET, lambda _: e.DestroyTarget()),
    (Held.IMAGES, lambda state: e.RemoveImages(state.made)),
    (Held.SOURCE_STOPPED, lambda _: e.ResumeSource()),
    (Held.POWER, lambda state: e.RestorePower(state.launch)),
    (Held.DEVICES, lambda state: e.PlugDevices(Side.SOURCE, state.devices)),
    (Held.GUEST, lambda state: e.RestoreGuest(Side.SOURCE, state.balloon)),
    (Held.CREDENTIALS, lambda _: e.RemoveCredentials(Side.SOURCE)),
    (Held.SEND_QUEUE, lambda _: e.RestoreSendQueue()),
)
UNDO_STEPS: Final = {
    "CancelStream": Held.STREAM,
    "CancelMirrors": Held.MIRRORS,
    "DestroyTarget": Held.TARGET,
    "RemoveImages": Held.IMAGES,
    "ResumeSource": Held.SOURCE_STOPPED,
    "RestorePower": Held.POWER,
    "PlugDevices": Held.DEVICES,
    "RestoreGuest": Held.GUEST,
    "RemoveCredentials": Held.CREDENTIALS,
    "RestoreSendQueue": Held.SEND_QUEUE,
}
_ON_THE_TARGET: Final = frozenset({Held.TARGET, Held.IMAGES})
_OWED: Final = frozenset({Held.SOURCE_STOPPED, Held.POWER})
"""What the guest itself is owed: to run."""

_RETRY_DELAY: Final = 0.3
SEEN: Final = "see to it that the source's host can be reached; the next godwit command lets the guest run on"
LOOK_AND_RETRY: Final = "the guest runs on; look at both QEMUs' logs and at the migration link, then migrate again"


def with_leftover(state: State, leftover: str) -> State:
    """Add what could not be tidied up, if anything, to what the user is told of."""
    return replace(state, leftovers=(*state.leftovers, leftover)) if leftover else state


def is_owed(state: State) -> bool:
    """Say whether the guest stands still until what was done to it is undone: nothing else may take time then."""
    return bool(state.held & _OWED)


def begin(state: State) -> Step:
    """Start to undo. The caller has proven that the target never ran, or knows that it was never told to."""
    state = replace(state, phase=Phase.ROLLING_BACK, door=Door.CLOSED, owner=Owner.SOURCE, ended=frozenset())
    return next_undo(state, again=state.held <= state.tried)


def next_undo(state: State, *, again: bool = False) -> Step:
    """Go on with what was not tried yet; what failed once is tried again when both sides have been looked at."""
    for held, command in UNDO_ORDER:
        if held in state.held and (again or held not in state.tried):
            return Step(state, (command(state),))
    if state.held:
        return Step(state, (e.Observe(_RETRY_DELAY),))
    phase = Phase.CANCELLED if state.cancel_requested and state.failure is None else Phase.FAILED
    return Step(replace(state, phase=phase), (e.Finish(),))


def undone(state: State, event: e.Event) -> Step:
    """Let go of what a step has released, or has failed to release twice, and go on with the next."""
    name, leftover = (event.step, event.leftover) if isinstance(event, e.Undone) else ("", "")
    if isinstance(event, e.StepFailed):
        name, leftover = event.step, event.message
    held = UNDO_STEPS.get(name)
    if held is None or held not in state.held:
        return Step(state)
    if isinstance(event, e.StepFailed) and held not in _ON_THE_TARGET | state.tried:
        # The source may only have been out of reach; a target that cannot be reached is paused and stays so.
        return next_undo(replace(state, tried=state.tried | {held}))
    if held is Held.TARGET and leftover and Held.IMAGES in state.held:
        # Whatever has them open may still be there.
        images = ", ".join(copy.image.path for copy in state.made)
        state = with_leftover(replace(state, held=state.held - {Held.IMAGES}), f"images made on the target: {images}")
    if held is Held.SOURCE_STOPPED and leftover and not isinstance(event, e.StepFailed):
        # A guest that does not run where it was is no success of whoever wished that it stays.
        state = state.with_failure(Failure("guest-lost", leftover, "see what is left of it; start it from its disks"))
    if isinstance(event, e.StepFailed) and held in _OWED:
        failure = Failure("limbo", f"the guest belongs to the source, and may stand still there: {event.message}", SEEN)
        return Step(replace(state, phase=Phase.LIMBO, owner=Owner.UNKNOWN, failure=failure), (e.Finish(),))
    # What fails at its second try was given all the patience that there is: the others are not waited for once more.
    again = isinstance(event, e.StepFailed) and held in state.tried
    return next_undo(with_leftover(replace(state, held=state.held - {held}), leftover), again=again)


def refuse(state: State, event: e.Event) -> Step:
    """End a migration that holds nothing yet."""
    failure = _failure_of(event)
    if isinstance(event, e.CancelRequested):
        return Step(replace(state, phase=Phase.CANCELLED, cancel_requested=True), (e.Finish(),))
    return Step(replace(state.with_failure(failure), phase=Phase.FAILED), (e.Finish(),))


def _failure_of(event: e.Event) -> Failure:
    match event:
        case e.StepFailed(code=code, message=message, remedy=remedy):
            return Failure(code, message, remedy or LOOK_AND_RETRY)
        case e.GiveUp(code=code, reason=reason, remedy=remedy):
            return Failure(code, reason, remedy)
        case e.MirrorLost(name=name, reason=reason):
            why = f"the copy of disk {name} ended: {reason or 'nobody knows why'}"
            return Failure(
                "disk-copy", why, "see the room on the target's disk and the migration link; " + LOOK_AND_RETRY
            )
        case _:
            return Failure("interrupted", "the migration was interrupted")


def go_back(state: State, event: e.Event) -> Step:
    """Undo because a step failed, a limit was passed or somebody asked.

    Behind a door that a former runner may have opened only evidence can lead back.
    """
    if isinstance(event, e.CancelRequested):
        state = replace(state, cancel_requested=True)
    else:
        state = state.with_failure(_failure_of(event))
    # A guest that was told to go over may do so at this very instant.
    return Step(state, (e.Observe(),)) if state.door is Door.SENT or state.postcopy else begin(state)
