"""Moves of guests with a NIC that does not travel: what a client feels, and what comes back when a move fails.

`python -m bench.direct --moves 10 --failures 10` moves a guest whose bond has such a NIC, and one with a pair (QEMU's
failover), to and fro; then it ends the target's QEMU while memory is on its way, again and again. The client's gap is
the longest of the whole time from before a move until the guest uses its direct NIC again.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.ground import CALM, Users, Witness, keep, laboratory, login, parser, run
from godwit import app
from godwit.bench import guests
from godwit.core.state import Phase
from godwit.errors import LabError
from godwit.lab.assets import cache_folder, prepare
from godwit.lab.furnish import GuestPlan, add_guest, prefix, register
from godwit.lab.plan import LabPlan
from godwit.model import OutcomeStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from godwit.lab.furnish import Direct
    from godwit.lab.laboratory import Laboratory
    from godwit.model import Vm
    from godwit.service import Service

NAME: Final = "direct"
NIC: Final = "nic1"
WAYS: Final[dict[str, Direct]] = {"a bond, `unplug`": "unplug", "a pair, `failover`": "failover"}
BARS: Final = {"unplug": 150.0, "failover": 700.0}
"""Milliseconds that a client's median gap may last."""

CRAWL: Final = 8_000_000
"""Bits a second at which a guest is on its way for minutes."""

BACK: Final = 60.0
"""Seconds within which a guest uses its NIC again, on a machine with much to do."""


@dataclass(frozen=True, slots=True)
class Trip:
    """One move: how it ended, the client's longest gap and when it was, whether the NIC is where the guest runs."""

    way: str
    fails: bool
    status: str
    gap_ms: float | None
    during: str
    back: bool


@dataclass(frozen=True, slots=True)
class Result:
    """All moves, and what the users of each guest noticed."""

    trips: tuple[Trip, ...]
    witnesses: dict[str, Witness]


async def has_it(vm: str) -> bool:
    """Say whether the guest's QEMU has the NIC, by its monitor of old."""
    words = [sys.executable, "-m", "godwit", "monitor", vm, "-c", "info qtree"]
    said = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, check=False)
    return f'id "{NIC}"' in said.stdout


async def uses_it(lab: Laboratory, vm: Vm, way: Direct) -> bool:
    """Say whether the guest sends by its direct NIC, as far as its kernel tells: a pair has one that is up."""
    line = "cat /sys/class/net/bond0/bonding/active_slave" if way == "unplug" else "ls -d /sys/class/net/*/lower_eth2"
    said = await asyncio.to_thread(subprocess.run, [*login(lab, vm), line], capture_output=True, text=True, check=False)
    return "eth1" in said.stdout or "lower_eth2" in said.stdout


async def settled(lab: Laboratory, vm: Vm, way: Direct) -> bool:
    """Wait until the guest uses its direct NIC; says whether it does."""
    end = time.monotonic() + BACK
    while time.monotonic() < end:
        if await uses_it(lab, vm, way):
            return True
        await asyncio.sleep(0.2)
    return False


async def trip(service: Service, lab: Laboratory, vm: Vm, way: Direct, *, fails: bool) -> Trip:
    """Move a guest to its other host, as somebody types it, and watch it from the client."""
    from godwit.measure.gaps import longest_gap  # noqa: PLC0415 - loads numpy
    from godwit.measure.probe import OutsideProbe, ProbeSpec  # noqa: PLC0415 - as above

    await asyncio.sleep(CALM)
    home = (await service.inventory.vm(vm.name)).host
    target = prefix(lab.plan.name) + ("host2" if home.endswith("host1") else "host1")
    rate = lab.plan.link_rate
    if fails:
        lab.set_rate(CRAWL)
    prober = lab.command("client", [sys.executable])
    async with OutsideProbe(prober, ProbeSpec.parse(str(vm.address), interval_ms=5)) as probe:
        await probe.ready()
        command = [sys.executable, "-m", "godwit", "migrate", vm.name, target]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        if fails:
            await _end_the_target(service, lab, target)
        await process.wait()
        lab.set_rate(rate)
        back = await settled(lab, vm, way) and await has_it(vm.name)
        gap = longest_gap(await probe.finish())
    row = (await service.journal.rows(limit=1))[0]
    status = row.outcome.status.value if row.outcome is not None else "unknown"
    entries = await service.journal.entries(row.spec.id)
    marks = {str(entry.data["name"]): entry.at for entry in entries if entry.kind == "mark"}
    during = at_step(gap.start_s, gap.end_s, marks) if gap is not None else ""
    return Trip(way, fails, status, gap.length_s * 1000 if gap is not None else None, during, back)


