from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from journalroom import Room

from godwit.journal.database import Database
from godwit.journal.memory import MemoryInventory, MemoryJournal
from godwit.journal.sqljournal import SqlInventory, SqlJournal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(params=["memory", "sqlite"])
async def room(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Room]:
    """Give each implementation in turn: one suite holds them to the same behaviour."""
    if request.param == "memory":
        memory = MemoryJournal()
        yield Room(memory, MemoryInventory(memory))
        return
    database = await Database.open(tmp_path / "journal.db")
    journal = SqlJournal(database)
    yield Room(journal, SqlInventory(database))
    await journal.close()


@pytest.fixture
async def sql(tmp_path: Path) -> AsyncIterator[SqlJournal]:
    """Give a journal in a file."""
    journal = SqlJournal(await Database.open(tmp_path / "journal.db"))
    yield journal
    await journal.close()
