"""The port `Fencer`: cutting the power of a host that does not answer, and proving that it is off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from godwit.model import HostRecord


@dataclass(frozen=True, slots=True)
class Power:
    """What was said of a host's power, in words, and whether that proves that it is off."""

    off: bool
    said: str


class Fencer(Protocol):
    """Speaks to what each host's record names. Raises FenceError, with what was said."""

    async def power(self, record: HostRecord) -> Power:
        """Say whether the host is off, changing nothing."""
        ...

    async def cut(self, record: HostRecord) -> Power:
        """Cut the host's power and return the proof that it is off; whoever runs on it dies.

        Raises FenceError where that cannot be proven.
        """
        ...
