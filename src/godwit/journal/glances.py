"""What has changed of migrations, asked several times a second by all that are at work, and answered with few looks.

Whoever writes changes the number of the whole file. Were everybody to read his migration anew for that, 200 of them
would have each other read all the time. Who follows several has one look at all of them; and wishes to cancel, which
each runner waits for, are read when somebody has had one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from godwit.journal.database import Database

_FORGOTTEN: Final = 10.0
"""Seconds after which a migration that nobody asks about any more is left out."""

_WISHES: Final = """
SELECT id, cancel_by FROM migrations WHERE cancel_by IS NOT NULL AND id IN (SELECT value FROM json_each(?))
"""

_AT_LEAST: Final = 2.0
"""Seconds after which wishes are read anyway: on a full disk the file cannot be told of one."""

_LOOK: Final = """
SELECT id, epoch, phase, outcome IS NULL, cancel_by,
       (SELECT max(sequence) FROM entries WHERE entries.migration = migrations.id)
FROM migrations WHERE id IN (SELECT value FROM json_each(?))
"""


@dataclass(slots=True)
class Glance:
    """A migration as it was seen last. `version` is another one whenever something of it has changed."""

    asked: float
    version: int = 0
    seen: tuple[object, ...] = ()


class Glances:
    """Looks into the file when somebody has written since, for all that asked lately at once."""

    def __init__(self, database: Database) -> None:
        """Look into `database`."""
        self._database = database
        self._known: dict[str, Glance] = {}
        self._file: int | None = None
        self._looking = asyncio.Lock()

    async def of(self, identifier: str) -> Glance:
        """Return what a migration is like now; of one that is not there nothing ever changes. Raises JournalError."""
        now = time.monotonic()
        glance = self._known.get(identifier)
        if glance is not None:
            glance.asked = now
            if self._database.version() == self._file:
                return glance
        async with self._looking:
            file = self._database.version()
            if glance is None or file != self._file:
                glance = self._known.setdefault(identifier, Glance(now))
                self._known = {name: one for name, one in self._known.items() if now - one.asked < _FORGOTTEN}
                for name, *seen in await self._database.peek(_LOOK, json.dumps(list(self._known))):
                    self._take(self._known[name], seen)
                self._file = file
        return glance

    def _take(self, glance: Glance, seen: list[object]) -> None:
        if glance.seen != tuple(seen):
            glance.seen = tuple(seen)
            glance.version += 1


class Wishes:
    """Who has asked for which migrations to be cancelled. A file beside the journal is touched at each wish."""

    def __init__(self, database: Database, path: Path) -> None:
        """Read from `database`, and look at `path` for whether that is worth it."""
        self._database = database
        self._path = path
        self._stamp: int | None = None
        self._read_at = -_AT_LEAST
        self._asked: dict[str, float] = {}
        self._by: dict[str, str] = {}
        self._reading = asyncio.Lock()

    def tell(self) -> None:
        """Let all that wait for one read: a wish was written."""
        with contextlib.suppress(OSError):
            self._path.touch(mode=0o600)
            now = time.time_ns()
            os.utime(self._path, ns=(now, now))

    async def of(self, identifier: str) -> str | None:
        """Return who asked to cancel a migration. Raises JournalError."""
        async with self._reading:
            stamp, now = self._told(), time.monotonic()
            new = identifier not in self._asked
            self._asked[identifier] = now
            if new or stamp != self._stamp or now - self._read_at >= _AT_LEAST:
                self._asked = {name: at for name, at in self._asked.items() if now - at < _FORGOTTEN}
                self._by = dict(await self._database.peek(_WISHES, json.dumps(list(self._asked))))
                self._stamp, self._read_at = stamp, now
        return self._by.get(identifier)

    def _told(self) -> int:
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return 0
