"""A day of migrations, and one migration of a day, in virtual time: what is left of them, and what grows.

`python -m bench.leaks` lets 24 simulated hours pass in which guests go to and fro, one after another, while a service
follows each, first with the journal in memory; then `--real` moves are made with the one in a file; then one guest
moves for 24 hours over a link of 1 Mbit/s. Tasks, threads, open files and memory are counted after each tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.fleet import fleet, workload
from bench.processes import resident
from godwit.hosts.fake import VirtualTimeLoop, Workload
from godwit.journal.database import Database
from godwit.journal.memory import MemoryInventory, MemoryJournal
from godwit.journal.sqljournal import SqlInventory, SqlJournal
from godwit.model import OutcomeStatus
from godwit.pruning import Wanted, prune
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from godwit.ports import Inventory, Journal
    from godwit.service import Service

HOUR: Final = 3600.0
SLOW: Final = 125_000
"""Bytes a second of a link of 1 Mbit/s."""

TENTHS: Final = 10

MOST_GROWTH: Final = 4.0
"""Megabytes by which a tenth of a day may have grown since the third one; an allocator is not exact."""


@dataclass(frozen=True, slots=True)
class Count:
    """What there is at some instant."""

    tasks: int
    threads: int
    files: int
    megabytes: float

    @classmethod
    def now(cls) -> Count:
        """Count."""
        gc.collect()
        return cls(
            len(asyncio.all_tasks()),
            threading.active_count(),
            sum(1 for _ in Path("/proc/self/fd").iterdir()),
            resident(),
        )


async def to_and_fro(journal: Journal, inventory: Inventory, *, hours: float, moves: int) -> list[Count]:
    """Move a guest to and fro until `hours` or `moves` are over, and forget each move when it has ended."""
    ways = fleet((0,), workload(2.0))
    service = await ways.service(journal, inventory)
    (way,) = ways.ways
    there, here = way.target, way.vm.host
    clock, began, made = service.clock, service.clock.now(), 0
    counts: list[Count] = []
    while clock.now() - began < hours * HOUR and made < moves:
        outcome = await service.outcome(await service.migrate(way.vm.name, there))
        assert outcome.status is OutcomeStatus.COMPLETED, outcome  # noqa: S101 - the measurement would be none
        there, here, made = here, there, made + 1
        await clock.sleep(5.0)
        if made % 50 == 0:
            await prune(service, Wanted(older_than=1.0, learned=True))
            ways.world.runs.clear()
        if (clock.now() - began) * 10 > (len(counts) + 1) * hours * HOUR or made * 10 >= (len(counts) + 1) * moves:
            counts.append(Count.now())
            told(f"{(clock.now() - began) / HOUR:.1f} h, {made} moves", counts[-1])
    return counts


async def a_day(journal: MemoryJournal, inventory: Inventory, *, hours: float) -> list[Count]:
    """Move one guest for so long."""
    guest = Workload(memory=1 << 34, used=int(SLOW * hours * HOUR * 0.97), hot_set=4 * MIB, dirty_rate=0.5 * SLOW)
    ways = fleet((0,), guest, rate=SLOW)
    service: Service = await ways.service(journal, inventory)
    (way,) = ways.ways
    identifier = await service.migrate(way.vm.name, way.target)
    following = asyncio.create_task(service.outcome(identifier))
    counts: list[Count] = []
    while not following.done() and len(counts) < 2 * TENTHS:
        await asyncio.wait([following], timeout=hours * HOUR / TENTHS)
        counts.append(Count.now())
        lines = await journal.entries(identifier)
        told(f"{len(counts) / 10:.0%} of the time, {len(lines)} lines in the journal", counts[-1])
    outcome = await following
    assert outcome.status is OutcomeStatus.COMPLETED, outcome  # noqa: S101 - as above
    lines = await journal.entries(identifier)
    size = sum(len(str(line.data)) for line in lines)
    print(f"it took {outcome.total_s / HOUR:.1f} h; its story has {len(lines)} lines, {size / 1e6:.1f} MB", flush=True)
    return counts


def told(what: str, count: Count) -> None:
    """Print a line."""
    print(
        f"{what}: {count.tasks} tasks, {count.threads} threads, {count.files} files, {count.megabytes:.1f} MB",
        flush=True,
    )


def grew(counts: list[Count]) -> list[str]:
    """Return what grew once everything was warm."""
    if len(counts) < 4:  # noqa: PLR2004 - the first ones warm up
        return ["it was over before anything could be compared"]
    warm, last = counts[2], counts[-1]
    found = [
        f"{name}: {getattr(warm, name)} -> {getattr(last, name)}"
        for name in ("tasks", "threads", "files")
        if getattr(last, name) > getattr(warm, name)
    ]
    if last.megabytes > warm.megabytes + MOST_GROWTH:
        found.append(f"memory: {warm.megabytes:.1f} -> {last.megabytes:.1f} MB")
    return found


def virtually(work: Coroutine[None, None, list[Count]]) -> list[Count]:
    """Run work in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)


async def with_a_file(moves: int) -> list[Count]:
    """Move to and fro with the journal in a file, whose threads no virtual clock could wait for: in real time."""
    with tempfile.TemporaryDirectory(prefix="godwit-bench-") as folder:
        database = await Database.open(Path(folder) / "journal.db")
        journal = SqlJournal(database)
        try:
            return await to_and_fro(journal, SqlInventory(database), hours=1e6, moves=moves)
        finally:
            await journal.close()
            print(f"the journal takes {database.size() / 1e6:.1f} MB")


def main() -> int:
    """Measure, and return 1 where something grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24.0, help="how many simulated hours [24]")
    parser.add_argument("--real", type=int, default=100, help="moves with the journal in a file, in real time [100]")
    options = parser.parse_args()
    found: dict[str, list[str]] = {}
    began = time.monotonic()
    memory = MemoryJournal()
    print(f"one after another, {options.hours:g} simulated hours:")
    day = to_and_fro(memory, MemoryInventory(memory), hours=options.hours, moves=1_000_000)
    found["one after another"] = grew(virtually(day))
    if options.real:
        print("one after another, with the journal in a file:")
        found["with a file"] = grew(asyncio.run(with_a_file(options.real)))
    memory = MemoryJournal()
    print(f"one for {options.hours:g} hours:")
    found["one for a day"] = grew(virtually(a_day(memory, MemoryInventory(memory), hours=options.hours)))
    print(f"measured in {time.monotonic() - began:.0f} s")
    for what, grown in found.items():
        print(f"{what}: {'; '.join(grown) or 'nothing grew'}")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
