"""Letting a guest's balloon take its free memory before it travels, and give it back afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.core import events as e
from godwit.errors import GodwitError, HypervisorError
from godwit.model import RunState
from godwit.units import format_duration, format_size

if TYPE_CHECKING:
    from godwit.engine.actions import Actions
    from godwit.ports import Guest

_POLL: Final = 0.1
_STILL: Final = 1.0
"""Seconds without a page more after which a balloon has what it gets: the guest may have needed its memory."""


@dataclass(slots=True)
class Ballooning:
    """Works the guest's balloon."""

    actions: Actions

    async def take(self, guest: Guest, balloon: int, wanted: int) -> None:
        """Let the balloon, which leaves `balloon` bytes to the guest, take `wanted` of them; as far as it gets."""
        clock = self.actions.parts.clock
        began = moved = clock.now()
        left = balloon
        await guest.leave_memory(balloon - wanted)
        while left > balloon - wanted and clock.now() - moved < _STILL:
            await clock.sleep(_POLL)
            found = await guest.memory_left()
            if found < left:
                left, moved = found, clock.now()
        taken, seconds = format_size(balloon - left), format_duration(clock.now() - began)
        self.actions.note("note", text=f"the balloon took {taken} of free memory within {seconds}: it is not sent")

    async def restore(self, command: e.RestoreBalloon) -> e.Event:
        """Let the balloon leave to the guest what it did before; the guest takes it back by and by."""
        view = await self.actions.sides.look(command.side)
        if view.state is RunState.ABSENT:
            return e.Undone("RestoreBalloon")
        try:
            await (await self.actions.sides.attach(command.side)).leave_memory(command.size)
        except GodwitError as error:
            name = self.actions.parts.vm.name
            mend = f"godwit monitor {name} -c 'balloon {command.size >> 20}'"
            message = f"the balloon of {name} keeps memory that is the guest's ({error.message}): {mend}"
            raise HypervisorError(message, remedy=mend) from error
        return e.Undone("RestoreBalloon")
