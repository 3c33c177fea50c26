"""`godwit bench`: the same guests moved by QEMU, by virsh and by Godwit, side by side."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from godwit.bench import contestants as who
from godwit.bench import scenarios as what
from godwit.bench.contestants import CONTESTANTS
from godwit.bench.scenarios import SCENARIOS
from godwit.cli.terminal import echo, echo_lines
from godwit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeVar

    T = TypeVar("T")

bench_app = typer.Typer(add_completion=False)
_ROOT = 0


@bench_app.command()
def bench(
    *,
    short: Annotated[
        bool, typer.Option("--short", metavar="", help="Four guests, three ways, once: under ten minutes.")
    ] = False,
    scenario: Annotated[list[str] | None, typer.Option(help="One of the guests; say it again for another.")] = None,
    contestant: Annotated[list[str] | None, typer.Option(help="One of the ways; say it again for another.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each way moves each guest.")] = 1,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where results go, and are gone on from.")] = Path(
        "bench-results"
    ),
    list_: Annotated[bool, typer.Option("--list", metavar="", help="Say what there is to choose from.")] = False,
) -> None:
    """Move the same guests by QEMU, by virsh and by Godwit, and compare.

    It builds a laboratory on this machine, which takes root. Each trial is kept
    as soon as it has ended: say the same again to go on after an interruption.
    """
    if list_:
        for title, table in (("guests", SCENARIOS), ("ways", CONTESTANTS)):
            echo(f"{title}:")
            for name, row in table.items():
                echo(f"  {name:16}{row.words}")
        return
    if os.geteuid() != _ROOT:
        message = "the comparison needs root: it builds network namespaces and runs QEMU in them"
        raise InputError(message, remedy="sudo godwit bench, or look at docs/benchmarks.md")
    from godwit.bench.running import Plan  # noqa: PLC0415 - start-up time

    plan = Plan(
        chosen("--scenario", scenario, SCENARIOS, what.SHORT if short else tuple(SCENARIOS)),
        chosen("--contestant", contestant, CONTESTANTS, who.SHORT if short else tuple(CONTESTANTS)),
        rounds,
        out / "trials.jsonl",
    )
    out.mkdir(parents=True, exist_ok=True)
    from godwit.bench.machines import own_home  # noqa: PLC0415 - start-up time
    from godwit.bench.plots import draw  # noqa: PLC0415 - start-up time
    from godwit.bench.running import compare  # noqa: PLC0415 - start-up time
    from godwit.bench.tables import tables  # noqa: PLC0415 - start-up time

    with own_home():
        trials = asyncio.run(compare(plan, echo))
    (out / "tables.md").write_text(tables(trials) + "\n")
    draw(trials, out / "comparison.png")
    echo_lines(f"\n{tables(trials)}\n\n{out}: trials.jsonl, tables.md, comparison.png")


def chosen(option: str, names: Sequence[str] | None, known: Mapping[str, T], usual: Sequence[str]) -> tuple[T, ...]:
    """Return what these names stand for. Raises InputError naming one that stands for nothing."""
    for name in names or ():
        if name not in known:
            message = f"{option}: there is no {name}"
            raise InputError(message, remedy=f"take one of {', '.join(known)}")
    return tuple(known[name] for name in (names or usual))
