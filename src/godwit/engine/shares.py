"""How the bandwidth that a user allows is shared: by disks being copied, then by memory with what they still send."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.model import DiskCopy
    from godwit.ports import Guest

WINDOW: Final = 2.0
"""Seconds over which the rate is measured at which copied disks go on to send."""

LEAST: Final = 0.25
"""The part of the bandwidth that memory has in any case, so that the migration ends."""

NOTICED: Final = 0.1
"""A change of memory's share by less than this part of the bandwidth is not worth a command."""


class Shares:
    """Hands on what a copy that is ready leaves over to those that are not; a ready one keeps the limit that it had."""

    def __init__(self, bandwidth: int) -> None:
        """Share `bandwidth` bytes a second; 0 is no limit."""
        self._bandwidth = bandwidth
        self._shared_by = 0

    def of(self, number: int) -> int:
        """Return what each of `number` copies may send, in bytes a second; 0 is no limit."""
        self._shared_by = number
        return max(1, self._bandwidth // number) if self._bandwidth else 0

    async def hand_on(self, guest: Guest, unready: Sequence[DiskCopy]) -> None:
        """Let the copies that are not ready have all of it, once there are fewer of them."""
        if not self._bandwidth or not unready or len(unready) >= self._shared_by:
            return
        speed = self.of(len(unready))
        for copy in unready:
            await guest.set_mirror_speed(copy, speed)


@dataclass(slots=True)
class MemoryShare:
    """What memory may send while the guest's writes to copied disks go over the same link, in bytes a second.

    A mirror that keeps up sends each write of the guest at once, whatever limit its job has: only memory can yield.
    """

    bandwidth: int
    _share: int = 0
    _seen: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with all of it."""
        self._share = self.bandwidth

    @property
    def now(self) -> int:
        """What memory may send now, in bytes a second."""
        return self._share

    def after(self, at: float, copied: int) -> tuple[int, float] | None:
        """Return memory's share and the disks' rate where the share is to change now, else None.

        `copied` is how many bytes of disks were sent in all at the instant `at`.
        """
        self._seen = [*(one for one in self._seen if at - one[0] <= 2 * WINDOW), (at, copied)]
        earlier = [one for one in self._seen if at - one[0] >= WINDOW]
        if not self.bandwidth or not earlier:
            return None
        begun, before = earlier[-1]
        rate = max(0, copied - before) / (at - begun)
        share = round(max(self.bandwidth * LEAST, self.bandwidth - rate))
        if abs(share - self._share) < self.bandwidth * NOTICED:
            return None
        self._share = share
        return share, rate
