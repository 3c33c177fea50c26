"""Two simulated hosts, a guest and an engine, in virtual time; faults at any instant, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from godwit.engine.engine import Engine
from godwit.engine.parts import Parts
from godwit.errors import JournalError
from godwit.hosts.fake import FakeHost, FakeWorld, LoopClock, VirtualTimeLoop, Workload
from godwit.hosts.fakecontroller import CONTROLLER, FakeController
from godwit.hosts.fakecredentials import FakeAuthority
from godwit.hosts.fakewatch import FakeWatcher
from godwit.journal.memory import MemoryInventory, MemoryJournal
from godwit.model import Launch, Outcome, OutcomeStatus, Owner, Policy, RunState, Spec, Tap, Vm
from godwit.qemu.hypervisor import QemuHypervisor
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from godwit.core.state import Phase, State
    from godwit.hosts.fakehooks import FakeHooks
    from godwit.model import HostRecord, Side
    from godwit.ports import Entry, Fencer

T = TypeVar("T")

DISK = "/images/web.raw"
ADDRESS = "198.18.0.9"
ID = "web-1"
SMALL = Workload(memory=64 * MIB, used=8 * MIB, hot_set=MIB, dirty_rate=1.0 * MIB)
"""A stream of some 200 ms."""

LONG = Workload(memory=512 * MIB, used=400 * MIB, hot_set=8 * MIB, dirty_rate=4.0 * MIB)
"""A stream of some 8 s."""


class HookedJournal(MemoryJournal):
    """Calls what a test wants at each transition, tells of a wish to cancel at once, and fails where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.wished = asyncio.Event()
        self.before: Callable[[State], Awaitable[None]] | None = None
        self.after: Callable[[State], Awaitable[None]] | None = None
        self.failing: Callable[[int], bool] = lambda _: False
        self.writes = 0
        self.waiting: list[Callable[[], Awaitable[None]]] = []
        self.states: list[State] = []

    async def _write(self, write: Callable[[], Awaitable[None]]) -> None:
        """Fail, or write what waited and then this: as a journal does that could not write for a while."""
        self.writes += 1
        self.waiting.append(write)
        if self.failing(self.writes):
            raise JournalError("the journal failed: the disk is full", remedy="make room")
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            await one()

    async def transition(self, identifier: str, epoch: int, entry: Entry, state: State, *, durable: bool) -> None:
        await awake()
        if self.before is not None:
            await self.before(state)
        write = super().transition
        await self._write(lambda: write(identifier, epoch, entry, state, durable=durable))
        self.states.append(state)
        if self.after is not None:
            await self.after(state)

    async def conclude(self, identifier: str, epoch: int, outcome: Outcome) -> None:
        await awake()
        write = super().conclude
        await self._write(lambda: write(identifier, epoch, outcome))

    async def cancel_requested(self, identifier: str) -> str | None:
        await self.wished.wait()
        return await super().cancel_requested(identifier)

    async def request_cancel(self, identifier: str, by: str, at: float) -> None:
        await super().request_cancel(identifier, by, at)
        self.wished.set()


async def awake() -> None:
    """Return when the process that the present task belongs to runs."""
    controller = CONTROLLER.get()
    if controller is not None:
        await controller.awake()


class TickingHost(FakeHost):
    """Tells the stage of every question that reaches it, before it is answered."""

    tick: Callable[[], Awaitable[None]] | None = None

    async def round_trip(self) -> None:
        if self.tick is not None:
            await self.tick()
        await super().round_trip()


