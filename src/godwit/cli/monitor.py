"""The command `godwit monitor`: the monitor of old at a terminal, in a script, or for one command."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import threading
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Protocol, TypeVar

import typer

from godwit import plaintext
from godwit.cli.ground import EXIT_INTERRUPTED, service
from godwit.cli.terminal import echo, echo_error, echo_lines
from godwit.errors import GodwitError, InputError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Iterator

    from godwit.console.reach import BareSocket, KnownGuest
    from godwit.console.session import Reply, Session

T = TypeVar("T")

PROMPT: Final = "(qemu) "

_STOPPING: Final = 5.0
"""Seconds that work may take to end once it was told to."""


def monitor(
    vm: Annotated[str | None, typer.Argument(metavar="[VM]", help="The guest's name.", show_default=False)] = None,
    *,
    command: Annotated[
        list[str] | None, typer.Option("--command", "-c", metavar="LINE", help="Do this and end; may be repeated.")
    ] = None,
    qmp: Annotated[
        str | None, typer.Option("--qmp", metavar="PATH", help="The QMP socket of a QEMU that Godwit does not know.")
    ] = None,
    host: Annotated[str | None, typer.Option(metavar="HOST", help="Where that socket is, if not here.")] = None,
    target_qmp: Annotated[
        str | None,
        typer.Option(
            "--target-qmp",
            metavar="[HOST:]PATH",
            help="The target's QMP socket, for migrate -b and -i; else looked for.",
        ),
    ] = None,
) -> None:
    """Type the monitor commands of old at a guest: migrate, info migrate, help ..."""
    if (vm is None) == (qmp is None):
        message = "name a guest, or a QMP socket with --qmp" if vm is None else "name a guest or --qmp, not both"
        raise InputError(message, remedy="godwit vm list shows the guests")
    if host is not None and qmp is None:
        message = "--host goes with --qmp"
        raise InputError(message, remedy="Godwit knows where its guests are")
    with _background() as do:
        status = _opened(do, _Wanted(vm, qmp, host, target_qmp), command)
    raise typer.Exit(status)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Whose monitor: a guest's, or a socket's. `target` is the target's socket."""

    vm: str | None
    qmp: str | None
    host: str | None
    target: str | None


def _opened(do: Do, wanted: _Wanted, command: list[str] | None) -> int:
    """Open everything in the loop, let lines come, and close it again."""
    stack = AsyncExitStack()
    try:
        console = do(_open(stack, do, wanted))
        if command:
            return _script(console, (line for one in command for line in one.split("\n")))
        stdin = getattr(sys, "stdin", None)  # None where the standard input was closed
        return _talk(console) if stdin is not None and stdin.isatty() else _script(console, _piped())
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    finally:
        do(stack.aclose())


async def _open(stack: AsyncExitStack, do: Do, wanted: _Wanted) -> _Console:
    from godwit.cli.monitorguard import GuardProcess  # noqa: PLC0415 - start-up time
    from godwit.console.reach import KnownGuest, reach_socket  # noqa: PLC0415 - start-up time
    from godwit.console.session import Session  # noqa: PLC0415 - start-up time
    from godwit.console.sides import given_target  # noqa: PLC0415 - start-up time

    if wanted.target is not None:
        given_target(wanted.target)
    opened = await stack.enter_async_context(service(take_up=True, carries=True))
    line = (
        KnownGuest(opened, wanted.vm, wanted.target)
        if wanted.vm is not None
        else await reach_socket(opened, wanted.qmp or "", wanted.host, wanted.target)
    )
    stack.push_async_callback(line.close)
    session = Session(line, _show, _warn, GuardProcess)
    stack.push_async_callback(session.close)
    return _Console(do, line, session, await line.where())


@dataclass(frozen=True, slots=True)
class _Console:
    """Somebody's place at a monitor."""

    do: Do
    line: KnownGuest | BareSocket
    session: Session
    where: str

    def run(self, typed: str) -> Reply:
        return self.do(self.session.run(typed))


def _show(text: str) -> None:
    back = text.endswith("\r")  # how far a copy is: the next figure goes over it
    echo_lines(text.removesuffix("\r"), end="\r" if back else "")


def _warn(text: str) -> None:
    echo(f"godwit: {text}", err=True)


def _print(reply: Reply, *, failed_to_stderr: bool) -> None:
    if reply.text:
        newline = "" if reply.text.endswith("\n") else "\n"
        echo_lines(f"{reply.text}{newline}", end="", err=failed_to_stderr and reply.status != 0)


# -- one command, and scripts --------------------------------------------------------------------------------------


def _piped() -> Iterator[str]:
    """Yield the lines of the standard input; one that is too long comes cut, and is refused for its length."""
    from godwit.console.commands import LONGEST  # noqa: PLC0415 - start-up time

    stdin = getattr(sys, "stdin", None)
    while stdin is not None and (line := stdin.buffer.readline(4 * LONGEST + 2)):
        yield line.decode(errors="surrogateescape")


