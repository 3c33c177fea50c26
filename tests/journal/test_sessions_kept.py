"""Which sessions on hosts a journal keeps, and whom it lets in."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from stories import VM, spec

from godwit.core.saves import Job, Work
from godwit.errors import SupersededError
from godwit.ports import Session

if TYPE_CHECKING:
    from journalroom import Room

    from godwit.ports import JobBook, Journal

ONE, TWO, THREE = Session("boot-a", 100, 5_000), Session("boot-a", 101, 1 << 40), Session("boot-b", 100, 5_000)
JOB = Job("web1-save-1", Work.SAVE, "web1", "alpha", "/srv/web1.save", 1.0)


async def migration(room: Room) -> tuple[Journal, str, int]:
    await room.journal.create(spec(), 1.0)
    return room.journal, "web1-1", await room.journal.take_over("web1-1")


async def job(room: Room) -> tuple[JobBook, str, int]:
    await room.journal.jobs.create(JOB)
    epoch, _ = await room.journal.jobs.take_over(JOB.id)
    return room.journal.jobs, JOB.id, epoch


@pytest.mark.parametrize("kind", [migration, job])
async def test_who_enters_is_told_of_all_others_at_that_place_until_they_have_ended(room: Room, kind: object) -> None:
    book, identifier, epoch = await kind(room)  # type: ignore[operator]
    assert await book.enter(identifier, epoch, "source", ONE) == ()
    assert await book.enter(identifier, epoch, "target", THREE) == ()
    assert set(await book.enter(identifier, epoch, "source", TWO)) == {ONE}
    assert set(await book.enter(identifier, epoch, "source", TWO)) == {ONE}
    await book.ended(identifier, "source", [ONE])
    await book.ended(identifier, "source", [ONE])
    assert await book.enter(identifier, epoch, "source", TWO) == ()
    assert set(await book.enter(identifier, epoch, "source", THREE)) == {TWO}


@pytest.mark.parametrize("kind", [migration, job])
async def test_who_was_followed_by_another_is_not_let_in(room: Room, kind: object) -> None:
    book, identifier, epoch = await kind(room)  # type: ignore[operator]
    await book.enter(identifier, epoch, "source", ONE)
    await book.take_over(identifier)
    with pytest.raises(SupersededError):
        await book.enter(identifier, epoch, "source", TWO)
    assert await book.enter(identifier, epoch + 1, "source", THREE) == (ONE,)


async def test_sessions_are_of_one_migration(room: Room) -> None:
    book, _, epoch = await migration(room)
    await room.journal.create(spec("db-1", "db"), 2.0)
    other = await room.journal.take_over("db-1")
    await book.enter("web1-1", epoch, "source", ONE)
    assert await book.enter("db-1", other, "source", TWO) == ()


async def test_who_was_followed_by_another_does_not_say_where_a_guest_lives(room: Room) -> None:
    _, _, epoch = await migration(room)
    await room.inventory.put_vm(VM, under=("web1-1", epoch))
    await room.journal.take_over("web1-1")
    with pytest.raises(SupersededError):
        await room.inventory.put_vm(replace(VM, host="beta"), under=("web1-1", epoch))
    assert (await room.inventory.vm(VM.name)).host == VM.host
    await room.inventory.put_vm(replace(VM, host="beta"), under=("web1-1", epoch + 1))
    assert (await room.inventory.vm(VM.name)).host == "beta"
