"""The command that measures how a guest changes its memory: profile."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from godwit.cli.ground import Json, bandwidth, print_json, run, service
from godwit.cli.moves import VmName  # noqa: TC001 - typer reads it
from godwit.cli.policies import MaxDowntime, Typed, policy_of
from godwit.cli.terminal import echo
from godwit.errors import InputError
from godwit.units import format_bandwidth, format_duration, format_size

_WORTH_SAYING = 64 << 10
"""Bytes a second; what is less than that, no move feels."""

if TYPE_CHECKING:
    from godwit.core.dirtying import DirtyCurve
    from godwit.model import Profile


def profile(
    vm: VmName,
    *,
    link: Annotated[
        str | None,
        typer.Option(metavar="RATE", help="Say whether a move over such a link ends by itself: 40MB/s, 400mbit."),
    ] = None,
    max_downtime: MaxDowntime = None,
    no_sample: Annotated[
        bool, typer.Option("--no-sample", metavar="", help="Do not look at any page of its memory.")
    ] = False,
    json: Json = False,
) -> None:
    """Measure how much of its memory a running guest changes, within 50 ms to 2 s.

    It takes some seconds, in which the guest runs on as it does. The figures are
    kept, and forecasts start from them; what is in the guest's memory is not.
    """
    from godwit.core.dirtying import curve_of  # noqa: PLC0415 - start-up time
    from godwit.core.forecast import least_downtime  # noqa: PLC0415 - as above

    rate = bandwidth("--link", link)
    if link is not None and not rate:
        message = "--link is the rate of a real link, and 0 means unlimited"
        raise InputError(message)
    if max_downtime is not None and rate is None:
        message = "--max-downtime goes with --link: without a link nothing can be said of downtime"
        raise InputError(message)
    limit = policy_of(Typed(max_downtime=max_downtime)).max_downtime
    found = run(_profile(vm, sample=not no_sample))
    curve = curve_of(found.windows, found.memory)
    needed = None if rate is None else least_downtime(curve, rate)
    if json:
        measured = {"write_rate": curve.write_rate, "hot_set": curve.hot_set, "curve": curve.points}
        print_json({**asdict(found), **measured, "least_downtime": needed})
        return
    for line in profile_lines(found, curve):
        echo(line)
    if rate is not None and needed is not None:
        echo(f"  {verdict(rate, needed, limit)}")


async def _profile(vm: str, *, sample: bool) -> Profile:
    from godwit.forecasts import Forecasts  # noqa: PLC0415 - start-up time

    async with service() as opened:
        return await Forecasts(opened).profile(vm, sample=sample)


def verdict(rate: int, needed: float, limit: float) -> str:
    """Say whether plain precopy ends over a link of `rate` bytes a second, which needs `needed` seconds of downtime."""
    over = f"sending whole pages over {format_bandwidth(rate)}, a live move"
    if needed > limit:
        return (
            f"{over} does not end within {format_duration(limit)} of downtime: it needs {format_duration(needed)}, "
            "or the guest to stand still (--static)"
        )
    if needed > 0:
        return f"{over} ends with {format_duration(needed)} of downtime, and what its devices take"
    return f"{over} ends with no more downtime than its devices take"


def profile_lines(found: Profile, curve: DirtyCurve) -> list[str]:
    """Say what a profile found."""
    took = format_duration(sum(window.seconds for window in found.windows))
    lines = [f"{found.vm} on {found.host}: {format_size(found.memory)} of memory, measured for {took}"]
    lines += [
        f"  within {format_duration(seconds).rjust(8)} it changes {format_size(round(curve.unique(seconds)))}"
        for seconds in sorted({window.seconds for window in found.windows})
    ]
    if not curve.write_rate:
        lines.append("  it changes next to nothing")
    elif curve.hot_set is None:
        lines.append(f"  it begins at {format_bandwidth(curve.write_rate)}")
        lines.append("  it goes on to new pages: no hot set was seen within the longest window")
    else:
        lines.append(f"  it begins at {format_bandwidth(curve.write_rate)}")
        lines.append(f"  it comes back to a hot set of {format_size(round(curve.hot_set))}")
    if found.disk_writes >= _WORTH_SAYING:
        lines.append(f"  it writes {format_bandwidth(round(found.disk_writes))} to its disks")
    return [*lines, *_sample_lines(found)]


def _sample_lines(found: Profile) -> list[str]:
    """Say what its pages are like, or why nobody could look."""
    sample = found.sample
    if sample is None:
        return [f"  its pages were not looked at: {found.unsampled}"] if found.unsampled else []
    kept = sample.pages - sample.zero
    packed = "" if sample.compressed is None else f", which compress to {sample.compressed:.0%} (zlib)"
    lines = [f"  of {sample.pages} pages {kept / sample.pages:.0%} are not zero{packed}"]
    if sample.again is not None:
        took = format_duration(sample.seconds)
        lines.append(f"  what changes in a page within {took} takes {sample.again:.0%} of its size")
    return lines
