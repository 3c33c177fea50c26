"""What Godwit itself costs: a guest's work while it is profiled, and a core's time while a move is followed.

`python -m bench.costs --rounds 5` lets a guest write as fast as it can, and profiles it again and again: its pace
meanwhile is set against its pace just before and just after. Then it moves a guest over a slow link, and counts what
all of Godwit's processes take of a core from the stream's first second to its last.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.ground import CALM, keep, one_guest, other_host, parser, run
from godwit import app
from godwit.bench.guests import writing
from godwit.bench.machines import controllers
from godwit.bench.scenarios import Scenario, Writes
from godwit.bench.typed import obeyed
from godwit.core.state import Phase

if TYPE_CHECKING:
    from godwit.bench.guests import Writer
    from godwit.lab.laboratory import Laboratory
    from godwit.service import Service

NAME: Final = "benchcosts"
ALONE: Final = 8.0
"""Seconds for which the guest's pace is measured without anybody, before a profile and after it."""

BUSY: Final = Scenario("busy", "8 bytes of pages of 64 MiB, as fast as it can", first=Writes(64, 100_000, 8))
SLOW: Final = Scenario("slow", "128 MiB that do not compress, behind 60 Mbit/s", 60, first=Writes(128, 1))
_LOOK: Final = 0.25
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_KINDS: Final = {b"godwit.runner": "runner", b"prober.py": "probe"}
_COMMAND: Final = "command"
_SPENT: Final = slice(11, 15)
"""Where /proc/PID/stat, after the name, has the ticks that a process and its ended children have worked."""


@dataclass(frozen=True, slots=True)
class Result:
    """`slowdowns` is by what share the guest was slower while it was profiled; `shares` what a move took of a core."""

    slowdowns: tuple[float, ...]
    shares: tuple[float, ...]


async def measure(rounds: int) -> Result:
    """Build a laboratory, measure, take it down."""
    async with one_guest(NAME) as (service, lab, vm):
        async with writing(lab, vm.address or "", BUSY) as writer:
            assert writer is not None  # noqa: S101 - it was given something to write; for the type checker
            slowdowns = [await slowdown(writer, vm.name) for _ in range(rounds)]
        lab.set_rate(SLOW.link * 10**6)
        async with writing(lab, vm.address or "", SLOW):
            shares = [await share_of_a_core(service, lab, vm.name) for _ in range(rounds)]
    return Result(tuple(slowdowns), tuple(shares))


async def slowdown(writer: Writer, vm: str) -> float:
    """Return by what share a guest was slower while it was profiled than before and after."""
    instants = [time.time()]
    await asyncio.sleep(ALONE)
    instants.append(time.time())
    await obeyed("profile", vm)
    instants.append(time.time())
    await asyncio.sleep(ALONE + CALM)
    instants.append(time.time())
    before, meanwhile, after = (pace(writer.heard, *pair) for pair in pairwise(instants))
    found = 1 - meanwhile / statistics.fmean((before, after))
    print(f"profiled: {found:.2%} slower ({before:.0f}, {meanwhile:.0f}, {after:.0f} pages a second)", flush=True)
    return found


def pace(heard: list[tuple[float, int]], began: float, ended: float) -> float:
    """Return the pages a second between the first and the last line that a writer told in that time."""
    within = [one for one in heard if began <= one[0] <= ended]
    (first_at, first), (last_at, last) = within[0], within[-1]
    return (last - first) / (last_at - first_at)


async def share_of_a_core(service: Service, lab: Laboratory, name: str) -> float:
    """Move a guest, and return what Godwit's processes took of a core while its stream ran."""
    move = asyncio.create_task(obeyed("migrate", name, await other_host(service, lab, name)))
    looks: list[tuple[float, dict[str, float]]] = []
    while not move.done():
        if any(row.phase == Phase.PRECOPY for row in await service.journal.rows(unfinished=True, limit=1)):
            looks.append((time.time(), worked(controllers(os.environ[app.HOME_VARIABLE]))))
        await asyncio.sleep(_LOOK)
    await move
    (began, before), (ended, after) = looks[0], looks[-1]
    shares = {who: (after[who] - before[who]) / (ended - began) for who in after}
    parts = ", ".join(f"{who} {share:.2%}" for who, share in sorted(shares.items()))
    print(f"followed for {ended - began:.1f} s: {sum(shares.values()):.2%} of a core ({parts})", flush=True)
    return sum(shares.values())


def worked(processes: list[int]) -> dict[str, float]:
    """Return the seconds of a core that each kind of these processes has taken so far."""
    spent: dict[str, float] = dict.fromkeys((*_KINDS.values(), _COMMAND), 0.0)
    for pid in processes:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        who = next((kind for mark, kind in _KINDS.items() if mark in line), _COMMAND)
        spent[who] += sum(int(field) for field in fields[_SPENT]) / _TICKS
    return spent


def main() -> int:
    """Measure, and print the figures."""
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=5, help="profiles, and moves")
    options = arguments.parse_args()
    result = run(lambda: measure(options.rounds))
    keep(result, options.json)
    print("\n| | median (worst) |\n|---|---|")
    for words, values in (
        ("a guest that is profiled is slower by", result.slowdowns),
        ("a move takes of a core", result.shares),
    ):
        print(f"| {words} | {statistics.median(values):.2%} ({max(values):.2%}) |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
