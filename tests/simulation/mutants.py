"""Defects that are planted in the real code, the engine's and the core's, to show that the simulation finds each."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from godwit.core import events as e
from godwit.core import finishing, machine, recovery, rollback
from godwit.core.machine import TRANSITIONS, Step
from godwit.core.recovery import Verdict
from godwit.core.state import Door, Held, Phase, State
from godwit.engine import (
    actions,
    devices,
    engine,
    mending,
    mirroring,
    observer,
    parts,
    settings,
    sides,
    standing,
    undoing,
)
from godwit.errors import GodwitError, JournalError, MonitorLostError, SupersededError
from godwit.model import Owner, RunState, Side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Plant = Callable[[pytest.MonkeyPatch], None]

_P = Phase


def _handler(phase: Phase, kind: type[e.Event], made: machine.Handler) -> Plant:
    return lambda patch: patch.setitem(TRANSITIONS, (phase, kind), made)


def _ruling(verdict: Verdict, made: Callable[[State, str], Step]) -> Plant:
    return lambda patch: patch.setitem(machine._RULINGS, verdict, made)


def _forced_back(state: State, _: object) -> Step:
    return rollback.begin(replace(state, door=Door.CLOSED, held=state.held | {Held.TARGET, Held.SOURCE_STOPPED}))


def _ignored(state: State, _: object) -> Step:
    return Step(state)


def _step_without(kind: type, name: str, *, says: str) -> Plant:
    async def nothing(_: object, __: object) -> e.Event:
        return e.Undone(says)

    return lambda patch: patch.setattr(kind, name, nothing)


# -- the journal -----------------------------------------------------------------------------------------------------


def _acts_before_it_writes(patch: pytest.MonkeyPatch) -> None:
    """Journal what follows from an event only when it was done."""
    written = engine.Engine._journalled

    async def late(self: engine.Engine, event: e.Event, result: Step) -> Step:
        for command in result.commands:
            if isinstance(command, e.ContinueTarget):
                self._start(command)
                await asyncio.sleep(0.005)
        return await written(self, event, result)

    patch.setattr(engine.Engine, "_journalled", late)


def _goes_on_without_journal(patch: pytest.MonkeyPatch) -> None:
    """Take a journal that cannot be written for a small matter."""
    written = engine.Engine._journalled

    async def careless(self: engine.Engine, event: e.Event, result: Step) -> Step:
        try:
            return await written(self, event, result)
        except SupersededError:
            raise
        except JournalError:
            return result

    patch.setattr(engine.Engine, "_journalled", careless)
    patch.setattr(engine, "_ON_THE_WAY", frozenset())


# -- what is seen ----------------------------------------------------------------------------------------------------


def _believes_old_looks(patch: pytest.MonkeyPatch) -> None:
    """Take a look that began before the last transition for one of now."""
    look = observer.Observer.observe

    async def observe(self: observer.Observer, delay: float, *, restarted: bool) -> e.Event:
        seen = await look(self, delay, restarted=restarted)
        self.began = math.inf
        return seen

    patch.setattr(observer.Observer, "observe", observe)


def _keeps_lost_monitors(patch: pytest.MonkeyPatch) -> None:
    """Go on with a monitor whose connection has ended."""

    async def watch(self: sides.Sides, side: Any, guest: Any, events: Any) -> None:
        del guest
        async for event in events:
            if event.kind == "LOST":
                self.emit(e.Lost(side))
                return
            self._take(side, event)

    async def look(self: sides.Sides, side: Any) -> Any:
        try:
            return await (await self.attach(side)).view()
        except GodwitError:
            return await self.parts.host(side).observe(self.parts.vm_on(side))

    patch.setattr(sides.Sides, "_watch", watch)
    patch.setattr(sides.Sides, "_look", look)


def _drops_another_monitor(patch: pytest.MonkeyPatch) -> None:
    """Let go of whatever monitor is open when one was lost."""

    async def look(self: sides.Sides, side: Side) -> Any:
        try:
            return await (await self.attach(side)).view()
        except MonitorLostError:
            self.guests.pop(side, None)
        except GodwitError:
            pass
        return await self._process(side)

    patch.setattr(sides.Sides, "_look", look)


def _fails_to_look(patch: pytest.MonkeyPatch) -> None:
    """Let a look fail where the host could not be asked: nothing follows from that."""

    async def process(self: sides.Sides, side: Side) -> Any:
        return await self.parts.host(side).observe(self.parts.vm_on(side))

    patch.setattr(sides.Sides, "_process", process)


def _evidence(name: str, made: Callable[[recovery.Seen], bool]) -> Plant:
    return lambda patch: patch.setattr(recovery.Seen, name, property(made))


# -- the door --------------------------------------------------------------------------------------------------------


def _commits_at_the_first_completed(state: State, event: e.Event) -> Step:
    if isinstance(event, e.StreamEnded):
        return machine._commit(replace(state, ended=machine._STREAMED))
    return Step(state)


def _commit_and_remove(state: State) -> Step:
    state = replace(state, phase=_P.COMMITTING, door=Door.SENT, owner=Owner.UNKNOWN)
    return Step(state, (e.ContinueTarget(), e.RemoveSource()))


def _goes_on_with_open_mirrors(state: State, event: e.Event) -> Step:
    if state.phase is _P.PRECOPY:
        state = machine._stopped(state, event).state
    return Step(replace(state, mirrored=True), (e.ContinueStream(),))


def _leaves_mirrors_open(patch: pytest.MonkeyPatch) -> None:
    for phase in (_P.PRECOPY, _P.SWITCHOVER):
        patch.setitem(TRANSITIONS, (phase, e.StreamHeld), _goes_on_with_open_mirrors)


def _done_at_once(state: State, _: e.Event) -> Step:
    running = machine._running(state, e.TargetRunning()).state
    return Step(replace(running, phase=_P.DONE, held=frozenset(), duties=frozenset()), (e.Finish(),))


def _without_devices(duties: Callable[[State], dict[str, e.Command]]) -> Callable[[State], dict[str, e.Command]]:
    return lambda state: {name: duty for name, duty in duties(state).items() if name != "PlugDevices"}


def _starts_beside_the_target(patch: pytest.MonkeyPatch) -> None:
    """Start a guest that was switched off where it was, whatever is left of it on the target."""

    async def start(self: standing.Standing, launch: Any) -> e.Event:
        source = self.actions.parts.source
        await source.prepare_launch(self.actions.parts.vm, launch)
        await source.launch(self.actions.parts.vm, launch)
        return e.Undone("RestorePower")

    patch.setattr(standing.Standing, "_start_on_the_source", start)


def _names_both_alike(patch: pytest.MonkeyPatch) -> None:
    """Ask for a guest's process by its name alone, where it has two on one host."""
    patch.setattr(parts.Parts, "vm_on", lambda self, _: replace(self.vm, sibling=""))


