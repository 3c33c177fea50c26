"""The record of saves and restores in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from godwit.errors import BusyError, SupersededError, UnknownMigrationError
from godwit.journal.memorysessions import MemorySessions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from godwit.core.saves import Job
    from godwit.ports import Session


@dataclass(slots=True)
class _Row:
    job: Job
    epoch: int = 0
    cancel: bool = False


class MemoryJobs:
    """See `godwit.ports.JobBook`."""

    def __init__(self, migrating: Callable[[str], str | None]) -> None:
        """Begin with nothing; `migrating` returns the unfinished migration of a guest."""
        self._rows: dict[str, _Row] = {}
        self._migrating = migrating
        self._sessions = MemorySessions()

    def _row(self, identifier: str) -> _Row:
        if identifier not in self._rows:
            raise unknown(identifier)
        return self._rows[identifier]

    async def create(self, job: Job) -> None:
        """Write a new job down; see the port."""
        other = next((row.job.id for row in self._rows.values() if row.job.vm == job.vm and not row.job.finished), None)
        other = other or self._migrating(job.vm)
        if other is not None:
            raise busy(job.vm, other)
        self._rows[job.id] = _Row(job)

    async def take_over(self, identifier: str) -> tuple[int, Job]:
        """Fence earlier ones off; see the port."""
        row = self._row(identifier)
        row.epoch += 1
        return row.epoch, row.job

    async def taken_over(self, identifier: str) -> bool:
        """Say whether who began it has been followed by another."""
        return self._row(identifier).epoch > 1

    async def enter(self, identifier: str, epoch: int, place: str, session: Session) -> tuple[Session, ...]:
        """Keep a session; see the port."""
        if self._row(identifier).epoch != epoch:
            raise superseded(identifier)
        return self._sessions.enter(identifier, place, session)

    async def ended(self, identifier: str, place: str, sessions: Sequence[Session]) -> None:
        """Forget sessions; see the port."""
        self._sessions.ended(identifier, place, sessions)

    async def write(self, job: Job, epoch: int, *, durable: bool) -> None:  # noqa: ARG002 - the port has it
        """Write how far it is; see the port."""
        row = self._row(job.id)
        if row.epoch != epoch:
            raise superseded(job.id)
        row.job = job

    async def load(self, identifier: str) -> Job:
        """Return a job; see the port."""
        return self._row(identifier).job

    async def rows(self, *, unfinished: bool = False, limit: int = 50) -> list[Job]:
        """List jobs; see the port."""
        found = sorted((row.job for row in self._rows.values()), key=lambda job: job.created, reverse=True)
        return [job for job in found if not (unfinished and job.finished)][:limit]

    def over(self) -> list[Job]:
        """Return those that have ended."""
        return [row.job for row in self._rows.values() if row.job.finished]

    def remove(self, identifiers: Sequence[str]) -> None:
        """Remove those of these that have ended."""
        gone = {name for name in identifiers if name in self._rows and self._rows[name].job.finished}
        for name in gone:
            del self._rows[name]
        self._sessions.forget(gone)

    async def request_cancel(self, identifier: str) -> None:
        """Ask to go back; see the port."""
        self._row(identifier).cancel = True

    async def cancel_requested(self, identifier: str) -> bool:
        """Say whether somebody asked for that."""
        return self._row(identifier).cancel


def busy(vm: str, other: str) -> BusyError:
    """Return the error of a guest that something else is done with."""
    message = f"something else is being done with {vm}: {other}"
    return BusyError(message, remedy="wait until it has ended")


def unknown(identifier: str) -> UnknownMigrationError:
    """Return the error of an identifier that nobody knows."""
    message = f"there is no save or restore {identifier!r}"
    return UnknownMigrationError(message)


def superseded(identifier: str) -> SupersededError:
    """Return the error of a runner that another has followed."""
    message = f"another runner took over {identifier}; this one stops here"
    return SupersededError(message)
