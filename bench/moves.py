"""Godwit against QEMU's defaults: the same guest, the same link, in turns, as typed by a user.

`python -m bench.moves --pairs 10 --more 10` moves a quiet guest there with QEMU's defaults and back with Godwit, ten
times, then ten more times with Godwit alone: thirty moves in a row on one SSH session and one TCP connection.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, dataclass
from typing import Final

from bench.ground import (
    DEFAULTS,
    GODWIT,
    Figure,
    Move,
    Users,
    Witness,
    keep,
    laboratory,
    move_with_godwit,
    parser,
    run,
    table,
    verdict,
)
from godwit import app
from godwit.lab.assets import cache_folder, prepare
from godwit.lab.furnish import GuestPlan, add_guest, register
from godwit.lab.plan import LabPlan

NAME: Final = "bench"
FIGURES: Final = (
    Figure("client gap", "client_gap_ms", "ms"),
    Figure("blackout, STOP to RESUME", "blackout_ms", "ms"),
    Figure("downtime that QEMU reports", "qemu_ms", "ms"),
    Figure("migration time", "stream_s", "s"),
    Figure("command to stream start", "command_to_stream_s", "s"),
    Figure("bytes sent", "bytes", "MB", 1e-6),
)


@dataclass(frozen=True, slots=True)
class Result:
    """All moves, and whether their witnesses noticed anything."""

    moves: tuple[Move, ...]
    witness: Witness


async def measure(pairs: int, more: int, rate: int) -> Result:
    """Build a laboratory, move, take it down."""
    assets = await asyncio.to_thread(prepare, cache_folder(), print)
    async with laboratory(LabPlan(NAME, link_rate=rate), assets.hosttree) as lab, app.opened() as service:
        await register(service, lab)
        vm = await add_guest(service, lab, assets, GuestPlan())
        async with Users(lab, vm.address or "") as users:
            moves = []
            for number in range(2 * pairs + more):
                # Every second pair is turned round, so that neither way always has the same direction.
                turn = number % 2 if number // 2 % 2 == 0 else 1 - number % 2
                way = DEFAULTS if number < 2 * pairs and turn == 0 else GODWIT
                moves.append(await move_with_godwit(service, lab, vm.name, f"host{2 - number % 2}", way))
                print(json.dumps(asdict(moves[-1])), flush=True)
            return Result(tuple(moves), await users.witness())


def main() -> int:
    """Parse, measure, print."""
    arguments = parser(__doc__)
    arguments.add_argument("--pairs", type=int, default=10, help="moves each way, in turns")
    arguments.add_argument("--more", type=int, default=10, help="moves with Godwit alone, after that")
    options = arguments.parse_args()
    result = run(lambda: measure(options.pairs, options.more, options.rate))
    keep(result, options.json)
    print(table(result.moves, {DEFAULTS: "QEMU's defaults", GODWIT: "Godwit"}, FIGURES, "ratio of medians"))
    print()
    print(verdict(result.moves, {"The guest": result.witness}))
    return 0 if result.witness.unharmed and all(one.good for one in result.moves) else 1


if __name__ == "__main__":
    sys.exit(main())