def _ends_by_name(patch: pytest.MonkeyPatch) -> None:
    """End what was started for the guest by its name: of two processes on one host that may be the other one."""

    async def destroy(self: undoing.Undoing, _: e.DestroyTarget) -> e.Event:
        guest = self.actions.sides.guests.pop(Side.TARGET, None)
        if guest is not None:
            await guest.close()
        await self.actions.parts.target.destroy(replace(self.actions.parts.vm_on(Side.TARGET), sibling=""))
        return e.Undone("DestroyTarget")

    patch.setattr(undoing.Undoing, "destroy_target", destroy)


# -- steps -----------------------------------------------------------------------------------------------------------


def _undoes_beside_what_is_under_way(patch: pytest.MonkeyPatch) -> None:
    async def at_once(_: engine.Engine) -> None:
        return

    patch.setattr(engine.Engine, "_settle_forward", at_once)


def _does_not_listen(patch: pytest.MonkeyPatch) -> None:
    async def deaf(_: engine.Engine) -> None:
        return

    patch.setattr(engine.Engine, "_listen_for_cancel", deaf)


def _destroys_nothing(patch: pytest.MonkeyPatch) -> None:
    async def nothing(self: undoing.Undoing, _: e.DestroyTarget) -> e.Event:
        guest = self.actions.sides.guests.pop(Side.TARGET, None)
        if guest is not None:
            await guest.close()
        return e.Undone("DestroyTarget")

    patch.setattr(undoing.Undoing, "destroy_target", nothing)


def _never_looks_by_itself(patch: pytest.MonkeyPatch) -> None:
    async def blind(_: engine.Engine) -> None:
        return

    patch.setattr(engine.Engine, "_look_now_and_then", blind)


def _drops_what_the_guest_needs(patch: pytest.MonkeyPatch) -> None:
    """Name a guest that could not be let run a leftover, as it once was."""
    patch.setattr(rollback, "_OWED", frozenset())


