"""What the benchmarks share: a laboratory, the users of a guest, moves with Godwit, and figures side by side."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeVar

from godwit import app
from godwit.bench import guests
from godwit.bench.machines import link_bytes, own_home
from godwit.errors import GodwitError, LabError
from godwit.lab.assets import cache_folder, prepare
from godwit.lab.furnish import GuestPlan, add_guest, prefix, register
from godwit.lab.laboratory import Laboratory
from godwit.lab.loads import SshTop, TickReader, fill_redis
from godwit.lab.plan import LabPlan
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from _typeshed import DataclassInstance

    from godwit.model import Vm
    from godwit.service import Service

CALM: Final = 2.0
"""Seconds of quiet before each move."""

DATA_BYTES: Final = 96 * MIB
"""What redis holds: a guest fresh from boot is mostly zero pages, which cost a move next to nothing."""

DEFAULTS, GODWIT = "defaults", "godwit"
INTERRUPTED: Final = 130
"""The exit status after Ctrl-C, as a shell gives it."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Move:
    """The figures of one move, None where nobody tells. `link_bytes` is what the migration link carried."""

    way: str
    status: str
    alive: bool | None
    client_gap_ms: float | None
    blackout_ms: float | None
    qemu_ms: float | None
    stream_s: float | None
    command_to_stream_s: float | None
    command_s: float
    bytes: int
    link_bytes: int
    passes: int
    first_packet_ms: float | None = None

    @property
    def good(self) -> bool:
        """Whether the guest has moved and lives."""
        return self.status == "completed" and bool(self.alive)


@dataclass(frozen=True, slots=True)
class Witness:
    """What those who use a guest noticed of its moves."""

    ssh_session_survived: bool
    tick_faults: tuple[str, ...]
    ticks: int

    @property
    def unharmed(self) -> bool:
        """Whether no connection broke and nothing was lost."""
        return self.ssh_session_survived and not self.tick_faults


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of what all benchmarks can be told."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rate", type=int, default=400_000_000, help="of the migration link, bits a second")
    made.add_argument("--json", type=Path, help="write all figures there")
    return made


def keep(result: DataclassInstance, path: Path | None) -> None:
    """Write all figures to `path`, if the user named one."""
    if path:
        path.write_text(json.dumps(asdict(result), indent=1) + "\n")


def run(work: Callable[[], Coroutine[None, None, Result]]) -> Result:
    """Do a benchmark's work with an inventory and a journal of its own, and leave no process of it behind.

    What keeps it from being carried out is said, and ends the program.
    """
    with own_home():
        try:
            return asyncio.run(work())
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except GodwitError as error:
            print(f"the benchmark could not be carried out: {error.message}", file=sys.stderr)
            if error.remedy:
                print(f"mend: {error.remedy}", file=sys.stderr)
            sys.exit(error.exit_status)


@asynccontextmanager
async def laboratory(plan: LabPlan, tree: Path) -> AsyncIterator[Laboratory]:
    """Build a laboratory, in place of one that a killed benchmark left, and take it down."""
    # Not in a thread: a Ctrl-C that comes while it is built would not be waited for there, and leave it standing.
    Laboratory.remove(plan.name)
    lab = Laboratory.up(plan, tree)
    try:
        yield lab
    finally:
        lab.down()


@asynccontextmanager
async def one_guest(name: str) -> AsyncIterator[tuple[Service, Laboratory, Vm]]:
    """Build a laboratory of that name with a guest that has booted, and take it down."""
    assets = await asyncio.to_thread(prepare, cache_folder(), print)
    async with laboratory(LabPlan(name), assets.hosttree) as lab, app.opened() as service:
        await register(service, lab)
        vm = await add_guest(service, lab, assets, GuestPlan())
        await guests.booted(lab, vm.address or "")
        yield service, lab, vm


async def other_host(service: Service, lab: Laboratory, name: str) -> str:
    """Return the host that a guest is not on, as it is registered."""
    vm = await service.inventory.vm(name)
    return prefix(lab.plan.name) + ("host2" if vm.host.endswith("host1") else "host1")


