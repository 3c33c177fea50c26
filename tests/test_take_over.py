"""A runner that is stopped within a write of the journal holds everybody up; whoever takes over ends it first."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from godwit import app
from godwit.errors import JournalError, RunnerStuckError
from godwit.model import Policy, Spec
from godwit.recovering import Recovery
from godwit.runners import RunnerProcesses

if TYPE_CHECKING:
    from collections.abc import Iterator

ID: Final = "web1-1"

STOPS: Final = """
import asyncio, os, signal
from sqlalchemy import text
from godwit import app
from godwit.journal.database import Database
from godwit.runners import lock_path, take_lock

def stop(connection):
    connection.execute(text("UPDATE migrations SET phase = 'failed'"))
    os.kill(os.getpid(), signal.SIGSTOP)

assert take_lock(lock_path(app.home(), "web1")) is not None
asyncio.run(Database(app.home() / "journal.db").write(stop, durable=True))
os._exit(0)
"""
"""What a runner does as soon as it is there."""


class Untold(RunnerProcesses):
    """Starts nobody."""

    def start(self, identifier: str, vm: str) -> None:
        """Do nothing."""


@contextlib.contextmanager
def stopped_runner(home: Path) -> Iterator[int]:
    """Give a process that is the runner of the migration in every respect, and has stopped itself in a write."""
    (home / "early").mkdir()
    (home / "early" / "sitecustomize.py").write_text(STOPS)
    path = os.pathsep.join([str(home / "early"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "GODWIT_HOME": str(home)}
    with subprocess.Popen([sys.executable, "-m", "godwit.runner", ID, "web1"], env=environment) as process:
        try:
            end = time.monotonic() + 20
            while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
                assert time.monotonic() < end
                time.sleep(0.02)
            yield process.pid
        finally:
            process.kill()


async def test_a_stopped_runner_that_holds_the_journal_is_named_and_ended_by_who_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("godwit.journal.turnstile.PATIENCE", 0.5)
    monkeypatch.setattr("godwit.journal.database._BUSY_MILLISECONDS", 500)
    async with app.opened(tmp_path) as service:
        await service.journal.create(Spec(ID, "web1", "one", "two", Policy(), None), 1.0)
    with stopped_runner(tmp_path) as pid:
        async with app.opened(tmp_path, hurried=True) as opened:
            runners = Untold(tmp_path)
            recovery = Recovery(replace(opened, runners=runners, life=runners))
            began = time.monotonic()
            with pytest.raises(JournalError, match=f"process {pid} .*godwit.runner {ID} web1.*, which is stop") as told:
                await opened.journal.request_cancel(ID, "alice", 2.0)
            assert f"`godwit recover {ID} --take-over`" in told.value.remedy
            with pytest.raises(RunnerStuckError, match=f"is stopped .process {pid}."):
                await recovery.begin(ID)
            assert time.monotonic() - began < 5
            await recovery.begin(ID, take_over=True)
            assert not runners.alive("web1")
            await opened.journal.request_cancel(ID, "alice", 2.0)
            row, _ = await opened.journal.load(ID)
            assert row.phase.value == "pending", "what it had begun is taken back"
