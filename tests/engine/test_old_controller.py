"""A runner that is stopped at any instant, and goes on when another has followed it, can hurt nobody any more."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from stage import ID, LONG, SMALL, Stage, simulate, stage

from godwit.errors import JournalError, SupersededError
from godwit.hosts.fakecontroller import CONTROLLER, FakeController
from godwit.hosts.fakestream import Workload
from godwit.model import OutcomeStatus, Permission, Policy, Way
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from godwit.core.state import State
    from godwit.model import Outcome, Vm

MINUTE = 60.0
SMALL_ENDLESS = Workload(64 * MIB, used=16 * MIB, hot_set=12 * MIB, dirty_rate=400 * MIB)
WAYS: dict[str, tuple[Workload, Policy, bool]] = {
    # the guest, how it travels, and whether its disk is shared
    "live": (SMALL, Policy(), True),
    "with its disk": (SMALL, Policy(), False),
    "standing still": (SMALL, Policy(way=Way.STATIC), True),
    "switched off": (SMALL, Policy(way=Way.OFF), True),
    "before its memory": (SMALL_ENDLESS, Policy(allows=frozenset({Permission.POSTCOPY})), True),
}


@dataclass
class Takeover:
    """A move whose first runner is stopped at some instant; another follows it, and then the first one goes on."""

    scene: Stage
    old: FakeController = field(default_factory=lambda: FakeController("old"))
    new: FakeController = field(default_factory=lambda: FakeController("new"))
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def stop(self) -> None:
        """Stop the old process here and now; returns when it goes on."""
        self.old.stop()
        self.stopped.set()
        await self.old.awake()

    def stop_before_question(self, number: int) -> None:
        asked = 0

        async def tick() -> None:
            nonlocal asked
            if CONTROLLER.get() is self.old:
                asked += 1
                if asked == number:
                    await self.stop()

        self.scene.one.tick = self.scene.two.tick = tick

    def stop_at_write(self, number: int, *, written: bool) -> None:
        count = 0

        async def hook(_: State) -> None:
            nonlocal count
            if CONTROLLER.get() is self.old:
                count += 1
                if count == number:
                    await self.stop()

        if written:
            self.scene.journal.after = hook
        else:
            self.scene.journal.before = hook

    async def run(self, pause: float, meanwhile: Callable[[Outcome], Awaitable[None]] | None = None) -> Outcome:
        """Carry it all out; returns how the move ended, by whichever of the two: the instant may never have come."""
        scene = self.scene
        await scene.begin()
        first = scene.start(self.old)
        stopping = asyncio.create_task(self.stopped.wait())
        await asyncio.wait([first, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not self.stopped.is_set():
            stopping.cancel()
            undisturbed = await first
            assert undisturbed is not None
            await scene.assert_settled(undisturbed)
            return undisturbed
        await asyncio.sleep(pause)
        outcome = await scene.start(self.new)
        assert outcome is not None
        await scene.assert_settled(outcome)
        if meanwhile is not None:
            await meanwhile(outcome)
        before = self.world()
        self.old.go_on()
        await asyncio.wait([first], timeout=MINUTE)
        assert first.done()
        assert first.exception() is None or isinstance(first.exception(), SupersededError), first.exception()
        await asyncio.sleep(5.0)
        assert self.world() == before
        scene.assert_lawful()
        assert (await scene.journal.load(ID))[0].outcome == outcome
        return outcome

    def world(self) -> object:
        """Return what an old process might have changed: who runs where, and what is left of moves."""
        world = self.scene.world
        processes = {name: sorted(qemu.pid for qemu in host.qemus.values()) for name, host in world.hosts.items()}
        leases = {name: dict(host.leases) for name, host in world.hosts.items()}
        settings = {
            qemu.pid: (qemu.raw, dict(qemu.capabilities), dict(qemu.parameters))
            for host in world.hosts.values()
            for qemu in host.qemus.values()
        }
        return processes, leases, settings, world.executing("web"), len(world.runs), dict(world.owned)


def setting(way: str) -> Stage:
    workload, policy, shared = WAYS[way]
    return stage(workload, policy=policy, shared=shared)


@pytest.mark.parametrize("pause", [0.02, MINUTE], ids=["at once", "after a minute"])
@pytest.mark.parametrize("number", range(1, 70, 2))
def test_stopped_before_a_question_of_a_live_move(number: int, pause: float) -> None:
    async def scenario() -> None:
        takeover = Takeover(setting("live"))
        takeover.stop_before_question(number)
        await takeover.run(pause)

    simulate(scenario)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("number", range(2, 90, 7))
def test_stopped_before_a_question_of_any_move(way: str, number: int) -> None:
    async def scenario() -> None:
        takeover = Takeover(setting(way))
        takeover.stop_before_question(number)
        await takeover.run(1.0)

    simulate(scenario)


@pytest.mark.parametrize("written", [True, False], ids=["written", "not written"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("number", range(1, 14))
def test_stopped_at_a_transition(way: str, number: int, *, written: bool) -> None:
    async def scenario() -> None:
        takeover = Takeover(setting(way))
        takeover.stop_at_write(number, written=written)
        await takeover.run(1.0)

    simulate(scenario)


@pytest.mark.parametrize("number", range(3, 70, 3))
def test_it_goes_on_when_the_guest_has_come_back_to_where_it_was(number: int) -> None:
    """Whoever still wanted to end the old source's process would end the guest."""

    async def scenario() -> None:
        takeover = Takeover(setting("live"))
        takeover.stop_before_question(number)

        async def and_back(outcome: Outcome) -> None:
            if outcome.status is OutcomeStatus.COMPLETED:
                back = takeover.scene.turned(2)
                done = await back.move()
                assert done.status is OutcomeStatus.COMPLETED
                await takeover.scene.inventory.put_vm(await back.inventory.vm("web"))

        await takeover.run(1.0, and_back)

    simulate(scenario)


