"""What becomes of a line that is typed at the monitor of old."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol, cast

from godwit.console import commands
from godwit.console.arguments import SPACE, BadArgumentsError, parse_arguments, quoted, split_name
from godwit.console.diskcopy import DiskJob, DiskMigration, Guard
from godwit.errors import LimboError, MigrationCancelledError, MigrationFailedError, MonitorCommandError
from godwit.model import DiskCopy, ImageFacts, RunState, StreamStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from godwit.console.sides import Sides
    from godwit.model import GuestView
    from godwit.ports import Guest

QUICK: Final = 30.0
"""Seconds that QEMU may take for what only tells something or sets a value."""

PATIENT: Final = 3600.0
"""Seconds for everything else: a snapshot of a large guest takes its time."""

POLL: Final = 0.25
"""Seconds between two looks at a migration that is waited for."""

REFUSED: Final = MonitorCommandError.exit_status

_ENDED: Final = frozenset({StreamStatus.NONE, StreamStatus.COMPLETED, StreamStatus.FAILED, StreamStatus.CANCELLED})
_HANDS_BACK: Final = ("pre-switchover", "postcopy-paused", "colo")
"""Words of QEMU for a stream that goes on only when somebody types something."""

_WEAKER: Final = (
    "this is QEMU's own migration: Godwit neither checks nor guards it. A target that was started without -S runs by "
    "itself when it has everything; if the connection breaks at that moment, the source runs on, too, and two copies "
    "write to the same disks. Start the target with -S and type cont there, or use godwit migrate"
)
_SECOND_COPY: Final = (
    "this guest's memory was sent away completely; if the target runs it, there are two copies now, on the same disks. "
    "Then type stop here at once"
)

_TAKEN_BACK: Final = "the migration was taken back: the guest runs on here"
_TOO_LATE: Final = "it was too late to take the migration back: the guest is on the target"
_WAITING: Final = "the migration with disks ends with this console: waiting for it; Ctrl-C takes it back"
_BUSY: Final = "Error: There's a migration process in progress\n"
_GOES_ON: Final = "the migration goes on; info migrate shows it, migrate_cancel ends it"


class End(StrEnum):
    """What a line means for the session itself."""

    NONE = "none"
    QUIT_ASKED = "quit-asked"
    """`quit` would end the guest: whoever typed it must say that this is meant."""
    QUIT_DONE = "quit-done"
    """The guest's QEMU has ended."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the monitor prints, and the status with which a script ends if this was its last line."""

    text: str = ""
    status: int = 0
    end: End = End.NONE


class Line(Protocol):
    """The way to one QEMU."""

    def guest(self) -> AbstractAsyncContextManager[Guest]:
        """Hold its monitor for the length of a `with`. Raises HypervisorError, HostError."""
        ...

    def sides(self, uri: str) -> AbstractAsyncContextManager[Sides]:
        """Hold its monitor and that of the QEMU which waits at `uri`.

        Raises RefusedError with the reason, HypervisorError, HostError.
        """
        ...

    async def refuse_migrating(self) -> None:
        """Raise BusyError while Godwit moves this guest."""
        ...


