"""One trial: a contestant moves a guest of a scenario while a client outside and the guest's own work are watched."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from godwit.bench.contestants import By
from godwit.bench.guests import lost_work, use_once, writing
from godwit.bench.machines import link_bytes
from godwit.bench.typed import obeyed, typed
from godwit.lab.furnish import CLIENT, prefix
from godwit.measure.gaps import client_view, find_gaps
from godwit.measure.probe import OutsideProbe, ProbeSpec
from godwit.model import OutcomeStatus

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

_LONGEST: Final = 20
"""Waits of a client that are kept of a move."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a contestant itself says of its move.

    `blackout` is in seconds, None where nobody can tell; `refused` is a move that was not even begun.
    """

    ended: bool
    blackout: float | None = None
    strategy: str = ""
    note: str = ""
    refused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial(Told):
    """What one move cost; times in seconds, None where nobody can tell.

    `took` is the whole command, `client_gap` the longest that a client outside waited; `gaps` are the longest of all
    its waits, as (seconds after the command began, seconds). `lost` is by how much the guest fell behind with its work.
    `link_bytes` is what the migration link carried.
    """

    scenario: str
    contestant: str
    round: int
    took: float
    link_bytes: int
    client_gap: float | None
    lost: float | None = None
    gaps: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Ground:
    """The laboratory with a guest that Godwit owns and one that libvirt owns, where anybody uses that."""

    service: Service
    lab: Laboratory
    godwits: str
    libvirts: LibvirtGuest | None = None


async def attempt(ground: Ground, scenario: Scenario, contestant: Contestant, number: int) -> Trial:
    """Let a contestant move its guest, and measure. Raises LabError where that cannot be done as it is to be."""
    lab = ground.lab
    lab.set_rate(scenario.link * 10**6)
    address = await _address(ground, contestant)
    if scenario.once:
        await use_once(lab, address, scenario.once)
    async with writing(lab, address, scenario) as writer:
        if contestant.unknown:
            await ground.service.journal.history.forget(ground.godwits)
        if contestant.profiled:
            words = ("forecast", ground.godwits, await _other_host(ground), "--profile")
            await obeyed(*words, "--link", f"{scenario.link}mbit")
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
    told: Told,
    series: ProbeSeries,
    writer: Writer | None,
    window: tuple[float, float],
    carried: int,
) -> Trial:
    began, ended = window
    longest = sorted(find_gaps(series), key=lambda gap: -gap.length_s)[:_LONGEST]
    return Trial(
        **asdict(told),
        scenario=scenario.name,
        contestant=contestant.name,
        round=number,
        took=ended - began,
        link_bytes=carried,
        client_gap=client_view(series).client_gap_s,
        lost=None if writer is None or scenario.changes is not None else lost_work(writer.heard, began, ended),
        gaps=tuple((round(gap.start_s - began, 3), round(gap.length_s, 4)) for gap in longest),
    )


async def _address(ground: Ground, contestant: Contestant) -> str:
    if contestant.by is By.VIRSH:
        assert ground.libvirts is not None  # noqa: S101 - the ground was made for its contestants; for the type checker
        return ground.libvirts.address
    return (await ground.service.inventory.vm(ground.godwits)).address or ""


async def _with_godwit(ground: Ground, contestant: Contestant) -> Told:
    """Type `godwit migrate`, to the other host."""
    return await migrate(ground.service, ground.godwits, await _other_host(ground), contestant.options)


async def _other_host(ground: Ground) -> str:
    """Return the host that Godwit's guest is not on."""
    guest = await ground.service.inventory.vm(ground.godwits)
    hosts = [prefix(ground.lab.plan.name) + name for name in ground.lab.hosts]
    return next(host for host in hosts if host != guest.host)


async def migrate(service: Service, vm: str, target: str, options: Sequence[str]) -> Told:
    """Type `godwit migrate`, and read from the journal what came of it. One that begins no migration is refused."""
    said = await typed("migrate", vm, target, *options, "--deadline", f"{DEADLINE:g}s")
    if said.migration is None:
        return Told(ended=False, note=said.wrong, refused=True)
    row, _ = await service.journal.load(said.migration)
    outcome = row.outcome
    if outcome is None:
        return Told(ended=False, note="no outcome")
    entries = [] if row.spec.defaults else await service.journal.entries(row.spec.id)
    return Told(
        ended=outcome.status is OutcomeStatus.COMPLETED,
        blackout=_seconds(outcome.downtime.blackout_ms),
        strategy=next((str(entry.data["strategy"]) for entry in entries if entry.kind == "forecast"), ""),
        note=outcome.error,
        refused=outcome.status is OutcomeStatus.REFUSED,
    )


async def _with_virsh(ground: Ground, contestant: Contestant) -> Told:
    """Type `virsh migrate --live`, and ask libvirt what came of it."""
    assert ground.libvirts is not None  # noqa: S101 - as in _address
    source = ground.libvirts.host()
    target = next(host for host in ground.lab.hosts if host != source)
    moved = await ground.libvirts.migrate(source, target, contestant.options, DEADLINE)
    if moved is None:
        return Told(ended=False, note=f"aborted after {DEADLINE:.0f} s")
    return Told(ended=True, blackout=_seconds(moved.get("downtime")))


def _seconds(milliseconds: float | None) -> float | None:
    """Return seconds; of a guest that went over before its memory libvirt keeps fewer figures."""
    return None if milliseconds is None else milliseconds / 1000
