"""Programs of the user's own that are run around a move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class HookRun:
    """How a hook ended: its exit status (None where it was ended for its deadline), and the end of what it said.

    `seconds` is how long it took.
    """

    status: int | None
    said: str
    seconds: float


class Hooks(Protocol):
    """The hooks of this controller."""

    def troubles(self) -> Mapping[str, str]:
        """Return the hooks that are there and may not be run, and why, with the mend; names of none are among them."""
        ...

    async def run(self, name: str, environment: Mapping[str, str], deadline: float) -> HookRun | None:
        """Run a hook to its end, `deadline` seconds at most; None where there is none of that name.

        A hook that is cut off here, or takes longer, is ended with all that it has started. Raises InputError for one
        that may not be run, or cannot be started.
        """
        ...
