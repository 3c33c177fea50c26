"""Commands that save a guest to a file and bring it back: save, restore.

Both are carried by a process of their own, as migrations are. Ctrl-C asks for the way back and waits for its end; a
closed terminal changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from godwit import plaintext
from godwit.cli.ground import Json, print_json, run, service
from godwit.cli.terminal import echo, echo_error
from godwit.core.saves import Compression, Step, Way, Work
from godwit.identifiers import new_job_identifier
from godwit.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from godwit.cli.following import Inbox
    from godwit.core.saves import Job
    from godwit.saves import Saves
    from godwit.service import Service

LINE_PERIOD: Final = 1.0
"""Seconds between two lines of progress."""

WORDS: Final = {
    (Work.SAVE, Step.WRITING): "the guest stands still, its memory is written",
    (Work.SAVE, Step.HANDING): "all of it is written; the guest's QEMU is ended",
    (Work.SAVE, Step.CHECKING): "the guest is saved; checksums are made",
    (Work.SAVE, Step.UNDOING): "going back: the guest runs on",
    (Work.RESTORE, Step.CHECKING): "comparing the file with its checksums",
    (Work.RESTORE, Step.LOADING): "QEMU is started and reads the file",
    (Work.RESTORE, Step.STARTING): "all of it is read; the guest goes on",
    (Work.RESTORE, Step.UNDOING): "going back: what was started is removed",
}

_WAYS: Final = {
    Way.MAPPED: "by several threads, past the page cache",
    Way.MAPPED_BUFFERED: "by several threads",
    Way.FILE: "in one stream",
    Way.PIPE: "in one stream, through cat",
    Way.ZSTD: "compressed by zstd",
    Way.GZIP: "compressed by gzip",
}


def save(
    vm: Annotated[str, typer.Argument(metavar="VM", help="The guest's name.", show_default=False)],
    file: Annotated[str, typer.Argument(metavar="FILE", help="An absolute path on its host.", show_default=False)],
    *,
    compress: Annotated[
        Compression | None, typer.Option(help="Let a program of the host make it smaller; that takes longer.")
    ] = None,
    json: Json = False,
) -> None:
    """Stop a guest and keep it in a file: memory, CPUs, devices.

    Its disks stay where they are. Bring it back with godwit restore; until the
    file is complete, whatever goes wrong lets the guest run on. Ctrl-C does so, too.
    """
    raise typer.Exit(run(_save(vm, file, compress, as_json=json)))


def restore(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file, as HOST sees it.", show_default=False)],
    host: Annotated[str, typer.Argument(metavar="HOST", help="Where it shall go on.", show_default=False)],
    *,
    no_verify: Annotated[bool, typer.Option("--no-verify", metavar="", help="Do not read all of it first.")] = False,
    json: Json = False,
) -> None:
    """Let a guest that was saved go on where it was.

    The file is only read. It is refused when it is damaged, when the guest's
    disks have changed since, and when the guest runs anywhere.
    """
    raise typer.Exit(run(_restore(file, host, verify=not no_verify, as_json=json)))


@contextlib.asynccontextmanager
async def _saves(migrating: tuple[str, str] | None = None) -> AsyncIterator[Saves]:
    """Open what saves and restores guests; see `ground.service`."""
    async with service(take_up=True, migrating=migrating) as opened:
        from godwit.saves import Saves  # noqa: PLC0415 - start-up time

        yield Saves(opened)


async def _save(vm: str, file: str, compress: Compression | None, *, as_json: bool) -> int:
    identifier = new_job_identifier(vm, Work.SAVE)
    async with _saves(migrating=(identifier, vm)) as saves:
        return await _carry(saves, saves.save(vm, file, compress, identifier=identifier), as_json=as_json)


async def _restore(file: str, host: str, *, verify: bool, as_json: bool) -> int:
    async with _saves() as saves:
        return await _carry(saves, saves.restore(file, host, verify=verify), as_json=as_json)


async def _carry(saves: Saves, asking: Coroutine[object, object, str], *, as_json: bool) -> int:
    """Ask for a job, show it, and return the exit status of its end."""
    from godwit.cli.following import listening  # noqa: PLC0415 - start-up time

    with listening() as inbox:
        identifier = await asking
        screen: Screen = JsonScreen() if as_json else LiveScreen() if sys.stdout.isatty() else PlainScreen()
        signals = asyncio.create_task(inbox.get())
        reading = asyncio.create_task(_show(saves, identifier, screen))
        asked = False
        try:
            while not reading.done():
                await asyncio.wait([signals, reading], return_when=asyncio.FIRST_COMPLETED)
                if reading.done() or not signals.done():
                    continue
                number = signals.result()
                signals = asyncio.create_task(inbox.get())
                if number is signal.SIGHUP or asked:
                    reading.cancel()
                    await asyncio.wait([reading])
                    return _left(identifier, number)
                asked = True
                screen.say("going back; once more Ctrl-C leaves it to that")
                await saves.cancel(identifier)
            job = reading.result()
        finally:
            signals.cancel()
            screen.close()
    return _conclude(job, asked=asked, as_json=as_json)


async def follow_to_end(opened: Service, identifier: str, inbox: Inbox, *, as_json: bool) -> int:
    """Show a save or restore that somebody else asked for; return the exit status of its end. Signals leave it."""
    from godwit.saves import Saves  # noqa: PLC0415 - start-up time

    screen: Screen = JsonScreen() if as_json else LiveScreen() if sys.stdout.isatty() else PlainScreen()
    signals = asyncio.create_task(inbox.get())
    reading = asyncio.create_task(_show(Saves(opened), identifier, screen))
    try:
        await asyncio.wait([signals, reading], return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            return _left(identifier, signals.result())
        job = reading.result()
    finally:
        for task in (signals, reading):
            task.cancel()
        await asyncio.wait([signals, reading])
        screen.close()
    return _conclude(job, asked=False, as_json=as_json)


async def _show(saves: Saves, identifier: str, screen: Screen) -> Job:
    async for job in saves.follow(identifier):
        screen.take(job)
    return await saves.service.journal.jobs.load(identifier)


def _left(identifier: str, number: object) -> int:
    with contextlib.suppress(OSError):
        echo(f"godwit: left; {identifier} goes on to its end by itself", err=True)
    return 128 + (number if isinstance(number, int) else signal.SIGINT)


def _conclude(job: Job, *, asked: bool, as_json: bool) -> int:
    """Say how it ended, and return the exit status of that end."""
    from godwit.api.client import error_of_job  # noqa: PLC0415 - start-up time

    error = error_of_job(job)
    if as_json:
        print_json({"id": job.id, "kind": "outcome", "data": _plain_job(job)})
        return error.exit_status if error else 0
    for note in job.notes:
        echo(f"note: {note}")
    if error is not None:
        echo_error(error)
        return error.exit_status
    if asked:
        echo("godwit: it was too late to go back", err=True)
    for line in summary(job):
        echo(line)
    return 0


def _plain_job(job: Job) -> dict[str, object]:
    names = (
        "id",
        "work",
        "vm",
        "host",
        "path",
        "step",
        "way",
        "bytes",
        "stopped_s",
        "code",
        "error",
        "remedy",
        "notes",
    )
    return {name: getattr(job, name) for name in names} | {"steps": job.steps, "percent": round(job.percent, 1)}


def summary(job: Job) -> list[str]:
    """Return what it took, and what to type next."""
    if job.work is Work.SAVE:
        stood = "a time that was not measured" if job.stopped_s is None else format_duration(job.stopped_s)
        way = _WAYS[job.way] if job.way else ""
        return [
            f"{job.vm} is saved: {format_size(job.bytes)} in {job.path} on {job.host}",
            f"  written   in {stood}, from its stop until the file was complete; {way}",
            f"  checked   in {format_duration(job.seconds(Step.CHECKING))}, when its QEMU had ended",
            f"  go on     godwit restore {job.path} {job.host}",
        ]
    state = "goes on" if job.was_running else "is there again, paused as it was,"
    lines = [
        f"{job.vm} {state} on {job.host}",
        f"  checked   in {format_duration(job.seconds(Step.CHECKING))}",
        f"  loaded    in {format_duration(job.seconds(Step.LOADING, Step.STARTING))}",
        f"  file      {job.path} is kept; once the guest runs its disks go on, and the file is out of date",
    ]
    return lines if job.was_running else [*lines, f"  run it    godwit monitor {job.vm} -c cont"]


# -- showing it ------------------------------------------------------------------------------------------------------


class Screen:
    """What shows a job; this one shows nothing."""

    def take(self, job: Job) -> None:
        """Show what has changed."""

    def say(self, text: str) -> None:
        """Show a word of Godwit's own."""

    def close(self) -> None:
        """Show nothing more."""


