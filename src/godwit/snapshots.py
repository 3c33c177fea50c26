"""The use cases about snapshots of guests: list, create, apply, delete, and send to another host.

These act in the process that asks, which holds the guest meanwhile as a runner does. Sending writes down each step
beforehand, so that the next who asks for it goes on where a process that died left it.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from godwit.core import sending, snapshots
from godwit.core.preflight import check
from godwit.core.sending import SendRecord, SendStep, Verdict
from godwit.engine.gather import gather
from godwit.engine.sending import Sending, Told, start_from
from godwit.errors import (
    BusyError,
    GodwitError,
    HypervisorError,
    InputError,
    LimboError,
    MonitorCommandError,
    RefusedError,
)
from godwit.identifiers import new_identifier
from godwit.model import RunState, Severity, Spec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from godwit.core.preflight.evidence import DiskProof
    from godwit.core.snapshots import DiskSnapshots, Snapshot
    from godwit.engine.parts import Parts
    from godwit.model import Vm
    from godwit.ports import Guest, Host
    from godwit.service import Service

_LOOK: Final = 0.5
_SPARE: Final = 16 << 20
"""Bytes of room beyond the guest's memory that are wanted before a snapshot: devices, and the image's own tables."""


@dataclass(frozen=True, slots=True)
class Made:
    """What was done: the snapshot, and for how many seconds the guest stood still (0 where it did not run)."""

    vm: str
    snapshot: Snapshot
    standstill: float


@dataclass(frozen=True, slots=True)
class Sent:
    """A guest that runs on another host now. `images` stay on `source`, out of date; `left` could not be removed.

    `carried` are the files that were copied; `standstill` is in seconds.
    """

    vm: str
    tag: str
    source: str
    target: str
    running: bool
    standstill: float
    carried: tuple[str, ...]
    images: tuple[str, ...]
    left: tuple[str, ...]


def _silent(_: Told) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Snapshots:
    """What can be asked of snapshots; stands on the service."""

    service: Service

    # -- looking ---------------------------------------------------------------------------------------------------

    async def list(self, name: str) -> tuple[Snapshot, ...]:
        """List a guest's snapshots, the oldest first, whether it runs or is off. Raises HostError, HypervisorError."""
        vm = await self.service.inventory.vm(name)
        async with self.service.reached(vm.host) as host:
            return snapshots.catalogue(await self._disks(host, vm))

    async def _disks(self, host: Host, vm: Vm) -> tuple[DiskSnapshots, ...]:
        """Look into the disks of a guest: through its QEMU, or where there is none into the images themselves."""
        if await self._is_off(host, vm):
            named = snapshots.writable(self.service.hypervisor.disks(vm.launch))
            return tuple(await asyncio.gather(*(host.image_snapshots(disk) for disk in named)))
        guest = await host.attach(vm)
        try:
            return await guest.snapshots()
        finally:
            await guest.close()

    async def _is_off(self, host: Host, vm: Vm) -> bool:
        """Say whether no QEMU has the guest's images open. Raises HypervisorError where nobody can know."""
        view = await host.observe(vm)
        if view.state is RunState.UNREACHABLE:
            message = f"what {vm.name} does on {vm.host} cannot be seen: {view.detail}"
            raise HypervisorError(message, remedy=f"godwit vm show {vm.name}")
        return view.state is RunState.ABSENT

    # -- making and removing ---------------------------------------------------------------------------------------

    async def create(self, name: str, tag: str, tell: Callable[[Told], None] = _silent) -> Made:
        """Keep memory, devices and writable disks of a guest at one instant. It stands still meanwhile.

        Raises RefusedError for a disk that cannot, InputError for a name that is taken, HypervisorError where QEMU
        fails: the guest then goes on as before, and nothing is left but room taken in the image.
        """
        async with self._held(name) as (vm, host):
            if await self._is_off(host, vm):
                message = f"{name} is off: there is no memory to keep"
                raise InputError(message, remedy=f"godwit vm start {name}, or copy its disks")
            guest = await host.attach(vm)
            try:
                await self._refuse_odd(guest, name)
                disks = await guest.snapshots()
                snapshots.refuse_unfit(name, disks)
                snapshots.new_tag(tag, snapshots.catalogue(disks))
                await self._refuse_narrow(host, vm, disks)
                still = await self._save(host, guest, tag, disks, tell)
                return Made(name, snapshots.whole_tag(name, tag, snapshots.catalogue(await guest.snapshots())), still)
            finally:
                await guest.close()

    async def _refuse_narrow(self, host: Host, vm: Vm, disks: tuple[DiskSnapshots, ...]) -> tuple[str, int]:
        """Raise RefusedError where the guest's memory may not fit: QEMU does not give back the room of a failure.

        Returns the image that it goes to, and how many bytes it may take.
        """
        pid = (await host.observe(vm)).pid
        if pid is None:
            message = f"the process of {vm.name} on {vm.host} is gone"
            raise HypervisorError(message, remedy=f"godwit vm show {vm.name}")
        state = snapshots.state_node(disks)
        path = next(disk.path for disk in disks if disk.node == state)
        needed = await host.resident(pid) + _SPARE
        available = (await host.place(path)).available
        if available is not None and available < needed:
            message = f"{vm.host} has {available >> 20} MiB left for {path}, and the memory of {vm.name} may take "
            raise RefusedError(message + f"{needed >> 20} MiB", remedy="make room there, or remove older snapshots")
        return path, needed

    async def _refuse_odd(self, guest: Guest, name: str) -> None:
        """Raise RefusedError for a guest that neither runs nor is paused: what it holds may not be worth keeping."""
        view = await guest.view()
        if view.state not in {RunState.RUNNING, RunState.PAUSED}:
            message = f"{name} neither runs nor is paused: QEMU says {view.raw}"
            remedy = (
                f"to start it anew from a snapshot: godwit vm stop --force {name}; godwit snapshot apply {name} TAG"
            )
            raise RefusedError(message, remedy=remedy)

    async def _save(
        self, host: Host, guest: Guest, tag: str, disks: tuple[DiskSnapshots, ...], tell: Callable[[Told], None]
    ) -> float:
        """Keep it, and tell how much was written; what a failure left half is removed. Raises HypervisorError."""
        state = snapshots.state_node(disks)
        path = next(disk.path for disk in disks if disk.node == state)
        before = await host.used(path)
        telling = asyncio.ensure_future(self._tell_growth(host, path, before, tell))
        try:
            return await guest.save_snapshot(tag, state, snapshots.nodes(disks))
        except MonitorCommandError as error:
            half = snapshots.holders(await guest.snapshots(), tag)
            if half:
                await guest.delete_snapshot(tag, snapshots.nodes(half))
            lost = max(0, await host.used(path) - before)
            message = f"{error.message}; the guest goes on as before, and there is no snapshot {tag}"
            room = f" ({path} has grown by {lost >> 20} MiB, which the next snapshot uses)" if lost else ""
            raise HypervisorError(message + room, remedy=f"see the room on the disk that holds {path}") from error
        finally:
            telling.cancel()
            await asyncio.wait([telling])

    async def _tell_growth(self, host: Host, path: str, before: int, tell: Callable[[Told], None]) -> None:
        """Tell how much has been written: QEMU itself says nothing until it has ended."""
        while True:
            await self.service.clock.sleep(_LOOK)
            with suppress(GodwitError):  # a look that fails is one look less
                tell(Told(path, max(0, await host.used(path) - before)))

    async def delete(self, name: str, tag: str) -> Snapshot:
        """Remove a snapshot, whole or not, from all disks. Raises UnknownSnapshotError, HypervisorError."""
        async with self._held(name) as (vm, host):
            if await self._is_off(host, vm):
                disks = await self._disks(host, vm)
                found = snapshots.known_tag(name, tag, snapshots.catalogue(disks))
                for disk in snapshots.holders(disks, tag):
                    await host.delete_image_snapshot(disk.path, tag)
                return found
            guest = await host.attach(vm)
            try:
                disks = await guest.snapshots()
                found = snapshots.known_tag(name, tag, snapshots.catalogue(disks))
                await guest.delete_snapshot(tag, snapshots.nodes(snapshots.holders(disks, tag)))
            finally:
                await guest.close()
        return found

    # -- going back ------------------------------------------------------------------------------------------------

    async def find(self, name: str, tag: str) -> Snapshot:
        """Return a snapshot that the guest can go back to. Raises UnknownSnapshotError, RefusedError."""
        return snapshots.whole_tag(name, tag, await self.list(name))

    async def apply(self, name: str, tag: str) -> Made:
        """Take a guest back to a snapshot: all since is lost. One that is paused stays so, one that is off is started.

        Raises UnknownSnapshotError, RefusedError; HypervisorError where QEMU fails: the guest is stopped then.
        """
        async with self._held(name) as (vm, host):
            if await self._is_off(host, vm):
                disks = await self._disks(host, vm)
                found = snapshots.whole_tag(name, tag, snapshots.catalogue(disks))
                snapshots.refuse_unfit(name, disks)
                guest = await start_from(host, vm, vm.launch, tag)
                try:
                    await guest.resume()
                finally:
                    await guest.close()
                return Made(name, found, 0.0)
            guest = await host.attach(vm)
            try:
                await self._refuse_odd(guest, name)
                disks = await guest.snapshots()
                found = snapshots.whole_tag(name, tag, snapshots.catalogue(disks))
                snapshots.refuse_unfit(name, disks)
                # QEMU stops the guest for it and lets it go on: nothing is left half done if we die here.
                still = await guest.load_snapshot(tag, snapshots.state_node(disks, tag), snapshots.nodes(disks))
            except MonitorCommandError as error:
                message = f"{name} could not go back to {tag}: {error.message}. It is stopped, and its memory is not "
                remedy = f"start it anew from the snapshot: godwit vm stop --force {name}; godwit snapshot apply "
                raise HypervisorError(
                    message + "to be trusted: do not resume it", remedy=f"{remedy}{name} {tag}"
                ) from error
            finally:
                await guest.close()
        return Made(name, found, still)

    # -- sending ---------------------------------------------------------------------------------------------------

    async def unfinished(self, name: str) -> SendRecord | None:
        """Return the sending of this guest that has not ended, or None."""
        return next((one for one in await self.service.inventory.sends() if one.vm == name), None)

    async def send(
        self, name: str, tag: str, host: str, tell: Callable[[Told], None] = _silent, *, plaintext: bool = False
    ) -> Sent:
        """Send a guest to `host` with the snapshot `tag`, which is made now if there is none; it goes on from there.

        Its files are encrypted on the way unless they are to travel as `plaintext`. One that broke off goes on, as it
        was asked for. Raises RefusedError when nothing was done; MigrationFailedError or
        MigrationCancelledError when the guest is on its source as before; LimboError, GuestCrashedError.
        """
        destination = await self.service.inventory.host(host)
        async with self.service.held(name, sending=True) as vm:
            record = await self.unfinished(name)
            if record is not None and (record.tag, record.target) != (tag, host):
                raise self.service.being_sent(record)
            if record is None and vm.host == destination.name:
                message = f"{name} is on {host} already"
                raise InputError(message, remedy="godwit host list shows where it can go")
            source = record.source if record else vm.host
            plaintext = plaintext or await self.service.authority.is_off()
            policy = replace(sending.POLICY, plaintext=plaintext)
            parts = await self.service.parts(
                Spec(new_identifier(name), name, source, host, policy),
                epoch=0,
                requested=self.service.clock.now(),
            )
            try:
                if record is not None:
                    sent = await self._go_on(parts, record, tell)
                    if sent is not None:
                        return sent
                return await self._begin(parts, tag, tell)
            finally:
                await asyncio.gather(parts.source.close(), parts.target.close())

    async def _begin(self, parts: Parts, tag: str, tell: Callable[[Told], None]) -> Sent:
        await asyncio.gather(parts.source.connect(), parts.target.connect())
        if await self._is_off(parts.source, parts.vm):
            message = f"{parts.vm.name} is off"
            remedy = (
                f"godwit vm start {parts.vm.name}, or from the snapshot: godwit snapshot apply {parts.vm.name} {tag}"
            )
            raise InputError(message, remedy=remedy)
        tell(Told(f"looking at {parts.source.name} and {parts.target.name}"))
        guest = await parts.source.attach(parts.vm)
        try:
            work = await self._prepare(parts, guest, tag, tell)
        except BaseException:
            await guest.close()
            raise
        began = self.service.clock.now()
        await work.begin(guest)
        return self._sent(work, self.service.clock.now() - began)

    async def _prepare(self, parts: Parts, guest: Guest, tag: str, tell: Callable[[Told], None]) -> Sending:
        """Look at both sides without touching them. Raises RefusedError, InputError."""
        await self._refuse_odd(guest, parts.vm.name)
        disks, evidence = await asyncio.gather(guest.snapshots(), gather(parts, guest))
        known = snapshots.catalogue(disks)
        snapshots.refuse_unfit(parts.vm.name, disks)
        made = not any(one.tag == tag for one in known)
        growth: dict[str, int] = {}
        if made:
            snapshots.new_tag(tag, known)
            growth = dict([await self._refuse_narrow(parts.source, parts.vm, disks)])
        else:
            snapshots.whole_tag(parts.vm.name, tag, known)
        blocked = [one for one in sending.findings(check(evidence)) if one.severity is Severity.BLOCK]
        if blocked:
            message = f"{blocked[0].found}: {blocked[0].why}"
            raise RefusedError(message, remedy=blocked[0].mend)
        facts = evidence.guest
        files = sending.to_carry(evidence.disks, await self._alike(parts, evidence.disks), parts.target.name)
        address = evidence.target.migration_address
        if files:
            await self._refuse_cut_off(parts, {path: growth.get(path, 0) for path in files}, address)
        record = SendRecord(
            id=parts.spec.id,
            vm=parts.vm.name,
            tag=tag,
            source=parts.source.name,
            target=parts.target.name,
            step=SendStep.SAVING,
            launch=facts.launch,
            running=facts.run_state is RunState.RUNNING,
            made=made,
            files=files,
            shared=any(proof.token_seen for proof in evidence.disks),
            plaintext=parts.spec.policy.plaintext,
        )
        return await self._sending(parts, record, address, tell)

    async def _alike(self, parts: Parts, proofs: tuple[DiskProof, ...]) -> dict[str, bool]:
        """Compare read-only files that both hosts have for themselves; backing files were compared before."""
        alike = {}
        for proof in proofs:
            if proof.read_only and proof.target_identity and not proof.same and proof.digests is None:
                here, there = await asyncio.gather(
                    parts.source.digest(proof.path, all_of_it=True), parts.target.digest(proof.path, all_of_it=True)
                )
                alike[proof.path] = here == there
        return alike

    async def _refuse_cut_off(self, parts: Parts, files: dict[str, int], address: str) -> None:
        """Raise RefusedError where files could not be carried: no way, no place, no room for what they grow to."""
        if not await parts.source.reaches(address, await parts.target.free_port()):
            message = f"{parts.source.name} does not reach {address} of {parts.target.name}, where files would be taken"
            raise RefusedError(message, remedy="open the ports 49152 to 49215 between them, both ways")
        for path, growth in files.items():
            place = await parts.target.place(path)
            if not place.writable or not place.can_create:
                message = f"{parts.target.name} has no place for {path}, or no qemu-img"
                raise RefusedError(message, remedy="make the folder there, and install qemu-utils")
            needed = await parts.source.used(path) + growth
            if place.available is not None and place.available < needed:
                message = f"{parts.target.name} has {place.available >> 20} MiB left for {path}, which takes "
                message += f"{needed >> 20} MiB"
                raise RefusedError(message, remedy=f"make room on {parts.target.name}")

    async def _go_on(self, parts: Parts, record: SendRecord, tell: Callable[[Told], None]) -> Sent | None:
        """Take up a sending that broke off; None where it is to begin anew."""
        source, target = await asyncio.gather(parts.source.observe(parts.vm), parts.target.observe(parts.vm))
        verdict = sending.judge(record, source.state, target.state)
        tell(
            Told(
                f"taking up what broke off while {record.step}: {parts.source.name} {source.state}, "
                f"{parts.target.name} {target.state}"
            )
        )
        if verdict is Verdict.WAIT:
            silent = parts.target.name if record.step is SendStep.ARMED else parts.source.name
            message = f"{silent} is silent, and what it says of {record.vm} decides"
            raise LimboError(message, remedy=f"when {silent} answers: {record.command}")
        address = (await parts.target.facts()).migration_address if verdict is Verdict.ON and record.files else ""
        work = await self._sending(parts, record, address, tell)
        began = self.service.clock.now()
        if verdict is Verdict.ANEW:
            await work.undo_saving()
            if work.stuck:
                message = f"{record.vm} may still be paused: {work.stuck}"
                raise LimboError(message, remedy=record.command)
            return None
        if verdict is Verdict.GIVEN_UP:
            await work.give_up()
            message = f"{record.vm} was started on {record.source} meanwhile: it stays there, nothing of it is left on "
            raise BusyError(message + record.target, remedy=f"to send it after all: {record.command}")
        if verdict is Verdict.CRASHED:
            await work.crashed()
        if verdict is Verdict.FINISH:
            await work.finish()
        else:
            await work.go_on()
        return self._sent(work, self.service.clock.now() - began)

    async def _sending(self, parts: Parts, record: SendRecord, address: str, tell: Callable[[Told], None]) -> Sending:
        """Return who sends, as it was asked for, which may be long ago."""
        mark = "" if record.plaintext else await self.service.authority.mark()
        return Sending(
            record=record,
            vm=parts.vm,
            source=parts.source,
            target=parts.target,
            address=address,
            inventory=self.service.inventory,
            clock=self.service.clock,
            authority=self.service.authority,
            keys=replace(parts, mark=mark).keys,
            tell=tell,
        )

    def _images(self, record: SendRecord) -> tuple[str, ...]:
        """Return the writable images that stay on the source, of all that was carried."""
        try:
            named = snapshots.writable(self.service.hypervisor.disks(record.launch))
        except HypervisorError:  # too late to make anything of it
            return record.files
        return tuple(disk.path for disk in named if disk.path in record.files)

    def _sent(self, work: Sending, standstill: float) -> Sent:
        record = work.record
        return Sent(
            vm=record.vm,
            tag=record.tag,
            source=record.source,
            target=record.target,
            running=record.running,
            standstill=standstill,
            carried=record.files,
            images=self._images(record),
            left=tuple(work.left),
        )

    # -- common ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _held(self, name: str) -> AsyncIterator[tuple[Vm, Host]]:
        """Hold a guest, and reach its host."""
        async with self.service.held(name) as vm, self.service.reached(vm.host) as host:
            yield vm, host