MUTANTS: Final[dict[str, Plant]] = {
    "the commit is journalled after `cont`": _acts_before_it_writes,
    "no record is durable": lambda patch: patch.setattr(machine, "_must_be_durable", lambda *_: False),
    "a journal that fails is ignored": _goes_on_without_journal,
    "a new runner takes an armed door for a closed one": lambda patch: patch.setattr(
        State, "inherited", lambda self: replace(self, door=Door.CLOSED) if self.door is Door.ARMED else self
    ),
    "an old look is believed": _believes_old_looks,
    "a lost monitor is used again": _keeps_lost_monitors,
    "another monitor is dropped than was lost": _drops_another_monitor,
    "a look fails with the journal": _fails_to_look,
    "a source that is gone is trusted": _evidence(
        "handed_over", lambda seen: seen.s in {RunState.POSTMIGRATE, RunState.ABSENT}
    ),
    "`cont` before both sides have completed": _handler(_P.SWITCHOVER, e.StreamEnded, _commits_at_the_first_completed),
    "a stream that may be complete is committed": _ruling(Verdict.CONTINUE, machine._recommit),
    "a failed `cont` counts as none": _handler(_P.COMMITTING, e.StepFailed, _forced_back),
    "a lost target counts as dead": _handler(_P.COMMITTING, e.Lost, _forced_back),
    "a cancel is obeyed behind the door": _handler(_P.COMMITTING, e.CancelRequested, _forced_back),
    "the source is resumed in postcopy": _handler(_P.POSTCOPY, e.CancelRequested, _forced_back),
    "the source of a crashed guest is resumed": _ruling(Verdict.CRASHED, _forced_back),
    "limbo is guessed": _ruling(Verdict.LIMBO, _forced_back),
    "the source is removed beside `cont`": lambda patch: patch.setattr(machine, "_commit", _commit_and_remove),
    "a duty is given up with the journal": lambda patch: patch.setattr(engine.Engine, "_is_duty", lambda *_: False),
    "done before its duties": _handler(_P.COMMITTING, e.TargetRunning, _done_at_once),
    "the stream goes on before its mirrors have ended": _leaves_mirrors_open,
    "a guest is started beside what is left of it": _starts_beside_the_target,
    "a process is ended by name": _ends_by_name,
    "two processes of a guest are called alike": _names_both_alike,
    "undo: the target is not destroyed": _destroys_nothing,
    "undo: the source is not resumed": _step_without(undoing.Undoing, "resume_source", says="ResumeSource"),
    "undo: images are left": _step_without(mirroring.Mirroring, "remove", says="RemoveImages"),
    "undo: the guest's settings are left": _step_without(settings.Settings, "restore", says="RestoreGuest"),
    "undo: a device is not given back": _step_without(devices.Devices, "plug", says="PlugDevices"),
    "what a former runner asked a guest to let go of is forgotten": lambda patch: patch.setattr(
        engine, "Devices", lambda actions, restarted: devices.Devices(actions, restarted=restarted is None)
    ),
    "a guest that may yet let go is not waited for": lambda patch: patch.setattr(devices, "LATE", -1.0),
    "a device is forgotten when the guest has moved": lambda patch: patch.setattr(
        finishing, "_duties", _without_devices(finishing._duties)
    ),
    "undo: the send queue stays short": _step_without(undoing.Undoing, "restore_send_queue", says="RestoreSendQueue"),
    "undo beside what is still under way": _undoes_beside_what_is_under_way,
    "a wish to cancel is not heard": _does_not_listen,
    "a wish to cancel is not heard while disks travel": _handler(_P.MIRRORING, e.CancelRequested, _ignored),
    "nobody looks again": _ruling(Verdict.WAIT, _ignored),
    "what was missed is never looked for": _never_looks_by_itself,
    "a guest that could not be resumed is a leftover": _drops_what_the_guest_needs,
    "a copy that stands still is waited for": lambda patch: patch.setattr(mirroring, "STALLED", math.inf),
    "a mended stream is broken again": lambda patch: patch.setattr(mending, "_LATE_NEWS", -1.0),
    "the new home is not recorded": _step_without(actions.Actions, "record_home", says="RecordHome"),
    "a guest that may have gone over is taken back": _evidence("may_have_gone_over", lambda _: False),
    "a crashed guest has no duties": lambda patch: patch.setattr(finishing, "_DUTIES_OF_THE_DEAD", frozenset()),
}


def first_seed(name: str, seeds: Iterator[int]) -> tuple[int, str] | None:
    """Return the first seed whose story finds a mutant, and by what; None where none does."""
    from story import run  # noqa: PLC0415 - the story imports what is patched here

    with pytest.MonkeyPatch.context() as patch:
        MUTANTS[name](patch)
        for seed in seeds:
            found = run(seed)
            if found.violations:
                return seed, found.violations[0]
    return None
