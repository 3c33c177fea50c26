"""What was measured of guests and moves, in the journal's database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import delete, insert, select

from godwit.journal.codec import dump, load
from godwit.journal.tables import history
from godwit.model import LinkSaid, MoveRecord, Profile

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row, Select

    from godwit.journal.database import Database

T = TypeVar("T")


def _pair(one: str, other: str) -> str:
    """Return the name of the link between two hosts: names of hosts hold no spaces."""
    return " ".join(sorted((one, other)))


class SqlHistory:
    """See `godwit.ports.History`."""

    def __init__(self, database: Database) -> None:
        """Write to `database`."""
        self._database = database

    async def put_profile(self, profile: Profile) -> None:
        """Keep a profile; see the port."""
        await self._put("profile", f"{profile.vm}-{profile.at:.3f}", profile.vm, profile.at, profile)

    async def profiles(self, vm: str, limit: int = 20) -> list[Profile]:
        """List a guest's profiles; see the port."""
        chosen = select(history.c.record).where(history.c.kind == "profile", history.c.vm == vm)
        return await self._list(Profile, chosen, limit)

    async def put_move(self, record: MoveRecord) -> None:
        """Keep what a move was like; see the port."""
        await self._put("move", record.id, record.vm, record.at, record)

    async def moves(self, limit: int = 200) -> list[MoveRecord]:
        """List moves; see the port."""
        return await self._list(MoveRecord, select(history.c.record).where(history.c.kind == "move"), limit)

    async def forget(self, vm: str) -> None:
        """Forget a guest; see the port."""

        def work(connection: Connection) -> None:
            connection.execute(delete(history).where(history.c.vm == vm))

        await self._database.write(work, durable=False)

    async def put_link(self, said: LinkSaid) -> None:
        """Keep what was said of a link; see the port."""
        await self._put("link", _pair(*said.hosts), "", said.at, said)

    async def link(self, one: str, other: str) -> LinkSaid | None:
        """Return what was said of a link; see the port."""
        chosen = select(history.c.record).where(history.c.kind == "link", history.c.name == _pair(one, other))
        found = await self._list(LinkSaid, chosen, 1)
        return found[0] if found else None

    async def _put(self, kind: str, name: str, vm: str, at: float, record: object) -> None:
        def work(connection: Connection) -> None:
            connection.execute(delete(history).where(history.c.kind == kind, history.c.name == name))
            row = {"kind": kind, "name": name, "vm": vm, "at": at}
            connection.execute(insert(history).values(**row, record=dump(record)))

        await self._database.write(work, durable=False)

    async def _list(self, kind: type[T], chosen: Select[tuple[str]], limit: int) -> list[T]:
        def work(connection: Connection) -> list[Row[Any]]:
            rows = connection.execute(chosen.order_by(history.c.at.desc()).limit(limit))
            return list(rows.all())

        return [load(kind, row.record) for row in await self._database.read(work)]
