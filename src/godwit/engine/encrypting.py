"""The keys of one move: made out for it, kept on both hosts as long as it lasts, and removed with its end.

They are kept under a name of the guest's, with which those of transfers begin, too (`Parts.keys`): what a former move
of this Godwit had to leave on a silent host goes with the next one's, and what is another Godwit's is let alone.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.core import events as e
from godwit.core.trust import verified_name
from godwit.engine.keys import PAUSES, Keys, patiently
from godwit.errors import GodwitError, JournalError
from godwit.model import RunState, Side

if TYPE_CHECKING:
    from collections.abc import Set  # noqa: PYI025 - abstract, and read only

    from godwit.engine.actions import Actions
    from godwit.model import Pair
    from godwit.ports import Guest

SETTLES: Final = 2.0

_ROLES: Final = {Side.SOURCE: "client", Side.TARGET: "server"}
_AS_ANOTHER: Final = frozenset({"-runas", "-run-with"})
"""Options after which QEMU is another user's than who has started it."""


@dataclass(slots=True)
class Encrypting:
    """Sees to it that both ends have what they need. `actions` knows the hosts and where they meet."""

    actions: Actions
    off: Set[Side] = frozenset()
    """The hosts that are proven to be off: what lay below their /run is gone."""
    _making: asyncio.Task[Pair] | None = None

    def putting(self, side: Side, pid: int | None = None) -> asyncio.Task[str]:
        """Begin to keep one end's credentials on its host, beside what else is done; gives their folder."""
        task = asyncio.create_task(self._put(side, pid), name=f"keys-{side}")
        task.add_done_callback(_retrieved)
        return task

    async def _put(self, side: Side, pid: int | None) -> str:
        parts = self.actions.parts
        if self._making is None:
            asked = parts.authority.pair(parts.spec.id, parts.target.name, self.actions.address)
            self._making = asyncio.ensure_future(asked)
        pair = await asyncio.shield(self._making)
        credentials = pair.client if side is Side.SOURCE else pair.server
        return await parts.host(side).put_credentials(parts.keys, _ROLES[side], credentials, pid)

    async def let_in(self, guest: Guest, putting: asyncio.Task[str], pid: int) -> None:
        """Let the target's QEMU encrypt, and nobody but this move's client come to it."""
        folder = await putting
        facts = self.actions.facts
        if facts is not None and _AS_ANOTHER & set(facts.launch.argv):
            folder = await self._put(Side.TARGET, pid)
        assert self._making is not None  # noqa: S101 - it was put; for the type checker
        await guest.use_credentials(folder, let_in=self._making.result().identity)

    async def come(self, guest: Guest, putting: asyncio.Task[str]) -> None:
        """Let the source's QEMU encrypt, and believe nobody but the target."""
        await guest.use_credentials(await putting, far=verified_name(self.actions.address))

    async def remove(self, command: e.RemoveCredentials, *, patient: bool = True) -> e.Event:
        """Remove the keys from both hosts, and from the QEMU that goes on.

        Hosts are asked again for moments, unless there is no time for it: then they are later. On the way back those of
        a silent target are named, and the source is tried again. Raises GodwitError; a JournalError where nothing but
        the journal keeps us from a host: nothing is said to be left then.
        """
        pauses = PAUSES if patient else ()
        removing = (self._removed(side, pauses) for side in (Side.SOURCE, Side.TARGET))
        source, target, guest = await asyncio.gather(*removing, self._forgotten(command.side, pauses))
        found = [error for error in (source, target, guest) if error is not None]
        for error in found:
            if isinstance(error, JournalError):
                raise error
        words = "; ".join(error.message for error in found)
        if failed := (source if command.side is Side.SOURCE else None) or guest or (None if patient else target):
            raise type(failed)(words, remedy=failed.remedy)
        return e.Undone("RemoveCredentials", words)

    async def _removed(self, side: Side, pauses: tuple[float, ...]) -> GodwitError | None:
        parts = self.actions.parts
        keys = Keys(parts.keys, parts.spec.id, parts.spec.vm, parts.clock)
        return None if side in self.off else await keys.removed(parts.host(side), pauses)

    async def _forgotten(self, side: Side, pauses: tuple[float, ...]) -> GodwitError | None:
        async def forget() -> None:
            if (await self.actions.sides.look(side)).state is not RunState.ABSENT:
                await (await self.actions.sides.attach(side)).forget_credentials()

        try:
            if side not in self.off:
                await patiently(self.actions.parts.clock, forget, pauses)
        except GodwitError as error:
            return error
        return None


async def settled(putting: asyncio.Task[str] | None) -> None:
    """See the end of what was begun, even where it is not needed any more: nothing may be written after it is undone.

    What takes longer than SETTLES seconds is cut off.
    """
    if putting is None:
        return
    await asyncio.wait([putting], timeout=SETTLES)
    if putting.cancel():
        await asyncio.wait([putting])


def _retrieved(putting: asyncio.Task[str]) -> None:
    """Take note of how it ended, whoever is still there: whoever needed it has raised it."""
    if not putting.cancelled():
        putting.exception()
