"""What encryption costs: the same guest, with TLS and in the clear, in turns, over a shaped link and an unshaped one.

`python -m bench.tls --pairs 5` moves a guest with 128 MiB that do not compress to and fro, each pair turned round every
second time, first behind the rate of `--rate` and then behind none: there the CPU is what limits a stream.
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from bench.ground import Figure, Move, keep, move_with_godwit, one_guest, other_host, parser, run, table
from godwit.bench.guests import writing
from godwit.bench.scenarios import Scenario, Writes

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME: Final = "benchtls"
CLEAR, TLS = "plaintext", "tls"
WAYS: Final = {CLEAR: "in the clear", TLS: "TLS"}
FULL: Final = Scenario("full", "128 MiB that do not compress, written once in a long while", first=Writes(128, 1))
FIGURES: Final = (
    Figure("migration time", "stream_s", "s"),
    Figure("client gap", "client_gap_ms", "ms"),
    Figure("blackout, STOP to RESUME", "blackout_ms", "ms"),
    Figure("command to stream start", "command_to_stream_s", "s"),
    Figure("bytes on the link", "link_bytes", "MB", 1e-6),
)


@dataclass(frozen=True, slots=True)
class Result:
    """The moves behind a shaped link, and those behind an unshaped one."""

    shaped: tuple[Move, ...]
    unshaped: tuple[Move, ...]


async def measure(pairs: int, rate: int) -> Result:
    """Build a laboratory, move, take it down."""
    async with one_guest(NAME) as (service, lab, vm), writing(lab, vm.address or "", FULL):
        found: list[tuple[Move, ...]] = []
        for limit in (rate, None):
            lab.set_rate(limit)
            moves = []
            for number in range(2 * pairs):
                turn = number % 2 if number // 2 % 2 == 0 else 1 - number % 2
                target = (await other_host(service, lab, vm.name)).removeprefix(f"{NAME}-")
                moves.append(await move_with_godwit(service, lab, vm.name, target, TLS if turn else CLEAR))
                print(json.dumps({"rate": limit, **asdict(moves[-1])}), flush=True)
            found.append(tuple(moves))
        return Result(*found)


def pace(moves: Sequence[Move], way: str) -> float:
    """Return the median bytes a second of the stream's time."""
    return statistics.median(one.bytes / one.stream_s for one in moves if one.way == way and one.stream_s)


def main() -> int:
    """Parse, measure, print."""
    arguments = parser(__doc__)
    arguments.add_argument("--pairs", type=int, default=5, help="moves each way, in turns, behind each link")
    options = arguments.parse_args()
    result = run(lambda: measure(options.pairs, options.rate))
    keep(result, options.json)
    for title, moves in ((f"{options.rate / 1e6:.0f} Mbit/s", result.shaped), ("no limit", result.unshaped)):
        print(f"\nlink: {title}\n\n{table(moves, WAYS, FIGURES, 'TLS / clear')}\n")
        paces = {way: pace(moves, way) / 1e6 for way in WAYS}
        print(f"pace of the stream: {paces[CLEAR]:.0f} MB/s in the clear, {paces[TLS]:.0f} MB/s with TLS")
    good = all(one.good for one in (*result.shaped, *result.unshaped))
    print("every move completed with the guest alive" if good else "NOT every move completed with the guest alive")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
