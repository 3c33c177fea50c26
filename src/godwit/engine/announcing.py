"""Telling the network where the guest is: QEMU does, and the target's host, with what was known of its addresses."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from godwit.errors import GodwitError
from godwit.model import Announced, Neighbours, Side, Way

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from godwit.engine.actions import Actions


@dataclass(slots=True)
class Announcing:
    """Announces one guest on the target, again and again; that it cannot be is told once and never ends a move.

    A NIC on a macvtap is announced by QEMU alone: no bridge of the host's has to learn where it is.

    Addresses are those that the guest's agent names when the guest runs there, or under which it has answered a host a
    moment ago: one may have left the guest while its memory travelled, as that of a cluster does. None is made up, and
    none is announced that is another's as far as the hosts know; the guest's MAC address is, in any case.
    """

    actions: Actions
    silent: Callable[[], bool]
    """Whether the guest's agent is known not to answer; it is waited for for seconds otherwise."""
    rounds: int = 0
    """How often QEMU was told to announce the guest; each time it does so five times within a second."""
    frames: int = 0
    """How many frames the target's host has sent by itself."""
    _nics: tuple[tuple[str, str], ...] | None = None
    """The MAC addresses and taps of the guest's NICs."""
    _learning: asyncio.Task[tuple[Announced, ...]] | None = None
    _addressed: bool = False
    _told: set[str] = field(default_factory=set)
    _switched: bool = False

    @property
    def _by_host(self) -> bool:
        """Whether the host has anything to add: on the same host the bridge alone is to learn, which QEMU sees to."""
        return self.actions.parts.spec.upgrade is None

    async def by_qemu(self) -> None:
        """Let QEMU announce the guest, and a virtio NIC its guest itself: at once, and a few times more."""
        try:
            guest = await self.actions.sides.attach(Side.TARGET)
            await guest.announce()
        except GodwitError as error:
            self._note(f"the guest could not be announced again: {error.message}")
        else:
            self.rounds += 1

    async def by_host(self) -> None:
        """Let the target's host announce the guest, too, where that is of use: with addresses as soon as it has any."""
        if not self._by_host:
            return
        try:
            await self._switch_macvtaps()
            nics = await self._of_taps()
            if self._learning is None and nics and self.actions.parts.spec.policy.way is not Way.OFF:
                # Not before the guest runs and has a moment to itself. One that boots may do so with other addresses,
                # and its agent has more to do.
                self._learning = self.actions.sides.tasks.create_task(self._learn(nics), name="addresses")
            announced = tuple(Announced(mac, tap) for mac, tap in nics)
            if self._learning is not None and self._learning.done():
                announced, self._addressed = self._learning.result(), True
            if announced:
                self.frames += await self.actions.parts.target.announce(announced)
        except GodwitError as error:
            self._note(error.message)

    async def _switch_macvtaps(self) -> None:
        """See to it, once, that the guest's macvtaps are on the network here, and on the source no more.

        They went up when the guest was told to run; a runner that died then may not have seen it through. And the
        source's other guests would go on to speak with the copy that was left behind.
        """
        macvtaps = [tap for tap in self.actions.parts.vm_on(Side.TARGET).launch.taps if tap.macvtap is not None]
        if macvtaps and not self._switched:
            await self.actions.parts.target.open_macvtaps(macvtaps)
            await self.actions.parts.source.close_macvtaps([tap.interface for tap in macvtaps])
            self._switched = True

    async def addressed(self) -> None:
        """See to it that the guest's addresses were announced once, if any were learnt."""
        if self._learning is None or self._addressed:
            return
        await asyncio.wait([self._learning])
        await self.by_host()

    def end(self) -> None:
        """Learn no more."""
        if self._learning is not None:
            self._learning.cancel()

    async def _of_taps(self) -> tuple[tuple[str, str], ...]:
        """Return the NICs that are announced; a runner that followed another asks the target's QEMU for them."""
        if self._nics is None:
            facts = self.actions.facts
            if facts is None:
                facts = await (await self.actions.sides.attach(Side.TARGET)).facts()
            taps = ((nic.mac.lower(), nic.tap) for nic in facts.nics if nic.tap is not None)
            self._nics = tuple((mac, tap.interface) for mac, tap in taps if tap.macvtap is None)
        return self._nics

    async def _learn(self, nics: Sequence[tuple[str, str]]) -> tuple[Announced, ...]:
        macs = [mac for mac, _ in nics]
        named, here, there = await asyncio.gather(
            self._said_by_agent(), self._seen_by(Side.SOURCE, macs), self._seen_by(Side.TARGET, macs)
        )
        if here is None or there is None:  # nobody says then whose an address is
            return tuple(Announced(mac, tap) for mac, tap in nics)
        return tuple(_announced(mac, tap, named, (here, there)) for mac, tap in nics)

    async def _said_by_agent(self) -> Mapping[str, tuple[str, ...]]:
        if self.silent():
            return {}
        try:
            guest = await self.actions.sides.attach(Side.TARGET)
            return await guest.addresses_by_agent()
        except GodwitError as error:
            self._note(f"the guest's addresses were not learnt from its agent: {error.message}")
            return {}

    async def _seen_by(self, side: Side, macs: list[str]) -> Neighbours | None:
        """Return what a host knows; None where nobody can know. The source may be gone: it is the target that tells."""
        try:
            return await self.actions.parts.host(side).neighbours(macs)
        except GodwitError as error:
            self._note(f"the guest's addresses were not learnt from its host: {error.message}")
            return None if side is Side.TARGET else Neighbours()

    def _note(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.actions.note("note", text=text)


def _announced(mac: str, tap: str, named: Mapping[str, tuple[str, ...]], known: Sequence[Neighbours]) -> Announced:
    every = (*named.get(mac, ()), *(address for one in known for address in one.addresses.get(mac, ())))
    others = frozenset[str]().union(*(one.others for one in known))
    own = tuple(dict.fromkeys(address for address in every if address not in others))
    return Announced(mac, tap, own, router=any(mac in one.routers for one in known))
