"""What keeps a runner that was stopped, and goes on when another has followed it, from doing anything.

Its transitions are compared with the epoch (`Journal.transition`). What it may have open on the hosts, or may open
anew, is kept in the journal before it is used: a new runner ends that on each host before it acts there, and an old
one is not let in any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from godwit.model import Side

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.engine.parts import Parts
    from godwit.ports import JobBook, Journal, Session


@dataclass(frozen=True, slots=True)
class EpochFence:
    """Lets in the sessions of one epoch at one place; see `godwit.ports.Fence`."""

    book: Journal | JobBook
    identifier: str
    epoch: int
    place: str

    async def enter(self, session: Session) -> tuple[Session, ...]:
        """Write a new session down, unless another took over; see the port."""
        return await self.book.enter(self.identifier, self.epoch, self.place, session)

    async def ended(self, sessions: Sequence[Session]) -> None:
        """Forget what has ended; see the port."""
        await self.book.ended(self.identifier, self.place, sessions)


def guard(parts: Parts) -> None:
    """Let nothing be done on either host but by the newest runner of the migration."""
    for side in Side:
        parts.host(side).guard(EpochFence(parts.journal, parts.spec.id, parts.epoch, side.value))
