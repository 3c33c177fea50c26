"""Commands about guests: define, adopt, start, stop, list, show, console, remove."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from godwit.cli.ground import Json, print_json, print_section, print_table, run, service
from godwit.cli.terminal import echo
from godwit.errors import InputError
from godwit.localfiles import read_text
from godwit.model import GuestView, RunState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.model import Vm
    from godwit.service import Service

app = typer.Typer(help="The guests that Godwit knows.", no_args_is_help=True)

VIEW_DEADLINE: Final = 6.0
"""Seconds after which a host that has not answered is not waited for any more."""

Name = Annotated[str, typer.Argument(metavar="VM", help="The guest's name.", show_default=False)]


async def views(opened: Service, vms: Sequence[Vm]) -> list[GuestView]:
    """Ask all hosts side by side what their guests do; one that is silent for VIEW_DEADLINE seconds is a view, too."""

    async def view(vm: Vm) -> GuestView:
        try:
            async with asyncio.timeout(VIEW_DEADLINE):
                return await opened.view_vm(vm)
        except TimeoutError:
            return GuestView(RunState.UNREACHABLE, detail=f"{vm.host} did not answer within {VIEW_DEADLINE:.0f} s")

    return await asyncio.gather(*(view(vm) for vm in vms))


@app.command("define")
def define(
    file: Annotated[str, typer.Argument(metavar="FILE.toml", help="The definition.", show_default=False)],
    *,
    on: Annotated[str, typer.Option("--on", metavar="HOST", help="Where it shall run.", show_default=False)],
    json: Json = False,
) -> None:
    """Keep the guest that a file describes; start it with godwit vm start."""
    run(_define(_read(file), file, on, json))


def _read(file: str) -> str:
    """Return the text of a file. Raises InputError naming the file."""
    try:
        return read_text(Path(file), "the definition of a guest")
    except FileNotFoundError:
        message = f"cannot read {file}: No such file or directory"
        raise InputError(message) from None


async def _define(text: str, origin: str, host: str, as_json: bool) -> None:  # noqa: FBT001 - private
    async with service() as opened:
        vm = await opened.define_vm(text, origin, host)
    _told(vm, f"{vm.name} is defined on {host}; start it: godwit vm start {vm.name}", as_json=as_json)


def _told(vm: Vm, text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(vm)
    else:
        echo(text)


@app.command("adopt")
def adopt(
    host: Annotated[str, typer.Argument(metavar="HOST", help="Where it runs.", show_default=False)],
    *,
    qmp: Annotated[str, typer.Option("--qmp", metavar="PATH", help="Its QMP socket there.", show_default=False)],
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Call it so, not as QEMU does.")] = None,
    address: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Where its clients reach it.")] = None,
    json: Json = False,
) -> None:
    """Take over a QEMU that somebody started by hand."""
    run(_adopt(host, qmp, name, address, json))


async def _adopt(host: str, qmp: str, name: str | None, address: str | None, as_json: bool) -> None:  # noqa: FBT001
    async with service() as opened:
        vm = await opened.adopt_vm(host, qmp, name, address)
    _told(vm, f"{vm.name} on {host} is known now; it was not touched", as_json=as_json)


@app.command("start")
def start(name: Name, *, json: Json = False) -> None:
    """Start a guest."""
    run(_start(name, json))


async def _start(name: str, as_json: bool) -> None:  # noqa: FBT001 - private
    async with service(take_up=True) as opened:
        vm = await opened.start_vm(name)
    _told(vm, f"{name} runs on {vm.host}", as_json=as_json)


@app.command("stop")
def stop(
    name: Name,
    *,
    force: Annotated[
        bool, typer.Option("--force", metavar="", help="End its QEMU at once, as if the power failed.")
    ] = False,
    json: Json = False,
) -> None:
    """Press a guest's power button, and wait until it is off."""
    run(_stop(name, force=force, as_json=json))


async def _stop(name: str, *, force: bool, as_json: bool) -> None:
    async with service(take_up=True) as opened:
        await opened.stop_vm(name, force=force)
        vm = await opened.inventory.vm(name)
    _told(vm, f"{name} is off", as_json=as_json)


