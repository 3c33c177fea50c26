"""The fault matrix: a selection of its cells over real QEMU, and that those who watch would see a broken law.

script/soak matrix carries out all of it; docs/reliability.md has the results.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import matrixpage
import pytest
from faultcells import CELLS, IN_SCRIPT_TEST, POINTS, Cell, Mode
from faultdeeds import FAULTS
from faultjudge import DEAD
from faultmatrix import Field
from labtools import Ground
from labtraps import Trap
from labwaits import until
from witness import Acknowledged, Executions, Span

from godwit.lab import assets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from godwit.lab.laboratory import Laboratory

LAB = (pytest.mark.lab, pytest.mark.timeout(300))


def selected(*, apart: bool) -> list[object]:
    cells = [cell for cell in CELLS if cell.id in IN_SCRIPT_TEST and (cell.mode is Mode.MIRROR) is apart]
    return [pytest.param(cell, id=cell.id, marks=LAB) for cell in sorted(cells, key=lambda one: one.mode)]


# -- the table, without a laboratory -----------------------------------------------------------------------------------


def test_the_matrix_is_large_enough_and_names_each_cell_once() -> None:
    assert len(CELLS) >= 120
    assert len({cell.id for cell in CELLS}) == len(CELLS)
    assert {cell.fault for cell in CELLS} <= set(FAULTS)
    for mode in Mode:
        assert len({cell.point for cell in CELLS if cell.mode is mode}) >= 10, mode
    assert {cell.id for cell in CELLS} >= IN_SCRIPT_TEST
    assert {cell.mode for cell in CELLS if cell.id in IN_SCRIPT_TEST} == set(Mode)
    assert {cell.point for cell in CELLS} <= set(POINTS)


def test_a_guest_is_only_lost_where_the_fault_destroys_a_copy() -> None:
    """What a controller, a link, a full disk or a lock does never costs a guest."""
    destroys = ("QEMU killed", "host crashes", "falls silent and crashes")
    lost = [cell for cell in CELLS if cell.end in DEAD]
    assert lost
    assert [cell.id for cell in lost if not cell.fault.endswith(destroys)] == []


def test_two_that_run_at_once_are_seen() -> None:
    watching = Executions("lab", "web")
    watching.spans = [Span("host1", 1, 10.0, 20.0), Span("host2", 2, 20.001, 30.0), Span("host1", 1, 30.002)]
    assert watching.doubled() == []
    watching.spans.append(Span("host2", 3, 40.0, 40.5))
    assert watching.doubled() == ["host1 (1) and host2 (3): 0.500 s"]


def test_a_write_that_is_gone_or_is_somebody_elses_is_seen() -> None:
    reader = Acknowledged("192.0.2.1")
    acked = {1: 0xA, 2: 0xB, 3: 0xC}
    assert reader.lost({1: 0xA, 2: 0xB, 3: 0xC, 4: 0xD}, acked) == []
    assert [words.split()[1] for words in reader.lost({1: 0xA, 2: 0xF}, acked)] == ["2", "3"]


def test_the_page_says_what_was_found() -> None:
    text = matrixpage.PAGE.read_text(encoding="utf-8")
    assert matrixpage.rendered(text, matrixpage.parts(matrixpage.read(matrixpage.RESULTS))) == text, (
        "script/soak matrix --page"
    )


def test_each_cell_was_found_as_it_must_be() -> None:
    last = matrixpage.latest(matrixpage.read(matrixpage.RESULTS))
    assert [key for key, line in last.items() if line["wrong"]] == []


# -- over real QEMU ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(build_lab: Callable[..., Laboratory], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    """Return two hosts that see the same disks."""
    with Field.on(Ground(build_lab(link_rate=None), prepared(), tmp_path_factory.mktemp("godwit"))) as field:
        asyncio.run(field.ground.introduce())
        yield field


@pytest.fixture(scope="module")
def apart_field(build_lab: Callable[..., Laboratory], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    """Return two hosts that share nothing."""
    lab = build_lab(link_rate=None, shared_storage=False)
    with Field.on(Ground(lab, prepared(), tmp_path_factory.mktemp("godwit"))) as field:
        asyncio.run(field.ground.introduce())
        yield field


def prepared() -> assets.Assets:
    return assets.prepare(assets.cache_folder(), print)


async def carried_out(field: Field, cell: Cell, figure: Callable[[str, object], None]) -> None:
    verdict = await field.carry_out(cell)
    figure("silence_s", verdict.silence)
    figure("acknowledged", verdict.acknowledged)
    assert verdict.wrong == []
    assert verdict.acknowledged > 10


@pytest.mark.parametrize("cell", selected(apart=False))
async def test_over_shared_storage(shared: Field, cell: Cell, figure: Callable[[str, object], None]) -> None:
    await carried_out(shared, cell, figure)


@pytest.mark.parametrize("cell", selected(apart=True))
async def test_with_copied_disks(apart_field: Field, cell: Cell, figure: Callable[[str, object], None]) -> None:
    await carried_out(apart_field, cell, figure)


@pytest.mark.lab
@pytest.mark.timeout(300)
async def test_a_source_that_runs_on_beside_its_target_is_seen(apart_field: Field) -> None:
    """The law is broken by hand: both copies run for a while. What watches the matrix must say so.

    Over shared storage, QEMU's lock of the image keeps the source from it; here each copy has a disk.
    """
    await apart_field.ready(busy=False)
    ground = apart_field.ground
    here, there = await ground.whereabouts()
    traps = ground.lay(Trap("hold", at="godwit.qemu.guest:QemuGuest.quit", when="before"))
    async with Executions(ground.lab.name, ground.name) as executions, Acknowledged(ground.address):
        move = await ground.begin(there, traps=traps)
        await until(traps.sprung, "the source is about to be ended")
        ground.tell(executions.pids[here], "cont")
        assert await executions.hears(lambda: len(executions.running()) == 2, 10)
        await asyncio.sleep(1.5)
        os.kill(executions.pids[here], signal.SIGKILL)
        traps.release()
        await move.outcome()
        assert executions.doubled()
    await apart_field.clear()
