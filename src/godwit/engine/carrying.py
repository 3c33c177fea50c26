"""A whole file from host to host: the target takes it, the source sends it, both ends read it whole afterwards.

For disk images with what is inside them, and media that a guest only reads: any file that lies on one host and is to
lie on another, that nobody writes to meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from godwit.errors import GodwitError, HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from godwit.ports import Authority, Clock, Host

T = TypeVar("T")

LOOK: Final = 1.0
"""Seconds between looks at how far a file is."""

STALLED: Final = 300.0
"""Seconds without a byte more on the target after which a way counts as cut. Zeroes are read, and not written."""


@dataclass(frozen=True, slots=True)
class Carrier:
    """Carries files from one host to another, which takes them at `address`; copies are `owner`'s until they are kept.

    See `Host.keep_image` and `Host.remove_image` for what that means. `speed` is in bytes a second, 0 for no limit.
    With an `authority` each transfer is encrypted, between two ends that it has certified for that alone; the names of
    transfers, and so of their keys, begin with `keys`. `left` hears in words what a way back could not end or remove,
    and where: whoever carries comes to it again, or names it.
    """

    source: Host
    target: Host
    address: str
    owner: str
    clock: Clock
    left: Callable[[str], None]
    speed: int = 0
    authority: Authority | None = None
    keys: str = ""

    async def carry(self, path: str, told: Callable[[int, int], None] | None = None) -> int:
        """Copy `path` to the same place on the target, and prove that it is the same there.

        `told` hears how many bytes of how many are there. A copy that was cancelled or has failed is removed again, as
        far as the hosts answer; what somebody who died had under way is ended first. Returns the bytes that the copy
        takes.

        Raises HostError, HypervisorError, TlsError.
        """
        reading = asyncio.create_task(self.source.digest(path, all_of_it=True))
        try:
            await self.end(path)
            size = await self.source.used(path)
            await self._send(path, lambda done: told(min(done, size), size) if told else None)
            here = await reading
            await self.target.fit_file(path, int(here.partition(" ")[0]))
            await self._compare(path, here)
            if told:
                told(size, size)
        except BaseException:
            await to_its_end(self._undone(path))
            raise
        finally:
            reading.cancel()
            await asyncio.wait([reading])
        return await self.target.used(path)

    async def end(self, path: str) -> None:
        """End what sends and takes a file, on both hosts. Idempotent. Raises HostError."""
        troubles: list[GodwitError] = []
        for host in (self.source, self.target):
            try:
                await host.end_transfer(self.name(path))
            except GodwitError as error:  # the other one may be there
                troubles.append(error)
        if troubles:
            raise troubles[0]

    def name(self, path: str) -> str:
        """Return a name by which a transfer is found again by whoever comes after."""
        digest = hashlib.sha256(f"{self.owner} {path}".encode()).hexdigest()[:12]
        return f"{self.keys or self.owner}.{digest}"

    async def _send(self, path: str, told: Callable[[int], None]) -> None:
        """Send a file into an empty one that is made for it, and end both ends."""
        image = await self.source.image(path, "raw")
        await self.target.create_image(replace(image, path=path), self.owner)
        port, name = await self.target.free_port(), self.name(path)
        pair = await self.authority.pair(name, self.target.name, self.address) if self.authority else None
        # Cut off, it would go on to begin on its host, after what is there was ended.
        await whole(self.target.take_file(path, name, self.address, port, image.virtual_size, pair=pair))
        host = f"[{self.address}]" if ":" in self.address else self.address
        url, size = f"nbd://{host}:{port}/{name}", image.virtual_size
        sending = asyncio.ensure_future(self.source.send_file(path, name, url, size=size, speed=self.speed, pair=pair))
        try:
            await self._watched(sending, path, told)
        finally:
            sending.cancel()
            await asyncio.wait([sending])
        await self.end(path)

    async def _watched(self, sending: asyncio.Future[None], path: str, told: Callable[[int], None]) -> None:
        """Wait for a file, and tell how far it is. Raises what sending raises, and HostError."""
        seen, last = -1, self.clock.now()
        while not await self._ended(sending):
            done = await self.target.used(path)
            told(done)
            if done != seen:
                seen, last = done, self.clock.now()
            elif self.clock.now() - last > STALLED:
                message = f"not a byte of {path} has reached {self.target.name} for {STALLED:.0f} s"
                remedy = f"see whether {self.source.name} reaches {self.target.name} on the migration network"
                raise HostError(message, remedy=remedy)
        sending.result()

    async def _ended(self, sending: asyncio.Future[None]) -> bool:
        """Wait until it ends, LOOK seconds at most; say whether it has."""
        pause = asyncio.ensure_future(self.clock.sleep(LOOK))
        try:
            await asyncio.wait([sending, pause], return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
        return sending.done()

    async def _compare(self, path: str, here: str) -> None:
        """Read the copy whole. Raises HostError where it differs."""
        there = await self.target.digest(path, all_of_it=True)
        if here != there:
            message = (
                f"{path} on {self.target.name} is not what it is on {self.source.name} ({here} here, {there} there)"
            )
            raise HostError(message, remedy="it was written meanwhile, or damaged: see who has it open, and try again")

    async def _undone(self, path: str) -> None:
        """Let nobody send or take, and remove what was made; a silent host keeps it, marked, and ends by itself.

        The sender first: then nobody writes into the copy any more. Whoever had it carried removes the keys in any
        case, and names those that may be left.
        """
        for host in (self.source, self.target):
            try:
                await host.end_transfer(self.name(path))
            except GodwitError as error:
                self.left(f"a transfer of {path} may go on for a while on {host.name}: {error.message}")
        try:
            await self.target.remove_image(path, self.owner)
        except GodwitError as error:
            self.left(f"{path} may be left on {self.target.name}, half copied: {error.message}")


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
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
        await to_its_end(_outcome(task))
        raise


async def _outcome(task: asyncio.Future[T]) -> T:
    return await task
