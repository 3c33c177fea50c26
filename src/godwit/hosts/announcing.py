"""Guests as seen from around them: who was seen where, telling a network where one is now, hearing its console."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from typing import TYPE_CHECKING, Final

from godwit.errors import HostError
from godwit.hosts.shell import run_script, words_of
from godwit.model import Neighbours
from godwit.network import announce
from godwit.network.tap import CLOSE, OPEN, open_arguments
from godwit.plaintext import from_json

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

    from godwit.hosts.transport import Transport
    from godwit.model import Announced, Tap

_NEIGHBOURS: Final = """\
ip -j neigh show; echo "---"
ip -j addr show; echo "---"
ip -j -4 route show table all exact default; echo "---"
ip -j -6 route show table all exact default
"""
_KNOWN: Final = frozenset({"REACHABLE", "STALE", "DELAY", "PROBE", "PERMANENT"})
"""States in which an entry was confirmed once (see ip-neighbour(8)); another may be a guess, or a failure."""

_CONFIRMED: Final = frozenset({"REACHABLE", "PERMANENT"})
"""States in which it was confirmed within the last half a minute or so, or somebody has written it down for good."""

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

    async def neighbours(self, macs: Sequence[str]) -> Neighbours:
        """Return the addresses under which these NICs have answered this host, and others'. Raises HostError."""
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


def parse_neighbours(said: str, macs: Sequence[str]) -> Neighbours:
    """Read what a host knows of these NICs, and of others. Raises HostError for what is no such list."""
    neighbours, *own = (_rows(part) for part in f"{said}\n".split("---\n"))
    wanted = {mac.lower() for mac in macs}
    found: dict[str, tuple[str, ...]] = {}
    routers, others = set[str](), {address for rows in own for row in rows for address in _own(row)}
    for row in neighbours:
        mac, states = str(row.get("lladdr", "")).lower(), row.get("state")
        address, known = _address(row.get("dst")), set(map(str, states)) if isinstance(states, list) else set()
        if not address or not mac or not known & _KNOWN:
            continue
        if mac not in wanted:
            others.add(address)
            continue
        if "router" in row:
            routers.add(mac)
        if known & _CONFIRMED:
            found[mac] = (*found.get(mac, ()), address)
    return Neighbours(found, frozenset(routers), frozenset(others))


def _rows(said: str) -> list[dict[str, object]]:
    try:
        rows = from_json(said.strip() or "[]")
    except ValueError:
        rows = None
    if not isinstance(rows, list):
        message = "what should be a host's neighbours is no list"
        raise HostError(message)
    return [row for row in rows if isinstance(row, dict)]


def _own(row: dict[str, object]) -> Iterator[str]:
    """Yield the addresses in a row of `ip addr` or `ip route`: the host's own, or those of its gateways."""
    for key in ("addr_info", "nexthops"):
        listed = row.get(key)
        for one in listed if isinstance(listed, list) else ():
            if isinstance(one, dict):
                yield from _own(one)
    via = row.get("via")  # a gateway of the other family
    for text in (row.get("local"), row.get("gateway"), via.get("host") if isinstance(via, dict) else None):
        if address := _address(text):
            yield address


def _address(text: object) -> str:
    """Return an address as Python spells it; empty for what is none."""
    try:
        return str(ipaddress.ip_address(text)) if isinstance(text, str) else ""
    except ValueError:
        return ""
