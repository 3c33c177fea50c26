"""The console of a guest that has moved: its kernel's trouble is told, and others have their console back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from stage import LONG, SMALL, Stage, simulate, stage

from godwit.core.state import Phase
from godwit.model import OutcomeStatus

if TYPE_CHECKING:
    from godwit.model import Outcome

OOPS = b"[   12.302] kernel BUG at lib/list_debug.c:51!\r\n"
PANIC = b"[   12.302] Kernel panic - not syncing: Fatal exception\r\n"
CONSOLE = "/run/web/console"


def with_console(says: bytes, *, address: str | None = "198.18.0.9") -> Stage:
    scene = stage(replace(SMALL, says=says), address=address)
    scene.vm = replace(scene.vm, console=CONSOLE)
    for qemu in scene.one.qemus.values():
        qemu.vm = scene.vm
    return scene


def moved(says: bytes, *, address: str | None = "198.18.0.9") -> Outcome:
    async def scenario() -> Outcome:
        return await with_console(says, address=address).move()

    return simulate(scenario)


@pytest.mark.parametrize("says", [OOPS, PANIC])
def test_a_kernel_in_trouble_is_a_warning_beside_a_guest_that_answers(says: bytes) -> None:
    outcome = moved(says)
    assert outcome.status is OutcomeStatus.COMPLETED
    assert outcome.guest_alive is True
    (finding,) = [finding for finding in outcome.findings if finding.code == "guest-kernel"]
    assert says.decode().strip() in finding.found


@pytest.mark.parametrize(("says", "alive"), [(OOPS, None), (PANIC, False), (b"web1 login: ", None)])
def test_a_kernel_that_says_it_has_stopped_is_believed_where_nobody_sees_the_guest(
    says: bytes,
    alive: bool | None,  # noqa: FBT001 - a table's column
) -> None:
    outcome = moved(says, address=None)
    assert outcome.guest_alive is alive
    assert bool(outcome.findings) is (says != b"web1 login: ")


def test_a_healthy_guest_has_no_warning() -> None:
    assert moved(b"web1 login: ").findings == ()


def test_the_console_is_let_go_when_the_move_has_ended_or_goes_back() -> None:
    async def scenario() -> list[bool]:
        closed = []
        for workload in (SMALL, LONG):
            scene = with_console(b"")
            scene.world.workloads["web"] = workload
            listening: list[bool] = []
            hear = scene.two.hear

            async def heard(path: str, hear=hear, listening=listening) -> object:  # type: ignore[no-untyped-def]  # noqa: ANN001
                listening.append(True)
                try:
                    async for some in hear(path):
                        yield some
                finally:
                    listening.append(False)

            scene.two.hear = heard  # type: ignore[assignment]
            if workload is LONG:
                scene.at(Phase.PRECOPY, scene.cancel, 0.5)
            await scene.move()
            assert listening[0]
            closed.append(listening[-1])
        return closed

    assert simulate(scenario) == [False, False]
