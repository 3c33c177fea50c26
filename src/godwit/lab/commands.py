"""`godwit lab`: throw-away hosts on this machine."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from godwit import app
from godwit.errors import InputError
from godwit.units import format_bandwidth, parse_bandwidth

if TYPE_CHECKING:
    from godwit.lab.laboratory import Laboratory
    from godwit.lab.plan import Link

lab_app = typer.Typer(
    help="Throw-away hosts on this machine, to try everything in a minute.", no_args_is_help=True, add_completion=False
)
console = Console()

Name = Annotated[str, typer.Option("--name", "-n", help="Which laboratory.")]
Machine = Annotated[str, typer.Argument(help="host1, host2, ... or client")]
_DEFAULT = "lab"
_BITS = 8


def _rate(text: str) -> int:
    try:
        return parse_bandwidth(text) * _BITS
    except ValueError as error:
        raise InputError(str(error)) from error


def _load(name: str) -> Laboratory:
    from godwit.lab.laboratory import Laboratory  # noqa: PLC0415 - start-up time

    return Laboratory.load(name)


@lab_app.command()
def up(
    name: Annotated[str, typer.Argument(help="A name for it.")] = _DEFAULT,
    *,
    hosts: Annotated[int, typer.Option(min=1, max=16, help="How many hosts.")] = 2,
    rate: Annotated[str, typer.Option(help="Rate of the migration link.")] = "400mbit",
    shared: Annotated[bool, typer.Option(help="One storage at /mnt/images for all hosts.")] = True,
    guest: Annotated[bool, typer.Option(help="Start the guest web1 on host1.")] = True,
) -> None:
    """Build hosts, a client and a guest, and register them."""
    asyncio.run(_up(name, hosts, _rate(rate), shared=shared, guest=guest))


async def _up(name: str, hosts: int, rate: int, *, shared: bool, guest: bool) -> None:
    from godwit.lab.assets import cache_folder, prepare  # noqa: PLC0415 - start-up time
    from godwit.lab.furnish import GuestPlan, add_guest, prefix, register  # noqa: PLC0415 - start-up time
    from godwit.lab.laboratory import Laboratory  # noqa: PLC0415 - start-up time
    from godwit.lab.loads import TickReader  # noqa: PLC0415 - start-up time
    from godwit.lab.plan import LabPlan  # noqa: PLC0415 - start-up time

    plan = LabPlan(name, hosts=hosts, link_rate=rate, shared_storage=shared)
    assets = await asyncio.to_thread(prepare, cache_folder(), partial(console.print, markup=False))
    lab = await asyncio.to_thread(Laboratory.up, plan, assets.hosttree)
    async with app.opened() as service:
        try:
            names = await register(service, lab)
            console.print(f"laboratory {name}: {', '.join(names)}; migration link {format_bandwidth(rate / _BITS)}")
            if guest:
                vm = await add_guest(service, lab, assets, GuestPlan())
                async with TickReader(vm.address or ""):
                    console.print(f"guest {vm.name} runs on {vm.host} and answers at {vm.address}")
        except BaseException:
            await asyncio.to_thread(lab.down)
            raise
    if guest:
        target, client = f"{prefix(name)}host2", f"{prefix(name)}client"
        console.print(f"try: godwit migrate {vm.name} {target} --probe {vm.address}@{client}")


@lab_app.command()
def down(
    name: Annotated[str, typer.Argument(help="Its name.")] = _DEFAULT,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every laboratory on this machine.")] = False,
) -> None:
    """End a laboratory and everything in it."""
    asyncio.run(_down(name, everything=everything))


async def _down(name: str, *, everything: bool) -> None:
    from godwit.lab.furnish import forget  # noqa: PLC0415 - start-up time
    from godwit.lab.laboratory import Laboratory  # noqa: PLC0415 - start-up time

    async with app.opened() as service:
        for one in Laboratory.names() if everything else (name,):
            removed = await asyncio.to_thread(Laboratory.remove, one)
            await forget(service, one)
            console.print(f"laboratory {one}: {'gone' if removed else 'there is none'}")


@lab_app.command()
def status(name: Annotated[str, typer.Argument(help="Its name.")] = _DEFAULT) -> None:
    """Show hosts, links and what runs on them."""
    found = _load(name).status()
    rate = format_bandwidth(found.link_rate / _BITS) if found.link_rate else "unlimited"
    shared = "shared storage" if found.shared_storage else "separate storage"
    table = Table(title=f"laboratory {found.name} ({found.phase}), migration link {rate}, {shared}")
    for column in ("machine", "state", "address", "migration", "links cut", "QEMU processes"):
        table.add_column(column)
    for machine in found.machines:
        table.add_row(
            machine.name,
            "up" if machine.up else "crashed",
            machine.address,
            machine.migration_address or "-",
            ", ".join(sorted(machine.cut)) or "-",
            ", ".join(str(qemu.pid) for qemu in machine.qemus) or "-",
        )
    console.print(table)


@lab_app.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def execute(machine: Machine, command: list[str], *, name: Name = _DEFAULT) -> None:
    """Run a command on a machine of the laboratory."""
    sys.exit(_load(name).exec(machine, command))


@lab_app.command()
def crash(
    machine: Machine,
    *,
    silent: Annotated[bool, typer.Option(help="Without a last word: links go down first.")] = False,
    name: Name = _DEFAULT,
) -> None:
    """Crash a machine: every process on it dies at once."""
    _load(name).crash(machine, silent=silent)


@lab_app.command()
def restart(machine: Machine, *, name: Name = _DEFAULT) -> None:
    """Boot a crashed machine again."""
    _load(name).restart(machine)


@lab_app.command()
def cut(
    machine: Machine,
    link: Annotated[str, typer.Argument(help="migration, management or all")] = "migration",
    *,
    name: Name = _DEFAULT,
) -> None:
    """Cut a machine's link without a word to anybody."""
    _load(name).cut(machine, _link(link))


@lab_app.command()
def heal(
    machine: Machine,
    link: Annotated[str, typer.Argument(help="migration, management or all")] = "all",
    *,
    name: Name = _DEFAULT,
) -> None:
    """Heal what was cut."""
    _load(name).heal(machine, _link(link))


@lab_app.command("rate")
def set_rate(
    rate: Annotated[str, typer.Argument(help="For example 400mbit; 0 for unlimited")], *, name: Name = _DEFAULT
) -> None:
    """Change the rate of the migration link."""
    _load(name).set_rate(_rate(rate) or None)


def _link(text: str) -> Link:
    match text:
        case "migration" | "management" | "all":
            return text
    message = f"{text!r} is no link"
    raise InputError(message, remedy="write one of migration, management, all")


@lab_app.command()
def demo() -> None:
    """Run the demonstration: one guest, there with QEMU's defaults, back with Godwit, side by side."""
    from godwit.lab.demo import run  # noqa: PLC0415 - start-up time

    sys.exit(asyncio.run(run()))
