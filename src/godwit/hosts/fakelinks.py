"""The way between simulated hosts, and connections that are tried over it: what `FakeHost` has of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from godwit.errors import BusyError, HostError
from godwit.hosts.fakecredentials import refused
from godwit.model import Packets, Trial, TrialEnd
from godwit.ports import Completed
from godwit.storage.sharedproof import check_token

if TYPE_CHECKING:
    from godwit.hosts.fakeworld import FakeWorld
    from godwit.model import Pair

INTERFACE_MTU: Final = 1500
"""Bytes that every simulated host's interface takes."""

_STALLS: Final = 5.0
"""Seconds after which a connection over which nothing large passes is given up."""

_TRIED: Final = 544 << 10
"""Bytes of a trial, both ways together."""

_BURST: Final = 0.8
_ROUTE: Final = re.compile(r"ip route add (?P<address>[0-9.]+)/32 .*mtu (?P<mtu>[0-9]+)$")


class FakeLinks:
    """The part of the port `Host` that looks at links; `trials` are those that are waited for here, by their name.

    `routes` are the MTUs of routes to single addresses.
    """

    world: FakeWorld
    migration_address: str

    def __init__(self) -> None:
        """Wait for nothing yet."""
        self.trials: dict[str, tuple[int, Pair | None]] = {}
        self.routes: dict[str, int] = {}

    def add_route(self, command: str) -> Completed:
        """Obey `ip route add ADDRESS/32 ... mtu N`, the one command of a shell that a simulated host knows."""
        match = _ROUTE.search(command)
        if match is None:
            return Completed(2, b"", b"sh: no such program on a simulated host\n")
        if match["address"] in self.routes:
            return Completed(2, b"", b"RTNETLINK answers: File exists\n")
        self.routes[match["address"]] = int(match["mtu"])
        return Completed(0, b"", b"")

    @property
    def name(self) -> str:
        """The name under which the host is registered."""
        raise NotImplementedError

    def time(self) -> float:
        """Return what this host's clock shows."""
        raise NotImplementedError

    def ports_in_use(self) -> frozenset[int]:
        """Return the ports at which a QEMU listens."""
        raise NotImplementedError

    async def reaches(self, address: str, port: int) -> bool:
        """Say whether the host that owns `address` can be reached from here."""
        raise NotImplementedError

    async def _reach(self) -> None:
        raise NotImplementedError

    async def packets(self, address: str) -> Packets:
        """Say how large packets may be on the way to the host that owns `address`."""
        if not await self.reaches(address, 0):
            return Packets(INTERFACE_MTU)
        owner = next(host for host in self.world.hosts.values() if host.migration_address == address)
        mtu = self.routes.get(address, INTERFACE_MTU)
        return Packets(mtu, mtu if owner.name == self.name else min(mtu, self.world.link(self.name, owner.name).mtu))

    async def serve_trial(self, owner: str, address: str, port: int, *, pair: Pair | None, measure: bool) -> None:
        """Wait for a trial here."""
        await self._reach()
        if address != self.migration_address:
            message = f"no trial can be waited for on {self.name}: Cannot assign requested address"
            raise HostError(message)
        if port in self.ports_in_use() or any(port == taken for taken, _ in self.trials.values()):
            message = f"no trial can be waited for on {self.name}: Address already in use"
            raise BusyError(message)
        del measure  # whoever connects ends it, or takes it away
        self.trials[check_token(owner)] = (port, pair)

    async def try_link(self, owner: str, address: str, port: int, *, pair: Pair | None, measure: bool) -> Trial:
        """Connect to where another host waits for a trial."""
        await self._reach()
        far = next((host for host in self.world.hosts.values() if host.migration_address == address), None)
        waits = far.trials.get(owner) if far is not None else None
        if far is None or waits is None or waits[0] != port or not await self.reaches(address, port):
            return Trial(TrialEnd.UNCONNECTED, "Connection refused", port)
        link = self.world.link(self.name, far.name)
        if link.mtu < self.routes.get(address, INTERFACE_MTU):
            await self.world.clock.sleep(_STALLS)
            return Trial(TrialEnd.STALLED, "", port)
        server, client = (waits[1].server if waits[1] else None), (pair.client if pair else None)
        if words := refused(server, client, waits[1].identity if waits[1] else "", address, self.time()):
            return Trial(TrialEnd.REFUSED, words, port)
        await self.world.clock.sleep(4 * link.latency)
        if link.bandwidth * _STALLS < _TRIED:
            await self.world.clock.sleep(_STALLS)
            return Trial(TrialEnd.WORKS, "slow", port)
        if not measure:
            del far.trials[owner]
        seconds = _BURST if measure else 0.0
        await self.world.clock.sleep(seconds)
        return Trial(TrialEnd.WORKS, port=port, sent=round(link.bandwidth * seconds), seconds=seconds)

    async def end_trial(self, owner: str) -> None:
        """End what waits for a trial."""
        await self._reach()
        self.trials.pop(owner, None)
