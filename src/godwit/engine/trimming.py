"""What a guest's file systems have freed, given back before its disks are copied: what is free need not travel."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from godwit.core.disks import to_send
from godwit.errors import GodwitError
from godwit.model import Permission, Side
from godwit.units import format_size

if TYPE_CHECKING:
    from godwit.core.preflight.evidence import DiskProof
    from godwit.engine.actions import Actions


async def trimmed(actions: Actions, disks: tuple[DiskProof, ...]) -> tuple[DiskProof, ...]:
    """Let the guest's agent trim its disks where that is permitted and they travel; return them as they are then.

    One that cannot ends no move: it is told, and the disks travel as they are. Raises HostError, HypervisorError where
    they cannot be looked at afterwards.
    """
    parts = actions.parts
    before = to_send(parts.spec.policy, disks)
    if Permission.TRIM not in parts.spec.policy.allows or not before:
        return disks
    why = "its QEMU has no channel for a guest agent"
    try:
        done = await (await actions.sides.attach(Side.SOURCE)).trim_by_agent()
    except GodwitError as error:
        done, why = False, error.message
    if not done:
        mend = "run qemu-guest-agent in the guest, or fstrim there beforehand"
        actions.warn("trim", f"its disks were not trimmed: {why}", "what is free on them is copied, too", mend)
        return disks
    found = tuple([await _anew(actions, disk) for disk in disks])
    saved = max(0, before - to_send(parts.spec.policy, found))
    actions.note("note", text=f"its agent trimmed its disks: {format_size(saved)} less to copy")
    return found


async def _anew(actions: Actions, disk: DiskProof) -> DiskProof:
    """Look at an image again."""
    if disk.image is None:
        return disk
    image = await actions.parts.source.image(disk.path, disk.image.format)
    return replace(disk, image=replace(disk.image, allocated=image.allocated))
