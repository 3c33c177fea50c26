"""Following a migration from a terminal. The follower only reads: it touches the migration when asked to cancel it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from godwit.cli.terminal import echo
from godwit.errors import GodwitError
from godwit.ports import Entry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from godwit.model import Outcome
    from godwit.service import Service

TICK: Final = 0.25
"""Seconds between redraws while nothing happens."""

ORPHAN_PATIENCE: Final = 15.0
"""Seconds without a runner after which nobody is expected to take the migration up by itself."""

_ORPHAN_PERIOD: Final = 2.5
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_QUESTION: Final = "[d]etach, [c]ancel, or go on waiting? "


class Screen(Protocol):
    """What shows a migration."""

    def take(self, entry: Entry) -> None:
        """Show one more line of the journal."""
        ...

    def tick(self) -> None:
        """Redraw: time has passed."""
        ...

    def say(self, text: str) -> None:
        """Show a word of Godwit's own."""
        ...

    def hide(self) -> None:
        """Make room for a question; what comes meanwhile is shown afterwards."""
        ...

    def show(self) -> None:
        """Go on after a question."""
        ...

    def close(self) -> None:
        """Show nothing more."""
        ...


@dataclass(frozen=True, slots=True)
class Detached:
    """The follower left; the migration goes on. `status` is what the process is to end with."""

    status: int
    by_choice: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A key that was pressed when Godwit asked."""

    key: str


Inbox: TypeAlias = "asyncio.Queue[Entry | signal.Signals | Answer | Outcome | GodwitError]"


@contextlib.contextmanager
def listening() -> Iterator[Inbox]:
    """Let interrupts wait in a queue instead of ending this process, from before a migration is asked for."""
    inbox: Inbox = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, inbox.put_nowait, number)
    try:
        yield inbox
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


@dataclass(slots=True)
class Follower:
    """Shows a migration on a screen until it has ended or the user leaves.

    `asks` says whether somebody is there who can answer: else an interrupt means to detach. `reads`, if given, is what
    is shown, in place of all that the journal has of the migration.
    """

    service: Service
    identifier: str
    screen: Screen
    inbox: Inbox
    asks: bool = False
    reads: AsyncIterator[Entry] | None = None
    _question: Question | None = None

    async def run(self) -> Outcome | Detached:
        """Follow to the end. Raises JournalError, and GodwitError when nobody works on the migration any more."""
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._mind_runner())]
        try:
            return await self._loop()
        finally:
            self._end_question()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.screen.close()

    async def _loop(self) -> Outcome | Detached:
        clock = asyncio.get_running_loop()
        due = clock.time()
        while True:
            if clock.time() >= due:
                self.screen.tick()
                due = clock.time() + TICK
            item = await self._next(due - clock.time())
            match item:
                case None:
                    continue
                case Entry():
                    self.screen.take(item)
                case signal.Signals():
                    if (left := self._signalled(item)) is not None:
                        return left
                case Answer():
                    if (left := await self._answered(item.key)) is not None:
                        return left
                case GodwitError():
                    raise item
                case _:
                    return item

    async def _next(self, patience: float) -> Entry | signal.Signals | Answer | Outcome | GodwitError | None:
        """Return what waits, or what comes within `patience` seconds."""
        with contextlib.suppress(asyncio.QueueEmpty):
            return self.inbox.get_nowait()
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(self.inbox.get(), max(patience, 0.001))
        return None

    async def _read(self) -> None:
        try:
            async for entry in self.reads or self.service.follow(self.identifier):
                self.inbox.put_nowait(entry)
            self.inbox.put_nowait(await self.service.outcome(self.identifier))
        except GodwitError as error:
            self.inbox.put_nowait(error)

    async def _mind_runner(self) -> None:
        """Notice when a runner has died so often that it is not started anew."""
        silent = 0.0
        while silent < ORPHAN_PATIENCE:
            await asyncio.sleep(_ORPHAN_PERIOD)
            status = await self.service.status(self.identifier)
            silent = 0.0 if status.runner_alive or status.row.outcome is not None else silent + _ORPHAN_PERIOD
        message = f"nobody works on {self.identifier} any more: its runner died and was not started anew"
        remedy = f"see log/{self.identifier}.log in Godwit's folder; godwit status takes the migration up again"
        self.inbox.put_nowait(GodwitError(message, remedy=remedy))

    # -- being interrupted -----------------------------------------------------------------------------------------

    def _signalled(self, number: signal.Signals) -> Detached | None:
        """Ask at a terminal, once; leave otherwise. The migration is not touched."""
        if number is signal.SIGINT and self.asks and self._question is None:
            self.screen.hide()
            self._question = Question.ask(self.inbox.put_nowait)
            return None
        return Detached(128 + number)

    async def _answered(self, key: str) -> Detached | None:
        self._end_question()
        if key == "d":
            return Detached(0, by_choice=True)
        self.screen.show()
        if key == "c":
            await self.service.cancel(self.identifier)
            self.screen.say("asked for the guest to stay on its source, if that is still possible")
        return None

    def _end_question(self) -> None:
        if self._question is not None:
            self._question.end()
            self._question = None


@dataclass(slots=True)
class Question:
    """One key, asked for at the terminal while everything else goes on."""

    _descriptor: int
    _before: list[int | list[bytes | int]]
    _answered: bool = False

    @classmethod
    def ask(cls, put: _Put) -> Question:
        """Print the question and let `put` have the answer when it comes."""
        import termios  # noqa: PLC0415 - rarely needed
        import tty  # noqa: PLC0415 - rarely needed

        descriptor = sys.stdin.fileno()
        question = cls(descriptor, termios.tcgetattr(descriptor))
        tty.setcbreak(descriptor, termios.TCSADRAIN)
        echo(_QUESTION, nl=False, err=True)
        asyncio.get_running_loop().add_reader(descriptor, question.read, put)
        return question

    def read(self, put: _Put) -> None:
        """Take the key that was pressed; the end of input means to go on waiting."""
        import os  # noqa: PLC0415 - rarely needed

        key = os.read(self._descriptor, 1).decode(errors="replace").lower()
        asyncio.get_running_loop().remove_reader(self._descriptor)
        self._answered = True
        echo({"d": "detach", "c": "cancel"}.get(key, "go on waiting"), err=True)
        put(Answer(key))

    def end(self) -> None:
        """Give the terminal back as it was."""
        import termios  # noqa: PLC0415 - rarely needed

        asyncio.get_running_loop().remove_reader(self._descriptor)
        if not self._answered:
            echo(err=True)
        with contextlib.suppress(termios.error):  # the terminal may be gone by now
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)


class _Put(Protocol):
    def __call__(self, item: Answer, /) -> None: ...
