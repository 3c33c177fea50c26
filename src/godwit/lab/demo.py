"""The demonstration: one guest under load, moved there with QEMU's defaults and back with Godwit."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

from godwit import __version__, app
from godwit.errors import LabError
from godwit.lab.assets import cache_folder, prepare
from godwit.lab.furnish import GuestPlan, add_guest, forget, prefix, register
from godwit.lab.laboratory import Laboratory
from godwit.lab.loads import SshTop, TickReader, fill_redis
from godwit.lab.plan import LabPlan
from godwit.measure.probe import OutsideProbe, ProbeSpec
from godwit.measure.report import render_comparison_png, render_html
from godwit.measure.report_data import Comparison
from godwit.measure.story import report_data, run_figures
from godwit.model import Outcome, OutcomeStatus
from godwit.units import MIB, format_size

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from godwit.lab.assets import Assets
    from godwit.measure.report_data import RunFigures
    from godwit.service import Service

NAME: Final = "demo"
OUTPUT: Final = Path("build/demo")
DATA_BYTES: Final = 96 * MIB
"""What redis holds: a guest fresh from boot is mostly zero pages, which cost a move next to nothing."""
SETTLE: Final = 2.0
"""Seconds of calm before each move, so that the figures have a "before"."""

console = Console()


@dataclass(frozen=True, slots=True)
class Users:
    """Those who use the guest while it moves."""

    top: SshTop
    ticks: TickReader
    redis: OutsideProbe


async def run() -> int:
    """Build, move, compare, write the three files, take everything down. Returns an exit status."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    os.environ[app.HOME_VARIABLE] = str((OUTPUT / "home").absolute())
    assets = await asyncio.to_thread(prepare, cache_folder(), partial(console.print, markup=False))
    async with _laboratory(assets) as lab, app.opened() as service:
        await register(service, lab)
        console.print(
            f"[bold]1[/] two hosts and a client; the migration link carries {(lab.plan.link_rate or 0) // 10**6} Mbit/s"
        )
        vm = await add_guest(service, lab, assets, GuestPlan())
        address = vm.address or ""
        console.print(f"[bold]2[/] guest {vm.name} boots on {vm.host}: redis, SSH, a ticking program")
        async with _users(lab, address) as users:
            console.print("[bold]3[/] a redis client, an SSH session with top and a reader of ticks are at work")
            there, back = prefix(NAME) + "host2", prefix(NAME) + "host1"
            console.print(f"\n[bold]4[/] to {there} with QEMU's defaults")
            plain = await _move(service, vm.name, there, address, "--qemu-defaults")
            console.print(f"\n[bold]5[/] what is to be expected of the way back to {back}")
            await _type("forecast", vm.name, back, "--profile")
            console.print(f"\n[bold]6[/] back to {back} with Godwit")
            ours = await _move(service, vm.name, back, address)
            await _type("forecast", "--accuracy")
            await asyncio.sleep(SETTLE)
            verdict = await _verdict(users, ours, plain)
        await _write(service, verdict, ours, plain)
    _show(verdict, ours, plain)
    good = verdict["status"] == "completed" and verdict["ssh_session_survived"] and not verdict["tcp_errors"]
    return 0 if good else 1


@asynccontextmanager
async def _laboratory(assets: Assets) -> AsyncIterator[Laboratory]:
    await asyncio.to_thread(Laboratory.remove, NAME)  # one that a killed demonstration left
    lab = await asyncio.to_thread(Laboratory.up, LabPlan(NAME), assets.hosttree)
    try:
        yield lab
    finally:
        await asyncio.to_thread(lab.down)
        async with app.opened() as service:
            await forget(service, NAME)


@asynccontextmanager
async def _users(lab: Laboratory, address: str) -> AsyncIterator[Users]:
    async with AsyncExitStack() as stack:
        ticks = await stack.enter_async_context(TickReader(address))
        await fill_redis(address, DATA_BYTES)
        top = await stack.enter_async_context(SshTop(lab, address))
        client = lab.command("client", [sys.executable])
        spec = ProbeSpec.parse(f"redis://{address}:6379/set", interval_ms=5)
        redis = await stack.enter_async_context(OutsideProbe(client, spec))
        await redis.ready()
        yield Users(top, ticks, redis)


