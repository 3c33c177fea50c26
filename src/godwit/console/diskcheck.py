"""What is looked at before `migrate -b` or `-i` touches anything: both machines, and each of their disks."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Final

from godwit.console import commands
from godwit.console.arguments import SPACE
from godwit.errors import HostError, RefusedError
from godwit.model import DiskCopy, DiskMode, ImageFacts, RunState
from godwit.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from godwit.console.sides import Sides
    from godwit.model import DiskFacts, GuestFacts

_MOVABLE: Final = frozenset({RunState.RUNNING, RunState.PAUSED})
_CREATE: Final = "make the target's image with qemu-img create, of the same format and size, and start the target anew"


async def check(sides: Sides, mode: DiskMode) -> tuple[tuple[DiskCopy, ...], int]:
    """Return the disks to copy, and the bytes of the guest's memory. Raises RefusedError; nothing is changed."""
    source, target = await asyncio.gather(sides.source.facts(), sides.target.facts())
    await _check_states(sides, source, target)
    pairs = list(_pairs(source, target))
    for disk, other in pairs:
        _check_alike(disk, other)
    below = {one.backs: one for one in source.disks if one.backs}, {one.backs: one for one in target.disks if one.backs}
    for disk, other in pairs:
        if await _same_file(sides, disk.path, other.path):
            message = f"migrate: the disk {disk.name} is the same file at the target: {disk.path}"
            raise RefusedError(message, remedy="over shared storage, migrate works without -b and -i")
    if mode is DiskMode.INCREMENTAL:
        await _check_backing(sides, [disk.name for disk, _ in pairs], *below)
    copies = tuple(
        DiskCopy(
            disk.name,
            ImageFacts(other.path, other.format, disk.virtual_size, disk.virtual_size),
            commands.job_name(number),
            mode,
        )
        for number, (disk, other) in enumerate(pairs)
    )
    await sides.source.forget_mirrors(copies)  # a console that was killed may have left them
    return copies, source.memory


async def _check_states(sides: Sides, source: GuestFacts, target: GuestFacts) -> None:
    if commands.copying(await sides.source.human(commands.JOBS)):
        message = "migrate: another console copies the disks of this guest"
        raise RefusedError(message, remedy="type migrate_cancel to end that, also where that console is gone")
    if source.run_state not in _MOVABLE:
        message = f"migrate: the guest is {source.run_state}, and only one that runs or is paused can be moved"
        raise RefusedError(message, remedy="see with info status and info migrate")
    if target.run_state is not RunState.INCOMING:
        message = f"migrate: the QEMU at {sides.places[1]} is {target.run_state}, and waits for no migration"
        raise RefusedError(message, remedy="start it anew, with -incoming tcp:0:PORT")
    if (await sides.target.human(f"qom-get /objects/{commands.NOTE} identity")).strip(SPACE).startswith('"'):
        message = f"migrate: the QEMU at {sides.places[1]} receives disks from another console, or did when that died"
        raise RefusedError(message, remedy="wait for that; where that console is gone, start the target anew")


def _pairs(source: GuestFacts, target: GuestFacts) -> Iterable[tuple[DiskFacts, DiskFacts]]:
    """Yield each writable disk of the source with that of the same name at the target."""
    there = {disk.name: disk for disk in target.disks if not disk.backs}
    here = [disk for disk in source.disks if not disk.read_only and not disk.backs]
    if not here:
        message = "migrate: the guest has no writable disk to copy"
        raise RefusedError(message, remedy="leave -b and -i out")
    for disk in here:
        if disk.name not in there:
            message = f"migrate: the target has no disk {disk.name}; it has {', '.join(sorted(there)) or 'none'}"
            raise RefusedError(message, remedy="start the target with the source's own command line")
        yield disk, there[disk.name]


def _check_alike(disk: DiskFacts, other: DiskFacts) -> None:
    if other.virtual_size < disk.virtual_size:
        message = (
            f"migrate: the disk {disk.name} has {format_size(disk.virtual_size)} here and "
            f"{format_size(other.virtual_size)} at the target"
        )
        raise RefusedError(message, remedy=_CREATE)
    if other.format != disk.format:
        message = f"migrate: the disk {disk.name} is {disk.format} here and {other.format} at the target"
        raise RefusedError(message, remedy=_CREATE)


async def _check_backing(
    sides: Sides, names: Iterable[str], here: dict[str, DiskFacts], there: dict[str, DiskFacts]
) -> None:
    """Raise RefusedError unless what lies below the disks is the same on both sides, and something does."""
    if not any(name in here for name in names):
        message = "migrate: -i copies what lies above a backing file, and no disk of this guest has one"
        raise RefusedError(message, remedy="migrate -b copies whole disks")
    for name in names:
        if (name in here) is not (name in there):
            side = "here, but not at the target" if name in here else "at the target, but not here"
            message = f"migrate: the disk {name} has a backing file {side}"
            raise RefusedError(message, remedy="make both images with qemu-img create -b FILE -F FORMAT, or use -b")
        if name not in here:
            continue
        mine, other = here[name], there[name]
        if await _same_file(sides, mine.path, other.path):
            continue
        digests = await asyncio.gather(
            sides.source_host.digest(mine.path, all_of_it=False), sides.target_host.digest(other.path, all_of_it=False)
        )
        if digests[0] != digests[1]:
            message = f"migrate: the backing file of {name} is another at the target: {mine.path} and {other.path}"
            raise RefusedError(message, remedy="-i needs the same backing file on both sides; migrate -b does without")


async def _same_file(sides: Sides, path: str, other: str) -> bool:
    """Say whether both hosts see one file under these paths: a token beside it shows on both."""
    token = f"console-{secrets.token_hex(8)}"
    try:
        await sides.source_host.plant_token(path, token)
    except (
        HostError
    ):  # nobody may write there: then only what is the same name on the same host is known to be the same
        return sides.places[0].record == sides.places[1].record and path == other
    try:
        return (await sides.target_host.find_token(other))[0] == token
    finally:
        await sides.source_host.remove_token(path, token)
