"""What persons decided, and what was proven of hosts, in the journal's database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select

from godwit.journal.codec import dump, load
from godwit.journal.tables import proofs, words
from godwit.model import FenceProof, Word

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table

    from godwit.journal.database import Database


class SqlDecisions:
    """See `godwit.ports.Decisions`."""

    def __init__(self, database: Database) -> None:
        """Write to `database`."""
        self._database = database

    async def put_word(self, identifier: str, word: Word) -> None:
        """Keep a person's word; see the port."""
        await self._put(words, identifier, dump(word))

    async def take_word(self, identifier: str) -> Word | None:
        """Return the word and forget it; see the port."""
        text = await self._one(words, identifier)
        if text is None:  # most of the time: then nothing has to be written
            return None

        def work(connection: Connection) -> str | None:
            found = _read(connection, words, identifier)
            connection.execute(delete(words).where(words.c.name == identifier))
            return found

        text = await self._database.write(work, durable=True)
        return None if text is None else load(Word, text)

    async def put_proof(self, proof: FenceProof) -> None:
        """Keep that a host was proven to be off; see the port."""
        await self._put(proofs, proof.host, dump(proof))

    async def proof(self, host: str) -> FenceProof | None:
        """Return what was proven of a host last; see the port."""
        text = await self._one(proofs, host)
        return None if text is None else load(FenceProof, text)

    async def drop_proof(self, host: str) -> None:
        """Forget what was proven of a host; see the port."""

        def work(connection: Connection) -> None:
            connection.execute(delete(proofs).where(proofs.c.name == host))

        await self._database.write(work, durable=True)

    async def _one(self, table: Table, name: str) -> str | None:
        return await self._database.read(lambda connection: _read(connection, table, name))

    async def _put(self, table: Table, name: str, record: str) -> None:
        def work(connection: Connection) -> None:
            connection.execute(delete(table).where(table.c.name == name))
            connection.execute(insert(table).values(name=name, record=record))

        await self._database.write(work, durable=True)


def _read(connection: Connection, table: Table, name: str) -> str | None:
    text: str | None = connection.execute(select(table.c.record).where(table.c.name == name)).scalar_one_or_none()
    return text
