"""The journal in a file: what it promises when processes die, disks fill up and others hold the lock."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy.exc import OperationalError
from stories import ARMED, FAILED, PRECOPY, entry, outcome, spec

from godwit.errors import BusyError, JournalError
from godwit.journal.database import Database
from godwit.journal.sqljournal import SqlInventory, SqlJournal
from godwit.model import HostRecord

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from sqlalchemy import Connection

NOBODY = 65534
LONG = {"text": "x" * 40_000}


async def opened(path: Path) -> SqlJournal:
    return SqlJournal(await Database.open(path))


async def begun(journal: SqlJournal) -> int:
    await journal.create(spec(), at=1.0)
    return await journal.take_over("web1-1")


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(5):
        while not await holds():  # noqa: ASYNC110 - another process or connection makes it so
            await asyncio.sleep(0.02)


# -- processes that die --------------------------------------------------------------------------------------------

WRITER = """
import asyncio, os, signal, sys
from pathlib import Path
from stories import ARMED, PRECOPY, entry, spec
from godwit.journal.database import Database
from godwit.journal.sqljournal import SqlJournal

async def main():
    journal = SqlJournal(await Database.open(Path(sys.argv[1])))
    await journal.create(spec(), at=1.0)
    epoch = await journal.take_over("web1-1")
    await journal.transition("web1-1", epoch, entry(1.0, n=1), PRECOPY, durable=False)
    for n in range(50):
        journal.note("web1-1", "sample", 2.0 + n, {"n": n})
    await journal.transition("web1-1", epoch, entry(99.0, n=99), ARMED, durable=True)
    journal.note("web1-1", "sample", 100.0, {"n": 100})
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_a_durable_transition_and_all_before_it_outlive_a_killed_writer(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    writer = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, path, env=environment)
    assert await writer.wait() == -signal.SIGKILL
    journal = await opened(path)
    row, state = await journal.load("web1-1")
    lines = await journal.entries("web1-1")
    await journal.close()
    assert (row.epoch, state) == (1, ARMED)
    assert [line.sequence for line in lines] == list(range(1, 53))
    assert [line.at for line in lines] == [1.0, *(2.0 + n for n in range(50)), 99.0]


