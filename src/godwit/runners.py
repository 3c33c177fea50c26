"""The port `Runners`: starting runner processes, and the lock that says who migrates a guest."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

LOCK_PATIENCE: Final = 15.0
"""Seconds that a supervisor waits for the guest's lock."""

_CHILDREN: Final[list[subprocess.Popen[bytes]]] = []
"""Supervisors that this process started: kept so that a long-lived one can bury them."""


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
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # two that only look do not see each other
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
