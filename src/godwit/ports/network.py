"""The network of a guest that has just come to a host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.model import Announced, Neighbours, Tap


class Announces(Protocol):
    """What a host knows of its guests' addresses, and tells others. Raises HostError."""

    async def neighbours(self, macs: Sequence[str]) -> Neighbours:
        """Return under which IP addresses the NICs of these MAC addresses have answered, and which others have."""
        ...

    async def announce(self, announced: Sequence[Announced]) -> int:
        """Tell the bridges, and what is behind their other ports, where these NICs are; returns how many frames.

        A guest is announced only where it runs.
        """
        ...

    async def open_macvtaps(self, taps: Sequence[Tap]) -> None:
        """Put the macvtaps among the taps of a guest that runs here on the network. Idempotent."""
        ...

    async def close_macvtaps(self, interfaces: Sequence[str]) -> None:
        """Take macvtaps of a guest that runs elsewhere off the network; their QEMU keeps them. Idempotent.

        Until then what others on the same interface of this host send to the guest ends here.
        """
        ...