@pytest.mark.parametrize("number", range(4, 60, 5))
def test_it_goes_on_while_the_other_is_at_work(number: int) -> None:
    async def scenario() -> None:
        scene = stage(LONG)
        takeover = Takeover(scene)
        takeover.stop_before_question(number)
        await scene.begin()
        first = scene.start(takeover.old)
        await takeover.stopped.wait()
        second = scene.start(takeover.new)
        await asyncio.sleep(0.5)
        takeover.old.go_on()
        outcome = await second
        assert outcome is not None
        await asyncio.wait([first])
        assert isinstance(first.exception(), JournalError)
        await asyncio.sleep(1)
        await scene.assert_settled(outcome)

    simulate(scenario)


def test_its_session_on_a_host_that_the_new_one_cannot_reach_is_ended_before_that_host_is_asked_anything() -> None:
    async def scenario() -> None:
        scene = stage(LONG)
        takeover = Takeover(scene)
        takeover.stop_before_question(30)
        await scene.begin()
        first = scene.start(takeover.old)
        await takeover.stopped.wait()
        old = set(scene.two.sessions)
        assert old
        scene.world.cut("two")
        second = scene.start(takeover.new)
        await asyncio.sleep(5.0)
        assert set(scene.two.sessions) == old
        scene.world.heal("two")
        outcome = await second
        assert outcome is not None
        assert not old & set(scene.two.sessions)
        takeover.old.go_on()
        await asyncio.wait([first])
        await scene.assert_settled(outcome)

    simulate(scenario)


def test_it_does_not_say_where_the_guest_lives_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        takeover = Takeover(setting("live"))
        inventory = takeover.scene.inventory
        put = inventory.put_vm

        async def stopped_before(vm: Vm, *, under: tuple[str, int] | None = None) -> None:
            if CONTROLLER.get() is takeover.old:
                await takeover.stop()
            await put(vm, under=under)

        monkeypatch.setattr(inventory, "put_vm", stopped_before)

        async def and_back(_: Outcome) -> None:
            back = takeover.scene.turned(2)
            assert (await back.move()).status is OutcomeStatus.COMPLETED
            await put(await back.inventory.vm("web"))

        await takeover.run(1.0, and_back)
        assert (await inventory.vm("web")).host == "one"

    simulate(scenario)
