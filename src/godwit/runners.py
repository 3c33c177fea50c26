"""The port `Runners`: starting runner processes, and the lock that says who migrates a guest."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.errors import BusyError
from godwit.identifiers import is_name
from godwit.localfiles import open_own, own_path
from godwit.ports import Log, Signs
from godwit.runnerlife import end_runner, runner_processes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

LOCK_PATIENCE: Final = 15.0
"""Seconds that a supervisor waits for the guest's lock."""

HOLD_PATIENCE: Final = 3.0
"""Seconds that a command waits for the guest's lock."""

WAIT: Final = "--wait"
"""What tells a supervisor to load everything and then to wait for GO on its standard input."""

GO: Final = b"go\n"

_OTHER_LOGS: Final = frozenset({"cli"})

_PREPARED: Final[dict[str, tuple[str, subprocess.Popen[bytes]]]] = {}
"""Supervisors that wait to be told, and their identifiers, by guest."""

_STOPPED: Final = frozenset({"T", "t"})
"""The kernel's letters for a process that was stopped by a signal, or by a debugger."""

_CHILDREN: Final[list[subprocess.Popen[bytes]]] = []
"""Supervisors that this process started: kept so that a long-lived one can bury them."""


@dataclass(frozen=True, slots=True)
class RunnerProcesses:
    """Starts runners as processes of their own session, so that no terminal and no parent can end them."""

    home: Path

    def prepare(self, identifier: str, vm: str) -> None:
        """Let a supervisor load what it needs while its migration is still being written down.

        That takes it half a second. It begins when `start` names the same migration, and ends by itself when this
        process does so before. Where it cannot be started, `start` will say why. Nothing happens where one is prepared
        for that guest already, or where no guest can be called so.
        """
        if vm in _PREPARED or not is_name(vm):
            return
        with suppress(OSError):
            _PREPARED[vm] = identifier, self._spawn(identifier, vm, WAIT)

    def start(self, identifier: str, vm: str) -> None:
        """Start a supervisor and its runner; see `godwit.ports.Runners`."""
        prepared, child = _PREPARED.pop(vm, ("", None))
        if child is not None and prepared != identifier:
            self._dismiss(prepared, child)
            child = None
        if child is None or not _told(child, GO):
            child = self._spawn(identifier, vm)
        _CHILDREN[:] = [child, *(one for one in _CHILDREN if one.poll() is None)]  # polling buries the dead

    def release(self) -> None:
        """Let go of what was prepared and not needed."""
        for identifier, child in _PREPARED.values():
            self._dismiss(identifier, child)
        _PREPARED.clear()

    def _dismiss(self, identifier: str, child: subprocess.Popen[bytes]) -> None:
        _told(child, b"")
        _CHILDREN.append(child)
        self._log(identifier).unlink(missing_ok=True)

    def _log(self, identifier: str) -> Path:
        return own_path(self.home / "log", identifier, ".log")

    def _spawn(self, identifier: str, vm: str, *options: str) -> subprocess.Popen[bytes]:
        with os.fdopen(open_own(self._log(identifier), os.O_WRONLY | os.O_APPEND), "ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "godwit.runner", identifier, vm, *options],
                stdin=subprocess.PIPE if WAIT in options else subprocess.DEVNULL,
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
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # two that only look do not see each other
            except BlockingIOError:
                return True
        return False

    def logs(self) -> dict[str, Log]:
        """Return the runners' logs, by identifier."""
        found = {}
        for path in (self.home / "log").glob("*.log"):
            if path.stem not in _OTHER_LOGS:
                with suppress(FileNotFoundError):
                    looked = path.stat()
                    found[path.stem] = Log(looked.st_size, looked.st_mtime)
        return found

    def remove_log(self, identifier: str) -> None:
        """Remove a runner's log; see `godwit.ports.Runners`."""
        self._log(identifier).unlink(missing_ok=True)

    def signs(self, identifier: str, vm: str) -> Signs:
        """Return what can be seen of a runner; see `godwit.ports.RunnerLife`."""
        found = runner_processes(lock_path(self.home, vm), identifier, vm)
        working = found[-1] if len(found) > 1 else None
        stopped = any(process.state in _STOPPED for process in found[-1:])
        return Signs(tuple(process.pid for process in found), stopped, working.turns if working else None)

    def end(self, identifier: str, vm: str) -> tuple[int, ...]:
        """End a runner; see `godwit.ports.RunnerLife`."""
        return end_runner(lock_path(self.home, vm), identifier, vm)

    @asynccontextmanager
    async def hold(self, vm: str) -> AsyncIterator[None]:
        """Hold the guest's lock as a runner does; see `godwit.ports.Runners`."""
        descriptor = await asyncio.to_thread(take_lock, lock_path(self.home, vm), HOLD_PATIENCE)
        if descriptor is None:
            message = f"somebody else works on {vm}"
            raise BusyError(message, remedy=f"godwit status {vm}; wait until it has ended")
        try:
            yield
        finally:
            os.close(descriptor)


def prepared(vm: str) -> str | None:
    """Return the identifier for which a supervisor has been prepared; None where there is none for that guest."""
    identifier, _ = _PREPARED.get(vm, (None, None))
    return identifier


def _told(child: subprocess.Popen[bytes], word: bytes) -> bool:
    """Say one word to a supervisor that waits, and let go of it; False if it is gone."""
    assert child.stdin is not None  # noqa: S101 - it was started with a pipe; for the type checker
    try:
        child.stdin.write(word)
        child.stdin.close()
    except BrokenPipeError:
        return False
    return True


def lock_path(home: Path, vm: str) -> Path:
    """Return the file whose lock says who migrates a guest. Raises InputError for what is no name."""
    return own_path(home / "locks", vm, ".lock")


def take_lock(path: Path, patience: float = LOCK_PATIENCE) -> int | None:
    """Take the guest's lock for as long as this process, or one forked from it, lives; None if another has it.

    Waits `patience` seconds: the runner of the move before may still be saying goodbye to its hosts.
    """
    descriptor = open_own(path, os.O_RDWR)
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
