"""The guest's clock, which stood still with it: what the move took from it is given back through its agent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.errors import GodwitError
from godwit.model import Side, Way
from godwit.units import format_duration

if TYPE_CHECKING:
    import asyncio

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

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Read the clock on the source, where there is an agent that has time to answer."""
        if self._reading is None and self.actions.parts.spec.policy.way is not Way.OFF:
            self._reading = tasks.create_task(self._read(Side.SOURCE), name="clock")

    def is_silent(self) -> bool:
        """Say whether the guest has no agent that answers; False for who does not know."""
        return self._reading is not None and (not self._reading.done() or self._before is None)

    @property
    def _before(self) -> Reading | None:
        """What was read on the source, as far as it was."""
        known = self._reading is not None and self._reading.done() and not self._reading.cancelled()
        return self._reading.result() if known and self._reading is not None else None

    def end(self) -> None:
        """Read no more."""
        if self._reading is not None:
            self._reading.cancel()

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
        before = self._before
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
        if self._is_of_the_move(drift, before.uncertainty + after.uncertainty):
            await self._set(before, drift)
        return True

    def _is_of_the_move(self, drift: float, uncertainty: float) -> bool:
        """Say whether the move has put a clock off: it stood still with the guest, and for no longer than that.

        What else has changed is somebody's who sets clocks, such as the guest's time service during a long move.
        """
        stopped, running = self.actions.ledger.stopped, self.actions.ledger.running
        if stopped is None or running is None:
            return False
        return THRESHOLD + uncertainty < -drift <= running - stopped + uncertainty + THRESHOLD

    async def _set(self, before: Reading, drift: float) -> None:
        parts = self.actions.parts
        off = f"{format_duration(-drift)} behind"
        try:
            guest = await self.actions.sides.attach(Side.TARGET)
            await guest.set_time_by_agent(lambda: parts.clock.now() + before.offset)
        except GodwitError as error:
            self.actions.warn(
                "clock-not-set",
                f"the move has left the clock of {parts.vm.name} {off}, and it was not set: {error.message}",
                "what compares times with others may go wrong: certificates, logs, Kerberos, databases",
                "set it in the guest: chronyc makestep, or date",
            )
            return
        self.actions.note("note", text=f"the move had left the guest's clock {off}: its agent has set it")
