"""The use cases about devices: what a guest has, plugging in and taking out; what a host can give, and its pools.

These act in the process that asks, which holds the guest meanwhile as a runner does. How the guest is started is kept
in step: what was plugged in moves along, and is there after the guest's next start; a PCI function of the host is its
own until it is switched off.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

from godwit.core import devices as core
from godwit.errors import BusyError, GodwitError, HostError, InputError, MonitorLostError
from godwit.identifiers import is_name
from godwit.model import DevicePool, FunctionPlan, NicPlan, RunState, Tap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Sequence

    from godwit.core.devices import HostFunction
    from godwit.model import DevicePlan, Launch, PciFunction, PluggedDevice, Vm
    from godwit.ports import Guest, Host
    from godwit.service import Service

T = TypeVar("T")

LETS_GO: Final = 30.0
"""Seconds that a guest may take to let go of a device: native PCIe hot-plug alone waits five."""


@dataclass(frozen=True, slots=True)
class Attached:
    """A device that a guest has now. `kept` says that it is there after the guest's next start; else `why` not."""

    vm: str
    device: PluggedDevice
    kept: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Detached:
    """A device that a guest has let go of, None where only what was behind it was left; and what was given back."""

    vm: str
    identifier: str
    device: PluggedDevice | None
    returned: tuple[str, ...] = ()
    kept: bool = True
    why: str = ""


