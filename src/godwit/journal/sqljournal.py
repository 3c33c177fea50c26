"""The journal and the inventory over SQLAlchemy."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import CursorResult, delete, func, insert, select, update

from godwit.core.sending import SendRecord
from godwit.core.state import TERMINAL, Phase, State
from godwit.errors import (
    BusyError,
    JournalError,
    SupersededError,
    UnknownHostError,
    UnknownMigrationError,
    UnknownVmError,
)
from godwit.journal import sqlsessions
from godwit.journal.codec import decode, dump, encode, load, phase_of
from godwit.journal.database import JournalCrowdedError
from godwit.journal.glances import Glances, Wishes
from godwit.journal.sqlarchive import SqlArchive
from godwit.journal.sqldecisions import SqlDecisions
from godwit.journal.sqlhistory import SqlHistory
from godwit.journal.sqljobs import SqlJobs
from godwit.journal.tables import entries, hosts, migrations, sends, vms
from godwit.model import HostRecord, Outcome, Spec, Vm
from godwit.ports import Entry, MigrationRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Row, Table

    from godwit.journal.database import Database
    from godwit.ports import Session

_SOON: Final = 0.15
"""Seconds within which what nobody waits for is written."""

_GIVES_WAY: Final = 5
"""How often it gives way to others who write, twice as long each time, before it waits for its turn as they do."""

_ENDED: Final = [phase.value for phase in TERMINAL]


@dataclass(frozen=True, slots=True)
class _Write:
    """One line that waits to be written, as text: what cannot be stored is refused where it is given.

    Nor is text made while others wait for the journal.
    """

    identifier: str
    at: float
    kind: str
    data: str
    epoch: int = 0
    phase: str = ""
    state: str | None = None
    durable: bool = False


class SqlJournal:
    """The journal over a database; see `godwit.ports.Journal`."""

    def __init__(self, database: Database) -> None:
        """Write to `database`."""
        self._database = database
        self.jobs = SqlJobs(database)
        self.history = SqlHistory(database)
        self.archive = SqlArchive(database)
        self._glances = Glances(database)
        self._wishes = Wishes(database, database.path.with_suffix(".wishes"))
        self.decisions = SqlDecisions(database)
        self._waiting: list[_Write] = []
        self._fenced: set[tuple[str, int]] = set()
        self._flushing = asyncio.Lock()
        self._closing = asyncio.Event()
        self._later: asyncio.Task[None] | None = None
        self._broken: JournalError | None = None

    async def create(self, spec: Spec, at: float) -> None:
        """Begin a story; see the port."""
        row = {"id": spec.id, "vm": spec.vm, "created": at, "spec": dump(spec), "epoch": 0}
        begun = insert(migrations).values(**row, phase=Phase.PENDING.value, state=dump(State()))

        def work(connection: Connection) -> None:
            busy = select(migrations.c.id).where(migrations.c.vm == spec.vm, migrations.c.phase.not_in(_ENDED))
            other = connection.execute(busy).scalar()
            if other is not None:
                message = f"{spec.vm} is being migrated already: {other}"
                raise BusyError(message, remedy=f"godwit watch {other}, or godwit cancel {other}")
            connection.execute(begun)

        await self._database.write(work, durable=True)

    async def take_over(self, identifier: str) -> int:
        """Fence earlier runners off; see the port."""

        def work(connection: Connection) -> int:
            bump = update(migrations).where(migrations.c.id == identifier).values(epoch=migrations.c.epoch + 1)
            connection.execute(bump)
            epoch = connection.execute(select(migrations.c.epoch).where(migrations.c.id == identifier))
            return int(epoch.scalar_one())

        await self.load(identifier)
        return await self._database.write(work, durable=True)

    async def enter(self, identifier: str, epoch: int, place: str, session: Session) -> tuple[Session, ...]:
        """Keep a session of a runner, unless another took over; see the port."""
        others = await self._database.write(
            lambda connection: sqlsessions.enter(connection, migrations, identifier, epoch, place, session),
            durable=False,  # with the machine that loses power its runners end as well
        )
        if others is None:
            raise _superseded(identifier)
        return others

    async def ended(self, identifier: str, place: str, sessions: Sequence[Session]) -> None:
        """Forget sessions; see the port."""
        await self._database.write(
            lambda connection: sqlsessions.forget(connection, identifier, place, sessions), durable=False
        )

    async def transition(self, identifier: str, epoch: int, entry: Entry, state: State, *, durable: bool) -> None:
        """Write a step of the machine; see the port."""
        line = identifier, entry.at, entry.kind, encode(entry.data)
        self._waiting.append(_Write(*line, epoch, state.phase.value, dump(state), durable))
        if durable:
            await self.flush()
        else:
            self._flush_soon()
        if (identifier, epoch) in self._fenced:
            raise _superseded(identifier)
        if self._broken is not None:
            raise self._broken

    def note(self, identifier: str, kind: str, at: float, data: dict[str, object]) -> None:
        """Write what nobody acts upon; see the port."""
        self._waiting.append(_Write(identifier, at, kind, encode(data)))
        self._flush_soon()

    async def conclude(self, identifier: str, epoch: int, outcome: Outcome) -> None:
        """Write the outcome; see the port."""
        await self.flush()

        text = dump(outcome)

        def work(connection: Connection) -> bool:
            return _update(connection, identifier, epoch, outcome=text)

        if not await self._database.write(work, durable=True):
            raise _superseded(identifier)

    def _flush_soon(self) -> None:
        if self._later is None or self._later.done():
            self._later = asyncio.create_task(self._flush_later(), name="journal-flush")

    async def _flush_later(self) -> None:
        for attempt in range(_GIVES_WAY + 1):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _SOON * 2**attempt)
            try:
                await self._flush(wait=attempt == _GIVES_WAY or self._closing.is_set())
            except JournalCrowdedError:
                continue
            except JournalError as error:  # told to the next caller, who can act on it
                self._broken = error
            return

    async def flush(self) -> None:
        """Write what waits, all of it durably if any of it must be. What cannot be written goes on waiting.

        A caller that is cancelled stops waiting; what it wanted written is written all the same.
        """
        writing = asyncio.create_task(self._flush(), name="journal-write")
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            writing.add_done_callback(_retrieve)
            raise

    async def _flush(self, *, wait: bool = True) -> None:
        """Write what waits; see `flush`. Unless it may `wait`, raises JournalCrowdedError when others write."""
        async with self._flushing:
            batch, self._waiting = self._waiting, []
            if not batch:
                return
            try:
                durable = any(write.durable for write in batch)
                await self._database.write(
                    lambda connection: self._write(connection, batch), durable=durable, wait=wait or durable
                )
            except (JournalError, JournalCrowdedError):
                self._waiting = batch + self._waiting
                raise
            self._broken = None

    def _write(self, connection: Connection, batch: list[_Write]) -> None:
        """Write a batch in its order, except what comes from a runner that another has followed."""
        sequences: dict[str, int] = {}
        rows: list[dict[str, Any]] = []
        for write in batch:
            if write.state is not None and not _update(
                connection, write.identifier, write.epoch, phase=write.phase, state=write.state
            ):
                self._fenced.add((write.identifier, write.epoch))
                continue
            if write.identifier not in sequences:
                newest = select(func.max(entries.c.sequence)).where(entries.c.migration == write.identifier)
                sequences[write.identifier] = connection.execute(newest).scalar() or 0
            sequences[write.identifier] += 1
            line = {"sequence": sequences[write.identifier], "at": write.at, "kind": write.kind, "data": write.data}
            rows.append({"migration": write.identifier, **line})
        if rows:
            connection.execute(insert(entries), rows)

    async def load(self, identifier: str) -> tuple[MigrationRow, State]:
        """Return a migration and its last state; see the port."""

        def work(connection: Connection) -> Row[Any] | None:
            return connection.execute(select(migrations).where(migrations.c.id == identifier)).one_or_none()

        row = await self._database.read(work)
        if row is None:
            message = f"there is no migration {identifier!r}"
            raise UnknownMigrationError(message, remedy="godwit history lists them")
        return _row(row), load(State, row.state)

    async def entries(self, identifier: str, after: int = 0) -> list[Entry]:
        """Return the journal's lines; see the port."""

        def work(connection: Connection) -> list[Entry]:
            chosen = (
                select(entries)
                .where(entries.c.migration == identifier, entries.c.sequence > after)
                .order_by(entries.c.sequence)
            )
            return [Entry(r.sequence, r.at, r.kind, decode(r.data)) for r in connection.execute(chosen)]

        return await self._database.read(work)

    async def version(self, identifier: str | None = None) -> int:
        """Return what changes with every write; see the port."""
        if identifier is None:
            return self._database.version()
        return (await self._glances.of(identifier)).version

    async def rows(self, *, unfinished: bool = False, limit: int = 50) -> list[MigrationRow]:
        """List migrations; see the port."""

        def work(connection: Connection) -> list[MigrationRow]:
            chosen = select(migrations).order_by(migrations.c.created.desc()).limit(limit)
            if unfinished:
                chosen = chosen.where(migrations.c.phase.not_in(_ENDED) | migrations.c.outcome.is_(None))
            return [_row(row) for row in connection.execute(chosen)]

        return await self._database.read(work)

    async def request_cancel(self, identifier: str, by: str, at: float) -> None:
        """Ask the runner to cancel; see the port."""
        await self.load(identifier)

        def work(connection: Connection) -> None:
            asked = update(migrations).where(migrations.c.id == identifier).values(cancel_by=by, cancel_at=at)
            connection.execute(asked)

        await self._database.write(work, durable=True)
        self._wishes.tell()

    async def cancel_requested(self, identifier: str) -> str | None:
        """Return who asked to cancel; see the port."""
        return await self._wishes.of(identifier)

    async def close(self) -> None:
        """Write what waits and let go."""
        self._closing.set()
        try:
            if self._later is not None:
                await self._later
            await self.flush()
        finally:
            await self._database.close()


