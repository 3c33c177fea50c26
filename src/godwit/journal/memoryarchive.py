"""What has ended, and how it goes, in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from godwit.ports import Ended

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.journal.memory import MemoryJournal


class MemoryArchive:
    """See `godwit.ports.Archive`. What the disk has to do with it has no meaning here."""

    def __init__(self, journal: MemoryJournal) -> None:
        """Work on `journal`."""
        self._journal = journal

    async def ended(self, before: float, keep: int) -> list[Ended]:
        """List what has ended; see the port."""
        moves = [(story.created, story.spec.id, story.spec.vm) for story in self._journal.over()]
        jobs = [(job.created, job.id, job.vm) for job in self._journal.jobs.over()]
        old = [*sorted(moves, reverse=True)[keep:], *sorted(jobs, reverse=True)[keep:]]
        return [Ended(name, vm) for created, name, vm in sorted(old) if created < before]

    async def remove(self, identifiers: Sequence[str]) -> None:
        """Remove what has ended; see the port."""
        self._journal.remove(identifiers)
        self._journal.jobs.remove(identifiers)

    async def learned(self, before: float) -> int:
        """Count what was learned; see the port."""
        return self._journal.history.older(before)

    async def unlearn(self, before: float) -> None:
        """Remove what was learned; see the port."""
        self._journal.history.unlearn(before)

    async def thin(self, before: float, at: float, most: int) -> int:
        """Remove what curves are drawn from; see the port."""
        gone = 0
        for story in sorted(self._journal.over(), key=lambda story: story.created):
            if story.created < before and gone < most:
                gone += story.thin(at)
        return gone

    async def shrink(self, *, alone: bool) -> bool:
        """There is nothing to give back."""
        del alone
        return True

    async def size(self) -> int:
        """Return 0: it takes no disk."""
        return 0
