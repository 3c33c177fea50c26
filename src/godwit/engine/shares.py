"""How the bandwidth that a user allows is shared by the disks that are being copied."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.model import DiskCopy
    from godwit.ports import Guest


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
