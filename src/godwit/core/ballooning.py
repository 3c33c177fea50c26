"""Free memory that was once used: how much of it a guest's balloon is to take before its memory is sent. Pure.

QEMU sends every page that ever held anything, whether the guest still uses it or not. What the balloon takes is given
back to the host, and counts as zeroes. It is done only where that is safe, with a guest that takes memory back from its
balloon before it ends a process for lack of it, and only where it is worth the guest's while.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.model import Permission
from godwit.units import MIB

if TYPE_CHECKING:
    from godwit.model import Balloon, Policy

LEFT_FREE: Final = 0.05
"""The share of its memory that is left to a guest as free memory, so that it need not ask for any at once."""

LEAST_LEFT_FREE: Final = 24 * MIB

WORTH: Final = 64 * MIB
"""Bytes that must be free and once used: below that, taking them costs about what sending them does."""

_QEMU: Final = 64 * MIB
"""Bytes that a QEMU has of its host's memory beside its guest's: its code, its heap, and under TCG what it has
translated."""


def reclaim_of(policy: Policy, balloon: Balloon | None, resident: int) -> int:
    """Return the bytes that the balloon is to take, 0 where none, as the policy permits; see `reclaimable`."""
    return reclaimable(balloon, resident, page_cache=Permission.PAGE_CACHE in policy.allows)


def reclaimable(balloon: Balloon | None, resident: int, *, page_cache: bool = False) -> int:
    """Return the bytes that the balloon is to take, 0 where none.

    With `page_cache` that includes what the guest's kernel keeps of its disks, and gives up when memory is asked for.
    `resident` is what the guest's QEMU has of its host's memory: beyond what the guest uses that is memory which the
    guest has freed. Which of its free memory it gives the balloon is the guest's choice, so all but a rest is taken.
    """
    if balloon is None or balloon.free is None or not balloon.yields:
        return 0
    free = max(balloon.free, balloon.available or 0) if page_cache else balloon.free
    once_used = resident - _QEMU - (balloon.size - free)
    taken = free - max(round(balloon.size * LEFT_FREE), LEAST_LEFT_FREE)
    return taken // MIB * MIB if min(once_used, taken) >= WORTH else 0
