"""Guests as seen from around them: who was seen where, telling a network where one is now, hearing its console."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
from typing import TYPE_CHECKING, Final

from godwit.errors import HostError
from godwit.hosts.shell import run_script, words_of
from godwit.network import announce
from godwit.network.tap import CLOSE, OPEN, open_arguments
from godwit.plaintext import from_json

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from godwit.hosts.transport import Transport
    from godwit.model import Announced, Tap

_NEIGHBOURS: Final = "ip -j neigh show\n"
_KNOWN: Final = frozenset({"REACHABLE", "STALE", "DELAY", "PROBE", "PERMANENT"})
"""States in which an entry was confirmed once (see ip-neighbour(8)); another may be a guess, or a failure."""

ANNOUNCE_DEADLINE: Final = 5.0
_CHUNK: Final = 1 << 14


class Announces:
    """What a host does for the network of a guest that has just come; see `godwit.ports.Announces`."""

    _transport: Transport

    async def hear(self, path: str) -> AsyncGenerator[bytes]:
        """Yield what comes from the UNIX socket `path`, until it ends; see `godwit.ports.Host`."""
        connection = await self._transport.open_unix(path)
        try:
            loop = asyncio.get_running_loop()
            with contextlib.suppress(ConnectionError):  # its QEMU has ended
                while data := await loop.sock_recv(connection, _CHUNK):
                    yield data
        finally:
            connection.close()

    async def neighbours(self, macs: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        """Return the addresses under which this host has spoken with these NICs. Raises HostError."""
        completed = await run_script(self._transport, _NEIGHBOURS)
        return parse_neighbours(completed.stdout.decode(errors="replace"), macs)

    async def announce(self, announced: Sequence[Announced]) -> int:
        """Tell the bridges and what is behind their ports where these NICs are; returns how many frames were sent.

        Raises HostError where none can be.
        """
        words = announce.arguments(announced)
        completed = await run_script(
            self._transport, announce.ANNOUNCE, *words, deadline=ANNOUNCE_DEADLINE, check=False
        )
        if completed.status != 0:
            message = f"{self._transport.where} cannot announce the guest: {words_of(completed)}"
            raise HostError(message)
        return announce.sent(self._transport.where, completed.stdout.decode(errors="replace"))

    async def open_macvtaps(self, taps: Sequence[Tap]) -> None:
        """Put the macvtaps of a guest that runs here on the network; see the port."""
        words = open_arguments(taps)
        if not words:
            return
        completed = await run_script(self._transport, OPEN, *words, check=False)
        if completed.status != 0:
            message = f"{self._transport.where} cannot let the macvtap {words[0]} go up: {words_of(completed)}"
            remedy = f"see ip -d link show dev {words[0]} there: until it is up nobody reaches the guest"
            raise HostError(message, remedy=remedy)

    async def close_macvtaps(self, interfaces: Sequence[str]) -> None:
        """Take macvtaps of a guest that runs elsewhere off the network; see the port."""
        await run_script(self._transport, CLOSE, *interfaces)


def parse_neighbours(said: str, macs: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read what `ip -j neigh show` says of these NICs. Raises HostError for what is no such list."""
    try:
        rows = from_json(said or "[]")
    except (ValueError, json.JSONDecodeError):
        rows = None
    if not isinstance(rows, list):
        message = "what should be a host's neighbours is no list"
        raise HostError(message)
    wanted = {mac.lower() for mac in macs}
    found: dict[str, tuple[str, ...]] = {}
    for row in rows:
        if not isinstance(row, dict):
            continue
        mac, address, states = str(row.get("lladdr", "")).lower(), str(row.get("dst", "")), row.get("state")
        if mac in wanted and isinstance(states, list) and _KNOWN & set(map(str, states)):
            try:
                found[mac] = (*found.get(mac, ()), str(ipaddress.ip_address(address)))
            except ValueError:
                continue
    return found
