"""Comparing copied disks with those they were copied from, as both were at the instant of the switchover.

The source's image is written no more from then on. The target's is, so while the guest stands still what it holds is
frozen: whatever is overwritten from then on goes to a file beside it first. What is frozen is served read-only, and
the source compares its own image with it while the guest runs.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from godwit.core import events as e
from godwit.errors import GodwitError, JournalError
from godwit.model import Comparison, ImageFacts, RunState, Side

if TYPE_CHECKING:
    from godwit.engine.actions import Actions
    from godwit.model import DiskCopy

PERIOD: Final = 1.0
"""Seconds between looks at the room that is left on the target."""

_THAW_PAUSES: Final = (0.5, 1.0, 2.0)
"""Seconds between attempts to let go of what was kept."""

LEAST_ROOM: Final = 64 << 20
"""Bytes of room on the target below which the comparison is given up: the guest's writes come first."""


@dataclass(slots=True)
class Comparing:
    """Makes the files that keep what is overwritten, compares, and takes everything away again."""

    actions: Actions
    _found: Comparison | None = None

    async def prepare(self, copies: tuple[DiskCopy, ...]) -> None:
        """Make the files into which what the guest overwrites goes first."""
        for copy in copies:
            if copy.verify:
                kept = ImageFacts(copy.frozen, "qcow2", copy.image.virtual_size, 0)
                await self.actions.parts.target.create_image(kept, self.actions.parts.spec.id)

    async def compare(self, command: e.CompareDisks) -> e.Event:
        """Compare all disks, and let the guest's own be its own again.

        Raises JournalError alone: what was found is kept, and what was not is compared when this is done again.
        """
        copies = tuple(copy for copy in command.copies if copy.verify)
        if self._found is None:
            began = self.actions.parts.clock.now()
            try:
                found = await self._compare(copies, encrypted=command.encrypted)
            except JournalError:
                raise
            except GodwitError as error:
                found = Comparison(None, f"the disks could not be compared: {error.message}")
            self._found = replace(found, seconds=self.actions.parts.clock.now() - began)
        return e.DisksCompared(self._found, await self._thawed(copies))

    async def _compare(self, copies: tuple[DiskCopy, ...], *, encrypted: bool) -> Comparison:
        target = self.actions.parts.target
        keys = self.actions.parts.keys if encrypted else ""
        guest = await self.actions.sides.attach(Side.TARGET)
        address = self.actions.address or (await target.facts()).migration_address
        port = await target.free_port()
        await guest.serve_frozen(address, port, copies, encrypted=encrypted)
        host = f"[{address}]" if ":" in address else address
        total = 0
        for copy in copies:
            trouble = await self._mind_room(copy, f"nbd://{host}:{port}/{copy.job}", keys)
            if trouble:
                why = f"disk {copy.name} on {target.name} is not what it was copied from: {trouble} ({copy.image.path})"
                return Comparison(equal=False, detail=why, bytes=total)
            total += copy.image.virtual_size
        return Comparison(equal=True, bytes=total)

    async def _mind_room(self, copy: DiskCopy, url: str, keys: str) -> str:
        """Compare one disk while there is room for what the guest overwrites; return what differs."""
        parts, image = self.actions.parts, copy.image
        comparing = asyncio.create_task(
            parts.source.compare_image(image.path, image.format, url, size=image.virtual_size, credentials=keys)
        )
        try:
            while not comparing.done():
                pause = asyncio.ensure_future(parts.clock.sleep(PERIOD))
                await asyncio.wait([comparing, pause], return_when=asyncio.FIRST_COMPLETED)
                pause.cancel()
                room = (await parts.target.place(image.path)).available
                if room is not None and room < LEAST_ROOM and not comparing.done():
                    message = f"the disk of {parts.target.name} is nearly full, and the guest's own writes come first"
                    raise GodwitError(message)
        finally:
            comparing.cancel()
            await asyncio.wait([comparing])
        return comparing.result()

    async def _thawed(self, copies: tuple[DiskCopy, ...]) -> str:
        """Let writes go straight to the disks again, and remove what was kept; return what is left, in words.

        A host that is out of reach for moments is asked again: what is left slows the guest's writes, and serves its
        disks, as long as its QEMU lives. Raises JournalError.
        """
        parts, name = self.actions.parts, self.actions.parts.vm.name
        for pause in (*_THAW_PAUSES, None):
            try:
                await self._thaw(copies)
            except JournalError:
                raise
            except GodwitError as error:
                if pause is None:
                    left = f"what kept the disks of {name} as they were may be left on {parts.target.name}, with "
                    left += f"{', '.join(copy.frozen for copy in copies)}: {error.message}"
                    mend = f"godwit monitor {name} -c nbd_server_stop, and -c 'block_job_cancel -f JOB' for each job "
                    mend += "that -c 'info block-jobs' shows; then remove the files"
                    self.actions.warn("not-thawed", left, "it slows the guest's writes, and serves its disks", mend)
                    return f"{left}; {mend}"
                await parts.clock.sleep(pause)
            else:
                break
        return ""

    async def _thaw(self, copies: tuple[DiskCopy, ...]) -> None:
        """Let the guest's QEMU keep nothing any more, if there is one; only then nobody has these files open."""
        if (await self.actions.sides.look(Side.TARGET)).state is not RunState.ABSENT:
            await (await self.actions.sides.attach(Side.TARGET)).thaw(copies)
        for copy in copies:
            await self.actions.parts.target.remove_image(copy.frozen, self.actions.parts.spec.id)
