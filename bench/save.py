"""A guest is saved by Godwit and by QEMU's own `migrate file:` in turns: how long it stands still for that.

`python -m bench.save --rounds 5` takes a guest of 1 GiB, 384 MiB of it in use, on a laboratory's host. Each round
writes it twice to the same folder: with `godwit save`, from the guest's stop until the file has its name, synced; with
QEMU's `migrate file:`, its bandwidth limit lifted, until QEMU says that it is done, and until what the kernel still has
of it is on the disk, too. Godwit's checksums come after that, and have a row of their own.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from bench.ground import keep, laboratory, parser, run
from godwit import app
from godwit.bench.machines import inside
from godwit.core.saves import Step, afterwards
from godwit.errors import LabError
from godwit.lab.assets import cache_folder, prepare
from godwit.lab.furnish import GuestPlan, add_guest, prefix, register
from godwit.lab.loads import TickReader, fill_redis
from godwit.lab.plan import LabPlan
from godwit.model import RunState, StreamStatus
from godwit.saves import Saves
from godwit.units import GIB, MIB

if TYPE_CHECKING:
    from godwit.core.saves import Job
    from godwit.lab.laboratory import Laboratory
    from godwit.model import Vm
    from godwit.service import Service

NAME: Final = "benchsave"
FOLDER: Final = "/mnt/images"
BAR: Final = 1.05
_DEADLINE: Final = 300.0
_POLL: Final = 0.01


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds of one round: Godwit's save, its checksums, its restore; QEMU's own, and that with a sync."""

    godwit: float
    checked: float
    restored: float
    qemu: float
    qemu_synced: float
    bytes: float


@dataclass(frozen=True, slots=True)
class Result:
    """All rounds."""

    rounds: tuple[Round, ...]


async def measure(rounds: int, fill: int) -> Result:
    """Build a laboratory, fill a guest, save it again and again, take it down."""
    assets = await asyncio.to_thread(prepare, cache_folder(), print)
    async with laboratory(LabPlan(NAME), assets.hosttree) as lab, app.opened() as service:
        await register(service, lab)
        vm = await add_guest(service, lab, assets, GuestPlan(memory=GIB))
        async with TickReader(vm.address or ""):
            await fill_redis(vm.address or "", fill)
        done = []
        for number in range(rounds):
            first, second = (with_godwit, with_qemu) if number % 2 == 0 else (with_qemu, with_godwit)
            figures = await first(service, lab, vm) | await second(service, lab, vm)
            done.append(Round(**figures))
            print(json.dumps(asdict(done[-1])), flush=True)
        return Result(tuple(done))


async def with_godwit(service: Service, lab: Laboratory, vm: Vm) -> dict[str, float]:
    """Save and restore once, by way of a runner as a command does."""
    path = f"{FOLDER}/{vm.name}.save"
    identifier = await Saves(service).save(vm.name, path)
    kept = await _end(service, identifier)
    identifier = await Saves(service).restore(path, prefix(lab.name) + "host1")
    back = await _end(service, identifier)
    inside(lab, "host1", ["rm", path])
    return {
        "godwit": kept.stopped_s or 0.0,
        "checked": kept.seconds(Step.CHECKING),
        "restored": back.seconds(Step.LOADING, Step.STARTING),
        "bytes": kept.bytes,
    }


async def _end(service: Service, identifier: str) -> Job:
    async for _ in Saves(service).follow(identifier):
        pass
    job = await service.journal.jobs.load(identifier)
    if job.step is not Step.DONE:
        message = f"{job.work} ended: {job.error}"
        raise LabError(message)
    return job


async def with_qemu(service: Service, lab: Laboratory, vm: Vm) -> dict[str, float]:
    """Let QEMU write a file as its documentation shows, then let the guest run on."""
    path = f"{FOLDER}/{vm.name}.qemu"
    host = service.open_host(await service.inventory.host(prefix(lab.name) + "host1"))
    try:
        guest = await host.attach(await service.inventory.vm(vm.name))
        features = await guest.features()
        await guest.set_capabilities({"events": True, "xbzrle": False, "return-path": False} | afterwards(features))
        await guest.set_parameters({"max-bandwidth": 0, "direct-io": False})
        begun = time.monotonic()
        await guest.pause()
        await guest.migrate(f"file:{path}")
        while (view := await guest.view()).stream is not StreamStatus.COMPLETED:
            if view.stream is StreamStatus.FAILED or time.monotonic() - begun > _DEADLINE:
                message = f"QEMU did not write {path}: {view.detail or view.raw}"
                raise LabError(message)
            await asyncio.sleep(_POLL)
        written = time.monotonic() - begun
        await host.run(["sync", "--", path], deadline=_DEADLINE)
        synced = time.monotonic() - begun
        await guest.resume()
        while (await guest.view()).state is not RunState.RUNNING:  # noqa: ASYNC110 - one look or two
            await asyncio.sleep(_POLL)
        await guest.close()
        await host.run(["rm", path])
    finally:
        await host.close()
    return {"qemu": written, "qemu_synced": synced}


def table(rounds: tuple[Round, ...]) -> str:
    """Print medians and worst."""
    rows = ["| | median (worst) |", "|---|---|"]
    for name, values, unit in (
        ("godwit save: from the stop until the file is complete and synced", [one.godwit for one in rounds], "s"),
        ("QEMU's migrate file: until QEMU is done", [one.qemu for one in rounds], "s"),
        ("QEMU's migrate file: until it is on the disk", [one.qemu_synced for one in rounds], "s"),
        ("Godwit against QEMU, not synced", [one.godwit / one.qemu for one in rounds], "x"),
        ("Godwit against QEMU, synced", [one.godwit / one.qemu_synced for one in rounds], "x"),
        ("checksums, after that", [one.checked for one in rounds], "s"),
        ("godwit restore: from the start of QEMU until the guest runs", [one.restored for one in rounds], "s"),
    ):
        rows.append(f"| {name} | {statistics.median(values):.3f} ({max(values):.3f}) {unit} |")
    size = statistics.median(one.bytes for one in rounds) / MIB
    return "\n".join([*rows, "", f"The file had {size:.0f} MiB, holes among them."])


def main() -> int:
    """Parse, measure, print; fails where the bar is not met."""
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=5, help="saves of each kind, in turns")
    arguments.add_argument("--fill", type=int, default=384, help="MiB of random values in the guest's memory")
    options = arguments.parse_args()
    result = run(lambda: measure(options.rounds, options.fill * MIB))
    keep(result, options.json)
    print(table(result.rounds))
    return 0 if statistics.median(one.godwit / one.qemu for one in result.rounds) <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
