"""Commands about devices: attach, detach and list those of a guest; devices and pools of a host."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer

from godwit.cli.ground import Json, duration, plain, print_json, print_table, run, service
from godwit.cli.terminal import echo
from godwit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from godwit.core.devices import HostFunction
    from godwit.devices import Attached, Detached, Devices
    from godwit.model import DevicePlan, PluggedDevice

app = typer.Typer(help="Devices of guests that run: plug them in, take them out.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="VM", help="The guest's name.", show_default=False)]
HostName = Annotated[str, typer.Argument(metavar="HOST", help="The host's name.", show_default=False)]

_FORMATS: Final = {".qcow2": "qcow2", ".raw": "raw", ".img": "raw"}
_VLANS: Final = range(1, 4095)


@asynccontextmanager
async def _devices(*, take_up: bool = True) -> AsyncIterator[Devices]:
    from godwit.devices import Devices  # noqa: PLC0415 - start-up time

    async with service(take_up=take_up, carries=True) as opened:
        yield Devices(opened)


# -- guests ----------------------------------------------------------------------------------------------------------


@app.command("attach")
def attach(  # noqa: PLR0913 - one option for each thing that can be said of a device
    name: Name,
    *,
    bridge: Annotated[str, typer.Option(metavar="BRIDGE", help="A NIC on this bridge of the host.")] = "",
    disk: Annotated[str, typer.Option(metavar="PATH", help="A disk: this image on the host.")] = "",
    function: Annotated[str, typer.Option(metavar="ADDRESS", help="This PCI function of the host itself.")] = "",
    pool: Annotated[str, typer.Option(metavar="POOL", help="A free PCI function of this pool.")] = "",
    identifier: Annotated[str, typer.Option("--id", metavar="ID", help="Call it so; else nic1, disk2 ...")] = "",
    mac: Annotated[str, typer.Option(metavar="MAC", help="The MAC of a NIC, or of a virtual function.")] = "",
    vlan: Annotated[int, typer.Option(metavar="NUMBER", help="The VLAN of a virtual function.")] = 0,
    model: Annotated[str, typer.Option(metavar="MODEL", help="QEMU's model of a NIC.")] = "virtio-net-pci",
    image_format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="raw or qcow2, if the image's name does not say it.")
    ] = "",
    read_only: Annotated[bool, typer.Option("--read-only", metavar="", help="A disk that is only read.")] = False,
    json: Json = False,
) -> None:
    """Plug a NIC, a disk or a PCI function of the host into a guest that runs."""
    given = [("--bridge", bridge), ("--disk", disk), ("--function", function), ("--pool", pool)]
    chosen = [option for option, value in given if value]
    if len(chosen) != 1:
        message = f"{' and '.join(chosen)} cannot be one device" if chosen else "nothing says what is to be attached"
        raise InputError(message, remedy="give one of --bridge BRIDGE, --disk PATH, --function ADDRESS, --pool POOL")
    _refuse_stray(chosen[0], mac=mac, vlan=vlan, model=model, image_format=image_format, read_only=read_only)
    run(
        _attach(
            name, _plan((bridge, disk, function, pool), identifier, mac, vlan, model, image_format, read_only), json
        )
    )


def _refuse_stray(chosen: str, *, mac: str, vlan: int, model: str, image_format: str, read_only: bool) -> None:
    """Raise InputError for an option that means nothing for this kind of device."""
    direct = {"--function", "--pool"}
    for option, given, fits in (
        ("--mac", bool(mac), direct | {"--bridge"}),
        ("--vlan", bool(vlan), direct),
        ("--model", model != "virtio-net-pci", {"--bridge"}),
        ("--format", bool(image_format), {"--disk"}),
        ("--read-only", read_only, {"--disk"}),
    ):
        if given and chosen not in fits:
            message = f"{option} says nothing of what {chosen} attaches"
            raise InputError(message, remedy=f"it goes with {' or '.join(sorted(fits))}")


def _plan(
    what: tuple[str, str, str, str],
    identifier: str,
    mac: str,
    vlan: int,
    model: str,
    image_format: str,
    read_only: bool,  # noqa: FBT001 - private
) -> DevicePlan:
    from godwit.model import DiskPlan, FunctionPlan, NicPlan  # noqa: PLC0415 - start-up time

    bridge, disk, function, pool = what
    if mac:
        mac = _checked_mac(mac)
    if bridge:
        return NicPlan(bridge, mac, model, identifier)
    if disk:
        return DiskPlan(_absolute(disk), _format(disk, image_format), read_only, identifier=identifier)
    if vlan and vlan not in _VLANS:
        message = f"--vlan: {vlan} is no VLAN"
        raise InputError(message, remedy=f"they go from {_VLANS.start} to {_VLANS.stop - 1}")
    if vlan and not mac:
        message = "--vlan: the MAC of the function has to be said, too"
        raise InputError(message, remedy="add --mac 52:54:00:12:34:56")
    return FunctionPlan(function.lower(), pool, mac, vlan, identifier)


def _checked_mac(mac: str) -> str:
    octets = mac.lower().split(":")
    well = len(octets) == len("123456") and all(len(one) == len("ff") for one in octets)
    if not well or set("".join(octets)) - set("0123456789abcdef") or int(octets[0], 16) & 1:
        message = f"--mac: {mac!r} is no MAC that a NIC can have"
        raise InputError(message, remedy="write for example --mac 52:54:00:12:34:56")
    return ":".join(octets)


def _absolute(path: str) -> str:
    if path.startswith("/") and "\0" not in path and "\n" not in path:
        return path
    message = f"--disk: {path!r} is no absolute path on the guest's host"
    raise InputError(message, remedy="write it from / on, as the host sees it")


def _format(path: str, given: str) -> str:
    """Return the format of an image. It is never guessed from its content: a guest could have written that."""
    found = given or next((kind for suffix, kind in _FORMATS.items() if path.endswith(suffix)), "")
    if found in _FORMATS.values():
        return found
    message = f"--format: {given!r} cannot be attached" if given else f"the name of {path} does not say its format"
    raise InputError(message, remedy="add --format raw, or --format qcow2")


async def _attach(name: str, plan: DevicePlan, as_json: bool) -> None:  # noqa: FBT001 - private
    async with _devices() as asked:
        done = await asked.attach(name, plan)
    if as_json:
        print_json(done)
        return
    echo(f"{name} has {_words(done.device)}")
    _tell_kept(done, "it moves along, and is there after the next start")


def _words(device: PluggedDevice) -> str:
    behind = " ".join(filter(None, (device.mac, f"on {device.source}" if device.source else "")))
    return f"{device.identifier} ({device.driver}{f', {behind}' if behind else ''}) in {device.bus or 'no port'}"


def _tell_kept(done: Attached | Detached, words: str) -> None:
    echo(f"  {words}" if done.kept else f"  until it is switched off: {done.why}")


@app.command("detach")
def detach(
    name: Name,
    identifier: Annotated[str, typer.Argument(metavar="ID", help="The device's name.", show_default=False)],
    *,
    within: Annotated[
        str, typer.Option("--within", metavar="TIME", help="How long the guest may take to let go of it.")
    ] = "30s",
    json: Json = False,
) -> None:
    """Let a guest let go of a device, and take it out."""
    seconds = duration("--within", within, longest=3600.0)
    assert seconds is not None  # noqa: S101 - something was typed; for the type checker
    run(_detach(name, identifier, seconds, json))


async def _detach(name: str, identifier: str, seconds: float, as_json: bool) -> None:  # noqa: FBT001 - private
    async with _devices() as asked:
        try:
            done = await asked.detach(name, identifier, deadline=seconds)
        except asyncio.CancelledError:
            words = f"{name} was asked for {identifier} and may still let go of it; to see that through: godwit device "
            echo(f"godwit: {words}detach {name} {identifier}", err=True)
            raise
    if as_json:
        print_json(done)
        return
    if done.device is None:
        echo(f"{identifier} was gone from {name} already; what was left behind it is removed")
    else:
        echo(f"{name} has let go of {_words(done.device)}")
    for address in done.returned:
        echo(f"  {address} is the host's again")
    _tell_kept(done, "it is not there after the next start, either")


@app.command("list")
def list_(name: Name, *, json: Json = False) -> None:
    """List the devices of a guest that runs, and which can be taken out."""
    run(_list(name, json))


async def _list(name: str, as_json: bool) -> None:  # noqa: FBT001 - private
    async with _devices() as asked:
        found = await asked.list(name)
    if as_json:
        print_json(found)
        return
    rows = [
        (one.identifier, one.driver, one.bus or "-", one.mac or "-", one.source or "-", _place(one)) for one in found
    ]
    print_table(("id", "driver", "port", "mac", "on the host", "can be taken out"), rows, empty=f"{name} has none")


def _place(device: PluggedDevice) -> str:
    return "yes" if device.removable else "no"


# -- hosts -----------------------------------------------------------------------------------------------------------


def functions(name: HostName, *, json: Json = False) -> None:
    """List the PCI network functions of a host: drivers, virtual functions, pools, and who has them."""
    run(_functions(name, json))


async def _functions(name: str, as_json: bool) -> None:  # noqa: FBT001 - private
    async with _devices(take_up=False) as asked:
        found = await asked.functions(name)
    if as_json:
        print_json([_plain(one) for one in found])
        return
    rows = [
        (
            one.function.address,
            one.function.kind,
            ",".join(one.function.interfaces) or "-",
            one.function.driver or "-",
            one.function.group or "-",
            _virtual(one, found),
            ", ".join(one.pools) or "-",
            _use(one),
        )
        for one in found
    ]
    columns = ("address", "id", "interface", "driver", "group", "virtual functions", "pool", "use")
    print_table(columns, rows, empty=f"{name} has no PCI network functions")


def _plain(one: HostFunction) -> dict[str, object]:
    return {**dict(plain(one.function)), "pools": list(one.pools), "free": one.free}  # type: ignore[call-overload] # JSON


def _virtual(one: HostFunction, found: Sequence[HostFunction]) -> str:
    function = one.function
    if function.physical:
        return f"of {function.physical}" + (f", {function.number}" if function.number is not None else "")
    if not function.vfs_total:
        return "-"
    given = sum(other.function.physical == function.address and bool(other.function.guest) for other in found)
    return f"{function.vfs} of {function.vfs_total}, {given} in use"


def _use(one: HostFunction) -> str:
    function = one.function
    if function.guest:
        return function.guest
    if function.up:
        return "the host's own"
    if not function.group:
        return "no IOMMU"
    return "has virtual functions" if function.vfs else "free"


def pool(
    name: HostName,
    pool_name: Annotated[str, typer.Argument(metavar="POOL", help="The pool's name.", show_default=False)],
    *,
    functions: Annotated[
        list[str] | None,
        typer.Option(metavar="WHICH", help="0000:3b:00.0/* (its virtual functions), an address, or VENDOR:DEVICE."),
    ] = None,
    forget: Annotated[bool, typer.Option("--forget", metavar="", help="Forget the pool.")] = False,
    json: Json = False,
) -> None:
    """Give PCI functions of a host a name, under which guests get a free one."""
    if bool(functions) == forget:
        message = "a pool needs functions" if not forget else "--forget and --functions contradict each other"
        raise InputError(message, remedy=f"godwit host pool {name} {pool_name} --functions '0000:3b:00.0/*'")
    run(_pool(name, pool_name, functions or [], json))


async def _pool(name: str, pool_name: str, which: Sequence[str], as_json: bool) -> None:  # noqa: FBT001 - private
    async with _devices(take_up=False) as asked:
        made = await asked.set_pool(name, pool_name, which)
    if as_json:
        print_json({"host": name, "pool": made, "forgotten": made is None})
    elif made is None:
        echo(f"{name} has no pool {pool_name} any more; what guests have of it they keep")
    else:
        echo(f"pool {pool_name} of {name}: {', '.join(made.functions)}")
