"""The record of saves and restores, in memory and in a file."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from stories import spec

from godwit.core.saves import Compression, Job, Step, Way, Work
from godwit.errors import BusyError, SupersededError, UnknownMigrationError
from godwit.journal.database import Database
from godwit.journal.sqljournal import SqlJournal
from godwit.model import Launch, Vm

if TYPE_CHECKING:
    from pathlib import Path

    from journalroom import Room

JOB = Job("web1-s1", Work.SAVE, "web1", "alpha", "/f", 5.0, Compression.ZSTD)


async def test_what_is_written_is_read(room: Room) -> None:
    jobs = room.journal.jobs
    await jobs.create(JOB)
    assert await jobs.load("web1-s1") == JOB
    epoch, job = await jobs.take_over("web1-s1")
    vm = Vm("web1", "alpha", Launch(("qemu",)), "/s")
    job = replace(job, way=Way.ZSTD, notes=("a",), guest=vm, stopped_s=0.5).at(Step.WRITING, 6.0)
    for durable in (True, False):
        await jobs.write(job, epoch, durable=durable)
        assert await jobs.load("web1-s1") == job
    assert await jobs.rows(unfinished=True) == [job]
    await jobs.write(job.at(Step.DONE, 7.0), epoch, durable=True)
    assert await jobs.rows(unfinished=True) == []
    assert len(await jobs.rows()) == 1


async def test_who_was_followed_by_another_can_write_nothing(room: Room) -> None:
    jobs = room.journal.jobs
    await jobs.create(JOB)
    old, _ = await jobs.take_over(JOB.id)
    assert not await jobs.taken_over(JOB.id)
    new, _ = await jobs.take_over(JOB.id)
    assert await jobs.taken_over(JOB.id)
    with pytest.raises(SupersededError):
        await jobs.write(JOB.at(Step.WRITING, 6.0), old, durable=True)
    await jobs.write(JOB.at(Step.UNDOING, 6.0), new, durable=True)
    assert (await jobs.load(JOB.id)).step is Step.UNDOING


async def test_a_guest_has_one_unfinished_job_and_no_migration_beside_it(room: Room) -> None:
    jobs = room.journal.jobs
    await jobs.create(JOB)
    with pytest.raises(BusyError, match="web1-s1"):
        await jobs.create(replace(JOB, id="web1-s2"))
    await jobs.create(replace(JOB, id="db-s1", vm="db", created=6.0))
    assert [job.id for job in await jobs.rows()] == ["db-s1", "web1-s1"]
    assert [job.id for job in await jobs.rows(limit=1)] == ["db-s1"]
    await room.journal.create(spec("mail-1", vm="mail"), at=1.0)
    with pytest.raises(BusyError, match="mail-1"):
        await jobs.create(replace(JOB, id="mail-s1", vm="mail"))


async def test_a_wish_to_go_back_is_kept(room: Room) -> None:
    jobs = room.journal.jobs
    await jobs.create(JOB)
    assert not await jobs.cancel_requested(JOB.id)
    await jobs.request_cancel(JOB.id)
    assert await jobs.cancel_requested(JOB.id)


async def test_what_nobody_knows(room: Room) -> None:
    for asking in (room.journal.jobs.load, room.journal.jobs.take_over):
        with pytest.raises(UnknownMigrationError, match="web1-s9"):
            await asking("web1-s9")


async def test_of_two_that_begin_at_once_one_does(room: Room) -> None:
    asked = [room.journal.jobs.create(replace(JOB, id=f"web1-s{number}")) for number in range(4)]
    said = await asyncio.gather(*asked, return_exceptions=True)
    assert sorted(type(one).__name__ for one in said) == ["BusyError"] * 3 + ["NoneType"]


async def test_a_journal_of_before_there_were_jobs_gets_room_for_them(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqlJournal(await Database.open(path))
    await journal.create(spec("web1-1"), at=1.0)
    await journal.close()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE jobs")
    connection.close()
    journal = SqlJournal(await Database.open(path))
    await journal.jobs.create(replace(JOB, vm="db"))
    assert [row.spec.id for row in await journal.rows()] == ["web1-1"]
    await journal.close()
