"""Many migrations at once: what they take of memory and of a core, and how long the journal keeps them waiting.

`python -m bench.load` carries 200 moves between simulated hosts in one process: the real engine, with the real journal
(`--journal memory`: with the one in memory), in real time. `--followed` has somebody wait for each. `--processes` gives
each the runner and the supervisor that it has in the product. `--lab` moves 8 real guests at once in a laboratory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.fleet import fleet, workload
from bench.loadlab import move_all
from bench.processes import Figures, Processes, resident, total
from godwit.app import RealClock
from godwit.journal.database import Database
from godwit.journal.memory import MemoryInventory, MemoryJournal
from godwit.journal.sqljournal import SqlInventory, SqlJournal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from godwit.ports import Inventory, Journal, MigrationRow
    from godwit.service import Service

MOST_MEGABYTES: Final = 300
MOST_OF_A_CORE: Final = 0.5
"""What 200 in flight may take, as long as none of them is at its switchover."""

LOOK: Final = 2.0
_ALL: Final = 100_000


@dataclass(frozen=True, slots=True)
class Load:
    """What was seen: `quiet` shares of a core are of spells in which every stream was in its precopy."""

    moves: int
    completed: int
    quiet: float | None
    busiest: float
    megabytes: float
    blackouts_ms: tuple[float, ...]


async def opened(kind: str, home: Path) -> tuple[Journal, Inventory]:
    """Open a journal, and the inventory that goes with it."""
    if kind == "memory":
        memory = MemoryJournal()
        return memory, MemoryInventory(memory)
    database = await Database.open(home / "journal.db")
    return SqlJournal(database), SqlInventory(database)


async def in_one_process(moves: int, seconds: float, kind: str, home: Path, *, followed: bool) -> Load:
    """Carry all moves as tasks of this process."""
    journal, inventory = await opened(kind, home)
    ways = fleet(range(moves), workload(seconds))
    service = await ways.service(journal, inventory)
    identifiers = [await service.migrate(way.vm.name, way.target) for way in ways.ways]
    following = [asyncio.create_task(service.outcome(one)) for one in identifiers] if followed else []
    found = await watched(service, moves, lambda: Figures(time.process_time(), resident()))
    await asyncio.gather(*following)
    await journal.close()
    return found


async def in_processes(moves: int, seconds: float, home: Path) -> Load:
    """Give each move a supervisor and a runner, as the product does."""
    journal, inventory = await opened("sqlite", home)
    ways = fleet(range(moves), workload(seconds))
    processes = Processes(home, seconds)
    service = replace(await ways.service(journal, inventory), runners=processes, clock=RealClock())
    for way in ways.ways:
        await service.migrate(way.vm.name, way.target)
    found = await watched(service, moves, processes.figures)
    await journal.close()
    print_writes(processes.writes())
    return found


async def watched(service: Service, moves: int, figures: Callable[[], Figures]) -> Load:
    """Look on until all have ended."""
    quiet: list[float] = []
    shares: list[float] = []
    megabytes, before, began = 0.0, figures(), time.monotonic()
    phases: Counter[str] = Counter()
    while True:
        at = time.monotonic()
        await asyncio.sleep(LOOK)
        now, rows = figures(), await service.journal.rows(limit=_ALL)
        shares.append((now.cpu - before.cpu) / (time.monotonic() - at))
        still, phases = phases["precopy"] == moves, Counter(row.phase.value for row in rows)
        if still and phases["precopy"] == moves:
            quiet.append(shares[-1])
        megabytes, before = max(megabytes, now.megabytes), now
        told = ", ".join(f"{count} {phase}" for phase, count in phases.items())
        print(f"{at - began:6.1f} s: {shares[-1]:4.0%} of a core, {now.megabytes:.0f} MB; {told}", flush=True)
        if all(row.outcome for row in rows):
            return summed(rows, quiet, shares, megabytes)


def summed(rows: Sequence[MigrationRow], quiet: list[float], shares: list[float], megabytes: float) -> Load:
    """Put the figures together."""
    outcomes = [row.outcome for row in rows if row.outcome]
    blackouts = sorted(one.downtime.blackout_ms for one in outcomes if one.downtime.blackout_ms is not None)
    completed = sum(one.status.value == "completed" for one in outcomes)
    share = sum(quiet) / len(quiet) if quiet else None
    return Load(len(rows), completed, share, max(shares), megabytes, tuple(blackouts))


def print_writes(writes: list[dict[str, object]]) -> None:
    """Print how long transitions took to be written."""
    for durable, what in ((True, "durable"), (False, "written soon")):
        took = sorted(float(str(one["seconds"])) * 1000 for one in writes if one["durable"] is durable)
        if took:
            line = f"{took[len(took) // 2]:.1f} ms median, {took[len(took) * 99 // 100]:.1f} p99, {took[-1]:.1f} worst"
            print(f"{len(took)} transitions {what}: {line}")


def verdict(load: Load, *, bound: bool) -> int:
    """Print the sum, and return an exit status: 1 where the bars are missed, or a move was."""
    median = load.blackouts_ms[len(load.blackouts_ms) // 2] if load.blackouts_ms else 0.0
    share = "not told" if load.quiet is None else f"{load.quiet:.0%}"
    print(f"{load.completed} of {load.moves} completed; {share} of a core while all were in precopy,")
    print(f"{load.busiest:.0%} at most; {load.megabytes:.0f} MB at most; blackouts {median:.0f} ms median,")
    print(f"{max(load.blackouts_ms, default=0.0):.0f} ms worst")
    missed = load.completed < load.moves
    if bound:
        missed |= load.megabytes > MOST_MEGABYTES or load.quiet is None or load.quiet > MOST_OF_A_CORE
    return int(missed)


def main() -> int:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=0, help="how many at once [200; 8 with --lab]")
    parser.add_argument(
        "--seconds", type=float, default=0.0, help="what a move takes, about [30; 180 with --processes]"
    )
    parser.add_argument("--journal", choices=("sqlite", "memory"), default="sqlite")
    parser.add_argument("--followed", action="store_true", help="somebody waits for the end of each")
    parser.add_argument("--json", type=Path, help="write all figures there")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--processes", action="store_true", help="runner processes, as in the product")
    how.add_argument("--lab", action="store_true", help="real guests in a laboratory; needs root")
    options = parser.parse_args()
    if options.lab:
        return move_all(options.moves or 8, options.json)
    moves = options.moves or 200
    with tempfile.TemporaryDirectory(prefix="godwit-bench-") as folder:
        home = Path(folder)
        os.environ["GODWIT_HOME"] = folder
        if options.processes:
            load = asyncio.run(in_processes(moves, options.seconds or 180.0, home))
        else:
            work = in_one_process(moves, options.seconds or 30.0, options.journal, home, followed=options.followed)
            load = asyncio.run(work)
    if options.json:
        options.json.write_text(json.dumps({name: getattr(load, name) for name in load.__slots__}, indent=1) + "\n")
    print(f"the machine: load {total():.1f}, {os.cpu_count()} cores")
    return verdict(load, bound=not options.processes)


if __name__ == "__main__":
    sys.exit(main())