@app.command("list")
def list_(*, json: Json = False) -> None:
    """List guests, where they are and what they do now."""
    run(_list(json))


async def _list(as_json: bool) -> None:  # noqa: FBT001 - private
    async with service(take_up=True) as opened:
        vms = await opened.inventory.vms()
        seen = await views(opened, vms)
    if as_json:
        print_json([{"vm": vm, "view": view} for vm, view in zip(vms, seen, strict=True)])
        return
    print_vms(vms, seen)


def print_vms(vms: Sequence[Vm], seen: Sequence[GuestView]) -> None:
    """Print a table of guests with what each does now, and below it why a host is silent."""
    rows = [
        (vm.name, vm.host, view.state.value, vm.address or "-", "adopted" if vm.adopted else "defined")
        for vm, view in zip(vms, seen, strict=True)
    ]
    hint = "no guests yet: godwit vm define FILE.toml --on HOST, or godwit vm adopt HOST --qmp PATH"
    print_table(("name", "host", "state", "address", "origin"), rows, empty=hint)
    for vm, view in zip(vms, seen, strict=True):
        if view.state in {RunState.UNREACHABLE, RunState.OTHER} and view.detail:
            echo(f"{vm.name}: {view.detail}")


@app.command("show")
def show(name: Name, *, json: Json = False) -> None:
    """Show a guest: where it is, how it is started, what it does."""
    run(_show(name, json))


async def _show(name: str, as_json: bool) -> None:  # noqa: FBT001 - private
    async with service(take_up=True) as opened:
        vm = await opened.inventory.vm(name)
        (view,) = await views(opened, [vm])
        rows = await opened.journal.rows(limit=1000)
    last = next((row for row in rows if row.spec.vm == name), None)
    if as_json:
        print_json({"vm": vm, "view": view, "last_migration": last.spec.id if last else None})
        return
    process = f", process {view.pid}" if view.pid else ""
    facts = {
        "host": vm.host,
        "state": f"{view.state.value}{process}" + (f": {view.detail}" if view.detail else ""),
        "address": vm.address or "",
        "origin": "adopted" if vm.adopted else "defined",
        "monitors": "\n".join(path for path in (vm.control, vm.observe) if path),
        "console": vm.console or "",
        "log": vm.log or "",
        "last move": f"{last.spec.id} ({last.phase.value})" if last else "",
        "folder": vm.launch.working_directory,
        "command": " \\\n".join(_options(vm.launch.argv)),
    }
    print_section(vm.name, facts)
    if vm.source_text:
        echo("definition")
        for line in vm.source_text.splitlines():
            echo(f"  {line}")


def _options(argv: Sequence[str]) -> list[str]:
    """Return a command line with each option on a line of its own."""
    lines: list[list[str]] = [[]]
    for word in argv:
        if word.startswith("-") and lines[-1]:
            lines.append([])
        lines[-1].append(word)
    return [shlex.join(line) for line in lines]


@app.command("console")
def console(name: Name) -> None:
    """Attach this terminal to a guest's serial console; Ctrl-] leaves."""
    run(_console(name))


async def _console(name: str) -> None:
    from godwit.cli.console import attach  # noqa: PLC0415 - rarely needed

    async with service() as opened:
        vm = await opened.inventory.vm(name)
        if vm.console is None:
            message = f"{name} has no serial console that Godwit knows of"
            raise InputError(message, remedy="give it one: -serial unix:/run/NAME.console,server=on,wait=off")
        async with opened.reached(vm.host) as host:
            await attach(await host.open_socket(vm.console), name)


@app.command("remove")
def remove(name: Name, *, json: Json = False) -> None:
    """Forget a guest that does not run, or let an adopted one go."""
    run(_remove(name, json))


async def _remove(name: str, as_json: bool) -> None:  # noqa: FBT001 - private
    async with service(take_up=True) as opened:
        await opened.remove_vm(name)
    if as_json:
        print_json({"removed": name})
    else:
        echo(f"{name} is forgotten; its disks were not touched")
