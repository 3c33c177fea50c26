"""A whole Godwit in memory for the command line's tests: simulated hosts, the real engine, a journal in memory.

Run as a program it is `godwit` over that stage; what became of the migration is written to the file STAGE_REPORT.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from godwit.cli import ground
from godwit.cli.main import main
from godwit.core.state import Phase, State
from godwit.engine.engine import Engine
from godwit.engine.jobs import carry
from godwit.hosts.fake import FakeHost, FakeWorld, LoopClock, Workload
from godwit.hosts.fakecredentials import FakeAuthority
from godwit.hosts.fakewatch import FakeWatcher
from godwit.identifiers import is_job
from godwit.journal.memory import MemoryInventory, MemoryJournal
from godwit.model import HostRecord, Launch, Outcome, OutcomeStatus, Owner, Spec, Vm
from godwit.ports import Entry
from godwit.qemu.hypervisor import QemuHypervisor
from godwit.qemu.offline import disks_of
from godwit.saves import Saves
from godwit.service import Service
from godwit.simulation import TaskRunners

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from godwit.core.snapshots import DiskSnapshots
    from godwit.model import HostFacts
    from godwit.ports import Host, Hypervisor

    Act = Callable[[Service, str], Coroutine[object, object, None]]

ADDRESS = "198.18.0.100"
WEB1 = Vm(
    "web1",
    "host1",
    Launch(("qemu-system-x86_64", "-name", "web1", "-m", "512", "-drive", "file=/images/web1.raw")),
    control="/run/web1.qmp",
    address=ADDRESS,
)


async def engine(service: Service, identifier: str) -> None:
    """Carry the migration, save or restore as a runner does."""
    if is_job(identifier):
        await carry(await Saves(service).desk(identifier))
        return
    epoch = await service.journal.take_over(identifier)
    row, state = await service.journal.load(identifier)
    parts = await service.parts(row.spec, epoch=epoch, requested=row.created)
    await Engine(replace(parts, simulated=True), state).run()


def ends(status: OutcomeStatus, *, error: str = "", remedy: str = "") -> Act:
    """Return a runner that brings a migration to that end at once."""
    phases = {OutcomeStatus.COMPLETED: Phase.DONE, OutcomeStatus.CANCELLED: Phase.CANCELLED}
    phase = Phase.LIMBO if status is OutcomeStatus.LIMBO else phases.get(status, Phase.FAILED)
    moved = status in {OutcomeStatus.COMPLETED, OutcomeStatus.GUEST_CRASHED}
    owner = Owner.TARGET if moved else Owner.UNKNOWN if status is OutcomeStatus.LIMBO else Owner.SOURCE

    async def act(service: Service, identifier: str) -> None:
        epoch = await service.journal.take_over(identifier)
        row, _ = await service.journal.load(identifier)
        spec: Spec = row.spec
        data: dict[str, object] = {"event": "Begin", "detail": {}, "phase": phase.value, "owner": owner.value}
        state = State(phase=phase, owner=owner)
        entry = Entry(0, row.created, "transition", data)
        await service.journal.transition(identifier, epoch, entry, state, durable=True)
        outcome = Outcome(identifier, spec.vm, spec.source, spec.target, status, owner, 1.5, error=error, remedy=remedy)
        await service.journal.conclude(identifier, epoch, outcome)

    return act


class ActingRunners(TaskRunners):
    """Runners that do what a test wants, in place of carrying a migration."""

    def __init__(self, act: Act) -> None:
        super().__init__()
        self.act = act
        self.started: list[str] = []

    def start(self, identifier: str, vm: str) -> None:
        assert self.service is not None
        self.started.append(identifier)
        self.tasks[vm] = asyncio.get_running_loop().create_task(self.act(self.service, identifier))


class NoHypervisor(QemuHypervisor):
    """Nothing is defined or adopted on this stage."""

    def define(self, text: str, origin: str, host: HostFacts) -> Vm:
        raise NotImplementedError

    async def adopt(self, host: Host, socket: str, name: str | None) -> Vm:
        raise NotImplementedError

    def disks(self, launch: Launch) -> tuple[DiskSnapshots, ...]:
        return disks_of(launch)


class Stage:
    """Two hosts, a guest that runs on the first, and everything to type commands at."""

    def __init__(self, act: Act = engine, *, speed: float = 25.0, workload: Workload | None = None) -> None:
        clock = LoopClock(speed=speed)
        self.world = FakeWorld(clock, seed=3)
        hosts: dict[str, Host] = {name: FakeHost(self.world, name) for name in ("host1", "host2")}
        self.world.add_file("/images/web1.raw")
        self._workload = workload
        self.journal = MemoryJournal()
        self.inventory = MemoryInventory(self.journal)
        self.runners = ActingRunners(act)
        hypervisor: Hypervisor = NoHypervisor()
        self.service = Service(
            journal=self.journal,
            inventory=self.inventory,
            hypervisor=hypervisor,
            runners=self.runners,
            watcher=FakeWatcher(self.world, {ADDRESS: "web1"}),
            clock=clock,
            open_host=lambda record: hosts[record.name],
            authority=FakeAuthority(clock),
        )
        self.runners.service = self.service
        asyncio.run(self._furnish())

    async def _furnish(self) -> None:
        for name in ("host1", "host2"):
            await self.inventory.put_host(HostRecord(name, f"ssh://root@{name}"))
        await self.inventory.put_vm(self.world.start_guest("host1", WEB1, self._workload))

    @asynccontextmanager
    async def opened(self, _: tuple[str, str] | None = None, **__: bool) -> AsyncIterator[Service]:
        yield self.service

    def rows(self) -> list[dict[str, object]]:
        """Return what the journal says of each migration."""

        async def ask() -> list[dict[str, object]]:
            return [
                {
                    "id": row.spec.id,
                    "phase": row.phase.value,
                    "status": row.outcome.status.value if row.outcome else None,
                    "cancel_by": await self.journal.cancel_requested(row.spec.id),
                }
                for row in await self.journal.rows()
            ]

        return asyncio.run(ask())


def play() -> int:
    """Be `godwit` over a stage whose guest takes some seconds to move."""
    stage = Stage(speed=float(os.environ.get("STAGE_SPEED", "1")), workload=Workload(used=200 << 20))
    ground.opener = stage.opened
    status = main(sys.argv[1:])
    Path(os.environ["STAGE_REPORT"]).write_text(json.dumps(stage.rows()), encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(play())
