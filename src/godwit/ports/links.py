"""The way from one host to another, and what is asked of it before anything is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from godwit.model import Packets


class LooksAtLinks(Protocol):
    """Looks at the way from a host to another. Every call raises HostError."""

    async def packets(self, address: str) -> Packets:
        """Say how large packets may be on the way to `address`, and how large they are when they arrive.

        It takes a round trip to `address`, and some two seconds where large ones vanish. What the host cannot find out
        is not known.
        """
        ...
