"""What saving and restoring share: the record of a job, hosts, and a stream that is followed to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from godwit.core.saves import READERS, Step, Work
from godwit.engine.fencing import EpochFence
from godwit.errors import (
    GodwitError,
    HostUnreachableError,
    JournalError,
    MonitorLostError,
    SaveCancelledError,
    SaveFailedError,
    SupersededError,
)
from godwit.model import GuestView, RunState, StreamStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from godwit.core.saves import Job
    from godwit.model import HostRecord, Vm
    from godwit.ports import Clock, Guest, GuestEvent, Host, Inventory, JobBook

OpenHost = Callable[["HostRecord"], "Host"]

PERIOD: Final = 0.2
"""Seconds between looks at a stream, and at whether somebody wants to go back."""

PATIENCE: Final = 30.0
"""Seconds within which a guest must do what it is told."""

POLL: Final = 0.05
_LIVE: Final = frozenset(
    {StreamStatus.SETUP, StreamStatus.ACTIVE, StreamStatus.HELD, StreamStatus.SWITCHOVER, StreamStatus.OTHER}
)
_ENDS: Final = {
    "completed": StreamStatus.COMPLETED,
    "failed": StreamStatus.FAILED,
    "cancelled": StreamStatus.CANCELLED,
}


@dataclass(slots=True)
class Desk:
    """One job, its record, and what is needed to do it. `wanted_back` says that somebody asked to go back."""

    book: JobBook
    inventory: Inventory
    clock: Clock
    open_host: OpenHost
    job: Job
    epoch: int
    wanted_back: bool = False
    _hosts: dict[str, Host] = field(default_factory=dict)
    _written: float = 0.0

    async def host(self, name: str) -> Host:
        """Return a host, connected; one connection for the whole job."""
        if name not in self._hosts:
            self._hosts[name] = self.open_host(await self.inventory.host(name))
            self._hosts[name].guard(EpochFence(self.book, self.job.id, self.epoch, name))
            await self._hosts[name].connect()
        return self._hosts[name]

    async def close(self) -> None:
        """Let go of all hosts."""
        for host in self._hosts.values():
            await host.close()
        self._hosts.clear()

    async def step(self, step: Step, **changes: Any) -> None:  # noqa: ANN401 - fields of the job
        """Write the next step down, on disk, before anything of it is done."""
        self.job = replace(self.job, **changes).at(step, self.clock.now())
        await self.book.write(self.job, self.epoch, durable=True)

    async def note(self, text: str) -> None:
        """Keep something that the user should know."""
        self.job = replace(self.job, notes=(*self.job.notes, text))
        await self._tell()

    async def progress(self, done: int, total: int) -> None:
        """Say how far the step is, a few times a second at most."""
        self.job = replace(self.job, done=done, total=total)
        now = self.clock.now()
        if done >= total or now - self._written >= PERIOD:
            self._written = now
            await self._tell()

    async def _tell(self) -> None:
        """Write what nobody acts upon; a journal that cannot take it now takes it with the next step."""
        try:
            await self.book.write(self.job, self.epoch, durable=False)
        except SupersededError:
            raise
        except JournalError:
            self._written = self.clock.now()

    async def check_wish(self) -> None:
        """Raise SaveCancelledError if somebody asked to go back."""
        if not self.wanted_back:
            self.wanted_back = await self.book.cancel_requested(self.job.id)
        if self.wanted_back:
            message = f"the {self.job.work} was cancelled"
            raise SaveCancelledError(message)

    async def end(self, error: GodwitError | None = None) -> None:
        """Write down how it ended."""
        if error is None:
            await self.step(Step.DONE)
            return
        self.keep(error)
        await self.step(Step.CANCELLED if self.job.cancelled else Step.FAILED)

    def keep(self, error: GodwitError) -> None:
        """Let the record say what went wrong."""
        back = isinstance(error, SaveCancelledError)
        self.job = replace(self.job, cancelled=back, code=error.code, error=error.message, remedy=error.remedy)

    # -- looking at guests -------------------------------------------------------------------------------------------

    async def look(self, host: Host, vm: Vm) -> GuestView:
        """Say what the guest does on a host; waits for one that is silent. Raises HostUnreachableError."""
        end = self.clock.now() + PATIENCE
        while (view := await host.observe(vm)).state is RunState.UNREACHABLE:
            if self.clock.now() >= end:
                message = f"{host.name} does not say what {vm.name} does: {view.detail}"
                raise HostUnreachableError(message, remedy="mend that; any godwit command goes on with this then")
            await self.clock.sleep(1.0)
        return view

    async def wait_for(self, guest: Guest, good: Callable[[GuestView], bool], words: str) -> GuestView:
        """Return the guest's view once it is good. Raises SaveFailedError when it is not within PATIENCE."""
        end = self.clock.now() + PATIENCE
        while not good(view := await guest.view()):
            if self.clock.now() >= end:
                message = f"{words}: it is {view.raw} still, after {PATIENCE:g} s {view.detail}".rstrip()
                raise SaveFailedError(message)
            await self.clock.sleep(POLL)
        return view

    async def end_stream(self, guest: Guest) -> GuestView:
        """See to it that no stream is under way; returns what the guest does then."""
        view = await guest.view()
        if view.stream not in _LIVE:
            return view
        await guest.cancel_migration()
        return await self.wait_for(guest, lambda view: view.stream not in _LIVE, "the stream does not end")

    async def run_guest(self, guest: Guest) -> None:
        """Tell the guest to run until it does. Raises SaveFailedError when it does not within PATIENCE."""
        await guest.resume()
        await self.wait_for(guest, lambda view: view.state is RunState.RUNNING, "the guest was told to run")

    async def chunk_sums(self, host: Host, number: int) -> AsyncIterator[tuple[int, str]]:
        """Yield the checksums of the file's chunks in order, a few of them being made at a time."""
        making: list[asyncio.Task[str]] = []
        try:
            for chunk in range(number):
                ahead = range(chunk + len(making), min(number, chunk + READERS))
                making += [asyncio.create_task(host.saves.chunk_sum(self.job.path, one)) for one in ahead]
                await self.progress(chunk, number)
                yield chunk, await making.pop(0)
            await self.progress(number, number)
        finally:
            for task in making:
                task.cancel()

    async def follow(self, guest: Guest, events: AsyncIterator[GuestEvent]) -> tuple[StreamStatus, str]:
        """Follow a stream to its end, which `events` tells; returns how it ended, and QEMU's words.

        Raises SaveCancelledError when somebody asks to go back, MonitorLostError where QEMU falls silent on the way.
        """
        ending = asyncio.ensure_future(_end_of(events))
        try:
            while not ending.done():
                pause = asyncio.ensure_future(self.clock.sleep(PERIOD))
                await asyncio.wait([ending, pause], return_when=asyncio.FIRST_COMPLETED)
                pause.cancel()
                if not ending.done():
                    await self.check_wish()
                    sample = await guest.sample()
                    if sample is not None and sample.total:
                        await self.progress(sample.total - sample.remaining, sample.total)
            status = ending.result()
        finally:
            ending.cancel()
        if status is StreamStatus.COMPLETED:
            return status, ""
        try:
            view = await guest.view()
        except MonitorLostError:
            return StreamStatus.FAILED, "its QEMU ended"
        return (view.stream if status is None else status), view.detail


async def _end_of(events: AsyncIterator[GuestEvent]) -> StreamStatus | None:
    """Return how the stream ended; None where the connection did."""
    async for event in events:
        if event.kind == "MIGRATION" and event.status in _ENDS:
            return _ENDS[event.status]
    return None


async def carry(desk: Desk) -> None:
    """Do a job from where its record says it stands to its end. Raises what keeps the next step from being known."""
    from godwit.engine.restoring import Restoring  # noqa: PLC0415 - they stand on this file
    from godwit.engine.saving import Saving  # noqa: PLC0415 - as above

    try:
        await (Saving(desk) if desk.job.work is Work.SAVE else Restoring(desk)).run()
    finally:
        await desk.close()
