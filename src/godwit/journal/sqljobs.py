"""The record of saves and restores in the journal's database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from godwit.core.saves import Job
from godwit.core.state import TERMINAL
from godwit.journal import sqlsessions
from godwit.journal.codec import dump, load
from godwit.journal.memoryjobs import busy, superseded, unknown
from godwit.journal.tables import jobs, migrations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Row

    from godwit.journal.database import Database
    from godwit.ports import Session


class SqlJobs:
    """See `godwit.ports.JobBook`."""

    def __init__(self, database: Database) -> None:
        """Write to `database`."""
        self._database = database

    async def create(self, job: Job) -> None:
        """Write a new job down; see the port."""

        def work(connection: Connection) -> None:
            ended = [phase.value for phase in TERMINAL]
            moving = select(migrations.c.id).where(migrations.c.vm == job.vm, migrations.c.phase.not_in(ended))
            doing = select(jobs.c.id).where(jobs.c.vm == job.vm, jobs.c.finished == 0)
            for chosen in (moving, doing):
                other = connection.execute(chosen).scalar()
                if other is not None:
                    raise busy(job.vm, other)
            row = {"id": job.id, "vm": job.vm, "created": job.created, "finished": 0, "epoch": 0, "cancel": 0}
            connection.execute(insert(jobs).values(**row, job=dump(job)))

        await self._database.write(work, durable=True)

    async def take_over(self, identifier: str) -> tuple[int, Job]:
        """Fence earlier ones off; see the port."""

        def work(connection: Connection) -> Row[Any] | None:
            connection.execute(update(jobs).where(jobs.c.id == identifier).values(epoch=jobs.c.epoch + 1))
            return connection.execute(select(jobs).where(jobs.c.id == identifier)).one_or_none()

        row = await self._database.write(work, durable=True)
        if row is None:
            raise unknown(identifier)
        return int(row.epoch), load(Job, row.job)

    async def taken_over(self, identifier: str) -> bool:
        """Say whether who began it has been followed by another."""

        def work(connection: Connection) -> bool:
            epoch = connection.execute(select(jobs.c.epoch).where(jobs.c.id == identifier)).scalar()
            return (epoch or 0) > 1

        return await self._database.read(work)

    async def write(self, job: Job, epoch: int, *, durable: bool) -> None:
        """Write how far it is; see the port."""

        def work(connection: Connection) -> bool:
            mine = update(jobs).where(jobs.c.id == job.id, jobs.c.epoch == epoch)
            changed = connection.execute(mine.values(job=dump(job), finished=int(job.finished)))
            return bool(changed.rowcount)

        if not await self._database.write(work, durable=durable):
            raise superseded(job.id)

    async def enter(self, identifier: str, epoch: int, place: str, session: Session) -> tuple[Session, ...]:
        """Keep a session, unless another took over; see the port."""
        others = await self._database.write(
            lambda connection: sqlsessions.enter(connection, jobs, identifier, epoch, place, session), durable=False
        )
        if others is None:
            raise superseded(identifier)
        return others

    async def ended(self, identifier: str, place: str, sessions: Sequence[Session]) -> None:
        """Forget sessions; see the port."""
        await self._database.write(
            lambda connection: sqlsessions.forget(connection, identifier, place, sessions), durable=False
        )

    async def load(self, identifier: str) -> Job:
        """Return a job; see the port."""

        def work(connection: Connection) -> str | None:
            text: str | None = connection.execute(select(jobs.c.job).where(jobs.c.id == identifier)).scalar()
            return text

        text = await self._database.read(work)
        if text is None:
            raise unknown(identifier)
        return load(Job, text)

    async def rows(self, *, unfinished: bool = False, limit: int = 50) -> list[Job]:
        """List jobs; see the port."""

        def work(connection: Connection) -> list[Job]:
            chosen = select(jobs.c.job).order_by(jobs.c.created.desc()).limit(limit)
            if unfinished:
                chosen = chosen.where(jobs.c.finished == 0)
            return [load(Job, text) for text in connection.execute(chosen).scalars()]

        return await self._database.read(work)

    async def request_cancel(self, identifier: str) -> None:
        """Ask to go back; see the port."""

        def work(connection: Connection) -> None:
            connection.execute(update(jobs).where(jobs.c.id == identifier).values(cancel=1))

        await self._database.write(work, durable=True)

    async def cancel_requested(self, identifier: str) -> bool:
        """Say whether somebody asked for that."""

        def work(connection: Connection) -> bool:
            return bool(connection.execute(select(jobs.c.cancel).where(jobs.c.id == identifier)).scalar())

        return await self._database.read(work)
