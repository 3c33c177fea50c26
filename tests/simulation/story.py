"""One seeded story: the real engine over simulated hosts in virtual time, with faults, watched at every event.

`run(seed)` gives the same verdict each time: all chance comes from the seed, time is virtual, and nothing depends on
hashes, identities or the machine.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import hashlib
import random
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

from books import Pen, Shelf, Store
from directscene import with_a_device
from faults import SIDES, STAY, At, Fault, In, Nth, Since, choose, strike
from gates import Controller, Disturbance, GatedHost
from invariants import Watch, judge
from scenes import HOSTS, LATENCIES, RATES, Move, Scene, furnish, moves
from spots import at_a_spot

from direct import around_a_device
from godwit.core.state import Phase, State, outcome_status
from godwit.engine.engine import Engine
from godwit.engine.parts import Parts
from godwit.errors import JournalError
from godwit.hosts.fakeclock import EPOCH, VirtualTimeLoop
from godwit.hosts.fakecontroller import CONTROLLER
from godwit.hosts.fakecredentials import FakeAuthority
from godwit.hosts.fakehooks import FakeHooks
from godwit.hosts.fakewatch import FakeWatcher
from godwit.journal.codec import encode
from godwit.model import Outcome, OutcomeStatus
from godwit.qemu.hypervisor import QemuHypervisor

if TYPE_CHECKING:
    from collections.abc import Callable

    from simworld import SimHost, SimWorld

    from godwit.model import Vm
    from godwit.ports import Clock, Host, Inventory, Journal

ENDS_WITHIN: Final = 500.0
"""Seconds after the last fault was mended within which every migration has ended, or is in LIMBO."""

HEARD_WITHIN: Final = 1.0
"""Seconds within which a runner that nothing hinders takes a wish to cancel down."""

LONGEST: Final = 1500.0

MOST_STEPS: Final = 15_000
"""For each guest: a hundred times as many as a move takes; a host that stays silent costs a few hundred more."""

_RESTART: Final = 0.05
_LONGEST_PAUSE: Final = 5.0
_AFTERWARDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is chosen beforehand.

    `lag` is the longest time that an event takes to the engine. Storage whose `locks` hold on one host alone is that of
    a block device that both hosts see: QEMU's own lock keeps nobody on the other host away from it.
    """

    seed: int
    moves: tuple[Move, ...]
    faults: tuple[Fault, ...]
    rate: float
    lag: float
    may_shorten: bool = True
    latency: float = 0.0002
    locks: bool = True


def plan_of(seed: int) -> Plan:
    """Choose a story."""
    chance = random.Random(seed)  # noqa: S311 - a simulation, no secrets
    all_moves = moves(chance)
    heals = chance.random() < 0.8
    faults = choose(chance, all_moves, heals=heals)
    lag = chance.choice((0.0, 0.0, 0.001, 0.02))
    rate, may_shorten = chance.choice(RATES), chance.random() < 0.9
    apart = random.Random(f"{seed} apart")  # noqa: S311 - as above
    if apart.random() < 0.4:
        faults = at_a_spot(apart, all_moves[0], heals=heals)
    devices = random.Random(f"{seed} devices")  # noqa: S311 - as above
    if devices.random() < 0.25:
        all_moves = (with_a_device(devices, all_moves[0]), *all_moves[1:])
        if all_moves[0].device and devices.random() < 0.6:
            faults = around_a_device(devices, heals=heals)
    latency, locks = apart.choice(LATENCIES), apart.random() < 0.7
    return Plan(seed, all_moves, faults, rate, lag, may_shorten, latency, locks)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a story ended: what was violated, if anything, what happened at which second, and the journal's digest."""

    seed: int
    violations: tuple[str, ...]
    lines: tuple[tuple[float, str], ...]
    digest: str
    outcomes: tuple[tuple[str, str], ...]
    steps: int
    seconds: float

    def told(self) -> str:
        """Tell the story in words."""
        return "\n".join(f"{at:10.4f}  {words}" for at, words in self.lines)


