"""One SQLite file, opened twice: once so that a commit is on disk when it returns, once so that it is soon.

In SQLite's write-ahead mode `synchronous=FULL` syncs the log at each commit and `NORMAL` does not, and a sync takes
everything written before along (https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import asyncio
import os
import random
from typing import TYPE_CHECKING, Final, Self, TypeVar

from sqlalchemy import event, inspect
from sqlalchemy.exc import DatabaseError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from godwit.errors import JournalError
from godwit.journal.tables import metadata

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sqlalchemy import Connection
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

T = TypeVar("T")

_RESERVE_BYTES: Final = 1 << 20
"""Space kept free for undos: a full disk must not keep a rollback from being journalled."""

_BUSY_MILLISECONDS: Final = 5000
_LOCK_RETRIES: Final = 6


def _pause(attempt: int) -> float:
    """Return the seconds before another try at what was locked: longer each time, and never the same for two."""
    return float(0.02 * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311 - no secret


class Database:
    """The file, its two engines, and what to do when the disk is full or another process holds the lock."""

    def __init__(self, path: Path) -> None:
        """Remember the path; `open` touches the disk."""
        self.path = path
        self._reserve = path.with_suffix(".reserve")
        self._durable = self._engine("FULL")
        self._relaxed = self._engine("NORMAL")

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open or create the file. Raises JournalError naming the path."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            message = f"cannot make the folder of the journal {path}: {error.strerror}"
            raise JournalError(message, remedy="choose another with GODWIT_HOME=FOLDER") from error
        database = cls(path)
        try:
            await database._prepare()
        except JournalError:
            await database.close()
            raise
        return database

    async def _prepare(self) -> None:
        if not await self._has_tables():
            await self.write(lambda connection: connection.run_sync(metadata.create_all), durable=True)
        self._keep_reserve()

    async def _has_tables(self) -> bool:
        def look(connection: Connection) -> bool:
            return set(metadata.tables) <= set(inspect(connection).get_table_names())

        return await self.read(lambda connection: connection.run_sync(look))

    def _engine(self, synchronous: str) -> AsyncEngine:
        engine = create_async_engine(f"sqlite+aiosqlite:///{self.path}")

        @event.listens_for(engine.sync_engine, "connect")
        def prepare(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
            # Transactions are begun by `write`, at once for writing: what it reads first must not have changed
            # when it writes, nor may two processes read the same and both go on.
            connection.isolation_level = None
            cursor = connection.cursor()
            for pragma in (
                f"busy_timeout={_BUSY_MILLISECONDS}",
                "journal_mode=WAL",
                f"synchronous={synchronous}",
            ):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        return engine

    def _keep_reserve(self) -> None:
        """Fill the reserve with real blocks, as far as the disk allows."""
        if self._reserve.exists() and self._reserve.stat().st_size == _RESERVE_BYTES:
            return
        try:
            descriptor = os.open(self._reserve, os.O_CREAT | os.O_WRONLY, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, _RESERVE_BYTES)
            finally:
                os.close(descriptor)
        except OSError:
            # No room for a reserve is no reason to refuse work that fits.
            self._reserve.unlink(missing_ok=True)

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]], *, durable: bool) -> T:
        """Run `work` in one transaction; on a full disk give up the reserve and try once more.

        Raises JournalError with the mend.
        """
        engine = self._durable if durable else self._relaxed
        for attempt in range(_LOCK_RETRIES):
            try:
                async with engine.connect() as connection:
                    await connection.exec_driver_sql("BEGIN IMMEDIATE")
                    result = await work(connection)
                    await connection.commit()
                    return result
            except DatabaseError as error:
                reason = str(error.orig)
                if ("full" in reason or "I/O" in reason) and self._reserve.exists():
                    self._reserve.unlink(missing_ok=True)
                elif "locked" not in reason or attempt == _LOCK_RETRIES - 1:
                    raise self._translate(reason) from error
                else:
                    await asyncio.sleep(_pause(attempt))
        reason = "the disk is full"
        raise self._translate(reason)

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work` on a connection that writes nothing. Raises JournalError.

        Readers wait for nobody but at the birth of the file: who changes it into the write-ahead mode locks all others
        out for a moment, and SQLite does not wait for that by itself.
        """
        attempt = 0
        while True:
            try:
                async with self._relaxed.connect() as connection:
                    return await work(connection)
            except DatabaseError as error:
                attempt += 1
                if "locked" not in str(error.orig) or attempt == _LOCK_RETRIES:
                    raise self._translate(str(error.orig)) from error
            await asyncio.sleep(_pause(attempt))

    def _translate(self, reason: str) -> JournalError:
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
        await asyncio.gather(self._durable.dispose(), self._relaxed.dispose())
