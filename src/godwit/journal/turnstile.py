"""Who writes next: the writers of all processes, one after another, about in the order in which they came.

SQLite lets everybody try again after ever longer pauses, so among many writers some wait for seconds while others
overtake them; the kernel wakes those who wait for a file lock in turn. This one only brings order: where nobody has
got it for a while (its holder may have been stopped) one goes on without it, for SQLite lets only one write anyway.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE: Final = 5.0
"""Seconds for which nobody was let in, after which a writer goes on without its turn."""

JAMMED: Final = 5.0
"""Seconds for which nobody here waits again after that."""


@dataclass(slots=True)
class Turnstile:
    """The lock of one file beside the journal."""

    path: Path
    _jammed_until: float = 0.0

    @contextmanager
    def turn(self, *, wait: bool) -> Iterator[bool]:
        """Hold the turn for the length of a `with`, waiting for it if need be; without `wait`, False if it is taken.

        It is True, too, where nobody can tell: then it is SQLite that decides.
        """
        held = self._take(wait=wait)
        try:
            yield held is not False
        finally:
            if isinstance(held, _Attempt):
                held.give_back()

    def _take(self, *, wait: bool) -> _Attempt | bool:
        try:
            attempt = _Attempt(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except OSError:  # a full disk, a folder that is read only: the journal itself says so better
            return True
        if attempt.at_once():
            attempt.stamp()
            return attempt
        if not wait or time.monotonic() < self._jammed_until:
            attempt.give_back()
            return wait
        if attempt.wait():
            return attempt
        self._jammed_until = time.monotonic() + JAMMED
        return True


@dataclass(slots=True)
class _Attempt:
    """One descriptor of the file, and with it one place in the queue: a lock goes when it is closed."""

    descriptor: int
    _settled: threading.Lock = field(default_factory=threading.Lock)
    _given_up: bool = False
    _got: threading.Event = field(default_factory=threading.Event)

    def at_once(self) -> bool:
        """Take the lock if it is free."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def stamp(self) -> None:
        """Leave the instant in the file's own, as the time since the machine started: no clock that is set bends it."""
        now = time.monotonic_ns()
        os.utime(self.descriptor, ns=(now, now))

    def wait(self) -> bool:
        """Wait for the lock; where nobody has got it for long, this place in the queue is given up.

        A thread of its own waits, which nobody joins: a call that waits for a lock cannot be ended.
        """
        threading.Thread(target=self._wait, name="journal-turn", daemon=True).start()
        while not self._got.wait(PATIENCE):
            if time.monotonic_ns() - os.fstat(self.descriptor).st_mtime_ns < PATIENCE * 1e9:
                continue
            with self._settled:
                self._given_up = not self._got.is_set()
            return not self._given_up
        return True

    def _wait(self) -> None:
        with contextlib.suppress(OSError):
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)
        with self._settled:
            if not self._given_up:
                self.stamp()
                self._got.set()
                return
        self.give_back()

    def give_back(self) -> None:
        """Let the next one in."""
        os.close(self.descriptor)
