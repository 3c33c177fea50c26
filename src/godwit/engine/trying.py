"""Trying the connection that a move would make, before anything is done: between its hosts, with its certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from godwit.core.trust import encrypts
from godwit.engine.carrying import whole
from godwit.engine.keys import patiently
from godwit.errors import GodwitError, JournalError
from godwit.model import Trial, TrialEnd

if TYPE_CHECKING:
    from godwit.engine.parts import Parts


async def tried(parts: Parts, address: str, port: int, *, measure: bool) -> Trial:
    """Let the source connect to the target as a move would; how that ended is an answer, too. Raises JournalError.

    Whoever is cancelled leaves nothing of it behind.
    """
    return await whole(_tried(parts, address, port, measure=measure))


async def _tried(parts: Parts, address: str, port: int, *, measure: bool) -> Trial:
    owner = f"{parts.keys}.trial-{parts.spec.id}"  # what is left on a silent host goes with the guest's next move
    try:
        pair = await parts.authority.pair(parts.spec.id, parts.target.name, address) if encrypts(parts.spec) else None
        await parts.target.serve_trial(owner, address, port, pair=pair, measure=measure)
        trial = await parts.source.try_link(owner, address, port, pair=pair, measure=measure)
    except JournalError:
        raise
    except GodwitError as error:
        trial = Trial(TrialEnd.UNTRIED, error.message, port)
    if trial.end is TrialEnd.WORKS and not measure:
        return trial  # what waited for it has ended with its one connection
    try:
        await patiently(parts.clock, lambda: parts.target.end_trial(owner))
    except JournalError:
        raise
    except GodwitError as error:
        return Trial(trial.end, f"{trial.words}; a trial may wait on {parts.target.name}: {error.message}", port)
    return trial