@dataclass
class Stage:
    """One move of the guest "web" from `one` to `two`."""

    world: FakeWorld
    one: TickingHost
    two: TickingHost
    vm: Vm
    spec: Spec
    journal: HookedJournal = field(default_factory=HookedJournal)
    runners: int = 0
    died: asyncio.Event = field(default_factory=asyncio.Event)
    requested: float = 0.0
    probe_takes: float = 0.0
    records: dict[Side, HostRecord] = field(default_factory=dict)
    fencer: Fencer | None = None
    hooks: FakeHooks | None = None
    inventory: MemoryInventory = field(init=False)
    authority: FakeAuthority = field(init=False)

    def __post_init__(self) -> None:
        self.inventory = MemoryInventory(self.journal)
        self.authority = FakeAuthority(self.world.clock)

    async def begin(self) -> None:
        """Write to the journal what was asked for."""
        self.requested = self.world.clock.now()
        await self.inventory.put_vm(self.vm)
        await self.journal.create(self.spec, self.requested)

    async def runner(self) -> Outcome | None:
        """Be one runner process: take over, carry on; None if it died on the way."""
        self.died.clear()
        self.runners += 1
        self.journal.waiting.clear()
        epoch = await self.journal.take_over(self.spec.id)
        _, state = await self.journal.load(self.spec.id)
        parts = Parts(
            spec=self.spec,
            vm=self.vm,
            source=self.one,
            target=self.two,
            journal=self.journal,
            inventory=self.inventory,
            clock=self.world.clock,
            watcher=FakeWatcher(self.world, {ADDRESS: "web"}, self.probe_takes),
            epoch=epoch,
            requested=self.requested,
            hypervisor=QemuHypervisor(),
            authority=self.authority,
            mark=await self.authority.mark(),
            simulated=True,
            records=self.records,
            fencer=self.fencer,
            hooks=self.hooks,
        )
        engine = asyncio.create_task(Engine(parts, state).run())
        death = asyncio.create_task(self.died.wait())
        await asyncio.wait([engine, death], return_when=asyncio.FIRST_COMPLETED)
        death.cancel()
        if engine.done():
            return engine.result()
        self.world.drop_controller()
        engine.cancel()
        await asyncio.wait([engine])
        return None

    def start(self, controller: FakeController) -> asyncio.Task[Outcome | None]:
        """Start a runner in a process of its own."""
        context = contextvars.copy_context()
        context.run(CONTROLLER.set, controller)
        return asyncio.get_running_loop().create_task(self.runner(), context=context)

    async def die(self) -> None:
        """End the runner here and now: whoever calls this never goes on."""
        self.died.set()
        await asyncio.Event().wait()

    async def move(self, *, pause: float = 0.05, restarts: int = 3) -> Outcome:
        """Carry the move to its end; a runner that dies is followed by another after `pause` seconds."""
        await self.begin()
        return await self.go_on(pause=pause, restarts=restarts)

    async def go_on(self, *, pause: float = 0.05, restarts: int = 3) -> Outcome:
        """Start runners until one comes to the end."""
        async with asyncio.timeout(600):
            for _ in range(restarts):
                outcome = await self.runner()
                if outcome is not None:
                    await asyncio.sleep(1)
                    return outcome
                await asyncio.sleep(pause)
        raise AssertionError("no runner came to the end")

    def turned(self, number: int) -> Stage:
        """Return the same two hosts for the move back, with a journal of its own."""
        spec = replace(self.spec, id=f"web-{number}", source=self.two.name, target=self.one.name)
        return Stage(self.world, self.two, self.one, replace(self.vm, host=self.two.name), spec)

    def at(self, phase: Phase, act: Callable[[], object], delay: float = 0.0) -> None:
        """Do something once when the journal has taken the transition to a phase, or `delay` seconds later."""
        done = False

        async def hook(state: State) -> None:
            nonlocal done
            if state.phase is phase and not done:
                done = True
                if delay:
                    asyncio.get_running_loop().call_later(delay, act)
                else:
                    act()

        self.journal.after = hook

    def dies_before_question(self, number: int) -> None:
        """Let the first runner die when it is about to ask a host or a QEMU for the so-manieth time."""
        asked = 0

        async def tick() -> None:
            nonlocal asked
            asked += 1
            if asked == number and self.runners == 1:
                await self.die()

        self.one.tick = self.two.tick = tick

    def dies_at_write(self, number: int, *, written: bool) -> None:
        """Let the first runner die before or after the journal has taken its so-manieth transition."""
        count = 0

        async def hook(_: State) -> None:
            nonlocal count
            count += 1
            if count == number and self.runners == 1:
                await self.die()

        if written:
            self.journal.after = hook
        else:
            self.journal.before = hook

    def cancel(self) -> None:
        """Wish that the guest stays."""
        self.journal._story(self.spec.id).cancel_by = "alice"
        self.journal.wished.set()

    # -- what must hold ----------------------------------------------------------------------------------------

    def state_on(self, host: FakeHost) -> RunState:
        """Say what the guest's process on a host does."""
        qemu = host.qemus.get("web")
        return RunState.ABSENT if qemu is None else qemu.view().state

    def assert_lawful(self) -> None:
        """Nothing that happened, at any instant, broke the law."""
        assert self.world.broken_laws == []
        assert len(self.world.executing("web")) <= 1

    async def assert_settled(self, outcome: Outcome) -> None:
        """The guest runs on one side, or is gone, as the outcome says; nothing is left and the journal agrees."""
        self.assert_lawful()
        where = {
            OutcomeStatus.COMPLETED: [self.two.name],
            OutcomeStatus.UNVERIFIED: [self.two.name],
            OutcomeStatus.GUEST_CRASHED: [],
        }.get(outcome.status, [self.one.name])
        assert outcome.status is not OutcomeStatus.LIMBO, outcome.error
        assert self.world.executing("web") == where, outcome
        if outcome.status in {OutcomeStatus.COMPLETED, OutcomeStatus.UNVERIFIED}:
            assert self.state_on(self.one) is RunState.ABSENT
            assert outcome.owner is Owner.TARGET
        elif outcome.status is not OutcomeStatus.GUEST_CRASHED:
            assert self.state_on(self.two) is RunState.ABSENT
            assert outcome.owner is Owner.SOURCE
        for qemu in (*self.one.qemus.values(), *self.two.qemus.values()):
            if outcome.status is not OutcomeStatus.GUEST_CRASHED:  # what is left of one is stale
                assert qemu.balloon == qemu.workload.memory
                assert not any(qemu.capabilities.values())
                assert not qemu.parameters["tls-creds"]
                assert qemu.tls.keys is None
        assert self.one.leases == {}
        assert self.one.credentials == self.two.credentials == {}
        assert self.world.tokens == {}
        row, state = await self.journal.load(self.spec.id)
        assert state.finished
        assert row.outcome == outcome
        home = self.one.name if outcome.owner is Owner.SOURCE else self.two.name
        assert (await self.inventory.vm("web")).host == home

    def phases(self) -> list[Phase]:
        """Return the phases in the order in which they were entered."""
        seen: list[Phase] = []
        for state in self.journal.states:
            if not seen or seen[-1] is not state.phase:
                seen.append(state.phase)
        return seen

    async def kinds(self) -> Counter[str]:
        """Count the journal's lines."""
        return Counter(line.kind for line in await self.journal.entries(self.spec.id))


def stage(
    workload: Workload = SMALL,
    *,
    policy: Policy | None = None,
    seed: int = 7,
    address: str | None = ADDRESS,
    shared: bool = True,
    disk: str = DISK,
    **target: object,
) -> Stage:
    """Set the scene; `target` are FakeHost's options for the host "two". Call it where a loop runs."""
    world = FakeWorld(LoopClock(), seed=seed)
    one = TickingHost(world, "one")
    two = TickingHost(world, "two", **target)  # type: ignore[arg-type]
    for hosts in (None,) if shared else (["one"], ["two"]):
        world.add_file(disk, hosts)
    launch = Launch(
        ("qemu-system-x86_64", "-drive", f"file={disk},format=raw"), folders=("/run/web",), taps=(Tap("tap0", "br0"),)
    )
    vm = Vm("web", "one", launch, "/run/web/control", observe="/run/web/observe", address=address)
    vm = world.start_guest("one", vm, workload)
    return Stage(world, one, two, vm, replace(Spec(ID, "web", "one", "two"), policy=policy or Policy()))


def simulate(scenario: Callable[[], Coroutine[object, object, T]]) -> T:
    """Run a scenario in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(scenario())
