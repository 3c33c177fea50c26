"""The network of a guest that has moved: how soon its users hear of it again, and that they always do.

`python -m bench.network --moves 50` moves one guest to and fro under the outside probe. After each move somebody who
has not spoken with the guest before connects to it.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from dataclasses import asdict, dataclass
from typing import Final

from bench.ground import GODWIT, Figure, Move, Users, Witness, keep, laboratory, move_with_godwit, parser, run, table
from godwit import app
from godwit.lab.assets import cache_folder, prepare
from godwit.lab.furnish import GuestPlan, add_guest, register
from godwit.lab.loads import TICK_PORT
from godwit.lab.plan import LabPlan

NAME: Final = "benchnetwork"
FIRST_PACKET_BAR: Final = 15.0
"""Milliseconds from RESUME to the first answer through the target, in the median."""

ANSWERS: Final = 5.0
"""Seconds within which a newcomer must have been answered after a move."""

FIGURES: Final = (
    Figure("RESUME to the first answer", "first_packet_ms", "ms"),
    Figure("client gap", "client_gap_ms", "ms"),
    Figure("blackout, STOP to RESUME", "blackout_ms", "ms"),
)


@dataclass(frozen=True, slots=True)
class Result:
    """All moves, those (by number) after which the network was dead, and whether the guest's users noticed anything."""

    moves: tuple[Move, ...]
    dead: tuple[int, ...]
    witness: Witness


async def measure(moves: int, rate: int) -> Result:
    """Build a laboratory, move, take it down."""
    assets = await asyncio.to_thread(prepare, cache_folder(), print)
    async with laboratory(LabPlan(NAME, link_rate=rate), assets.hosttree) as lab, app.opened() as service:
        await register(service, lab)
        vm = await add_guest(service, lab, assets, GuestPlan())
        async with Users(lab, vm.address or "") as users:
            done, dead = [], []
            for number in range(moves):
                done.append(await move_with_godwit(service, lab, vm.name, f"host{2 - number % 2}"))
                if not await is_reached(vm.address or ""):
                    dead.append(number)
                print(json.dumps(asdict(done[-1])), flush=True)
            return Result(tuple(done), tuple(dead), await users.witness())


async def is_reached(address: str) -> bool:
    """Say whether a newcomer's connection to the guest is taken and answered."""
    try:
        async with asyncio.timeout(ANSWERS):
            reader, writer = await asyncio.open_connection(address, TICK_PORT)
            line = await reader.readline()
    except (OSError, TimeoutError):
        return False
    writer.close()
    return bool(line)


def main() -> int:
    """Parse, measure, print."""
    arguments = parser(__doc__)
    arguments.add_argument("--moves", type=int, default=50, help="moves of the guest, to and fro")
    options = arguments.parse_args()
    result = run(lambda: measure(options.moves, options.rate))
    keep(result, options.json)
    firsts = [one.first_packet_ms if one.first_packet_ms is not None else float("inf") for one in result.moves]
    median = statistics.median(firsts) if firsts else float("inf")
    good = sum(one.good for one in result.moves)
    print(table(result.moves, {GODWIT: "Godwit"}, FIGURES, ""))
    print()
    print(f"{good} of {len(result.moves)} moves completed with the guest alive.")
    print(
        f"Bars: first answer {median:.1f} of {FIRST_PACKET_BAR:.0f} ms in the median; dead networks afterwards: "
        f"{len(result.dead)} of {len(result.moves)} (0)."
    )
    return 0 if good == len(result.moves) and not result.dead and median <= FIRST_PACKET_BAR else 1


if __name__ == "__main__":
    sys.exit(main())
