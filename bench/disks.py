"""A guest and its disk, which no other host sees: what travels, how long it takes, what a client feels.

`python -m bench.disks --moves 5` moves a guest with a thin disk of 10 GiB, 5 % of it in use, there and back again,
while a program in the guest writes 200 blocks a second to it, past its page cache; or up to as many, each of them
synced (`--sync`). The copy that each move leaves behind is removed before the next one. With `--overlay` the disk is an
overlay that holds 40 MiB, on a base that lies on both hosts.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import statistics
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.ground import (
    CALM,
    GODWIT,
    Move,
    Users,
    Witness,
    keep,
    laboratory,
    login,
    move_with_godwit,
    parser,
    run,
    verdict,
)
from godwit import app
from godwit.bench.machines import inside
from godwit.lab.assets import cache_folder, prepare
from godwit.lab.furnish import GuestPlan, add_guest, register
from godwit.lab.plan import LabPlan
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from godwit.lab.laboratory import Laboratory
    from godwit.model import Vm
    from godwit.service import Service

NAME: Final = "benchdisks"
_FILL: Final = "dd if=/dev/urandom of=/data/filling bs=1M count={} conv=fsync 2>/dev/null"
_WHOLE, _OVERLAY = 512, 40
"""Mebibytes that are written to the disk before it travels."""

_BEGIN_DEADLINE: Final = 60.0
_WRITES_S: Final = 200
_BLOCK: Final = 4096
_WRITER: Final = f"exec diskwriter --rate {_WRITES_S} --blocks 1024 --file /data/blocks"
_LOG: Final = "/run/log/diskwriter"

_FRAME: Final = 14
"""Bytes that Ethernet puts around each packet that the counters count."""

_COUNTERS: Final = """
flush ruleset
table inet bench {
    set heard { type inet_service; flags dynamic; counter; }
    set said { type inet_service; flags dynamic; counter; }
    chain heard { type filter hook input priority 0; tcp dport 49152-65535 update @heard { tcp dport }; }
    chain said { type filter hook output priority 0; tcp sport 49152-65535 update @said { tcp sport }; }
}
"""
"""What a host counts of the ports at which migrations arrive: packets and bytes, in both directions."""


@dataclass(frozen=True, slots=True)
class Trip:
    """One move and what its disk took: bytes allocated on both sides, bytes of it on the wire, the guest's writes.

    `written` are the bytes that the guest wrote to it from the command to its end.
    """

    move: Move
    allocated: int
    there: int
    wire: int
    seconds: float
    ideal_seconds: float
    writes_s: float
    written: int


@dataclass(frozen=True, slots=True)
class Result:
    """All moves, and whether the guest's users noticed anything."""

    trips: tuple[Trip, ...]
    witness: Witness


def allocated(lab: Laboratory, host: str, path: str) -> int:
    """Return the bytes that a file takes on its host."""
    blocks, size = inside(lab, host, ["stat", "-c", "%b %B", path]).split()
    return int(blocks) * int(size)


async def measure(moves: int, rate: int, *, overlay: bool, sync: bool) -> Result:
    """Build a laboratory whose hosts share nothing, move, take it down."""
    assets = await asyncio.to_thread(prepare, cache_folder(), print)
    plan = LabPlan(NAME, link_rate=rate, shared_storage=False)
    async with laboratory(plan, assets.hosttree) as lab, app.opened() as service:
        await register(service, lab)
        vm = await add_guest(service, lab, assets, GuestPlan())
        path = f"/mnt/images/{vm.name}.qcow2"
        await service.stop_vm(vm.name, force=True)
        if overlay:
            lay_over(lab, path)
        else:
            inside(lab, "host1", ["qemu-img", "create", "-q", "-f", "qcow2", path, "10G"])
        await service.start_vm(vm.name)
        async with Users(lab, vm.address or "") as users, writing(lab, vm, sync=sync):
            await asyncio.to_thread(
                subprocess.run, [*login(lab, vm), _FILL.format(_OVERLAY if overlay else _WHOLE)], check=True
            )
            trips = []
            for number in range(moves):
                here, there = ("host1", "host2") if number % 2 == 0 else ("host2", "host1")
                inside(lab, there, ["rm", "-f", path])
                trips.append(await travel(service, lab, vm, (here, there), rate))
                print(json.dumps(asdict(trips[-1])), flush=True)
            return Result(tuple(trips), await users.witness())


def lay_over(lab: Laboratory, path: str) -> None:
    """Make an overlay on the guest's disk, and put that disk on the other host, too."""
    base = f"{path}.base"
    inside(lab, "host1", ["mv", path, base])
    shutil.copyfile(*(lab.images(host) / Path(base).name for host in ("host1", "host2")))
    inside(lab, "host1", ["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", path])


