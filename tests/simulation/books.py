"""Journal and inventory of the simulation: in memory, with what a real one loses when a process or a machine dies.

`Store` is what is on disk, shared by all runners of the controller's machine. `Pen` is one runner's journal: what it
writes without asking for durability waits with it for a moment, and is lost with it; a disk that is full is told to
whoever wants to write durably, and what could not be written goes on waiting. See `godwit.journal.sqljournal`.
"""

from __future__ import annotations

import asyncio
import copy
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from godwit.errors import JournalError, SupersededError
from godwit.journal.memory import MemoryInventory, MemoryJournal

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from gates import Controller

    from godwit.core.state import State
    from godwit.model import Outcome, Spec
    from godwit.ports import Entry, MigrationRow, Session


class Told(Protocol):
    """Hears of a state that the journal has taken."""

    def __call__(self, state: State, /, *, durable: bool) -> None:
        """Take note of it."""
        ...


SOON: Final = 0.15
"""Seconds for which a real journal lets a write wait that need not be durable."""


@dataclass(slots=True)
class Store:
    """The controller's disk."""

    journal: MemoryJournal = field(default_factory=MemoryJournal)
    inventory: MemoryInventory = field(init=False)
    full: bool = False
    wished: dict[str, asyncio.Event] = field(default_factory=dict)
    _durable_entries: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Let the inventory ask the journal."""
        self.inventory = MemoryInventory(self.journal)

    def sync(self) -> None:
        """Take everything that was written before along, as a sync of the log does."""
        for identifier, story in self.journal._stories.items():
            story.durable_state = story.state
            self._durable_entries[identifier] = len(story.entries)

    def lose_power(self, keeps: Callable[[], bool]) -> None:
        """Forget what was written since the last sync, unless it had reached the disk all the same."""
        if keeps():
            return
        for identifier, story in self.journal._stories.items():
            story.state = story.durable_state
            del story.entries[self._durable_entries.get(identifier, 0) :]

    def check(self) -> None:
        """Raise JournalError where the disk is full."""
        if self.full:
            raise JournalError("the journal failed: the disk is full", remedy="make room")

    async def wish(self, identifier: str) -> None:
        """Ask to cancel."""
        if identifier in self.journal._stories:
            await self.journal.request_cancel(identifier, "alice", 0.0)
            self.wish_event(identifier).set()

    def wish_event(self, identifier: str) -> asyncio.Event:
        """Return what is set when somebody wishes that the guest stays."""
        return self.wished.setdefault(identifier, asyncio.Event())


class Pen:
    """One runner's journal. Implements `godwit.ports.Journal`, as far as an engine uses it."""

    def __init__(self, controller: Controller, store: Store, told: Told) -> None:
        """Write to `store`; `told` hears of each state that was taken, and whether it is on disk."""
        self._controller, self._store, self._told = controller, store, told
        self._waiting: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._later: asyncio.TimerHandle | None = None
        self._broken = False
        self._fenced: SupersededError | None = None
        self.jobs = store.journal.jobs
        self.history = store.journal.history
        self.decisions = store.journal.decisions

    async def _step(self, what: str, act: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return await self._controller.step("journal", what, act, lambda: None)

    # -- writing ---------------------------------------------------------------------------------------------------

    def _flush(self, *, durable: bool) -> None:
        """Write what waits. Raises JournalError; what is written here needs no loop, so it ends at once."""
        self._store.check()
        if self._later is not None:
            self._later.cancel()
            self._later = None
        waiting, self._waiting = self._waiting, []
        for write in waiting:
            try:
                _run(write())
            except SupersededError as error:  # what comes from a runner that another has followed is left out
                self._fenced = error
        if durable:
            self._store.sync()

    def _flush_soon(self) -> None:
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(SOON, self._flush_later)

    def _flush_later(self) -> None:
        self._later = None
        self._broken = self._store.full
        if self._controller.alive and not self._store.full:
            self._flush(durable=False)

    async def transition(self, identifier: str, epoch: int, entry: Entry, state: State, *, durable: bool) -> None:
        """Write a step of the machine."""
        write = partial(self._store.journal.transition, identifier, epoch, entry, state, durable=durable)

        await self._controller.go()
        self._waiting.append(write)  # whatever comes: what cannot be written now is written later

        async def act() -> None:
            if durable:
                self._flush(durable=True)
            else:
                self._flush_soon()
            if self._fenced is not None:
                raise self._fenced
            self._told(state, durable=durable)
            if self._broken:
                self._broken = False
                self._store.check()

        await self._step("transition", act)

    def note(self, identifier: str, kind: str, at: float, data: dict[str, object]) -> None:
        """Write what nobody acts upon."""
        if not self._controller.alive:
            return

        async def write() -> None:
            self._store.journal.note(identifier, kind, at, data)

        self._waiting.append(write)
        self._flush_soon()

    async def conclude(self, identifier: str, epoch: int, outcome: Outcome) -> None:
        """Write how it ended."""
        write = partial(self._store.journal.conclude, identifier, epoch, outcome)

        async def act() -> None:
            self._flush(durable=True)
            await write()

        await self._step("conclude", act)

    async def flush(self) -> None:
        """Write what waits."""
        self._flush(durable=False)

    # -- reading ---------------------------------------------------------------------------------------------------

    async def take_over(self, identifier: str) -> int:
        """Fence earlier runners off."""

        async def act() -> int:
            self._store.check()
            return await self._store.journal.take_over(identifier)

        return int(await self._step("take_over", act))

    async def enter(self, identifier: str, epoch: int, place: str, session: Session) -> tuple[Session, ...]:
        """Keep a session of a runner."""

        async def act() -> tuple[Session, ...]:
            self._store.check()
            return await self._store.journal.enter(identifier, epoch, place, session)

        found: tuple[Session, ...] = await self._step("enter", act)
        return found

    async def ended(self, identifier: str, place: str, sessions: Sequence[Session]) -> None:
        """Forget sessions."""

        async def act() -> None:
            self._store.check()
            await self._store.journal.ended(identifier, place, sessions)

        await self._step("ended", act)

    async def load(self, identifier: str) -> tuple[MigrationRow, State]:
        """Return a migration and its last state."""
        await self._controller.go()
        return await self._store.journal.load(identifier)

    async def entries(self, identifier: str, after: int = 0) -> list[Entry]:
        """Return the journal's lines."""
        await self._controller.go()
        return copy.copy(await self._store.journal.entries(identifier, after))

    async def version(self) -> int:
        """Return what changes with every write."""
        return await self._store.journal.version()

    async def cancel_requested(self, identifier: str) -> str | None:
        """Return who wished to cancel, when somebody does: a look each 0.2 s would say no more."""
        await self._store.wish_event(identifier).wait()
        await self._controller.go()
        return await self._store.journal.cancel_requested(identifier)

    async def create(self, spec: Spec, at: float) -> None:
        """Begin a story."""
        await self._store.journal.create(spec, at)

    async def rows(self, *, unfinished: bool = False, limit: int = 50) -> list[MigrationRow]:
        """List migrations."""
        return await self._store.journal.rows(unfinished=unfinished, limit=limit)

    async def request_cancel(self, identifier: str, by: str, at: float) -> None:
        """Ask the runner to cancel."""
        await self._store.journal.request_cancel(identifier, by, at)

    async def close(self) -> None:
        """Keep everything."""


class Shelf:
    """One runner's inventory: durable, or not written at all."""

    def __init__(self, controller: Controller, store: Store) -> None:
        """Read and write the store's."""
        self._controller, self._store = controller, store

    def __getattr__(self, name: str) -> Any:
        """Guard a method of the inventory."""
        method = getattr(self._store.inventory, name)

        async def guarded(*args: Any, **named: Any) -> Any:
            async def act() -> Any:
                if name.startswith(("put", "remove")):
                    self._store.check()
                return await method(*args, **named)

            return await self._controller.step("inventory", name, act, lambda: None)

        return guarded


def _run(write: Coroutine[Any, Any, None]) -> None:
    """Carry out a coroutine that waits for nothing."""
    try:
        write.send(None)
    except StopIteration:
        return
    write.close()
    raise AssertionError("a journal in memory waited for something")
