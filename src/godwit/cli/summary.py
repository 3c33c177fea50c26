"""What is said of a migration that has ended. The three figures of downtime are always said together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from godwit.measure.story import compared
from godwit.model import OutcomeStatus, Owner
from godwit.units import format_duration, format_size

if TYPE_CHECKING:
    from godwit.model import Downtime, Outcome

NOT_MEASURED: Final = "not measured"


def headline(outcome: Outcome) -> str:
    """Say in one sentence what became of the guest."""
    vm, source, target = outcome.vm, outcome.source, outcome.target
    took = format_duration(outcome.total_s)
    match outcome.status:
        case OutcomeStatus.COMPLETED | OutcomeStatus.UNVERIFIED as status:
            alive = {True: "; it is alive, seen from outside", False: "; it does NOT answer", None: ""}
            but = "; its disks are NOT proven to be the same" if status is OutcomeStatus.UNVERIFIED else ""
            what = f"moved from {source} to {target}"
            if outcome.qemus is not None:
                what = "runs on {2}, in QEMU {1} after {0}; replaced".format(*outcome.qemus, target)
            return f"{vm} {what} in {took}{alive[outcome.guest_alive]}{but}"
        case OutcomeStatus.REFUSED:
            return f"{vm} stays on {source}: nothing was changed"
        case OutcomeStatus.CANCELLED:
            return f"{vm} stays on {source}: cancelled after {took}"
        case OutcomeStatus.GUEST_CRASHED:
            return f"{vm} ran on {target} and is gone there; its copy on {source} is stale and stays stopped"
        case OutcomeStatus.LIMBO:
            return f"nobody can know whether {source} or {target} owns {vm}: Godwit touches neither"
        case _:
            where = f"{vm} stays on {source}" if outcome.owner is Owner.SOURCE else f"{vm}: its host is not known"
            return f"{where}: the migration failed after {took}"


def downtime_rows(downtime: Downtime) -> list[tuple[str, str, str]]:
    """Return the three figures as name, value and what limits it."""
    clocks = downtime.clock_uncertainty_ms
    lag = downtime.probe_lag_ms
    rows = [
        ("QEMU's own figure", milliseconds(downtime.qemu_ms), ""),
        (
            "STOP to RESUME",
            milliseconds(downtime.blackout_ms),
            f"clocks known to within {milliseconds(clocks)}" if clocks is not None else "",
        ),
        (
            "client's gap",
            milliseconds(downtime.client_gap_ms),
            "give the guest's address with --probe"
            if downtime.client_gap_ms is None
            else (f"the probe itself was late by up to {milliseconds(lag)}" if lag is not None else ""),
        ),
    ]
    if downtime.first_packet_ms is not None:
        rows.append(("RESUME to first answer", milliseconds(downtime.first_packet_ms), "from the guest on the target"))
    return rows


def milliseconds(value: float | None) -> str:
    """Print milliseconds as exactly as they are worth reading."""
    if value is None or math.isnan(value):
        return NOT_MEASURED
    ten, hundred = 10, 100
    return f"{value:.{2 if abs(value) < ten else 1 if abs(value) < hundred else 0}f} ms"


def moved(outcome: Outcome) -> bool:
    """Say whether there was a switchover, so that figures of downtime mean something."""
    figures = (outcome.downtime.qemu_ms, outcome.downtime.blackout_ms, outcome.downtime.client_gap_ms)
    return outcome.status in {OutcomeStatus.COMPLETED, OutcomeStatus.UNVERIFIED} or any(
        value is not None for value in figures
    )


def disk_lines(outcome: Outcome) -> list[str]:
    """Say what each copied disk took and takes, and whether the disks were compared."""
    lines = [
        f"{one.disk} took {format_size(one.before)} on {outcome.source}, takes {format_size(one.after)} on "
        f"{outcome.target}"
        for one in outcome.allocations
    ]
    if outcome.comparison is not None:
        lines.append(f"disks compared: {compared(outcome.comparison)}")
    return lines


def summary(outcome: Outcome) -> list[str]:
    """Return the lines that end the display of a migration."""
    lines = [headline(outcome)]
    if moved(outcome):
        rows = downtime_rows(outcome.downtime)
        width = max(len(value) for _, value, _ in rows)
        for index, (name, value, aside) in enumerate(rows):
            label = "downtime" if index == 0 else ""
            note = f"  ({aside})" if aside else ""
            lines.append(f"  {label:9} {name:18} {value.rjust(width)}{note}")
    if outcome.disk_bytes:
        lines.append(f"  {'disks':9} {format_size(outcome.disk_bytes)} copied beforehand")
    lines.extend(f"  {'':9} {line}" for line in disk_lines(outcome))
    if outcome.bytes:
        stream = f" in {format_duration(outcome.stream_s)}" if outcome.stream_s is not None else ""
        passes = f", {outcome.passes} passes" if outcome.passes else ""
        delay = outcome.start_delay_s
        begun = f", begun {format_duration(delay)} after the command" if delay is not None else ""
        lines.append(f"  {'sent':9} {format_size(outcome.bytes)}{stream}{passes}{begun}")
    if outcome.encrypted is False and (outcome.bytes or outcome.disk_bytes):
        lines.append(f"  {'':9} NOT encrypted: it travelled in the clear")
    lines.extend(f"  {'left over':9} {leftover}" for leftover in outcome.leftovers)
    if outcome.status is not OutcomeStatus.REFUSED:
        lines.append(f"  {'report':9} godwit report {outcome.id} --html FILE")
    return ["SIMULATED: " + lines[0], *lines[1:]] if outcome.simulated else lines
