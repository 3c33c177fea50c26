"""The command that says what a move will cost: forecast."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from godwit.cli.ground import Json, bandwidth, print_json, run, service
from godwit.cli.policies import (
    Allow,
    Bandwidth,
    Deadline,
    Forbid,
    MaxDowntime,
    MaxSlowdown,
    PolicyName,
    Typed,
    policy_of,
)
from godwit.cli.terminal import echo
from godwit.errors import InputError
from godwit.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.core.learning import Accuracy
    from godwit.model import Forecast, MoveRecord, Policy, Prospect


def forecast(  # noqa: PLR0913 - the options
    vm: Annotated[str, typer.Argument(metavar="VM", help="The guest's name.", show_default=False)] = "",
    host: Annotated[str, typer.Argument(metavar="HOST", help="Where it would go.", show_default=False)] = "",
    *,
    policy: PolicyName = None,
    max_downtime: MaxDowntime = None,
    deadline: Deadline = None,
    bandwidth_: Bandwidth = None,
    max_slowdown: MaxSlowdown = None,
    allow: Allow = None,
    forbid: Forbid = None,
    link: Annotated[
        str | None, typer.Option(metavar="RATE", help="What the link carries, where no move has shown it yet.")
    ] = None,
    profile: Annotated[
        bool | None, typer.Option("--profile/--no-profile", help="Measure the guest now, or never.  \\[when needed]")
    ] = None,
    accuracy: Annotated[
        bool, typer.Option("--accuracy", metavar="", help="Say how well moves went as forecast.")
    ] = False,
    json: Json = False,
) -> None:
    """Say what a live move would cost, way by way, and which one it would take.

    It moves nothing. A guest of which nothing is known lately is profiled first,
    which takes some seconds in which it runs on as it does.
    """
    if accuracy:
        if vm or host:
            message = "--accuracy is about all moves that were made, and takes no guest"
            raise InputError(message, remedy="godwit forecast --accuracy")
        run(_accuracy(as_json=json))
        return
    if not vm or not host:
        message = "forecast takes a guest and a host"
        raise InputError(message, remedy="godwit forecast VM HOST, or godwit forecast --accuracy")
    rate = bandwidth("--link", link)
    if link is not None and not rate:
        message = "--link is the rate of a real link, and 0 means unlimited"
        raise InputError(message)
    typed = Typed(policy, max_downtime, deadline, bandwidth_, max_slowdown, tuple(allow or ()), tuple(forbid or ()))
    run(_forecast(vm, host, policy_of(typed), rate, profile=profile, as_json=json))


async def _forecast(
    vm: str, host: str, policy: Policy, link: float | None, *, profile: bool | None, as_json: bool
) -> None:
    from godwit.forecasts import Forecasts  # noqa: PLC0415 - start-up time

    async with service() as opened:
        found = await Forecasts(opened).forecast(vm, host, policy, link=link, anew=profile)
    if as_json:
        print_json(asdict(found))
        return
    for line in forecast_lines(found, policy):
        echo(line)


def forecast_lines(found: Forecast, policy: Policy) -> list[str]:
    """Say what is expected, a line a strategy, and what that rests on."""
    from godwit.core.foretelling import way_out  # noqa: PLC0415 - start-up time

    head = ("", "in all", "blackout", "a client waits", "sent", "passes")
    rows = [_row(row, chosen=row.strategy == found.chosen) for row in found.prospects]
    ending = [row for row in rows if len(row) == len(head)]
    widths = [max(map(len, column)) for column in zip(head, *ending, strict=True)]
    widths[0] = max(len(row[0]) for row in rows)
    lines = [f"{found.vm} from {found.source} to {found.target}, live", found.situation]
    for row in (head, *rows) if ending else rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join(cells).rstrip())
    lines.append(f"chosen: {found.chosen}: {found.reason}")
    if not found.prospect.converges:
        lines.append(f"mend: {way_out(found, policy)}")
    lines.append("resting on:")
    return [*lines, *(f"  {words}" for words in found.knowledge)]


def _row(row: Prospect, *, chosen: bool) -> tuple[str, ...]:
    """Return a strategy's cells: its figures, or why there are none."""
    from godwit.core.foretelling import interval_words  # noqa: PLC0415 - start-up time

    name = f"{'*' if chosen else ' '} {row.strategy}"
    if not row.converges:
        return name, row.why
    times = (row.total, row.blackout, row.client_gap)
    return name, *map(interval_words, times), format_size(round(row.bytes.likely)), str(row.passes)


async def _accuracy(*, as_json: bool) -> None:
    from godwit.forecasts import Forecasts  # noqa: PLC0415 - start-up time

    async with service() as opened:
        moves, found = await Forecasts(opened).record()
    if as_json:
        print_json({"moves": moves, "accuracy": found})
        return
    for line in accuracy_lines(moves, found):
        echo(line)


def accuracy_lines(moves: Sequence[MoveRecord], found: Accuracy) -> list[str]:
    """Say how well moves went as forecast, a line a move, and all together."""
    if not found.moves:
        return ["no move was forecast yet: a guest has to be profiled, or moved, before"]
    lines = []
    for move in moves:
        if move.forecast is None:
            continue
        row = move.forecast.prospect
        gap = (
            ""
            if move.client_gap is None
            else (f"; a client's gap of {format_duration(row.client_gap.likely)}, {format_duration(move.client_gap)}")
        )
        lines.append(
            f"{move.id}: expected {format_duration(row.total.likely)}, took {format_duration(move.total)}{gap}"
        )
    assert found.total_median is not None  # noqa: S101 - there were moves; for the type checker
    assert found.total_p90 is not None  # noqa: S101 - as above
    lines.append(
        f"total time of {found.moves} moves: off by {found.total_median:.0%} (median), {found.total_p90:.0%} (9 of 10);"
        f" within the interval {found.total_held or 0:.0%}"
    )
    if found.gap_median is not None and found.gap_p90 is not None:
        lines.append(
            f"client's gap of {found.gaps} moves: off by {format_duration(found.gap_median)} (median), "
            f"{format_duration(found.gap_p90)} (9 of 10); within the interval {found.gap_held or 0:.0%}"
        )
    return lines
