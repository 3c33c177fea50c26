"""What has ended, and how it goes, in the journal's database: in steps that keep no runner waiting."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text

from godwit.core.state import TERMINAL
from godwit.journal.kinds import CURVES, THINNED
from godwit.ports import Ended

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from godwit.journal.database import Database

LINES: Final = 1000
"""How many lines go in one transaction: some ten milliseconds."""

_TOGETHER: Final = 50
"""How many migrations do."""

_PAGES: Final = 256
"""How many pages are given back in one transaction."""

_OVER: Final = f"outcome IS NOT NULL AND phase IN ({', '.join(repr(phase.value) for phase in sorted(TERMINAL))})"

_ENDED: Final = f"""
SELECT id, vm FROM (
    SELECT * FROM (SELECT id, vm, created FROM migrations WHERE {_OVER} ORDER BY created DESC LIMIT -1 OFFSET :keep)
    UNION ALL
    SELECT * FROM (SELECT id, vm, created FROM jobs WHERE finished ORDER BY created DESC LIMIT -1 OFFSET :keep)
) WHERE created < :before ORDER BY created
"""  # noqa: S608 - as above

_NAMED: Final = "(SELECT value FROM json_each(:names))"
_REMOVE_LINES: Final = f"""
DELETE FROM entries WHERE rowid IN (
    SELECT rowid FROM entries WHERE migration IN (SELECT id FROM migrations WHERE id IN {_NAMED} AND {_OVER})
    LIMIT :most
)
"""  # noqa: S608 - as above
_REMOVE: Final = (
    f"DELETE FROM sessions WHERE migration IN (SELECT id FROM migrations WHERE id IN {_NAMED} AND {_OVER})",  # noqa: S608 - as above
    f"DELETE FROM sessions WHERE migration IN (SELECT id FROM jobs WHERE id IN {_NAMED} AND finished)",  # noqa: S608 - as above
    f"DELETE FROM migrations WHERE id IN {_NAMED} AND {_OVER}",  # noqa: S608 - as above
    f"DELETE FROM jobs WHERE id IN {_NAMED} AND finished",  # noqa: S608 - as above
)

_THINNED_UNTIL: Final = "SELECT coalesce(max(at), 0) FROM history WHERE kind = 'thinned'"
_TO_THIN: Final = f"""
SELECT id, created FROM migrations WHERE created > :after AND created < :before AND {_OVER}
ORDER BY created LIMIT :most
"""  # noqa: S608 - as above
_THIN: Final = f"""
DELETE FROM entries WHERE rowid IN (
    SELECT rowid FROM entries WHERE migration = :id AND kind IN ({", ".join(map(repr, CURVES))}) LIMIT :most
)
"""  # noqa: S608 - as above
_NOTE: Final = """
INSERT INTO entries (migration, sequence, at, kind, data)
SELECT :id, coalesce(max(sequence), 0) + 1, :at, 'note', :data FROM entries WHERE migration = :id
"""
_LEARNED: Final = "FROM history WHERE kind IN ('move', 'profile') AND at < :before"


class SqlArchive:
    """See `godwit.ports.Archive`."""

    def __init__(self, database: Database) -> None:
        """Work on `database`."""
        self._database = database

    async def ended(self, before: float, keep: int) -> list[Ended]:
        """List what has ended; see the port."""
        return [Ended(*row) for row in await self._rows(_ENDED, before=before, keep=keep)]

    async def remove(self, identifiers: Sequence[str]) -> None:
        """Remove what has ended; see the port."""
        for begin in range(0, len(identifiers), _TOGETHER):
            names = json.dumps(list(identifiers[begin : begin + _TOGETHER]))
            while await self._change(_REMOVE_LINES, names=names, most=LINES) == LINES:
                pass
            await self._database.write(partial(_remove, names=names), durable=False)

    async def learned(self, before: float) -> int:
        """Count what was learned; see the port."""
        ((count,),) = await self._rows(f"SELECT count(*) {_LEARNED}", before=before)
        return int(count)

    async def unlearn(self, before: float) -> None:
        """Remove what was learned; see the port."""
        await self._change(f"DELETE {_LEARNED}", before=before)

    async def thin(self, before: float, at: float, most: int) -> int:
        """Remove what curves are drawn from; see the port."""
        ((after,),) = await self._rows(_THINNED_UNTIL)
        gone = 0
        for identifier, created in await self._rows(_TO_THIN, after=after, before=before, most=_TOGETHER):
            if gone >= most:
                break
            gone += await self._thin(identifier, created, at)
        return gone

    async def _thin(self, identifier: str, created: float, at: float) -> int:
        gone = 0
        while (went := await self._change(_THIN, id=identifier, most=LINES)) == LINES:
            gone += went
        gone += went

        def work(connection: Connection) -> None:
            if gone:
                note = {"id": identifier, "at": at, "data": json.dumps({"text": THINNED})}
                connection.execute(text(_NOTE), note)
            connection.execute(text("DELETE FROM history WHERE kind = 'thinned'"))
            kept = text("INSERT INTO history (kind, name, vm, at, record) VALUES ('thinned', '', '', :at, '')")
            connection.execute(kept, {"at": created})

        await self._database.write(work, durable=False)
        return gone

    async def shrink(self, *, alone: bool) -> bool:
        """Give back what is free; see the port."""
        return await self._database.shrink(_PAGES, alone=alone)

    async def size(self) -> int:
        """Return what the journal takes; see the port."""
        return self._database.size()

    async def _rows(self, query: str, **values: object) -> list[Any]:
        return await self._database.read(lambda connection: list(connection.execute(text(query), values).all()))

    async def _change(self, statement: str, **values: object) -> int:
        def work(connection: Connection) -> int:
            return int(connection.execute(text(statement), values).rowcount)

        return await self._database.write(work, durable=False)


def _remove(connection: Connection, names: str) -> None:
    for statement in _REMOVE:
        connection.execute(text(statement), {"names": names})
