"""What has ended, and how it goes: in memory and in a file, whose room is given back."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from stories import ARMED, FAILED, PRECOPY, entry, outcome, spec

from godwit.core.saves import Job, Step, Work
from godwit.core.state import Phase
from godwit.errors import UnknownMigrationError
from godwit.journal import database as module
from godwit.journal.database import Database
from godwit.journal.sqljournal import SqlJournal
from godwit.model import OutcomeStatus, Profile
from godwit.ports import Ended, Session

if TYPE_CHECKING:
    from pathlib import Path

    from journalroom import Room

    from godwit.core.state import State
    from godwit.ports import Journal

LIMBO = replace(ARMED, phase=Phase.LIMBO)


async def told(journal: Journal, number: int, state: State = FAILED, *, at: float = 0.0, lines: int = 3) -> str:
    """Write the story of a migration that has come that far, and return its identifier."""
    identifier = f"vm{number}-1"
    await journal.create(spec(identifier, vm=f"vm{number}"), at=at or float(number))
    epoch = await journal.take_over(identifier)
    for line in range(lines):
        journal.note(identifier, ("sample", "mirror", "series", "mark")[line % 4], 2.0, {"n": line, "text": "x" * 400})
    await journal.transition(identifier, epoch, entry(), state, durable=True)
    if state is FAILED:
        await journal.conclude(identifier, epoch, outcome(identifier))
    elif state is LIMBO:
        await journal.conclude(identifier, epoch, replace(outcome(identifier), status=OutcomeStatus.LIMBO))
    return identifier


async def saved(journal: Journal, number: int, step: Step = Step.DONE) -> str:
    job = Job(f"save{number}-s1", Work.SAVE, f"save{number}", "alpha", "/f", float(number))
    await journal.jobs.create(job)
    epoch, _ = await journal.jobs.take_over(job.id)
    await journal.jobs.write(job.at(step, 2.0), epoch, durable=True)
    return job.id


async def identifiers(journal: Journal) -> set[str]:
    return {row.spec.id for row in await journal.rows(limit=1000)} | {
        job.id for job in await journal.jobs.rows(limit=1000)
    }


async def test_what_has_ended_is_listed_by_age_and_number(room: Room) -> None:
    journal = room.journal
    for number in (1, 2, 3):
        await told(journal, number)
        await saved(journal, number)
    both = [
        Ended(f"{name}{number}-{end}", f"{name}{number}")
        for number in (1, 2, 3)
        for name, end in (("vm", "1"), ("save", "s1"))
    ]
    assert sorted(await journal.archive.ended(100.0, 0), key=str) == sorted(both, key=str)
    assert {one.id for one in await journal.archive.ended(2.5, 0)} == {"vm1-1", "vm2-1", "save1-s1", "save2-s1"}
    assert {one.id for one in await journal.archive.ended(100.0, 2)} == {"vm1-1", "save1-s1"}
    assert {one.id for one in await journal.archive.ended(1.0, 2)} == set()


async def test_what_goes_is_gone_and_nothing_else(room: Room) -> None:
    journal = room.journal
    for number in (1, 2, 3):
        await told(journal, number, lines=1200 if number == 1 else 3)
    await saved(journal, 4)
    await journal.archive.remove(["vm1-1", "vm2-1", "save4-s1", "nobody"])
    assert await identifiers(journal) == {"vm3-1"}
    assert len(await journal.entries("vm3-1")) == 4
    with pytest.raises(UnknownMigrationError):
        await journal.load("vm1-1")
    await told(journal, 1)  # the name is free again, and nothing of before is in the new story
    assert len(await journal.entries("vm1-1")) == 4


async def test_sessions_of_what_went_are_gone_too(room: Room) -> None:
    journal, one, two = room.journal, Session("boot-a", 100, 5_000), Session("boot-a", 101, 5_000)
    for _ in range(2):
        await told(journal, 1)
        await saved(journal, 4)
        # The name is free again: who enters now is told of nobody who has gone.
        assert await journal.enter("vm1-1", 1, "source", one) == ()
        assert await journal.jobs.enter("save4-s1", 1, "source", one) == ()
        assert await journal.enter("vm1-1", 1, "source", two) == (one,)
        await journal.archive.remove(["vm1-1", "save4-s1"])


async def test_what_has_not_ended_cannot_be_removed(room: Room) -> None:
    journal = room.journal
    names = {await told(journal, 1, PRECOPY), await told(journal, 2, LIMBO), await saved(journal, 3, Step.WRITING)}
    assert await journal.archive.ended(100.0, 0) == []
    await journal.archive.remove(sorted(names))
    assert await identifiers(journal) == names
    assert len(await journal.entries("vm1-1")) == len(await journal.entries("vm2-1")) == 4


async def test_an_ended_story_without_its_outcome_is_not_over(room: Room) -> None:
    journal = room.journal
    await journal.create(spec("vm1-1", vm="vm1"), at=1.0)
    await journal.transition("vm1-1", await journal.take_over("vm1-1"), entry(), FAILED, durable=True)
    assert await journal.archive.ended(100.0, 0) == []
    await journal.archive.remove(["vm1-1"])
    assert await identifiers(journal) == {"vm1-1"}


async def test_curves_go_and_what_happened_stays(room: Room) -> None:
    journal = room.journal
    old, young, open_ = (
        await told(journal, 1, lines=8),
        await told(journal, 50, lines=8),
        await told(journal, 2, PRECOPY),
    )
    assert await journal.archive.thin(10.0, 99.0, 5000) == 6
    kinds = [line.kind for line in await journal.entries(old)]
    assert kinds == ["mark", "mark", "transition", "note"]
    note = (await journal.entries(old))[-1]
    assert (note.at, note.sequence) == (99.0, 10)
    assert "removed" in str(note.data["text"])
    assert len(await journal.entries(young)) == 9
    assert len(await journal.entries(open_)) == 4
    assert await journal.archive.thin(10.0, 100.0, 5000) == 0
    assert len(await journal.entries(old)) == 4, "it is noted once"
    assert (await journal.load(old))[0].outcome is not None


async def test_curves_go_a_few_lines_at_a_time(room: Room) -> None:
    journal = room.journal
    for number in (1, 2, 3):
        await told(journal, number, lines=4)
    went = [await journal.archive.thin(10.0, 99.0, 4) for _ in range(3)]
    assert went == [6, 3, 0]


async def test_what_was_learned_goes_only_when_asked_for(room: Room) -> None:
    history = room.journal.history
    for at in (1.0, 5.0, 9.0):
        await history.put_profile(Profile("web1", "alpha", at, 1 << 20, ()))
    await told(room.journal, 1)
    await room.journal.archive.remove(["vm1-1"])
    assert await room.journal.archive.learned(6.0) == 2
    await room.journal.archive.unlearn(6.0)
    assert [profile.at for profile in await history.profiles("web1")] == [9.0]


# -- the file ------------------------------------------------------------------------------------------------------


def free_pages(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as file:
        return int(file.execute("PRAGMA freelist_count").fetchone()[0])


async def test_room_is_given_back_to_the_disk_while_others_write(sql: SqlJournal, tmp_path: Path) -> None:
    for number in range(4):
        await told(sql, number + 1, lines=2000)
    running = await told(sql, 9, PRECOPY)
    other = SqlJournal(await Database.open(tmp_path / "journal.db"))
    before = await sql.archive.size()
    stop = asyncio.Event()

    async def write() -> int:
        epoch, count = await other.take_over(running), 0
        while not stop.is_set():
            await other.transition(running, epoch, entry(float(count)), PRECOPY, durable=count % 2 == 0)
            count += 1
            await asyncio.sleep(0.005)
        return count

    writing = asyncio.create_task(write())
    await sql.archive.remove([f"vm{number + 1}-1" for number in range(4)])
    small = await sql.archive.shrink(alone=False)
    stop.set()
    count = await writing
    assert small
    assert free_pages(tmp_path / "journal.db") == 0
    assert await sql.archive.size() < before / 4
    await other.flush()
    lines = await sql.entries(running)
    assert [line.at for line in lines if line.kind == "transition"][1:] == [float(n) for n in range(count)]
    await other.close()


async def test_a_file_of_an_earlier_godwit_is_written_anew_when_nobody_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.db"
    with monkeypatch.context() as earlier:
        earlier.setattr(module, "_AUTO_VACUUM", "NONE")
        journal = SqlJournal(await Database.open(path))
        await told(journal, 1, lines=3000)
        await told(journal, 2)
        await journal.close()
    journal = SqlJournal(await Database.open(path))
    before = await journal.archive.size()
    await journal.archive.remove(["vm1-1"])
    assert not await journal.archive.shrink(alone=False)
    assert await journal.archive.size() > before / 2, "its room is kept for what comes"
    assert await journal.archive.shrink(alone=True)
    assert await journal.archive.size() < before / 4
    await told(journal, 3, lines=3000)
    await journal.archive.remove(["vm3-1"])
    assert await journal.archive.shrink(alone=False), "from now on it is like a new one"
    assert await identifiers(journal) == {"vm2-1"}
    await journal.close()
