"""Restoring a guest: a QEMU is started paused, reads the file, and is told to run when it has all of it.

Before anything is started it is proven that the guest runs nowhere that is known, that the file is whole, and that the
disks are those that the guest had. The file is only read: whatever fails, it can be restored again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from godwit.core.savefile import Header, Seal, chunks, decode_header, decode_seal, differing
from godwit.core.saves import Step, Way, afterwards, another_way, capabilities, incoming, parameters
from godwit.errors import (
    BusyError,
    GodwitError,
    GuestCrashedError,
    MonitorCommandError,
    QemuMissingError,
    RefusedError,
    SaveFailedError,
    SaveFileError,
    SupersededError,
    UnknownHostError,
    UnknownVmError,
)
from godwit.model import RunState, StreamStatus

if TYPE_CHECKING:
    from godwit.core.savefile import DiskState
    from godwit.engine.jobs import Desk
    from godwit.model import GuestView, Vm
    from godwit.ports import Guest, Host


_OTHER_DISKS: Final = (
    "the saved memory would ruin other disks: put back those of that time, or start the guest from them"
)


@dataclass(slots=True)
class Restoring:
    """One restore, from where its record says it stands to its end."""

    desk: Desk
    _launched: bool = False

    async def run(self) -> None:
        """Do it. Raises what keeps the next step from being known, such as a host that is silent for good."""
        desk = self.desk
        host = await desk.host(desk.job.host)
        match desk.job.step:
            case Step.PENDING | Step.CHECKING:
                await self._restore(host)
            case Step.LOADING | Step.UNDOING | Step.STARTING:
                await self._settle(host, None)
            case _:
                return

    async def _restore(self, host: Host) -> None:
        desk = self.desk
        try:
            header = await self._examine(host)
            await desk.check_wish()
        except SupersededError:
            raise
        except GodwitError as error:
            await desk.end(error)
            return
        guest_of = {"guest": header.vm, "was_running": header.running}
        await desk.step(Step.LOADING, **guest_of, bytes=header.length, way=header.way)
        try:
            guest = await self._load(host, header)
            await desk.check_wish()
            await desk.step(Step.STARTING)
            try:
                if header.running:
                    await desk.run_guest(guest)
            finally:
                await guest.close()
        except SupersededError:
            raise
        except GodwitError as error:
            await self._settle(host, error)
            return
        await self._record(header.vm)
        await desk.end()

    # -- before anything is touched ------------------------------------------------------------------------------------

    async def _examine(self, host: Host) -> Header:
        """Return the file's header once everything about it is as it must be. Raises what is not."""
        desk = self.desk
        length, head = await host.saves.head(desk.job.path)
        header = decode_header(head, length, desk.job.path)
        seal = decode_seal(head, header, desk.job.path)
        if header.vm.name != desk.job.vm:
            message = f"{desk.job.path} is another file by now: it holds {header.vm.name}, not {desk.job.vm}"
            raise SaveFileError(message)
        await self._refuse_second(host, header)
        await self._fits(host, header)
        await self._compare_disks(host, header, seal)
        await desk.step(Step.CHECKING)
        if seal is None:
            await desk.note("the file has no checksums: its content was not compared")
        elif desk.job.verify:
            await self._compare_content(host, header, seal)
            await self._compare_states(host, header.disks)
            await self._refuse_second(host, header)
        return header

    async def _refuse_second(self, host: Host, header: Header) -> None:
        """Raise BusyError where the guest is anything but absent on a host where it may be. Silence is no absence."""
        desk, vm = self.desk, header.vm
        places = {host.name: host}
        known = await self._known(vm.name)
        for name in dict.fromkeys(one.host for one in (vm, known) if one is not None):
            try:
                places[name] = await desk.host(name)
            except UnknownHostError:
                await desk.note(f"{vm.name} was saved on {name}, which is not registered: nobody looked there")
        for place in places.values():
            for one in (vm, known) if known is not None else (vm,):
                view = await desk.look(place, one)
                if view.state is not RunState.ABSENT:
                    message = f"{vm.name} is {view.state} on {place.name} {view.detail}".rstrip()
                    remedy = "a guest may exist only once: end that one first, if the saved one is wanted"
                    raise BusyError(message, remedy=remedy)

    async def _known(self, name: str) -> Vm | None:
        try:
            return await self.desk.inventory.vm(name)
        except UnknownVmError:
            return None

    async def _fits(self, host: Host, header: Header) -> None:
        """Raise what keeps this host's QEMU from taking the guest, as far as that can be known beforehand."""
        facts = await host.facts(header.vm.launch.argv[0])
        if facts.qemu is None:
            message = f"{host.name} has no {header.vm.launch.argv[0]}, which {header.vm.name} needs"
            raise QemuMissingError(message, remedy=f"install it on {host.name}")
        saved, here = (".".join(map(str, version)) for version in (header.qemu_version, facts.qemu.version))
        if header.machine not in facts.qemu.machine_types:
            message = f"{self.desk.job.path} needs the machine type {header.machine}, which QEMU {here} lacks"
            raise RefusedError(message, remedy=f"it was saved by QEMU {saved}: install that, or a newer one")
        if facts.qemu.version < header.qemu_version:
            await self.desk.note(f"the file was saved by QEMU {saved}, {host.name} has {here}: it may not read it")
        if facts.memory_available < header.memory:
            need, has = header.memory >> 20, facts.memory_available >> 20
            message = f"{header.vm.name} needs {need} MiB of memory, and {host.name} has {has} MiB left"
            raise RefusedError(message, remedy="free some, or choose another host")

    async def _compare_disks(self, host: Host, header: Header, seal: Seal | None) -> None:
        await self._compare_states(host, header.disks)
        for path, digest in seal.disks if seal is not None else ():
            if await host.digest(path, all_of_it=False) != digest:
                message = f"{path} on {host.name} has another content than when the guest was saved"
                raise SaveFileError(message, remedy=_OTHER_DISKS)

    async def _compare_states(self, host: Host, disks: tuple[DiskState, ...]) -> None:
        states = await host.saves.disks([disk.path for disk in disks])
        for disk, now in zip(disks, states, strict=True):
            if words := differing(disk, now, host.name):
                raise SaveFileError(words, remedy=_OTHER_DISKS)

    async def _compare_content(self, host: Host, header: Header, seal: Seal) -> None:
        desk = self.desk
        number = chunks(header.length)
        async for chunk, said in desk.chunk_sums(host, number):
            await desk.check_wish()
            if said != seal.sums[chunk]:
                message = f"{desk.job.path} is damaged: part {chunk + 1} of {number} is not as it was written"
                raise SaveFileError(message, remedy="take another copy of the file if there is one")

    # -- loading -------------------------------------------------------------------------------------------------------

    async def _load(self, host: Host, header: Header) -> Guest:
        """Start a QEMU that does not run, and let it read the file. Raises where it cannot."""
        vm = header.vm
        await host.prepare_launch(vm, vm.launch)
        self._launched = True
        await host.launch(vm, vm.launch, incoming=True)
        guest = await host.attach(vm)
        try:
            await self._read(guest, header)
        except BaseException:
            await guest.close()
            raise
        return guest

    async def _read(self, guest: Guest, header: Header) -> None:
        path = self.desk.job.path
        features = await guest.features()
        if header.way.mapped and "mapped-ram" not in features.capabilities:
            message = f"the QEMU of {self.desk.job.host} does not know mapped-ram, in which {path} is written"
            raise RefusedError(message, remedy="install QEMU 9.1 or newer there")
        for way in _readings(header.way):
            await guest.set_capabilities(capabilities(way, features))
            await guest.set_parameters(parameters(way, features))
            events = guest.events()
            try:
                await guest.listen(incoming(way, path))
            except MonitorCommandError as error:
                if way is _readings(header.way)[-1] or not another_way(error.message):
                    raise
                continue
            break
        status, words = await self.desk.follow(guest, events)
        if status is not StreamStatus.COMPLETED:
            message = f"QEMU could not read {path}: {words or f'its stream is {status}'}"
            raise SaveFailedError(message)
        await guest.set_capabilities(afterwards(features))

    # -- the way out ---------------------------------------------------------------------------------------------------

    async def _settle(self, host: Host, error: GodwitError | None) -> None:
        """Go on from where a QEMU may or may not run: what it does says which way is out. `error` is why, if known."""
        desk, vm = self.desk, self.desk.job.guest
        if vm is None or (error is not None and not self._launched):
            await desk.end(error)
            return
        view = await desk.look(host, vm)
        started = desk.job.step is Step.STARTING
        if started and view.state is RunState.PAUSED and error is None:
            view = await self._start_again(host, vm)
        if view.state is RunState.RUNNING or (started and view.state is RunState.PAUSED and not desk.job.was_running):
            await self._record(vm)
            await desk.end()
            return
        if started and view.state is RunState.ABSENT:
            message = f"{vm.name} was told to run on {host.name}, and its QEMU has ended: {view.detail}"
            remedy = f"if it ran, its disks have changed: godwit vm start {vm.name}; else restore it again"
            await desk.end(GuestCrashedError(message, remedy=remedy))
            return
        await self._undo(host, vm, error)

    async def _start_again(self, host: Host, vm: Vm) -> GuestView:
        """Tell a guest to run that has everything and may have been told already; returns what it does then."""
        guest = await host.attach(vm)
        try:
            if self.desk.job.was_running:
                await self.desk.run_guest(guest)
            return await guest.view()
        finally:
            await guest.close()

    async def _undo(self, host: Host, vm: Vm, error: GodwitError | None) -> None:
        """Remove a QEMU that never ran."""
        desk = self.desk
        if desk.job.step is not Step.UNDOING:
            why = error or SaveFailedError(f"the process that restored {vm.name} died on the way")
            words = f"{why.message}; what was started on {host.name} is removed, the file is as it was"
            desk.keep(type(why)(words, remedy=why.remedy))
            await desk.step(Step.UNDOING)
        await host.destroy(vm)
        await desk.step(Step.CANCELLED if desk.job.cancelled else Step.FAILED)

    async def _record(self, vm: Vm) -> None:
        """Write where the guest lives now."""
        await self.desk.inventory.put_vm(replace(vm, host=self.desk.job.host))


def _readings(way: Way) -> tuple[Way, ...]:
    """Return the ways to read what was written in one: a plain stream is the same, however it came to the file."""
    return (Way.FILE, Way.PIPE) if way in {Way.FILE, Way.PIPE} else (way,)
