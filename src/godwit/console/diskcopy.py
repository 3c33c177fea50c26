"""`migrate -b` and `migrate -i` on a QEMU that has dropped them: a mirror over NBD for each disk, then the memory.

The order is the law. Mirrors first, while the guest runs; then the memory, whose stream is held before the switchover
(`pause-before-switchover`); there the mirrors are ended whole and the target's NBD server is closed; only then is the
stream told to go on. Until that word everything can be taken back, and is, whatever happens: the guest runs on where it
is. The target is told to stand still (`stop`) before anything is sent, and to run (`cont`) when both sides have said
`completed`: it never runs by itself, however it was started.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal

from godwit.console import commands
from godwit.console.diskcheck import check
from godwit.errors import (
    GodwitError,
    HypervisorError,
    LimboError,
    MigrationCancelledError,
    MigrationFailedError,
    MonitorCommandError,
    MonitorLostError,
)
from godwit.model import DiskMode, RunState, StreamStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
    from contextlib import AbstractAsyncContextManager

    from godwit.console.sides import Sides
    from godwit.model import DiskCopy, GuestView
    from godwit.ports import Guest, GuestEvent, Host

PERIOD: Final = 0.25
"""Seconds between looks at how far it is."""

ENDING: Final = 4.0
"""Seconds that copies may take to end while the guest stands still; then it is taken back."""

UNDOING: Final = 15.0
"""Seconds that a cancelled stream may take to end."""

HANDING_OVER: Final = 60.0
"""Seconds from the last word to the source until both sides must have said how it ended."""

CAPABILITIES: Final = ("pause-before-switchover", "events")
LIVE: Final = frozenset(
    {StreamStatus.SETUP, StreamStatus.ACTIVE, StreamStatus.HELD, StreamStatus.SWITCHOVER, StreamStatus.OTHER}
)
_LOOK: Final = 0.1


@dataclass(frozen=True, slots=True)
class DiskMigration:
    """What was asked for: `kind` is the flag, `b` for whole disks, `i` for what lies above a shared backing file."""

    uri: str
    kind: Literal["b", "i"]
    detach: bool

    @property
    def mode(self) -> DiskMode:
        """The same in Godwit's own words."""
        return DiskMode.INCREMENTAL if self.kind == "i" else DiskMode.FULL


class Guard:
    """Whoever takes over when the console dies; this one does not. See `console.guarding`."""

    async def begin(self, sides: Sides, copies: Sequence[DiskCopy], before: dict[str, bool], disks: str) -> None:
        """Be told of a migration that is about to begin, and how to take it back; `disks` is where they are served."""

    async def hands_over(self, *, resume: bool) -> None:
        """Be told that the source is about to be told to go on: from here on nothing can be taken back."""

    async def end(self) -> None:
        """Be told that it is over. Never raises."""


class _Stage(StrEnum):
    DISKS = "disks"
    MEMORY = "memory"
    HANDING_OVER = "handing-over"
    COMPLETED = "completed"
    UNDONE = "undone"


