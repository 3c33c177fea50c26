"""Gather what preflight decides on: facts of both sides, side by side, in as few round trips as possible."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from godwit.core.preflight.evidence import DiskProof, Evidence
from godwit.errors import HostError

if TYPE_CHECKING:
    from godwit.engine.parts import Parts
    from godwit.model import DiskFacts, GuestFacts
    from godwit.ports import Guest


async def gather(parts: Parts, guest: Guest) -> Evidence:
    """Look at both hosts, the guest and its disks. Raises HostError, HypervisorError.

    The first port that is free on the target is only looked for; QEMU claims it later.
    """
    facts = await guest.facts()
    source, target, on_target, proofs, shared = await asyncio.gather(
        parts.source.facts(facts.launch.argv[0]),
        parts.target.facts(facts.launch.argv[0]),
        parts.target.observe(parts.vm),
        prove_disks(parts, facts),
        _monitor_is_shared(parts),
    )
    reachable = await _reaches(parts, target.migration_address)
    return Evidence(parts.vm, parts.spec.policy, facts, source, target, on_target, proofs, reachable, shared)


async def _reaches(parts: Parts, address: str) -> bool:
    """Ask for a port that is almost surely closed: a refusal proves the way just as well as an answer."""
    return await parts.source.reaches(address, await parts.target.free_port(address))


async def _monitor_is_shared(parts: Parts) -> bool:
    """Say whether the target sees the very folder of the guest's monitor; where nobody may write, nobody can know."""
    control, token = parts.vm.control, f"{parts.spec.id}-monitor"
    try:
        await parts.source.plant_token(control, token)
    except HostError:
        return False
    try:
        seen, _ = await parts.target.find_token(control)
    finally:
        await parts.source.remove_token(control)
    return seen == token


async def prove_disks(parts: Parts, facts: GuestFacts) -> tuple[DiskProof, ...]:
    """Prove for each disk that both hosts see the same file."""
    return tuple(await asyncio.gather(*(_prove(parts, disk) for disk in facts.disks)))


async def _prove(parts: Parts, disk: DiskFacts) -> DiskProof:
    token = f"{parts.spec.id}-{disk.name}"
    error = ""
    planted = False
    try:
        await parts.source.plant_token(disk.path, token)
        planted = True
    except HostError as reason:
        error = reason.message
    try:
        seen, there = await parts.target.find_token(disk.path)
        _, here = await parts.source.find_token(disk.path)
    finally:
        if planted:
            await parts.source.remove_token(disk.path)
    found = (seen == token) if planted else None
    return DiskProof(disk.name, disk.path, disk.read_only, found, here, there, error)