async def test_a_durable_transition_is_synced_whoever_writes_it(
    sql: SqlJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write of lesser care that is already waiting for its turn must not take a durable one along unsynced."""
    epoch = await begun(sql)
    care: list[bool] = []
    write = Database.write

    async def watched(self: Database, work: Callable[[Connection], object], *, durable: bool, wait: bool) -> object:
        care.append(durable)
        return await write(self, work, durable=durable, wait=wait)

    monkeypatch.setattr(Database, "write", watched)
    async with sql._flushing:
        sql.note("web1-1", "sample", 1.0, {})
        careless = asyncio.create_task(sql.flush())
        await asyncio.sleep(0)
        careful = asyncio.create_task(sql.transition("web1-1", epoch, entry(), ARMED, durable=True))
        await asyncio.sleep(0)
    await asyncio.gather(careless, careful)
    assert care == [True]
    assert (await sql.load("web1-1"))[1] == ARMED


async def test_a_caller_that_is_cancelled_takes_nothing_away(sql: SqlJournal) -> None:
    epoch = await begun(sql)
    async with sql._flushing:
        given_up = asyncio.create_task(sql.transition("web1-1", epoch, entry(), ARMED, durable=True))
        await asyncio.sleep(0.01)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
    await sql.flush()
    assert (await sql.load("web1-1"))[1] == ARMED
    assert len(await sql.entries("web1-1")) == 1


async def test_a_durable_commit_uses_the_connection_that_syncs(sql: SqlJournal) -> None:
    def synchronous(connection: Connection) -> int:
        return int(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())

    full, normal = 2, 1
    assert await sql._database.write(synchronous, durable=True) == full
    assert await sql._database.write(synchronous, durable=False) == normal


async def test_what_nobody_waits_for_is_on_its_way_to_the_file_soon(sql: SqlJournal, tmp_path: Path) -> None:
    epoch = await begun(sql)
    await sql.transition("web1-1", epoch, entry(n=1), PRECOPY, durable=False)
    sql.note("web1-1", "sample", 2.0, {"n": 2})
    reader = await opened(tmp_path / "journal.db")

    async def both_are_there() -> bool:
        return len(await reader.entries("web1-1")) == 2

    await eventually(both_are_there)
    assert (await reader.load("web1-1"))[1] == PRECOPY
    await reader.close()


async def test_closing_writes_what_waits(tmp_path: Path) -> None:
    journal = await opened(tmp_path / "journal.db")
    epoch = await begun(journal)
    await journal.transition("web1-1", epoch, entry(), PRECOPY, durable=False)
    for n in range(3):
        await asyncio.sleep(0.06)  # the last note comes while the first is being written
        journal.note("web1-1", "sample", float(n), {})
    await journal.close()
    again = await opened(tmp_path / "journal.db")
    assert [line.kind for line in await again.entries("web1-1")] == ["transition", *["sample"] * 3]
    await again.close()


async def test_a_runner_in_another_process_is_fenced(sql: SqlJournal, tmp_path: Path) -> None:
    """Each has counted the lines for itself; what the fenced one still notes must not collide."""
    old = await begun(sql)
    await sql.transition("web1-1", old, entry(n=1), PRECOPY, durable=True)
    other = await opened(tmp_path / "journal.db")
    new = await other.take_over("web1-1")
    await other.transition("web1-1", new, entry(n=2), ARMED, durable=True)
    sql.note("web1-1", "note", 3.0, {"n": 3})
    with pytest.raises(JournalError, match="took over"):
        await sql.transition("web1-1", old, entry(n=4), FAILED, durable=True)
    with pytest.raises(JournalError, match="took over"):
        await sql.conclude("web1-1", old, outcome())
    assert [line.data["n"] for line in await other.entries("web1-1")] == [1, 2, 3]
    assert (await other.load("web1-1"))[1] == ARMED
    await other.close()


# -- others at the same file ---------------------------------------------------------------------------------------


async def test_two_processes_cannot_begin_the_same_guest(tmp_path: Path) -> None:
    journals = [await opened(tmp_path / "journal.db") for _ in range(4)]
    asked = [journal.create(spec(f"web1-{n}"), at=float(n)) for n, journal in enumerate(journals)]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(result) for result in results if result is not None] == [BusyError] * 3
    assert len(await journals[0].rows()) == 1
    for journal in journals:
        await journal.close()


async def test_many_may_open_a_new_journal_at_once(tmp_path: Path) -> None:
    journals = await asyncio.gather(*(opened(tmp_path / "journal.db") for _ in range(6)))
    await begun(journals[0])
    assert all([(await journal.load("web1-1"))[0].epoch == 1 for journal in journals])
    for journal in journals:
        await journal.close()


@contextlib.contextmanager
def lock_held(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other


async def test_a_lock_held_for_a_while_is_waited_for(sql: SqlJournal, tmp_path: Path) -> None:
    epoch = await begun(sql)
    with lock_held(tmp_path / "journal.db") as other:
        writing = asyncio.create_task(sql.transition("web1-1", epoch, entry(), ARMED, durable=True))
        await asyncio.sleep(0.2)
        assert not writing.done()
        assert (await sql.load("web1-1"))[1] != ARMED  # readers go on meanwhile, and see what was before
        other.execute("COMMIT")
        await writing
    assert (await sql.load("web1-1"))[1] == ARMED


async def test_who_opens_the_journal_to_read_waits_for_no_writer(sql: SqlJournal, tmp_path: Path) -> None:
    await begun(sql)
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(4):  # less than a connection waits for a lock
            other = await opened(tmp_path / "journal.db")
            row, _ = await other.load("web1-1")
        writer.execute("ROLLBACK")
    await other.close()
    assert row.spec == spec()


async def test_a_lock_that_is_never_given_back_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("godwit.journal.database._BUSY_MILLISECONDS", 20)
    journal = await opened(tmp_path / "journal.db")
    epoch = await begun(journal)
    with lock_held(tmp_path / "journal.db"):
        with pytest.raises(JournalError, match="locked") as refused:
            await journal.transition("web1-1", epoch, entry(n=1), PRECOPY, durable=True)
        assert "end whatever holds" in refused.value.remedy
    await journal.transition("web1-1", epoch, entry(n=2), ARMED, durable=True)  # what waited goes first
    assert [line.data["n"] for line in await journal.entries("web1-1")] == [1, 2]
    await journal.close()


HOLDER = """
import fcntl, os, sys, time
descriptor = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR, 0o600)
fcntl.flock(descriptor, fcntl.LOCK_EX)
os.utime(descriptor, ns=(time.monotonic_ns(),) * 2)
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def turn_held(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold the writers' turn until it is told, or the block ends."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
        holder.communicate()


async def test_what_nobody_waits_for_lets_others_write_first(sql: SqlJournal, tmp_path: Path) -> None:
    epoch = await begun(sql)
    with turn_held(tmp_path / "journal.turn"):
        sql.note("web1-1", "sample", 1.0, {})
        await asyncio.sleep(0.5)
        assert await sql.entries("web1-1") == []
        assert not sql._flushing.locked(), "it holds up nothing that must be durable"
    await sql.transition("web1-1", epoch, entry(), ARMED, durable=True)
    assert [line.kind for line in await sql.entries("web1-1")] == ["sample", "transition"]


async def test_a_turn_is_waited_for(sql: SqlJournal, tmp_path: Path) -> None:
    epoch = await begun(sql)
    with turn_held(tmp_path / "journal.turn"):
        writing = asyncio.create_task(sql.transition("web1-1", epoch, entry(), ARMED, durable=True))
        await asyncio.sleep(0.3)
        assert not writing.done()
    await writing
    assert (await sql.load("web1-1"))[1] == ARMED


async def test_a_turn_that_is_never_given_back_keeps_nobody_from_writing_for_long(
    sql: SqlJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("godwit.journal.turnstile.PATIENCE", 0.2)
    epoch = await begun(sql)
    with turn_held(tmp_path / "journal.turn"):
        await sql.transition("web1-1", epoch, entry(), PRECOPY, durable=True)
        began = asyncio.get_running_loop().time()
        await sql.transition("web1-1", epoch, entry(), ARMED, durable=True)
        assert asyncio.get_running_loop().time() - began < 0.2, "nobody waits for it twice"
        assert (await sql.load("web1-1"))[1] == ARMED
    await sql.conclude("web1-1", epoch, outcome())


async def test_a_wish_to_cancel_is_seen_without_a_look_at_what_others_write(tmp_path: Path) -> None:
    mine, other = await opened(tmp_path / "journal.db"), await opened(tmp_path / "journal.db")
    await begun(mine)
    assert await mine.cancel_requested("web1-1") is None
    looks = 0
    peek = mine._database.peek

    async def counted(query: str, *parameters: object) -> list[tuple[object, ...]]:
        nonlocal looks
        looks += 1
        return await peek(query, *parameters)

    mine._database.peek = counted  # type: ignore[method-assign]
    other.note("web1-1", "note", 1.0, {})
    await other.flush()
    assert await mine.cancel_requested("web1-1") is None
    assert looks == 0
    await other.request_cancel("web1-1", "alice", 2.0)
    assert await mine.cancel_requested("web1-1") == "alice"
    assert looks == 1
    for journal in (mine, other):
        await journal.close()


async def test_a_wish_is_seen_although_the_file_that_tells_of_it_cannot_be_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("godwit.journal.glances._AT_LEAST", 0.1)
    monkeypatch.setattr("godwit.journal.glances.Wishes.tell", lambda _: None)
    mine, other = await opened(tmp_path / "journal.db"), await opened(tmp_path / "journal.db")
    await begun(mine)
    assert await mine.cancel_requested("web1-1") is None
    await other.request_cancel("web1-1", "alice", 2.0)

    async def it_is_seen() -> bool:
        return await mine.cancel_requested("web1-1") == "alice"

    await eventually(it_is_seen)
    for journal in (mine, other):
        await journal.close()


async def test_the_log_is_worked_into_the_file_now_and_then(
    sql: SqlJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("godwit.journal.database._WRITES_BETWEEN_CHECKPOINTS", 10)
    monkeypatch.setattr("godwit.journal.database._LOG_BYTES", 200_000)
    await begun(sql)
    for n in range(100):
        sql.note("web1-1", "sample", float(n), dict(LONG))
        await sql.flush()
    assert (tmp_path / "journal.db-wal").stat().st_size < 2_000_000
    assert (tmp_path / "journal.db").stat().st_size > 2_000_000


async def test_readers_follow_while_a_runner_writes(sql: SqlJournal, tmp_path: Path) -> None:
    epoch = await begun(sql)

    async def follow(journal: SqlJournal) -> list[int]:
        seen: list[int] = []
        while len(seen) < 40:
            seen += [line.sequence for line in await journal.entries("web1-1", after=len(seen))]
        return seen

    readers = [await opened(tmp_path / "journal.db") for _ in range(2)]
    async with asyncio.timeout(20):
        following = [asyncio.create_task(follow(reader)) for reader in readers]
        for n in range(40):
            await sql.transition("web1-1", epoch, entry(n=n), PRECOPY, durable=n % 4 == 0)
        await sql.flush()
        assert [await task for task in following] == [list(range(1, 41))] * 2
    for reader in readers:
        await reader.close()


# -- disks that are full, damaged or not ours ----------------------------------------------------------------------


def let_grow(journal: SqlJournal, pages: int | None) -> None:
    """Limit the file to so many pages more than it has now (SQLite then says what it says on a full disk)."""
    for engine in (journal._database._durable, journal._database._relaxed):
        with engine.connect() as connection:
            now = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count={now + pages if pages is not None else 1 << 30}")


async def test_a_full_disk_is_a_clear_error_and_what_waited_is_written_when_there_is_room(sql: SqlJournal) -> None:
    epoch = await begun(sql)
    let_grow(sql, 0)
    with pytest.raises(JournalError, match="full") as refused:
        await sql.transition("web1-1", epoch, entry(n=1, text=LONG["text"]), PRECOPY, durable=True)
    assert "make room" in refused.value.remedy
    assert await sql.entries("web1-1") == []
    let_grow(sql, None)
    await sql.transition("web1-1", epoch, entry(n=2), FAILED, durable=True)
    assert [line.data["n"] for line in await sql.entries("web1-1")] == [1, 2]
    assert (await sql.load("web1-1"))[1] == FAILED


async def test_a_write_that_failed_unseen_is_told_to_the_next_caller_until_one_succeeds(sql: SqlJournal) -> None:
    epoch = await begun(sql)
    let_grow(sql, 0)
    sql.note("web1-1", "sample", 1.0, dict(LONG))

    async def it_was_tried() -> bool:
        return sql._broken is not None

    await eventually(it_was_tried)
    with pytest.raises(JournalError, match="full"):
        await sql.transition("web1-1", epoch, entry(), PRECOPY, durable=False)
    let_grow(sql, None)
    await sql.flush()
    await sql.transition("web1-1", epoch, entry(), ARMED, durable=False)
    await sql.flush()
    assert [line.kind for line in await sql.entries("web1-1")] == ["sample", "transition", "transition"]


async def test_the_reserve_is_given_up_for_an_undo(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "journal.db")
    reserve = tmp_path / "journal.reserve"
    assert reserve.stat().st_blocks * 512 >= 1 << 20
    tried: list[bool] = []

    def fits_without_the_reserve(connection: Connection) -> str:
        tried.append(reserve.exists())
        if reserve.exists():
            raise OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))
        return str(connection.exec_driver_sql("SELECT 'written'").scalar_one())

    assert await database.write(fits_without_the_reserve, durable=True) == "written"
    assert tried == [True, False]
    await database.close()
    again = await Database.open(tmp_path / "journal.db")
    assert reserve.exists()
    await again.close()


TMPFS = """
import asyncio, os, sys
from pathlib import Path
from stories import FAILED, PRECOPY, entry, spec
from godwit.errors import JournalError
from godwit.journal.database import Database
from godwit.journal.sqljournal import SqlJournal

async def main(folder):
    journal = SqlJournal(await Database.open(folder / "journal.db"))
    await journal.create(spec(), at=1.0)
    epoch = await journal.take_over("web1-1")
    await journal.transition("web1-1", epoch, entry(), PRECOPY, durable=True)
    with (folder / "filler").open("wb", buffering=0) as filler:
        try:
            while filler.write(b"x" * 4096):
                pass
        except OSError:
            pass
    await journal.transition("web1-1", epoch, entry(text="x" * 20000), FAILED, durable=True)
    assert not (folder / "journal.reserve").exists()
    try:
        for n in range(400):
            await journal.transition("web1-1", epoch, entry(text="x" * 20000), FAILED, durable=True)
    except JournalError as error:
        print(error.message, "|", error.remedy)
    (folder / "filler").unlink()
    await journal.transition("web1-1", epoch, entry(), FAILED, durable=True)
    await journal.close()

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.lab
def test_on_a_really_full_disk_an_undo_is_still_written(tmp_path: Path) -> None:
    script = f'mount -t tmpfs -o size=4m,mode=700 tmpfs {tmp_path} && exec {sys.executable} -c "$0" {tmp_path}'
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, TMPFS],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "full" in done.stdout
    assert "make room" in done.stdout


@pytest.mark.parametrize("content", [b"this is no database at all, " * 200, b"SQLite format 3\0" + b"\xff" * 8000])
async def test_a_damaged_file_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(content)
    with pytest.raises(JournalError, match=r"journal") as refused:
        await opened(path)
    assert "backup" in refused.value.remedy
    assert path.read_bytes() == content


async def test_a_damaged_page_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = await opened(path)
    await begun(journal)
    for n in range(30):
        journal.note("web1-1", "sample", float(n), dict(LONG))
    await journal.close()
    with contextlib.closing(sqlite3.connect(path)) as other:  # what still lies in the log would hide the damage
        assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    with path.open("r+b") as file:
        for page in range(2, path.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(b"\xde\xad" * 2048)
    journal = await opened(path)
    with pytest.raises(JournalError, match="malformed") as refused:
        await journal.entries("web1-1")
    await journal.close()
    assert "running guests are not affected" in refused.value.remedy


async def test_a_state_that_nobody_can_read_is_a_clear_error(sql: SqlJournal, tmp_path: Path) -> None:
    await begun(sql)
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.db")) as other, other:
        other.execute("""UPDATE migrations SET state = '{"phase": "teleporting"}'""")
    with pytest.raises(JournalError, match="State that cannot be read"):
        await sql.load("web1-1")


@contextlib.contextmanager
def without_privileges() -> Iterator[Path]:
    """Give a folder that can be read and not written, and be somebody whom that stops."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)


@pytest.mark.parametrize("inside", ["journal.db", "new/journal.db"])
async def test_a_folder_that_cannot_be_written_is_a_clear_error(inside: str) -> None:
    with without_privileges() as folder, pytest.raises(JournalError, match=r"journal") as refused:
        await opened(folder / inside)
    assert "GODWIT_HOME" in refused.value.remedy


async def test_a_folder_of_somebody_else_is_a_clear_error() -> None:
    with without_privileges() as folder:
        if os.geteuid() == NOBODY:
            os.seteuid(0)
            folder.chmod(0o700)
            os.seteuid(NOBODY)
        else:
            folder.chmod(0o000)
        with pytest.raises(JournalError) as refused:
            await opened(folder / "journal.db")
    assert "GODWIT_HOME" in refused.value.remedy


async def test_a_file_where_the_folder_should_be_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(JournalError, match="cannot make the folder") as refused:
        await opened(tmp_path / "home" / "journal.db")
    assert "GODWIT_HOME" in refused.value.remedy


async def test_the_inventory_is_what_the_next_process_finds(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "journal.db")
    await SqlInventory(database).put_host(HostRecord("alpha", "local"))
    await database.close()
    again = await Database.open(tmp_path / "journal.db")
    assert await SqlInventory(again).hosts() == [HostRecord("alpha", "local")]
    await again.close()
