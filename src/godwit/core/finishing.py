"""The end of a migration: the guest runs on the target, and what is left of it elsewhere is tidied up. Pure.

Each duty is idempotent, so a runner that follows another does again what is not known to be done. A duty that fails is
named to the user as a leftover; the guest's users never wait for one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from godwit.core import events as e
from godwit.core.rollback import with_leftover
from godwit.core.state import KEPT, Door, Failure, Held, Phase, State
from godwit.core.steps import Step
from godwit.model import Owner, Side, Way

_DUTIES_OF_THE_DEAD: Final = frozenset(
    {"RecordHome", "KeepImages", "CompareDisks", "RemoveCredentials", "RestoreSendQueue"}
)
"""What FINISHING does for a guest that has crashed on the target: its disks there are the newest."""

_RESTORES: Final = {
    "RestoreSendQueue": Held.SEND_QUEUE,
    "RestoreGuest": Held.GUEST,
    "PlugDevices": Held.DEVICES,
    "RemoveCredentials": Held.CREDENTIALS,
}

CRASHED: Final = "guest-crashed"
LOOK: Final = "Look"
"""The duty to look at both sides before the end, where something came up that a look explains."""


def begin(state: State) -> Step:
    """Tidy up after a guest that runs on the target, with all of its memory."""
    duties = _duties(state)
    state = replace(
        state,
        phase=Phase.FINISHING,
        owner=Owner.TARGET,
        door=Door.SENT,
        held=state.held & KEPT,
        duties=frozenset(duties),
        failure=None,
    )
    return Step(state, due(state))


def _duties(state: State) -> dict[str, e.Command]:
    duties: dict[str, e.Command] = {
        "Verify": e.Verify(),
        "RecordHome": e.RecordHome(),
        "RemoveSource": e.RemoveSource(),
    }
    if state.copies:
        duties["LeaveOldCopies"] = e.LeaveOldCopies(state.copies, unseen=state.alive is False)
    if any(copy.verify for copy in state.copies):
        duties["CompareDisks"] = e.CompareDisks(state.copies, state.encrypted)
    if state.made:
        duties["KeepImages"] = e.KeepImages(state.made)
    if Held.DEVICES in state.held:
        duties["PlugDevices"] = e.PlugDevices(Side.TARGET, state.devices)
    if Held.GUEST in state.held:
        duties["RestoreGuest"] = e.RestoreGuest(Side.TARGET, state.balloon)
    if state.encrypted:
        duties["RemoveCredentials"] = e.RemoveCredentials(Side.TARGET)
    return duties | {"RestoreSendQueue": e.RestoreSendQueue()}


def due(state: State) -> tuple[e.Command, ...]:
    """Return the duties that can be done now.

    A source is removed when nobody would start it again. Old disks are left behind when nobody has them open, nobody
    compares them, and the guest was seen; the new ones are tidied up when they are not compared any more, and keys are
    removed then.
    """
    before = {
        "RemoveSource": {"RecordHome"},
        "LeaveOldCopies": {"Verify", "RemoveSource", "CompareDisks", LOOK},
        "KeepImages": {"CompareDisks"},
        "RemoveCredentials": {"CompareDisks"},
    }
    return tuple(
        command
        for name, command in _duties(state).items()
        if name in state.duties and not before.get(name, set()) & state.duties
    )


def duty_done(state: State, event: e.Event) -> Step:
    """Take a duty off the list, do those that waited for it, and end the migration with the last one."""
    under_way = {type(command) for command in due(state)}
    match event:
        case e.Verified(alive=False):  # its process may be gone: that decides what is told
            return look(replace(state, alive=False, duties=state.duties - {"Verify"}))
        case e.Verified(alive=alive):
            state = replace(state, alive=alive, duties=state.duties - {"Verify"})
        case e.DisksCompared(comparison=comparison, leftover=leftover):
            # What the stamps say, that both were the same, is refuted or in doubt: the old disks are left alone.
            left_alone = set() if comparison.equal else {"LeaveOldCopies"}
            duties = state.duties - {"CompareDisks"} - left_alone
            state = with_leftover(replace(state, comparison=comparison, duties=duties), leftover)
        case e.SourceRemoved():
            state = replace(state, duties=state.duties - {"RemoveSource"})
        case e.Undone(step="RecordHome" | "KeepImages" | "LeaveOldCopies" as name, leftover=leftover):
            state = with_leftover(replace(state, duties=state.duties - {name}), leftover)
        case e.Undone(step=name, leftover=leftover) if name in _RESTORES:
            held = state.held - {_RESTORES[name]}
            state = with_leftover(replace(state, held=held, duties=state.duties - {name}), leftover)
        case e.StepFailed(code="limbo", message=message):  # the source was seen running: two copies, and no success
            return limbo(state, message)
        case e.StepFailed(step=name, message=message) if name in state.duties:
            held = state.held - {_RESTORES[name]} if name in _RESTORES else state.held
            state = with_leftover(replace(state, held=held, duties=state.duties - {name}), message)
        case _:
            return Step(state)
    return _go_on(state, under_way)


def look(state: State) -> Step:
    """Do not end before both sides were looked at: the guest may have died where it has just begun to run."""
    return Step(replace(state, duties=state.duties | {LOOK}), (e.Observe(),))


def looked(state: State) -> Step:
    """Go on: what both sides show is no reason to say anything else of the guest."""
    return _go_on(replace(state, duties=state.duties - {LOOK}), {type(command) for command in due(state)})


def _go_on(state: State, under_way: set[type[e.Command]]) -> Step:
    if state.duties:
        return Step(state, tuple(command for command in due(state) if type(command) not in under_way))
    return Step(replace(state, phase=Phase.FAILED if state.failure else Phase.DONE), (e.Finish(),))


def crashed(state: State, story: str) -> Step:
    """Say that the guest died on the target, and do what is due even so: its disks there are its own."""
    failure = Failure(CRASHED, story, "the source's copy is stale; start the guest anew from its disks")
    if state.failure != failure and state.phase is Phase.POSTCOPY:
        state = with_leftover(state, "a process of the guest may wait for memory that is gone: end it on both hosts")
    elif state.failure != failure and state.way is not Way.OFF:
        state = with_leftover(state, "the source may keep the guest's stopped, stale process")
    duties = {name: command for name, command in _duties(state).items() if name in _DUTIES_OF_THE_DEAD}
    held = state.held & {Held.SEND_QUEUE, Held.CREDENTIALS}
    state = replace(state, owner=Owner.TARGET, door=Door.SENT, held=held, duties=frozenset(duties), failure=failure)
    return Step(replace(state, phase=Phase.FINISHING), due(state))


def limbo(state: State, story: str) -> Step:
    """Give up, touching nothing: what both sides show does not say who runs, or may."""
    remedy = "look at both hosts (godwit status shows them) and decide which copy is to live: godwit recover says how"
    failure = Failure("limbo", story, remedy)
    return Step(replace(state, phase=Phase.LIMBO, owner=Owner.UNKNOWN, failure=failure), (e.Finish(),))
