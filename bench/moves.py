"""Godwit against QEMU's defaults: the same guest, the same link, in turns, as typed by a user.

`python -m bench.moves --pairs 10 --more 10` moves a quiet guest there with QEMU's defaults and back with Godwit, ten
times, then ten more times with Godwit alone: thirty moves in a row on one SSH session and one TCP connection.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from godwit import app
from godwit.lab.assets import cache_folder, prepare
from godwit.lab.furnish import GuestPlan, add_guest, prefix, register
from godwit.lab.laboratory import Laboratory
from godwit.lab.loads import SshTop, TickReader, fill_redis
from godwit.lab.plan import LabPlan
from godwit.units import MIB

if TYPE_CHECKING:
    from godwit.model import Outcome
    from godwit.service import Service

NAME = "bench"
CALM = 2.0
DATA_BYTES = 96 * MIB


@dataclass(frozen=True, slots=True)
class Move:
    """The figures of one move."""

    way: str
    status: str
    alive: bool | None
    client_gap_ms: float | None
    blackout_ms: float | None
    qemu_ms: float | None
    stream_s: float | None
    command_to_stream_s: float | None
    bytes: int
    passes: int


@dataclass(frozen=True, slots=True)
class Result:
    """All moves, and whether their witnesses noticed anything."""

    moves: tuple[Move, ...]
    ssh_session_survived: bool
    tick_faults: tuple[str, ...]
    ticks: int


async def measure(pairs: int, more: int, rate: int) -> Result:
    """Build a laboratory, move, take it down."""
    assets = await asyncio.to_thread(prepare, cache_folder(), print)
    await asyncio.to_thread(Laboratory.remove, NAME)
    lab = await asyncio.to_thread(Laboratory.up, LabPlan(NAME, link_rate=rate), assets.hosttree)
    try:
        async with app.opened() as service, AsyncExitStack() as stack:
            await register(service, lab)
            vm = await add_guest(service, lab, assets, GuestPlan())
            ticks = await stack.enter_async_context(TickReader(vm.address or ""))
            await fill_redis(vm.address or "", DATA_BYTES)
            top = await stack.enter_async_context(SshTop(lab, vm.address or ""))
            moves = []
            for number in range(2 * pairs + more):
                # Every second pair is turned round, so that neither way always has the same direction.
                turn = number % 2 if number // 2 % 2 == 0 else 1 - number % 2
                way = "defaults" if number < 2 * pairs and turn == 0 else "godwit"
                host = f"{prefix(NAME)}host{2 - number % 2}"
                moves.append(await move(service, vm.name, host, vm.address or "", way))
                print(json.dumps(asdict(moves[-1])), flush=True)
            survived = await top.survives()
            return Result(tuple(moves), survived, tuple(ticks.faults), ticks.ticks)
    finally:
        await asyncio.to_thread(lab.down)


async def move(service: Service, vm: str, host: str, address: str, way: str) -> Move:
    """Type the command, wait, read the figures."""
    await asyncio.sleep(CALM)
    command = [sys.executable, "-m", "godwit", "migrate", vm, host, "--probe", f"{address}@{prefix(NAME)}client"]
    command += ["--qemu-defaults"] if way == "defaults" else []
    typed = time.time()
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    await process.wait()
    row = (await service.journal.rows(limit=1))[0]
    if row.outcome is None:
        message = f"the move of {vm} to {host} has no outcome"
        raise RuntimeError(message)
    return figures(way, row.outcome, row.created - typed)


def figures(way: str, outcome: Outcome, until_request: float) -> Move:
    """Keep what the table needs; `until_request` is the seconds from the command to its line in the journal."""
    down = outcome.downtime
    return Move(
        way=way,
        status=outcome.status.value,
        alive=outcome.guest_alive,
        client_gap_ms=down.client_gap_ms,
        blackout_ms=down.blackout_ms,
        qemu_ms=down.qemu_ms,
        stream_s=outcome.stream_s,
        command_to_stream_s=None if outcome.start_delay_s is None else until_request + outcome.start_delay_s,
        bytes=outcome.bytes,
        passes=outcome.passes,
    )


def table(result: Result) -> str:
    """Print medians and worst, both ways, and their ratio."""
    rows = ["| | QEMU's defaults, median (worst) | Godwit, median (worst) | ratio of medians |", "|---|---|---|---|"]
    for name, field, scale, unit in (
        ("client gap", "client_gap_ms", 1.0, "ms"),
        ("blackout, STOP to RESUME", "blackout_ms", 1.0, "ms"),
        ("downtime that QEMU reports", "qemu_ms", 1.0, "ms"),
        ("migration time", "stream_s", 1.0, "s"),
        ("command to stream start", "command_to_stream_s", 1.0, "s"),
        ("bytes sent", "bytes", 1e-6, "MB"),
    ):
        by_way = {}
        for way in ("defaults", "godwit"):
            values = [getattr(one, field) for one in result.moves if one.way == way and getattr(one, field) is not None]
            by_way[way] = (statistics.median(values) * scale, max(values) * scale) if values else (float("nan"),) * 2
        cells = [f"{median:.2f} ({worst:.2f}) {unit}" for median, worst in by_way.values()]
        ratio = by_way["godwit"][0] / by_way["defaults"][0]
        rows.append(f"| {name} | {cells[0]} | {cells[1]} | {ratio:.3f} |")
    good = sum(1 for one in result.moves if one.status == "completed" and one.alive)
    rows.append("")
    rows.append(
        f"{good} of {len(result.moves)} moves completed with the guest alive; the SSH session "
        f"{'survived' if result.ssh_session_survived else 'DIED'}; {len(result.tick_faults)} faults on the TCP "
        f"connection in {result.ticks} ticks."
    )
    return "\n".join(rows)


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10, help="moves each way, in turns")
    parser.add_argument("--more", type=int, default=10, help="moves with Godwit alone, after that")
    parser.add_argument("--rate", type=int, default=400_000_000, help="of the migration link, bits a second")
    parser.add_argument("--json", type=Path, help="write all figures there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="godwit-bench-") as home:
        os.environ[app.HOME_VARIABLE] = home
        result = asyncio.run(measure(options.pairs, options.more, options.rate))
    if options.json:
        options.json.write_text(json.dumps(asdict(result), indent=1) + "\n")
    print(table(result))
    unharmed = result.ssh_session_survived and not result.tick_faults
    return 0 if unharmed and all(one.status == "completed" and one.alive for one in result.moves) else 1


if __name__ == "__main__":
    sys.exit(main())
