"""Telling the network where the guest is: QEMU does, and the target's host, with what was known of its addresses."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from godwit.errors import GodwitError
from godwit.model import Announced, Side, Way

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from godwit.engine.actions import Actions
    from godwit.model import GuestFacts
    from godwit.ports import Guest


@dataclass(slots=True)
class Announcing:
    """Announces one guest on the target, again and again; that it cannot be is told once and never ends a move.

    A NIC on a macvtap is announced by QEMU alone: no bridge of the host's has to learn where it is.

    Addresses are those that the guest's agent names or the source has spoken with; none is made up.
    """

    actions: Actions
    rounds: int = 0
    """How often QEMU was told to announce the guest; each time it does so five times within a second."""
    frames: int = 0
    """How many frames the target's host has sent by itself."""
    _learning: asyncio.Task[tuple[Announced, ...]] | None = None
    _told: set[str] = field(default_factory=set)
    _agent_answers: bool = False
    _switched: bool = False

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Learn the guest's addresses while it runs on the source; nobody waits for that before the switchover."""
        if self._learning is None and self.actions.facts is not None and self._by_host:
            self._learning = tasks.create_task(self._learn(Side.SOURCE, self.actions.facts), name="addresses")

    async def has_agent(self) -> bool:
        """Say whether the guest's agent has answered on the source, when it has, or has not."""
        if self._learning is not None:
            await asyncio.wait([self._learning])
        return self._agent_answers

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
        """Let the target's host announce the guest, too, where that is of use."""
        if not self._by_host:
            return
        try:
            await self._switch_macvtaps()
            announced = await self._known()
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

    async def _known(self) -> tuple[Announced, ...]:
        """Return what was learnt, or for a runner that followed another what can be learnt now."""
        if self._learning is not None:
            return await self._learning
        guest = await self.actions.sides.attach(Side.TARGET)
        found = await self._learn(Side.TARGET, await guest.facts())
        self._learning = asyncio.ensure_future(_given(found))
        return found

    async def _learn(self, side: Side, facts: GuestFacts) -> tuple[Announced, ...]:
        macs = [nic.mac for nic in facts.nics if nic.tap is not None]
        if not macs:
            return ()
        answers = await asyncio.gather(self._said_by_agent(side), self._seen_by_host(side, macs))
        return tuple(_merged(facts, answers))

    async def _said_by_agent(self, side: Side) -> Mapping[str, tuple[str, ...]]:
        if self.actions.parts.spec.policy.way is Way.OFF:  # it may boot with others, and its agent has more to do
            return {}
        try:
            guest: Guest = await self.actions.sides.attach(side)
            found = await guest.addresses_by_agent()
        except GodwitError as error:
            self._note(f"the guest's addresses were not learnt from its agent: {error.message}")
            return {}
        self._agent_answers = bool(found)
        return found

    async def _seen_by_host(self, side: Side, macs: list[str]) -> Mapping[str, tuple[str, ...]]:
        if self.actions.parts.spec.policy.way is Way.OFF:
            return {}
        try:
            return await self.actions.parts.host(side).neighbours(macs)
        except GodwitError as error:
            self._note(f"the guest's addresses were not learnt from its host: {error.message}")
            return {}

    def _note(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.actions.note("note", text=text)


def _merged(facts: GuestFacts, answers: Sequence[Mapping[str, tuple[str, ...]]]) -> Iterator[Announced]:
    for nic in facts.nics:
        if nic.tap is not None and nic.tap.macvtap is None:
            mac = nic.mac.lower()
            every = dict.fromkeys(address for answer in answers for address in answer.get(mac, ()))
            yield Announced(mac, nic.tap.interface, tuple(every))


async def _given(found: tuple[Announced, ...]) -> tuple[Announced, ...]:
    return found
