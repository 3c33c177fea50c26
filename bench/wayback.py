"""There and back with a disk that no other host sees: what goes over the link when the old copy is filled up.

`python -m bench.wayback --returns 5` moves a guest with a thin disk of 10 GiB, 5 % of it in use, to another host; then
to and fro, and before each move a program in the guest rewrites 2 % of the clusters in use, here and there.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from bench.disks import allocated
from bench.ground import (
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
    from godwit.lab.laboratory import Laboratory
    from godwit.model import Vm
    from godwit.service import Service

NAME: Final = "benchwayback"
FILLED: Final = 512
"""Mebibytes that the guest has in use on its disk."""

CLUSTER: Final = 65536
SHARE: Final = 0.02

_FILL: Final = f"dd if=/dev/urandom of=/data/filling bs=1M count={FILLED} conv=fsync 2>/dev/null"
_REWRITE: Final = (
    "n=0; while [ $n -lt {count} ]; do dd if=/dev/urandom of=/data/filling bs=65536 count=1 conv=notrunc "
    "seek=$(((n * 7919 + {turn} * 131) % {clusters})) 2>/dev/null; n=$((n + 1)); done; sync"
)


@dataclass(frozen=True, slots=True)
class Return:
    """One move back; `changed` are the bytes that QEMU had recorded beforehand, `link` all that went over the link."""

    move: Move
    changed: int
    disk: int
    link: int
    allocated: int

    @property
    def ratio(self) -> float:
        """What went over the link, of what was changed and the memory."""
        return self.link / (self.changed + self.move.bytes)


@dataclass(frozen=True, slots=True)
class Result:
    """All moves back, and whether the guest's users noticed anything."""

    returns: tuple[Return, ...]
    witness: Witness


async def measure(returns: int, rate: int) -> Result:
    """Build a laboratory whose hosts share nothing, move once, then to and fro, take it down."""
    assets = await asyncio.to_thread(prepare, cache_folder(), print)
    plan = LabPlan(NAME, link_rate=rate, shared_storage=False)
    async with laboratory(plan, assets.hosttree) as lab, app.opened() as service:
        await register(service, lab)
        vm = await add_guest(service, lab, assets, GuestPlan())
        path = f"/mnt/images/{vm.name}.qcow2"
        await service.stop_vm(vm.name, force=True)
        inside(lab, "host1", ["qemu-img", "create", "-q", "-f", "qcow2", path, "10G"])
        await service.start_vm(vm.name)
        async with Users(lab, vm.address or "") as users:
            await asyncio.to_thread(subprocess.run, [*login(lab, vm), _FILL], check=True)
            await move_with_godwit(service, lab, vm.name, "host2", GODWIT)
            made = []
            for turn in range(returns):
                made.append(await go_back(service, lab, vm, turn))
                print(json.dumps(asdict(made[-1])), flush=True)
            return Result(tuple(made), await users.witness())


async def go_back(service: Service, lab: Laboratory, vm: Vm, turn: int) -> Return:
    """Let the guest rewrite a part of its disk, and move it to where it was before."""
    here, there = ("host2", "host1") if turn % 2 == 0 else ("host1", "host2")
    clusters = FILLED * MIB // CLUSTER
    rewrite = _REWRITE.format(count=int(clusters * SHARE), turn=turn, clusters=clusters)
    await asyncio.to_thread(subprocess.run, [*login(lab, vm), rewrite], check=True)
    changed = await recorded(service, vm.name)
    move = await move_with_godwit(service, lab, vm.name, there, GODWIT)
    outcome = (await service.journal.rows(limit=1))[0].outcome
    return Return(
        move=move,
        changed=changed,
        disk=outcome.disk_bytes if outcome else 0,
        link=move.link_bytes,
        allocated=allocated(lab, here, f"/mnt/images/{vm.name}.qcow2"),
    )


async def recorded(service: Service, name: str) -> int:
    """Return the bytes that the running disk has recorded since it was handed over."""
    vm = await service.inventory.vm(name)
    host = service.open_host(await service.inventory.host(vm.host))
    await host.connect()
    try:
        guest = await host.attach(vm)
        try:
            (disk,) = (await guest.facts()).disks
        finally:
            await guest.close()
    finally:
        await host.close()
    return sum(stamp.changed for stamp in disk.stamps)


def table(returns: tuple[Return, ...]) -> str:
    """Print medians and worst."""
    rows = ["| | median (worst) |", "|---|---|"]
    for name, values, unit in (
        ("over the link, of (changed + memory)", [one.ratio for one in returns], "x"),
        ("of the disk's part alone, of what was changed", [one.disk / one.changed for one in returns], "x"),
        ("changed since, of what the disk has in use", [one.changed / one.allocated for one in returns], "x"),
        ("client gap", [one.move.client_gap_ms for one in returns], "ms"),
        ("blackout, STOP to RESUME", [one.move.blackout_ms for one in returns], "ms"),
    ):
        told = [value for value in values if value is not None]
        rows.append(f"| {name} | {statistics.median(told):.3f} ({max(told):.3f}) {unit} |".replace("  |", " |"))
    changed = statistics.median(one.changed for one in returns) / MIB
    used = statistics.median(one.allocated for one in returns) / MIB
    return "\n".join([*rows, "", f"Changed in between: {changed:.0f} MiB of {used:.0f} MiB in use."])


def main() -> int:
    """Parse, measure, print."""
    arguments = parser(__doc__)
    arguments.add_argument("--returns", type=int, default=5, help="moves back, to and fro in turns")
    options = arguments.parse_args()
    result = run(lambda: measure(options.returns, options.rate))
    keep(result, options.json)
    print(table(result.returns))
    print()
    print(verdict([one.move for one in result.returns], {"The guest": result.witness}))
    return 0 if result.witness.unharmed and all(one.move.good for one in result.returns) else 1


if __name__ == "__main__":
    sys.exit(main())
