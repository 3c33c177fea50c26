"""The process that carries one migration, and the tiny supervisor that starts it anew when it dies.

`python -m godwit.runner ID VM` is the supervisor: it takes the guest's lock, loads everything, and forks the runner. A
runner that dies by whatever cause is followed by another within milliseconds, which takes the story up where the journal
left it. The lock is an flock that both processes share, so it lasts as long as either of them lives.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.errors import GodwitError, SupersededError

if TYPE_CHECKING:
    from pathlib import Path

RESTARTS: Final = 8
"""Times that a dying runner is followed by another, before its migration is left to the next command."""

_LONGEST_PAUSE: Final = 5.0
_QUICK: Final = 3
_EXIT_BUSY: Final = 75
_EXIT_SUPERSEDED: Final = 76


@dataclass(frozen=True, slots=True)
class RunnerProcesses:
    """Starts runners as processes of their own session, so that no terminal and no parent can end them."""

    home: Path

    def start(self, identifier: str, vm: str) -> None:
        """Start a supervisor and its runner; see `godwit.ports.Runners`."""
        log = self.home / "log" / f"{identifier}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            subprocess.Popen(
                [sys.executable, "-m", "godwit.runner", identifier, vm],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
                env={**os.environ, "GODWIT_HOME": str(self.home)},
            )

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


def take_lock(path: Path) -> int | None:
    """Take the guest's lock for as long as this process, or one forked from it, lives; None if another has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    for _ in range(50):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)  # somebody may only be looking whether it is free
        else:
            return descriptor
    os.close(descriptor)
    return None


def supervise(identifier: str, vm: str) -> int:
    """Run a migration to its end, starting over after every death of the runner. Returns an exit status."""
    from godwit import app  # noqa: PLC0415 - everything is loaded once, before the fork

    if take_lock(lock_path(app.home(), vm)) is None:
        print(f"another runner holds {vm}", file=sys.stderr)
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
        print(f"runner {child} of {identifier} ended with {status}", file=sys.stderr, flush=True)
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
        print(error.message, file=sys.stderr, flush=True)
        return _EXIT_SUPERSEDED
    except GodwitError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr, flush=True)
        return 1
    except BaseException:  # the exit status is the message; the log has the story
        import traceback  # noqa: PLC0415 - only here

        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(supervise(sys.argv[1], sys.argv[2]))
