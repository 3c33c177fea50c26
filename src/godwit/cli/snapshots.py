"""Commands about snapshots: create, list, apply, delete, send."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from godwit.cli.ground import Json, ended_gently, print_json, print_table, run, service
from godwit.cli.terminal import echo
from godwit.errors import InputError
from godwit.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from godwit.core.snapshots import Snapshot
    from godwit.engine.sending import Told
    from godwit.snapshots import Sent, Snapshots

app = typer.Typer(help="Snapshots of guests inside their images, and sending a guest with one.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="VM", help="The guest's name.", show_default=False)]
Tag = Annotated[str, typer.Argument(metavar="TAG", help="The snapshot's name.", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", metavar="", help="Do not ask.")]

EXIT_DECLINED = 1


@asynccontextmanager
async def _snapshots(*, take_up: bool = True) -> AsyncIterator[Snapshots]:
    from godwit.snapshots import Snapshots  # noqa: PLC0415 - start-up time

    async with service(take_up=take_up, carries=True) as opened:
        yield Snapshots(opened)


def _teller(*, silent: bool) -> Callable[[Told], None]:
    """Return what prints steps as they come, and how far a file is once a second."""
    began = last = time.monotonic()

    def tell(told: Told) -> None:
        nonlocal last
        now = time.monotonic()
        if silent:
            return
        if told.done or told.whole:
            if now - last < 1 and told.done < told.whole:
                return
            last = now
            share = f" of {format_size(told.whole)}" if told.whole else " written"
            text = f"  {format_size(told.done)}{share}  {told.text}"
        else:
            text = told.text
        echo(f"  {f'+{now - began:.2f} s':>9}  {text}")

    return tell


def _sure(question: str, *, yes: bool) -> None:
    """Ask on a terminal. Raises InputError without one, typer.Exit when the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        message = f"{question} Nobody can be asked here"
        raise InputError(message, remedy="add --yes if that is meant")
    if not typer.confirm(question, err=True):
        echo("godwit: nothing was done", err=True)
        raise typer.Exit(EXIT_DECLINED)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _plain(vm: str, one: Snapshot) -> dict[str, object]:
    return {"vm": vm, **asdict(one), "complete": one.complete}


# -- create ----------------------------------------------------------------------------------------------------------


@app.command("create")
def create(name: Name, tag: Tag, *, json: Json = False) -> None:
    """Keep a guest's memory, devices and disks, at one instant, in its images.

    It stands still meanwhile, and goes on afterwards.
    """
    run(_create(name, tag, json))


async def _create(name: str, tag: str, as_json: bool) -> None:  # noqa: FBT001 - private
    async with _snapshots() as asked:
        try:
            made = await asked.create(name, tag, _teller(silent=as_json))
        except asyncio.CancelledError:
            echo(
                f"godwit: QEMU goes on with the snapshot, and {name} afterwards: godwit snapshot list {name}", err=True
            )
            raise
    if as_json:
        print_json({**_plain(name, made.snapshot), "standstill_s": made.standstill})
        return
    one = made.snapshot
    stood = f"{name} stood still for {format_duration(made.standstill)}" if made.standstill else f"{name} was paused"
    echo(f"{tag} of {name} is kept on {', '.join(one.disks)}: {format_size(one.state_size)} of memory; {stood}")


# -- list ------------------------------------------------------------------------------------------------------------


@app.command("list")
def list_(name: Name, *, json: Json = False) -> None:
    """List a guest's snapshots, whether it runs or is off."""
    run(_list(name, json))


async def _list(name: str, as_json: bool) -> None:  # noqa: FBT001 - private
    async with _snapshots() as asked:
        found = await asked.list(name)
    if as_json:
        print_json([_plain(name, one) for one in found])
        return
    rows = [
        (
            one.tag,
            _date(one.taken),
            format_duration(one.vm_clock),
            format_size(one.state_size),
            ", ".join(one.disks),
            "complete" if one.complete else f"INCOMPLETE: {one.lacks}",
        )
        for one in found
    ]
    hint = f"{name} has no snapshots: godwit snapshot create {name} TAG"
    print_table(("tag", "date (utc)", "vm clock", "memory", "disks", "state"), rows, empty=hint)


