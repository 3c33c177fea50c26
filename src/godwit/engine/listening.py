"""The guest's serial console on the target, listened to for a moment: whether its kernel says that it is in trouble."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from godwit.core.kernellog import kernel_trouble
from godwit.core.state import Phase
from godwit.errors import GodwitError
from godwit.model import Side, Way

if TYPE_CHECKING:
    import asyncio

    from godwit.core.kernellog import KernelTrouble
    from godwit.core.state import State
    from godwit.engine.actions import Actions

LISTENS: Final = 1.0
"""Seconds for which a guest that runs on the target is listened to, at least."""

_KEPT: Final = 65536
"""Bytes of the console that are kept: the first ones, since what follows a first trouble mostly follows from it."""


@dataclass(slots=True)
class Listening:
    """Holds the console of the target's QEMU from before the guest runs there until shortly after it does.

    Nobody else can have it before: the process is new. A client that comes meanwhile waits until it is let go, and one
    that is there already, where a runner follows another, is left alone: a console has one client at a time.
    """

    actions: Actions
    _task: asyncio.Task[None] | None = None
    _said: bytearray = field(default_factory=bytearray)

    def entered(self, state: State, tasks: asyncio.TaskGroup) -> None:
        """Begin to listen when the target waits for the guest's memory; let go where the move goes back.

        A guest that is to boot anew is not listened to: its console tells of the boot, and that takes long.
        """
        console = self.actions.parts.vm_on(Side.TARGET).console
        if state.phase is Phase.PRECOPY and self._task is None and console and state.way is not Way.OFF:
            self._task = tasks.create_task(self._listen(console), name="console")
        if state.phase in {Phase.ROLLING_BACK, Phase.LIMBO}:
            self.let_go()

    async def _listen(self, console: str) -> None:
        try:
            async with aclosing(self.actions.parts.target.hear(console)) as words:
                async for some in words:
                    self._said += some[: max(0, _KEPT - len(self._said))]
        except GodwitError as error:
            self.actions.note("note", text=f"the guest's console is not listened to: {error.message}")

    async def verdict(self) -> KernelTrouble | None:
        """Listen until the guest has run for LISTENS seconds, let go, and say what its kernel told of trouble."""
        if self._task is None:
            return None
        clock = self.actions.parts.clock
        running = self.actions.ledger.running or clock.now()
        await clock.sleep(max(0.0, running + LISTENS - clock.now()))
        self.let_go()
        found = kernel_trouble(bytes(self._said))
        if found is not None:
            self.actions.warn(
                "guest-kernel",
                f"since the switchover the console of {self.actions.parts.vm.name} says: {'; '.join(found.lines)}",
                "its kernel has stopped: nothing in it runs any more" if found.fatal else "its kernel is in trouble",
                "save what you can, and restart the guest from its disks; see its whole log with godwit vm console",
            )
        return found

    def let_go(self) -> None:
        """Let somebody else have the console."""
        if self._task is not None:
            self._task.cancel()
