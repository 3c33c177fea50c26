"""What a move sets in a guest's QEMU, beside its stream, and how that is put back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.core import events as e
from godwit.core.capabilities import unset
from godwit.errors import GodwitError, HypervisorError
from godwit.model import Permission, RunState
from godwit.units import format_duration, format_size

if TYPE_CHECKING:
    from godwit.engine.actions import Actions
    from godwit.ports import Guest

_POLL: Final = 0.1
_STILL: Final = 1.0
"""Seconds without a page more after which a balloon has what it gets: the guest may have needed its memory."""


@dataclass(slots=True)
class Settings:
    """Changes what the guest has, and puts it back."""

    actions: Actions

    async def take_free_memory(self, guest: Guest, balloon: int, wanted: int) -> None:
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
        cached = Permission.PAGE_CACHE in self.actions.parts.spec.policy.allows
        what = "memory that is free, or keeps what is on disks," if cached else "free memory"
        self.actions.note("note", text=f"the balloon took {taken} of {what} within {seconds}: it is not sent")

    async def restore(self, command: e.RestoreGuest) -> e.Event:
        """Leave nothing set that would trouble whoever works with this QEMU next, and the balloon as it was.

        QEMU dies of a snapshot while it is set to send by multifd, and refuses to save with its compression.
        """
        view = await self.actions.sides.look(command.side)
        if view.state is RunState.ABSENT:
            return e.Undone("RestoreGuest")
        guest = await self.actions.sides.attach(command.side)
        try:
            if command.balloon:
                await guest.leave_memory(command.balloon)
        except GodwitError as error:
            name = self.actions.parts.vm.name
            mend = f"godwit monitor {name} -c 'balloon {command.balloon >> 20}'"
            message = f"the balloon of {name} keeps memory that is the guest's ({error.message}): {mend}"
            raise HypervisorError(message, remedy=mend) from error
        capabilities, parameters = unset(await guest.features())
        await guest.set_capabilities(capabilities)
        await guest.set_parameters(parameters)
        return e.Undone("RestoreGuest")
