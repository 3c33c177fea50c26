"""Sends a guest to another host with a snapshot of it: static migration, in journalled steps.

The guest is off from the moment at which its source ends until it runs on the target. Whatever fails before that, it is
started again on the source, from the same snapshot, and what was made on the target is removed. Each step is durable
before it is acted upon, so that a successor knows what may have happened; see `godwit.core.sending`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from godwit.core import snapshots
from godwit.core.sending import SendStep
from godwit.engine.carrying import Carrier, to_its_end, whole
from godwit.engine.keys import Keys
from godwit.errors import (
    GodwitError,
    GuestCrashedError,
    HypervisorError,
    LimboError,
    MigrationCancelledError,
    MigrationFailedError,
    MonitorCommandError,
)
from godwit.model import RunState

if TYPE_CHECKING:
    from collections.abc import Callable

    from godwit.core.sending import SendRecord
    from godwit.model import Launch, Vm
    from godwit.ports import Authority, Clock, Guest, Host, Inventory

RUN_DEADLINE: Final = 20.0
"""Seconds that the guest may take on the target from being told to run until it does."""

_POLL: Final = 0.05


@dataclass(frozen=True, slots=True)
class Told:
    """What whoever waits is told: a step in words, or how many bytes of a file are there."""

    text: str
    done: int = 0
    whole: int = 0


@dataclass(slots=True)
class Sending:
    """One guest on its way. `address` is where the target takes files from the source, `keys` see `Parts.keys`."""

    record: SendRecord
    vm: Vm
    source: Host
    target: Host
    address: str
    inventory: Inventory
    clock: Clock
    authority: Authority
    keys: str
    tell: Callable[[Told], None]
    left: list[str] = field(default_factory=list)
    stuck: str = ""

    # -- the way there ---------------------------------------------------------------------------------------------

    async def begin(self, guest: Guest) -> Vm:
        """Pause the guest, keep its snapshot if there is none yet, end its QEMU, and go on. Closes `guest`.

        Raises MigrationFailedError or MigrationCancelledError when it runs on, on the source; LimboError,
        GuestCrashedError.
        """
        try:
            await self._write(SendStep.SAVING)
            await guest.pause()
            if self.record.made:
                self.tell(Told(f"keeping its memory and disks as {self.record.tag}; it stands still from now on"))
                disks = await guest.snapshots()
                # QEMU cannot be stopped in it, and answers nothing before: a wish to go back is heard afterwards.
                save = guest.save_snapshot(self.record.tag, snapshots.state_node(disks), snapshots.nodes(disks))
                await whole(save)
        except BaseException as error:
            await to_its_end(self._undo_saving(guest))
            raise self._ended(error) from error
        return await self.go_on(guest)

    async def go_on(self, guest: Guest | None = None) -> Vm:
        """End the source, carry its files, start it on the target. Raises as `begin` does."""
        try:
            if self.record.step in {SendStep.SAVING, SendStep.ENDING}:
                await whole(self._end_source(guest))
            await self._carry()
            there = await self._start_there()
        except BaseException as error:
            await to_its_end(self._go_back(error))
            raise self._ended(error) from error
        return await to_its_end(self._hand_over(there))

    async def _end_source(self, guest: Guest | None) -> None:
        self.tell(Told(f"ending it on {self.source.name}"))
        await self._write(SendStep.ENDING)
        if guest is not None:
            try:
                await guest.quit()  # it writes back what it still holds of its images
            except GodwitError as error:
                self.left.append(f"its QEMU on {self.source.name} had to be killed: {error.message}")
            await guest.close()
        await self.source.destroy(self.vm)

    async def _carry(self) -> None:
        await self._write(SendStep.CARRYING)
        carrier = self._carrier()
        for path in self.record.files:
            await carrier.end(path)
            await self.target.remove_image(path, self.record.id)  # what a predecessor left half done
            self.tell(Told(f"carrying {path} to {self.target.name}"))
            await carrier.carry(path, lambda done, whole, path=path: self.tell(Told(path, done, whole)))  # type: ignore[misc]

    def _carrier(self) -> Carrier:
        authority = None if self.record.plaintext else self.authority
        ends = self.source, self.target, self.address
        return Carrier(*ends, self.record.id, self.clock, self._tell_left, authority=authority, keys=self.keys)

    def _tell_left(self, words: str) -> None:
        """Tell what is left of a file; what is still there when the way back comes to it is named at the end, too."""
        self.tell(Told(words))

    async def _start_there(self) -> Guest:
        """Start the target's QEMU paused, and let it go to the snapshot."""
        self.tell(Told(f"starting it on {self.target.name}, from {self.record.tag}"))
        await self._write(SendStep.STARTING)
        await self.target.destroy(self.vm)  # what a predecessor started never ran
        there = await start_from(self.target, self.vm, self.record.launch, self.record.tag)
        try:
            await self._refuse_two()
        except BaseException:
            await there.close()
            raise
        return there

    async def _refuse_two(self) -> None:
        """Raise HypervisorError where the source, which was proven gone before, has a process of the guest again."""
        view = await self.source.observe(self.vm)
        if view.state not in {RunState.ABSENT, RunState.UNREACHABLE}:
            message = f"{self.vm.name} was started again on {self.source.name} ({view.state})"
            raise HypervisorError(message, remedy="find out who starts it there")

    async def _hand_over(self, there: Guest) -> Vm:
        """From here on the target owns the guest."""
        try:
            await self._write(SendStep.ARMED)
            vm = replace(self.vm, host=self.target.name, launch=self.record.launch)
            await self.inventory.put_vm(vm)
            if self.record.running:
                await there.resume()
                await self._runs(there)
                await there.announce()
        finally:
            await there.close()
        await self._finish()
        return vm

    async def _runs(self, there: Guest) -> None:
        end = self.clock.now() + RUN_DEADLINE
        while (view := await there.view()).state is not RunState.RUNNING:
            if self.clock.now() >= end:
                message = f"{self.vm.name} was told to run on {self.target.name} and is {view.state} ({view.raw})"
                raise LimboError(message, remedy=f"{self.record.command}  (tells it again)")
            await self.clock.sleep(_POLL)

    async def finish(self) -> Vm:
        """Bring a guest that is the target's to its end: let it run, if it is to. Raises as `begin` does."""
        return await to_its_end(self._hand_over(await self.target.attach(self.vm)))

    async def crashed(self) -> None:
        """End the sending of a guest that is the target's and whose process is gone there. Raises GuestCrashedError."""
        await self.inventory.put_vm(replace(self.vm, host=self.target.name, launch=self.record.launch))
        await self._finish()
        message = f"{self.vm.name} was told to run on {self.target.name}, and its process is gone there"
        remedy = f"godwit vm start {self.vm.name}, or from where it was: godwit snapshot apply {self.vm.name} "
        raise GuestCrashedError(message, remedy=remedy + self.record.tag)

    async def _finish(self) -> None:
        for path in self.record.files:
            try:
                await self.target.keep_image(path, self.record.id)
            except GodwitError as error:
                self.left.append(f"the mark beside {path} on {self.target.name}: {error.message}")
        await self._remove_keys()
        await self.inventory.remove_send(self.vm.name)

    # -- the way back ----------------------------------------------------------------------------------------------

    async def undo_saving(self) -> None:
        """Undo what a predecessor did that died while it kept the snapshot: the guest is as it was, the send forgotten.

        A guest that is off meanwhile stays so. Raises HostError, HypervisorError.
        """
        if (await self.source.observe(self.vm)).state is RunState.ABSENT:
            await self.inventory.remove_send(self.vm.name)
            return
        await self._undo_saving(await self.source.attach(self.vm))

    async def _undo_saving(self, guest: Guest) -> None:
        """Let the guest run as before; a snapshot that was this send's own is removed."""
        try:
            if self.record.made:
                disks = snapshots.holders(await guest.snapshots(), self.record.tag)
                if disks:
                    await guest.delete_snapshot(self.record.tag, snapshots.nodes(disks))
            if self.record.running and (await guest.view()).state is RunState.PAUSED:
                await guest.resume()
        except GodwitError as error:
            self.stuck = error.message
            return  # the record stays: whoever comes next tries again
        finally:
            await guest.close()
        await self.inventory.remove_send(self.vm.name)

    async def _go_back(self, reason: BaseException) -> None:
        """Remove what was made on the target, and start the guest on the source again, from the snapshot."""
        self.tell(Told(f"going back: {reason}" if isinstance(reason, GodwitError) else "going back"))
        await self._clear_target()
        view = await self.source.observe(self.vm)
        if view.state is RunState.ABSENT:
            again = await start_from(self.source, self.vm, self.record.launch, self.record.tag)
        elif view.state in {RunState.PAUSED, RunState.RUNNING}:  # it could not be ended: it is what it was
            again = await self.source.attach(self.vm)
        else:
            message = f"{self.vm.name} is {view.state} on {self.source.name}, and was not started again: {view.detail}"
            raise LimboError(message, remedy=f"when that has changed: {self.record.command}")
        try:
            if self.record.running:
                await again.resume()
        finally:
            await again.close()
        await self._remove_keys()
        await self.inventory.remove_send(self.vm.name)

    async def give_up(self) -> None:
        """Forget a sending whose guest somebody has started on the source; what was made on the target is removed."""
        await self._clear_target()
        await self._remove_keys()
        await self.inventory.remove_send(self.vm.name)

    async def _clear_target(self) -> None:
        """End what was started there (it never ran) and remove what was made.

        Raises LimboError where a process may still have a shared disk open: the source must not open it beside.
        """
        try:
            await self.target.destroy(self.vm)
            for path in self.record.files:
                await self._carrier().end(path)
                await self.target.remove_image(path, self.record.id)
        except GodwitError as error:
            if self.record.shared and self.record.step is SendStep.STARTING:
                message = (
                    f"{self.vm.name} is off: whether a paused QEMU on {self.target.name} still has its disks open "
                    f"cannot be found out ({error.message})"
                )
                raise LimboError(message, remedy=f"when {self.target.name} answers: {self.record.command}") from error
            files = ", ".join(self.record.files) or "nothing but a paused QEMU"
            self.left.append(f"on {self.target.name}, as far as it was made: {files} ({error.message})")

    async def _remove_keys(self) -> None:
        """See that no host keeps keys of what was carried; those that may be left are named."""
        if self.record.plaintext:
            return
        keys = Keys(self.keys, self.record.id, self.vm.name, self.clock)
        ends = await asyncio.gather(*(keys.removed(host) for host in (self.source, self.target)))
        self.left += [error.message for error in ends if error is not None]

    def _ended(self, error: BaseException) -> BaseException:
        """Return what the end amounts to, once the guest is the source's again."""
        if self.stuck:
            message = f"{self.vm.name} may still be paused, on {self.source.name}: {self.stuck}"
            return LimboError(message, remedy=f"when {self.source.name} answers: {self.record.command}")
        rest = "; ".join(self.left)
        left = f" (left over: {rest})" if rest else ""
        state = "runs on" if self.record.running else "stands"
        if isinstance(error, GodwitError):
            message = f"{self.vm.name} {state}, on {self.source.name}: {error.message}{left}"
            return MigrationFailedError(message, remedy=error.remedy)
        if isinstance(error, asyncio.CancelledError):
            message = f"interrupted; {self.vm.name} {state}, on {self.source.name}{left}"
            return MigrationCancelledError(message)
        return error

    async def _write(self, step: SendStep) -> None:
        self.record = replace(self.record, step=step)
        await self.inventory.put_send(self.record)


async def start_from(host: Host, vm: Vm, launch: Launch, tag: str) -> Guest:
    """Start a guest's QEMU paused and take it to a snapshot; returns its monitor. It does not run yet.

    Where that fails, the QEMU is ended again. Raises HostError, HypervisorError, RefusedError.
    """
    await host.prepare_launch(vm, launch)
    guest: Guest | None = None
    try:
        await host.launch(vm, replace(launch, argv=(*launch.argv, "-S")))
        guest = await host.attach(vm)
        disks = await guest.snapshots()
        snapshots.whole_tag(vm.name, tag, snapshots.catalogue(disks))
        await guest.load_snapshot(tag, snapshots.state_node(disks, tag), snapshots.nodes(disks))
    except BaseException as error:
        if guest is not None:
            await guest.close()
        await to_its_end(host.destroy(vm))
        if isinstance(error, MonitorCommandError):
            message = f"{vm.name} could not go to {tag} on {host.name}: {error.message}"
            raise HypervisorError(message, remedy="its log on the host says more; the image is as it was") from error
        raise
    return guest
