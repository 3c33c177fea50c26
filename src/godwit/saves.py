"""The use cases of saves and restores: a guest is written to a file on its host, and brought back from it.

As with migrations nothing is driven from here: a job is written to the journal, and a runner is started for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from godwit.core.savefile import decode_header
from godwit.core.saves import Job, Step, Work, checked_path
from godwit.engine.jobs import Desk
from godwit.errors import GodwitError
from godwit.identifiers import new_job_identifier
from godwit.service import FOLLOW_PERIOD, ORPHAN_PATIENCE, checked_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from godwit.core.saves import Compression
    from godwit.service import Service


@dataclass(frozen=True, slots=True)
class Saves:
    """Saves and restores guests."""

    service: Service

    async def save(self, vm: str, path: str, compression: Compression | None = None, *, identifier: str = "") -> str:
        """Ask for a guest to be saved to a file on its host and return the job's identifier; see `Service.migrate`.

        Where an earlier save of the guest was killed, it is taken back first; one to the same file that can still be
        finished is. Raises InputError, BusyError.
        """
        guest = await self.service.inventory.vm(vm)
        path = checked_path(path)
        former = await self._await_former(vm)
        if former is not None and (former.work, former.step, former.path) == (Work.SAVE, Step.DONE, path):
            return former.id
        name = identifier or new_job_identifier(vm, Work.SAVE)
        return await self._begin(Job(name, Work.SAVE, vm, guest.host, path, self.service.clock.now(), compression))

    async def restore(self, path: str, host: str, *, verify: bool = True) -> str:
        """Ask for a guest to be brought back from a file, as `host` sees it, and return the job's identifier.

        `verify` reads all of the file first. Raises InputError, BusyError, HostError, SaveFileError.
        """
        path = checked_path(path)
        opened = self.service.open_host(await self.service.inventory.host(host))
        try:
            await opened.connect()
            length, head = await opened.saves.head(path)
        finally:
            await opened.close()
        vm = checked_name(decode_header(head, length, path).vm.name, "guest")
        await self._await_former(vm)
        name = new_job_identifier(vm, Work.RESTORE)
        return await self._begin(Job(name, Work.RESTORE, vm, host, path, self.service.clock.now(), verify=verify))

    async def _begin(self, job: Job) -> str:
        await self.service.refuse_sending(job.vm)
        await self.service.journal.jobs.create(job)
        self.service.runners.start(job.id, job.vm)
        return job.id

    async def _await_former(self, vm: str) -> Job | None:
        """Wait for the end of a job whose process was killed, and return it; one that is at work is left alone."""
        mine = [job for job in await self.service.journal.jobs.rows(unfinished=True, limit=1000) if job.vm == vm]
        if not mine:
            return None
        job = mine[0]
        while not self.service.runners.alive(vm) and not self.service.orphaned(job):
            await self.service.clock.sleep(FOLLOW_PERIOD)  # its runner may just be starting
        if not self.service.runners.alive(vm):
            self.service.runners.start(job.id, vm)
        elif not await self.service.journal.jobs.taken_over(job.id):
            return None
        async for _ in self.follow(job.id):
            pass
        return await self.service.journal.jobs.load(job.id)

    async def desk(self, identifier: str) -> Desk:
        """Put together what a job is done with, for its runner."""
        epoch, job = await self.service.journal.jobs.take_over(identifier)
        return Desk(
            self.service.journal.jobs, self.service.inventory, self.service.clock, self.service.open_host, job, epoch
        )

    async def follow(self, identifier: str) -> AsyncIterator[Job]:
        """Yield a save or restore whenever it has changed, the last time when it has ended.

        Raises GodwitError when nobody works on it any more.
        """
        seen: Job | None = None
        silent_since: float | None = None
        while True:
            job = await self.service.journal.jobs.load(identifier)
            if job != seen:
                seen = job
                yield job
            if job.finished:
                return
            now = self.service.clock.now()
            silent_since = None if self.service.runners.alive(job.vm) else silent_since or now
            if silent_since is not None and now - silent_since > ORPHAN_PATIENCE:
                message = f"nobody works on {identifier} any more: its runner died and was not started anew"
                remedy = f"see log/{identifier}.log in Godwit's folder; godwit vm list takes it up again"
                raise GodwitError(message, remedy=remedy)
            await self.service.clock.sleep(FOLLOW_PERIOD)

    async def cancel(self, identifier: str) -> None:
        """Ask for a save or restore to be taken back; it may be too late. Raises UnknownMigrationError."""
        await self.service.journal.jobs.request_cancel(identifier)
