"""One SQLite file, opened twice: once so that a commit is on disk when it returns, once so that it is soon.

A transaction is one call in a thread: SQLAlchemy's asyncio costs three times the CPU time for a write.

In SQLite's write-ahead mode `synchronous=FULL` syncs the log at each commit and `NORMAL` does not, and a sync takes
everything written before along (https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from sqlalchemy import create_engine, event, inspect
from sqlalchemy.exc import DatabaseError

from godwit.errors import JournalError
from godwit.journal.holders import holders
from godwit.journal.tables import metadata
from godwit.journal.turnstile import Turnstile
from godwit.localfiles import open_own, own_home

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

    from godwit.journal.holders import Holder

T = TypeVar("T")

_RESERVE_BYTES: Final = 1 << 20
"""Space kept free for undos: a full disk must not keep a rollback from being journalled."""

_BUSY_MILLISECONDS: Final = 5000
_LOCK_RETRIES: Final = 6
_LOCKED: Final = -1
_AUTO_VACUUM: Final = "INCREMENTAL"
_INCREMENTAL: Final = 2
"""How a file says that its free pages can be given back one by one."""

_THREADS: Final = 4
"""For the journal alone: a write never waits for other work of the process."""

_WRITES_BETWEEN_CHECKPOINTS: Final = 200
_LOG_BYTES: Final = 4 << 20
"""The log of the write-ahead mode is worked into the file once it is so large, beside the writes."""

_LOG_PAGES: Final = 8000
"""Where that does not come about, a write that nobody waits for does it, never one that must be durable."""


class JournalCrowdedError(Exception):
    """Somebody else writes, and the caller does not want to wait."""


def _pause(attempt: int) -> float:
    """Return the seconds before another try at what was locked: longer each time, and never the same for two."""
    return float(0.02 * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311 - no secret


class Database:
    """The file, its two engines, and what to do when the disk is full or another process holds the lock."""

    def __init__(self, path: Path, *, hurried: bool = False) -> None:
        """Remember the path; `open` touches the disk."""
        self.path = path
        self._hurried = hurried
        self._reserve = path.with_suffix(".reserve")
        self._turnstile = Turnstile(path.with_suffix(".turn"))
        self._durable = self._engine("FULL")
        self._relaxed = self._engine("NORMAL")
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="journal")
        self._seer: sqlite3.Connection | None = None
        self._peeper: sqlite3.Connection | None = None
        self._log = path.with_name(f"{path.name}-wal")
        self._writes = 0
        self._checkpointing: asyncio.Future[None] | None = None

    @classmethod
    async def open(cls, path: Path, *, hurried: bool = False) -> Self:
        """Open or create the file. Raises JournalError naming the path.

        Who is `hurried` does not go on waiting for a process that holds the file and is stopped.
        """
        own_home(path.parent)
        try:
            os.close(open_own(path, os.O_RDWR))  # SQLite gives its other files the rights of this one
        except OSError as error:
            message = f"the journal {path} failed: {error.strerror}"
            remedy = f"make {path} and its folder writable, or choose another with GODWIT_HOME=FOLDER"
            raise JournalError(message, remedy=remedy) from error
        database = cls(path, hurried=hurried)
        try:
            await database._prepare()
        except JournalError:
            await database.close()
            raise
        return database

    async def _prepare(self) -> None:
        if not await self._has_tables():
            await self.write(metadata.create_all, durable=True)
        self._keep_reserve()

    async def _has_tables(self) -> bool:
        def look(connection: Connection) -> bool:
            return set(inspect(connection).get_table_names()) >= metadata.tables.keys()

        return await self.read(look)

    def _engine(self, synchronous: str) -> Engine:
        engine = create_engine(f"sqlite:///{self.path}")

        @event.listens_for(engine, "connect")
        def prepare(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
            # Transactions are begun by `write`, at once for writing: what it reads first must not have changed
            # when it writes, nor may two processes read the same and both go on.
            connection.isolation_level = None
            cursor = connection.cursor()
            cursor.execute("PRAGMA page_count")
            # Said of a file that has something in it, it changes nothing, and takes the lock of a writer for that:
            # whoever only reads would wait for all who write, and fail on a full disk.
            new = cursor.fetchone() == (0,)
            for pragma in (
                *((f"auto_vacuum={_AUTO_VACUUM}",) if new else ()),
                f"busy_timeout={_BUSY_MILLISECONDS}",
                "journal_mode=WAL",
                f"synchronous={synchronous}",
                f"wal_autocheckpoint={0 if synchronous == 'FULL' else _LOG_PAGES}",
            ):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        return engine

    def _keep_reserve(self) -> None:
        """Fill the reserve with real blocks, as far as the disk allows."""
        if self._reserve.exists() and self._reserve.stat().st_size == _RESERVE_BYTES:
            return
        try:
            descriptor = open_own(self._reserve, os.O_WRONLY)
            try:
                os.posix_fallocate(descriptor, 0, _RESERVE_BYTES)
            finally:
                os.close(descriptor)
        except OSError:
            # No room for a reserve is no reason to refuse work that fits.
            self._reserve.unlink(missing_ok=True)

    async def write(self, work: Callable[[Connection], T], *, durable: bool, wait: bool = True) -> T:
        """Run `work` in one transaction; on a full disk give up the reserve and try once more.

        Raises JournalError with the mend, and JournalCrowdedError at once when somebody else writes, unless it may
        `wait`.
        """

        def transact() -> T:
            engine = self._durable if durable else self._relaxed
            with engine.connect() as connection, self._turnstile.turn(wait=wait) as mine:
                if not mine:
                    raise JournalCrowdedError
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                result = work(connection)
                connection.commit()
                return result

        for attempt in range(_LOCK_RETRIES):
            try:
                written = await self._beside(transact)
                self._checkpoint_now_and_then()
            except DatabaseError as error:
                reason = str(error.orig)
                if ("full" in reason or "I/O" in reason) and self._reserve.exists():
                    self._reserve.unlink(missing_ok=True)
                else:
                    await self._wait_or_raise(error, attempt)
            else:
                return written
        reason = "the disk is full"
        raise self._translate(reason)

    def _checkpoint_now_and_then(self) -> None:
        """Let the log be worked into the file, in a thread: nobody waits for it, and it keeps nobody from writing."""
        self._writes += 1
        if self._writes < _WRITES_BETWEEN_CHECKPOINTS or (self._checkpointing and not self._checkpointing.done()):
            return
        self._writes = 0
        self._checkpointing = asyncio.get_running_loop().run_in_executor(self._threads, self._checkpoint)

    def _checkpoint(self) -> None:
        try:
            if self._log.stat().st_size >= _LOG_BYTES:
                with self._relaxed.connect() as connection:
                    connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")
                    with self._turnstile.turn(wait=True):  # what was written meanwhile; then the log begins anew
                        connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")
        except (OSError, DatabaseError):
            pass  # somebody else does it, or the next write fails of the same, and tells

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on a connection that writes nothing. Raises JournalError.

        Readers wait for nobody but at the birth of the file: who changes it into the write-ahead mode locks all others
        out for a moment, and SQLite does not wait for that by itself.
        """

        def look() -> T:
            with self._relaxed.connect() as connection:
                return work(connection)

        attempt = 0
        while True:
            try:
                return await self._beside(look)
            except DatabaseError as error:
                await self._wait_or_raise(error, attempt)
                attempt += 1

    async def _wait_or_raise(self, error: DatabaseError, attempt: int) -> None:
        """Return when what was locked is to be tried again. Raises JournalError where it is not."""
        reason = str(error.orig)
        held = await self._held(reason)
        in_vain = self._hurried and any(one.stopped for one in held)
        if "locked" not in reason or attempt >= _LOCK_RETRIES - 1 or in_vain:
            raise self._translate(reason, held) from error
        await asyncio.sleep(_pause(attempt))

    async def _held(self, reason: str) -> tuple[Holder, ...]:
        """Return who holds the file, where that is the reason."""
        if "locked" not in reason:
            return ()
        return await self._beside(lambda: holders(self.path, self._turnstile.path))

    def _translate(self, reason: str, held: Sequence[Holder] = ()) -> JournalError:
        if held:
            message = f"the journal {self.path} is locked by {', and by '.join(map(str, held))}"
            return JournalError(message, remedy=held[0].remedy)
        remedies = {
            "full": f"make room on the disk that holds {self.path}",
            "disk I/O error": f"see whether the disk that holds {self.path} is full or failing",
            "locked": f"end whatever holds {self.path} open, for example a backup",
            "malformed": f"restore {self.path} from a backup; running guests are not affected",
            "not a database": f"restore {self.path} from a backup; running guests are not affected",
            "readonly": f"make {self.path} and its folder writable, or choose another with GODWIT_HOME=FOLDER",
            "unable to open": f"make {self.path} and its folder writable, or choose another with GODWIT_HOME=FOLDER",
        }
        remedy = next((mend for word, mend in remedies.items() if word in reason), "")
        return JournalError(f"the journal {self.path} failed: {reason}", remedy=remedy)

    async def close(self) -> None:
        """Let go of the file."""
        if self._checkpointing is not None:
            await self._checkpointing
        for engine in (self._durable, self._relaxed):
            await self._beside(engine.dispose)
        self._threads.shutdown(wait=False)
        for connection in (self._seer, self._peeper):
            if connection is not None:
                connection.close()

    async def _beside(self, work: Callable[[], T]) -> T:
        """Do in a thread what may wait for the disk. Who is cancelled leaves; what has begun goes on to its end."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def version(self) -> int:
        """Return a number that is another one after each commit of anybody's. Takes microseconds, and never waits.

        Raises JournalError. (https://www.sqlite.org/pragma.html#pragma_data_version)
        """
        try:
            if self._seer is None:
                self._seer = sqlite3.connect(self.path, timeout=0, isolation_level=None)
            return int(self._seer.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error as error:
            if "locked" in str(error):
                return _LOCKED  # the next look tells
            raise self._translate(str(error)) from error

    def size(self) -> int:
        """Return the bytes that the file and its log take on the disk."""
        return sum(path.stat().st_size for path in (self.path, self._log) if path.exists())

    async def shrink(self, pages: int, *, alone: bool) -> bool:
        """Give free pages back, so many at a time; `alone` permits to write a file anew that cannot do that.

        Returns whether none is left. Raises JournalError.
        """

        def look(connection: Connection) -> tuple[bool, int]:
            way = connection.exec_driver_sql("PRAGMA auto_vacuum").scalar_one()
            return way == _INCREMENTAL, int(connection.exec_driver_sql("PRAGMA freelist_count").scalar_one())

        def give_back(connection: Connection) -> None:
            # Each page is a row that has to be asked for; SQLAlchemy does not know of them.
            driver = connection.connection.driver_connection
            assert driver is not None  # noqa: S101 - it is connected; for the type checker
            driver.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()

        incremental, free = await self.read(look)
        while incremental and free:
            before = free
            await self.write(give_back, durable=False)
            _, free = await self.read(look)
            if free >= before:
                break
        try:
            await self._beside(lambda: self._settle(anew=alone and not incremental))
        except DatabaseError as error:
            reason = str(error.orig)
            raise self._translate(reason, await self._held(reason)) from error
        return (await self.read(look))[1] == 0

    def _settle(self, *, anew: bool) -> None:
        """Write the file anew, if that is wanted, and work the log into it, so that both take what they need."""
        with self._relaxed.connect() as connection, self._turnstile.turn(wait=True):
            if anew:
                connection.exec_driver_sql(f"PRAGMA auto_vacuum={_AUTO_VACUUM}")
                connection.exec_driver_sql("VACUUM")
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    async def peek(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query, without what SQLAlchemy adds to it; one at a time. Raises JournalError."""

        def look() -> list[tuple[Any, ...]]:
            if self._peeper is None:
                self._peeper = sqlite3.connect(self.path, timeout=1, isolation_level=None, check_same_thread=False)
            return self._peeper.execute(query, parameters).fetchall()

        try:
            return await self._beside(look)
        except sqlite3.Error as error:
            raise self._translate(str(error), await self._held(str(error))) from error
