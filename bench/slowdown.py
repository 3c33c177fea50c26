"""How far a guest is slowed down, of what was permitted and of what QEMU was told, at several values.

`python -m bench.slowdown --moves 3` moves a guest that writes whole pages without a pause to and fro, each time with
another `--max-guest-slowdown`. What it lost is what its CPUs worked less, as its host counts it and the report tells.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.ground import CALM, keep, one_guest, other_host, parser, run
from godwit.bench.guests import writing
from godwit.bench.scenarios import Scenario, Writes
from godwit.bench.typed import obeyed
from godwit.measure.story import report_data

if TYPE_CHECKING:
    from collections.abc import Iterable

    from godwit.lab.laboratory import Laboratory
    from godwit.service import Service

NAME: Final = "benchslow"
PERMITTED: Final = (0.3, 0.5, 0.7)
TOLERANCE: Final = 0.1
"""Share of the guest's time by which what it lost may differ from what QEMU was told."""

TORRENT: Final = Scenario("torrent", "whole pages of 48 MiB as fast as it can", first=Writes(48, 2000))


@dataclass(frozen=True, slots=True)
class Slowed:
    """One move: what was permitted, what QEMU was told at most, what the guest lost; None where nobody could see."""

    permitted: float
    asked: float | None
    applied: float | None

    @property
    def good(self) -> bool:
        """Whether no more was asked than is permitted, and the guest lost about that."""
        if self.asked is None:  # it was not necessary
            return True
        within = self.applied is None or abs(self.applied - self.asked) <= TOLERANCE
        return self.asked <= self.permitted and within


@dataclass(frozen=True, slots=True)
class Result:
    """All moves, in order."""

    moves: tuple[Slowed, ...]


async def measure(moves: int) -> Result:
    """Build a laboratory with a guest that writes, measure, take it down."""
    async with one_guest(NAME) as (service, lab, vm), writing(lab, vm.address or "", TORRENT):
        return Result(tuple([await slowed(service, lab, vm.name, most) for _ in range(moves) for most in PERMITTED]))


async def slowed(service: Service, lab: Laboratory, vm: str, most: float) -> Slowed:
    """Move the guest once."""
    await asyncio.sleep(CALM)
    target = await other_host(service, lab, vm)
    await obeyed("migrate", vm, target, "--max-guest-slowdown", f"{most:.0%}", "--allow", "pause")
    row = (await service.journal.rows(limit=1))[0]
    told = report_data(row, await service.journal.entries(row.spec.id)).throttle
    found = Slowed(most, told.asked if told else None, told.applied if told else None)
    print(found, flush=True)
    return found


def rows(moves: Iterable[Slowed]) -> list[str]:
    """Print the figures, a row for each permitted share."""
    lines = ["| permitted | QEMU was told, at most | the guest lost, median (range) | moves |", "|---|---|---|---|"]
    for most in PERMITTED:
        those = [move for move in moves if move.permitted == most]
        asked = max((move.asked for move in those if move.asked is not None), default=0.0)
        lost = [move.applied for move in those if move.applied is not None]
        shown = f"{statistics.median(lost):.0%} ({min(lost):.0%} to {max(lost):.0%})" if lost else "not seen"
        lines.append(f"| {most:.0%} | {asked:.0%} | {shown} | {len(those)} |")
    return lines


def main() -> int:
    """Measure, and print the figures. The status is 1 where a guest was slowed down by more or less than it should."""
    arguments = parser(__doc__)
    arguments.add_argument("--moves", type=int, default=3, help="moves with each value (3)")
    options = arguments.parse_args()
    result = run(lambda: measure(options.moves))
    keep(result, options.json)
    print("\n".join(["", *rows(result.moves)]))
    return 0 if all(move.good for move in result.moves) else 1


if __name__ == "__main__":
    sys.exit(main())