# -- apply -----------------------------------------------------------------------------------------------------------


@app.command("apply")
def apply(name: Name, tag: Tag, *, yes: Yes = False, json: Json = False) -> None:
    """Take a guest back to a snapshot; everything since is lost.

    A guest that is off is started there.
    """
    run(_apply(name, tag, yes=yes, as_json=json))


async def _apply(name: str, tag: str, *, yes: bool, as_json: bool) -> None:
    async with _snapshots() as asked:
        found = await asked.find(name, tag)
        lost = f"Everything that {name} did since {_date(found.taken)} UTC will be lost."
        _sure(f"{lost} Take it back to {tag}?", yes=yes)
        made = await asked.apply(name, tag)
    if as_json:
        print_json({**_plain(name, made.snapshot), "standstill_s": made.standstill})
        return
    stood = f", after {format_duration(made.standstill)}" if made.standstill else ""
    echo(f"{name} is back at {tag}, of {_date(found.taken)} UTC{stood}; what it did since is lost")


# -- delete ----------------------------------------------------------------------------------------------------------


@app.command("delete")
def delete(name: Name, tag: Tag, *, json: Json = False) -> None:
    """Remove a snapshot from a guest's images, whether it runs or is off."""
    run(_delete(name, tag, json))


async def _delete(name: str, tag: str, as_json: bool) -> None:  # noqa: FBT001 - private
    async with _snapshots() as asked:
        gone = await asked.delete(name, tag)
    if as_json:
        print_json({"vm": name, "deleted": gone.tag, "disks": gone.disks})
    else:
        echo(f"{gone.tag} of {name} is gone from {', '.join(gone.disks)}")


# -- send ------------------------------------------------------------------------------------------------------------


@app.command("send")
def send(
    name: Name,
    tag: Tag,
    host: Annotated[str, typer.Argument(metavar="HOST", help="Where it shall go on.", show_default=False)],
    *,
    plaintext: Annotated[bool, typer.Option("--plaintext", metavar="", help="Do not encrypt what is carried.")] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Stop a guest here, carry its images with a snapshot to HOST, and let it go on there.

    The snapshot is made if there is none of that name. If anything fails
    before the guest runs on HOST, it is started here again, from the snapshot.
    """
    run(_send(name, tag, host, yes=yes, plaintext=plaintext, as_json=json))


async def _send(name: str, tag: str, host: str, *, yes: bool, plaintext: bool, as_json: bool) -> None:
    async with _snapshots(take_up=False) as asked:
        if await asked.unfinished(name) is None:
            known = next((one for one in await asked.list(name) if one.tag == tag), None)
            if known is not None:
                lost = f"{tag} of {_date(known.taken)} UTC is taken: everything that {name} did since will be lost."
                _sure(f"{lost} Send it?", yes=yes)
        with ended_gently():
            sent = await asked.send(name, tag, host, _teller(silent=as_json), plaintext=plaintext)
    if as_json:
        print_json(sent)
    else:
        _tell_sent(sent)


def _tell_sent(sent: Sent) -> None:
    state = "runs" if sent.running else "is paused, as it was,"
    echo()
    echo(f"{sent.vm} {state} on {sent.target}, from {sent.tag}; it was gone for {format_duration(sent.standstill)}")
    if sent.carried:
        echo(f"  carried    {', '.join(sent.carried)}")
    else:
        echo("  carried    nothing: both hosts see its images")
    for path in sent.images:
        echo(
            f"  kept       {path} on {sent.source}: the old copy. Do not start it: remove it, or keep it as a fallback"
        )
    for words in sent.left:
        echo(f"  note       {words}")
