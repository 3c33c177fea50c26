"""What all commands stand on: the service, JSON on standard output, tables, and values typed by people."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager, contextmanager
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from godwit import units
from godwit.cli.terminal import echo
from godwit.errors import InputError, UnknownMigrationError
from godwit.identifiers import is_job
from godwit.plaintext import as_json, lines, one_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from godwit.model import GuestView
    from godwit.service import Service

T = TypeVar("T")

Json = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON, for programs.")]

EXIT_INTERRUPTED: Final = 130

LONGEST_DOWNTIME: Final = 2000.0
"""Seconds; QEMU takes no more (`downtime-limit` in qapi/migration.json)."""

_ALL: Final = 100_000
_WIDEST: Final = 500
"""Characters of a cell that are worth a line of their own."""


def _open(migrating: tuple[str, str] | None, *, carries: bool) -> AbstractAsyncContextManager[Service]:
    from godwit import app  # noqa: PLC0415 - start-up time

    return app.opened(migrating=migrating, hurried=not carries)


opener: Callable[..., AbstractAsyncContextManager[Service]] = _open
"""Where commands get their service from; tests put an in-memory one here."""


@asynccontextmanager
async def service(
    *, take_up: bool = False, migrating: tuple[str, str] | None = None, carries: bool = False
) -> AsyncIterator[Service]:
    """Open the service; `take_up` first sees to migrations whose runners died with their machine.

    `migrating` is the identifier and the guest of a migration that the command will ask for. A command that `carries`
    does more by itself than to ask for something: it is as patient with a locked journal as a runner.
    """
    async with opener(migrating, carries=carries) as opened:
        if take_up:
            for identifier in await opened.take_up():
                what = "" if is_job(identifier) else "migration "
                echo(f"godwit: took {what}{identifier} up again; nobody was working on it", err=True)
            for record in await opened.inventory.sends():
                if not opened.runners.alive(record.vm):
                    where = f"{record.vm} on its way to {record.target} ({record.step})"
                    echo(f"godwit: nobody works on {where}; go on with: {record.command}", err=True)
        yield opened


def run(work: Coroutine[object, object, T]) -> T:
    """Run a command's coroutine to its end; Ctrl-C ends it with a word instead of a traceback.

    So does a signal that the command took for the same, see `ended_gently`.
    """
    try:
        return asyncio.run(work)
    except (KeyboardInterrupt, asyncio.CancelledError):
        echo("godwit: interrupted", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None


@contextmanager
def ended_gently() -> Iterator[None]:
    """Let SIGTERM and a closed terminal be what Ctrl-C is: a wish to end it, not the end of who could tidy up."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None  # noqa: S101 - a coroutine runs in one; for the type checker
    numbers = (signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


# -- what people type ----------------------------------------------------------------------------------------------


def _parsed(parse: Callable[[str], float], option: str, text: str) -> float:
    try:
        return parse(text)
    except ValueError as error:
        message = f"{option}: {error}"
        raise InputError(message) from error


def duration(option: str, text: str | None, *, longest: float | None = None) -> float | None:
    """Return the seconds that `text` means, or None where nothing was typed. Raises InputError naming the option."""
    if text is None:
        return None
    seconds = _parsed(units.parse_duration, option, text)
    if seconds <= 0:
        message = f"{option}: {text} is no time at all"
        raise InputError(message, remedy=f"write for example {option} 30ms")
    if longest is not None and seconds > longest:
        message = f"{option}: {text} is more than QEMU takes ({longest:.0f} s)"
        raise InputError(message, remedy="a guest that may stand still for so long can as well be paused")
    return seconds


def bandwidth(option: str, text: str | None) -> int | None:
    """Return the bytes a second that `text` means, None for no limit. Raises InputError naming the option."""
    if text is None:
        return None
    return int(_parsed(units.parse_bandwidth, option, text)) or None


async def migration_id(opened: Service, text: str) -> str:
    """Return the migration that `text` means: an identifier, a unique beginning of one, or a guest (its newest).

    Raises UnknownMigrationError, InputError when several begin so.
    """
    rows = await opened.journal.rows(limit=_ALL)
    identifiers = [row.spec.id for row in rows]
    if text in identifiers:
        return text
    newest = next((row.spec.id for row in rows if row.spec.vm == text), None)
    if newest is not None:
        return newest
    matching = [one for one in identifiers if text and one.startswith(text)]
    if len(matching) == 1:
        return matching[0]
    if not matching:
        message = f"there is no migration {text!r}, and no guest of that name was ever migrated"
        raise UnknownMigrationError(message, remedy="godwit history lists them")
    shown = ", ".join(matching[:5]) + (", ..." if matching[5:] else "")
    message = f"{text!r} can mean {len(matching)} migrations: {shown}"
    raise InputError(message, remedy="type more of it")


# -- what people and programs read ---------------------------------------------------------------------------------


def plain(value: object) -> object:
    """Return a value of ours as JSON data."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(one) for one in value), key=str)
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value


def local_time(at: float) -> str:
    """Print an instant as this machine's wall clock has it."""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def view_words(view: GuestView | None) -> str:
    """Say what a host shows of a guest."""
    if view is None:
        return "not asked: not known any more"
    process = f", process {view.pid}" if view.pid else ""
    detail = f": {view.detail}" if view.detail and (view.state.value != "absent" or view.raw) else ""
    return f"{view.state.value}{process}{detail}"


def print_json(value: object) -> None:
    """Print a value as one line of JSON, at once."""
    echo(as_json(plain(value)))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """Print a table with as much room as it needs; `empty` where there are no rows."""
    if not rows:
        echo(empty)
        return
    table = [tuple(name.upper() for name in columns), *(tuple(one_line(cell, _WIDEST) for cell in row) for row in rows)]
    widths = [max(len(line[index]) for line in table) for index in range(len(columns))]
    for line in table:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        echo("  ".join(cells).rstrip())


def print_section(title: str, facts: Mapping[str, str]) -> None:
    """Print a title and what belongs to it, aligned; facts without a value are left out."""
    told = {name: value for name, value in facts.items() if value}
    if not told:
        return
    echo(title)
    width = max(map(len, told))
    for name, value in told.items():
        first, *rest = lines(value).split("\n")
        echo(f"  {name.ljust(width)}  {first}")
        for line in rest:
            echo(f"  {' ' * width}  {line}")
