"""The files that a guest only reads: copied to the target before its QEMU starts, and proven to have arrived."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from godwit.core import events as e
from godwit.engine.carrying import Carrier
from godwit.errors import GodwitError

if TYPE_CHECKING:
    from godwit.engine.actions import Actions
    from godwit.model import DiskCopy


@dataclass(slots=True)
class Media:
    """Copies files, one after the other; the link is the bottleneck."""

    actions: Actions
    copied: dict[str, int]

    def _carrier(self, *, encrypted: bool = False) -> Carrier:
        parts = self.actions.parts
        speed, authority = parts.spec.policy.bandwidth or 0, parts.authority if encrypted else None
        ways = parts.source, parts.target, self.actions.address
        return Carrier(*ways, parts.spec.id, parts.clock, self._left, speed, authority, parts.keys)

    def _left(self, words: str) -> None:
        """Note what is left of a copy that failed: the way back of the move comes to it again, and names it."""
        self.actions.note("note", text=words)

    async def copy(self, command: e.CopyMedia) -> e.Event:
        """Copy all files. Raises HostError, for one that has arrived as another, too."""
        for copy in command.media:
            carrier = self._carrier(encrypted=command.encrypted)
            await carrier.carry(copy.image.path, lambda done, size, copy=copy: self._note(copy, done, size))  # type: ignore[misc]
        return e.MediaCopied()

    def _note(self, copy: DiskCopy, done: int, needed: int) -> None:
        self.copied[copy.name] = done
        self.actions.note_copied(copy.name, done, needed, ready=done >= needed)

    async def end_all(self, copies: tuple[DiskCopy, ...]) -> None:
        """End what a former runner may have left under way, before its files are removed."""
        for copy in copies:
            try:
                await self._carrier().end(copy.image.path)
            except GodwitError as error:  # both ends are limited in time
                words = f"a transfer of {copy.image.path} may go on for a while: {error.message}"
                self.actions.note("note", text=words)