class Session:
    """Takes lines and answers them. The monitor is held only while a line is worked on."""

    def __init__(
        self,
        line: Line,
        show: Callable[[str], None],
        warn: Callable[[str], None],
        guard: Callable[[], Guard] = Guard,
    ) -> None:
        """Type at `line`; `show` prints what cannot wait for the reply, `warn` a word of Godwit's own.

        `guard` makes who takes a migration with disks over if this process is killed.
        """
        self._line = line
        self._guard = guard
        self._job: DiskJob | None = None
        self._show = show
        self._warn = warn
        self._warned = False

    async def run(self, typed: str) -> Reply:
        """Carry out one line. What QEMU refuses is a reply with a status.

        Raises BusyError, RefusedError, HypervisorError, HostError.
        """
        line = typed.strip(SPACE)
        if not line:
            return Reply()
        wrong = commands.untypeable(line)
        if wrong is not None:
            return Reply(wrong, REFUSED)
        name, rest = split_name(line)
        if name in commands.QUIT and not rest.strip(SPACE):
            return Reply(end=End.QUIT_ASKED)
        if name not in commands.READ_ONLY:
            await self._line.refuse_migrating()
        if name == commands.MIGRATE.name:
            return await self._migrate(line)
        if name == commands.CANCEL and self._job is not None and self._job.alive:
            await self._job.cancel()
            return Reply()
        return await self._ask(line, name, rest)

    async def _ask(self, line: str, name: str, rest: str) -> Reply:
        """Carry out a line that needs only this QEMU."""
        async with self._guest() as guest:
            if name in commands.QUIT_FOR_SURE and not rest.strip(SPACE):
                await guest.quit()
                return Reply(end=End.QUIT_DONE)
            try:
                return await self._handler(name)(guest, line)
            except BadArgumentsError as error:
                return Reply(str(error), REFUSED)
            except asyncio.CancelledError:
                self._warn(f"QEMU may still be at it: {name}")
                raise

    @asynccontextmanager
    async def _guest(self) -> AsyncIterator[Guest]:
        """Hold the monitor; while disks are copied it is held already."""
        held = self._job.guest if self._job is not None else None
        if held is not None:
            yield held
            return
        async with self._line.guest() as guest:
            yield guest

    async def finish(self) -> Reply:
        """Wait, with its percentage, for a migration with disks that `-d` left to this process."""
        if self._job is None or not self._job.alive:
            return Reply()
        self._warn(_WAITING)
        return await self._follow(self._job)

    async def close(self) -> None:
        """Take back what is still under way."""
        if self._job is not None and self._job.alive:
            await self._job.cancel()

    def _handler(self, name: str) -> Callable[[Guest, str], Awaitable[Reply]]:
        own: dict[str, Callable[[Guest, str], Awaitable[Reply]]] = {
            **dict.fromkeys(commands.HELP, self._help),
            **dict.fromkeys(commands.CONTINUE, self._continue),
            commands.CANCEL: _cancel,
            commands.INFO: self._info,
            commands.SET_SPEED.name: self._set_speed,
            commands.SET_DOWNTIME.name: self._set_downtime,
        }
        return own.get(name, _pass_on)

    # -- help ------------------------------------------------------------------------------------------------------

    async def _help(self, guest: Guest, line: str) -> Reply:
        subject = split_name(line)[1].strip(SPACE)
        said = await guest.human(line, deadline=QUICK)
        if not subject:
            return Reply(commands.whole_help(said))
        if subject in commands.OWN and commands.is_unknown(said):
            return Reply(commands.OWN[subject].line)
        if subject == commands.MIGRATE.name and commands.DISKS_FLAG not in said:
            return Reply(commands.migrate_help())
        return _reply(said)

    async def names(self) -> dict[str, list[str]]:
        """Return what can be typed: under "" the commands, under "info", "help" and "help info" what may follow."""
        async with self._guest() as guest:
            everything = commands.names_in(commands.whole_help(await guest.human("help", deadline=QUICK)))
            subjects = commands.names_in(await guest.human("info", deadline=QUICK), "info")
        names = sorted({*everything, "info", "help"})
        return {"": names, "info": subjects, "help": names, "help info": subjects}

    # -- commands that QEMU dropped --------------------------------------------------------------------------------

    async def _set_speed(self, guest: Guest, line: str) -> Reply:
        return await self._set(guest, line, commands.SET_SPEED, lambda value: f"max-bandwidth {value}B")

    async def _set_downtime(self, guest: Guest, line: str) -> Reply:
        def parameter(seconds: float) -> str:
            if not 0 <= seconds <= commands.LARGEST_DOWNTIME:
                message = (
                    "Error: Parameter 'downtime_limit' expects an integer in the range of 0 to "
                    f"{commands.LARGEST_DOWNTIME} seconds\n"
                )
                raise BadArgumentsError(message)
            return f"downtime-limit {int(seconds * 1000)}"

        return await self._set(guest, line, commands.SET_DOWNTIME, parameter)

    async def _set(
        self, guest: Guest, line: str, command: commands.Command, parameter: Callable[[float], str]
    ) -> Reply:
        """Let QEMU have its own command if it still has it, else set the parameter that took its place."""
        if not commands.is_unknown(await guest.human(f"help {command.name}", deadline=QUICK)):
            return await _pass_on(guest, line)
        value = parse_arguments(command.name, command.arguments, split_name(line)[1])["value"]
        wanted = parameter(cast("float", value))
        reply = _reply(await guest.human(f"migrate_set_parameter {wanted}", deadline=QUICK))
        if command is commands.SET_SPEED and not reply.status:
            copying = commands.copying(await guest.human(commands.JOBS, deadline=QUICK))
            for job in copying:
                await guest.human(f"block_job_set_speed {job} {cast('int', value) // len(copying)}B", deadline=QUICK)
        return reply

    # -- migrate and cont ------------------------------------------------------------------------------------------

    async def _migrate(self, line: str) -> Reply:
        command = commands.MIGRATE
        try:
            asked = parse_arguments(command.name, command.arguments, split_name(line)[1])
        except BadArgumentsError as error:
            return Reply(str(error), REFUSED)
        uri, detach = str(asked["uri"]), "detach" in asked
        disks = "inc" in asked or "blk" in asked
        if self._job is not None and self._job.alive:
            return Reply(_BUSY, REFUSED)
        async with self._line.guest() as guest:
            theirs = (
                not disks
                or "resume" in asked
                or commands.DISKS_FLAG in await guest.human(f"help {command.name}", deadline=QUICK)
            )
            if theirs:
                self._warn_once(uri)
                # Always with -d: a monitor that serves programs cannot be blocked, so the waiting is ours.
                flags = [flag for key, flag in (("blk", "-b"), ("inc", "-i"), ("resume", "-r")) if key in asked]
                words = ("migrate", "-d", *flags, quoted(uri))
                reply = _reply(await guest.human(" ".join(words), deadline=QUICK))
                return reply if detach or reply.status else await self._wait(guest, reply.text, disks=disks)
        return await self._copy_disks(DiskMigration(uri, "i" if "inc" in asked else "b", detach))

    async def _copy_disks(self, asked: DiskMigration) -> Reply:
        """Do what QEMU itself has dropped."""
        job = DiskJob(asked, self._line.sides, self._guard(), self._warn)
        await job.begin()
        self._job = job
        return Reply() if asked.detach else await self._follow(job)

    async def _follow(self, job: DiskJob) -> Reply:
        """Show the percentage of a migration with disks until it has ended; Ctrl-C takes it back."""
        percent = -1
        try:
            while job.alive:
                if job.progress.percent > percent:
                    percent = job.progress.percent
                    self._show(f"Completed {percent} %\r")
                await job.wait(POLL)
        except asyncio.CancelledError:
            self._show("\n")
            self._warn(_TAKEN_BACK if await job.cancel() else _TOO_LATE)
            raise
        if job.completed:
            return Reply("Completed 100 %\n")
        if isinstance(job.trouble, LimboError):
            raise job.trouble
        if job.trouble is None or isinstance(job.trouble, MigrationCancelledError):
            return Reply("\nMigration status: cancelled\n", MigrationCancelledError.exit_status)
        return Reply(f"\nError: {job.trouble.message}\n", MigrationFailedError.exit_status)

    async def _info(self, guest: Guest, line: str) -> Reply:
        """Let QEMU answer; of a migration, add what it no longer says of disks."""
        reply = await _pass_on(guest, line)
        if split_name(line)[1].strip(SPACE) != commands.MIGRATE.name or reply.status:
            return reply
        return Reply(reply.text + await self._disk_news(guest, reply.text))

    async def _disk_news(self, guest: Guest, said: str) -> str:
        """Return the lines about disks: of copies under way, of one that has ended here, of those that come in."""
        identity = await guest.human(f"qom-get /objects/{commands.NOTE} identity", deadline=QUICK)
        percent = commands.received(identity)
        if percent is not None:
            return f"Receiving block device images\nCompleted {percent} %\n"
        jobs = commands.copying(await guest.human(commands.JOBS, deadline=QUICK))
        done, total = sum(done for done, _ in jobs.values()), sum(known for _, known in jobs.values())
        job = self._job
        if job is not None and (job.alive or job.completed) and not jobs:
            done, total = job.progress.disk_done, job.progress.disk_total
        elif not jobs:
            return ""
        if "remaining ram:" in said or "Migration status: completed" in said:
            return commands.disk_lines(done, total)
        memory = commands.ram_lines(job.progress.ram_total) if job is not None else ""
        return f"Migration status: active\n{memory}{commands.disk_lines(done, total)}"

    def _warn_once(self, uri: str) -> None:
        if not self._warned and not uri.startswith("file:"):
            self._warned = True
            self._warn(_WEAKER)

    async def _wait(self, guest: Guest, text: str, *, disks: bool) -> Reply:
        """Show the percentage until the migration has ended, or until it waits for another command."""
        self._show(text)
        percent = -1
        try:
            while True:
                view = await guest.view()
                if view.stream in _ENDED or view.raw.endswith(_HANDS_BACK):
                    break
                now = max(percent, await _percent(guest, disks=disks))
                if now != percent:
                    self._show(f"Completed {now} %\r")
                percent = now
                await asyncio.sleep(POLL)
        except asyncio.CancelledError:
            self._show("\n" if percent >= 0 else "")
            self._warn(_GOES_ON)
            raise
        if view.stream is StreamStatus.COMPLETED:
            return Reply("Completed 100 %\n")
        return _ended("\n" if percent >= 0 else "", view)

    async def _continue(self, guest: Guest, line: str) -> Reply:
        handed_over = (await guest.view()).state is RunState.POSTMIGRATE
        reply = await _pass_on(guest, line)
        if handed_over and not reply.status:
            self._warn(_SECOND_COPY)
        return reply


