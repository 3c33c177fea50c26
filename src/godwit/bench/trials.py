"""One trial: a contestant moves a guest of a scenario while a client outside and the guest's own work are watched."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from godwit.bench.contestants import By
from godwit.bench.guests import writing
from godwit.bench.machines import link_bytes
from godwit.lab.furnish import CLIENT, prefix
from godwit.measure.gaps import client_view, find_gaps
from godwit.measure.probe import OutsideProbe, ProbeSpec
from godwit.model import OutcomeStatus, Sending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.bench.contestants import Contestant
    from godwit.bench.guests import Writer
    from godwit.bench.libvirthosts import LibvirtGuest
    from godwit.bench.scenarios import Scenario
    from godwit.lab.laboratory import Laboratory
    from godwit.measure.series import ProbeSeries
    from godwit.service import Service

DEADLINE: Final = 60.0
"""Seconds after which a move that has not ended is taken back, and counts as one that does not end."""

CALM: Final = 1.0
AFTER: Final = 1.5
"""Seconds of quiet before a move, and for which client and guest are watched after it."""

_TOLD: Final = 20

Range = tuple[float, float, float]
"""Low, likely, high."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What one move cost; times in seconds, None where nobody can tell.

    `took` is the whole command, `stream` the migration by the contestant's own account, `client_gap` the longest that
    a client outside waited; `gaps` are the longest of all its waits, as (seconds after the command began, seconds).
    `lost` is by how much the guest fell behind with its work. `link_bytes` is what the migration link carried.
    `expected` and `expected_gap` are what Godwit had forecast, `plain_ends` says whether plain precopy was to end;
    `refused` is a move that was not even begun.
    """

    scenario: str
    contestant: str
    round: int
    ended: bool
    took: float
    stream: float | None
    link_bytes: int
    blackout: float | None
    qemu: float | None
    client_gap: float | None
    lost: float | None
    passes: int | None = None
    strategy: str = ""
    gaps: tuple[tuple[float, float], ...] = ()
    expected: Range | None = None
    expected_gap: Range | None = None
    plain_ends: bool | None = None
    note: str = ""
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Ground:
    """The laboratory with a guest that Godwit owns and one that libvirt owns, where anybody uses that."""

    service: Service
    lab: Laboratory
    godwits: str
    libvirts: LibvirtGuest | None = None


@dataclass(frozen=True, slots=True)
class _Told:
    """What the contestant itself says of its move."""

    ended: bool
    stream: float | None = None
    blackout: float | None = None
    qemu: float | None = None
    passes: int | None = None
    strategy: str = ""
    expected: Range | None = None
    expected_gap: Range | None = None
    plain_ends: bool | None = None
    note: str = ""
    refused: bool = False


async def attempt(ground: Ground, scenario: Scenario, contestant: Contestant, number: int) -> Trial:
    """Let a contestant move its guest, and measure."""
    lab = ground.lab
    lab.set_rate(scenario.link * 10**6)
    address = await _address(ground, contestant)
    async with writing(lab, address, scenario) as writer:
        if contestant.profiled:
            await typed("profile", ground.godwits)
        await asyncio.sleep(CALM)
        prober = lab.command(CLIENT, [sys.executable])
        async with OutsideProbe(prober, ProbeSpec.parse(address)) as probe:
            await probe.ready()
            carried, began = link_bytes(lab), time.time()
            changing = None
            if writer is not None and scenario.changes is not None:
                changing = asyncio.create_task(writer.change(lab, address, scenario.changes[0]))
            told = await (_with_virsh if contestant.by is By.VIRSH else _with_godwit)(ground, contestant)
            ended = time.time()
            if changing is not None:
                await changing
            await asyncio.sleep(AFTER)
            series = await probe.finish()
        return _trial(scenario, contestant, number, told, series, writer, (began, ended), link_bytes(lab) - carried)


def _trial(
    scenario: Scenario,
    contestant: Contestant,
    number: int,
    told: _Told,
    series: ProbeSeries,
    writer: Writer | None,
    window: tuple[float, float],
    carried: int,
) -> Trial:
    began, ended = window
    longest = sorted(find_gaps(series), key=lambda gap: -gap.length_s)[:_TOLD]
    return Trial(
        scenario.name,
        contestant.name,
        number,
        told.ended,
        ended - began,
        told.stream,
        carried,
        told.blackout,
        told.qemu,
        client_view(series).client_gap_s,
        None if writer is None or scenario.changes is not None else writer.lost(began, ended),
        told.passes,
        told.strategy,
        tuple((round(gap.start_s - began, 3), round(gap.length_s, 4)) for gap in longest),
        told.expected,
        told.expected_gap,
        told.plain_ends,
        told.note,
        told.refused,
    )


async def _address(ground: Ground, contestant: Contestant) -> str:
    if contestant.by is By.VIRSH:
        assert ground.libvirts is not None  # noqa: S101 - the ground was made for its contestants; for the type checker
        return ground.libvirts.address
    return (await ground.service.inventory.vm(ground.godwits)).address or ""


async def _with_godwit(ground: Ground, contestant: Contestant) -> _Told:
    """Type `godwit migrate`, and read from the journal what came of it."""
    guest = await ground.service.inventory.vm(ground.godwits)
    hosts = [prefix(ground.lab.plan.name) + name for name in ground.lab.hosts]
    target = next(host for host in hosts if host != guest.host)
    await typed("migrate", ground.godwits, target, *contestant.options, "--deadline", f"{DEADLINE:g}s", "--json")
    (row,) = await ground.service.journal.rows(limit=1)
    outcome = row.outcome
    if outcome is None:
        return _Told(ended=False, note="no outcome")
    blackout, qemu = outcome.downtime.blackout_ms, outcome.downtime.qemu_ms
    told = _Told(
        outcome.status is OutcomeStatus.COMPLETED,
        outcome.stream_s,
        None if blackout is None else blackout / 1000,
        None if qemu is None else qemu / 1000,
        outcome.passes,
        note=outcome.error,
        refused=outcome.status is OutcomeStatus.REFUSED,
    )
    for entry in await ground.service.journal.entries(row.spec.id):
        if entry.kind == "forecast" and not row.spec.defaults:
            forecast: Any = entry.data["forecast"]
            rows = {one["strategy"]: one for one in forecast["prospects"]}
            chosen = rows[forecast["chosen"]]
            told = replace(
                told,
                strategy=forecast["chosen"],
                expected=_range(chosen["total"]),
                expected_gap=_range(chosen["client_gap"]),
                plain_ends=rows[Sending.WHOLE]["converges"],
            )
    return told


def _range(interval: dict[str, float]) -> Range:
    return interval["low"], interval["likely"], interval["high"]


async def _with_virsh(ground: Ground, contestant: Contestant) -> _Told:
    """Type `virsh migrate --live`, and ask libvirt what came of it."""
    assert ground.libvirts is not None  # noqa: S101 - as in _address
    source = ground.libvirts.host()
    target = next(host for host in ground.lab.hosts if host != source)
    moved = await ground.libvirts.migrate(source, target, contestant.options, DEADLINE)
    if moved is None:
        return _Told(ended=False, note=f"aborted after {DEADLINE:.0f} s")
    return _Told(
        ended=True,
        stream=_seconds(moved.get("time_elapsed")),
        blackout=_seconds(moved.get("downtime")),
        passes=moved.get("memory_iteration"),
    )


def _seconds(milliseconds: int | None) -> float | None:
    """Return seconds; of a guest that went over before its memory libvirt keeps fewer figures."""
    return None if milliseconds is None else milliseconds / 1000


async def typed(*words: str) -> str:
    """Type a command of Godwit's and return what it printed, whatever became of it."""
    command = [sys.executable, "-m", "godwit", *words]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        out, _ = await process.communicate()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        raise
    return out.decode()


def order_of(contestants: Sequence[Contestant], number: int) -> list[Contestant]:
    """Return the order of a round: each begins with another, so that nobody is always the first."""
    turn = number % len(contestants)
    return [*contestants[turn:], *contestants[:turn]]