@asynccontextmanager
async def writing(lab: Laboratory, vm: Vm, *, sync: bool) -> AsyncIterator[None]:
    """Let a program in the guest write, and sync each write if asked for."""
    line = f"{_WRITER}{' --sync' if sync else ''} >{_LOG}"
    session = await asyncio.create_subprocess_exec(*login(lab, vm), line, stdin=subprocess.DEVNULL)
    try:
        async with asyncio.timeout(_BEGIN_DEADLINE):
            while not await written(lab, vm):  # noqa: ASYNC110 - a guest's file gives no event
                await asyncio.sleep(0.2)
        yield
    finally:
        session.kill()
        await session.wait()


async def written(lab: Laboratory, vm: Vm) -> int:
    """Return how often the program in the guest has written."""
    asked = [*login(lab, vm), f"touch {_LOG}; tail -n 1 {_LOG}"]
    done = await asyncio.to_thread(subprocess.run, asked, capture_output=True, text=True, check=True)
    found = re.search(r"total=(\d+)", done.stdout)
    return int(found[1]) if found else 0


def carried(lab: Laboratory, host: str) -> dict[int, int]:
    """Return the bytes on the link of each port at which something has arrived, frames and answers included."""
    ports: dict[int, int] = {}
    for name in ("heard", "said"):
        (found,) = (
            one["set"]
            for one in json.loads(inside(lab, host, ["nft", "-j", "list", "set", "inet", "bench", name]))["nftables"]
            if "set" in one
        )
        for row in found.get("elem", ()):
            port, counter = row["elem"]["val"], row["elem"]["counter"]
            ports[port] = ports.get(port, 0) + counter["bytes"] + _FRAME * counter["packets"]
    return ports


async def travel(service: Service, lab: Laboratory, vm: Vm, way: tuple[str, str], rate: int) -> Trip:
    """Move once, and see what the disk took."""
    here, there = way
    path = f"/mnt/images/{vm.name}.qcow2"
    inside(lab, there, ["nft", "-f", "-"], _COUNTERS)
    before = await written(lab, vm)
    move = await move_with_godwit(service, lab, vm.name, there, GODWIT)
    after = await written(lab, vm)
    ports = carried(lab, there)
    memory = min(ports, key=lambda port: abs(ports[port] - move.bytes))
    inside(lab, there, ["nft", "flush", "ruleset"])
    row = (await service.journal.rows(limit=1))[0]
    entries = await service.journal.entries(row.spec.id)
    began = next(one.at for one in entries if one.kind == "transition" and one.data["phase"] == "mirroring")
    ran = next(one.at for one in entries if one.kind == "mark" and one.data["name"] == "target_running")
    taken = allocated(lab, here, path)
    return Trip(
        move=move,
        allocated=taken,
        there=allocated(lab, there, path),
        wire=sum(ports.values()) - ports[memory],
        seconds=ran - began,
        ideal_seconds=(taken + move.bytes) * 8 / rate,
        writes_s=(after - before) / (move.command_s + CALM),
        written=(after - before) * _BLOCK,
    )


def table(trips: tuple[Trip, ...]) -> str:
    """Print medians and worst."""
    rows = ["| | median (worst) |", "|---|---|"]
    for name, values, unit in (
        ("client gap", [one.move.client_gap_ms for one in trips], "ms"),
        ("blackout, STOP to RESUME", [one.move.blackout_ms for one in trips], "ms"),
        (
            "over the link, of (allocated + memory)",
            [one.move.link_bytes / (one.allocated + one.move.bytes) for one in trips],
            "x",
        ),
        ("bytes of the disk on the wire, of those allocated", [one.wire / one.allocated for one in trips], "x"),
        (
            "of those allocated, and written meanwhile",
            [one.wire / (one.allocated + one.written) for one in trips],
            "x",
        ),
        ("allocated on the target, of that on the source", [one.there / one.allocated for one in trips], "x"),
        ("time, of (allocated + memory) / link", [one.seconds / one.ideal_seconds for one in trips], "x"),
        ("the guest's writes a second meanwhile", [one.writes_s for one in trips], ""),
    ):
        told = [value for value in values if value is not None]
        rows.append(f"| {name} | {statistics.median(told):.3f} ({max(told):.3f}) {unit} |".replace(" |", " |"))
    size = statistics.median(one.allocated for one in trips) / MIB
    return "\n".join([*rows, "", f"The disk had {size:.0f} MiB in use."])


def main() -> int:
    """Parse, measure, print."""
    arguments = parser(__doc__)
    arguments.add_argument("--moves", type=int, default=5, help="moves, there and back in turns")
    arguments.add_argument("--overlay", action="store_true", help="only an overlay travels, onto a base that is there")
    arguments.add_argument("--sync", action="store_true", help="the guest syncs each of its writes")
    options = arguments.parse_args()
    result = run(lambda: measure(options.moves, options.rate, overlay=options.overlay, sync=options.sync))
    keep(result, options.json)
    print(table(result.trips))
    print()
    print(verdict([one.move for one in result.trips], {"The guest": result.witness}))
    return 0 if result.witness.unharmed and all(one.move.good for one in result.trips) else 1


if __name__ == "__main__":
    sys.exit(main())
