"""The files that a guest only reads: copied to the target before its QEMU starts, and proven to have arrived."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.core import events as e
from godwit.errors import GodwitError, MigrationFailedError

if TYPE_CHECKING:
    from godwit.engine.actions import Actions
    from godwit.model import DiskCopy

PERIOD: Final = 0.5
"""Seconds between looks at how much has arrived."""


@dataclass(slots=True)
class Media:
    """Copies files, one after the other; the link is the bottleneck."""

    actions: Actions
    copied: dict[str, int]

    async def copy(self, command: e.CopyMedia) -> e.Event:
        """Copy all files. Raises HostError, MigrationFailedError for one that has arrived as another."""
        for copy in command.media:
            await self._copy(copy)
        return e.MediaCopied()

    async def _copy(self, copy: DiskCopy) -> None:
        parts, name = self.actions.parts, transfer_name(self.actions, copy)
        path, size = copy.image.path, copy.image.virtual_size
        speed = parts.spec.policy.bandwidth or 0
        digest = asyncio.create_task(parts.source.digest(path, all_of_it=True))
        try:
            await parts.target.create_image(copy.image, parts.spec.id)
            port = await parts.target.free_port()
            address = self.actions.address
            await parts.target.take_file(path, name, address, port, size)
            url = f"nbd://[{address}]:{port}/{name}" if ":" in address else f"nbd://{address}:{port}/{name}"
            sending = asyncio.create_task(parts.source.send_file(path, name, url, size=size, speed=speed))
            await self._follow(copy, sending)
            here = await digest
        finally:
            digest.cancel()
            await self._end(name)
        await parts.target.fit_file(path, int(here.partition(" ")[0]))
        there = await parts.target.digest(path, all_of_it=True)
        if here != there:
            message = f"{path} has arrived on {parts.target.name} as another file ({here} here, {there} there)"
            raise MigrationFailedError(message, remedy="see whether somebody writes to it, and the target's storage")

    async def _follow(self, copy: DiskCopy, sending: asyncio.Task[None]) -> None:
        """Note how much has arrived until all has; what is cancelled takes the sending along."""
        try:
            while not sending.done():
                pause = asyncio.ensure_future(self.actions.parts.clock.sleep(PERIOD))
                await asyncio.wait([sending, pause], return_when=asyncio.FIRST_COMPLETED)
                pause.cancel()
                await self._note(copy, ready=sending.done())
        finally:
            sending.cancel()
            await asyncio.wait([sending])
        sending.result()

    async def _note(self, copy: DiskCopy, *, ready: bool) -> None:
        needed = copy.image.allocated
        done = min(needed, await self.actions.parts.target.used(copy.image.path))
        self.copied[copy.name] = done
        self.actions.note("mirror", name=copy.name, done=done, needed=needed, ready=ready)

    async def _end(self, name: str) -> None:
        """End both ends of a transfer; one that cannot be ended now is limited in time."""
        parts = self.actions.parts
        for host in (parts.source, parts.target):
            try:
                await host.end_transfer(name)
            except GodwitError as error:
                self.actions.note("note", text=f"a transfer on {host.name} may go on for a while: {error.message}")

    async def end_all(self, media: tuple[DiskCopy, ...]) -> None:
        """End what a former runner may have left under way, before its files are removed."""
        for copy in media:
            await self._end(transfer_name(self.actions, copy))


def transfer_name(actions: Actions, copy: DiskCopy) -> str:
    """Return a name by which a transfer is found again: the migration's, and the disk's."""
    return f"{actions.parts.spec.id}.{copy.job}"
