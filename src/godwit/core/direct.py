"""Which devices a move takes from its guest, and what stands for them on the target. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from godwit.model import DevicePolicy, DirectDevice, Way

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from godwit.model import DirectFacts, PciFunction, Policy

TAKEN: Final = frozenset({DevicePolicy.FAILOVER, DevicePolicy.UNPLUG})
"""The policies by which a device does not travel, and its guest does."""


def policy_of(policy: Policy, device: DirectFacts) -> DevicePolicy | None:
    """Return what becomes of a device; None for one that simply travels along.

    What nobody chose is refused where QEMU does not send it, unless the guest has a partner for it: then QEMU takes it
    out in any case.
    """
    choice = policy.choice_of(device.name)
    if choice is not None:
        return choice.policy
    if device.partner:
        return DevicePolicy.FAILOVER
    return DevicePolicy.REFUSE if device.tied else None


def taken(policy: Policy, devices: Iterable[DirectFacts]) -> tuple[DirectFacts, ...]:
    """Return the devices that do not travel, though their guest does."""
    return tuple(device for device in devices if policy_of(policy, device) in TAKEN)


def on_the_way(
    policy: Policy, properties: Mapping[str, str], devices: Iterable[DirectFacts], matches: Mapping[str, PciFunction]
) -> tuple[DirectDevice, ...]:
    """Return the devices of a move with their match on the target.

    `properties` are what `device_add` needs to make each again, `matches` the target's functions, both by device.
    """
    found = []
    for device in taken(policy, devices):
        match = matches.get(device.name)
        there = properties[device.name]
        if device.function:
            there = _with_function(there, match.address) if match else ""
        chosen = policy_of(policy, device)
        assert chosen is not None  # noqa: S101 - `taken` says so; for the type checker
        address, mac, vlan = (match.address, match.mac, match.vlan) if match else ("", "", 0)
        found.append(DirectDevice(device.name, chosen, properties[device.name], there, address, mac, vlan))
    return tuple(found)


def held_by_state(policy: Policy, devices: tuple[DirectDevice, ...]) -> tuple[DirectDevice, ...]:
    """Return those that have to be taken on this way: a guest that is switched off for it needs let go of nothing."""
    return () if policy.way is Way.OFF else devices


def _with_function(properties: str, address: str) -> str:
    """Return what plugs a function of the host in, with another function in its place."""
    found = json.loads(properties)
    found = {key: value for key, value in found.items() if key != "sysfsdev"} | {"host": address}
    return json.dumps(found, separators=(",", ":"))
