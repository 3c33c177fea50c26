"""The outside probe on its own: gaps as they come, and figures at the end."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from godwit.cli.ground import duration, print_json, print_section, service
from godwit.cli.summary import milliseconds
from godwit.cli.terminal import echo
from godwit.errors import InputError, ProbeError
from godwit.measure.gaps import client_view, noticeable_gaps
from godwit.measure.probe import OutsideProbe, ProbeSpec

if TYPE_CHECKING:
    from godwit.measure.gaps import Gap
    from godwit.measure.series import ProbeSeries

_LOOK_PERIOD: Final = 0.5
_READY_DEADLINE: Final = 10.0
_DEFAULT_INTERVAL: Final = 0.002


@dataclass(frozen=True, slots=True)
class Probing:
    """What is to be asked, from where, for how long, and where the picture goes."""

    spec: ProbeSpec
    vantage: str | None
    png: Path | None
    as_json: bool

    @classmethod
    def of(
        cls,
        address: str,
        kind: str | None,
        length: str | None,
        interval: str | None,
        vantage: str | None,
        png: str | None,
        *,
        as_json: bool,
    ) -> Probing:
        """Read the options. Raises InputError naming the one that cannot be meant."""
        if kind is not None and "://" in address:
            message = f"--kind {kind} and {address} name a kind twice"
            raise InputError(message)
        text = address if kind is None or kind == "icmp" else f"{kind}://{address}"
        seconds = duration("--duration", length) or 0.0
        every = duration("--interval", interval) or 0.0
        try:
            spec = ProbeSpec.parse(text, interval_ms=every * 1000, duration_s=seconds)
        except ValueError as error:
            message = f"cannot probe {error}"
            raise InputError(
                message, remedy="write for example 198.51.100.7, or tcp-connect://198.51.100.7:22"
            ) from error
        return cls(spec, vantage, Path(png) if png is not None else None, as_json)


async def watch_outside(probing: Probing) -> int:
    """Probe until the time is over, an interrupt or the prober's death. Raises ProbeError."""
    if probing.vantage is None:
        return await _watch(OutsideProbe([sys.executable], probing.spec), probing)
    from godwit import app  # noqa: PLC0415 - the composition root knows how to reach a vantage point

    async with service() as opened:
        launch = await app.launcher(opened.inventory)(probing.vantage)
        return await _watch(OutsideProbe(["python3"], probing.spec, send_source=True, launch=launch), probing)


async def _watch(probe: OutsideProbe, probing: Probing) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    async with probe:
        await _begin(probe, stop, probing)
        await _tell_gaps(probe, stop, probing)
        series = await probe.finish()
    return _conclude(series, probing)


async def _begin(probe: OutsideProbe, stop: asyncio.Event, probing: Probing) -> None:
    """Wait for the first reply; whoever never answers is told at once instead of measured."""
    ready = asyncio.create_task(probe.ready(_READY_DEADLINE))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([ready, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not ready.done():
        ready.cancel()
        message = f"stopped before {probing.spec.host} had answered"
        raise ProbeError(message)
    await ready
    if not probing.as_json:
        every = f"every {probing.spec.interval_ms or _DEFAULT_INTERVAL * 1000:g} ms"
        end = "" if probing.spec.duration_s else "; Ctrl-C ends it"
        echo(f"{probing.spec.host} answers; asked {every} ({probing.spec.kind}){end}")


async def _tell_gaps(probe: OutsideProbe, stop: asyncio.Event, probing: Probing) -> None:
    """Tell each gap when it is over, until the end."""
    loop = asyncio.get_running_loop()
    end = loop.time() + probing.spec.duration_s if probing.spec.duration_s else None
    told = 0.0
    while not stop.is_set() and (end is None or loop.time() < end):
        wait = _LOOK_PERIOD if end is None else min(_LOOK_PERIOD, max(0.0, end - loop.time()))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), wait)
        series = probe.collected()
        recent = series.between(max(told, series.ended_s - 60), series.ended_s + 1) if told else series
        for gap in noticeable_gaps(recent):
            if gap.start_s > told and not gap.open_end and not gap.open_start:
                told = gap.start_s
                _tell_gap(gap, series, probing)


def _tell_gap(gap: Gap, series: ProbeSeries, probing: Probing) -> None:
    if probing.as_json:
        print_json({"kind": "gap", "at": gap.start_s, "length_s": gap.length_s, "lost": gap.lost})
        return
    late = "" if math.isnan(gap.lag_max_s) else f", the probe late by up to {milliseconds(gap.lag_max_s * 1000)}"
    lost = f", {gap.lost} lost" if gap.lost else ""
    at = gap.start_s - series.began_s
    echo(f"{at:+10.2f} s  gap of {milliseconds(gap.length_s * 1000)}{lost}{late}")


def _conclude(series: ProbeSeries, probing: Probing) -> int:
    view = client_view(series, None, None)
    longest = view.longest
    if probing.as_json:
        print_json({"kind": "summary", "data": _summary(series)})
    else:
        facts = {
            "asked": f"{view.sent} requests in {series.ended_s - series.began_s:.1f} s",
            "lost": str(view.lost),
            "errors": str(view.errors) if view.errors else "",
            "longest gap": milliseconds(longest.length_s * 1000) if longest else "",
            "latency": f"median {milliseconds(view.before.median_ms)}, 99 % below {milliseconds(view.before.p99_ms)}"
            if view.before.sent
            else "",
            "probe late": f"by up to {milliseconds(view.lag_max_s * 1000)}; nothing is taken off",
        }
        print_section(f"{probing.spec.host} ({series.kind})", facts)
    if probing.png is not None:
        _write_picture(series, probing.png)
        if not probing.as_json:
            echo(f"written: {probing.png}")
    return 0


def _summary(series: ProbeSeries) -> dict[str, object]:
    view = client_view(series, None, None)
    return {
        "address": series.address,
        "method": series.method,
        "seconds": series.ended_s - series.began_s,
        "sent": view.sent,
        "lost": view.lost,
        "errors": dict(series.errors),
        "longest_gap_ms": view.longest.length_s * 1000 if view.longest else None,
        "median_ms": _known(view.before.median_ms),
        "p99_ms": _known(view.before.p99_ms),
        "lag_max_ms": _known(view.lag_max_s * 1000),
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _write_picture(series: ProbeSeries, path: Path) -> None:
    from godwit.measure.report import render_png  # noqa: PLC0415 - loads matplotlib
    from godwit.measure.report_data import ReportData  # noqa: PLC0415 - as above

    data = ReportData(
        id="", vm=series.address, source="", target="", status="", started_s=series.started_s, probe=series
    )
    try:
        render_png(data, path)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror or error}"
        raise InputError(message) from error
