"""What is expected of a move, written down before it, and what it was like, afterwards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from godwit.core.foretelling import expected, foretell, remember
from godwit.core.learning import Known
from godwit.engine.story import plain
from godwit.errors import GodwitError, InputError, JournalError
from godwit.model import Side, Way

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.engine.actions import Actions
    from godwit.model import Forecast, Outcome, Sample, Spec, Vm
    from godwit.ports import Host, Journal


async def known_of(
    journal: Journal, source: Host, vm: Vm, spec: Spec, memory: int, *, changes: bool, link: float | None = None
) -> Known:
    """Gather what is known before a move of `vm`, as it stands on `source`. Raises JournalError, HostError."""
    profiles = await journal.history.profiles(spec.vm, limit=1)
    moves = await journal.history.moves()
    resident = 0
    if not any(move.vm == spec.vm for move in moves):
        view = await source.observe(replace(vm, control=vm.observe or vm.control))
        resident = await source.resident(view.pid) if view.pid is not None else 0
    newest = profiles[0] if profiles else None
    return Known(spec.vm, spec.source, spec.target, memory, resident, spec.policy, newest, link, moves, changes)


@dataclass(slots=True)
class Expecting:
    """Forecasts a live move beside its preparations, and keeps what became of it. Nothing waits for either."""

    actions: Actions
    forecast: Forecast | None = None
    _memory: int = 0

    @property
    def _changes(self) -> bool:
        """Whether pages that were sent before can travel as their changes."""
        return self.actions.sends_changes and not self.actions.parts.spec.defaults

    async def foretell(self) -> None:
        """Forecast the move from what is known; where that is too little, the journal says so."""
        parts = self.actions.parts
        if parts.spec.policy.way is not Way.LIVE or parts.spec.upgrade is not None or self.actions.facts is None:
            return
        self._memory = self.actions.facts.memory
        try:
            vm = parts.vm_on(Side.SOURCE)
            known = await known_of(parts.journal, parts.source, vm, parts.spec, self._memory, changes=self._changes)
            self.forecast = foretell(known, parts.clock.now())
        except InputError as error:
            self.actions.note("note", text=f"no forecast: {error.message}")
        except GodwitError as error:
            self.actions.note("note", text=f"no forecast: what is known could not be read: {error.message}")
        else:
            ends = self.forecast.prospect.converges
            self.actions.note("forecast", text=expected(self.forecast), ends=ends, forecast=plain(self.forecast))

    async def remember(self, outcome: Outcome, samples: Sequence[Sample], began: float | None) -> None:
        """Keep what the move was like."""
        parts = self.actions.parts
        record = remember(
            parts.spec,
            outcome,
            samples,
            began,
            self._memory,
            self.forecast,
            changes=self._changes,
            limit=self.actions.switchover.limit,
        )
        if record is None or not self._memory:
            return
        try:
            await parts.journal.history.put_move(record)
        except JournalError as error:  # the next forecast knows a little less
            self.actions.note("note", text=f"what the move was like could not be kept: {error.message}")
