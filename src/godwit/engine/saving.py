"""Saving a guest: it is stopped, written to a file, and only when that is whole its QEMU is ended.

Until the file has its name the way out is back: the stream is ended, the guest runs on, the part file goes. From the
instant when the file has its name the way out is forward. A process that dies in between leaves a record from which
the next one goes on; what decides then is whether the file is there, and whether the guest runs.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from godwit.core.savefile import DiskState, Header, Seal, chunks, decode_header, encode_header, encode_seal
from godwit.core.saves import (
    Step,
    Way,
    afterwards,
    another_way,
    capabilities,
    outgoing,
    parameters,
    ways,
    why_not,
)
from godwit.errors import (
    GodwitError,
    GuestCrashedError,
    HostError,
    HostUnreachableError,
    HypervisorError,
    JournalError,
    MonitorCommandError,
    MonitorLostError,
    RefusedError,
    RemoteCommandError,
    SaveFailedError,
    SaveFileError,
    SupersededError,
)
from godwit.model import RunState, StreamStatus

if TYPE_CHECKING:
    from godwit.engine.jobs import Desk
    from godwit.model import Features, GuestFacts, Vm
    from godwit.ports import Guest, Host

_POLL: Final = 0.05
_PROGRAM_PATIENCE: Final = 60.0
"""Seconds that a program which writes the stream may take to end after QEMU has."""

_SAVABLE: Final = frozenset({RunState.RUNNING, RunState.PAUSED})


@dataclass(slots=True)
class Saving:
    """One save, from where its record says it stands to its end."""

    desk: Desk
    _begun: float = 0.0

    async def run(self) -> None:
        """Do it. Raises what keeps the next step from being known, such as a host that is silent for good."""
        vm = await self.desk.inventory.vm(self.desk.job.vm)
        host = await self.desk.host(self.desk.job.host)
        match self.desk.job.step:
            case Step.PENDING:
                await self._save(host, vm)
            case Step.WRITING:
                message = f"the process that saved {vm.name} died on the way"
                await self._undo(host, vm, SaveFailedError(message, remedy="save it again"))
            case Step.UNDOING:
                await self._undo(host, vm, None)
            case Step.HANDING:
                await self._settle(host, vm, None)
            case Step.CHECKING:
                await self._check(host)
            case _:
                return

    async def _save(self, host: Host, vm: Vm) -> None:
        try:
            guest = await host.attach(vm)
            try:
                facts, features = await guest.facts(), await guest.features()
                self._refuse(facts, vm)
            except BaseException:
                await guest.close()
                raise
        except (HostError, HypervisorError, RefusedError, SaveFileError) as error:
            await self.desk.end(error)
            return
        try:
            header = await self._write(host, guest, vm, facts, features)
        except SupersededError:
            raise
        except GodwitError as error:
            await guest.close()
            await self._undo(host, vm, error)
            return
        await self._hand_over(host, guest, vm, header)

    def _refuse(self, facts: GuestFacts, vm: Vm) -> None:
        """Raise what makes a save impossible, before anything is touched."""
        if facts.run_state not in _SAVABLE:
            message = (
                f"{vm.name} is {facts.run_state} on {self.desk.job.host}, and only one that could run can be saved"
            )
            raise RefusedError(message, remedy=f"godwit vm show {vm.name}")
        if reasons := why_not(facts):
            message = f"{vm.name} could not be started again as it is: {'; '.join(reasons)}"
            raise RefusedError(message)
        encode_header(self._header(vm, facts, Way.MAPPED_BUFFERED, 0, ()))

    def _header(self, vm: Vm, facts: GuestFacts, way: Way, length: int, disks: tuple[DiskState, ...]) -> Header:
        return Header(
            id=self.desk.job.id,
            vm=replace(vm, launch=facts.launch),
            machine=facts.machine,
            qemu_version=facts.qemu_version,
            accelerator=facts.accelerator,
            memory=facts.memory,
            way=way,
            running=self.desk.job.was_running,
            saved_at=self.desk.clock.now(),
            length=length,
            disks=disks,
        )

    # -- writing -------------------------------------------------------------------------------------------------------

    async def _write(self, host: Host, guest: Guest, vm: Vm, facts: GuestFacts, features: Features) -> Header:
        """Stop the guest and write it; returns what the file is to say. Whatever is raised, the way out is back."""
        desk, files = self.desk, host.saves
        await desk.check_wish()
        await desk.step(Step.WRITING, was_running=facts.run_state is RunState.RUNNING)
        tried = ways(features, desk.job.compression)
        program = desk.job.compression.value if desk.job.compression else ""
        begun = desk.clock.now()
        for way in tried:
            await files.begin(desk.job.path, desk.job.part, program)
            await guest.set_capabilities(capabilities(way, features))
            await guest.set_parameters(parameters(way, features))
            if way is tried[0] and desk.job.was_running:
                begun = desk.clock.now()
                await guest.pause()
            words = await self._stream(guest, way)
            if not words:
                break
            await files.discard(desk.job.part)
            if way is tried[-1] or not another_way(words):
                message = f"{vm.name} could not be written to {desk.job.path}: {words}"
                raise SaveFailedError(message, remedy="see the folder's rights and the room on its disk")
            await desk.note(f"not written as {way}: {words}")
        if way.piped:
            await self._await_program(host)
        self._begun = begun
        paths = sorted({disk.path for disk in facts.disks})
        # Side by side, since the guest stands still for it: what is written down says no more than that the stream is
        # complete, and nothing of what follows is done before all three have said yes.
        await desk.check_wish()
        measuring, looking = (
            asyncio.ensure_future(files.measure(desk.job.part, paths)),
            # QEMU sets the run state a moment after the stream's status.
            asyncio.ensure_future(
                desk.wait_for(
                    guest, lambda view: view.state is not RunState.STOPPED_FOR_SWITCHOVER, "its stream has ended"
                )
            ),
        )
        writing = asyncio.ensure_future(desk.step(Step.HANDING, way=way))
        await asyncio.wait([measuring, looking, writing])  # none may go on while the way back is already taken
        writing.result()
        (length, disks), view = measuring.result(), looking.result()
        if view.state is not RunState.POSTMIGRATE:
            message = f"somebody else told {vm.name} to run while it was saved"
            raise SaveFailedError(message)
        desk.job = replace(desk.job, bytes=length)
        return self._header(vm, facts, way, length, disks)

    async def _stream(self, guest: Guest, way: Way) -> str:
        """Let QEMU write; returns its words where it could not, empty where it could."""
        events = guest.events()
        try:
            await guest.migrate(outgoing(way, self.desk.job.part))
        except MonitorCommandError as error:
            return error.message
        status, words = await self.desk.follow(guest, events)
        if status is StreamStatus.COMPLETED:
            return ""
        return words or f"its stream is {status}"

    async def _await_program(self, host: Host) -> None:
        """Wait for the end of the program that writes: QEMU is done before the last bytes are on the disk."""
        desk = self.desk
        end = desk.clock.now() + _PROGRAM_PATIENCE
        while not (said := await host.saves.program_ended(desk.job.part)):
            await desk.check_wish()
            if desk.clock.now() >= end:
                message = f"what writes {desk.job.path} has not ended within {_PROGRAM_PATIENCE:g} s"
                raise SaveFailedError(message, remedy="see whether its disk is full or hangs")
            await desk.clock.sleep(_POLL)
        if said != "0":
            message = f"what writes {desk.job.path} ended with status {said}: it is not whole"
            raise SaveFailedError(message, remedy="see whether its disk is full")

    # -- from the guest to the file ------------------------------------------------------------------------------------

    async def _hand_over(self, host: Host, guest: Guest, vm: Vm, header: Header) -> None:
        """Give the file its name, and end the guest's QEMU."""
        desk = self.desk
        trouble: GodwitError | None = None
        try:
            await host.saves.complete(desk.job.path, desk.job.part, encode_header(header))
            desk.job = replace(desk.job, stopped_s=desk.clock.now() - self._begun)
        except GodwitError as error:
            trouble = error
        await guest.close()
        await self._settle(host, vm, trouble)

    async def _settle(self, host: Host, vm: Vm, trouble: GodwitError | None) -> None:
        """Go on from where the file may have its name or not: it and the guest say which way is out."""
        desk = self.desk
        view = await desk.look(host, vm)
        if not await self._has_name(host):
            message = f"the process that saved {vm.name} died on the way"
            await self._undo(host, vm, trouble or SaveFailedError(message, remedy="save it again"))
            return
        if view.state is RunState.RUNNING:
            # Its disks have gone on: the file is of no use any more.
            await self._go_on(host, vm)
            await host.saves.discard(desk.job.path)
            message = f"somebody else told {vm.name} to run while it was saved; the file is removed"
            await desk.end(SaveFailedError(message))
            return
        if view.state is not RunState.ABSENT:
            await self._quit(host, vm)
        await host.destroy(vm)
        await host.saves.discard(desk.job.part)
        await desk.step(Step.CHECKING)
        await self._check(host)

    async def _has_name(self, host: Host) -> bool:
        """Say whether the file is there, and is that of this very save. Raises HostError where that is unknown."""
        try:
            length, head = await host.saves.head(self.desk.job.path)
            return decode_header(head, length, self.desk.job.path).id == self.desk.job.id
        except (HostUnreachableError, RemoteCommandError):
            raise  # nobody knows
        except (HostError, SaveFileError):
            return False

    async def _quit(self, host: Host, vm: Vm) -> None:
        """Let QEMU end by itself; whatever it does, `destroy` has the proof."""
        try:
            guest = await host.attach(vm)
            try:
                await guest.quit()
            finally:
                await guest.close()
        except HypervisorError as error:
            await self.desk.note(f"{vm.name}'s QEMU did not end by itself: {error.message}")

    async def _check(self, host: Host) -> None:
        """Make the checksums. The guest is saved already: what fails here is said, and spoils nothing."""
        desk = self.desk
        try:
            length, head = await host.saves.head(desk.job.path)
            header = decode_header(head, length, desk.job.path)
            sums = [said async for _, said in desk.chunk_sums(host, chunks(length))]
            digests = [(disk.path, await host.digest(disk.path, all_of_it=False)) for disk in header.disks]
            await host.saves.seal(desk.job.path, encode_seal(Seal(header.id, tuple(sums), tuple(digests))))
        except HostUnreachableError:
            raise
        except GodwitError as error:
            await desk.note(f"the file has no checksums, and a damage of it would not be seen: {error.message}")
        await desk.end()

    # -- back ----------------------------------------------------------------------------------------------------------

    async def _undo(self, host: Host, vm: Vm, error: GodwitError | None) -> None:
        """Let the guest run on, if it did before, and remove what was written. `error` is why; None: it is kept."""
        desk = self.desk
        if error is not None:
            desk.keep(error)
        if desk.job.step is not Step.UNDOING:
            try:
                await desk.step(Step.UNDOING)
            except SupersededError:
                raise
            except JournalError:
                # The step before has the same way out, and the guest stands still meanwhile: it goes first.
                await desk.note("going back was not written down before it was done")
        view = await desk.look(host, vm)
        if view.state is RunState.ABSENT:
            await host.saves.discard(desk.job.part)
            message = f"{vm.name} is gone: its QEMU on {host.name} ended while it was saved ({desk.job.error})"
            await desk.end(GuestCrashedError(message, remedy=f"godwit vm start {vm.name}"))
            return
        try:
            await self._go_on(host, vm)
        except MonitorLostError:
            # Once more, from what is seen now: it may just have ended.
            await desk.clock.sleep(1.0)
            view = await desk.look(host, vm)
            if view.state is not RunState.ABSENT:
                await self._go_on(host, vm)
        await host.saves.discard(desk.job.part)
        if any(step is Step.HANDING for step, _ in desk.job.steps) and await self._has_name(host):
            await host.saves.discard(desk.job.path)  # what was begun on the host got its name after all
        await self._end_undone(host, vm)

    async def _go_on(self, host: Host, vm: Vm) -> None:
        desk = self.desk
        guest = await host.attach(vm)
        try:
            view = await desk.end_stream(guest)
            if desk.job.was_running and view.state is not RunState.RUNNING:
                await desk.run_guest(guest)
            await guest.set_capabilities(afterwards(await guest.features()))
        finally:
            await guest.close()

    async def _end_undone(self, host: Host, vm: Vm) -> None:
        desk = self.desk
        does = "runs on" if desk.job.was_running else "stands still, as before"
        desk.job = replace(desk.job, error=f"{desk.job.error}; {vm.name} {does}, on {host.name}")
        await desk.step(Step.CANCELLED if desk.job.cancelled else Step.FAILED)
