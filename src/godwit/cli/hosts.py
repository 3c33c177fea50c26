"""Commands about hosts: add, list, show, check, compare, fencing, fence, remove."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from godwit.cli import comparing, devices, fencing
from godwit.cli.ground import Json, plain, print_json, print_section, print_table, run, service
from godwit.cli.terminal import echo
from godwit.units import format_duration, format_size

if TYPE_CHECKING:
    from godwit.model import HostFacts, HostRecord

app = typer.Typer(help="The machines that run guests.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The host's name.", show_default=False)]


@app.command("add")
def add(
    name: Name,
    url: Annotated[str, typer.Argument(metavar="URL", help="local, or ssh://user@host\\[:port].", show_default=False)],
    *,
    identity: Annotated[str | None, typer.Option(metavar="FILE", help="The SSH key to log in with.")] = None,
    known_hosts: Annotated[str | None, typer.Option(metavar="FILE", help="Where the host's key is recorded.")] = None,
    no_agent: Annotated[bool, typer.Option("--no-agent", metavar="", help="Do not ask the SSH agent.")] = False,
    migration_address: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where other hosts send guests to, if not to the URL's host.")
    ] = "",
    json: Json = False,
) -> None:
    """Reach a host, look at it, and keep it."""
    from godwit.model import HostRecord  # noqa: PLC0415 - start-up time

    run(_add(HostRecord(name, url, absolute(identity), absolute(known_hosts), not no_agent, migration_address), json))


def absolute(path: str | None) -> str | None:
    """Return a path that still means the same from another folder. Raises InputError when there is no such file."""
    from pathlib import Path  # noqa: PLC0415 - start-up time

    from godwit.errors import InputError  # noqa: PLC0415 - start-up time

    if path is None:
        return None
    whole = Path(path).expanduser().absolute()
    if not whole.is_file():
        message = f"there is no file {path}"
        raise InputError(message)
    return str(whole)


async def _add(record: HostRecord, as_json: bool) -> None:  # noqa: FBT001 - private
    async with service() as opened:
        facts = await opened.add_host(record)
    if as_json:
        print_json({"host": record, "facts": facts})
        return
    echo(f"{record.name} is known now: {_short(facts)}")
    for note in facts.notes:
        echo(f"  note: {note}")


def _short(facts: HostFacts) -> str:
    qemu = f"QEMU {_version(facts)}" if facts.qemu else "no QEMU"
    return f"{facts.hostname}, {facts.cpu_count} CPUs, {format_size(facts.memory_total)}, {qemu}"


def _version(facts: HostFacts) -> str:
    return ".".join(map(str, facts.qemu.version)) if facts.qemu else ""


@app.command("list")
def list_(*, json: Json = False) -> None:
    """List the known hosts."""
    run(_list(json))


async def _list(as_json: bool) -> None:  # noqa: FBT001 - private
    async with service() as opened:
        records, vms = await opened.inventory.hosts(), await opened.inventory.vms()
    if as_json:
        print_json(records)
        return
    rows = [
        (record.name, record.url, record.migration_address or "-", str(sum(vm.host == record.name for vm in vms)))
        for record in records
    ]
    print_table(("name", "url", "migration address", "guests"), rows, empty="no hosts yet: godwit host add NAME URL")


@app.command("show")
def show(name: Name, *, json: Json = False) -> None:
    """Show what is recorded of a host, and which guests are on it."""
    run(_show(name, json))


async def _show(name: str, as_json: bool) -> None:  # noqa: FBT001 - private
    async with service() as opened:
        record = await opened.inventory.host(name)
        guests = [vm.name for vm in await opened.inventory.vms() if vm.host == name]
    if as_json:
        print_json({"host": record, "guests": guests})
        return
    facts = {
        "url": record.url,
        "identity": record.identity_file or "",
        "known hosts": record.known_hosts or "",
        "agent": "asked" if record.use_agent else "not asked",
        "migration": record.migration_address or "to the address of the URL",
        "fencing": fencing.fencing_words(record) if record.fence else "",
        "automatic": "its power is cut without asking" if record.fence_automatic else "",
        "guests": ", ".join(guests) or "none",
    }
    print_section(record.name, facts)


@app.command("check")
def check(name: Name, *, json: Json = False) -> None:
    """Look at a host now: CPU, memory, QEMU, accelerators, bridges, storage, clock."""
    run(_check(name, json))


async def _check(name: str, as_json: bool) -> None:  # noqa: FBT001 - private
    async with service() as opened:
        facts = await opened.check_host(name)
    if as_json:
        print_json(plain(facts))
        return
    print_facts(facts)


def print_facts(facts: HostFacts) -> None:
    """Print what a host says of itself, in sections."""
    machine = {
        "hostname": facts.hostname,
        "kernel": f"{facts.kernel} {facts.architecture}",
        "cpu": f"{facts.cpu_count} x {facts.cpu_model} ({facts.cpu_vendor}, {len(facts.cpu_flags)} flags)",
        "memory": f"{format_size(facts.memory_available)} of {format_size(facts.memory_total)} available",
        "clock": f"{_signed(facts.clock_offset)} against this machine, to within "
        f"{format_duration(facts.clock_uncertainty)}",
    }
    hypervisor = {"qemu": "none found", "accelerators": ", ".join(facts.accelerators) or "none works"}
    if facts.qemu is not None:
        hypervisor["qemu"] = f"{_version(facts)}  {facts.qemu.path}"
        hypervisor["machines"] = ", ".join(f"{alias} = {name}" for alias, name in facts.qemu.machine_aliases)
    network = {
        "bridges": "\n".join(f"{one.name}  mtu {one.mtu}, {'up' if one.up else 'DOWN'}" for one in facts.bridges),
        "migration": facts.migration_address,
        "send queue": "can be kept short"
        if facts.can_shorten_send_queue
        else "cannot be shortened: blackouts may be longer",
    }
    print_section(facts.name, machine)
    print_section("hypervisor", hypervisor)
    print_section("network", network)
    print_section(
        "storage",
        {
            one.path: f"{format_size(one.available)} of {format_size(one.size)} free  {one.kind} {one.source}"
            for one in facts.storage
        },
    )
    for note in facts.notes:
        echo(f"note: {note}")


def _signed(seconds: float) -> str:
    return ("+" if seconds >= 0 else "") + format_duration(seconds)


app.command("compare")(comparing.compare)
app.command("devices")(devices.functions)
app.command("pool")(devices.pool)
app.command("fencing")(fencing.fencing)
app.command("fence")(fencing.fence)


@app.command("remove")
def remove(name: Name, *, json: Json = False) -> None:
    """Forget a host that no guest is on."""
    run(_remove(name, json))


async def _remove(name: str, as_json: bool) -> None:  # noqa: FBT001 - private
    async with service() as opened:
        await opened.remove_host(name)
    if as_json:
        print_json({"removed": name})
    else:
        echo(f"{name} is forgotten; nothing was changed on it")
