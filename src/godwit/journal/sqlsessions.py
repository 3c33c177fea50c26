"""The sessions of runners on hosts, in the journal's database: whoever comes next ends them before it acts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select

from godwit.journal.tables import sessions
from godwit.ports import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Table


def enter(
    connection: Connection, runs: Table, identifier: str, epoch: int, place: str, session: Session
) -> tuple[Session, ...] | None:
    """Keep a session and return all others of that place; None where `runs` has another epoch for `identifier`."""
    if connection.execute(select(runs.c.epoch).where(runs.c.id == identifier)).scalar() != epoch:
        return None
    there = (sessions.c.migration == identifier) & (sessions.c.place == place)
    kept = connection.execute(select(sessions).where(there).order_by(sessions.c.started, sessions.c.pid))
    found = tuple(Session(row.boot, row.pid, row.started) for row in kept)
    if session not in found:
        connection.execute(insert(sessions).values(migration=identifier, place=place, **_columns(session)))
    return tuple(other for other in found if other != session)


def forget(connection: Connection, identifier: str, place: str, ended: Sequence[Session]) -> None:
    """Forget sessions that have ended."""
    for session in ended:
        mine = (sessions.c.migration == identifier) & (sessions.c.place == place)
        same = (sessions.c.boot == session.boot) & (sessions.c.pid == session.pid)
        connection.execute(delete(sessions).where(mine & same & (sessions.c.started == session.started)))


def _columns(session: Session) -> dict[str, str | int]:
    return {"boot": session.boot, "pid": session.pid, "started": session.started}
