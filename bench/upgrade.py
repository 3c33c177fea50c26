"""A guest's QEMU replaced on its host: memory taken over as it stands against memory copied, what a client feels.

`python -m bench.upgrade --rounds 5` has two guests of one size and one load. In each round the QEMU of both is
replaced, one after the other, and the next round begins with the other one.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

from bench.ground import Figure, Move, Users, Witness, keep, laboratory, parser, replace_qemu, run, table, verdict
from godwit import app
from godwit.lab.assets import cache_folder, prepare
from godwit.lab.furnish import GUEST_MEMORY, GuestPlan, add_guest, register
from godwit.lab.plan import LabPlan
from godwit.qemu.beside import unshared
from godwit.units import MIB

if TYPE_CHECKING:
    from godwit.model import Vm
    from godwit.service import Service

NAME: Final = "benchupgrade"
COPIED, TAKEN = "copied", "taken"
WAYS: Final = {COPIED: "memory copied", TAKEN: "memory taken as it stands"}
GAP_BAR: Final = 90.0
"""Milliseconds that a client may wait, in the median."""

SENT_BAR: Final = 0.01
"""The share of the guest's memory that may be sent."""

FIGURES: Final = (
    Figure("client gap", "client_gap_ms", "ms"),
    Figure("blackout, STOP to RESUME", "blackout_ms", "ms"),
    Figure("QEMU's own figure", "qemu_ms", "ms"),
    Figure("stream", "stream_s", "s"),
    Figure("the whole command", "command_s", "s"),
    Figure("sent", "bytes", "MiB", 1 / MIB),
)


@dataclass(frozen=True, slots=True)
class Result:
    """All upgrades, and whether the guests' users noticed anything."""

    moves: tuple[Move, ...]
    witnesses: dict[str, Witness]


async def measure(rounds: int, rate: int) -> Result:
    """Build a laboratory, replace QEMUs, take it down."""
    assets = await asyncio.to_thread(prepare, cache_folder(), print)
    async with laboratory(LabPlan(NAME, link_rate=rate), assets.hosttree) as lab, app.opened() as service:
        await register(service, lab)
        guests = {
            way: await add_guest(service, lab, assets, GuestPlan(name=way, number=number))
            for number, way in enumerate(WAYS)
        }
        await unshare(service, guests[COPIED])
        async with AsyncExitStack() as stack:
            users = {way: await stack.enter_async_context(Users(lab, vm.address or "")) for way, vm in guests.items()}
            moves: list[Move] = []
            for number in range(rounds):
                for way in WAYS if number % 2 == 0 else reversed(WAYS):
                    moves.append(await replace_qemu(service, lab, guests[way].name, way))
                    print(json.dumps(asdict(moves[-1])), flush=True)
            return Result(tuple(moves), {WAYS[way]: await one.witness() for way, one in users.items()})


async def unshare(service: Service, vm: Vm) -> None:
    """Start a guest anew with memory that no other process can take."""
    await service.stop_vm(vm.name, force=True)
    await service.inventory.put_vm(replace(vm, launch=unshared(vm.launch)))
    await service.start_vm(vm.name)


def main() -> int:
    """Parse, measure, print."""
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=5, help="upgrades of each guest, in turns")
    options = arguments.parse_args()
    result = run(lambda: measure(options.rounds, options.rate))
    keep(result, options.json)
    print(table(result.moves, WAYS, FIGURES, "taken / copied"))
    print()
    print(verdict(result.moves, result.witnesses))
    taken = sorted(one.client_gap_ms or float("inf") for one in result.moves if one.way == TAKEN)
    most = max(one.bytes for one in result.moves if one.way == TAKEN) / GUEST_MEMORY
    print(
        f"Bars: client gap {taken[len(taken) // 2]:.0f} of {GAP_BAR:.0f} ms; sent {most:.2%} of {SENT_BAR:.0%} of RAM."
    )
    unharmed = all(one.unharmed for one in result.witnesses.values())
    return 0 if unharmed and all(one.good for one in result.moves) and most <= SENT_BAR else 1


if __name__ == "__main__":
    sys.exit(main())