class _Clock:
    """The controller's clock, which may jump. Implements `godwit.ports.Clock`."""

    def __init__(self, story: Story, controller: Controller) -> None:
        world = story.world.clock
        self._controller = controller
        offset = story.offset  # the time of day is read once by each process: godwit.clock
        self.now = lambda: world.now() + offset

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))
        await self._controller.go()


@dataclass(eq=False)
class Story:
    """One story while it is told."""

    plan: Plan
    scene: Scene
    store: Store = field(default_factory=Store)
    chance: random.Random = field(init=False)
    authority: FakeAuthority = field(init=False)
    hooks: FakeHooks = field(init=False)
    controllers: dict[str, Controller] = field(default_factory=dict)
    pauses: dict[str, float] = field(default_factory=dict)
    deaf: set[str] = field(default_factory=set)
    """Hosts of whose monitors no runner hears what it did not ask for."""
    offset: float = 0.0
    lines: list[tuple[float, str]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    steps: int = 0
    ended: bool = False
    trace: bool = False
    broken: asyncio.Event = field(default_factory=asyncio.Event)
    _counts: dict[str, int] = field(default_factory=dict)
    _pending: list[tuple[Fault, Fault | None]] = field(default_factory=list)
    _struck: dict[int, float] = field(default_factory=dict)
    _mends: int = 0
    _calm: asyncio.Event = field(default_factory=asyncio.Event)
    _phases: set[Phase] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Make what chance needs, and let the world be watched."""
        self.chance = random.Random(f"{self.plan.seed} while it happens")  # noqa: S311 - no secrets
        self.authority = FakeAuthority(self.scene.world.clock)
        self.hooks = FakeHooks(self.scene.world.clock)
        self._calm.set()
        self.watch = Watch(self)
        self.scene.world.told = self.say

    @property
    def world(self) -> SimWorld:
        """The world."""
        return self.scene.world

    @property
    def moves(self) -> tuple[str, ...]:
        """The guests that move."""
        return tuple(move.guest for move in self.plan.moves)

    @property
    def faulted(self) -> bool:
        """Whether any fault has struck: a token that nobody came back for is then taken for one (sharedproof.py)."""
        return bool(self._struck)

    # -- words -----------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Return virtual seconds since the beginning."""
        return self.world.clock.now() - EPOCH

    def say(self, words: str) -> None:
        """Write a line of the story."""
        self.lines.append((self.now(), words))

    def violated(self, words: str) -> None:
        """Note a violation; the story ends."""
        if words not in self.violations:
            self.violations.append(words)
            self.say(f"VIOLATION: {words}")
            self.broken.set()

    def fallen(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take note of an error in what the loop calls; a task's that nobody asks is noticed at any instant."""
        if "handle" in context:
            error = context.get("exception")
            self.violated(f"a callback fell: {_last_line(error) if error else context['message']}")
        else:
            loop.default_exception_handler(context)

    # -- who is where ----------------------------------------------------------------------------------------------

    def host_of(self, side: str, guest: str) -> SimHost:
        """Return a side's host."""
        spec = self.scene.specs[guest]
        return self.scene.hosts[spec.source if side == SIDES[0] else spec.target]

    def vm_on(self, side: str, guest: str) -> Vm:
        """Return the guest by its names on a side."""
        spec, vm = self.scene.specs[guest], self.scene.vms[guest]
        if spec.upgrade is None:
            return vm
        return spec.upgrade.before if side == SIDES[0] else spec.upgrade.after

    def durable(self, guest: str) -> State:
        """Return the state that the journal has on disk."""
        story = self.store.journal._stories.get(self.scene.specs[guest].id)
        return State() if story is None else story.durable_state

    # -- faults ----------------------------------------------------------------------------------------------------

    def later(self, fault: Fault, mend: Callable[[], object]) -> None:
        """Mend a fault when its time is over."""
        if fault.lasts == STAY:
            return
        self._mends += 1
        self._calm.clear()

        def do() -> None:
            self.world.faulty = True
            try:
                mend()
            finally:
                self.world.faulty = False
                self._mends -= 1
                if not self._mends:
                    self._calm.set()
            self.say(f"over: {fault.kind} {fault.side}".rstrip())
            self.watch.look()

        asyncio.get_running_loop().call_later(fault.lasts, do)

    def wish(self, guest: str) -> None:
        """Let somebody wish that the guest stays."""
        identifier = self.scene.specs[guest].id
        story = self.store.journal._stories.get(identifier)
        if story is not None and not story.state.finished:
            story.cancel_by = "alice"
            self.store.wish_event(identifier).set()
            asyncio.get_running_loop().call_later(HEARD_WITHIN, self.watch.heard, guest, self.controllers.get(guest))

    def _arm(self) -> None:
        """Lay out what is to go wrong."""
        loop = asyncio.get_running_loop()
        for number, fault in enumerate(self.plan.faults):
            if isinstance(fault.when, At):
                loop.call_later(fault.when.seconds, self._strike, number)
            elif isinstance(fault.when, Since) and number == 0:
                loop.call_later(fault.when.delay, self._strike, number)

    def _strike(self, number: int, at: Controller | None = None) -> Disturbance | None:
        """Let a fault happen once, to the guest whose step it is, or to the first that moves."""
        if number in self._struck or self.ended:
            return None
        fault = self.plan.faults[number]
        guest = at.name if at is not None else self._victim()
        if guest is None or guest not in self.controllers:
            return None
        self._struck[number] = self.now()
        self.say(f"FAULT {fault}")
        disturbance = strike(self, fault, guest)
        self.watch.look()
        if number + 1 < len(self.plan.faults):
            following = self.plan.faults[number + 1].when
            if isinstance(following, Since):
                asyncio.get_running_loop().call_later(following.delay, self._strike, number + 1)
        return disturbance

    def _victim(self) -> str | None:
        """Return the first guest that is still on its way."""
        return next((guest for guest in self.moves if guest not in self.outcomes), None)

    def on_step(self, controller: Controller, name: str, /, *, after: bool) -> Disturbance | None:
        """Take note of a step, and let happen what was laid out for it."""
        what = name.rpartition(".")[2]
        if not after:
            self.steps += 1
            if self.steps == MOST_STEPS * len(self.moves):
                self.violated(f"{self.steps} steps were taken, the last of them {name}: something goes round and round")
            self._counts[what] = self._counts.get(what, 0) + 1
            if self.trace:
                self.say(f"  {name}")
        self.watch.look()
        found: Disturbance | None = None
        for number, fault in enumerate(self.plan.faults):
            when = fault.when
            if number in self._struck or not isinstance(when, Nth) or when.after != after:
                continue
            count = self._counts.get(what, 0) if when.what == what else self.steps if not when.what else -1
            if count == when.number:
                found = self._strike(number, controller) or found
        return found

    def entered(self, guest: str, state: State, *, durable: bool) -> None:
        """Take note of what the journal has taken; what is not durable may be lost with the controller's power."""
        phase = state.phase
        self.watch.taken(guest, state)
        if durable:
            self.watch.journalled(guest, state)
        if guest != self.moves[0] or phase in self._phases:
            return
        self._phases.add(phase)
        for number, fault in enumerate(self.plan.faults):
            if isinstance(fault.when, In) and fault.when.phase is phase:
                asyncio.get_running_loop().call_later(fault.when.delay, self._strike, number)

    # -- runners ---------------------------------------------------------------------------------------------------

    async def tell(self) -> None:
        """Let all guests move, and judge how it ended."""
        self._arm()
        supervisors = [asyncio.ensure_future(self._supervise(move)) for move in self.plan.moves]
        broken = asyncio.ensure_future(self.broken.wait())
        everything = asyncio.ensure_future(asyncio.wait(supervisors))
        limit = asyncio.ensure_future(self._limit())
        await asyncio.wait([everything, broken, limit], return_when=asyncio.FIRST_COMPLETED)
        if everything.done() and not self.violations:
            for supervisor in supervisors:
                supervisor.result()
            self.ended = True
            await asyncio.wait([asyncio.ensure_future(self._settle()), broken], return_when=asyncio.FIRST_COMPLETED)
            if not self.violations:
                await judge(self)
        elif not self.violations:
            guest = self._victim() or ""
            phase = self.durable(guest).phase if guest else ""
            if phase is Phase.POSTCOPY and any(fault.lasts == STAY for fault in self.plan.faults):
                return  # its memory is waited for as long as both processes live
            if phase is Phase.POSTCOPY and any(qemu.waits_for_memory for qemu in self.world.qemus_of(guest)):
                self.say(f"{guest} waits for memory, and its QEMU greets no new runner: see docs/limits.md")
                return
            self.violated(f"{guest} has not ended {ENDS_WITHIN:g} s after the last fault: it is {phase}")

    async def _settle(self) -> None:
        await asyncio.wait_for(self._calm.wait(), None)
        await asyncio.sleep(_AFTERWARDS)

    async def _limit(self) -> None:
        """Return when every migration should have ended."""
        while True:
            await self._calm.wait()
            since = self.now()
            await asyncio.sleep(ENDS_WITHIN)
            if self._calm.is_set() and (self.now() >= LONGEST or all(at <= since for at in self._struck.values())):
                return

    async def _supervise(self, move: Move) -> None:
        """Start runners until one comes to the end, as a supervisor does, and a person after it."""
        if move.begins:
            await asyncio.sleep(move.begins)
        spec, vm = self.scene.specs[move.guest], self.scene.vms[move.guest]
        requested = self.world.clock.now() + self.offset
        await self.store.inventory.put_vm(vm)
        await self.store.journal.create(spec, requested)
        restarts, limbos = 0, 0
        while True:
            outcome = await self._runner(move, requested)
            if outcome is None:
                restarts += 1
                await asyncio.sleep(self.pauses.pop(move.guest, min(_LONGEST_PAUSE, _RESTART * 2 ** min(restarts, 9))))
            elif outcome.status is OutcomeStatus.LIMBO and limbos < 2:
                self.watch.in_limbo(move.guest, outcome)
                limbos += 1
                await self._calm.wait()
                await asyncio.sleep(1.0)
            else:
                self.outcomes[move.guest] = outcome
                self.say(f"{move.guest}: {outcome.status}, {outcome.owner} owns it; {outcome.error}")
                return

    def _lag(self) -> float:
        return self.chance.uniform(0, self.plan.lag) if self.plan.lag else 0.0

    async def _runner(self, move: Move, requested: float) -> Outcome | None:
        """Be one runner process; None if it died, or failed, on the way."""
        guest, spec = move.guest, self.scene.specs[move.guest]
        controller = Controller(guest, self.on_step, self._lag, self.deaf)
        self.controllers[guest] = controller
        context = contextvars.copy_context()
        context.run(CONTROLLER.set, controller.process)
        run = self._be_runner(controller, move, requested)
        controller.task = asyncio.get_running_loop().create_task(run, context=context)
        followed = asyncio.ensure_future(controller.followed.wait())
        await asyncio.wait([controller.task, followed], return_when=asyncio.FIRST_COMPLETED)
        followed.cancel()
        task = controller.task
        if not task.done() and controller.followed.is_set():
            self.say(f"another runner of {guest} takes over, and this one may go on one day")
            task.add_done_callback(lambda task: self._old_ended(guest, task))
            return None
        return self._ended_so(controller, spec.id, task)

    def _ended_so(self, controller: Controller, identifier: str, task: asyncio.Task[Outcome]) -> Outcome | None:
        """Return what a runner came to, None where it died or failed."""
        guest = controller.name
        error = None if task.cancelled() else task.exception()
        if not controller.alive:
            self.say(f"the runner of {guest} died")
            whole = not task.cancelled() and error is None and self._concluded(identifier)
            return task.result() if whole else None
        if task.cancelled():
            self.violated(f"the runner of {guest} ended by itself")
            return None
        controller.die("the runner ended")
        if error is None:
            return task.result()
        if isinstance(error, JournalError):
            self.say(f"the runner of {guest} ended: {error.message}")
            return None
        self.violated(f"the runner of {guest} fell: {_last_line(error)}")
        self.lines.append((self.now(), "".join(traceback.format_exception(error))))
        return None

    def _old_ended(self, guest: str, task: asyncio.Task[Outcome]) -> None:
        """Take note of how a runner ended that was followed by another: it is told so, or does nothing more."""
        error = None if task.cancelled() else task.exception()
        self.say(f"the old runner of {guest} ended: {_last_line(error) if error is not None else 'by itself'}")
        if error is not None and not isinstance(error, JournalError):
            self.violated(f"the old runner of {guest} fell: {_last_line(error)}")

    def _concluded(self, identifier: str) -> bool:
        return self.store.journal._story(identifier).outcome is not None

    async def _be_runner(self, controller: Controller, move: Move, requested: float) -> Outcome:
        guest, spec = move.guest, self.scene.specs[move.guest]
        pen = Pen(controller, self.store, functools.partial(self.entered, guest))
        epoch = await pen.take_over(spec.id)
        row, state = await pen.load(spec.id)
        if state.finished and row.outcome is not None and row.outcome.status is outcome_status(state):
            return row.outcome  # as godwit.app.run_migration does
        self.say(f"runner {epoch} of {guest} takes over in {state.phase}")
        source, target = (GatedHost(controller, self.scene.hosts[name]) for name in (spec.source, spec.target))
        addresses = {vm.address: name for name, vm in self.scene.vms.items() if vm.address is not None}
        parts = Parts(
            spec=spec,
            vm=self.scene.vms[guest],
            source=cast("Host", source),
            target=cast("Host", target),
            journal=cast("Journal", pen),
            inventory=cast("Inventory", Shelf(controller, self.store)),
            clock=cast("Clock", _Clock(self, controller)),
            watcher=FakeWatcher(self.world, addresses),
            epoch=epoch,
            requested=requested,
            hypervisor=QemuHypervisor(),
            authority=self.authority,
            mark=await self.authority.mark(),
            simulated=True,
            hooks=self.hooks,
        )
        return await Engine(parts, state).run()


def _last_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]


def run(seed: int) -> Verdict:
    """Tell the story of a seed."""
    return tell(plan_of(seed))


def tell(plan: Plan, *, trace: bool = False) -> Verdict:
    """Tell a story in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(_told(plan, trace=trace))


async def _told(plan: Plan, *, trace: bool) -> Verdict:
    scene = furnish(plan.seed, plan.rate, plan.moves, may_shorten=plan.may_shorten)
    story = Story(plan, scene, trace=trace)
    asyncio.get_running_loop().set_exception_handler(story.fallen)
    scene.world.link(*HOSTS).latency = plan.latency
    scene.world.locks = plan.locks
    scene.world.clock.now()
    for move in plan.moves:
        story.say(f"{move.guest} is to move: {move.kind}, {'shared' if move.shared else 'copied'} {move.disk} disk")
    await story.tell()
    return Verdict(
        plan.seed,
        tuple(story.violations),
        tuple(story.lines),
        _digest(story),
        tuple((guest, outcome.status.value) for guest, outcome in sorted(story.outcomes.items())),
        story.steps,
        story.now(),
    )


def _digest(story: Story) -> str:
    """Return what the journals' lines come to."""
    found = hashlib.sha256()
    for identifier, one in sorted(story.store.journal._stories.items()):
        found.update(identifier.encode())
        for entry in one.entries:
            found.update(f"{entry.at!r} {entry.kind} {encode(entry.data)}\n".encode())
    return found.hexdigest()
