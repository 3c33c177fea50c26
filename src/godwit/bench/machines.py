"""Commands on a laboratory's machines, what its links have carried, and a journal of one's own."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from godwit import app
from godwit.errors import LabError
from godwit.lab.plan import HOST_MIGRATION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from godwit.lab.laboratory import Laboratory


def inside(lab: Laboratory, machine: str, argv: Sequence[str], text: str = "") -> str:
    """Run a command on a machine with `text` as its input, and return what it printed. Raises LabError."""
    command = lab.command(machine, argv)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        message = f"{' '.join(argv)} on {machine} failed with status {done.returncode}: {done.stderr.strip()}"
        raise LabError(message)
    return done.stdout


def link_bytes(lab: Laboratory) -> int:
    """Return what all hosts have sent over the migration link so far, as its interfaces count."""
    counter = f"/sys/class/net/{HOST_MIGRATION}/statistics/tx_bytes"
    return sum(int(inside(lab, host, ["cat", counter])) for host in lab.hosts)


@contextmanager
def own_home() -> Iterator[Path]:
    """Give what happens meanwhile an inventory and a journal of its own, and leave no process of it behind.

    Whoever is told to end (SIGTERM) meanwhile is interrupted, as by Ctrl-C: a laboratory has to be taken down.
    """
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="godwit-bench-") as home:
            os.environ[app.HOME_VARIABLE] = home
            try:
                yield Path(home)
            finally:
                _end_controllers(home)
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def controllers(home: str) -> list[int]:
    """Return the processes, but this one, that work with the journal in that folder."""
    mark = f"{app.HOME_VARIABLE}={home}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0") and int(entry.name) != os.getpid():
                found.append(int(entry.name))
        except OSError as error:
            # It has ended meanwhile, or hides its environment even from root, which none of ours does.
            if error.errno not in {errno.ENOENT, errno.ESRCH, errno.EACCES}:
                raise
    return found


def _end_controllers(home: str) -> None:
    """End what still works on moves of this journal: a runner outlives its command, as it should elsewhere."""
    for pid in controllers(home):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
