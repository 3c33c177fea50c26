"""What neighbours keep while a guest moves past them, with --protect-neighbours and without, in turns.

`python -m bench.neighbours --rounds 3` lets a guest on one host compute and write as fast as it can, and moves another
one away from that host and back to it, again and again, each way once as always and once with the option. The
neighbour tells how far it has come: its pace while the stream ran is set against its pace just before and just after,
so nothing of this rests on what Godwit itself counts. The bar is 90 % with the option.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.ground import CALM, keep, laboratory, other_host, parser, run
from godwit import app
from godwit.bench import guests
from godwit.bench.guests import writing
from godwit.bench.scenarios import Scenario, Writes
from godwit.bench.typed import obeyed
from godwit.cli.policies import PROTECT
from godwit.lab.assets import cache_folder, prepare
from godwit.lab.furnish import GuestPlan, add_guest, register
from godwit.lab.plan import LabPlan
from godwit.units import MIB

if TYPE_CHECKING:
    from godwit.bench.guests import Writer
    from godwit.lab.laboratory import Laboratory
    from godwit.service import Service

NAME: Final = "benchbeside"
ALONE: Final = 6.0
"""Seconds for which the neighbour's pace is measured without a move, before it and after it."""

BAR: Final = 0.9
MEMORY: Final = 224 * MIB
NEIGHBOUR: Final = Scenario("neighbour", "8 bytes of pages of 16 MiB, as fast as it can", first=Writes(16, 100_000, 8))
MOVER: Final = Scenario("mover", "96 MiB that do not compress, seldom changed", first=Writes(96, 1))
WAYS: Final = {"as always": (), f"with {PROTECT}": (f"{PROTECT}=90%",)}


@dataclass(frozen=True, slots=True)
class Passed:
    """One move: the share of its pace that the neighbour kept meanwhile, and how long the stream ran."""

    way: str
    kept: float
    stream_s: float


@dataclass(frozen=True, slots=True)
class Result:
    """All moves, in order."""

    moves: tuple[Passed, ...]

    def kept(self, way: str) -> list[float]:
        """Return what the neighbour kept in the moves of one way."""
        return [move.kept for move in self.moves if move.way == way]


async def measure(rounds: int, rate: int) -> Result:
    """Build a laboratory with two guests on one host, measure, take it down."""
    assets = await asyncio.to_thread(prepare, cache_folder(), print)
    async with laboratory(LabPlan(NAME, link_rate=rate), assets.hosttree) as lab, app.opened() as service:
        await register(service, lab)
        mover = await add_guest(service, lab, assets, GuestPlan("mover", 0, MEMORY))
        beside = await add_guest(service, lab, assets, GuestPlan("beside", 1, MEMORY))
        for vm in (mover, beside):
            await guests.booted(lab, vm.address or "")
        async with (
            writing(lab, mover.address or "", MOVER),
            writing(lab, beside.address or "", NEIGHBOUR) as writer,
        ):
            assert writer is not None  # noqa: S101 - it was given something to write; for the type checker
            moves = [
                await passed(service, lab, (mover.name, way), writer)
                for _ in range(rounds)
                for way in WAYS
                for _ in ("there", "back")
            ]
    return Result(tuple(moves))


async def passed(service: Service, lab: Laboratory, what: tuple[str, str], writer: Writer) -> Passed:
    """Move a guest once, and return what its neighbour kept."""
    name, way = what
    await asyncio.sleep(CALM)
    began = time.time()
    await asyncio.sleep(ALONE)
    await obeyed("migrate", name, await other_host(service, lab, name), *WAYS[way])
    row = (await service.journal.rows(limit=1))[0]
    marks = {
        entry.data["name"]: entry.at for entry in await service.journal.entries(row.spec.id) if entry.kind == "mark"
    }
    start, end = marks["stream_started"], marks["target_running"]
    await asyncio.sleep(ALONE + CALM)
    before, during, after = (
        pace(writer.heard, *span) for span in ((began, start), (start, end), (end + CALM, time.time()))
    )
    kept = during / statistics.fmean((before, after))
    print(f"{way:26} {kept:6.1%} of its pace kept, stream {end - start:5.1f} s", flush=True)
    return Passed(way, kept, end - start)


def pace(heard: list[tuple[float, int]], began: float, ended: float) -> float:
    """Return the pages a second of a writer between two instants; it tells of itself now and then."""
    return (_count(heard, ended) - _count(heard, began)) / (ended - began)


def _count(heard: list[tuple[float, int]], at: float) -> float:
    """Return how far it had come at an instant, between the two lines around it."""
    for (early, before), (late, after) in itertools.pairwise(heard):
        if early <= at <= late and late > early:
            return before + (after - before) * (at - early) / (late - early)
    return float(heard[-1][1] if at > heard[-1][0] else heard[0][1])


def main() -> int:
    """Measure, and print the figures. The status is 1 where a neighbour kept less than it was promised."""
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=3, help="moves there and back, of each kind")
    options = arguments.parse_args()
    result = run(lambda: measure(options.rounds, options.rate))
    keep(result, options.json)
    print("\n| | neighbour kept, median (worst) | stream, median |\n|---|---|---|")
    for way in WAYS:
        kept, lengths = result.kept(way), [move.stream_s for move in result.moves if move.way == way]
        median = statistics.median(lengths)
        print(f"| {way} | {statistics.median(kept):.1%} ({min(kept):.1%}) | {median:.1f} s |")
    return 0 if statistics.median(result.kept(f"with {PROTECT}")) >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
