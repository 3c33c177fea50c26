"""Which processes keep others from writing the journal: the kernel's list of locks, and what /proc says of them.

SQLite locks bytes of its files (https://www.sqlite.org/walformat.html#wal_locks), the writers' turn is a lock of a
whole file; /proc/locks names the inode and the process of each. What the kernel does not show is left out.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from godwit.plaintext import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PROC: Final = Path("/proc")
_LOCK: Final = re.compile(
    r"\d+: (?P<kind>POSIX|FLOCK) +\S+ +WRITE +(?P<pid>\d+) [0-9a-f]+:[0-9a-f]+:(?P<inode>\d+) (?P<first>\d+)"
    r" (?P<last>\d+|EOF)"
)
"""A lock for oneself alone that somebody has. Who waits for one has an arrow before it."""

_STOPPED: Final = frozenset({"T", "t"})
"""The kernel's letters for a process that was stopped by a signal, or by a debugger."""

_TO_WRITE: Final = 120
"""The byte of the shared memory's file that is locked by who writes, and the one by who recovers."""

_TO_RECOVER: Final = 122
_PENDING: Final = 0x40000000
"""The first of the bytes that are locked in the file itself, where nobody else may even read."""

_IN_THE_FILE: Final = 512
_RUNNER: Final = ("-m", "godwit.runner")
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_LONGEST: Final = 120


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock for oneself alone: whose, of which file, and which bytes. None is the end of any file."""

    kind: str
    pid: int
    inode: int
    first: int
    last: int | None

    def covers(self, first: int, last: int) -> bool:
        """Say whether it is of any of these bytes."""
        return self.first <= last and (self.last is None or self.last >= first)


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds the journal, by its command line; `stopped` by a signal, or by a debugger."""

    pid: int
    command: tuple[str, ...] = ()
    stopped: bool = False

    def __str__(self) -> str:
        """Say which process it is, and that it is stopped."""
        command = f" ({one_line(' '.join(self.command), _LONGEST)})" if self.command else ""
        return f"process {self.pid}{command}{', which is stopped' if self.stopped else ''}"

    @property
    def carries(self) -> str:
        """What it is the runner of; empty for any other process."""
        known = self.command[1:3] == _RUNNER and len(self.command) > len(_RUNNER) + 1
        return self.command[3] if known and _IDENTIFIER.fullmatch(self.command[3]) else ""

    @property
    def remedy(self) -> str:
        """What ends the waiting. SQLite takes back what a process had begun that is ended."""
        if not self.stopped:
            return f"wait until it has ended; `kill {self.pid}` ends it: the journal stays whole"
        over = f"; so does `godwit recover {self.carries} --take-over`, and its work goes on" if self.carries else ""
        return (
            f"`kill -CONT {self.pid}` lets it go on, `kill -KILL {self.pid}` ends it{over}: the journal is whole in "
            "either case"
        )


def locks(lines: Iterable[str]) -> Iterator[Lock]:
    """Read /proc/locks; see proc_locks(5)."""
    for line in lines:
        if (found := _LOCK.match(line)) is not None:
            last = None if found["last"] == "EOF" else int(found["last"])
            yield Lock(found["kind"], int(found["pid"]), int(found["inode"]), int(found["first"]), last)


def holders(journal: Path, turn: Path) -> tuple[Holder, ...]:
    """Return the processes, other than this one, that hold the journal, those first that are stopped.

    Who has only the `turn` counts where nobody has SQLite's locks: else it waits for those as well.
    """
    try:
        present = list(locks((_PROC / "locks").read_text().splitlines()))
    except OSError:
        return ()
    shared = journal.with_name(f"{journal.name}-shm")
    writing = [
        *_of(journal, present, "POSIX", (_PENDING, _PENDING + _IN_THE_FILE - 1)),
        *_of(shared, present, "POSIX", (_TO_WRITE, _TO_WRITE), (_TO_RECOVER, _TO_RECOVER)),
    ]
    pids = dict.fromkeys(writing or _of(turn, present, "FLOCK", (0, 0)))
    return tuple(sorted((_holder(pid) for pid in pids), key=lambda one: not one.stopped))


def _of(path: Path, present: Iterable[Lock], kind: str, *ranges: tuple[int, int]) -> list[int]:
    """Return who else has a lock of that kind on any of these bytes of a file."""
    try:
        inode = path.stat().st_ino
    except OSError:
        return []
    return [
        one.pid
        for one in present
        if (one.kind, one.inode) == (kind, inode)
        and one.pid != os.getpid()
        and any(one.covers(*bytes_) for bytes_ in ranges)
        and _has_open(one.pid, path)
    ]


def _has_open(pid: int, path: Path) -> bool:
    """Say whether a process has a file open, for files of two devices may have one inode; True where nobody may see."""
    try:
        entries = list((_PROC / str(pid) / "fd").iterdir())
    except OSError:
        return True
    for entry in entries:
        with suppress(OSError):
            if entry.samefile(path):
                return True
    return False


def _holder(pid: int) -> Holder:
    folder = _PROC / str(pid)
    try:
        words = (folder / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
        state = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return Holder(pid)
    return Holder(pid, tuple(words), state in _STOPPED)
