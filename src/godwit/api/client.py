"""The library: what the command line does, for programs.

    async with godwit.connect() as g:
        outcome = await g.migrate("web1", "host2")
        print(outcome.downtime.client_gap_ms)

A migration is carried by a process of its own: it goes on whatever becomes of the program that asked for it. What is
awaited here only follows it, except that cancelling the task that awaits `Godwit.migrate` cancels the migration.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from godwit.checks import Checks
from godwit.core.saves import Compression, Step
from godwit.errors import (
    DisksUnverifiedError,
    GodwitError,
    GuestCrashedError,
    InputError,
    LimboError,
    MigrationCancelledError,
    MigrationFailedError,
    RefusedError,
    error_of_code,
)
from godwit.forecasts import Forecasts
from godwit.model import HostRecord, Outcome, OutcomeStatus, Policy, ProbeRequest
from godwit.saves import Saves
from godwit.snapshots import Snapshots

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from godwit.checks import Accelerator
    from godwit.core.differences import Aspect
    from godwit.core.learning import Accuracy
    from godwit.core.preflight.matrix import Matrix
    from godwit.core.saves import Job
    from godwit.core.snapshots import Snapshot
    from godwit.engine.sending import Told
    from godwit.model import Baseline, Finding, Forecast, GuestView, HostFacts, MoveRecord, Profile, Vm
    from godwit.ports import Entry, MigrationRow
    from godwit.service import Service, Status
    from godwit.snapshots import Made, Sent

__all__ = ["Godwit", "Migration", "connect", "error_of", "error_of_job"]

_ERRORS: Final[dict[OutcomeStatus, type[GodwitError]]] = {
    OutcomeStatus.FAILED: MigrationFailedError,
    OutcomeStatus.CANCELLED: MigrationCancelledError,
    OutcomeStatus.REFUSED: RefusedError,
    OutcomeStatus.LIMBO: LimboError,
    OutcomeStatus.GUEST_CRASHED: GuestCrashedError,
    OutcomeStatus.UNVERIFIED: DisksUnverifiedError,
}


def error_of(outcome: Outcome) -> GodwitError | None:
    """Return the error that a migration's end amounts to, or None for one that completed."""
    kind = _ERRORS.get(outcome.status)
    if kind is None:
        return None
    plainly = {OutcomeStatus.CANCELLED: f"the migration was cancelled; {outcome.vm} runs on, on {outcome.source}"}
    message = outcome.error or plainly.get(outcome.status, f"the migration of {outcome.vm} ended: {outcome.status}")
    return kind(message, remedy=outcome.remedy)


def error_of_job(job: Job) -> GodwitError | None:
    """Return the error that the end of a save or restore amounts to, or None where it is done."""
    return None if job.step is Step.DONE else error_of_code(job.code, job.error, job.remedy)