class JsonScreen(Screen):
    """One object a line."""

    def take(self, job: Job) -> None:
        """Print the job."""
        print_json({"id": job.id, "kind": "progress", "data": _plain_job(job)})


class PlainScreen(Screen):
    """A line for each step, and progress at most once a second."""

    def __init__(self) -> None:
        """Begin with nothing shown."""
        self._step = Step.PENDING
        self._last = 0.0

    def take(self, job: Job) -> None:
        """Print the step, or how far it is."""
        words = WORDS.get((job.work, job.step))
        at = job.steps[-1][1] if job.steps else job.created
        if words and job.step is not self._step:
            self._step = job.step
            echo(f"{at - job.created:+8.2f} s  {job.step}: {words}")
        elif words and job.total:
            now = asyncio.get_running_loop().time()
            if now - self._last >= LINE_PERIOD:
                self._last = now
                echo(f"{'':11}  {job.percent:3.0f} %")

    def say(self, text: str) -> None:
        """Print it."""
        echo(f"{'':11}  {text}")


class LiveScreen(Screen):
    """A bar on a terminal, and above it the steps that are done."""

    def __init__(self) -> None:
        """Begin to draw."""
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

        columns = (TextColumn("{task.description}"), BarColumn(30), TaskProgressColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, transient=True)
        self._task = self._progress.add_task("asking", total=None)
        self._step = Step.PENDING
        self._progress.start()

    def take(self, job: Job) -> None:
        """Draw how far it is."""
        words = WORDS.get((job.work, job.step))
        if words and job.step is not self._step:
            self._step = job.step
            at = job.steps[-1][1] - job.created
            self._print(f"{at:8.2f} s  {words}")
        total = float(job.total) if job.total else None
        self._progress.update(self._task, description=job.step.value, total=total, completed=job.done)

    def say(self, text: str) -> None:
        """Print it above the bar."""
        self._print(f"{'':10}  {text}")

    def _print(self, text: str) -> None:
        self._progress.console.print(plaintext.lines(text), highlight=False, markup=False)

    def close(self) -> None:
        """Take the bar away."""
        self._progress.stop()
