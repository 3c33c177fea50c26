"""Two simulated hosts, a guest, and saves and restores carried by runners that may die at any instant."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from stage import ADDRESS, DISK, SMALL, TickingHost

from godwit.engine.jobs import carry
from godwit.errors import GodwitError
from godwit.hosts.fake import FakeWorld, LoopClock
from godwit.hosts.fakecredentials import FakeAuthority
from godwit.hosts.fakewatch import FakeWatcher
from godwit.journal.memory import MemoryInventory, MemoryJournal
from godwit.model import HostRecord, Launch, RunState, Tap, Vm
from godwit.saves import Saves
from godwit.service import Service
from godwit.simulation import _NothingToDefine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from godwit.core.saves import Job, Step
    from godwit.hosts.fake import Workload
    from godwit.ports import Log

FILE = "/images/web.save"
RESTARTS = 8


@dataclass
class Scene:
    """A guest "web" that runs on "one", and another host "two" that sees the same storage."""

    world: FakeWorld
    hosts: dict[str, TickingHost]
    vm: Vm
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    inventory: MemoryInventory = field(init=False)
    deaths: int = 0
    raised: list[BaseException] = field(default_factory=list)
    _died: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.inventory = MemoryInventory(self.journal)

    @classmethod
    async def make(cls, workload: Workload = SMALL, **two: object) -> Scene:
        """Set it up; `two` are FakeHost's options for that host."""
        world = FakeWorld(LoopClock(), seed=11)
        hosts = {"one": TickingHost(world, "one"), "two": TickingHost(world, "two", **two)}  # type: ignore[arg-type]
        world.add_file(DISK)
        launch = Launch(("qemu-system-x86_64", "-drive", f"file={DISK},format=raw"), taps=(Tap("tap0", "br0"),))
        vm = Vm("web", "one", launch, "/run/web/control", observe="/run/web/observe", address=ADDRESS)
        made = cls(world, hosts, world.start_guest("one", vm, workload))
        for name in hosts:
            await made.inventory.put_host(HostRecord(name, f"ssh://root@{name}"))
        await made.inventory.put_vm(made.vm)
        return made

    @property
    def service(self) -> Service:
        """The use cases over it."""
        return Service(
            journal=self.journal,
            inventory=self.inventory,
            hypervisor=_NothingToDefine(),
            runners=self,
            watcher=FakeWatcher(self.world, {ADDRESS: "web"}),
            clock=self.world.clock,
            open_host=lambda record: self.hosts[record.name],
            authority=FakeAuthority(self.world.clock),
        )

    # -- runners -----------------------------------------------------------------------------------------------------

    def start(self, identifier: str, vm: str) -> None:
        self._tasks[vm] = asyncio.get_running_loop().create_task(self._supervise(identifier))

    def alive(self, vm: str) -> bool:
        return vm in self._tasks and not self._tasks[vm].done()

    def logs(self) -> dict[str, Log]:
        return {}

    def remove_log(self, identifier: str) -> None:
        raise NotImplementedError

    @asynccontextmanager
    async def hold(self, vm: str) -> AsyncIterator[None]:
        assert not self.alive(vm)
        yield

    def die(self) -> None:
        """Let the runner die where it stands."""
        self._died.set()

    async def _supervise(self, identifier: str) -> None:
        for _ in range(RESTARTS):
            self._died.clear()
            work = asyncio.ensure_future(self._carry(identifier))
            death = asyncio.ensure_future(self._died.wait())
            await asyncio.wait([work, death], return_when=asyncio.FIRST_COMPLETED)
            death.cancel()
            if not work.done():
                self.deaths += 1
                work.cancel()
                await asyncio.wait([work])
                self.world.drop_controller()
                continue
            error = work.exception()
            if error is None:
                return
            assert isinstance(error, GodwitError), error
            self.raised.append(error)
            await self.world.clock.sleep(1.0)

    async def _carry(self, identifier: str) -> None:
        await carry(await Saves(self.service).desk(identifier))

    # -- what is done ------------------------------------------------------------------------------------------------

    async def save(self, **options: object) -> Job:
        """Save the guest and return how that ended."""
        return await self._done(await Saves(self.service).save("web", FILE, **options))  # type: ignore[arg-type]

    async def restore(self, host: str = "two", **options: object) -> Job:
        """Restore it and return how that ended."""
        return await self._done(await Saves(self.service).restore(FILE, host, **options))  # type: ignore[arg-type]

    async def _done(self, identifier: str) -> Job:
        async for _ in Saves(self.service).follow(identifier):
            pass
        await asyncio.wait([self._tasks["web"]])
        return await self.journal.jobs.load(identifier)

    def at(self, step: Step, act: Callable[[], object], *, before: bool = False) -> None:
        """Do something when a job's step has been written down, or just before that."""
        write = self.journal.jobs.write
        done: list[Job] = []

        async def spring(job: Job) -> None:
            done.append(job)
            said = act()
            if asyncio.iscoroutine(said):
                await said
            await asyncio.sleep(0.001)

        async def hooked(job: Job, epoch: int, *, durable: bool) -> None:
            fits = durable and job.step is step and not done
            if fits and before:
                await spring(job)
            await write(job, epoch, durable=durable)
            if fits and not before:
                await spring(job)

        self.journal.jobs.write = hooked  # type: ignore[method-assign]

    def at_tick(self, number: int, act: Callable[[], object]) -> None:
        """Do something at the so-manieth question that reaches a host."""
        seen = [0]

        async def tick() -> None:
            seen[0] += 1
            if seen[0] == number:
                act()
                await asyncio.sleep(0.001)

        hook: Callable[[], Awaitable[None]] = tick
        for host in self.hosts.values():
            host.tick = hook

    # -- the world as it is ------------------------------------------------------------------------------------------

    @property
    def files(self) -> list[str]:
        """The files of saves, whole or not."""
        return sorted(self.world.saves)

    def assert_on(self, host: str | None, files: list[str]) -> None:
        """The guest executes there and nowhere else, has no second process, and these files are there."""
        assert self.world.broken_laws == []
        assert self.world.executing("web") == ([] if host is None else [host])
        places = [name for name, one in self.hosts.items() if "web" in one.qemus]
        assert places == ([] if host is None else [host])
        assert self.files == files

    def paused_on(self, host: str) -> bool:
        """Say whether it stands still there."""
        return self.hosts[host].qemus["web"].view().state is RunState.PAUSED

    def damage(self, **changes: object) -> None:
        """Alter the file."""
        self.world.saves[FILE] = replace(self.world.saves[FILE], **changes)  # type: ignore[arg-type]