@asynccontextmanager
async def connect(home: Path | None = None) -> AsyncIterator[Godwit]:
    """Open Godwit's journal and inventory in the folder `home`; by default where the command line has them.

    Migrations whose runners died with their machine are taken up again. Raises JournalError.
    """
    from godwit import app  # noqa: PLC0415 - the composition root is above everything

    async with app.opened() if home is None else app.opened(home) as service:
        await service.take_up()
        yield Godwit(service)


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration, running or ended. It does not depend on this object."""

    service: Service
    id: str

    async def events(self) -> AsyncIterator[Entry]:
        """Yield the lines of its journal from the first on, until it has ended."""
        async for entry in self.service.follow(self.id):
            yield entry

    async def status(self) -> Status:
        """Say where it stands now."""
        return await self.service.status(self.id)

    async def cancel(self) -> None:
        """Ask for the guest to stay where it is; `outcome` says whether it was still possible."""
        await self.service.cancel(self.id)

    async def outcome(self) -> Outcome:
        """Wait for the end and return how it ended, whatever that is."""
        return await self.service.outcome(self.id)


@dataclass(frozen=True, slots=True)
class Godwit:
    """Everything that Godwit can be asked to do. Made by `connect`; every method may raise JournalError."""

    service: Service

    # -- migrations ------------------------------------------------------------------------------------------------

    async def migrate(
        self,
        vm: str,
        host: str,
        *,
        policy: Policy | None = None,
        probe: ProbeRequest | str | None = None,
        on_progress: Callable[[Entry], None] | None = None,
    ) -> Outcome:
        """Move the guest `vm` to `host` and return what it cost.

        `policy` limits downtime, time and bandwidth; `probe` is what an outside client asks meanwhile, for example
        "198.51.100.7" or "redis://198.51.100.7:6379". `on_progress` is called with each line of the journal.

        If the awaiting task is cancelled, the migration is cancelled, too; CancelledError is raised when the guest is
        back on its source, or when it turned out to be too late and the move is complete.

        Raises InputError, BusyError, and for a migration that does not complete RefusedError, MigrationFailedError,
        MigrationCancelledError, LimboError or GuestCrashedError.
        """
        return await _carried(await self.start(vm, host, policy=policy, probe=probe), on_progress)

    async def start(
        self,
        vm: str,
        host: str,
        *,
        policy: Policy | None = None,
        probe: ProbeRequest | str | None = None,
    ) -> Migration:
        """Ask for a migration and return at once; see `migrate`. Raises InputError, BusyError."""
        request = ProbeRequest(probe) if isinstance(probe, str) else probe
        return Migration(self.service, await self.service.migrate(vm, host, policy, request))

    async def upgrade(
        self,
        vm: str,
        qemu: str = "",
        *,
        policy: Policy | None = None,
        probe: ProbeRequest | str | None = None,
        on_progress: Callable[[Entry], None] | None = None,
    ) -> Outcome:
        """Replace the QEMU of the guest `vm` on its host by the program `qemu`, or by what its own one is now.

        Cancelling the awaiting task takes it back while that is possible. Raises what `migrate` raises.
        """
        request = ProbeRequest(probe) if isinstance(probe, str) else probe
        migration = Migration(self.service, await self.service.upgrade(vm, qemu, policy, request))
        return await _carried(migration, on_progress)

    async def check_upgrade(self, vm: str, qemu: str = "") -> tuple[Finding, ...]:
        """Say what `upgrade` would find, changing nothing. Raises InputError, HostError, HypervisorError."""
        return await self.service.dry_run_upgrade(vm, qemu)

    async def check(
        self, vm: str, host: str, *, policy: Policy | None = None, measure: bool = False
    ) -> tuple[Finding, ...]:
        """Say what preflight finds, changing nothing; `measure` sends a burst of about a second over the link.

        Raises InputError, HostError, HypervisorError.
        """
        return await self.service.dry_run(vm, host, policy, measure=measure)

    async def mend(self, finding: Finding) -> str:
        """Run the command that mends a finding, if it is a safe one; returns what went wrong, empty where nothing did.

        Raises InputError where there is none, or it is not safe; HostError.
        """
        if finding.command is None:
            message = f"no command mends {finding.code}"
            raise InputError(message, remedy=finding.mend)
        return await self.service.mend(finding.command)

    async def check_all(
        self, hosts: Sequence[str] = (), *, sources: Sequence[str] = (), policy: Policy | None = None
    ) -> Matrix:
        """Say what preflight finds of every guest against each of `hosts`, or against all of them.

        `sources` are the hosts whose guests are looked at, all without it. A host that does not answer is named in the
        result, and raises nothing. Raises UnknownHostError, and InputError where there is no guest.
        """
        return await Checks(self.service).matrix(hosts, sources=sources, policy=policy)

    async def compare_hosts(self, here: str, there: str) -> tuple[Aspect, ...]:
        """Say what differs between two hosts that matters to guests, what differs first. Raises HostError."""
        return await Checks(self.service).compare(here, there)

    async def cpu_baseline(self, hosts: Sequence[str], accelerator: Accelerator | None = None) -> Baseline:
        """Return the largest CPU that guests can have on all of the hosts. Raises HostError, InputError."""
        return await Checks(self.service).baseline(hosts, accelerator)

    async def profile(self, vm: str, *, sample: bool = True) -> Profile:
        """Measure how a running guest changes its memory; see `godwit.core.dirtying.curve_of` for what that says.

        With `sample` some pages of its memory are looked at, too. Raises InputError for a guest that does not run,
        HypervisorError, HostError.
        """
        return await Forecasts(self.service).profile(vm, sample=sample)

    async def forecast(
        self, vm: str, host: str, policy: Policy | None = None, *, link: float | None = None, anew: bool | None = None
    ) -> Forecast:
        """Say what a live move would cost; see `godwit.forecasts`.

        `link` is what the link between the hosts carries, in bytes a second, where no move has shown it yet; `anew`
        says whether the guest is profiled first, None means where nothing is known of it lately. Raises InputError
        where the guest's writes or the link are not known at all, HypervisorError, HostError.
        """
        return await Forecasts(self.service).forecast(vm, host, policy, link=link, anew=anew)

    async def forecast_record(self) -> tuple[list[MoveRecord], Accuracy]:
        """Return the moves that are remembered, the newest first, and how well they went as forecast."""
        return await Forecasts(self.service).record()

    def migration(self, identifier: str) -> Migration:
        """Return the handle of a migration that was asked for earlier."""
        return Migration(self.service, identifier)

    async def status(self, identifier: str) -> Status:
        """Say where a migration stands. Raises UnknownMigrationError."""
        return await self.service.status(identifier)

    async def history(self, *, limit: int = 50) -> list[MigrationRow]:
        """List migrations, the newest first."""
        return await self.service.journal.rows(limit=limit)

    # -- saving and restoring --------------------------------------------------------------------------------------

    async def save(
        self,
        vm: str,
        path: str,
        *,
        compress: Compression | str | None = None,
        on_progress: Callable[[Job], None] | None = None,
    ) -> Job:
        """Stop the guest `vm`, write it to the file `path` on its host, and end its QEMU; returns what it took.

        `compress` is a program of the host, "zstd" or "gzip". `on_progress` is called whenever the job has changed. If
        the awaiting task is cancelled the save is, too, and CancelledError is raised when the guest runs on; or it was
        too late for that.

        Raises InputError, BusyError, and for what does not come to its end RefusedError, HostError, HypervisorError,
        SaveFailedError, SaveCancelledError or GuestCrashedError.
        """
        compression = None if compress is None else Compression(compress)
        return await self._job(await Saves(self.service).save(vm, path, compression), on_progress)

    async def restore(
        self, path: str, host: str, *, verify: bool = True, on_progress: Callable[[Job], None] | None = None
    ) -> Job:
        """Let the guest that was saved to `path`, as `host` sees it, go on there; see `save`.

        `verify` reads all of the file first. Raises SaveFileError for a file that is damaged, or whose guest's disks
        are others by now, besides what `save` raises.
        """
        return await self._job(await Saves(self.service).restore(path, host, verify=verify), on_progress)

    async def _job(self, identifier: str, on_progress: Callable[[Job], None] | None) -> Job:
        following = asyncio.create_task(_follow_job(self.service, identifier, on_progress))
        try:
            job = await asyncio.shield(following)
        except asyncio.CancelledError:
            await _settle(asyncio.create_task(_take_job_back(self.service, identifier, following)))
            raise
        error = error_of_job(job)
        if error is not None:
            raise error
        return job

    # -- snapshots -------------------------------------------------------------------------------------------------

    async def snapshots(self, vm: str) -> tuple[Snapshot, ...]:
        """List the snapshots inside a guest's images, the oldest first. Raises HostError, HypervisorError."""
        return await Snapshots(self.service).list(vm)

    async def create_snapshot(self, vm: str, tag: str) -> Made:
        """Keep memory, devices and disks of a guest at one instant; it stands still meanwhile.

        Raises RefusedError, InputError, BusyError, HypervisorError; the guest goes on as before.
        """
        return await Snapshots(self.service).create(vm, tag)

    async def apply_snapshot(self, vm: str, tag: str) -> Made:
        """Take a guest back to a snapshot: everything since is lost. Raises UnknownSnapshotError, RefusedError."""
        return await Snapshots(self.service).apply(vm, tag)

    async def delete_snapshot(self, vm: str, tag: str) -> Snapshot:
        """Remove a snapshot from a guest's images. Raises UnknownSnapshotError, HypervisorError."""
        return await Snapshots(self.service).delete(vm, tag)

    async def send_snapshot(
        self, vm: str, tag: str, host: str, *, on_progress: Callable[[Told], None] | None = None
    ) -> Sent:
        """Stop a guest, carry its images with a snapshot to `host`, and let it go on there.

        The snapshot is made if there is none of that name; what a guest did after an older one is lost. Cancelling the
        awaiting task takes the guest back until it was told to run there. Raises RefusedError, BusyError,
        MigrationFailedError, MigrationCancelledError, LimboError, GuestCrashedError.
        """
        return await Snapshots(self.service).send(vm, tag, host, on_progress or _nobody)

    # -- hosts -----------------------------------------------------------------------------------------------------

    async def hosts(self) -> list[HostRecord]:
        """List the registered hosts by name."""
        return await self.service.inventory.hosts()

    async def add_host(self, record: HostRecord) -> HostFacts:
        """Reach a host, look at it, and keep it. Raises HostError, InputError."""
        return await self.service.add_host(record)

    async def check_host(self, name: str) -> HostFacts:
        """Look at a host now. Raises UnknownHostError, HostError."""
        return await self.service.check_host(name)

    async def remove_host(self, name: str) -> None:
        """Forget a host that no guest is on. Raises BusyError, UnknownHostError."""
        await self.service.remove_host(name)

    # -- guests ----------------------------------------------------------------------------------------------------

    async def vms(self) -> list[Vm]:
        """List the guests that Godwit knows, by name."""
        return await self.service.inventory.vms()

    async def vm(self, name: str) -> Vm:
        """Return one guest. Raises UnknownVmError."""
        return await self.service.inventory.vm(name)

    async def view(self, vm: Vm, *, host: str | None = None) -> GuestView:
        """Say what a guest does now, on its own host or on another; a silent host is a view, too."""
        return await self.service.view_vm(vm if host is None else replace(vm, host=host))

    async def define_vm(self, definition: str | Path, host: str) -> Vm:
        """Keep the guest that a TOML text or file describes, to run on `host`. Raises InvalidDefinitionError."""
        if isinstance(definition, Path):
            text = await asyncio.to_thread(_definition, definition)
            return await self.service.define_vm(text, str(definition), host)
        return await self.service.define_vm(definition, "definition", host)

    async def adopt_vm(self, host: str, socket: str, *, name: str | None = None, address: str | None = None) -> Vm:
        """Take over a QEMU whose QMP socket on `host` is `socket`. Raises HypervisorError, HostError, InputError."""
        return await self.service.adopt_vm(host, socket, name, address)

    async def start_vm(self, name: str) -> Vm:
        """Start a guest. Raises InputError if it runs already, QemuDiedError."""
        return await self.service.start_vm(name)

    async def stop_vm(self, name: str, *, force: bool = False) -> None:
        """Press the guest's power button and wait, or end it at once if `force`. Raises BusyError, HostError."""
        await self.service.stop_vm(name, force=force)

    async def remove_vm(self, name: str) -> None:
        """Forget a guest that does not run, or let an adopted one go. Raises BusyError."""
        await self.service.remove_vm(name)


