"""Commands over several hosts: check --all, host compare, cpu baseline."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from godwit.cli.ground import Json, plain, print_json, run, service
from godwit.cli.terminal import echo, echo_error
from godwit.errors import HostError, RefusedError
from godwit.plaintext import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from godwit.core.differences import Aspect
    from godwit.core.preflight.matrix import Cell, Matrix
    from godwit.model import Baseline, Finding, Policy

cpu_app = typer.Typer(help="Processors that guests can have on several hosts.", no_args_is_help=True)

_GAP: Final = 3
"""Columns of a terminal between two columns of a table."""
_LONGEST_FLAGS: Final = 10
_STYLES: Final = {"ok": "green", "warn": "yellow", "blocked": "bold red", "unknown": "magenta", "home": "dim"}

Hosts = Annotated[list[str], typer.Argument(metavar="HOST...", help="Registered hosts.", show_default=False)]


def _console() -> Console:
    """Return what tables are printed with: as wide as the terminal, or as wide as they are where there is none."""
    from rich.console import Console  # noqa: PLC0415 - start-up time

    return Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else 10_000)


def _table(*columns: tuple[str, bool]) -> Table:
    """Return a table of columns by name, each with whether its cells may be folded."""
    from rich.table import Table  # noqa: PLC0415 - start-up time

    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for name, folds in columns:
        table.add_column(one_line(name), overflow="fold" if folds else "ellipsis", no_wrap=not folds)
    return table


# -- check --all -------------------------------------------------------------------------------------------------------


async def check_all(hosts: Sequence[str], sources: Sequence[str], policy: Policy, *, as_json: bool) -> int:
    """Print every guest against the hosts; return the exit status: 3 if anything is blocked, 5 if not all is known."""
    from godwit.checks import Checks  # noqa: PLC0415 - start-up time
    from godwit.core.preflight.matrix import Verdict  # noqa: PLC0415 - start-up time

    async with service(take_up=True) as opened:
        matrix = await Checks(opened).matrix(hosts, sources=sources, policy=policy)
    blocked, unknown = matrix.of(Verdict.BLOCKED), matrix.of(Verdict.UNKNOWN)
    status = RefusedError.exit_status if blocked else HostError.exit_status if unknown or matrix.silent else 0
    if as_json:
        print_json(_matrix_data(matrix))
        return status
    _print_matrix(matrix)
    _print_details(matrix)
    if blocked:
        message = f"{len(blocked)} of {_pairs(matrix)} moves are blocked"
        echo_error(RefusedError(message, remedy="the mends above; godwit check VM HOST says all of one pair"))
    elif status:
        message = f"{len(unknown)} of {_pairs(matrix)} moves could not be looked at"
        echo_error(HostError(message, remedy="see why above; godwit host check HOST looks at one host"))
    return status


def _pairs(matrix: Matrix) -> int:
    return sum(cell.verdict.value != "home" for cell in matrix.cells)


def _matrix_data(matrix: Matrix) -> dict[str, object]:
    counts: dict[str, int] = {}
    for cell in matrix.cells:
        counts[cell.verdict.value] = counts.get(cell.verdict.value, 0) + 1
    return {
        "guests": [{"vm": row.vm, "host": row.home} for row in matrix.rows],
        "hosts": list(matrix.hosts),
        "silent": [{"host": host, "trouble": trouble} for host, trouble in matrix.silent],
        "counts": counts,
        "cells": [plain(cell) for cell in matrix.cells],
    }


def _print_matrix(matrix: Matrix) -> None:
    """Print the table; hosts for which the terminal is too narrow come in a table of their own below."""
    from rich.text import Text as Styled  # noqa: PLC0415 - start-up time

    console = _console()
    named = [(one_line(row.vm), one_line(row.home)) for row in matrix.rows]
    fixed = sum(max(map(len, column)) + _GAP for column in zip(("guest", "on"), *named, strict=True))
    widths = {
        host: max(len(one_line(host)), *(len(matrix.cell(row.vm, host).words) for row in matrix.rows))
        for host in matrix.hosts
    }
    for number, group in enumerate(_groups(widths, console.width - fixed)):
        if number:
            echo()
        table = _table(("guest", False), ("on", False), *((host, False) for host in group))
        for row, words in zip(matrix.rows, named, strict=True):
            cells = [matrix.cell(row.vm, host) for host in group]
            table.add_row(*words, *(Styled(cell.words, style=_STYLES[cell.verdict.value]) for cell in cells))
        console.print(table)


def _groups(widths: dict[str, int], room: int) -> list[list[str]]:
    """Return the hosts in groups that fit beside each other; each has one at least."""
    groups: list[list[str]] = []
    left = 0
    for host, width in widths.items():
        if not groups or left < width:
            groups.append([])
            left = room
        groups[-1].append(host)
        left -= width + _GAP
    return groups


def _print_details(matrix: Matrix) -> None:
    """Say below the table what blocks and warns, once for all pairs that it is the same for."""
    said: dict[tuple[str, str, str], tuple[Finding, list[str]]] = {}
    troubles: dict[str, list[str]] = {}
    for cell in matrix.cells:
        for finding in cell.findings:
            if finding.severity.value != "info":
                key = (finding.code, finding.found, finding.mend)
                said.setdefault(key, (finding, []))[1].append(_pair(cell))
        if cell.trouble and cell.verdict.value == "unknown":
            troubles.setdefault(cell.trouble, []).append(_pair(cell))
    for finding, pairs in sorted(said.values(), key=lambda one: one[0].severity.value):
        echo()
        echo(f"{'blocks' if finding.severity.value == 'block' else 'warning'}: {finding.code}: {finding.found}")
        echo(f"  concerns: {_listed(pairs)}")
        echo(f"  because: {finding.why}")
        if finding.mend:
            echo(f"  mend: {finding.mend}")
    for trouble, pairs in troubles.items():
        echo()
        echo(f"not known: {trouble}")
        echo(f"  concerns: {_listed(pairs)}")


def _pair(cell: Cell) -> str:
    return f"{cell.vm} to {cell.host}"


def _listed(pairs: Sequence[str]) -> str:
    more = f" and {len(pairs) - _LONGEST_FLAGS} more" if len(pairs) > _LONGEST_FLAGS else ""
    return f"{', '.join(pairs[:_LONGEST_FLAGS])}{more}"


# -- host compare ------------------------------------------------------------------------------------------------------


def compare(
    here: Annotated[str, typer.Argument(metavar="A", help="A registered host.", show_default=False)],
    there: Annotated[str, typer.Argument(metavar="B", help="Another one.", show_default=False)],
    *,
    json: Json = False,
) -> None:
    """Say what differs between two hosts, and what that means for moves from one to the other."""
    run(_compare(here, there, as_json=json))


async def _compare(here: str, there: str, *, as_json: bool) -> None:
    from godwit.checks import Checks  # noqa: PLC0415 - start-up time

    async with service() as opened:
        aspects = await Checks(opened).compare(here, there)
    if as_json:
        print_json({"hosts": [here, there], "aspects": aspects})
        return
    apart = [aspect for aspect in aspects if aspect.differs]
    if apart:
        _print_aspects(here, there, apart)
        _print_meanings(here, there, apart)
        echo()
    alike = _listing([aspect.subject for aspect in aspects if not aspect.differs])
    echo(f"{here} and {there} {'are alike in' if apart else 'do not differ. Compared:'} {alike}")


def _listing(words: Sequence[str]) -> str:
    return ", ".join(words) or "nothing that was compared"


def _print_aspects(here: str, there: str, aspects: Sequence[Aspect]) -> None:
    table = _table(("", False), (here, True), (there, True))
    for aspect in aspects:
        table.add_row(*map(_text, (aspect.subject, aspect.here, aspect.there)))
    _console().print(table)


def _text(words: str) -> Text:
    from rich.text import Text as Plain  # noqa: PLC0415 - start-up time

    return Plain(one_line(words))


def _print_meanings(here: str, there: str, aspects: Sequence[Aspect]) -> None:
    for source, target, of in (
        (here, there, [(one.subject, one.onward) for one in aspects]),
        (there, here, [(one.subject, one.back) for one in aspects]),
    ):
        told = [(subject, means) for subject, means in of if means]
        echo()
        echo(f"moves from {source} to {target}:" if told else f"moves from {source} to {target}: nothing follows")
        for subject, means in told:
            echo(f"  {subject}: {means}")


# -- cpu baseline ------------------------------------------------------------------------------------------------------


@cpu_app.command("baseline")
def baseline(
    hosts: Hosts,
    *,
    accelerator: Annotated[
        Literal["kvm", "tcg"] | None,
        typer.Option(help="For guests under which accelerator.  \\[kvm, where it runs on all of them]"),
    ] = None,
    json: Json = False,
) -> None:
    """Name the largest CPU that guests can have on all of the hosts, for QEMU and for libvirt."""
    run(_baseline(hosts, accelerator, as_json=json))


async def _baseline(hosts: Sequence[str], accelerator: Literal["kvm", "tcg"] | None, *, as_json: bool) -> None:
    from godwit.checks import Checks  # noqa: PLC0415 - start-up time

    async with service() as opened:
        found = await Checks(opened).baseline(hosts, accelerator)
    if as_json:
        print_json(found)
        return
    _print_baseline(found)


def _print_baseline(found: Baseline) -> None:
    echo(f"QEMU:     -cpu {found.argument}")
    echo()
    echo("libvirt:")
    for line in found.xml.splitlines():
        echo(f"  {line}")
    echo()
    echo(f"for guests under {found.accelerator}, from what these say:")
    for host, source in found.sources:
        echo(f"  {host}: {source}")
    for title, limits in (
        (f"taken away from {found.model}, since a host lacks it:", found.removed),
        ("not for guests that are to run on all of them, since a host lacks it:", found.limits),
    ):
        by_hosts: dict[tuple[str, ...], list[str]] = {}
        for limit in limits:
            by_hosts.setdefault(limit.hosts, []).append(limit.flag)
        if by_hosts:
            echo()
            echo(title)
        for who, flags in by_hosts.items():
            echo(f"  {', '.join(flags)}: not on {', '.join(who)}")
    for note in found.notes:
        echo()
        echo(f"note: {note}")
