"""Devices that a guest lets go of: what can be taken from it, how it is asked, and a command line without them.

`device_del` only asks: the guest's kernel lets go of the device, or does not, and DEVICE_DELETED, or a look, says that
it has. Two refusals mean what is wanted: a device that is not there, and one that was asked for before.
"""

from __future__ import annotations

import json
import posixpath
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from godwit.errors import HypervisorError, MonitorCommandError
from godwit.model import DirectFacts
from godwit.qemu import options, plugs, qom
from godwit.qemu.options import CommandLineError
from godwit.qemu.paths import split

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from godwit.model import Launch
    from godwit.qemu.options import Option
    from godwit.qemu.properties import Properties
    from godwit.qemu.qom import Asks

_TIED: Final = "vfio-"
"""Functions of the host: QEMU does not send them."""

_OF_THE_HOST: Final = (_TIED, "usb-host")
"""Devices that are a part of the host. Of a USB device QEMU sends the guest's end, with nothing behind it."""

_ROOT: Final = "pcie.0"
"""The bus of a q35 machine from which nothing can be unplugged while the guest runs."""

_ALREADY: Final = ("already in the process of unplug", "not found")


def direct_devices(launch: Launch) -> tuple[DirectFacts, ...]:
    """Return the NICs of a guest and its parts of the host, those that have a name; `launch` starts it as it is now.

    A command line that cannot be read has none that anybody knows of. Pure.
    """
    try:
        found = [split(option) for option in options.parse(launch.argv[1:]) if option.name == "device"]
    except CommandLineError:
        return ()
    return tuple(_facts(pairs) for pairs in found if pairs.get("id") and _may_be_taken(pairs))


def _may_be_taken(pairs: Properties) -> bool:
    return pairs.get("netdev") is not None or (pairs.get("driver") or "").startswith(_OF_THE_HOST)


def _facts(pairs: Properties) -> DirectFacts:
    driver = pairs.get("driver") or ""
    function = pairs.get("host") or posixpath.basename(pairs.get("sysfsdev") or "")
    return DirectFacts(
        name=pairs.get("id") or "",
        driver=driver,
        function=function if driver.startswith("vfio-") else "",
        mac=pairs.get("mac") or "",
        tied=driver.startswith(_TIED),
        pluggable=pairs.get("bus") != _ROOT,
        partner=pairs.get("failover_pair_id") or "",
    )


async def properties_of(monitor: Asks, name: str) -> str:
    """Return what `device_add` needs to make a device again, as JSON. Raises HypervisorError where there is none."""
    found = next((device for device in await qom.plugged(monitor) if device.identifier == name), None)
    if found is None:
        message = f"the guest has no device {name} any more"
        raise HypervisorError(message)
    return json.dumps(await plugs.device_properties(monitor, found), separators=(",", ":"))


async def plugged(monitor: Asks) -> frozenset[str]:
    """Return the names of the devices that the guest has."""
    return frozenset(await qom.children(monitor, qom.PERIPHERAL))


async def let_go(monitor: Asks, device: str) -> None:
    """Ask the guest to let go of a device. Raises MonitorCommandError where QEMU cannot even ask."""
    try:
        await monitor.execute("device_del", {"id": device})
    except MonitorCommandError as error:
        if not any(words in error.message for words in _ALREADY):
            raise


async def put_back(monitor: Asks, properties: str) -> None:
    """Plug a device in again. Raises MonitorCommandError."""
    await monitor.execute("device_add", json.loads(properties))


def with_devices(launch: Launch, devices: Mapping[str, str]) -> Launch:
    """Return the launch with each of these devices, by name, as its JSON says; an empty one is left out."""
    return replace(launch, argv=(launch.argv[0], *options.render(_with(launch, devices))))


def _with(launch: Launch, devices: Mapping[str, str]) -> Iterator[Option]:
    for option in options.parse(launch.argv[1:]):
        name = split(option).get("id") if option.name == "device" else None
        if name is None or name not in devices:
            yield option
        elif devices[name]:
            yield replace(option, value=devices[name])