def _nobody(_: Told) -> None:
    """Tell nobody."""


async def _carried(migration: Migration, on_progress: Callable[[Entry], None] | None) -> Outcome:
    """Follow a migration to its end; if the awaiting task is cancelled, so is the migration."""
    following = asyncio.create_task(_follow(migration, on_progress))
    try:
        outcome = await asyncio.shield(following)
    except asyncio.CancelledError:
        await _settle(asyncio.create_task(_take_back(migration, following)))
        raise
    error = error_of(outcome)
    if error is not None:
        raise error
    return outcome


async def _follow(migration: Migration, on_progress: Callable[[Entry], None] | None) -> Outcome:
    async for entry in migration.events():
        if on_progress is not None:
            on_progress(entry)
    return await migration.outcome()


async def _follow_job(service: Service, identifier: str, on_progress: Callable[[Job], None] | None) -> Job:
    async for job in Saves(service).follow(identifier):
        if on_progress is not None:
            on_progress(job)
    return await service.journal.jobs.load(identifier)


async def _take_job_back(service: Service, identifier: str, following: asyncio.Task[Job]) -> None:
    await Saves(service).cancel(identifier)
    await asyncio.wait([following])


async def _take_back(migration: Migration, following: asyncio.Task[Outcome]) -> None:
    await migration.cancel()
    await asyncio.wait([following])


async def _settle(task: asyncio.Task[None]) -> None:
    """Wait for the end of a task, however often the waiting is cancelled meanwhile; its errors are raised."""
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                return
    task.result()


def _definition(path: Path) -> str:
    from godwit.localfiles import read_text  # noqa: PLC0415 - rarely needed

    return read_text(path, "the definition of a guest")
