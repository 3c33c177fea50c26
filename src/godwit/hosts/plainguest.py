"""A guest of a host with plain QEMU: what its monitor says, completed by what only the host knows."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from godwit.errors import HostError, HypervisorError, MonitorLostError
from godwit.hosts import hostfacts, launching, processes
from godwit.hosts.cputimes import cpu_times
from godwit.hosts.memorysample import sample_memory
from godwit.hosts.shell import run_script
from godwit.qemu import agent, ramblocks
from godwit.qemu.guest import QemuGuest

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from godwit.hosts.transport import Transport
    from godwit.model import GuestFacts, MemorySample, StrayImage, Tap, Vm
    from godwit.qemu.monitor import Monitor
    from godwit.qemu.process import ProcessFacts

_FOUND_FROM_ROOT: Final = r"""
for name in "$@"; do
    if [ -e "/$name" ]; then echo yes; else echo no; fi
done
"""


class PlainGuest(QemuGuest):
    """A guest of this host: what its monitor says, completed by what only the host knows."""

    def __init__(
        self, vm: Vm, monitor: Monitor, transport: Transport, open_macvtaps: Callable[[Sequence[Tap]], Awaitable[None]]
    ) -> None:
        """Own `monitor`, which speaks for `vm` on the host behind `transport`; `open_macvtaps` is that host's."""
        super().__init__(vm.name, monitor, self._look)
        self._open_macvtaps = open_macvtaps
        self._vm = vm
        self._transport = transport

    async def _look(self) -> ProcessFacts:
        found = await launching.running(self._transport, self._vm)
        if not found:
            message = f"no process of {self._vm.name} can be seen on {self._transport.where}"
            raise HostError(message, remedy="log in as root, or as the user that runs the guest")
        return await processes.read_process(self._transport, found[-1], self._vm.launch.taps)

    async def resume(self) -> None:
        """Tell the guest to run, and let its macvtaps go up meanwhile: until now they had to be down."""
        await asyncio.gather(super().resume(), self._open_macvtaps(self._vm.launch.taps))

    async def cpu_times(self) -> tuple[float, ...]:
        """Return the seconds for which each of the guest's CPUs has worked so far; see the port."""
        return await cpu_times(self._transport, await self.cpu_threads())

    async def sample_memory(self) -> MemorySample:
        """Look at some pages of the guest's memory; see the port."""
        areas = await ramblocks.areas(self.human)
        if not areas:
            message = f"QEMU on {self._transport.where} does not say where the memory of {self._vm.name} lies"
            raise HypervisorError(message)
        return await sample_memory(self._transport, (await self._look()).pid, areas)

    async def power_off_by_agent(self) -> bool:
        """Ask the guest's agent to switch the guest off; returns False where it has no channel for one."""
        return await self._by_agent(agent.power_off)

    async def trim_by_agent(self) -> bool:
        """Let the guest's agent trim its disks; returns False where it has no channel for one."""
        return await self._by_agent(agent.trim)

    async def addresses_by_agent(self) -> Mapping[str, tuple[str, ...]]:
        """Return the IP addresses of the guest's interfaces by MAC address; empty where it has no channel."""
        channel = await self._agent_channel()
        return {} if channel is None else await agent.addresses(channel)

    async def time_by_agent(self) -> float | None:
        """Return what the guest's clock shows; None where it has no channel for an agent."""
        channel = await self._agent_channel()
        return None if channel is None else await agent.time(channel)

    async def set_time_by_agent(self, at: Callable[[], float]) -> bool:
        """Let the guest's agent set its clock; returns False where it has no channel for one."""
        return await self._by_agent(lambda channel: agent.set_time(channel, at))

    async def _by_agent(self, ask: Callable[[socket.socket], Awaitable[None]]) -> bool:
        channel = await self._agent_channel()
        if channel is None:
            return False
        await ask(channel)
        return True

    async def _agent_channel(self) -> socket.socket | None:
        path = agent.channel_of(await self._look())
        if path is None:
            return None
        try:
            return await self._transport.open_unix(path, deadline=agent.ANSWERS)
        except MonitorLostError as error:  # of the agent's channel, not of QEMU's monitor
            raise HypervisorError(error.message, remedy=error.remedy) from None

    async def facts(self) -> GuestFacts:
        """Describe the running machine; the bridge of each tap, and whether an image is lost, comes from the host."""
        facts = await super().facts()
        network = await hostfacts.ask_network(self._transport)
        nics = tuple(nic if nic.tap is None else replace(nic, tap=network.plugged(nic.tap)) for nic in facts.nics)
        launch = replace(facts.launch, taps=tuple(map(network.plugged, facts.launch.taps)))
        return replace(facts, nics=nics, launch=launch, stray_images=await self._lost(facts.stray_images))

    async def _lost(self, images: tuple[StrayImage, ...]) -> tuple[StrayImage, ...]:
        """Return the images that are not to be found from "/": somebody may have put links there."""
        if not images:
            return ()
        completed = await run_script(self._transport, _FOUND_FROM_ROOT, *(image.name for image in images))
        found = completed.stdout.decode(errors="replace").split()
        return tuple(image for image, there in zip(images, found, strict=True) if there == "no")
