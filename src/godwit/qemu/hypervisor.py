"""The port `Hypervisor` for QEMU: definitions that people write, and processes that somebody else started."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, cast

from godwit.errors import HypervisorError, InputError, QemuMissingError
from godwit.model import Launch, Vm
from godwit.qemu import offline
from godwit.qemu.beside import beside, unshared
from godwit.qemu.commandline import guest_name
from godwit.qemu.unplugging import with_devices

if TYPE_CHECKING:
    from collections.abc import Mapping

    from godwit.core.snapshots import DiskSnapshots
    from godwit.model import GuestFacts, HostFacts, QemuFacts
    from godwit.ports import Host
    from godwit.qemu.process import ProcessFacts


class _FindsQemu(Protocol):
    async def find_qemu(self, socket: str) -> ProcessFacts: ...


class QemuHypervisor:
    """See `godwit.ports.Hypervisor`."""

    def define(self, text: str, origin: str, host: HostFacts) -> Vm:
        """Read a definition for a guest that is to run on `host`; see the port."""
        from godwit.qemu.define import DEFAULT_PROGRAM, load_definition  # noqa: PLC0415 - start-up time
        from godwit.qemu.vmline import to_vm  # noqa: PLC0415 - start-up time

        definition = load_definition(text, origin)
        if host.qemu is None:
            message = f"{host.name} has no QEMU to run {definition.name}"
            raise QemuMissingError(message, remedy=f"install QEMU on {host.name}")
        machine = dict(host.qemu.machine_aliases).get(definition.machine, definition.machine)
        if machine not in host.qemu.machine_types:
            message = f"the QEMU of {host.name} has no machine type {definition.machine}"
            raise InputError(message, remedy="name one that `qemu-system-x86_64 -machine help` lists")
        accelerator = definition.accelerator
        if accelerator == "auto":
            accelerator = "kvm" if "kvm" in host.accelerators else "tcg"
        elif accelerator not in host.accelerators:
            message = f"{host.name} cannot run guests under {accelerator}: {'; '.join(host.notes)}"
            raise InputError(message, remedy=f"usable there: {', '.join(host.accelerators)}")
        return to_vm(
            definition,
            host=host.name,
            machine=machine,
            accelerator=accelerator,
            source_text=text,
            shares_memory=host.qemu.shares_memory and definition.qemu in {DEFAULT_PROGRAM, host.qemu.path},
        )

    def beside(self, vm: Vm, launch: Launch, program: str) -> Vm:
        """Return the guest under names that may exist beside those that it has; see the port."""
        return beside(vm, launch, program)

    def fitted(self, launch: Launch, qemu: QemuFacts) -> Launch:
        """Return the launch without what this QEMU lacks and the guest does not see; see the port."""
        return launch if qemu.shares_memory else unshared(launch)

    def with_devices(self, launch: Launch, devices: Mapping[str, str]) -> Launch:
        """Return the launch with these devices, by name; see the port."""
        return with_devices(launch, devices)

    async def adopt(self, host: Host, socket: str, name: str | None) -> Vm:
        """Describe the QEMU that serves `socket` on `host`; see the port."""
        from godwit.qemu.define import valid_name  # noqa: PLC0415 - start-up time

        process = await cast("_FindsQemu", host).find_qemu(socket)
        probe = Vm(
            name or f"pid-{process.pid}",
            host.name,
            launch=Launch(process.argv, process.cwd),
            control=socket,
            adopted=True,
        )
        guest = await host.attach(probe)
        try:
            facts = await guest.facts()
        finally:
            await guest.close()
        _refuse(facts)
        found = name or guest_name(process.argv) or f"vm-{process.pid}"
        try:
            valid_name(found)
        except ValueError as error:
            message = f"the guest calls itself {found!r}, which {error}"
            raise InputError(message, remedy="give it another with --name") from error
        return replace(probe, name=found, launch=facts.launch)

    def disks(self, launch: Launch) -> tuple[DiskSnapshots, ...]:
        """Return the disks that a command line names, for a guest that is off; see the port."""
        return offline.disks_of(launch)


def _refuse(facts: GuestFacts) -> None:
    """Name what makes a QEMU impossible to start elsewhere as it is."""
    if facts.libvirt:
        message = "libvirt owns this QEMU"
        raise HypervisorError(message, remedy="move it with libvirt's own tools, or let libvirt go of it first")
    reasons = (*(f"it was given an open file: {one}" for one in facts.inherited_descriptors), *facts.refusals)
    if reasons:
        message = f"this QEMU cannot be started elsewhere as it is: {'; '.join(reasons)}"
        remedy = (
            "start it without that, with paths and names in place of what was opened for it, then adopt it; "
            "a guest with a macvtap is to be defined ([[nics]] macvtap), so that Godwit opens it"
        )
        raise HypervisorError(message, remedy=remedy)
