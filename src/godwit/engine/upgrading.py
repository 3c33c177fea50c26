"""What is different where a guest's QEMU is replaced on its own host: what is looked at, and how the stream begins."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from godwit.core import events as e
from godwit.core.preflight.evidence import Evidence
from godwit.core.upgrading import in_place_uri, negotiated_in_place, taker_path
from godwit.errors import HypervisorError
from godwit.model import Side, StreamStatus

if TYPE_CHECKING:
    from godwit.core.capabilities import Negotiated
    from godwit.engine.parts import Parts
    from godwit.engine.sides import Sides
    from godwit.model import Features, Launch
    from godwit.ports import Guest

MONITOR_PATIENCE: Final = 20.0
"""Seconds that the new QEMU may take to make its machine around the memory that it was given."""


async def gather_upgrade(parts: Parts, guest: Guest) -> Evidence:
    """Look at the guest, the new QEMU, and whether that can take the memory as it stands. Raises HostError.

    The guest's `launch` in the evidence is the new process's. Raises InputError where no second one can be beside it.
    """
    after = parts.vm_on(Side.TARGET)
    program = after.launch.argv[0]
    facts, host, beside = await asyncio.gather(guest.facts(), parts.target.facts(program), parts.target.observe(after))
    hindrances = await guest.hand_over_hindrances()
    if host.qemu is not None and not host.qemu.shares_memory:
        hindrances = (f"the new QEMU ({host.qemu.path}) cannot take memory from another process", *hindrances)
    launch = parts.hypervisor.beside(parts.vm_on(Side.SOURCE), facts.launch, program).launch
    return Evidence(
        vm=parts.vm,
        policy=parts.spec.policy,
        guest=replace(facts, launch=launch),
        source=host,
        target=host,
        on_target=beside,
        disks=(),
        reachable=True,
        hindrances=hindrances,
    )


async def start_taker(parts: Parts, launch: Launch, source: Features) -> tuple[str, Negotiated]:
    """Start the new QEMU so that it waits for the memory; returns the stream's URI, and what to set on the old one."""
    after = parts.vm_on(Side.TARGET)
    agreed = negotiated_in_place(source)
    if agreed.lacking:
        message = f"QEMU lacks a capability that a migration needs: {'; '.join(agreed.lacking)}"
        raise HypervisorError(message)
    await parts.target.launch_taker(after, launch, taker_path(after))
    return in_place_uri(after), agreed


async def hand_over(sides: Sides, path: str) -> None:
    """Let the new QEMU have the memory, and listen to it from the moment at which it has a monitor.

    The stream may have ended by then. Raises HypervisorError, HostError.
    """
    source = await sides.attach(Side.SOURCE)
    await source.hand_over(path)
    target = await sides.attach(Side.TARGET, patience=MONITOR_PATIENCE)
    if (await target.view()).stream is StreamStatus.COMPLETED:
        sides.emit(e.StreamEnded(Side.TARGET, StreamStatus.COMPLETED))
