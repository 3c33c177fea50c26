"""What goes when it is asked for, and by itself at the end of a move."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from godwit.errors import InputError
from godwit.journal.database import Database
from godwit.journal.sqljournal import SqlInventory, SqlJournal
from godwit.pruning import CURVES_KEPT, Wanted, keep_bounded, prune
from godwit.runners import RunnerProcesses, lock_path, take_lock
from godwit.simulation import TaskRunners, simulated

if TYPE_CHECKING:
    from pathlib import Path

    from godwit.service import Service

DAY = 86400.0


class LaterClock:
    """The simulation's clock, as many days later as a test wants."""

    def __init__(self, service: Service) -> None:
        self._clock = service.clock
        self.days = 0.0

    def now(self) -> float:
        return self._clock.now() + self.days * DAY

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)


@pytest.fixture
async def service(tmp_path: Path) -> Service:
    """Give Godwit over simulated hosts, with a journal in a file and a folder of logs."""
    made = await simulated(speed=50.0)
    journal = SqlJournal(await Database.open(tmp_path / "journal.db"))
    inventory = SqlInventory(journal._database)
    for host in await made.inventory.hosts():
        await inventory.put_host(host)
    for vm in await made.inventory.vms():
        await inventory.put_vm(vm)
    made = replace(made, journal=journal, inventory=inventory, clock=LaterClock(made))
    made.runners.service = made  # type: ignore[attr-defined]
    return made


async def moved(service: Service, home: Path) -> tuple[str, Service]:
    """Move the guest, and return the migration and Godwit as commands have it, which see the folder of logs."""
    vm = await service.inventory.vm("web1")
    identifier = await service.migrate("web1", "host2" if vm.host == "host1" else "host1")
    await service.outcome(identifier)
    assert isinstance(service.runners, TaskRunners)
    await service.runners.tasks["web1"]
    (home / "log").mkdir(exist_ok=True)
    (home / "log" / f"{identifier}.log").write_text("said\n")
    return identifier, replace(service, runners=RunnerProcesses(home))


def clock(service: Service) -> LaterClock:
    assert isinstance(service.clock, LaterClock)
    return service.clock


async def test_old_moves_go_with_their_logs(service: Service, tmp_path: Path) -> None:
    old, typed = await moved(service, tmp_path)
    clock(service).days = 40
    young, _ = await moved(service, tmp_path)
    (tmp_path / "log" / "cli.log").write_text("of the command itself")
    told = await prune(typed, Wanted(older_than=30 * DAY), dry_run=True)
    assert (told.identifiers, told.logs, told.in_use) == ((old,), 1, ())
    assert {row.spec.id for row in await typed.journal.rows()} == {old, young}
    told = await prune(typed, Wanted(older_than=30 * DAY))
    assert (told.identifiers, told.logs, told.small) == ((old,), 1, True)
    assert told.freed > 0
    assert [row.spec.id for row in await typed.journal.rows()] == [young]
    assert sorted(path.stem for path in (tmp_path / "log").iterdir()) == sorted([young, "cli"])
    assert (await prune(typed, Wanted(older_than=30 * DAY))).identifiers == ()


async def test_what_forecasts_learn_from_stays_unless_it_is_asked_for(service: Service, tmp_path: Path) -> None:
    _, typed = await moved(service, tmp_path)
    clock(service).days = 400
    assert len(await typed.journal.history.moves()) == 1
    assert (await prune(typed, Wanted(keep=0))).learned == 0
    assert len(await typed.journal.history.moves()) == 1
    assert (await prune(typed, Wanted(older_than=365 * DAY, learned=True))).learned == 1
    assert await typed.journal.history.moves() == []


async def test_both_together_remove_what_both_would(service: Service, tmp_path: Path) -> None:
    first, typed = await moved(service, tmp_path)
    second, _ = await moved(service, tmp_path)
    clock(service).days = 40
    third, _ = await moved(service, tmp_path)
    assert (await prune(typed, Wanted(older_than=30 * DAY, keep=2), dry_run=True)).identifiers == (first,)
    assert (await prune(typed, Wanted(older_than=50 * DAY, keep=1), dry_run=True)).identifiers == ()
    assert (await prune(typed, Wanted(keep=1))).identifiers == (first, second)
    assert [row.spec.id for row in await typed.journal.rows()] == [third]


async def test_what_somebody_works_on_is_left(service: Service, tmp_path: Path) -> None:
    identifier, typed = await moved(service, tmp_path)
    descriptor = take_lock(lock_path(tmp_path, "web1"))
    assert descriptor is not None
    told = await prune(typed, Wanted(keep=0))
    assert (told.identifiers, told.in_use) == ((), (identifier,))
    os.close(descriptor)
    assert (await prune(typed, Wanted(keep=0))).identifiers == (identifier,)


@pytest.mark.parametrize("wanted", [Wanted(), Wanted(keep=3, learned=True)])
async def test_what_is_not_said_is_refused(service: Service, wanted: Wanted) -> None:
    with pytest.raises(InputError) as refused:
        await prune(service, wanted)
    assert "--older-than" in refused.value.remedy


async def test_curves_and_logs_go_by_themselves_and_outcomes_stay(service: Service, tmp_path: Path) -> None:
    old, typed = await moved(service, tmp_path)
    log = tmp_path / "log" / f"{old}.log"
    clock(service).days = 89
    await keep_bounded(typed)
    assert {"sample", "series"} & {line.kind for line in await typed.journal.entries(old)}
    clock(service).days = 91
    os.utime(log, (typed.clock.now() - CURVES_KEPT - 1,) * 2)
    young, _ = await moved(service, tmp_path)
    await keep_bounded(typed)
    assert not {"sample", "series"} & {line.kind for line in await typed.journal.entries(old)}
    assert {"sample", "transition"} <= {line.kind for line in await typed.journal.entries(young)}
    assert all(row.outcome is not None for row in await typed.journal.rows())
    assert not log.exists()
    assert (tmp_path / "log" / f"{young}.log").exists()
