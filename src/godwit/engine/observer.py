"""Looks at both sides when something was lost, and remembers since when looking is necessary."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from godwit.core import events as e
from godwit.model import Side

if TYPE_CHECKING:
    from godwit.engine.power import Fences
    from godwit.engine.sides import Sides
    from godwit.model import GuestView
    from godwit.ports import Clock


@dataclass(slots=True)
class Observer:
    """One round of looking lasts from the first question until a ruling that does not ask again."""

    clock: Clock
    sides: Sides
    fences: Fences
    began: float = 0.0
    """When the latest look began, on the controller's clock."""
    _since: float | None = None
    _first_round: bool = True

    async def observe(self, delay: float, *, restarted: bool) -> e.Event:
        """Look at both sides at once, after `delay` seconds."""
        if delay:
            await self.clock.sleep(delay)
        self.began = self.clock.now()
        if self._since is None:
            self._since = self.began
        source, target = await asyncio.gather(self._look(Side.SOURCE), self._look(Side.TARGET))
        first = restarted and self._first_round
        return e.Observed(source, target, self.clock.now() - self._since, first)

    async def _look(self, side: Side) -> GuestView:
        """Look at a side; one that is silent may have been proven to be off."""
        began = self.clock.now()
        return await self.fences.seen(side, await self.sides.look(side, closely=True), began)

    def settled(self, *, again: bool) -> None:
        """Note whether the ruling asked to look again."""
        if not again:
            self._since = None
            self._first_round = False
