"""The loop of one migration: event -> step -> journal -> commands -> events.

The engine decides nothing. It journals each step before it acts on it, carries commands out side by side, and ends
when the machine asks for Finish.
"""

from __future__ import annotations

import asyncio
import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from godwit.core import events as e
from godwit.core.capabilities import FIRST_DOWNTIME_LIMIT
from godwit.core.ledger import Ledger
from godwit.core.machine import Step, step
from godwit.core.rollback import is_owed
from godwit.core.state import Door, Phase, State
from godwit.core.strategy import Switchover
from godwit.engine.actions import Actions
from godwit.engine.comparing import Comparing
from godwit.engine.devices import Devices
from godwit.engine.expecting import Expecting
from godwit.engine.fencing import guard
from godwit.engine.hooking import Hooking
from godwit.engine.media import Media
from godwit.engine.mending import Mending
from godwit.engine.mirroring import Mirroring
from godwit.engine.observer import Observer
from godwit.engine.outside import Outside
from godwit.engine.power import Fences
from godwit.engine.recalling import Recalled
from godwit.engine.sampler import Sampler
from godwit.engine.settings import Settings
from godwit.engine.sides import Sides
from godwit.engine.standing import Standing
from godwit.engine.story import transition
from godwit.engine.undoing import Undoing
from godwit.engine.working import Working
from godwit.errors import GodwitError, JournalError, SupersededError
from godwit.model import Way
from godwit.ports import Entry
from godwit.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from godwit.engine.parts import Parts
    from godwit.model import Outcome

CANCEL_POLL: Final = 0.2
"""Seconds between looks into the journal for a request to cancel."""

WORD_VALID: Final = 600.0
"""Seconds for which a person's word about a migration in LIMBO counts: what it rests on was seen before it."""

SWITCHOVER_PATIENCE: Final = 5.0
"""Seconds that the guest may stand still before a switchover that does not end is taken back."""

HEARTBEAT: Final = 3.0
"""Seconds of quiet after which both sides are looked at: an event may have been missed."""

JOURNAL_PATIENCE: Final = 30.0
"""Seconds for which what is due after a move, and keys, wait for a journal that cannot be written."""

_WATCHED: Final = frozenset(
    {*(Phase.UNPLUGGING, Phase.PRECOPY, Phase.SWITCHOVER, Phase.POWERING_OFF, Phase.COMMITTING, Phase.POSTCOPY)}
)
_ON_THE_WAY: Final = frozenset(
    {
        *(Phase.PREPARING, Phase.MIRRORING, Phase.UNPLUGGING, Phase.PRECOPY, Phase.SWITCHOVER),
        *(Phase.POWERING_OFF, Phase.STARTING),
    }
)
_SETTLE_DEADLINE: Final = 30.0
"""Seconds that a target's start is waited for before it is undone: longer than any start may take."""

_UNDO: Final = (e.CancelStream, e.CancelMirrors, e.DestroyTarget, e.RemoveImages, e.ResumeSource, e.RestorePower)
_FORWARD: Final = (
    *(e.CopyMedia, e.PrepareTarget, e.PrepareSource, e.StartMirrors, e.UnplugDevices, e.StartStream, e.Adjust),
    *(e.EndMirrors, e.ContinueStream, e.StopSource, e.PowerOff, e.EndSource, e.StartTarget, e.GoOver, e.MendStream),
)
_TIDYING: Final = (
    *(e.RecordHome, e.RemoveSource, e.KeepImages, e.CompareDisks, e.RestoreGuest, e.RemoveCredentials),
    *(e.RestoreSendQueue, e.LeaveOldCopies, e.PlugDevices),
)
_TOLD: Final = (e.Decided, e.StreamMended)
"""What is journalled although nothing may follow from it."""

_STARTS: Final = (e.PrepareTarget, e.EndSource, e.StartTarget)
"""What is waited for before it is undone: a process that is just being started, or ended, must be found as it is."""


