"""What stands on the target for devices that do not travel: found, and taken for the guest."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from godwit.core.devices import full_address, substitute
from godwit.core.direct import on_the_way, taken
from godwit.model import Side

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.core.preflight.evidence import Evidence
    from godwit.engine.parts import Parts
    from godwit.model import DirectDevice, GuestFacts, PciFunction
    from godwit.ports import Guest


async def matches_of(parts: Parts, facts: GuestFacts) -> tuple[tuple[str, PciFunction], ...]:
    """Look on the target for what stands for each function of the source that the guest has. Raises HostError.

    It gets the MAC and the VLAN that the source has given to its own.
    """
    away = [device for device in taken(parts.spec.policy, facts.direct) if device.function]
    if not away:
        return ()
    here, there = await asyncio.gather(parts.source.functions(), parts.target.functions())
    known, record = {one.address: one for one in here}, parts.records.get(Side.TARGET)
    pools = record.pools if record is not None else ()
    found: dict[str, PciFunction] = {}
    for device in away:
        own = known.get(full_address(device.function))
        choice = parts.spec.policy.choice_of(device.name)
        wanted = (choice.match if choice else "") or (own.kind if own else "")
        match = substitute(wanted, there, pools, {one.address for one in found.values()}) if wanted else None
        if match is not None:
            mac, vlan = (own.mac, own.vlan) if own is not None else ("", 0)
            found[device.name] = replace(match, mac=mac, vlan=vlan)
    return tuple(found.items())


async def bind(parts: Parts, devices: Sequence[DirectDevice]) -> None:
    """Take functions of the target for the guest whose QEMU is about to be started with them. Raises HostError.

    What becomes of that QEMU, its end gives them back.
    """
    for device in devices:
        await parts.target.take_function(device.function, parts.vm.name, mac=device.mac, vlan=device.vlan)


async def found_on_the_way(guest: Guest, evidence: Evidence) -> tuple[DirectDevice, ...]:
    """Return the devices that are to be taken from the guest, with all that plugs them in again."""
    away = taken(evidence.policy, evidence.guest.direct)
    properties = {device.name: await guest.properties(device.name) for device in away}
    return on_the_way(evidence.policy, properties, away, dict(evidence.matches))
