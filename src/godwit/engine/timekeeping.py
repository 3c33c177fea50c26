"""The guest's clock, which stood still with it: what the move took from it is given back through its agent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.errors import GodwitError
from godwit.model import Side, Way
from godwit.units import format_duration

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from godwit.engine.actions import Actions

THRESHOLD: Final = 1.0
"""Seconds by which a move must have put a guest's clock off before it is set.

A live move takes milliseconds, which its own time service slews away without anybody noticing a step. It may slew by
500 millionths at most (adjtimex(2)), so that a second takes it more than half an hour.
"""

_TRIES: Final = 2
_AGAIN: Final = 1.0


@dataclass(frozen=True, slots=True)
class Reading:
    """A guest's clock minus the controller's in seconds, known to within `uncertainty`."""

    offset: float
    uncertainty: float


@dataclass(slots=True)
class Timekeeping:
    """Reads a guest's clock before the move and after it, if it has an agent.

    What counts is what the move has changed: a clock that was wrong before is its owner's affair, and stays as wrong.
    """

    actions: Actions
    _reading: asyncio.Task[Reading | None] | None = None

    def begin(self, tasks: asyncio.TaskGroup, agent: Callable[[], Awaitable[bool]]) -> None:
        """Read the clock on the source, when `agent` says that there is one, and that it has time to answer."""
        if self._reading is None and self.actions.parts.spec.policy.way is not Way.OFF:
            self._reading = tasks.create_task(self._before(agent), name="clock")

    async def _before(self, agent: Callable[[], Awaitable[bool]]) -> Reading | None:
        return await self._read(Side.SOURCE) if await agent() else None

    async def _read(self, side: Side) -> Reading | None:
        """Read the guest's clock; None where its agent does not answer."""
        clock = self.actions.parts.clock
        try:
            guest = await self.actions.sides.attach(side)
            sent = clock.now()
            told = await guest.time_by_agent()
            received = clock.now()
        except GodwitError as error:
            self.actions.note("note", text=f"the guest's clock could not be read: {error.message}")
            return None
        return None if told is None else Reading(told - (sent + received) / 2, (received - sent) / 2)

    async def mend(self) -> bool | None:
        """Set the clock where the move has put it off; returns whether the agent answers, None for who had none."""
        before = self._reading.result() if self._reading is not None and self._reading.done() else None
        if before is None:
            return None
        after = None
        for number in range(_TRIES):
            after = await self._read(Side.TARGET)
            if after is not None:
                break
            await self.actions.parts.clock.sleep(_AGAIN if number + 1 < _TRIES else 0.0)
        if after is None:
            self.actions.warn(
                "agent-silent",
                f"the agent of {self.actions.parts.vm.name} answered before the move, and does not after it",
                "the guest may be ill, and its clock was not compared",
                "look at it: godwit vm console",
            )
            return False
        drift = after.offset - before.offset
        if abs(drift) - before.uncertainty - after.uncertainty > THRESHOLD:
            await self._set(before, drift)
        return True

    async def _set(self, before: Reading, drift: float) -> None:
        parts = self.actions.parts
        off = f"{format_duration(abs(drift))} {'behind' if drift < 0 else 'ahead'}"
        try:
            guest = await self.actions.sides.attach(Side.TARGET)
            await guest.set_time_by_agent(parts.clock.now() + before.offset)
        except GodwitError as error:
            self.actions.warn(
                "clock-not-set",
                f"the move has left the clock of {parts.vm.name} {off}, and it was not set: {error.message}",
                "what compares times with others may go wrong: certificates, logs, Kerberos, databases",
                "set it in the guest: chronyc makestep, or date",
            )
            return
        self.actions.note("note", text=f"the move had left the guest's clock {off}: its agent has set it")
