"""The way from one host to another, and what is asked of it before anything is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from godwit.model import Packets, Pair, Trial


class LooksAtLinks(Protocol):
    """Looks at the way from a host to another. Every call raises HostError."""

    async def packets(self, address: str) -> Packets:
        """Say how large packets may be on the way to `address`, and how large they are when they arrive.

        It takes a round trip to `address`, and some two seconds where large ones vanish. What the host cannot find out
        is not known.
        """
        ...

    async def serve_trial(self, owner: str, address: str, port: int, *, pair: Pair | None, measure: bool) -> None:
        """Wait for `owner`'s trial at `address`:`port` of this host; with a `pair` as its server, for its client alone.

        It ends by itself with its first connection that came about, or, to `measure`, within half a minute. Raises
        BusyError where the port is taken, HostError where it cannot be.
        """
        ...

    async def try_link(self, owner: str, address: str, port: int, *, pair: Pair | None, measure: bool) -> Trial:
        """Connect to where another host waits for `owner`'s trial, send something and fetch it again.

        With `measure` a burst follows, of about a second.
        """
        ...

    async def end_trial(self, owner: str) -> None:
        """End what waits here for a trial, and remove its keys. Idempotent."""
        ...
