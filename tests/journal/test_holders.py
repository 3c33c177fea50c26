"""A process that is stopped while it holds the journal is named to whoever waits for it, with what ends the waiting."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from stories import ARMED, entry, spec

from godwit.errors import JournalError
from godwit.journal.database import _LOCK_RETRIES, Database
from godwit.journal.holders import Holder, Lock, locks
from godwit.journal.sqljournal import SqlJournal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SHOWN = """\
1: POSIX  ADVISORY  WRITE 4711 fe:00:1468121 120 120
1: -> POSIX  ADVISORY  WRITE 4712 fe:00:1468121 120 120
2: POSIX  ADVISORY  READ 4713 fe:00:1468121 123 123
3: FLOCK  ADVISORY  WRITE 4714 00:70:292 0 EOF
4: OFDLCK ADVISORY  WRITE -1 fe:00:1468121 203 203
5: LEASE  ACTIVE    WRITE 4715 08:01:17 0 EOF
6: POSIX  MANDATORY WRITE 4716 00:70:293 1073741824 1073742335
nonsense
"""

QEMU = Holder(42, ("qemu-system-x86_64",))
RUNNER = Holder(43, ("/usr/bin/python3", "-m", "godwit.runner", "web1-x7", "web1"), stopped=True)
SIGNALS = "`kill -CONT 43` lets it go on, `kill -KILL 43` ends it"


def test_locks_that_somebody_has_for_himself_are_read() -> None:
    assert list(locks(SHOWN.splitlines())) == [
        Lock("POSIX", 4711, 1468121, 120, 120),
        Lock("FLOCK", 4714, 292, 0, None),
        Lock("POSIX", 4716, 293, 1073741824, 1073742335),
    ]


@pytest.mark.parametrize(
    ("lock", "covers"),
    [((120, 120), True), ((119, None), True), ((121, 121), False), ((118, 119), False), ((0, 500), True)],
)
def test_a_lock_is_of_its_bytes(lock: tuple[int, int | None], *, covers: bool) -> None:
    assert Lock("POSIX", 1, 1, *lock).covers(120, 120) is covers


@pytest.mark.parametrize(
    ("holder", "words", "remedy"),
    [
        (Holder(41), "process 41", "wait until it has ended; `kill 41` ends it: the journal stays whole"),
        (QEMU, "process 42 (qemu-system-x86_64)", "wait until it has ended; `kill 42`"),
        (RUNNER, "-m godwit.runner web1-x7 web1), which is stopped", SIGNALS),
        (RUNNER, "process 43 (/usr/bin/python3", "`godwit recover web1-x7 --take-over`, and its work goes on"),
        (Holder(43, ("evil\x1b[2J\nname",), stopped=True), "(evil\\x1b[2J", f"{SIGNALS}: the journal is whole"),
        (Holder(43, (*RUNNER.command[:3], "x; rm -r /", "x"), stopped=True), "x; rm", f"{SIGNALS}: the journal"),
    ],
)
def test_a_holder_is_named_with_what_ends_the_waiting(holder: Holder, words: str, remedy: str) -> None:
    assert words in str(holder)
    assert remedy in holder.remedy


# -- a real one ----------------------------------------------------------------------------------------------------

STOPS = """
import asyncio, os, signal, sys
from pathlib import Path
from sqlalchemy import text
from godwit.journal.database import Database

def stop(connection):
    connection.execute(text("UPDATE migrations SET phase = 'failed'"))
    os.kill(os.getpid(), signal.SIGSTOP)

asyncio.run(Database(Path(sys.argv[1])).write(stop, durable=True))
os._exit(0)
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everybody have a tenth of the patience."""
    monkeypatch.setattr("godwit.journal.turnstile.PATIENCE", 0.5)
    monkeypatch.setattr("godwit.journal.turnstile.JAMMED", 0.5)
    monkeypatch.setattr("godwit.journal.database._BUSY_MILLISECONDS", 500)


async def opened(path: Path, *, hurried: bool) -> SqlJournal:
    return SqlJournal(await Database.open(path, hurried=hurried))


async def begun(path: Path) -> int:
    journal = await opened(path, hurried=False)
    await journal.create(spec(), at=1.0)
    epoch = await journal.take_over("web1-1")
    await journal.close()
    return epoch


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@contextlib.asynccontextmanager
async def stopped(path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Give a process that has stopped itself in the middle of a transaction, and end it at last."""
    holder = await asyncio.create_subprocess_exec(sys.executable, "-c", STOPS, path)
    try:
        async with asyncio.timeout(20):
            while not is_stopped(holder.pid):  # noqa: ASYNC110 - nothing tells when it is
                await asyncio.sleep(0.02)
        yield holder
    finally:
        with contextlib.suppress(ProcessLookupError):
            holder.kill()
        await holder.wait()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("hurried", [True, False])
async def test_whoever_waits_for_a_stopped_process_is_told_which_it_is(tmp_path: Path, *, hurried: bool) -> None:
    """Who is hurried tries once, who carries a move as often as ever; killed, the process leaves a whole journal."""
    path = tmp_path / "journal.db"
    epoch = await begun(path)
    journal = await opened(path, hurried=hurried)
    async with stopped(path) as holder:
        began = time.monotonic()
        with pytest.raises(JournalError) as refused:
            await journal.transition("web1-1", epoch, entry(), ARMED, durable=True)
        took = time.monotonic() - began
        assert f"process {holder.pid} ({sys.executable} -c" in refused.value.message
        assert refused.value.message.endswith(", which is stopped")
        assert str(path) in refused.value.message
        assert f"`kill -CONT {holder.pid}` lets it go on, `kill -KILL {holder.pid}` ends it" in refused.value.remedy
        assert (took < _LOCK_RETRIES * 0.5) is hurried
        assert (await journal.load("web1-1"))[0].phase.value == "pending"  # whoever reads waits for nobody
        os.kill(holder.pid, signal.SIGKILL)
        await holder.wait()
        await journal.flush()
        assert (await journal.load("web1-1"))[1] == ARMED
    await journal.close()


async def test_a_short_stop_is_waited_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    epoch = await begun(path)
    journal = await opened(path, hurried=True)
    async with stopped(path) as holder:
        writing = asyncio.create_task(journal.transition("web1-1", epoch, entry(), ARMED, durable=True))
        await asyncio.sleep(1.5)
        assert not writing.done()
        os.kill(holder.pid, signal.SIGCONT)
        await writing
        assert await holder.wait() == 0
        assert (await journal.load("web1-1"))[1] == ARMED
    await journal.close()


LOCKS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("holds", flush=True)
sys.stdin.read()
"""


@pytest.mark.usefixtures("quick")
async def test_one_that_works_is_named_and_waited_for_as_long_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    await begun(path)
    journal = await opened(path, hurried=True)
    holder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LOCKS, path), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"holds\n"
        began = time.monotonic()
        with pytest.raises(JournalError, match=f"process {holder.pid} ") as refused:
            await journal.request_cancel("web1-1", "alice", 2.0)
        assert time.monotonic() - began > _LOCK_RETRIES * 0.5
        assert "wait until it has ended" in refused.value.remedy
    finally:
        await holder.communicate(b"")
    await journal.request_cancel("web1-1", "alice", 2.0)
    await journal.close()
