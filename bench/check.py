"""How long `godwit check` takes, as somebody types it: both hosts over SSH, a guest that runs, a shared disk.

`python -m bench.check --times 20` builds a laboratory with a guest, and asks whether it can move, again and again. The
first time counts for itself: nothing of the command is in the machine's memory then.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Final

from bench.ground import CALM, keep, one_guest, other_host, parser, run
from godwit.errors import LabError

NAME: Final = "benchcheck"
BAR: Final = 1.5
"""Seconds that it may take in the median."""


@dataclass(frozen=True, slots=True)
class Result:
    """Seconds of each check, from the start of the command to its end, and seconds of CPU that the command took."""

    wall: tuple[float, ...]
    cpu: tuple[float, ...]


def one(vm: str, target: str) -> tuple[float, float]:
    """Check once; returns seconds of the wall clock and of the command's CPU. Raises LabError where it refuses."""
    words = [sys.executable, "-m", "godwit", "check", vm, target]
    before, began = os.times(), time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    took, after = time.monotonic() - began, os.times()
    if done.returncode != 0:
        message = f"the check failed with status {done.returncode}: {done.stderr or done.stdout}"
        raise LabError(message)
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return took, spent


async def measure(times: int) -> Result:
    """Build a laboratory, check, take it down."""
    async with one_guest(NAME) as (service, lab, vm):
        target = await other_host(service, lab, vm.name)
        wall, cpu = [], []
        for _ in range(times):
            await asyncio.sleep(CALM)
            took, spent = await asyncio.to_thread(one, vm.name, target)
            print(f"{took:.2f} s, of it {spent:.2f} s of CPU", flush=True)
            wall.append(took)
            cpu.append(spent)
        return Result(tuple(wall), tuple(cpu))


def table(result: Result) -> str:
    """Print what the checks came to, beside the bar."""
    first, *rest = result.wall
    cells = (
        f"{len(rest)} times",
        f"{statistics.median(rest):.2f} s",
        f"{max(rest):.2f} s",
        f"{first:.2f} s",
        f"{statistics.median(result.cpu):.2f} s",
        f"{BAR} s",
    )
    head = "| `godwit check` of one guest | median | worst | the first one | CPU of the command | bar |"
    return "\n".join([head, "|---|---|---|---|---|---|", f"| {' | '.join(cells)} |"])


def main() -> int:
    """Parse, measure, print."""
    arguments = parser(__doc__)
    arguments.add_argument("--times", type=int, default=21, help="how often to check (21)")
    options = arguments.parse_args()
    result = run(lambda: measure(options.times))
    keep(result, options.json)
    print(table(result))
    return 0 if statistics.median(result.wall[1:]) <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
