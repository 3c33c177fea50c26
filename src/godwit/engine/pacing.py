"""How often something that goes on for long is worth another line in the journal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SHARE: Final = 1 / 1000
"""Between two lines goes this share of the time that it has taken so far."""

LONGEST: Final = 30.0
"""Seconds after which another line is worth it, whatever it has taken."""

TURNS: Final = 2000
"""How many lines are kept for what they tell, such as the beginning of a pass, and not for their time."""


@dataclass(slots=True)
class Pace:
    """Says which lines are worth keeping: each of the first minutes, and of a day some thousands."""

    _began: float | None = None
    _last: float = 0.0
    _turns: int = 0

    def worth(self, at: float, *, turn: bool = False) -> bool:
        """Say whether a line of that instant is to be kept; `turn` says that it tells more than those around it."""
        if self._began is None:
            self._began = self._last = at
            return True
        turn = turn and self._turns < TURNS
        if not turn and at - self._last < min(LONGEST, (at - self._began) * SHARE):
            return False
        self._turns += turn
        self._last = at
        return True