def at_step(began: float, ended: float, marks: Mapping[str, float]) -> str:
    """Say in which step of a move a gap lies."""
    stream, stop, over = (marks.get(name, math.inf) for name in ("stream_started", "source_stopped", "target_running"))
    if began < stream:
        return "unplugging"
    if ended < stop:
        return "stream"
    return "switchover" if began <= over else "afterwards"


async def _end_the_target(service: Service, lab: Laboratory, target: str) -> None:
    """End the target's QEMU once memory is on its way. Raises LabError for a move that never gets there."""
    end = time.monotonic() + 2 * BACK
    while time.monotonic() < end:
        rows = await service.journal.rows(limit=1)
        if rows and rows[0].outcome is None and rows[0].phase is Phase.PRECOPY:
            break
        await asyncio.sleep(0.05)
    else:
        message = f"the move to {target} does not come to its stream"
        raise LabError(message)
    machine = target.removeprefix(prefix(lab.plan.name))
    for one in lab.status().machines:
        if one.name == machine:
            for qemu in one.qemus:
                os.kill(qemu.pid, signal.SIGKILL)


async def measure(moves: int, failures: int, rate: int) -> Result:
    """Build a laboratory, move both guests to and fro, let moves fail, take it down."""
    assets = await asyncio.to_thread(prepare, cache_folder(), print)
    trips: list[Trip] = []
    witnesses = {}
    async with laboratory(LabPlan(NAME, link_rate=rate), assets.hosttree) as lab, app.opened() as service:
        await register(service, lab)
        for number, (title, way) in enumerate(WAYS.items()):
            plan = GuestPlan(f"{way}1", number, direct=way)
            vm = await add_guest(service, lab, assets, plan)
            await guests.booted(lab, vm.address or "")
            if not await settled(lab, vm, way):
                message = f"the guest with {title} does not use its direct NIC"
                raise LabError(message)
            async with Users(lab, vm.address or "") as users:
                for fails, count in ((False, moves), (True, failures)):
                    for _ in range(count):
                        trips.append(await trip(service, lab, vm, way, fails=fails))
                        print(trips[-1], flush=True)
                witnesses[title] = await users.witness()
            await service.stop_vm(vm.name, force=True)
    return Result(tuple(trips), witnesses)


def table(result: Result) -> str:
    """Print what the moves came to, beside the bars."""
    lines = [
        "| Guest with | moves that completed | client gap, median (worst) | bar | when | sessions | failed: NIC back |",
        "|---|---|---|---|---|---|---|",
    ]
    for title, way in WAYS.items():
        there = [one for one in result.trips if one.way == way and not one.fails]
        failed = [one for one in result.trips if one.way == way and one.fails]
        done = sum(one.status == OutcomeStatus.COMPLETED and one.back for one in there)
        gaps = [one.gap_ms for one in there if one.gap_ms is not None]
        gap = f"{statistics.median(gaps):.0f} ms ({max(gaps):.0f})" if gaps else "not told"
        steps = Counter(one.during for one in there).most_common()
        held = "survived" if result.witnesses[title].unharmed else "BROKE"
        back = sum(one.back and one.status == OutcomeStatus.FAILED for one in failed)
        when = ", ".join(f"{step} {count}" for step, count in steps)
        cells = (title, f"{done} of {len(there)}", gap, f"{BARS[way]:.0f} ms", when, held, f"{back} of {len(failed)}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def good(trips: Sequence[Trip]) -> bool:
    """Say whether every move ended as it should, with the NIC where the guest runs."""
    wanted = {True: OutcomeStatus.FAILED, False: OutcomeStatus.COMPLETED}
    return all(one.back and one.status == wanted[one.fails] for one in trips)


def main() -> int:
    """Parse, measure, print."""
    arguments = parser(__doc__)
    arguments.add_argument("--moves", type=int, default=10, help="moves of each guest (10)")
    arguments.add_argument("--failures", type=int, default=10, help="moves of each guest that are made to fail (10)")
    options = arguments.parse_args()
    result = run(lambda: measure(options.moves, options.failures, options.rate))
    keep(result, options.json)
    print(table(result))
    return 0 if good(result.trips) and all(one.unharmed for one in result.witnesses.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
