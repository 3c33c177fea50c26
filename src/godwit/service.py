"""The use cases. Command line, library and server are thin skins over this.

A migration is never driven from here: it is written to the journal, a runner process is started for it, and whoever
wants to know follows the journal.
"""

from __future__ import annotations

import asyncio
import functools
import getpass
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from godwit.core.preflight import check, check_upgrade
from godwit.core.state import Phase
from godwit.core.trust import encrypts
from godwit.engine.gather import gather
from godwit.engine.parts import Parts
from godwit.engine.powering import ask_to_switch_off, switch_off
from godwit.errors import BusyError, GodwitError, InputError, InvalidNameError, UnknownVmError
from godwit.identifiers import is_name, new_identifier
from godwit.model import (
    GuestView,
    HostRecord,
    LinkSaid,
    Outcome,
    OutcomeStatus,
    Policy,
    ProbeRequest,
    RunState,
    Side,
    Spec,
    Upgrade,
    Way,
)
from godwit.plaintext import shortened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from godwit.core.saves import Job
    from godwit.core.sending import SendRecord
    from godwit.core.state import State
    from godwit.model import Command, Finding, HostFacts, Vm
    from godwit.ports import (
        Authority,
        Clock,
        Entry,
        Fencer,
        Guest,
        Hooks,
        Host,
        Hypervisor,
        Inventory,
        Journal,
        MigrationRow,
        RunnerLife,
        Runners,
        Watcher,
    )

FOLLOW_PERIOD: Final = 0.1
"""Seconds between looks into the journal while following a migration."""

STARTING: Final = 5.0
"""Seconds that a runner may take from its migration's record until it holds the guest's lock."""

ORPHAN_PATIENCE: Final = 15.0
"""Seconds without a runner after which nobody is expected to take a save or restore up by itself."""

_POWERDOWN_DEADLINE: Final = 60.0
_ON_THE_PATH: Final = 'PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"; export PATH; '
_SHOWN: Final = 300


def checked_name(name: str, what: str) -> str:
    """Return a valid name. Raises InvalidNameError with the rule."""
    if not is_name(name):
        message = f"{name[:80]!r} cannot be the name of a {what}"
        raise InvalidNameError(
            message, remedy="use at most 64 letters, digits, _ . - and begin with a letter or digit; no '..'"
        )
    return name


def has_ended(row: MigrationRow, state: State) -> bool:
    """Say whether a migration has come to an end, for now in LIMBO, and its outcome is the one of that end.

    One that was in LIMBO and has ended since has the outcome of then until the new one is written.
    """
    limbo = row.outcome is not None and row.outcome.status is OutcomeStatus.LIMBO
    return row.outcome is not None and (state.phase is Phase.LIMBO if limbo else state.finished)


@dataclass(frozen=True, slots=True)
class Status:
    """Where a migration stands: its row, its state, and whether a runner works on it."""

    row: MigrationRow
    state: State
    runner_alive: bool


