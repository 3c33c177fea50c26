"""A whole file from host to host: given away by one, fetched by the other, compared at both ends.

For disk images with what is inside them, read-only media, backing files: any file that lies on one host and is to lie
on another at the same or another place.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from godwit.errors import GodwitError, HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from godwit.ports import Clock, Host

T = TypeVar("T")

LOOK: Final = 1.0
"""Seconds between looks at how far a file is; the lease of who gives it away is renewed as often."""

STALLED: Final = 300.0
"""Seconds without a byte more on the target after which a way counts as cut. Zeroes are read, and not written."""


@dataclass(frozen=True, slots=True)
class Carrier:
    """Carries files from one host to another, which reaches it at `address`; copies are `owner`'s until they are kept.

    See `Host.keep_image` and `Host.remove_image` for what that means.
    """

    source: Host
    target: Host
    address: str
    owner: str
    clock: Clock

    async def carry(self, path: str, to: str = "", told: Callable[[int, int], None] | None = None) -> int:
        """Copy `path` to the target (at `to`, by default the same place), and prove that it is the same there.

        `told` hears how many bytes of how many are there. A copy that was cancelled or has failed is removed again.
        Nobody may write the file meanwhile. Returns the bytes that the copy takes. Raises HostError.
        """
        to = to or path
        lease = secrets.token_hex(16)
        try:
            size = await self.source.used(path)
            served = await self.source.serve_file(path, lease, self.address)
            fetching = asyncio.ensure_future(self.target.fetch_file(served, to, self.owner))
            try:
                await self._watched(fetching, lease, to, lambda done: told(min(done, size), size) if told else None)
            finally:
                fetching.cancel()
                await asyncio.wait([fetching])
            await self._compare(path, to)
            if told:
                told(size, size)
        except BaseException:
            await settled(self._undone(lease, to))
            raise
        await self.source.stop_serving_file(lease)
        return await self.target.used(to)

    async def _watched(
        self, fetching: asyncio.Future[None], lease: str, path: str, told: Callable[[int], None]
    ) -> None:
        """Wait for a file, keep it being served, and tell how far it is. Raises what fetching raises, and HostError."""
        seen, last = -1, self.clock.now()
        while not await self._ended(fetching):
            await self.source.renew_lease(lease)
            done = await self.target.used(path)
            told(done)
            if done != seen:
                seen, last = done, self.clock.now()
            elif self.clock.now() - last > STALLED:
                message = f"not a byte of {path} has reached {self.target.name} for {STALLED:.0f} s"
                remedy = f"see whether {self.target.name} reaches {self.source.name} on the migration network"
                raise HostError(message, remedy=remedy)
        fetching.result()

    async def _ended(self, fetching: asyncio.Future[None]) -> bool:
        """Wait until it ends, LOOK seconds at most; say whether it has."""
        pause = asyncio.ensure_future(self.clock.sleep(LOOK))
        try:
            await asyncio.wait([fetching, pause], return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
        return fetching.done()

    async def _compare(self, path: str, to: str) -> None:
        """Read both files whole. Raises HostError where they differ."""
        here, there = await asyncio.gather(
            self.source.digest(path, all_of_it=True), self.target.digest(to, all_of_it=True)
        )
        if here != there:
            message = f"{to} on {self.target.name} is not what {path} on {self.source.name} is"
            raise HostError(message, remedy="it was written meanwhile, or damaged: see who has it open, and try again")

    async def _undone(self, lease: str, to: str) -> None:
        """Let nobody serve, and remove what was made; a silent host keeps it, marked, and its lease ends.

        The giver first: then nobody writes into the copy any more.
        """
        with suppress(GodwitError):
            await self.source.stop_serving_file(lease)
        with suppress(GodwitError):
            await self.target.remove_image(to, self.owner)


async def settled(work: Coroutine[Any, Any, T]) -> T:
    """Do what must be done to its end, however often whoever waits for it is cancelled: that is too late now."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()


async def whole(work: Coroutine[Any, Any, T]) -> T:
    """Do what must not be left half done to its end; a wish to cancel is heard afterwards. Raises CancelledError."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await settled(_outcome(task))
        raise


async def _outcome(task: asyncio.Future[T]) -> T:
    return await task
