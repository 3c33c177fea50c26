"""Trying the connection that a move would make, before anything is done: between its hosts, with its certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.core.trust import encrypts
from godwit.engine.carrying import whole
from godwit.engine.keys import patiently
from godwit.errors import BusyError, GodwitError, JournalError
from godwit.model import Trial, TrialEnd

if TYPE_CHECKING:
    from godwit.engine.parts import Parts
    from godwit.model import Pair

_OTHER_PORTS: Final = 2


async def tried(parts: Parts, address: str, port: int, *, measure: bool) -> Trial:
    """Let the source connect to the target as a move would; how that ended is an answer, too. Raises JournalError.

    Whoever is cancelled leaves nothing of it behind.
    """
    return await whole(_tried(parts, address, port, measure=measure))


async def _tried(parts: Parts, address: str, port: int, *, measure: bool) -> Trial:
    owner = f"{parts.keys}.trial-{parts.spec.id}"  # what is left on a silent host goes with the guest's next move
    try:
        pair = await parts.authority.pair(parts.spec.id, parts.target.name, address) if encrypts(parts.spec) else None
        port = await _served(parts, owner, (address, port), pair, measure=measure)
        trial = await parts.source.try_link(owner, address, port, pair=pair, measure=measure)
    except JournalError:
        raise
    except GodwitError as error:
        trial = Trial(TrialEnd.UNTRIED, error.message, port)
    if trial.end is TrialEnd.WORKS and not measure and not trial.words:  # a slow one was cut off
        return trial  # what waited for it has ended with its one connection
    try:
        await patiently(parts.clock, lambda: parts.target.end_trial(owner))
    except JournalError:
        raise
    except GodwitError as error:
        return Trial(trial.end, f"{trial.words}; a trial may wait on {parts.target.name}: {error.message}", port)
    return trial


async def _served(parts: Parts, owner: str, at: tuple[str, int], pair: Pair | None, *, measure: bool) -> int:
    """Let the target wait for the trial, at another port where that one was taken meanwhile; returns which.

    Checks and moves that go on side by side choose by chance among the same ports.
    """
    address, port = at
    for _ in range(_OTHER_PORTS):
        try:
            await parts.target.serve_trial(owner, address, port, pair=pair, measure=measure)
        except BusyError:
            port = await parts.target.free_port()
        else:
            return port
    await parts.target.serve_trial(owner, address, port, pair=pair, measure=measure)
    return port