@dataclass(frozen=True, slots=True)
class Service:
    """Everything that Godwit can be asked to do."""

    journal: Journal
    inventory: Inventory
    hypervisor: Hypervisor
    runners: Runners
    watcher: Watcher
    clock: Clock
    open_host: Callable[[HostRecord], Host]
    authority: Authority
    fencer: Fencer | None = None
    life: RunnerLife | None = None
    hooks: Hooks | None = None

    # -- hosts -----------------------------------------------------------------------------------------------------

    async def add_host(self, record: HostRecord) -> HostFacts:
        """Reach a host, look at it, and keep it. Raises HostError, InputError."""
        checked_name(record.name, "host")
        known = {one.name: one for one in await self.inventory.hosts()}.get(record.name)
        if known is not None:  # what cuts its power, and its pools, are said apart
            record = replace(record, fence=known.fence, fence_automatic=known.fence_automatic, pools=known.pools)
        if known is not None and known != record:
            message = f"there is a host {record.name} already: {known.url}"
            raise InputError(message, remedy=f"godwit host remove {record.name}, or choose another name")
        facts = await self._facts(record)
        await self.inventory.put_host(record)
        return facts

    async def check_host(self, name: str) -> HostFacts:
        """Look at a host now. Raises UnknownHostError, HostError."""
        return await self._facts(await self.inventory.host(name))

    async def _facts(self, record: HostRecord) -> HostFacts:
        async with self.reached(record) as host:
            return await host.facts()

    async def remove_host(self, name: str) -> None:
        """Forget a host that no guest is on. Raises BusyError, UnknownHostError."""
        guests = [vm.name for vm in await self.inventory.vms() if vm.host == name]
        for row in await self.journal.rows(unfinished=True, limit=1000):
            if name in {row.spec.source, row.spec.target}:
                message = f"{name} takes part in migration {row.spec.id} ({row.phase})"
                raise BusyError(message, remedy=f"godwit status {row.spec.id}")
        for record in await self.inventory.sends():
            if name in {record.source, record.target}:
                raise self.being_sent(record)
        if guests:
            message = f"{name} still has guests: {', '.join(guests)}"
            raise BusyError(message, remedy="move them away, or forget them with godwit vm remove")
        await self.inventory.remove_host(name)

    @asynccontextmanager
    async def reached(self, host: str | HostRecord) -> AsyncIterator[Host]:
        """Reach a host, and let go of it at the end. Raises UnknownHostError, HostError."""
        opened = self.open_host(await self.inventory.host(host) if isinstance(host, str) else host)
        try:
            await opened.connect()
            yield opened
        finally:
            await opened.close()

    # -- guests ----------------------------------------------------------------------------------------------------

    async def define_vm(self, text: str, origin: str, host: str) -> Vm:
        """Keep the guest that a definition file describes, to run on `host`. Raises InvalidDefinitionError."""
        facts = await self.check_host(host)
        vm = replace(self.hypervisor.define(text, origin, facts), host=host)
        await self._refuse_known(vm.name)
        await self.inventory.put_vm(vm)
        return vm

    async def adopt_vm(self, host: str, socket: str, name: str | None = None, address: str | None = None) -> Vm:
        """Take over a QEMU that somebody else started. Raises HypervisorError, HostError, InputError."""
        if name is not None:
            checked_name(name, "guest")
        record = await self.inventory.host(host)
        opened = self.open_host(record)
        try:
            await opened.connect()
            vm = replace(await self.hypervisor.adopt(opened, socket, name), host=host, address=address)
        finally:
            await opened.close()
        checked_name(vm.name, "guest")
        await self._refuse_known(vm.name)
        await self.inventory.put_vm(vm)
        return vm

    async def _refuse_known(self, name: str) -> None:
        try:
            known = await self.inventory.vm(name)
        except UnknownVmError:
            return
        message = f"there is a guest {name} already, on {known.host}"
        raise InputError(message, remedy=f"godwit vm remove {name}, or choose another name")

    async def start_vm(self, name: str) -> Vm:
        """Start a guest's QEMU. Raises InputError if it runs already, QemuDiedError with QEMU's own words."""
        vm = await self.inventory.vm(name)
        await self.refuse_migrating(name)
        async with self.reached(vm.host) as host:
            view = await host.observe(vm)
            if view.state is not RunState.ABSENT:
                message = f"{name} is {view.state} on {vm.host} already {view.detail}".strip()
                raise InputError(message, remedy=f"godwit vm show {name}")
            await host.prepare_launch(vm, vm.launch)
            await host.launch(vm, vm.launch)
        return vm

    async def stop_vm(self, name: str, *, force: bool = False) -> None:
        """Let the guest switch itself off, or end its QEMU at once if `force`. Raises BusyError, HostError."""
        vm = await self.inventory.vm(name)
        await self.refuse_migrating(name)
        async with self.reached(vm.host) as host:
            if not force and (await host.observe(vm)).state is RunState.RUNNING:
                await self._switch_off(host, vm)
            await host.destroy(vm)

    async def _switch_off(self, host: Host, vm: Vm) -> None:
        async def ask(agent: bool) -> bool:  # noqa: FBT001 - the shape that switch_off calls
            guest = await host.attach(vm)
            try:
                return bool(await ask_to_switch_off(guest, agent=agent))
            finally:
                await guest.close()

        look = functools.partial(host.observe, vm)
        over = {RunState.ABSENT, RunState.POWERED_OFF}
        view = await switch_off(ask, look, self.clock, over=over, within=_POWERDOWN_DEADLINE)
        if view.state not in over:
            message = f"{vm.name} did not switch itself off within {_POWERDOWN_DEADLINE:.0f} s"
            raise BusyError(message, remedy=f"godwit vm stop --force {vm.name}")

    async def remove_vm(self, name: str) -> None:
        """Forget a guest that does not run. An adopted one is let go, whatever it does. Raises BusyError."""
        vm = await self.inventory.vm(name)
        await self.refuse_migrating(name)
        if not vm.adopted and (view := await self.view_vm(vm)).state is not RunState.ABSENT:
            message = f"{name} is {view.state} on {vm.host}"
            raise BusyError(message, remedy=f"godwit vm stop {name}")
        await self.inventory.remove_vm(name)

    @asynccontextmanager
    async def held(self, name: str, *, sending: bool = False) -> AsyncIterator[Vm]:
        """Hold a guest as a runner does. Raises UnknownVmError, BusyError for one that is being migrated or sent."""
        await self.inventory.vm(name)
        async with self.runners.hold(name):
            await self.refuse_migrating(name, sending=sending)
            yield await self.inventory.vm(name)

    async def refuse_migrating(self, name: str, *, sending: bool = False) -> None:
        """Raise BusyError for a guest whose migration has not ended: only its runner knows which copy may run.

        The same for one that is being sent with a snapshot, unless it is `sending` that asks.
        """
        for record in await self.inventory.sends():
            if record.vm == name and not sending:
                raise self.being_sent(record)
        for row in await self.journal.rows(unfinished=True, limit=1000):
            if row.spec.vm == name:
                message = f"{name} is being migrated: {row.spec.id} ({row.phase})"
                raise BusyError(message, remedy=f"godwit status {row.spec.id}; godwit cancel {row.spec.id}")
        await self._refuse_saving(name)

    async def _refuse_saving(self, name: str) -> None:
        for job in await self.journal.jobs.rows(unfinished=True, limit=1000):
            if job.vm == name:
                message = f"a {job.work} of {name} is under way: {job.id} ({job.step})"
                raise BusyError(
                    message, remedy="wait until it has ended; any godwit command takes it up if it was killed"
                )

    async def refuse_sending(self, name: str) -> None:
        """Raise BusyError for a guest that is being sent with a snapshot."""
        for record in await self.inventory.sends():
            if record.vm == name:
                raise self.being_sent(record)

    def being_sent(self, record: SendRecord) -> BusyError:
        """Return the error that says that a guest is being sent, and what to type."""
        message = f"{record.vm} is being sent to {record.target} with {record.tag} ({record.step})"
        return BusyError(message, remedy=f"if nobody works on it: {record.command}")

    async def view_vm(self, vm: Vm) -> GuestView:
        """Say what a guest does now; a silent host is a view, too, unless it was proven to be off."""
        from godwit.engine.power import told_of  # noqa: PLC0415 - start-up time

        began = self.clock.now()
        try:
            async with self.reached(vm.host) as host:
                view = await host.observe(vm)
        except GodwitError as error:
            view = GuestView(RunState.UNREACHABLE, detail=error.message)
        return await told_of(self.journal.decisions, vm.host, view, began, self.clock.now())

    # -- migrations ------------------------------------------------------------------------------------------------

    async def spec(
        self,
        vm: str,
        target: str,
        policy: Policy,
        probe: ProbeRequest | None,
        *,
        defaults: bool = False,
        converge: bool = False,
        identifier: str = "",
    ) -> Spec:
        """Return a move as it would be asked for. Raises InputError, UnknownVmError, UnknownHostError."""
        guest = await self.inventory.vm(vm)
        destination = await self.inventory.host(target)
        await self.inventory.host(guest.host)
        if guest.host == destination.name:
            message = f"{vm} is on {target} already"
            raise InputError(
                message, remedy="godwit vm list shows where guests are, godwit host list where they can go"
            )
        if policy.verify_disks and policy.way is Way.OFF:
            message = "--verify-disks compares disks as they were at the switchover, and --off has no such instant"
            raise InputError(message, remedy="move it with --static alone, or compare them by hand while it is off")
        if not policy.plaintext and await self.authority.is_off():
            policy = replace(policy, plaintext=True)
        policy = replace(policy, devices=(*guest.devices, *policy.devices))
        return Spec(identifier or new_identifier(vm), vm, guest.host, target, policy, probe, defaults, converge)

    async def migrate(
        self,
        vm: str,
        target: str,
        policy: Policy | None = None,
        probe: ProbeRequest | None = None,
        *,
        defaults: bool = False,
        converge: bool = False,
        identifier: str = "",
    ) -> str:
        """Ask for a migration and return its identifier; it goes on whatever becomes of the caller.

        `defaults` leaves every decision to QEMU, for comparison, see `Spec`; `identifier` is one of `new_identifier`,
        for who must know it beforehand. Raises InputError, BusyError, JournalError.
        """
        spec = await self.spec(
            vm, target, policy or Policy(), probe, defaults=defaults, converge=converge, identifier=identifier
        )
        await self._refuse_saving(vm)
        await self.refuse_sending(vm)
        await self.journal.create(spec, self.clock.now())
        self.runners.start(spec.id, vm)
        return spec.id

    async def upgrade(
        self, vm: str, qemu: str = "", policy: Policy | None = None, probe: ProbeRequest | None = None
    ) -> str:
        """Ask for a guest's QEMU to be replaced on its host by `qemu`, or by what its program is now; returns the ID.

        It goes on whatever becomes of the caller, as a migration does. Raises InputError, BusyError, JournalError.
        """
        spec = await self._upgrade_spec(vm, qemu, policy or Policy(), probe)
        await self._refuse_saving(vm)
        await self.refuse_sending(vm)
        await self.journal.create(spec, self.clock.now())
        self.runners.start(spec.id, vm)
        return spec.id

    async def _upgrade_spec(self, name: str, qemu: str, policy: Policy, probe: ProbeRequest | None) -> Spec:
        vm = await self.inventory.vm(name)
        await self.inventory.host(vm.host)
        if qemu and not qemu.startswith("/"):
            message = f"{qemu!r} is no absolute path of a program on {vm.host}"
            raise InputError(
                message, remedy=f"write for example --qemu /usr/bin/{vm.launch.argv[0].rpartition('/')[2]}"
            )
        after = self.hypervisor.beside(vm, vm.launch, qemu or vm.launch.argv[0])
        upgrade = Upgrade(replace(vm, sibling=after.control), replace(after, sibling=vm.control))
        return Spec(new_identifier(name), name, vm.host, vm.host, policy, probe, upgrade=upgrade)

    async def dry_run_upgrade(self, vm: str, qemu: str = "") -> tuple[Finding, ...]:
        """Say what an upgrade would find, changing nothing. Raises InputError, HostError, HypervisorError."""
        spec = await self._upgrade_spec(vm, qemu, Policy(), None)
        async with self.looking(spec) as (parts, guest):
            from godwit.engine.upgrading import gather_upgrade  # noqa: PLC0415 - start-up time

            return check_upgrade(await gather_upgrade(parts, guest))

    async def dry_run(
        self, vm: str, target: str, policy: Policy | None = None, *, measure: bool = False
    ) -> tuple[Finding, ...]:
        """Gather facts, try a connection and run preflight, changing nothing.

        What the link carries is measured if that is asked for, and kept for forecasts until a move shows it.
        Raises InputError, HostError, HypervisorError.
        """
        spec = await self.spec(vm, target, policy or Policy(), None)
        async with self.looking(spec) as (parts, guest):
            evidence = await gather(parts, guest, trial=True, measure=measure)
        if evidence.trial is not None and evidence.trial.bandwidth:
            said = LinkSaid((spec.source, spec.target), evidence.trial.bandwidth, self.clock.now())
            await self.journal.history.put_link(said)
        return check(evidence)

    async def mend(self, command: Command) -> str:
        """Run a safe mend on its host; returns what went wrong in its words, empty where nothing did.

        Raises InputError for one that is not safe, UnknownHostError, HostError.
        """
        if not command.safe:
            message = f"it is for a person to run on {command.host}: {command.text}"
            raise InputError(message, remedy="see first what it changes for others there")
        async with self.reached(command.host) as host:
            done = await host.run(["sh", "-c", f"{_ON_THE_PATH}{command.text}"], check=False)
        words = " ".join((done.stderr or done.stdout).decode(errors="replace").split())
        return "" if done.status == 0 else f"status {done.status}: {shortened(words or 'it said nothing', _SHOWN)}"

    @asynccontextmanager
    async def looking(self, spec: Spec) -> AsyncIterator[tuple[Parts, Guest]]:
        """Open both hosts of a migration that is only asked about, and the guest. Raises HostError, HypervisorError."""
        parts = await self.parts(spec, epoch=0, requested=self.clock.now())
        try:
            await asyncio.gather(parts.source.connect(), parts.target.connect())
            guest = await parts.source.attach(parts.vm)
            try:
                yield parts, guest
            finally:
                await guest.close()
        finally:
            await asyncio.gather(parts.source.close(), parts.target.close())

    async def parts(self, spec: Spec, *, epoch: int, requested: float) -> Parts:
        """Put together what the engine works with."""
        vm, source, target = await asyncio.gather(
            self.inventory.vm(spec.vm), self.inventory.host(spec.source), self.inventory.host(spec.target)
        )
        if spec.upgrade is not None:
            # The inventory has the new names before the old process is gone.
            known = vm if vm.control == spec.upgrade.after.control else spec.upgrade.after
            after = replace(known, sibling=spec.upgrade.before.control)
            vm, spec = spec.upgrade.before, replace(spec, upgrade=replace(spec.upgrade, after=after))
        return Parts(
            spec=spec,
            vm=vm,
            source=self.open_host(source),
            target=self.open_host(target),
            journal=self.journal,
            inventory=self.inventory,
            clock=self.clock,
            watcher=self.watcher,
            epoch=epoch,
            requested=requested,
            hypervisor=self.hypervisor,
            records={Side.SOURCE: source, Side.TARGET: target},
            fencer=self.fencer,
            hooks=self.hooks,
            authority=self.authority,
            mark=await self.authority.mark() if encrypts(spec) else "",
        )

    async def cancel(self, identifier: str) -> Status:
        """Ask a migration to go back. Returns where it stands; it may be too late. Raises UnknownMigrationError."""
        status = await self.status(identifier)
        if not status.state.finished:
            await self.journal.request_cancel(identifier, getpass.getuser(), self.clock.now())
        return status

    async def status(self, identifier: str) -> Status:
        """Say where a migration stands. Raises UnknownMigrationError."""
        row, state = await self.journal.load(identifier)
        return Status(row, state, self.runners.alive(row.spec.vm))

    async def follow(self, identifier: str, after: int = 0) -> AsyncIterator[Entry]:
        """Yield the journal's lines as they come, until the migration has ended. Raises UnknownMigrationError."""
        seen: int | None = None
        while True:
            version = await self.journal.version(identifier)
            if version != seen:
                seen = version
                row, state = await self.journal.load(identifier)
                for entry in await self.journal.entries(identifier, after):
                    after = entry.sequence
                    yield entry
                if has_ended(row, state):
                    for entry in await self.journal.entries(identifier, after):
                        yield entry
                    return
            await self.clock.sleep(FOLLOW_PERIOD)

    async def outcome(self, identifier: str) -> Outcome:
        """Wait for the end of a migration and return how it ended. Raises UnknownMigrationError."""
        async for _ in self.follow(identifier):
            pass
        row, _state = await self.journal.load(identifier)
        assert row.outcome is not None  # noqa: S101 - follow() ends when it is there; for the type checker
        return row.outcome

    async def take_up(self) -> list[str]:
        """Start runners for migrations whose runners died with their machine; returns their identifiers.

        One in LIMBO is looked at again, too: a host that was silent may have come back and told who owns the guest.
        Young ones are left alone: their runners may just be starting.
        """
        now = self.clock.now()
        orphans = [
            row.spec
            for row in await self.journal.rows(unfinished=True, limit=1000)
            if now - row.created > STARTING and not self.runners.alive(row.spec.vm)
        ]
        for spec in orphans:
            self.runners.start(spec.id, spec.vm)
        jobs = [job for job in await self.journal.jobs.rows(unfinished=True, limit=1000) if self.orphaned(job)]
        for job in jobs:
            self.runners.start(job.id, job.vm)
        return [*(spec.id for spec in orphans), *(job.id for job in jobs)]

    def orphaned(self, job: Job) -> bool:
        """Say whether nobody works on a save or restore that is old enough for its runner to have started."""
        return self.clock.now() - job.created > STARTING and not self.runners.alive(job.vm)
