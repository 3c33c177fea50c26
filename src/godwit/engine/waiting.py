"""A move that is put off until its guest can be moved at its ease, as long as that is permitted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from godwit.core.capabilities import sendings, usual
from godwit.core.foretelling import calm, foretell
from godwit.engine.expecting import known_of
from godwit.engine.windows import measure_windows
from godwit.errors import GodwitError
from godwit.model import Side, Way
from godwit.units import format_duration

if TYPE_CHECKING:
    from godwit.core.learning import Known
    from godwit.engine.actions import Actions
    from godwit.model import Features, Forecast
    from godwit.ports import Guest

_BETWEEN: Final = 10.0
"""Seconds between looks for a quieter moment."""

_LOOK: Final = 8.0
"""Seconds that the first of them takes."""


@dataclass(slots=True)
class Waiting:
    """Looks at a guest again and again, before anything is prepared for its move."""

    actions: Actions

    async def for_a_quieter_moment(self, guest: Guest, features: Features, memory: int) -> bool:
        """Wait where that is permitted and of use; returns whether time has passed, so that facts have grown old.

        `features` are those of the guest's QEMU: what the target's can do is not known yet. A guest that cannot be
        looked at is not waited for, and neither is one of whose link nothing is known.
        """
        spec = self.actions.parts.spec
        if not spec.policy.wait or spec.policy.way is not Way.LIVE or spec.upgrade is not None or spec.defaults:
            return False
        try:
            return await self._wait(guest, await self._known(features, memory))
        except GodwitError as error:
            self.actions.note("note", text=f"nobody waits for a quieter moment: {error.message}")
            return False

    async def _known(self, features: Features, memory: int) -> Known:
        parts = self.actions.parts
        known = await known_of(parts.journal, parts.source, parts.vm_on(Side.SOURCE), parts.spec, memory)
        return replace(
            known,
            sendings=sendings(features, features),
            usual=usual(parts.spec.policy, features, features, ()),
            tunable=features.parameters,
        )

    async def _wait(self, guest: Guest, known: Known) -> bool:
        parts = self.actions.parts
        began = parts.clock.now()
        if known.profile is None and not known.own:
            known = known.measured(parts.clock.now(), await measure_windows(guest, known.memory))
        found = foretell(known, parts.clock.now(), thorough=False)
        end = self._until(found)
        if calm(found) or parts.clock.now() >= end:
            return False
        self.actions.note("note", text=f"waits for a quieter moment, {format_duration(end - began)} at most")
        taken = _LOOK
        while not calm(found) and parts.clock.now() + taken < end:
            await parts.clock.sleep(min(_BETWEEN, end - taken - parts.clock.now()))
            looked = parts.clock.now()
            windows = await measure_windows(guest, known.memory)
            taken = parts.clock.now() - looked
            known = known.measured(parts.clock.now(), windows)
            found = foretell(known, parts.clock.now(), thorough=False)
        passed = format_duration(parts.clock.now() - began)
        words = f"a quieter moment after {passed}" if calm(found) else f"no quieter moment within {passed}"
        self.actions.note("note", text=words)
        if known.profile is not None:
            await parts.journal.history.put_profile(known.profile)
        return True

    def _until(self, forecast: Forecast) -> float:
        """Return the last instant to wait for: the policy's, or what leaves the move twice the time it may need."""
        spec, requested = self.actions.parts.spec, self.actions.parts.requested
        end = requested + spec.policy.wait
        if spec.policy.deadline is not None:
            end = min(end, requested + spec.policy.deadline - 2 * forecast.prospect.total.high)
        return end