@dataclass(slots=True)
class Progress:
    """How far it is, in bytes; `disk_total` grows with what the guest writes meanwhile."""

    ram_total: int = 0
    ram_left: int = 0
    disk_done: int = 0
    disk_total: int = 0

    @property
    def percent(self) -> int:
        """Disks and memory in one figure; 99 at most, since only QEMU's word that it is complete makes it 100."""
        total = self.ram_total + self.disk_total
        done = self.ram_total - self.ram_left + self.disk_done
        return max(0, min(99, 100 * done // total)) if total else 0


@dataclass(slots=True)
class DiskJob:
    """One migration with disks, carried by this process. `tell` says a word of Godwit's own."""

    asked: DiskMigration
    open_sides: Callable[[str], AbstractAsyncContextManager[Sides]]
    guard: Guard
    tell: Callable[[str], None]
    progress: Progress = field(default_factory=Progress)
    stage: _Stage = _Stage.DISKS
    trouble: GodwitError | None = None
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _sides: Sides | None = None
    _copies: tuple[DiskCopy, ...] = ()
    _before: dict[str, bool] = field(default_factory=dict)
    _port: int = 0
    _runs: bool = True
    _task: asyncio.Task[None] | None = None
    _told: int = -1
    _cancelling: bool = False

    # -- for the session -------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Look at both sides, and start. Raises RefusedError, HypervisorError, HostError; then nothing was changed."""
        try:
            sides = self._sides = await self._stack.enter_async_context(self.open_sides(self.asked.uri))
            self._copies, memory = await check(sides, self.asked.mode)
            self.progress = Progress(ram_total=memory, ram_left=memory)
            said = await sides.source.human("info migrate_capabilities")
            self._before = {name: f"\n{name}: on\n" in f"\n{said}" for name in CAPABILITIES}
            self._port = await sides.target_host.free_port()
            await self.guard.begin(sides, self._copies, self._before, self._served)
        except BaseException:
            await self.guard.end()
            await self._stack.aclose()
            raise
        self._task = asyncio.create_task(self._carry(), name=f"migrate -{self.asked.kind}")

    @property
    def alive(self) -> bool:
        """Whether it is under way."""
        return self._task is not None and not self._task.done()

    @property
    def guest(self) -> Guest | None:
        """The source's monitor, which this holds while it is alive: lines that are typed meanwhile go through it."""
        return self._sides.source if self._sides is not None and self.alive else None

    @property
    def jobs(self) -> tuple[str, ...]:
        """The names of the jobs that copy disks."""
        return tuple(copy.job for copy in self._copies)

    @property
    def completed(self) -> bool:
        """Whether the guest has arrived."""
        return self.stage is _Stage.COMPLETED

    @property
    def _served(self) -> str:
        """Where the disks are served, as ss(8) writes it."""
        assert self._sides is not None  # noqa: S101 - `begin` made them
        address = self._sides.address
        return f"[{address}]:{self._port}" if ":" in address else f"{address}:{self._port}"

    async def wait(self, seconds: float) -> None:
        """Return when it has ended, after `seconds` at the latest."""
        assert self._task is not None  # noqa: S101 - `begin` made it
        await asyncio.wait({self._task}, timeout=seconds)
        if self._task.done():
            self._task.result()  # a defect is not to be taken for an end

    async def cancel(self) -> bool:
        """Take it back and return when that is done; False where it was too late for that, and it went on."""
        assert self._task is not None  # noqa: S101 - `begin` made it
        self._cancelling = True
        if self.stage in {_Stage.DISKS, _Stage.MEMORY}:
            self._task.cancel()
        await asyncio.wait({self._task})
        return not self.completed

    # -- the way there ---------------------------------------------------------------------------------------------

    async def _carry(self) -> None:
        """Run to the end, whatever it is; what went wrong is kept for whoever asks."""
        try:
            await self._go()
        except GodwitError as error:
            self.trouble = error
        except (TimeoutError, OSError) as error:
            self.trouble = MigrationFailedError(f"the migration failed: {str(error) or 'no answer in time'}")
        except asyncio.CancelledError:
            if not self._cancelling:
                raise
        finally:
            if self.stage is not _Stage.COMPLETED:
                self.stage = _Stage.UNDONE
            await self.guard.end()
            await self._stack.aclose()
        if self.asked.detach and self.trouble is not None:
            self.tell(f"the migration with disks: {self.trouble.message}")

    async def _go(self) -> None:
        assert self._sides is not None  # noqa: S101 - `begin` made them
        sides = self._sides
        events = sides.source.events()
        try:
            await sides.target.pause()
            await note(sides.target, 0, new=True)
            await self._copy_disks(sides)
            await self._send_memory(sides, events)
            await end_mirrors(sides, self._copies, events)
            await self.guard.hands_over(resume=self._runs and not sides.stays_stopped)
        except BaseException:
            # Nothing may come between the failure and the way back, a second Ctrl-C neither.
            await _to_its_end(self._take_back(sides))
            raise
        self.stage = _Stage.HANDING_OVER
        try:
            await _to_its_end(hand_over(sides.source, sides.target, resume=self._runs and not sides.stays_stopped))
        except MigrationFailedError:  # the source says that it kept the guest
            await _to_its_end(self._take_back(sides))
            raise
        self.stage = _Stage.COMPLETED
        self.progress.disk_done = self.progress.disk_total
        if sides.stays_stopped:
            self.tell("the target was started with -S: it has everything, and waits there for cont")

    async def _copy_disks(self, sides: Sides) -> None:
        await sides.target.serve_disks(sides.bind, self._port, self._copies)
        speed = commands.bandwidth_in(await sides.source.human("info migrate_parameters")) // len(self._copies)
        for copy in self._copies:
            await sides.source.start_mirror(copy, sides.address, self._port, speed)
        alike: set[str] = set()
        while True:
            views = await sides.source.mirrors(self._copies)
            missing = {copy.name for copy in self._copies} - {view.name for view in views}
            if missing:
                message = f"the copy of disk {', '.join(sorted(missing))} broke off"
                raise MigrationFailedError(message, remedy="see the room on the target's disk, and its QEMU's log")
            self.progress.disk_done = sum(view.done for view in views)
            self.progress.disk_total = sum(view.needed for view in views)
            await self._note(sides)
            for copy, view in zip(self._copies, views, strict=True):
                if view.ready and copy.job not in alike:
                    alike.add(copy.job)
                    await sides.source.keep_alike(copy)
            if all(view.ready for view in views):
                return
            await asyncio.sleep(PERIOD)

    async def _send_memory(self, sides: Sides, events: AsyncIterator[GuestEvent]) -> None:
        """Send the memory, up to where the stream is held. Raises MigrationFailedError, MigrationCancelledError."""
        await sides.source.set_capabilities(dict.fromkeys(CAPABILITIES, True))
        self.stage = _Stage.MEMORY
        await sides.source.migrate(self.asked.uri)
        heard: asyncio.Queue[GuestEvent] = asyncio.Queue()
        listener = asyncio.create_task(_listen(events, heard))
        try:
            while not await self._held(sides, heard):
                await self._note(sides)
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    async def _held(self, sides: Sides, heard: asyncio.Queue[GuestEvent]) -> bool:
        """Look, or hear, how the stream is; return whether it is held."""
        view = await sides.source.view()
        if view.state in {RunState.RUNNING, RunState.PAUSED}:
            self._runs = view.state is RunState.RUNNING
        if view.stream is StreamStatus.HELD:
            return True
        if view.stream not in LIVE:
            if view.stream is StreamStatus.CANCELLED:
                raise MigrationCancelledError("the migration was cancelled")  # noqa: EM101, TRY003 - a plain fact
            raise MigrationFailedError(view.detail or "migration failed")
        sample = await sides.source.sample()
        if sample is not None:
            self.progress.ram_total, self.progress.ram_left = sample.total, min(sample.remaining, sample.total)
        try:
            async with asyncio.timeout(PERIOD):
                event = await heard.get()
                while event.kind not in {"MIGRATION", "MIRROR_ENDED", "LOST"}:
                    event = await heard.get()
        except TimeoutError:
            return False
        if event.kind == "MIRROR_ENDED" and event.status in self.jobs:
            message = f"the copy of a disk broke off: {event.detail or 'its job ended'}"
            raise MigrationFailedError(message, remedy="see the room on the target's disk, and its QEMU's log")
        return event.kind == "MIGRATION" and event.status == "pre-switchover"

    async def _note(self, sides: Sides) -> None:
        """Leave the percentage at the target, for whoever asks there."""
        if self.progress.percent != self._told:
            self._told = self.progress.percent
            await note(sides.target, self._told)

    async def _take_back(self, sides: Sides) -> None:
        await sever(sides.source_host, self._served)
        troubles = await take_back(sides.source, sides.target, self._copies, self._before)
        for trouble in troubles:
            self.tell(f"taking the migration back: {trouble}; migrate_cancel at the source tries it again")


async def _to_its_end(work: Coroutine[object, object, None]) -> None:
    """Await work that must not be interrupted: whoever wants to end this waits until it is done."""
    task = asyncio.create_task(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})
    task.result()


async def _listen(events: AsyncIterator[GuestEvent], heard: asyncio.Queue[GuestEvent]) -> None:
    async for event in events:
        heard.put_nowait(event)


# -- what both the console and its guard do ------------------------------------------------------------------------


async def note(target: Guest, percent: int, *, new: bool = False) -> None:
    """Leave how much has come in the target's QEMU: an object that ends with it, see `commands.NOTE`."""
    line = (
        f"object_add authz-simple,id={commands.NOTE},identity={percent}"
        if new
        else (f"qom-set /objects/{commands.NOTE} identity {percent}")
    )
    await target.human(line)


async def end_mirrors(sides: Sides, copies: Sequence[DiskCopy], events: AsyncIterator[GuestEvent]) -> None:
    """End all copies whole, and take the target's disks from the network; the guest stands still meanwhile.

    Raises HypervisorError where one does not end whole within ENDING seconds.
    """
    waiting = {copy.job: copy.name for copy in copies}
    await asyncio.gather(*(sides.source.end_mirror(copy) for copy in copies))
    try:
        async with asyncio.timeout(ENDING):
            while waiting:
                event = await anext(events)
                if event.kind == "LOST":
                    raise MonitorLostError("the source's monitor went away while its disks were ended")  # noqa: EM101, TRY003
                name = waiting.pop(event.status, None) if event.kind == "MIRROR_ENDED" else None
                if name is not None and event.detail:
                    message = f"the copy of disk {name} did not end whole: {event.detail}"
                    raise HypervisorError(message, remedy="see the room on the target's disk")
    except TimeoutError:
        message = f"copies of disks have not ended within {ENDING:g} s: {', '.join(sorted(waiting.values()))}"
        raise HypervisorError(message, remedy="see the link and the target's disk") from None
    await sides.source.forget_mirrors(copies)
    await sides.target.stop_serving()
    await sides.target.human(f"object_del {commands.NOTE}")


async def hand_over(source: Guest, target: Guest, *, resume: bool, say_go: bool = True) -> None:
    """Let the held stream go on, and the guest run on the target when both sides have everything.

    Raises MigrationFailedError where the source kept the guest, LimboError where nobody can say.
    """
    if say_go:
        try:
            await source.continue_stream()
        except MonitorCommandError as error:  # not held any more: how it ended is seen below
            if (await source.view()).stream is StreamStatus.HELD:
                raise MigrationFailedError(error.message) from error
        except MonitorLostError as error:
            raise _unknown(error.message) from error
    await _completes(source)
    await _arrives(target)
    if resume:
        try:
            await target.resume()
        except GodwitError as error:
            message = f"the target has everything and did not take the word to run: {error.message}"
            raise LimboError(
                message, remedy="see with info status there; where it is paused, type cont there"
            ) from error


async def _completes(source: Guest) -> None:
    """Return when the source has given everything away. Raises MigrationFailedError, LimboError."""

    def seen(view: GuestView) -> bool:
        if view.stream not in {*LIVE, StreamStatus.COMPLETED}:
            message = f"{view.detail or 'migration failed'}; the guest is {view.state} on the source"
            raise MigrationFailedError(message)
        return view.stream is StreamStatus.COMPLETED

    await _becomes(source, seen)


async def _arrives(target: Guest) -> None:
    """Return when the target has loaded everything; it stands still, since it was told to. Raises LimboError."""
    await _becomes(target, lambda view: view.state in {RunState.PAUSED, RunState.RUNNING})


async def _becomes(guest: Guest, what: Callable[[GuestView], bool]) -> None:
    try:
        async with asyncio.timeout(HANDING_OVER):
            while not what(await guest.view()):  # noqa: ASYNC110 - not every state has an event
                await asyncio.sleep(_LOOK)
    except (MonitorLostError, MonitorCommandError) as error:
        raise _unknown(error.message) from error
    except TimeoutError:
        message = f"nothing was heard of its end for {HANDING_OVER:g} s"
        raise _unknown(message) from None


def _unknown(why: str) -> LimboError:
    message = f"the source was told to hand the guest over, and then: {why}"
    remedy = (
        "look at both with info status and info migrate. Type cont at the target where it is paused and the source "
        "says completed; at the source only where the target's QEMU has ended. Never at both"
    )
    return LimboError(message, remedy=remedy)


async def sever(source_host: Host, disks: str) -> None:
    """End the connections by which the source's disks are copied to `disks`, before the copies are cancelled.

    Behind a silently cut link a copy does not end while its connection stands, and QEMU's monitor waits for it, as long
    as TCP goes on trying. Where this is not permitted (SOCK_DESTROY, see ss(8)) the cancel may take as long.
    """
    with contextlib.suppress(GodwitError):  # the cancel itself says what it cannot do
        await source_host.run(["ss", "--tcp", "--kill", "dst", disks], deadline=3.0, check=False)


async def take_back(
    source: Guest, target: Guest | None, copies: Sequence[DiskCopy], before: dict[str, bool]
) -> list[str]:
    """Cancel stream and copies, close the target's server, set capabilities as they were; return what did not work.

    Never to be called once the held stream may have been told to go on.
    """
    troubles = []
    steps: tuple[Callable[[], Awaitable[None]], ...] = (
        lambda: _end_stream(source),
        lambda: source.cancel_mirrors(copies),
        lambda: source.set_capabilities({name: state for name, state in before.items() if not state}),
    )
    for step in steps:
        try:
            await step()
        except TimeoutError:
            troubles.append(f"the stream has not ended within {UNDOING:g} s")
        except MonitorLostError as error:  # nothing more can be said to it
            troubles.append(error.message)
            break
        except GodwitError as error:
            troubles.append(error.message)
    if target is not None:
        try:
            await target.stop_serving()
            await target.human(f"object_del {commands.NOTE}")
        except MonitorLostError:
            pass  # a target whose stream was cut ends by itself, and its server with it
        except GodwitError as error:
            troubles.append(error.message)
    return troubles


async def _end_stream(source: Guest) -> None:
    view = await source.view()
    if view.stream not in LIVE:
        return
    await source.cancel_migration()
    async with asyncio.timeout(UNDOING):
        while (await source.view()).stream in LIVE:  # noqa: ASYNC110 - events come only with their capability
            await asyncio.sleep(_LOOK)