def _ended(newline: str, view: GuestView) -> Reply:
    if view.stream is StreamStatus.FAILED:
        return Reply(f"{newline}Error: {view.detail or 'migration failed'}\n", MigrationFailedError.exit_status)
    word = view.raw.partition("/")[2] or "none"
    status = MigrationCancelledError.exit_status if view.stream is StreamStatus.CANCELLED else 0
    return Reply(f"{newline}Migration status: {word}\n", status)


async def _percent(guest: Guest, *, disks: bool) -> int:
    """Return how much is sent, 99 at most: only QEMU's word that it is complete makes it 100."""
    if disks:
        copied = commands.disk_percent(await guest.human("info migrate", deadline=QUICK))
        if copied is not None:
            return min(99, copied)
    sample = await guest.sample()
    if sample is None or not sample.total:
        return 0
    return max(0, min(99, 100 * (sample.total - sample.remaining) // sample.total))


async def _cancel(guest: Guest, line: str) -> Reply:
    """Let QEMU cancel, and end the copies of disks that a console which is gone has left."""
    reply = await _pass_on(guest, line)
    left = commands.copying(await guest.human(commands.JOBS, deadline=QUICK))
    if left:
        await guest.cancel_mirrors([DiskCopy(job, ImageFacts("", "", 0, 0), job) for job in left])
    return reply


async def _pass_on(guest: Guest, line: str) -> Reply:
    """Let QEMU's own monitor have the line."""
    quick = split_name(line)[0] in commands.READ_ONLY
    return _reply(await guest.human(line, deadline=QUICK if quick else PATIENT))


def _reply(text: str) -> Reply:
    return Reply(text, REFUSED if commands.is_refusal(text) else 0)
