"""The sessions of runners on hosts, in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from godwit.ports import Session


@dataclass(slots=True)
class MemorySessions:
    """What `Journal.enter` and `Journal.ended` keep; who asks has looked at the epoch."""

    _kept: dict[tuple[str, str], list[Session]] = field(default_factory=dict)

    def enter(self, identifier: str, place: str, session: Session) -> tuple[Session, ...]:
        """Keep a session and return all others of that place."""
        kept = self._kept.setdefault((identifier, place), [])
        others = tuple(other for other in kept if other != session)
        kept[:] = [*others, session]
        return others

    def ended(self, identifier: str, place: str, sessions: Sequence[Session]) -> None:
        """Forget sessions that have ended."""
        kept = self._kept.get((identifier, place), [])
        kept[:] = [session for session in kept if session not in sessions]

    def forget(self, identifiers: Collection[str]) -> None:
        """Forget all sessions of these moves or jobs."""
        self._kept = {key: kept for key, kept in self._kept.items() if key[0] not in identifiers}
