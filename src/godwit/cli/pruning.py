"""`godwit history`, and what makes it shorter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from godwit.cli.ground import Json, duration, print_json, run, service
from godwit.cli.terminal import echo
from godwit.cli.watching import history
from godwit.units import format_size

if TYPE_CHECKING:
    from godwit.pruning import Pruned, Wanted

app = typer.Typer(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})


@app.callback()
def listed(
    context: typer.Context,
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="How many.")] = 20,
    json: Json = False,
) -> None:
    """List migrations, the newest first; `godwit history prune` removes old ones."""
    if context.invoked_subcommand is None:
        history(limit=limit, json=json)


@app.command("prune")
def prune(
    *,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="TIME", help="What was asked for longer ago: 90d, 12h.")
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            "--keep", metavar="N", min=0, max=10_000_000, help="Leave the newest N, and as many saves and restores."
        ),
    ] = None,
    learned: Annotated[
        bool, typer.Option("--learned", metavar="", help="What forecasts learn from as well, as far as it is as old.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="Only say what would go.")] = False,
    json: Json = False,
) -> None:
    """Remove migrations, saves and restores that have ended, and their logs. What has not ended stays.

    With both --older-than and --keep only that goes which both would remove.
    """
    from godwit.pruning import Wanted  # noqa: PLC0415 - start-up time

    wanted = Wanted(duration("--older-than", older_than), keep, learned)
    run(_prune(wanted, dry_run=dry_run, as_json=json))


async def _prune(wanted: Wanted, *, dry_run: bool, as_json: bool) -> None:
    from godwit.pruning import prune as remove  # noqa: PLC0415 - start-up time

    async with service() as opened:
        pruned = await remove(opened, wanted, dry_run=dry_run)
    if as_json:
        print_json({"dry_run": dry_run, "pruned": pruned})
        return
    echo("\n".join(_words(pruned, dry_run=dry_run)))


def _words(pruned: Pruned, *, dry_run: bool) -> list[str]:
    """Say what went, or would go."""
    counts = (
        (len(pruned.identifiers), "of what had ended"),
        (pruned.logs, "logs"),
        (pruned.learned, "measurements that forecasts learned from"),
    )
    told = [f"{count} {what}" for count, what in counts if count]
    if not told:
        return ["nothing is old enough to go", *_left(pruned)]
    if dry_run:
        return [f"would remove {', '.join(told)}", *_left(pruned)]
    lines = [f"removed {', '.join(told)}: {format_size(pruned.freed)} are free on the disk", *_left(pruned)]
    if not pruned.small:
        lines.append("more room is free within the journal, and is used again; without a migration under way it is")
        lines.append("given back to the disk: godwit history prune with the same options, then")
    return lines


def _left(pruned: Pruned) -> list[str]:
    return [f"{name} was left: somebody works on its guest" for name in pruned.in_use]