def _retrieve(writing: asyncio.Task[None]) -> None:
    """Take note of a failure that nobody is left to hear: what was to be written waits for the next flush."""
    if not writing.cancelled():
        writing.exception()


def _update(connection: Connection, identifier: str, epoch: int, **values: str) -> bool:
    """Change a migration's row; False if another runner has taken it over since `epoch`."""
    mine = (migrations.c.id == identifier) & (migrations.c.epoch == epoch)
    done: CursorResult[Any] = connection.execute(update(migrations).where(mine).values(**values))
    return done.rowcount == 1


def _replace(connection: Connection, table: Table, name: str, record: str) -> None:
    connection.execute(delete(table).where(table.c.name == name))
    connection.execute(insert(table).values(name=name, record=record))


def _superseded(identifier: str) -> SupersededError:
    return SupersededError(f"another runner took over {identifier}; this one stops here")


def _row(row: Row[Any]) -> MigrationRow:
    outcome = load(Outcome, row.outcome) if row.outcome else None
    return MigrationRow(load(Spec, row.spec), row.created, phase_of(row.phase), row.epoch, outcome)


class SqlInventory:
    """Hosts and guests over a database; see `godwit.ports.Inventory`."""

    def __init__(self, database: Database) -> None:
        """Keep them in `database`."""
        self._database = database

    async def hosts(self) -> list[HostRecord]:
        """List all hosts by name."""
        return [load(HostRecord, text) for text in await self._all(hosts)]

    async def host(self, name: str) -> HostRecord:
        """Return a host; see the port."""
        text = await self._one(hosts, name)
        if text is None:
            known = ", ".join(record.name for record in await self.hosts()) or "none"
            message = f"there is no host {name!r}; known: {known}"
            raise UnknownHostError(message, remedy="godwit host add NAME local|ssh://user@host[:port]")
        return load(HostRecord, text)

    async def put_host(self, record: HostRecord) -> None:
        """Add or replace a host."""
        await self._put(hosts, record.name, dump(record))

    async def remove_host(self, name: str) -> None:
        """Forget a host."""
        await self.host(name)
        await self._delete(hosts, name)

    async def vms(self) -> list[Vm]:
        """List all guests by name."""
        return [load(Vm, text) for text in await self._all(vms)]

    async def vm(self, name: str) -> Vm:
        """Return a guest; see the port."""
        text = await self._one(vms, name)
        if text is None:
            known = ", ".join(vm.name for vm in await self.vms()) or "none"
            message = f"there is no guest {name!r}; known: {known}"
            raise UnknownVmError(
                message, remedy="godwit vm define FILE.toml --on HOST, or godwit vm adopt HOST --qmp PATH"
            )
        return load(Vm, text)

    async def put_vm(self, vm: Vm, *, under: tuple[str, int] | None = None) -> None:
        """Add or replace a guest, unless another took the migration over that says so; see the port."""

        def work(connection: Connection) -> bool:
            if under is not None:
                identifier, epoch = under
                current = connection.execute(select(migrations.c.epoch).where(migrations.c.id == identifier)).scalar()
                if current != epoch:
                    return False
            _replace(connection, vms, vm.name, dump(vm))
            return True

        if not await self._database.write(work, durable=True):
            raise _superseded(under[0] if under else vm.name)

    async def remove_vm(self, name: str) -> None:
        """Forget a guest."""
        await self.vm(name)
        await self._delete(vms, name)

    async def sends(self) -> list[SendRecord]:
        """List the guests that are being sent, or were when whoever sent them died."""
        return [load(SendRecord, text) for text in await self._all(sends)]

    async def put_send(self, record: SendRecord) -> None:
        """Write durably how far a guest is."""
        await self._put(sends, record.vm, dump(record))

    async def remove_send(self, vm: str) -> None:
        """Forget that a guest is being sent. Idempotent."""
        await self._delete(sends, vm)

    async def _all(self, table: Table) -> list[str]:
        def work(connection: Connection) -> list[str]:
            return list(connection.execute(select(table.c.record).order_by(table.c.name)).scalars())

        return await self._database.read(work)

    async def _one(self, table: Table, name: str) -> str | None:
        def work(connection: Connection) -> str | None:
            text: str | None = (
                connection.execute(select(table.c.record).where(table.c.name == name))
            ).scalar_one_or_none()
            return text

        return await self._database.read(work)

    async def _put(self, table: Table, name: str, record: str) -> None:
        await self._database.write(lambda connection: _replace(connection, table, name, record), durable=True)

    async def _delete(self, table: Table, name: str) -> None:
        def work(connection: Connection) -> None:
            connection.execute(delete(table).where(table.c.name == name))

        await self._database.write(work, durable=True)
