"""A composition root of its own: the real engine, strategy and preflight over simulated hosts, in one process."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from godwit.engine.engine import Engine
from godwit.engine.jobs import carry
from godwit.errors import BusyError, InputError
from godwit.hosts.fake import FakeHost, FakeWorld, LoopClock, Workload
from godwit.hosts.fakecredentials import FakeAuthority
from godwit.hosts.fakewatch import FakeWatcher
from godwit.identifiers import is_job
from godwit.journal.memory import MemoryInventory, MemoryJournal
from godwit.model import HostRecord, Launch, Vm
from godwit.qemu.hypervisor import QemuHypervisor
from godwit.qemu.offline import disks_of
from godwit.saves import Saves
from godwit.service import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from godwit.core.snapshots import DiskSnapshots
    from godwit.model import HostFacts
    from godwit.ports import Host, Log

ADDRESS: Final = "198.18.0.100"
_DISK: Final = "/images/web1.raw"
_GUEST: Final = Vm(
    name="web1",
    host="host1",
    launch=Launch(("qemu-system-x86_64", "-name", "web1", "-m", "512", "-drive", f"file={_DISK}")),
    control="/run/web1/control.sock",
    address=ADDRESS,
)


@dataclass(slots=True)
class TaskRunners:
    """Runners as tasks of this process: nothing here outlives it; see `godwit.ports.Runners`."""

    service: Service | None = None
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)

    def start(self, identifier: str, vm: str) -> None:
        """Start a runner."""
        self.tasks[vm] = asyncio.get_running_loop().create_task(self._run(identifier))

    async def _run(self, identifier: str) -> None:
        assert self.service is not None  # noqa: S101 - simulated() sets it; for the type checker
        if is_job(identifier):
            await carry(await Saves(self.service).desk(identifier))
            return
        epoch = await self.service.journal.take_over(identifier)
        row, state = await self.service.journal.load(identifier)
        parts = await self.service.parts(row.spec, epoch=epoch, requested=row.created)
        await Engine(replace(parts, simulated=True), state).run()

    def alive(self, vm: str) -> bool:
        """Say whether a runner holds this guest."""
        task = self.tasks.get(vm)
        return task is not None and not task.done()

    def logs(self) -> dict[str, Log]:
        """Tasks say nothing."""
        return {}

    def remove_log(self, identifier: str) -> None:
        """There is none."""

    @asynccontextmanager
    async def hold(self, vm: str) -> AsyncIterator[None]:
        """Hold this guest as a runner does."""
        if self.alive(vm) or vm in self.held:
            message = f"somebody else works on {vm}"
            raise BusyError(message)
        self.held.add(vm)
        try:
            yield
        finally:
            self.held.discard(vm)


class _NothingToDefine(QemuHypervisor):
    """The simulation has its guest already; see `godwit.ports.Hypervisor`."""

    def define(self, text: str, origin: str, host: HostFacts) -> Vm:  # noqa: ARG002 - the port has them
        message = "the simulation has one guest, and takes no other"
        raise InputError(message)

    async def adopt(self, host: Host, socket: str, name: str | None) -> Vm:  # noqa: ARG002 - as above
        message = "the simulation has no QEMU that could be adopted"
        raise InputError(message)

    def disks(self, launch: Launch) -> tuple[DiskSnapshots, ...]:
        return disks_of(launch)


async def simulated(workload: Workload | None = None, *, speed: float = 1.0) -> Service:
    """Return Godwit over two simulated hosts, host1 and host2, with a guest web1 that runs on host1.

    `speed` makes the simulation's clock run faster than real time. Must be called within a running loop.
    """
    world = FakeWorld(LoopClock(speed=speed), seed=1)
    hosts: dict[str, Host] = {name: FakeHost(world, name) for name in ("host1", "host2")}
    world.add_file(_DISK)
    journal = MemoryJournal()
    inventory = MemoryInventory(journal)
    runners = TaskRunners()
    service = Service(
        journal=journal,
        inventory=inventory,
        hypervisor=_NothingToDefine(),
        runners=runners,
        watcher=FakeWatcher(world, {ADDRESS: _GUEST.name}),
        clock=world.clock,
        open_host=lambda record: hosts[record.name],
        authority=FakeAuthority(world.clock),
    )
    runners.service = service
    for name in hosts:
        await inventory.put_host(HostRecord(name, f"ssh://root@{name}"))
    await inventory.put_vm(world.start_guest("host1", _GUEST, workload))
    return service
