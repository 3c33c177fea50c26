"""The two monitors of a move: which one is dropped when one is lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stage import Stage, simulate, stage

from godwit.core import events as e
from godwit.core.ledger import Ledger
from godwit.engine.parts import Parts
from godwit.engine.sides import Sides
from godwit.errors import MonitorLostError
from godwit.hosts.fakeguest import FakeGuest
from godwit.hosts.fakewatch import FakeWatcher
from godwit.model import RunState, Side
from godwit.qemu.hypervisor import QemuHypervisor

if TYPE_CHECKING:
    import pytest

    from godwit.model import GuestView


def parts_of(scene: Stage) -> Parts:
    return Parts(
        *(scene.spec, scene.vm, scene.one, scene.two, scene.journal, scene.inventory, scene.world.clock),
        watcher=FakeWatcher(scene.world, {}),
        epoch=1,
        requested=0.0,
        hypervisor=QemuHypervisor(),
        authority=scene.authority,
    )


def test_a_look_that_loses_its_monitor_leaves_a_newer_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropped and still open it would keep us out of that QEMU, and its watcher would never end."""

    async def scenario() -> None:
        scene, emitted = stage(), list[e.Event]()
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            sides = Sides(parts_of(scene), Ledger(), tasks, emitted.append)
            old = await sides.attach(Side.SOURCE)
            newer = []

            async def lost(self: FakeGuest) -> GuestView:
                monkeypatch.undo()
                self.lose("the connection was reset")
                await asyncio.sleep(0.1)
                newer.append(await sides.attach(Side.SOURCE))
                raise MonitorLostError("the connection was reset")

            monkeypatch.setattr(FakeGuest, "view", lost)
            assert (await sides.look(Side.SOURCE)).state is RunState.RUNNING
            assert newer != [old]
            assert await sides.attach(Side.SOURCE) is newer[0]
            await sides.close()
        assert e.Lost(Side.SOURCE) in emitted
        await scene.one.attach(scene.vm)  # nobody else holds it

    simulate(scenario)


def test_a_monitor_that_does_not_answer_is_closed_when_it_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        scene = stage()
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            sides = Sides(parts_of(scene), Ledger(), tasks, lambda _: None)
            silent = await sides.attach(Side.SOURCE)

            async def view(_: FakeGuest) -> GuestView:
                raise MonitorLostError("QEMU of web did not answer `query-status`")

            with monkeypatch.context() as patch:
                patch.setattr(FakeGuest, "view", view)
                await sides.look(Side.SOURCE)
            assert await sides.attach(Side.SOURCE) is not silent
            await sides.close()

    simulate(scenario)
