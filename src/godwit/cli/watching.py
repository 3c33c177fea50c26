"""Commands that look: status, watch, history, show, report, probe."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final

import typer

from godwit.cli.ground import (
    Json,
    local_time,
    migration_id,
    plain,
    print_json,
    print_section,
    print_table,
    run,
    service,
    view_words,
)
from godwit.cli.recovering import evidence_data, print_evidence
from godwit.cli.terminal import echo
from godwit.cli.vms import print_vms, views
from godwit.core.state import Phase
from godwit.core.trust import encrypts
from godwit.core.upgrading import names
from godwit.model import Side
from godwit.units import format_duration, format_size

if TYPE_CHECKING:
    from godwit.model import GuestView
    from godwit.ports import MigrationRow
    from godwit.recovering import Evidence
    from godwit.service import Service, Status

Which = Annotated[
    str, typer.Argument(metavar="ID|VM", help="The migration, or its guest for the newest.", show_default=False)
]
_DASH: Final = "-"


# -- status --------------------------------------------------------------------------------------------------------


def status(
    migration: Annotated[
        str | None, typer.Argument(metavar="[ID|VM]", help="One migration; else all, and all guests.")
    ] = None,
    *,
    json: Json = False,
) -> None:
    """Show running migrations and where guests are, or one migration."""
    run(_overview(json) if migration is None else _status(migration, json))


async def _overview(as_json: bool) -> None:  # noqa: FBT001 - private
    async with service(take_up=True) as opened:
        rows = await opened.journal.rows(unfinished=True, limit=1000)
        vms = await opened.inventory.vms()
        seen = await views(opened, vms)
        alive = [opened.runners.alive(row.spec.vm) for row in rows]
        now = opened.clock.now()
    if as_json:
        running = [{**_row_data(row), "runner_alive": one} for row, one in zip(rows, alive, strict=True)]
        print_json({"running": running, "vms": [{"vm": v, "view": s} for v, s in zip(vms, seen, strict=True)]})
        return
    moving = [
        (
            row.spec.id,
            f"{row.spec.source} to {row.spec.target}",
            row.phase.value,
            format_duration(max(0.0, now - row.created)),
            "yes" if one else "NO",
        )
        for row, one in zip(rows, alive, strict=True)
    ]
    print_table(("migration", "way", "phase", "since", "runner"), moving, empty="no migration is running")
    echo()
    print_vms(vms, seen)


def _row_data(row: MigrationRow) -> dict[str, object]:
    return {"id": row.spec.id, "created": row.created, "phase": row.phase, "spec": row.spec, "outcome": row.outcome}


async def _status(text: str, as_json: bool) -> None:  # noqa: FBT001 - private
    async with service(take_up=True) as opened:
        identifier = await migration_id(opened, text)
        stands = await opened.status(identifier)
        sides = await _sides(opened, stands)
        evidence = await _evidence(opened, stands)
        lines = await opened.journal.entries(identifier) if evidence else []
    if as_json:
        print_json(
            {
                **_row_data(stands.row),
                "runner_alive": stands.runner_alive,
                "state": stands.state,
                "source": sides[0],
                "target": sides[1],
                **({"evidence": evidence_data(evidence)} if evidence else {}),
            }
        )
        return
    _print_status(stands, sides)
    if evidence is not None:
        print_evidence(evidence, lines)


async def _evidence(opened: Service, stands: Status) -> Evidence | None:
    """Return what is known of a migration in limbo, and what can be done; None for any other."""
    if stands.state.phase is not Phase.LIMBO:
        return None
    from godwit.recovering import Recovery  # noqa: PLC0415 - start-up time

    return await Recovery(opened).evidence(stands.row.spec.id)


async def _sides(opened: Service, stands: Status) -> tuple[GuestView | None, GuestView | None]:
    """Ask both hosts what they have of the guest; None where guest or host are not known any more."""
    spec = stands.row.spec
    known = {vm.name: vm for vm in await opened.inventory.vms()}
    hosts = {record.name for record in await opened.inventory.hosts()}
    if spec.vm not in known:
        return None, None
    sides = {Side.SOURCE: spec.source, Side.TARGET: spec.target}
    asked = {
        side: replace(names(spec, side, known[spec.vm]), host=host) for side, host in sides.items() if host in hosts
    }
    seen = dict(zip(asked, await views(opened, list(asked.values())), strict=True))
    return seen.get(Side.SOURCE), seen.get(Side.TARGET)


def _print_status(stands: Status, sides: tuple[GuestView | None, GuestView | None]) -> None:
    row, state = stands.row, stands.state
    runner = "works on it" if stands.runner_alive else "none"
    here, there = f"on {row.spec.source}", f"on {row.spec.target}"
    if row.spec.upgrade is not None:
        here, there = f"old QEMU {here}", f"new QEMU {there}"
    facts = {
        "guest": f"{row.spec.vm}, {row.spec.source} to {row.spec.target}",
        "asked for": local_time(row.created),
        "phase": state.phase.value + (", cancel was asked for" if state.cancel_requested else ""),
        "owner": {"source": row.spec.source, "target": row.spec.target}.get(state.owner.value, "nobody can know"),
        "runner": "" if state.finished else runner,
        here: view_words(sides[0]),
        there: view_words(sides[1]),
        "encrypted": "" if row.spec.upgrade else ("yes" if encrypts(row.spec) else "NO"),
        "holds": ", ".join(sorted(held.value for held in state.held)),
        "left over": "\n".join(state.leftovers),
        "failure": state.failure.message if state.failure else "",
        "mend": state.failure.remedy if state.failure else "",
    }
    print_section(row.spec.id, facts)
    if row.outcome is not None:
        from godwit.cli.summary import summary  # noqa: PLC0415 - start-up time

        echo()
        for line in summary(row.outcome):
            echo(line)


# -- history, show, watch ------------------------------------------------------------------------------------------


def history(*, limit: int, json: bool) -> None:
    """List migrations, the newest first."""
    run(_history(limit, json))


async def _history(limit: int, as_json: bool) -> None:  # noqa: FBT001 - private
    async with service(take_up=True) as opened:
        rows = await opened.journal.rows(limit=limit)
    if as_json:
        print_json([_row_data(row) for row in rows])
        return
    columns = ("when", "migration", "way", "end", "total", "client's gap", "sent")
    print_table(columns, [_history_cells(row) for row in rows], empty="no migrations yet: godwit migrate VM HOST")


def _history_cells(row: MigrationRow) -> tuple[str, ...]:
    from godwit.cli.summary import milliseconds  # noqa: PLC0415 - start-up time

    end = row.outcome
    way = f"{row.spec.source} to {row.spec.target}"
    if end is None:
        return local_time(row.created), row.spec.id, way, f"({row.phase.value})", _DASH, _DASH, _DASH
    gap = end.downtime.client_gap_ms
    return (
        local_time(row.created),
        row.spec.id,
        way,
        end.status.value,
        format_duration(end.total_s),
        _DASH if gap is None else milliseconds(gap),
        format_size(end.bytes) if end.bytes else _DASH,
    )


def show(migration: Which, *, json: Json = False) -> None:
    """Tell the whole story of a migration: each step, decision and figure."""
    run(_show(migration, json))


async def _show(text: str, as_json: bool) -> None:  # noqa: FBT001 - private
    from godwit.cli.reporting import print_story  # noqa: PLC0415 - start-up time

    async with service(take_up=True) as opened:
        identifier = await migration_id(opened, text)
        row = (await opened.status(identifier)).row
        entries = await opened.journal.entries(identifier)
    if as_json:
        print_json({**_row_data(row), "entries": [plain(entry) for entry in entries]})
        return
    print_story(row, entries)


def watch(migration: Which, *, json: Json = False) -> None:
    """Follow a migration from its beginning; Ctrl-C leaves it alone."""
    raise typer.Exit(run(_watch(migration, json)))


async def _watch(text: str, as_json: bool) -> int:  # noqa: FBT001 - private
    from godwit.cli.following import listening  # noqa: PLC0415 - start-up time
    from godwit.cli.moves import follow  # noqa: PLC0415 - start-up time

    async with service(take_up=True) as opened:
        identifier = await migration_id(opened, text)
        with listening() as inbox:
            return await follow(opened, identifier, inbox, as_json=as_json, manner="watch")


# -- report, probe -------------------------------------------------------------------------------------------------


def report(
    migration: Which,
    *,
    html: Annotated[str | None, typer.Option(metavar="FILE", help="Write a page that needs nothing else.")] = None,
    png: Annotated[str | None, typer.Option(metavar="FILE", help="Write the picture of the client's view.")] = None,
    json: Json = False,
) -> None:
    """Say what a migration cost; write it as a page or a picture."""
    from godwit.cli.reporting import make_report  # noqa: PLC0415 - start-up time

    run(make_report(migration, html, png, as_json=json))


def probe(
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="ADDRESS, or KIND://ADDRESS:PORT.", show_default=False)
    ],
    *,
    kind: Annotated[
        str | None, typer.Option(metavar="KIND", help="icmp, tcp-connect, tcp, http or redis.  \\[icmp]")
    ] = None,
    length: Annotated[
        str | None, typer.Option("--duration", metavar="TIME", help="Stop after this long; else Ctrl-C ends it.")
    ] = None,
    interval: Annotated[str | None, typer.Option(metavar="TIME", help="Time between two requests.  \\[2ms]")] = None,
    vantage: Annotated[str | None, typer.Option("--from", metavar="HOST", help="Ask from a known host.")] = None,
    png: Annotated[str | None, typer.Option(metavar="FILE", help="Write a picture of what was seen.")] = None,
    json: Json = False,
) -> None:
    """Ask a guest again and again; show the gaps that a client feels."""
    from godwit.cli.probing import Probing, watch_outside  # noqa: PLC0415 - start-up time

    raise typer.Exit(run(watch_outside(Probing.of(address, kind, length, interval, vantage, png, as_json=json))))
