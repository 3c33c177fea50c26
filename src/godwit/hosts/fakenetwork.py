"""The network around simulated hosts: whom they have spoken with, and what they announce. A part of `FakeHost`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.errors import MonitorLostError
from godwit.model import Neighbours

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from godwit.hosts.fakeqemu import FakeQemu
    from godwit.hosts.fakeworld import FakeWorld
    from godwit.model import Announced, Launch, Tap

_LOOK: Final = 0.05
_LONG: Final = 1e6


def macvtaps_of(launch: Launch) -> set[str]:
    """Return the macvtaps of a launch: they go up when their guest runs."""
    return {tap.interface for tap in launch.taps if tap.macvtap is not None}


class FakeAnnouncing:
    """What a simulated host does for the network of its guests; see `godwit.ports.Announces`.

    `opened` are the macvtaps that are up.
    """

    world: FakeWorld
    qemus: dict[str, FakeQemu]

    def __init__(self) -> None:
        """Have announced nobody."""
        self.announced: list[Announced] = []
        self.opened: set[str] = set()
        self.neighbourhood: Neighbours | None = None
        """What it knows of addresses; None: one for each NIC that it is asked about."""

    @property
    def name(self) -> str:
        """The name under which the host is registered."""
        raise NotImplementedError

    async def _reach(self) -> None:
        raise NotImplementedError

    async def hear(self, path: str) -> AsyncGenerator[bytes]:
        """Yield what a guest says on its console here once it runs (`Workload.says`). Raises MonitorLostError."""
        await self._reach()
        qemu = next((qemu for qemu in self.qemus.values() if qemu.vm.console == path), None)
        if qemu is None:
            message = f"nobody serves {path} on {self.name}"
            raise MonitorLostError(message)
        while qemu.alive and qemu.raw != "running":
            await self.world.clock.sleep(_LOOK)
        if qemu.alive:
            yield qemu.workload.says
            await self.world.until(lambda: not qemu.alive, _LONG)

    async def neighbours(self, macs: Sequence[str]) -> Neighbours:
        """Return an address for each NIC, unless told otherwise: a simulated host speaks with every guest."""
        await self._reach()
        spoken = {mac: (f"198.18.1.{number + 1}",) for number, mac in enumerate(macs)}
        return self.neighbourhood or Neighbours(spoken)

    async def announce(self, announced: Sequence[Announced]) -> int:
        """Announce NICs whose tap a QEMU here has; that a guest is announced while it runs elsewhere breaks the law."""
        await self._reach()
        sent = 0
        for one in announced:
            for qemu in self.qemus.values():
                if any(tap.interface == one.tap for tap in qemu.launch.taps):
                    elsewhere = [host for host in self.world.executing(qemu.vm.name) if host != self.name]
                    if elsewhere:
                        self.world.broken_laws.append(
                            f"{self.name} announced {qemu.vm.name}, which ran on {elsewhere[0]}"
                        )
                    self.announced.append(one)
                    sent += 1 + len(one.addresses)
        return sent

    async def open_macvtaps(self, taps: Sequence[Tap]) -> None:
        """Put macvtaps on the network; that of a guest that runs elsewhere breaks the law."""
        await self._reach()
        interfaces = {tap.interface for tap in taps if tap.macvtap is not None}
        for qemu in self.qemus.values():
            opened = interfaces & {tap.interface for tap in qemu.launch.taps}
            elsewhere = [host for host in self.world.executing(qemu.vm.name) if host != self.name]
            if opened and elsewhere:
                self.world.broken_laws.append(
                    f"{self.name} opened {min(opened)} of {qemu.vm.name}, which ran on {elsewhere[0]}"
                )
        self.opened |= interfaces

    async def close_macvtaps(self, interfaces: Sequence[str]) -> None:
        """Take macvtaps off the network; that one is whose guest runs here breaks the law."""
        await self._reach()
        for qemu in self.qemus.values():
            if self.name in self.world.executing(qemu.vm.name):
                lost = {tap.interface for tap in qemu.launch.taps} & set(interfaces)
                self.world.broken_laws += [f"{self.name} closed {one} of {qemu.vm.name}, which ran" for one in lost]
        self.opened -= set(interfaces)