async def _type(*words: str) -> int:
    """Type a command that a user would type, and wait for its end; returns its exit status."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "godwit", *words)
    return await process.wait()


async def _move(service: Service, vm: str, host: str, address: str, *options: str) -> Outcome:
    """Move the guest as a user would, and return how it ended."""
    await asyncio.sleep(SETTLE)
    client = prefix(NAME) + "client"
    status = await _type("migrate", vm, host, "--probe", f"{address}@{client}", *options)
    row = (await service.journal.rows(limit=1))[0]
    if row.outcome is None or row.spec.target != host:
        message = f"the move to {host} left no outcome (exit status {status})"
        raise LabError(message)
    return row.outcome


async def _verdict(users: Users, ours: Outcome, plain: Outcome) -> dict[str, object]:
    survived = await users.top.survives()
    series = await users.redis.finish()
    completed = all(one.status is OutcomeStatus.COMPLETED for one in (ours, plain))
    return {
        "status": "completed" if completed else ours.status.value,
        "guest_alive": bool(ours.guest_alive and plain.guest_alive),
        "ssh_session_survived": survived,
        "tcp_errors": sum(series.errors.values()) + series.reconnects + len(users.ticks.faults),
        "ticks": users.ticks.ticks,
        "redis_requests": len(series.sent_s),
        "godwit": _figures(ours),
        "qemu_defaults": _figures(plain),
    }


def _figures(outcome: Outcome) -> dict[str, object]:
    return {
        "total_s": outcome.stream_s,
        "command_to_end_s": outcome.total_s,
        "client_gap_ms": outcome.downtime.client_gap_ms,
        "blackout_ms": outcome.downtime.blackout_ms,
        "qemu_downtime_ms": outcome.downtime.qemu_ms,
        "bytes": outcome.bytes,
    }


async def _write(service: Service, verdict: dict[str, object], ours: Outcome, plain: Outcome) -> None:
    (OUTPUT / "outcome.json").write_text(json.dumps(verdict, indent=2) + "\n")
    base, better = await _run(service, "QEMU's defaults", plain), await _run(service, "Godwit", ours)
    row, _ = await service.journal.load(ours.id)
    data = report_data(row, await service.journal.entries(ours.id), version=__version__)
    data = replace(data, comparison=Comparison(base, better))
    (OUTPUT / "report.html").write_text(await asyncio.to_thread(render_html, data))
    await asyncio.to_thread(render_comparison_png, base, better, OUTPUT / "downtime.png")


async def _run(service: Service, label: str, outcome: Outcome) -> RunFigures:
    row, _ = await service.journal.load(outcome.id)
    return run_figures(label, row, await service.journal.entries(outcome.id))


def _show(verdict: dict[str, object], ours: Outcome, plain: Outcome) -> None:
    table = Table(title="the same guest, the same link", title_justify="left")
    for column, side in (("", "left"), ("QEMU's defaults", "right"), ("Godwit", "right")):
        table.add_column(column, justify="right" if side == "right" else "left")

    def row(name: str, text: str, first: float | None, second: float | None) -> None:
        table.add_row(name, *(text.format(one) if one is not None else "-" for one in (first, second)))

    row("longest time a client waited", "{:.0f} ms", plain.downtime.client_gap_ms, ours.downtime.client_gap_ms)
    row("blackout (STOP to RESUME)", "{:.0f} ms", plain.downtime.blackout_ms, ours.downtime.blackout_ms)
    row("downtime that QEMU reports", "{:.0f} ms", plain.downtime.qemu_ms, ours.downtime.qemu_ms)
    row("migration time", "{:.2f} s", plain.stream_s, ours.stream_s)
    table.add_row("sent", format_size(plain.bytes), format_size(ours.bytes))
    console.print(table)
    session = "survived both moves" if verdict["ssh_session_survived"] else "DIED"
    console.print(f"SSH session: {session}; TCP errors: {verdict['tcp_errors']}; ticks read: {verdict['ticks']}")
    console.print(f"written: {OUTPUT}/outcome.json, {OUTPUT}/report.html, {OUTPUT}/downtime.png")
    console.print(f"[dim]finished {time.strftime('%H:%M:%S')}; nothing is left running[/]")
