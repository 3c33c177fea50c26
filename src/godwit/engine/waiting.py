"""A move that is put off until its guest can be moved at its ease, as long as that is permitted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from godwit.core.ballooning import reclaim_of
from godwit.core.capabilities import sendings, usual
from godwit.core.dirtying import LEAST_SAMPLED
from godwit.core.disks import to_send
from godwit.core.foretelling import calm, foretell
from godwit.core.learning import seen_lately
from godwit.engine.expecting import known_of
from godwit.engine.windows import measure_windows
from godwit.errors import GodwitError, InputError
from godwit.model import Side, Way
from godwit.units import format_duration

if TYPE_CHECKING:
    from godwit.core.learning import Known
    from godwit.core.preflight.evidence import Evidence
    from godwit.engine.actions import Actions
    from godwit.model import Features, Forecast

_BETWEEN: Final = 10.0
"""Seconds between looks for a quieter moment."""

_LOOK: Final = 8.0
"""Seconds that the first of them takes."""


@dataclass(slots=True)
class Waiting:
    """Looks at a guest again and again, before anything is prepared for its move."""

    actions: Actions

    async def for_a_quieter_moment(self, features: Features, evidence: Evidence) -> bool:
        """Wait where that is permitted and of use; returns whether time has passed, so that facts have grown old.

        `features` are those of the guest's QEMU: what the target's can do is not known yet. A guest that cannot be
        looked at is not waited for, and neither is one of whose link nothing is known.
        """
        spec, clock = self.actions.parts.spec, self.actions.parts.clock
        if not spec.policy.wait or spec.policy.way is not Way.LIVE or spec.upgrade is not None or spec.defaults:
            return False
        if evidence.guest.memory < LEAST_SAMPLED:
            self._note("nobody waits for a quieter moment: QEMU samples no memory as small as this guest's")
            return False
        began = clock.now()
        try:
            await self._wait(await self._known(features, evidence), began)
        except GodwitError as error:
            self._note(f"nobody waits for a quieter moment: {error.message}")
        except (ArithmeticError, ValueError) as error:  # whatever is wrong with a figure, no move ends for it
            self._note(f"nobody waits for a quieter moment: it cannot be reckoned with what is known: {error}")
        self.actions.waited = clock.now() - began
        return self.actions.waited >= _LOOK / 2

    async def _known(self, features: Features, evidence: Evidence) -> Known:
        parts, policy = self.actions.parts, self.actions.parts.spec.policy
        memory = evidence.guest.memory
        known = await known_of(parts.journal, parts.source, parts.vm_on(Side.SOURCE), parts.spec, memory)
        reclaim = reclaim_of(policy, evidence.balloon, evidence.resident)
        return replace(
            known,
            sendings=sendings(features, features),
            usual=replace(usual(policy, features, features, ()), reclaim=reclaim),
            disks=to_send(policy, evidence.disks),
            tunable=features.parameters,
        )

    async def _wait(self, known: Known, began: float) -> None:
        """Look until the guest is calm, or the time is up. Raises InputError where no forecast can be made."""
        clock = self.actions.parts.clock
        profiles = [known.profile] if known.profile is not None else []
        if not seen_lately(profiles, known.moves, known.vm, began):
            known = await self._looked(known)
        found = foretell(known, clock.now(), thorough=False)
        end = self._until(found)
        if calm(found):
            return
        if clock.now() + _LOOK >= end:
            self._note("nobody waits for a quieter moment: there is no time for that")
            return
        self._note(f"waits for a quieter moment, {format_duration(end - began)} at most")
        taken = _LOOK
        while not calm(found) and clock.now() + taken < end:
            await clock.sleep(min(_BETWEEN, end - taken - clock.now()))
            looked = clock.now()
            known = await self._looked(known)
            taken = clock.now() - looked
            found = foretell(known, clock.now(), thorough=False)
        passed = format_duration(clock.now() - began)
        self._note(f"a quieter moment after {passed}" if calm(found) else f"no quieter moment within {passed}")

    async def _looked(self, known: Known) -> Known:
        """Measure what the guest changes now; a look that failed is told, and leaves what was known.

        Raises InputError where nothing was.
        """
        try:
            guest = await self.actions.sides.attach(Side.SOURCE)
            self.actions.windows = await measure_windows(guest, known.memory)
        except GodwitError as error:
            if not (known.windows or known.profile or known.own):
                raise InputError(error.message) from error
            self._note(f"what it writes could not be seen: {error.message}")
            return known
        return replace(known, windows=self.actions.windows)

    def _note(self, text: str) -> None:
        self.actions.note("note", text=text)

    def _until(self, forecast: Forecast) -> float:
        """Return the last instant to wait for: the policy's, or what leaves the move twice the time it may need."""
        spec, requested = self.actions.parts.spec, self.actions.parts.requested
        end = requested + spec.policy.wait
        if spec.policy.deadline is not None:
            end = min(end, requested + spec.policy.deadline - 2 * forecast.prospect.total.high)
        return end