def _script(console: _Console, lines: Iterable[str]) -> int:
    """Do line after line, up to the first that fails; return its status."""
    from godwit.console.session import End  # noqa: PLC0415 - start-up time

    for line in lines:
        reply = console.run(line)
        if reply.end is End.QUIT_ASKED:
            message = f"quit: refused in a script, for it ends the QEMU of {console.where} as if the power failed"
            raise RefusedError(message, remedy="write quit! if that is meant; a script ends by itself")
        _print(reply, failed_to_stderr=True)
        if reply.status or reply.end is End.QUIT_DONE:
            _finish(console, failed_to_stderr=True)
            return reply.status
    return _finish(console, failed_to_stderr=True)


def _finish(console: _Console, *, failed_to_stderr: bool) -> int:
    """Wait for a migration with disks that is still under way; return how it ended."""
    reply = console.do(console.session.finish())
    _print(reply, failed_to_stderr=failed_to_stderr)
    return reply.status


# -- at a terminal -------------------------------------------------------------------------------------------------


def _talk(console: _Console) -> int:
    """Ask for lines until Ctrl-D. The exit status is 0: what went wrong was seen."""
    version = console.do(_version(console.session))
    with _editing(console):
        _warn(f"monitor of {console.where}; Ctrl-D leaves, the guest is not touched by that")
        echo(f"QEMU {version} monitor - type 'help' for more information")
        while True:
            try:
                line = _ask(PROMPT)
                if line is None or _typed(console, line):
                    _finish(console, failed_to_stderr=False)
                    return 0
            except GodwitError as error:
                echo_error(error)
            except KeyboardInterrupt:
                echo()  # the line is dropped; of a command that was at work the session has said what goes on


async def _version(session: Session) -> str:
    """Return QEMU's version without what its packager added, as QEMU's own monitor greets."""
    said = (await session.run("info version")).text
    return re.split(r"[^\d.]", said, maxsplit=1)[0]


def _typed(console: _Console, line: str) -> bool:
    """Carry out a line; return whether the session is over."""
    from godwit.console.session import End  # noqa: PLC0415 - start-up time

    reply = console.run(line)
    if reply.end is End.QUIT_ASKED:
        answer = _ask(f'quit ends the QEMU of {console.where}. Type "end" if that is meant, Enter to only leave: ')
        if answer is None:
            return False
        if answer.strip() != "end":
            return not answer.strip()
        reply = console.run("quit!")
    _print(reply, failed_to_stderr=False)
    if reply.end is End.QUIT_DONE:
        _warn(f"the QEMU of {console.where} has ended")
    return reply.end is End.QUIT_DONE


def _ask(prompt: str) -> str | None:
    """Return a line, or None at the end of input. Raises KeyboardInterrupt."""
    try:
        return input(plaintext.one_line(prompt))
    except EOFError:
        echo()
        return None
    except UnicodeDecodeError:
        return "\0"  # bytes that are no text: no command either


@contextlib.contextmanager
def _editing(console: _Console) -> Iterator[None]:
    """Give `input` history and completion; Python without readline has neither, and works all the same."""
    try:
        import readline  # noqa: PLC0415 - only here
    except ImportError:
        yield
        return
    before = readline.get_completer(), readline.get_completer_delims()
    readline.set_completer(_Completer(console).complete)
    readline.set_completer_delims(" \t")
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        readline.set_completer(before[0])
        readline.set_completer_delims(before[1])


class _Completer:
    """Completes commands, and what follows `info` and `help`; QEMU is asked once, at the first TAB."""

    def __init__(self, console: _Console) -> None:
        self._console = console
        self._names: dict[str, list[str]] | None = None

    def complete(self, begin: str, number: int) -> str | None:
        """Return the completion with that number, as readline asks for them."""
        import readline  # noqa: PLC0415 - only here

        before = " ".join(readline.get_line_buffer()[: readline.get_begidx()].split())
        found = [f"{name} " for name in self._words().get(before, []) if name.startswith(begin)]
        return found[number] if number < len(found) else None

    def _words(self) -> dict[str, list[str]]:
        if self._names is None:
            try:
                self._names = self._console.do(self._console.session.names())
            except GodwitError:  # a TAB is no place to complain; the next command will
                return {}
        return self._names


# -- the loop beside the terminal ----------------------------------------------------------------------------------


class Do(Protocol):
    """Runs a coroutine in the background loop and waits for it; Ctrl-C ends it."""

    def __call__(self, work: Coroutine[object, object, T], /) -> T:
        """Return what the work returns. Raises what it raises, and KeyboardInterrupt."""
        ...


@contextlib.contextmanager
def _background() -> Iterator[Do]:
    """Run an event loop in a thread: connections stay alive while `input` waits in the main one for a key."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="monitor", daemon=True)
    thread.start()

    def do(work: Coroutine[object, object, T], /) -> T:
        ended = threading.Event()

        async def noted() -> T:
            try:
                return await work
            finally:
                ended.set()

        future = asyncio.run_coroutine_threadsafe(noted(), loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            ended.wait(_STOPPING)
            raise

    try:
        yield do
    finally:
        do(_clear())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_STOPPING)
        loop.close()


async def _clear() -> None:
    """End what is still under way in this loop."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    loop = asyncio.get_running_loop()
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()
