"""What is expected of a move, written down before it, and what it was like, afterwards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from godwit.core.capabilities import sendings, usual
from godwit.core.foretelling import expected, foreseen_of, foretell, hopeless, remember
from godwit.core.learning import Known, pace_of, said_of
from godwit.engine.story import plain
from godwit.errors import GodwitError, InputError, JournalError
from godwit.model import Sending, Side, Strategy, Way

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Sequence

    from godwit.engine.actions import Actions
    from godwit.model import DiskCopy, Features, Forecast, Outcome, Policy, Sample, Spec, Vm
    from godwit.ports import Host, Journal


async def known_of(
    journal: Journal,
    source: Host,
    vm: Vm,
    spec: Spec,
    memory: int,
    link: float | None = None,
) -> Known:
    """Gather what is known before a move of `vm`, as it stands on `source`; not yet how its pages can travel.

    Raises JournalError, HostError.
    """
    profiles = await journal.history.profiles(spec.vm, limit=1)
    moves = await journal.history.moves()
    resident = 0
    if not any(move.vm == spec.vm for move in moves):
        view = await source.observe(replace(vm, control=vm.observe or vm.control))
        resident = await source.resident(view.pid) if view.pid is not None else 0
    newest = profiles[0] if profiles else None
    if link is None:
        link = said_of(await journal.history.link(spec.source, spec.target), moves)
    return Known(
        spec.vm,
        spec.source,
        spec.target,
        memory,
        resident,
        spec.policy,
        newest,
        link,
        moves,
    )


async def link_pace(journal: Journal, spec: Spec) -> float | None:
    """Return the bytes a second that the stream is expected to be sent with; None where nobody knows its link.

    Raises JournalError.
    """
    moves = await journal.history.moves()
    link = said_of(await journal.history.link(spec.source, spec.target), moves)
    try:
        return pace_of(Known(spec.vm, spec.source, spec.target, 0, 0, spec.policy, link=link, moves=moves))
    except (ArithmeticError, ValueError):  # whatever is wrong with a figure, no move ends for it
        return None


def left_of(policy: Policy, waited: float) -> Policy:
    """Return a policy whose deadline counts from when the waiting had an end."""
    return policy if policy.deadline is None else replace(policy, deadline=max(0.0, policy.deadline - waited))


async def _or_error(gather: Callable[[], Awaitable[Known]]) -> Known | GodwitError:
    """Return what was gathered, or why it could not be: an error that a task raises would end the move beside it."""
    try:
        return await gather()
    except GodwitError as error:
        return error


@dataclass(slots=True)
class Expecting:
    """Forecasts a live move beside its preparations, chooses its strategy, and keeps what became of it."""

    actions: Actions
    forecast: Forecast | None = None
    _memory: int = 0
    _known: asyncio.Task[Known | GodwitError] | None = None

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Begin to gather what is known of the guest and its link, while the target's QEMU starts."""
        parts = self.actions.parts
        if parts.spec.policy.way is not Way.LIVE or parts.spec.upgrade is not None or self.actions.facts is None:
            return
        self._memory = self.actions.facts.memory
        gather = partial(
            known_of,
            parts.journal,
            parts.source,
            parts.vm_on(Side.SOURCE),
            parts.spec,
            self._memory,
        )
        self._known = tasks.create_task(_or_error(gather))

    async def choose(self, source: Features, target: Features, copies: Sequence[DiskCopy]) -> Strategy:
        """Forecast the move from what is known, and return the strategy that suits its policy best.

        Where too little is known, or no forecast comes of it, the journal says so, and the usual one is taken. Where
        QEMU's defaults are asked for, they are forecast. `copies` are the disks that travel before the memory. Raises
        RefusedError for a move of which recent measurements say that nothing which is permitted would let it end.
        """
        parts = self.actions.parts
        policy, defaults = parts.spec.policy, parts.spec.defaults
        strategy = Strategy(Sending.WHOLE) if defaults else usual(policy, source, target, copies)
        strategy = replace(strategy, reclaim=self.actions.reclaim)
        if self._known is None:
            return strategy if parts.spec.upgrade is None else replace(strategy, armed=False, postcopy=False)
        known = await self._known
        if isinstance(known, GodwitError):
            return self._unforeseen(strategy, f"what is known could not be read: {known.message}")
        known = replace(
            known,
            sendings=(Sending.WHOLE,) if defaults else sendings(source, target),
            usual=strategy,
            disks=self.actions.disk_bytes,
            windows=self.actions.windows,
            policy=left_of(policy, self.actions.waited),
            tunable=source.parameters,
        )
        try:
            found = foretell(known, parts.clock.now(), thorough=False)
            words, refusal = expected(found, known.policy), hopeless(found, known)
            self.actions.foreseen = foreseen_of(known, found.at, found.prospect.how)
        except InputError as error:
            return self._unforeseen(strategy, error.message)
        except (ArithmeticError, ValueError) as error:  # whatever is wrong with a figure, no move ends for it
            return self._unforeseen(strategy, f"it cannot be reckoned with what is known: {error}")
        self._keep(found, words)
        if not defaults and refusal is not None:
            raise refusal
        return found.prospect.how

    def _unforeseen(self, strategy: Strategy, why: str) -> Strategy:
        """Say why there is no forecast, and return the strategy that is taken without."""
        self.actions.note("note", text=f"no forecast: {why}")
        return strategy

    def _keep(self, forecast: Forecast, words: str) -> None:
        """Keep what is expected, and say it in `words`."""
        self.forecast, row = forecast, forecast.prospect
        self.actions.note(
            "forecast",
            text=words,
            ends=row.converges,
            strategy=row.strategy,
            why=forecast.reason,
            forecast=plain(forecast),
        )

    async def remember(
        self, outcome: Outcome, samples: Sequence[Sample], began: float | None, *, paused: bool, held_back: bool
    ) -> None:
        """Keep what the move was like.

        `paused` says that the guest was made to stand still so that it ended, `held_back` that its stream was slower
        than it may be, for the sake of other guests.
        """
        parts = self.actions.parts
        record = remember(
            parts.spec,
            outcome,
            samples,
            began,
            self._memory,
            self.forecast,
            how=replace(self.actions.strategy, pauses=paused),
            limit=self.actions.switchover.limit,
        )
        if record is None or not self._memory:
            return
        record = replace(record, limited=record.limited or held_back)
        waited = self.actions.waited  # for how long it was put off says nothing of other moves
        record = replace(
            record, start_delay=max(0.0, record.start_delay - waited), total=max(0.0, record.total - waited)
        )
        try:
            await parts.journal.history.put_move(record)
        except JournalError as error:  # the next forecast knows a little less
            self.actions.note("note", text=f"what the move was like could not be kept: {error.message}")
