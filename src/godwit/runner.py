"""The process that carries one migration, and the tiny supervisor that starts it anew when it dies.

`python -m godwit.runner ID VM` is the supervisor: it takes the guest's lock, loads everything, and forks the runner. A
runner that dies by whatever cause is followed by another within milliseconds, which takes the story up where the
journal left it. The lock is an flock that both processes share, so it lasts as long as either of them lives.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.errors import GodwitError, SupersededError

if TYPE_CHECKING:
    from pathlib import Path

RESTARTS: Final = 8
"""Times that a dying runner is followed by another, before its migration is left to the next command."""

LOCK_PATIENCE: Final = 15.0
_LONGEST_PAUSE: Final = 5.0
_QUICK: Final = 3
_CHILDREN: Final[list[subprocess.Popen[bytes]]] = []
"""Supervisors that this process started: kept so that a long-lived one can bury them."""

_EXIT_BUSY: Final = 75
_EXIT_SUPERSEDED: Final = 76


@dataclass(frozen=True, slots=True)
class RunnerProcesses:
    """Starts runners as processes of their own session, so that no terminal and no parent can end them."""

    home: Path

    def start(self, identifier: str, vm: str) -> None:
        """Start a supervisor and its runner; see `godwit.ports.Runners`."""
        _CHILDREN[:] = [child for child in _CHILDREN if child.poll() is None]
        log = self.home / "log" / f"{identifier}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", "godwit.runner", identifier, vm],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
                env={**os.environ, "GODWIT_HOME": str(self.home)},
            )
        _CHILDREN.append(child)

    def alive(self, vm: str) -> bool:
        """Say whether somebody holds the guest's lock."""
        path = lock_path(self.home, vm)
        if not path.exists():
            return False
        with path.open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


def lock_path(home: Path, vm: str) -> Path:
    """Return the file whose lock says who migrates a guest."""
    return home / "locks" / f"{vm}.lock"


def take_lock(path: Path, patience: float = LOCK_PATIENCE) -> int | None:
    """Take the guest's lock for as long as this process, or one forked from it, lives; None if another has it.

    Waits `patience` seconds: the runner of the move before may still be saying goodbye to its hosts.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                os.close(descriptor)
                return None
            time.sleep(0.02)
        else:
            return descriptor


def supervise(identifier: str, vm: str) -> int:
    """Run a migration to its end, starting over after every death of the runner. Returns an exit status."""
    from godwit import app  # noqa: PLC0415 - everything is loaded once, before the fork

    if take_lock(lock_path(app.home(), vm)) is None:
        _say(f"another runner holds {vm}")
        return _EXIT_BUSY
    app.preload()
    for restart in range(RESTARTS):
        child = os.fork()
        if child == 0:
            os._exit(_run(identifier))
        _, wait_status = os.waitpid(child, 0)
        status = os.waitstatus_to_exitcode(wait_status)
        if status in {0, _EXIT_SUPERSEDED}:
            return status
        _say(f"runner {child} of {identifier} ended with {status}")
        if restart >= _QUICK:
            time.sleep(min(_LONGEST_PAUSE, 0.2 * 2**restart))
    return 1


def _run(identifier: str) -> int:
    """Be the runner: carry the migration to its end."""
    from godwit import app  # noqa: PLC0415 - loaded by the supervisor already

    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        asyncio.run(app.run_migration(identifier))
    except SupersededError as error:
        _say(error.message)
        return _EXIT_SUPERSEDED
    except GodwitError as error:
        _say(f"{error.code}: {error.message}")
        return 1
    except Exception:  # noqa: BLE001 - the outermost frame of a process: its log gets the story, its status the fact
        traceback.print_exc()
        return 1
    return 0


def _say(text: str) -> None:
    """Write a line to the runner's log, which is its standard error."""
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(supervise(sys.argv[1], sys.argv[2]))