@dataclass(frozen=True, slots=True)
class Devices:
    """What can be asked of devices; stands on the service."""

    service: Service

    # -- guests ----------------------------------------------------------------------------------------------------

    async def list(self, name: str) -> tuple[PluggedDevice, ...]:
        """List the named devices of a guest that runs. Raises HostError, HypervisorError."""
        vm = await self.service.inventory.vm(name)
        async with self.service.reached(vm.host) as host:
            guest = await host.attach(vm)
            try:
                return await guest.devices()
            finally:
                await guest.close()

    async def attach(self, name: str, plan: DevicePlan) -> Attached:
        """Plug a device into a guest that runs, under a name of its own if the plan has none.

        Raises InputError for what cannot be meant, HypervisorError where no port is free or QEMU refuses, HostError
        for a bridge or function that the host does not have: nothing is left of it then. A monitor that was lost on the
        way leaves all as it is, since the guest may have the device. Who is cancelled meanwhile has it all the same.
        """
        return await _whole(self._attach(name, plan))

    async def _attach(self, name: str, plan: DevicePlan) -> Attached:
        async with self._held(name) as (vm, host, guest):
            plan = core.named(plan, name, await guest.names_in_use())
            if isinstance(plan, FunctionPlan):
                return await self._attach_function(vm, host, guest, plan)
            facts = await guest.facts()
            taps = (Tap(core.free_tap(name, facts.launch.taps), plan.bridge),) if isinstance(plan, NicPlan) else ()
            # Written down before it is made: whatever ends this process, the guest's end removes the tap.
            await self._keep(vm, replace(vm.launch, taps=core.joined(vm.launch.taps, taps)))
            try:
                await host.plug_taps(taps)
                interface = taps[0].interface if taps else ""
                device = await guest.plug(plan, tap=interface, vhost=facts.accelerator == "kvm")
            except MonitorLostError:
                raise
            except GodwitError:
                await host.remove_taps([tap.interface for tap in taps])
                await self._keep(vm, vm.launch)
                raise
            why = await self._follow(vm, host, guest, taps)
            return Attached(name, device, kept=not why, why=why)

    async def _attach_function(self, vm: Vm, host: Host, guest: Guest, plan: FunctionPlan) -> Attached:
        functions = await host.functions()
        if not plan.address:
            plan = replace(plan, address=await self._free_function(vm, functions, plan.pool))
        if any(one.source == plan.address for one in await guest.devices()):
            message = f"{vm.name} has {plan.address} already"
            raise InputError(message, remedy=f"godwit device list {vm.name}")
        try:
            await host.take_function(plan.address, vm.name, mac=plan.mac, vlan=plan.vlan)
            device = await guest.plug(plan)
        except MonitorLostError:
            raise
        except GodwitError:
            await host.give_back_functions(vm.name, plan.address)
            raise
        why = f"{plan.address} is the host's again when {vm.name} is off"
        return Attached(vm.name, device, kept=False, why=why)

    async def _free_function(self, vm: Vm, functions: Sequence[PciFunction], pool: str) -> str:
        record = await self.service.inventory.host(vm.host)
        if pool not in {one.name for one in record.pools}:
            known = ", ".join(one.name for one in record.pools) or "none"
            message = f"{record.name} has no pool {pool!r}; it has: {known}"
            raise InputError(message, remedy=f"godwit host pool {record.name} {pool} --functions PF/*")
        found = [one for one in core.with_pools(functions, record.pools) if pool in one.pools]
        free = next((one.function.address for one in found if one.free), None)
        if free is None:
            message = f"none of the {len(found)} functions of pool {pool} on {record.name} is free"
            raise BusyError(message, remedy=f"godwit host devices {record.name} says who has them")
        return free

    async def detach(self, name: str, identifier: str, *, deadline: float = LETS_GO) -> Detached:
        """Let a guest let go of a device, within `deadline` seconds, and tidy up after it.

        Raises InputError for a name that nothing has, HypervisorError where the guest does not let go: it keeps it.
        """
        async with self._held(name) as (vm, host, guest):
            before = {tap.interface for tap in (await guest.facts()).launch.taps}
            try:
                device = await guest.unplug(identifier, deadline=deadline)
            except InputError:
                # A function that the guest let go of when nobody waited any more is still its own on the host.
                if not await self._left_over(host, guest, name):
                    raise
                device = None
            returned: list[str] = []
            for address in await self._left_over(host, guest, name):
                returned += await host.give_back_functions(name, address)
            after = {tap.interface for tap in (await guest.facts()).launch.taps}
            known = {tap.interface for tap in vm.launch.taps}
            gone = sorted((before | known) - after)
            await host.remove_taps(gone)
            why = await self._follow(vm, host, guest, ())
            return Detached(name, identifier, device, tuple(returned), kept=not why, why=why)

    async def _left_over(self, host: Host, guest: Guest, name: str) -> tuple[str, ...]:
        """Return the functions of the host that are the guest's, and that its QEMU has not got."""
        used = {one.source for one in await guest.devices() if one.kind == "function"}
        return tuple(one.address for one in await host.functions() if one.guest == name and one.address not in used)

    async def _follow(self, vm: Vm, host: Host, guest: Guest, taps: Sequence[Tap]) -> str:
        """Let the guest be started in future as it is now, without functions of the host that it has until it is off.

        Returns why it cannot be.
        """
        facts = await guest.facts()
        hindrances = (*facts.refusals, *facts.inherited_descriptors)
        if hindrances:
            await self._keep(vm, replace(vm.launch, taps=core.joined(vm.launch.taps, taps)))
            return "; ".join(hindrances)
        given = {device.source for device in await guest.devices() if device.kind == "function"}
        ours = {one.address for one in await host.functions() if one.guest == vm.name} & given if given else set()
        await self._keep(vm, replace(facts.launch, argv=core.without_functions(facts.launch.argv, ours)))
        return ""

    async def _keep(self, vm: Vm, launch: Launch) -> None:
        await self.service.inventory.put_vm(replace(vm, launch=launch))

    # -- hosts -----------------------------------------------------------------------------------------------------

    async def functions(self, host: str) -> tuple[HostFunction, ...]:
        """List the PCI network functions of a host, each with its pools. Raises HostError, UnknownHostError."""
        record = await self.service.inventory.host(host)
        async with self.service.reached(host) as opened:
            return core.with_pools(await opened.functions(), record.pools)

    async def set_pool(self, host: str, name: str, functions: Sequence[str]) -> DevicePool | None:
        """Give functions of a host a name; without any the name is forgotten. Raises InputError."""
        if not is_name(name):
            message = f"{name[:80]!r} cannot be the name of a pool"
            raise InputError(message, remedy="use at most 64 letters, digits, _ . - and begin with a letter or digit")
        record = await self.service.inventory.host(host)
        others = tuple(one for one in record.pools if one.name != name)
        if not functions and len(others) == len(record.pools):
            message = f"{host} has no pool {name}"
            raise InputError(message, remedy=f"godwit host devices {host} lists them")
        pool = DevicePool(name, tuple(core.selector(one) for one in functions)) if functions else None
        await self.service.inventory.put_host(replace(record, pools=(*others, *((pool,) if pool else ()))))
        return pool

    # -- common ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _held(self, name: str) -> AsyncIterator[tuple[Vm, Host, Guest]]:
        """Hold a guest that runs, as a runner does, and reach its monitor. Raises BusyError, InputError."""
        async with self.service.held(name) as vm, self.service.reached(vm.host) as host:
            view = await host.observe(vm)
            if view.state is RunState.ABSENT:
                message = f"{name} is off"
                raise InputError(message, remedy=f"godwit vm start {name}; or write it into the guest's definition")
            if view.state not in {RunState.RUNNING, RunState.PAUSED}:
                message = f"{name} is {view.state} on {vm.host}: {view.detail or view.raw}"
                raise HostError(message, remedy=f"godwit vm show {name}")
            guest = await host.attach(vm)
            try:
                yield vm, host, guest
            finally:
                await asyncio.shield(guest.close())


async def _whole(doing: Coroutine[object, object, T]) -> T:
    """Do it to its end, though whoever waits is cancelled: half a device would be left else."""
    task = asyncio.ensure_future(doing)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
