"""Gather what preflight decides on: facts of both sides, side by side, in as few round trips as possible."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from godwit.core.addresses import is_network_address, unreachable
from godwit.core.disks import is_copied, is_copied_beforehand
from godwit.core.preflight.evidence import DiskProof, Evidence
from godwit.core.preflight.links import vanishing
from godwit.core.trust import encrypts
from godwit.engine.matching import matches_of
from godwit.engine.trying import tried
from godwit.errors import BusyError, HostError, HypervisorError
from godwit.model import Packets, Permission, Way

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from godwit.engine.parts import Parts
    from godwit.model import Balloon, CertificateFacts, DiskFacts, GuestFacts, HostFacts, Trial
    from godwit.ports import Guest, Host


_Answer = TypeVar("_Answer")
_ADDRESS_TRIES: Final = 3
_SMALL: Final = 64 << 20
"""Bytes up to which a file that the guest only reads is compared whole."""


async def gather(parts: Parts, guest: Guest, *, trial: bool = False, measure: bool = False) -> Evidence:
    """Look at both hosts, the guest and its disks. Raises HostError, HypervisorError.

    With `trial` a connection is made between the hosts as a move would make it, and what it carries is measured if that
    is asked for. Left to itself that is done only where pings let one doubt that it would carry anything: a move makes
    it soon enough, before it changes anything.
    """
    program = parts.vm.launch.argv[0]
    disks = asyncio.create_task(_guest_and_disks(parts, guest))
    between = asyncio.create_task(_between(parts, program, trial=trial or measure, measure=measure))
    on_target = asyncio.create_task(parts.target.observe(parts.vm))
    shared = asyncio.create_task(_monitor_is_shared(parts))
    trusted = asyncio.create_task(_authority(parts))
    await _all(disks, between, on_target, shared, trusted)
    facts, proofs, (balloon, resident) = disks.result()
    source, target, link = between.result()
    if facts.launch.argv[0] != program:  # somebody has started the guest anew, with another QEMU
        target = await parts.target.facts(facts.launch.argv[0])
    matches = await matches_of(parts, facts)
    return Evidence(
        vm=parts.vm,
        policy=parts.spec.policy,
        matches=matches,
        guest=facts,
        source=source,
        target=target,
        on_target=on_target.result(),
        disks=proofs,
        reachable=link.there,
        returns=link.back,
        packets=link.packets,
        ports_left=link.ports_left,
        trial=link.trial,
        monitor_shared=shared.result(),
        balloon=balloon,
        resident=resident,
        encrypted=encrypts(parts.spec),
        authority=trusted.result(),
        now=parts.clock.now(),
    )


async def _authority(parts: Parts) -> CertificateFacts | None:
    """Describe the authority that certifies an encrypted move; None for another, and before its first use."""
    return await parts.authority.current() if encrypts(parts.spec) else None


async def _all(*looks: asyncio.Task[Any]) -> None:
    """Wait for looks that go on side by side, for every one of them even when one has failed.

    Left to itself, a look would be cut off with its host, and its token would lie in the way of the next migration.
    """
    try:
        await asyncio.gather(*looks)
    finally:
        if looks:
            await asyncio.wait(looks)


async def _guest_and_disks(
    parts: Parts, guest: Guest
) -> tuple[GuestFacts, tuple[DiskProof, ...], tuple[Balloon | None, int]]:
    facts = await guest.facts()
    disks = asyncio.create_task(prove_disks(parts, facts))
    balloon = asyncio.create_task(_balloon(parts, guest, facts.pid))
    await _all(disks, balloon)
    return facts, disks.result(), balloon.result()


async def _balloon(parts: Parts, guest: Guest, pid: int) -> tuple[Balloon | None, int]:
    """Look at the guest's balloon, and at what its QEMU has of its host's memory, where that is of use."""
    policy = parts.spec.policy
    if policy.way is not Way.LIVE or parts.spec.defaults or Permission.BALLOON not in policy.allows:
        return None, 0
    try:
        found = await guest.balloon()
        return found, await parts.source.resident(pid) if found is not None and found.yields else 0
    except (HostError, HypervisorError):  # what cannot be seen is left alone; no move ends for that
        return None, 0


@dataclass(frozen=True, slots=True)
class _Link:
    """What is known of the way between the hosts; see `Evidence`."""

    there: bool
    back: bool
    packets: tuple[Packets, Packets]
    ports_left: bool
    trial: Trial | None = None


async def _between(parts: Parts, program: str, *, trial: bool, measure: bool) -> tuple[HostFacts, HostFacts, _Link]:
    """Describe both hosts, and the way between them.

    Asked are ports that are almost surely closed: a refusal proves the way just as well as an answer. Where a host has
    none that is free, it is not asked for one: a QEMU may wait there.
    """
    source, target = parts.source, parts.target
    here, there, port_here, port_there = await asyncio.gather(
        source.facts(program), target.facts(program), _port(source), _port(target)
    )
    address = there.migration_address
    trying = tried(parts, address, port_there, measure=measure) if trial and port_there is not None else _untried()
    reaches, returns, out, home, found = await asyncio.gather(
        _reaches(source, address, port_there),
        _known(_reaches(target, here.migration_address, port_here), otherwise=True),
        _known(source.packets(address), otherwise=Packets()),
        _known(target.packets(here.migration_address), otherwise=Packets()),
        trying,
    )
    if found is None and reaches and port_there is not None and vanishing(out, home):
        found = await tried(parts, address, port_there, measure=measure)
    return here, there, _Link(reaches, returns, (out, home), port_there is not None, found if reaches else None)


async def _untried() -> None:
    """Try nothing."""


async def _port(host: Host) -> int | None:
    try:
        return await host.free_port()
    except BusyError:
        return None


async def _reaches(host: Host, address: str, port: int | None) -> bool:
    return port is None or await host.reaches(address, port)


async def _known(asking: Awaitable[_Answer], *, otherwise: _Answer) -> _Answer:
    """Return what a host answers, or what stands for not knowing it: no move ends because a host cannot say."""
    try:
        return await asking
    except HostError:
        return otherwise


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
        await parts.source.remove_token(control, token)
    return seen == token


async def prove_disks(parts: Parts, facts: GuestFacts) -> tuple[DiskProof, ...]:
    """Prove for each disk that both hosts see the same file, and see whether the target may open it."""
    proofs = [asyncio.create_task(_prove(parts, disk, number)) for number, disk in enumerate(facts.disks)]
    files = [(disk.path, not disk.read_only and not disk.backs) for disk in facts.disks]
    local = [(path, writing) for path, writing in files if not is_network_address(path)]
    opening = asyncio.create_task(parts.target.forbidden(local))
    await _all(*proofs, opening)
    why = dict(zip((path for path, _ in local), opening.result(), strict=True))
    return tuple(
        replace(proof.result(), forbidden=why.get(disk.path, ""))
        for proof, disk in zip(proofs, facts.disks, strict=True)
    )


async def _prove_address(parts: Parts, disk: DiskFacts) -> DiskProof:
    """Ask both hosts what they get from a disk's address: its size and its head.

    Its guest may write to the head in between, so that is tried again before it counts as another disk.
    """
    proof = DiskProof(disk.name, disk.path, disk.read_only, None, disk.path, disk.path, backs=disk.backs)
    if unreachable(disk.path):
        return proof
    here = there = ""
    for _ in range(_ADDRESS_TRIES):
        try:
            # Not both at once: a server may take few clients.
            here = await parts.source.served_head(disk.path)
            there = await parts.target.served_head(disk.path)
        except HostError as reason:
            return replace(proof, error=reason.message)
        if here == there:
            break
    return replace(proof, token_seen=here == there, source_identity=here, target_identity=there)


async def _prove(parts: Parts, disk: DiskFacts, number: int) -> DiskProof:
    if is_network_address(disk.path):
        return await _prove_address(parts, disk)
    token = f"{parts.spec.id}-{number}"  # not the disk's name, which may hold any character
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
            await parts.source.remove_token(disk.path, token)
    found = (seen == token) if planted else None
    proof = DiskProof(
        *(disk.name, disk.path, disk.read_only, found, here, there, error, disk.backs),
        vm=parts.vm.name,
        stamps=disk.stamps,
        firmware=disk.firmware,
    )
    if there and found is False and not disk.read_only:
        proof = replace(proof, older=await parts.target.older_copy(disk.path, disk.format))
    if (disk.backs or disk.read_only) and here and there and not found:
        return await _compare(parts, proof, small=disk.virtual_size <= _SMALL)
    if is_copied_beforehand(parts.spec.policy, proof):
        return await _describe_medium(parts, disk, proof)
    return await _describe(parts, disk, proof) if is_copied(parts.spec.policy, proof) else proof


async def _compare(parts: Parts, proof: DiskProof, *, small: bool) -> DiskProof:
    """Compare a file that each side has for itself and the guest only reads; a small one is read whole."""
    whole = parts.spec.policy.compare_all or (small and not proof.backs)
    try:
        digests = await asyncio.gather(
            parts.source.digest(proof.path, all_of_it=whole), parts.target.digest(proof.path, all_of_it=whole)
        )
    except HostError as reason:
        return replace(proof, error=reason.message)
    return replace(proof, digests=(digests[0], digests[1]), compared_whole=whole)


async def _describe_medium(parts: Parts, disk: DiskFacts, proof: DiskProof) -> DiskProof:
    """Look at a file that is to be copied byte by byte: whatever its format is, it is one of bytes here."""
    if disk.path.startswith("/dev/"):
        return replace(proof, error=f"it is a device of {parts.source.name}, and no file")
    return await _describe(parts, replace(disk, format="raw"), proof)


async def _describe(parts: Parts, disk: DiskFacts, proof: DiskProof) -> DiskProof:
    """Look at a disk that is to be copied, and at the place where it is to go."""
    if disk.path.startswith("/dev/"):
        return replace(proof, error="it is a block device, and only image files can be copied")
    try:
        image, place = await asyncio.gather(parts.source.image(disk.path, disk.format), parts.target.place(disk.path))
    except (HostError, HypervisorError) as reason:
        return replace(proof, error=reason.message)
    return replace(proof, image=image, place=place)
