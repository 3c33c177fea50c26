"""The network of a guest that has moved: how soon its users hear of it again, and that they always do.

`python -m bench.network --moves 50` moves one guest to and fro under the outside probe. A recorder on the target sees
the first frame that goes through it to the guest, and the first one from the guest's NIC (QEMU announces it): what is
between the first and the answer is the guest's own time. After each move somebody who has not spoken with the guest
before connects to it.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from bench.ground import (
    GODWIT,
    Figure,
    Move,
    Users,
    Witness,
    keep,
    laboratory,
    login,
    move_with_godwit,
    parser,
    run,
    table,
)
from godwit import app
from godwit.lab.assets import cache_folder, prepare
from godwit.lab.furnish import GuestPlan, add_guest, register
from godwit.lab.loads import TICK_PORT
from godwit.lab.plan import LabPlan

if TYPE_CHECKING:
    from godwit.lab.laboratory import Laboratory
    from godwit.model import Vm
    from godwit.service import Service

NAME: Final = "benchnetwork"
FIRST_PACKET_BAR: Final = 15.0
"""Milliseconds from RESUME to the first packet through the target, in the median."""

TAPS: Final = "gw"
"""How the names of taps begin that Godwit makes."""

ANSWERS: Final = 5.0
"""Seconds within which a newcomer must have been answered after a move."""

RECORDER: Final = """
import socket, struct, sys
mac = bytes.fromhex(sys.argv[1])
(low,) = struct.unpack("!I", mac[2:])
steps = [(0x20, 0, 0, 2), (0x15, 2, 0, low), (0x20, 0, 0, 8), (0x15, 0, 1, low), (6, 0, 0, 65535), (6, 0, 0, 0)]
code = b"".join(struct.pack("HBBI", *step) for step in steps)
import ctypes
kept = ctypes.create_string_buffer(code)
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as taken:
    taken.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HL", len(steps), ctypes.addressof(kept)))
    taken.setsockopt(socket.SOL_SOCKET, 35, 1)
    print("ready", flush=True)
    while True:
        frame, told, _, (name, _, kind, *_) = taken.recvmsg(64, 64)
        seconds, nanoseconds = struct.unpack("qq", told[0][2])
        if name.startswith(sys.argv[2]):
            way = "to" if frame[:6] == mac else "from"
            if way == "to" or kind != socket.PACKET_OUTGOING:
                print(way, seconds + nanoseconds / 1e9, flush=True)
"""
"""Prints when frames go to a MAC address, or come from it, through interfaces whose names begin with that (a guest's
taps). A filter in the kernel (SO_ATTACH_FILTER) keeps the stream away from it, and the kernel tells the time."""

FIGURES: Final = (
    Figure("RESUME to the first packet for the guest through the target", "reached_ms", "ms"),
    Figure("RESUME to the first packet from the guest's NIC", "spoke_ms", "ms"),
    Figure("RESUME to the first answer", "first_packet_ms", "ms"),
    Figure("client gap", "client_gap_ms", "ms"),
    Figure("blackout, STOP to RESUME", "blackout_ms", "ms"),
)


@dataclass(frozen=True, slots=True)
class Packets(Move):
    """A move, and milliseconds from RESUME to the first frame that went to the guest, and that it sent itself."""

    reached_ms: float | None = None
    spoke_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """All moves, those (by number) after which the network was dead, and whether the guest's users noticed anything."""

    moves: tuple[Packets, ...]
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
                done.append(await recorded(service, lab, vm, f"host{2 - number % 2}"))
                if not await is_reached(vm.address or ""):
                    dead.append(number)
                print(json.dumps(asdict(done[-1])), flush=True)
            return Result(tuple(done), tuple(dead), await users.witness())


async def recorded(service: Service, lab: Laboratory, vm: Vm, host: str) -> Packets:
    """Move the guest there, and say when the first frames went through that host."""
    command = lab.command(host, [sys.executable, "-c", RECORDER, await mac_of(lab, vm), TAPS])
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None  # noqa: S101 - it was asked for; for the type checker
    await process.stdout.readline()
    try:
        move = await move_with_godwit(service, lab, vm.name, host)
    finally:
        process.terminate()
    lines = [line.split() for line in (await process.stdout.read()).decode().splitlines()]
    await process.wait()
    row = (await service.journal.rows(limit=1))[0]
    entries = await service.journal.entries(row.spec.id)
    resumed = next(
        float(str(entry.data.get("host_time", entry.at)))
        for entry in entries
        if entry.kind == "mark" and entry.data["name"] == "target_running"
    )

    def first(way: str) -> float | None:
        after = [float(at) for found, at in lines if found == way and float(at) >= resumed]
        return (min(after) - resumed) * 1000 if after else None

    return Packets(**asdict(move), reached_ms=first("to"), spoke_ms=first("from"))


async def mac_of(lab: Laboratory, vm: Vm) -> str:
    """Ask the guest for the address of its NIC; returns it in hexadecimal."""
    command = [*login(lab, vm), "cat /sys/class/net/eth0/address"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    return said.decode().strip().replace(":", "")


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
    # Of both the one that comes from outside: it needs the whole way. One that was never seen misses every bar.
    firsts = [one.reached_ms if one.reached_ms is not None else float("inf") for one in result.moves]
    median = statistics.median(firsts) if firsts else float("inf")
    good = sum(one.good for one in result.moves)
    print(table(result.moves, {GODWIT: "Godwit"}, FIGURES, ""))
    print()
    print(f"{good} of {len(result.moves)} moves completed with the guest alive.")
    print(
        f"Bars: first packet {median:.1f} of {FIRST_PACKET_BAR:.0f} ms in the median; dead networks afterwards: "
        f"{len(result.dead)} of {len(result.moves)} (0)."
    )
    return 0 if good == len(result.moves) and not result.dead and median <= FIRST_PACKET_BAR else 1


if __name__ == "__main__":
    sys.exit(main())
