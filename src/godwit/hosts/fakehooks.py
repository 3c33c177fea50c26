"""Hooks of a simulated controller; see `godwit.ports.Hooks`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from godwit.errors import InputError
from godwit.ports import HookRun

if TYPE_CHECKING:
    from collections.abc import Mapping

    from godwit.ports import Clock


@dataclass
class FakeHooks:
    """Hooks that take `seconds` each and end with what `statuses` says (0 without), None where they hang.

    `runs` holds what each that was begun was told, `ended` the names of those that came to their end by themselves.
    """

    clock: Clock
    statuses: dict[str, int | None] = field(default_factory=dict)
    unsafe: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.05
    runs: list[dict[str, str]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def troubles(self) -> Mapping[str, str]:
        """Return the hooks that may not be run."""
        return self.unsafe

    async def run(self, name: str, environment: Mapping[str, str], deadline: float) -> HookRun | None:
        """Run a hook. Raises InputError for one that may not be run."""
        if name in self.unsafe:
            raise InputError(self.unsafe[name])
        self.runs.append(dict(environment))
        status = self.statuses.get(name, 0)
        took = deadline if status is None else self.seconds
        await self.clock.sleep(took)
        if status is not None:
            self.ended.append(name)
        return HookRun(status, "said a word", took)

    def names(self, guest: str) -> list[str]:
        """Return the hooks that were begun for a guest, in order."""
        return [told["GODWIT_HOOK"] for told in self.runs if told["GODWIT_GUEST"] == guest]