class Engine:
    """Runs one migration from wherever its journal says it stands to its end."""

    def __init__(self, parts: Parts, state: State | None = None) -> None:
        """Take a new migration (no state) or one whose former runner died."""
        self._parts = parts
        self._restarted = state is not None and state.phase is not Phase.PENDING
        self._state = state.inherited() if state else State()
        self._inbox: asyncio.Queue[e.Event] = asyncio.Queue()
        self._ledger = Ledger({"requested": parts.requested})
        first = Switchover(FIRST_DOWNTIME_LIMIT, bandwidth=parts.spec.policy.bandwidth or 0)
        self._recalled = Recalled(first, hooked=self._restarted and not self._state.finished)
        self._in_flight: dict[type[e.Command], asyncio.Task[None]] = {}
        self._helpers: list[asyncio.Task[None]] = []
        self._last_event = self._last_change = parts.clock.now()

    async def run(self) -> Outcome:
        """Carry the migration to its end and return how it ended.

        Raises JournalError when the journal cannot be written or another runner took over: nothing was done then
        that is not in the journal.
        """
        guard(self._parts)
        await self._recall()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._set_up(tasks)
                await self._loop()
                outcome = await self._finish()
                for task in (*self._helpers, *self._in_flight.values()):
                    task.cancel()
                await self._sides.close()
        except BaseExceptionGroup as group:
            await self._sides.close()
            if (broken := group.subgroup(JournalError)) is not None:
                raise _first(broken) from group
            raise
        return outcome

    def _set_up(self, tasks: asyncio.TaskGroup) -> None:
        """Make what works beside the loop, and start what watches."""
        self._tasks = tasks
        self._sides = Sides(self._parts, self._ledger, tasks, self._inbox.put_nowait)
        known = self._recalled
        self._actions = Actions(self._parts, self._sides, self._ledger, known.switchover, qemus=known.qemus)
        self._actions.encrypted = known.encrypted
        self._mirroring = Mirroring(self._actions, known.copied, known.allocations)
        self._working = Working(self._actions)
        self._actions.slowly = self._working.first_bandwidth
        self._sampler = Sampler(self._actions, self._inbox.put_nowait, self._mirroring.copied_so_far, self._working)
        self._sides.on_pass = self._sampler.poke
        self._media = Media(self._actions, known.copied)
        self._comparing = Comparing(self._actions)
        self._settings = Settings(self._actions)
        self._mending = Mending(self._actions)
        self._undoing = Undoing(self._actions)
        self._expecting = Expecting(self._actions)
        self._actions.choose = self._expecting.choose
        self._sides.on_mirror = self._mirroring.hear
        self._devices = Devices(self._actions, restarted=self._restarted)
        self._standing = Standing(self._actions, restarted=self._restarted)
        self._fences = Fences(self._parts)
        self._actions.encrypting.off = self._fences.off
        self._observer = Observer(self._parts.clock, self._sides, self._fences)
        self._outside = Outside(self._actions)
        self._hooking = Hooking(self._actions, reached=known.hooked, ended=known.hooks_ended)
        self._actions.before = self._hooking.before
        self._beside(self._listen_for_cancel())
        if self._state.phase is Phase.LIMBO:
            self._beside(self._listen_for_a_word())
        self._beside(self._look_now_and_then())
        deadline = self._parts.spec.policy.deadline
        if deadline is not None:
            self._beside(self._keep_deadline(deadline))

    def _beside(self, watch: Coroutine[None, None, None]) -> None:
        """Let something run beside the loop until the migration has ended."""
        self._helpers = [task for task in self._helpers if not task.done()]
        self._helpers.append(self._tasks.create_task(watch))

    async def _recall(self) -> None:
        """Take up the instants that a former runner saw, and what it told the source."""
        if not self._restarted and self._parts.epoch == 1:
            return
        self._recalled.learn(await self._parts.journal.entries(self._parts.spec.id), restarted=self._restarted)
        for name, at in self._recalled.marks.items():
            self._ledger.mark(name, at)

    async def _loop(self) -> None:
        if self._state.finished:  # the former runner died before it had written the outcome
            self._hooking.entered(self._state, self._tasks)
            return
        await self._begin()
        while True:
            event = await self._inbox.get()
            self._last_event = self._parts.clock.now()
            if isinstance(event, e.Observed) and self._observer.began < self._last_change:
                # What was seen before the last transition may contradict what is true since.
                self._start(e.Observe())
                continue
            if isinstance(event, e.SourceStopped) and self._state.way is Way.LIVE:
                self._sampler.follow(self._tasks, streaming=False)
            result = step(self._state, event)
            if result.state.phase is Phase.LIMBO and await self._fences.forced(self._state, event):
                self._start(e.Observe())
                continue
            result = await self._journalled(event, result)
            self._entered(self._state.phase, result.state.phase)
            self._hooking.entered(result.state, self._tasks)
            self._outside.listening.entered(result.state, self._tasks)
            if result.state != self._state:
                self._last_change = self._parts.clock.now()
            self._state = result.state
            if isinstance(event, e.Observed):
                self._observer.settled(again=any(isinstance(command, e.Observe) for command in result.commands))
            if any(isinstance(command, e.Finish) for command in result.commands):
                return
            for command in result.commands:
                self._start(command)

    async def _begin(self) -> None:
        """Begin, or go on: a person's word about a migration in LIMBO comes before a look, which follows from it."""
        if not self._restarted:
            self._inbox.put_nowait(e.Begin())
            return
        self._entered(Phase.PENDING, self._state.phase)
        self._hooking.entered(self._state, self._tasks)
        self._outside.listening.entered(self._state, self._tasks)
        if self._state.phase is not Phase.LIMBO or not await self._heard_a_word():
            self._start(e.Observe())

    async def _journalled(self, event: e.Event, result: Step) -> Step:
        """Write the step before it is acted upon, and return it.

        Where that is impossible, only the way back is open: what the disk says then (the guest was never handed over)
        stays true whatever the rollback does. Raises SupersededError.
        """
        if result.state == self._state and not result.commands and not isinstance(event, _TOLD):
            return result
        entry = Entry(0, self._parts.clock.now(), "transition", transition(event, result.state, result.commands))
        spec, epoch = self._parts.spec, self._parts.epoch
        try:
            await self._parts.journal.transition(spec.id, epoch, entry, result.state, durable=result.durable)
        except SupersededError:
            raise
        except JournalError as error:
            if result.state.phase in _ON_THE_WAY and result.durable:
                self._inbox.put_nowait(e.GiveUp(error.code, error.message, error.remedy))
                return Step(self._state)
            if result.state.door is Door.SENT and self._state.door is Door.CLOSED:
                raise
        return result

    def _entered(self, old: Phase, new: Phase) -> None:
        """Start and stop what runs beside a phase."""
        if new is old:
            return
        self._sampler.follow(self._tasks, streaming=new in {Phase.PRECOPY, Phase.POSTCOPY}, over=new is Phase.POSTCOPY)
        self._working_in(new)
        if new is Phase.PREPARING:
            self._outside.start(self._tasks)
            self._expecting.begin(self._tasks)
        if new is Phase.PRECOPY and self._state.fails_over:
            self._beside(self._keep_unplugging_short())
        if new is Phase.SWITCHOVER:
            limit = max(SWITCHOVER_PATIENCE, 10 * self._parts.spec.policy.max_downtime)
            self._beside(self._keep_switchover_short(limit))

    def _working_in(self, phase: Phase) -> None:
        """Look at what guests come to do, but not while the one that moves stands still."""
        self._working.hush(quiet=phase in {Phase.SWITCHOVER, Phase.COMMITTING})
        if phase in _ON_THE_WAY or phase in {Phase.POSTCOPY, Phase.FINISHING}:
            self._working.start(self._tasks)
        if phase in {Phase.MIRRORING, Phase.PRECOPY}:
            self._working.stream_begins()
        if self._restarted and self._state.way is not self._parts.spec.policy.way:  # it was paused: let it be quick
            self._working.let_go(0, "")
        if phase in {Phase.POSTCOPY, Phase.FINISHING}:
            self._working.handed_over()

    # -- carrying out ----------------------------------------------------------------------------------------------

    def _start(self, command: e.Command) -> None:
        """Carry a command out beside everything else; one whose like is still under way is not started twice.

        Changes to the running stream differ in what they change: each follows the one before.
        """
        kind = type(command)
        running = self._in_flight.get(kind)
        if running is not None and running.done():
            running = None
        if running is None or isinstance(command, e.Adjust):
            self._in_flight[kind] = self._tasks.create_task(self._carry_out(command, running), name=kind.__name__)

    async def _follow(self, before: asyncio.Task[None]) -> None:
        """Wait until another command was carried out; who is ended while it waits ends that one, too."""
        try:
            await asyncio.wait([before])
        finally:
            if not before.done():
                before.cancel()
                await asyncio.wait([before])

    async def _carry_out(self, command: e.Command, before: asyncio.Task[None] | None = None) -> None:
        if before is not None:
            await self._follow(before)
        try:
            if isinstance(command, _UNDO):
                await self._settle_forward()
            if isinstance(command, e.EndMirrors):  # one that has just begun to look at them would begin them anew
                await self._end(e.StartMirrors)
            event = await self._perform(command)
        except SupersededError:
            raise
        except GodwitError as error:
            if isinstance(error, JournalError) and self._is_duty(command):
                raise
            event = e.StepFailed(type(command).__name__, error.code, error.message, error.remedy)
        if event is not None:
            self._inbox.put_nowait(event)

    async def _perform(self, command: e.Command) -> e.Event | None:
        if isinstance(command, e.Observe):
            return await self._observer.observe(command.delay, restarted=self._restarted)
        if (done := self._fences.done(command)) is not None:
            return done
        if isinstance(command, (e.StopSource, e.PowerOff)) or (
            isinstance(command, e.StartStream) and self._parts.spec.upgrade is not None
        ):
            await self._outside.ready()  # the gap begins with this command, or an instant later
        if isinstance(command, e.Verify):
            return await self._outside.verify(self._tasks)
        if isinstance(command, _TIDYING) and e.Verify in self._in_flight:
            # Tidying up takes time from the guest in the very moment in which its users wait for it.
            await self._outside.seen(self._in_flight[e.Verify])
        perform: Callable[[e.Command], Awaitable[e.Event | None]] = self._table()[type(command)]
        if self._is_duty(command):
            return await self._tidied(functools.partial(perform, command), type(command).__name__)
        return await perform(command)

    def _is_duty(self, command: e.Command) -> bool:
        """Say whether it waits for the journal: what is due after a move, and keys on the way back, too."""
        tidying = isinstance(command, _TIDYING) and self._state.phase is Phase.FINISHING
        return tidying or isinstance(command, e.RemoveCredentials)

    async def _tidied(self, perform: Callable[[], Awaitable[e.Event | None]], name: str) -> e.Event | None:
        """Do a duty, again where only the journal keeps us from it: no connection is used that is not in it.

        Raises JournalError for one that cannot be written for JOURNAL_PATIENCE seconds. That ends this runner: a source
        that is still in the inventory could be started again, and the next runner has the same duties.
        """
        end = self._parts.clock.now() + JOURNAL_PATIENCE
        while True:
            try:
                return await perform()
            except SupersededError:
                raise
            except JournalError as error:
                if self._parts.clock.now() >= end:
                    raise
                self._actions.note("note", text=f"{name} waits for the journal: {error.message}")
            await self._parts.clock.sleep(1.0)

    def _table(self) -> dict[type[e.Command], Callable[..., Awaitable[e.Event | None]]]:
        a, m, s, u = self._actions, self._mirroring, self._standing, self._undoing
        return {
            e.CopyMedia: self._media.copy,
            e.CompareDisks: self._comparing.compare,
            e.StartMirrors: m.start,
            e.UnplugDevices: self._devices.unplug,
            e.PlugDevices: self._devices.plug,
            e.EndMirrors: m.end,
            e.ContinueStream: m.go_on,
            e.KeepImages: m.keep,
            e.LeaveOldCopies: m.leave,
            e.CancelMirrors: lambda command: m.cancel(command, self._state.disks_uri),
            e.RemoveImages: m.remove,
            e.Check: a.check,
            e.PrepareTarget: self._prepare_target,
            e.PrepareSource: a.prepare_source,
            e.StartStream: a.start_stream,
            e.Adjust: a.adjust,
            e.GoOver: a.go_over,
            e.MendStream: lambda command: self._mending.mend(command, self._state.uri),
            e.ContinueTarget: a.continue_target,
            e.RecordHome: a.record_home,
            e.RemoveSource: a.remove_source,
            e.CancelStream: lambda command: u.cancel_stream(command, self._state.uri, failover=self._state.fails_over),
            e.DestroyTarget: u.destroy_target,
            e.ResumeSource: u.resume_source,
            e.RestoreSendQueue: u.restore_send_queue,
            e.RestoreGuest: self._settings.restore,
            e.RemoveCredentials: lambda command: a.encrypting.remove(command, patient=not is_owed(self._state)),
            e.StopSource: s.stop,
            e.PowerOff: s.power_off,
            e.EndSource: s.end_source,
            e.StartTarget: s.start_target,
            e.RestorePower: s.restore_power,
        }

    async def _prepare_target(self, command: e.PrepareTarget) -> e.Event:
        await self._mirroring.make(command.copies)
        return await self._actions.prepare_target(command)

    async def _settle_forward(self) -> None:
        """Let the steps forward end before one back begins: a QEMU that is just being started must be found."""
        for begun in _STARTS:
            starting = self._in_flight.get(begun)
            if starting is not None and not starting.done():
                await asyncio.wait([starting], timeout=_SETTLE_DEADLINE)
        for kind in _FORWARD:
            await self._end(kind)

    async def _end(self, kind: type[e.Command]) -> None:
        """End a command that is under way, and return when it has."""
        task = self._in_flight.get(kind)
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])

    # -- limits ----------------------------------------------------------------------------------------------------

    async def _listen_for_cancel(self) -> None:
        while True:
            try:
                by = await self._parts.journal.cancel_requested(self._parts.spec.id)
            except JournalError as error:  # a look that failed is no reason to let go of a guest
                self._actions.note("note", text=f"whether to cancel could not be read: {error.message}")
                by = None
            if by is not None:
                self._inbox.put_nowait(e.CancelRequested(by))
                return
            await self._parts.clock.sleep(CANCEL_POLL)

    async def _listen_for_a_word(self) -> None:
        """Hear a person who decides while a migration in LIMBO is being looked at."""
        while self._state.phase is Phase.LIMBO:
            await self._parts.clock.sleep(CANCEL_POLL)
            await self._heard_a_word()

    async def _heard_a_word(self) -> bool:
        """Take a person's word about a migration in LIMBO, once; one that is old is nobody's any more."""
        try:
            word = await self._parts.journal.decisions.take_word(self._parts.spec.id)
        except JournalError as error:  # nobody is obeyed who was not understood
            self._actions.note("note", text=f"whether somebody decided could not be read: {error.message}")
            return False
        if word is None or self._parts.clock.now() - word.at > WORD_VALID:
            return False
        self._inbox.put_nowait(e.Resolved(word.owner, word.by))
        return True

    async def _look_now_and_then(self) -> None:
        # Counted from the last event: a look that came later than that would come after SWITCHOVER_PATIENCE.
        while True:
            left = self._last_event + HEARTBEAT - self._parts.clock.now()
            if left > 0:
                await self._parts.clock.sleep(left)
                continue
            if self._state.phase in _WATCHED:
                self._start(e.Observe())
            await self._parts.clock.sleep(HEARTBEAT)

    async def _keep_deadline(self, deadline: float) -> None:
        await self._parts.clock.sleep(max(0.0, self._parts.requested + deadline - self._parts.clock.now()))
        live = self._parts.spec.policy.way is Way.LIVE
        self._inbox.put_nowait(
            e.GiveUp(
                "deadline",
                f"the deadline of {format_duration(deadline)} passed before the guest could be handed over",
                f"allow more time with --deadline{', or more downtime with --max-downtime' if live else ''}",
            )
        )

    async def _keep_unplugging_short(self) -> None:
        """Take a stream back whose guest does not let go of the device that QEMU takes from it (failover)."""
        await self._parts.clock.sleep(self._parts.spec.policy.unplug_timeout)
        while self._state.phase is Phase.PRECOPY:  # a source that is silent now may wait all the same
            if refusal := await self._devices.still_held(self._state):
                self._inbox.put_nowait(refusal)
                return
            await self._parts.clock.sleep(self._parts.spec.policy.unplug_timeout)

    async def _keep_switchover_short(self, limit: float) -> None:
        await self._parts.clock.sleep(limit)
        if self._state.phase is Phase.SWITCHOVER:
            self._inbox.put_nowait(
                e.GiveUp("switchover-stuck", f"the switchover did not end within {limit:.0f} s", "look at the target")
            )

    # -- the end ---------------------------------------------------------------------------------------------------

    async def _finish(self) -> Outcome:
        self._ledger.mark("ended", self._parts.clock.now())
        self._outside.let_go()
        await self._sides.close()  # whoever follows needs the monitors, should this process be stopped here
        await self._end(e.Check)  # its hook, if it is at that, ends before the last one begins
        await asyncio.gather(self._outside.finish(), self._working.finish())
        await self._hooking.settled()
        outcome = self._outcome()
        await self._hooking.finish(outcome)
        outcome = replace(outcome, findings=self._actions.findings)
        paused = self._state.way is not self._parts.spec.policy.way
        began = self._ledger.marks.get("stream_started")
        held_back = self._working.held_back
        await self._expecting.remember(outcome, self._sampler.samples, began, paused=paused, held_back=held_back)
        await self._parts.journal.conclude(self._parts.spec.id, self._parts.epoch, outcome)
        return outcome

    def _outcome(self) -> Outcome:
        outcome = self._ledger.outcome(
            self._parts.spec,
            self._state,
            result=self._actions.result,
            watched=self._outside.result,
            findings=self._actions.findings,
            disk_bytes=sum(self._recalled.copied.values()),
            allocations=tuple(self._recalled.allocations.values()),
            simulated=self._parts.simulated,
        )
        return replace(outcome, qemus=self._actions.qemus, encrypted=self._actions.encrypted)


def _first(group: BaseExceptionGroup[JournalError]) -> JournalError:
    """Return the first error in a group of groups."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
