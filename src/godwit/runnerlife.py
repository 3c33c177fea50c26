"""Signs of life of runner processes, from /proc; and their end, by id and with proof that they are what they are.

A process is a runner's if its command line says so and it has the lock of its guest open, in the very folder that this
Godwit uses. Nothing else is ever ended here.
"""

from __future__ import annotations

import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from godwit.errors import RunnerStuckError

END_PATIENCE: Final = 5.0
"""Seconds within which a killed process must be gone."""

_PROC: Final = Path("/proc")
_MODULE: Final = ("-m", "godwit.runner")
_SWITCHES: Final = ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")


@dataclass(frozen=True, slots=True)
class RunnerProcess:
    """One process of a runner. `state` is the kernel's letter, `turns` how often it was given a CPU."""

    pid: int
    parent: int
    state: str
    turns: int


def runner_processes(lock: Path, identifier: str, vm: str) -> tuple[RunnerProcess, ...]:
    """Return the processes that carry a migration, save or restore, the supervisor first."""
    found = [process for pid in _pids() if (process := _runner(pid, lock, identifier, vm)) is not None]
    ours = {process.pid for process in found}
    return tuple(sorted(found, key=lambda process: (process.parent in ours, process.pid)))


def end_runner(lock: Path, identifier: str, vm: str) -> tuple[int, ...]:
    """End the processes that carry a migration, save or restore, and return which they were.

    The supervisor goes first, so that it starts no other. Raises RunnerStuckError for one that outlives SIGKILL.
    """
    ended = []
    for process in runner_processes(lock, identifier, vm):
        try:
            handle = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        try:
            if _runner(process.pid, lock, identifier, vm) is None:  # gone, and its number given to another
                continue
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            if not select.select([handle], [], [], END_PATIENCE)[0]:
                message = f"process {process.pid} does not end: the kernel holds it (state {process.state})"
                raise RunnerStuckError(
                    message, remedy="see what it waits for, mostly a dead file system: cat /proc/PID/stack"
                )
            ended.append(process.pid)
        except ProcessLookupError:
            continue
        finally:
            os.close(handle)
    return tuple(ended)


def _pids() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]


def _runner(pid: int, lock: Path, identifier: str, vm: str) -> RunnerProcess | None:
    """Return a process if it is one of that runner; None for any other, and for one that is gone or not ours to see."""
    folder = _PROC / str(pid)
    try:
        words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        if tuple(words[1:5]) != (*_MODULE, identifier, vm):
            return None
        holds = any(Path(entry).resolve() == lock.resolve() for entry in (folder / "fd").iterdir())
        after_name = (folder / "stat").read_text().rpartition(")")[2].split()
        status = (folder / "status").read_text()
    except (OSError, ValueError):
        return None
    return RunnerProcess(pid, int(after_name[1]), after_name[0], _turns(status)) if holds else None


def _turns(status: str) -> int:
    lines = (line.partition(":") for line in status.splitlines())
    return sum(int(value) for name, _, value in lines if name in _SWITCHES)
