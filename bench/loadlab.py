"""Real guests in a laboratory, moved all at once."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.ground import laboratory, run
from bench.processes import Figures
from godwit import app
from godwit.bench import guests
from godwit.bench.machines import controllers
from godwit.bench.typed import typed
from godwit.lab.assets import cache_folder, prepare
from godwit.lab.furnish import GuestPlan, add_guest, prefix, register
from godwit.lab.plan import LabPlan
from godwit.units import MIB

if TYPE_CHECKING:
    from godwit.model import Outcome, Vm

NAME: Final = "benchload"
MEMORY: Final = 160 * MIB
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_LOOK: Final = 0.5


@dataclass(frozen=True, slots=True)
class Moved:
    """How one of the moves went."""

    vm: str
    status: str
    alive: bool | None
    client_gap_ms: float | None
    probe_lag_ms: float | None
    blackout_ms: float | None
    total_s: float
    error: str


def move_all(count: int, path: Path | None) -> int:
    """Move so many guests at once, print how each went; 1 where one did not end as it should."""
    moved, seconds, peak = run(lambda: _measure(count))
    if path:
        path.write_text(json.dumps([asdict(one) for one in moved], indent=1) + "\n")
    for one in moved:
        gap = "not told" if one.client_gap_ms is None else f"{one.client_gap_ms:.0f} ms"
        lag = "" if one.probe_lag_ms is None else f" (the probe itself was late by up to {one.probe_lag_ms:.0f} ms)"
        why = f": {one.error}" if one.error else ""
        print(f"{one.vm}: {one.status}, alive {one.alive}, {one.total_s:.1f} s, client's gap {gap}{lag}{why}")
    print(f"{seconds:.1f} s for all; commands, supervisors, runners and probes: at most {peak.megabytes:.0f} MB,")
    print(f"{peak.cpu / seconds:.0%} of a core on average")
    return int(not all(one.status == "completed" and one.alive for one in moved))


async def _measure(count: int) -> tuple[list[Moved], float, Figures]:
    assets = await asyncio.to_thread(prepare, cache_folder(), print)
    async with laboratory(LabPlan(NAME), assets.hosttree) as lab, app.opened() as service:
        await register(service, lab)
        vms: list[Vm] = []
        for number in range(count):  # one after the other: eight that boot at once take long, each of them
            plan = GuestPlan(name=f"web{number}", number=number, memory=MEMORY)
            vms.append(await add_guest(service, lab, assets, plan))
            await guests.booted(lab, vms[-1].address or "")
        target, began = prefix(NAME) + "host2", time.monotonic()
        moves = [asyncio.create_task(typed("migrate", vm.name, target)) for vm in vms]
        peak = Figures(0.0, 0.0)
        while not all(move.done() for move in moves):
            await asyncio.sleep(_LOOK)
            now = _taken(controllers(os.environ[app.HOME_VARIABLE]))
            peak = Figures(max(peak.cpu, now.cpu), max(peak.megabytes, now.megabytes))
        seconds = time.monotonic() - began
        rows = await service.journal.rows(limit=count)
        return [_moved(row.outcome) for row in rows if row.outcome], seconds, peak


def _moved(outcome: Outcome) -> Moved:
    felt = outcome.downtime
    return Moved(
        outcome.vm,
        outcome.status.value,
        outcome.guest_alive,
        felt.client_gap_ms,
        felt.probe_lag_ms,
        felt.blackout_ms,
        outcome.total_s,
        outcome.error,
    )


def _taken(pids: list[int]) -> Figures:
    """Return what these processes have taken so far of a core, and have in memory, shared pages counted once."""
    cpu, kilobytes = 0.0, 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # it has ended meanwhile
        cpu += sum(int(field) for field in fields[11:15]) / _TICKS
        kilobytes += next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return Figures(cpu, kilobytes * 1024 / 1e6)
