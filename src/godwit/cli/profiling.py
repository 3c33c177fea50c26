"""The command that measures how a guest changes its memory: profile."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from typer import echo

from godwit.cli.ground import Json, print_json, run, service
from godwit.cli.moves import VmName  # noqa: TC001 - typer reads the annotation
from godwit.core.dirtying import curve_of
from godwit.units import format_bandwidth, format_duration, format_size

if TYPE_CHECKING:
    from godwit.core.dirtying import DirtyCurve
    from godwit.model import Profile


def profile(vm: VmName, *, json: Json = False) -> None:
    """Measure how much of its memory a running guest changes, within 50 ms to 2 s.

    It takes some seconds, in which the guest runs on as it does.
    """
    found = run(_profile(vm))
    curve = curve_of(found.windows, found.memory)
    if json:
        print_json({**asdict(found), "write_rate": curve.write_rate, "hot_set": curve.hot_set, "curve": curve.points})
        return
    for line in profile_lines(found, curve):
        echo(line)


async def _profile(vm: str) -> Profile:
    async with service() as opened:
        return await opened.profile(vm)


def profile_lines(found: Profile, curve: DirtyCurve) -> list[str]:
    """Say what a profile found."""
    took = format_duration(sum(window.seconds for window in found.windows))
    lines = [f"{found.vm} on {found.host}: {format_size(found.memory)} of memory, measured for {took}"]
    lines += [
        f"  within {format_duration(seconds).rjust(8)} it changes {format_size(round(curve.unique(seconds)))}"
        for seconds in sorted({window.seconds for window in found.windows})
    ]
    if not curve.write_rate:
        return [*lines, "  it changes next to nothing"]
    lines.append(f"  it begins at {format_bandwidth(curve.write_rate)}")
    if curve.hot_set is None:
        return [*lines, "  it goes on to new pages: no hot set was seen within the longest window"]
    return [*lines, f"  it comes back to a hot set of {format_size(round(curve.hot_set))}"]