@dataclass(slots=True)
class Users:
    """An SSH session with `top` and a reader of ticks, and 96 MiB of random values in the guest's redis."""

    lab: Laboratory
    address: str
    _ticks: TickReader | None = None
    _top: SshTop | None = None
    _stack: AsyncExitStack | None = None

    async def __aenter__(self) -> Self:
        """Wait until the guest is up, fill it, log in. Raises LabError."""
        async with AsyncExitStack() as stack:
            self._ticks = await stack.enter_async_context(TickReader(self.address))
            await fill_redis(self.address, DATA_BYTES)
            self._top = await stack.enter_async_context(SshTop(self.lab, self.address))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Log out."""
        if self._stack is not None:
            await self._stack.aclose()

    async def witness(self) -> Witness:
        """Say what was noticed so far."""
        assert self._top is not None  # noqa: S101 - both are set on entry; for the type checker
        assert self._ticks is not None  # noqa: S101 - as above
        survived = await self._top.survives()
        return Witness(survived, tuple(self._ticks.faults), self._ticks.ticks)


async def move_with_godwit(service: Service, lab: Laboratory, vm: str, host: str, way: str = GODWIT) -> Move:
    """Type the command that moves a guest to `host`, wait for its end, read its figures from the journal."""
    target = prefix(lab.plan.name) + host
    options = {DEFAULTS: ["--qemu-defaults"], "plaintext": ["--plaintext"]}
    words = ["migrate", vm, target, *options.get(way, [])]
    return await _typed(service, lab, words, target, way)


async def replace_qemu(service: Service, lab: Laboratory, vm: str, way: str) -> Move:
    """Type the command that replaces a guest's QEMU, wait for its end, read its figures from the journal."""
    return await _typed(service, lab, ["upgrade", vm], (await service.inventory.vm(vm)).host, way)


async def _typed(service: Service, lab: Laboratory, words: Sequence[str], target: str, way: str) -> Move:
    await asyncio.sleep(CALM)
    vm = words[1]
    address = (await service.inventory.vm(vm)).address
    command = [sys.executable, "-m", "godwit", *words, "--probe", f"{address}@{prefix(lab.plan.name)}client"]
    carried, typed = link_bytes(lab), time.time()
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    await process.wait()
    ended = time.time()
    row = (await service.journal.rows(limit=1))[0]
    outcome = row.outcome
    if outcome is None or row.spec.target != target or row.created < typed:
        message = f"the move of {vm} to {target} has no outcome"
        raise LabError(message)
    until_request = row.created - typed
    return Move(
        way=way,
        status=outcome.status.value,
        alive=outcome.guest_alive,
        client_gap_ms=outcome.downtime.client_gap_ms,
        blackout_ms=outcome.downtime.blackout_ms,
        qemu_ms=outcome.downtime.qemu_ms,
        stream_s=outcome.stream_s,
        command_to_stream_s=None if outcome.start_delay_s is None else until_request + outcome.start_delay_s,
        command_s=ended - typed,
        bytes=outcome.bytes,
        link_bytes=link_bytes(lab) - carried,
        passes=outcome.passes,
        first_packet_ms=outcome.downtime.first_packet_ms,
    )


def login(lab: Laboratory, vm: Vm) -> list[str]:
    """Return the command that logs in to the guest."""
    return guests.login(lab, str(vm.address))


@dataclass(frozen=True, slots=True)
class Figure:
    """A line of the table: its name, the field of `Move`, and what to multiply with for the unit."""

    name: str
    field: str
    unit: str
    scale: float = 1.0


def table(moves: Sequence[Move], ways: dict[str, str], figures: Sequence[Figure], ratio: str) -> str:
    """Print medians and worst of every way, and the ratio of the last way's median to the first one's.

    `ways` gives each way's title, `ratio` is the title of the last column.
    """
    titles = ["", *(f"{title}, median (worst)" for title in ways.values()), ratio]
    rows = [f"| {' | '.join(titles)} |".replace("|  |", "| |"), "|---" * len(titles) + "|"]
    for figure in figures:
        cells, medians = [], []
        for way in ways:
            told = [getattr(one, figure.field) for one in moves if one.way == way]
            values = [value * figure.scale for value in told if value is not None]
            medians.append(statistics.median(values) if values else None)
            cells.append(f"{medians[-1]:.2f} ({max(values):.2f}) {figure.unit}" if values else "not told")
        first, last = medians[0], medians[-1]
        cells.append(f"{last / first:.3f}" if first and last is not None else "")
        rows.append(f"| {figure.name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def verdict(moves: Sequence[Move], witnesses: dict[str, Witness]) -> str:
    """Say whether everything stayed whole; `witnesses` have the names of their guests."""
    lines = [f"{sum(one.good for one in moves)} of {len(moves)} moves completed with the guest alive."]
    lines += [
        f"{guest}: the SSH session {'survived' if one.ssh_session_survived else 'DIED'}; {len(one.tick_faults)} faults "
        f"on the TCP connection in {one.ticks} ticks."
        for guest, one in witnesses.items()
    ]
    return "\n".join(lines)
