"""Hooks: which there are, when they run, and what they are told. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from godwit.core.state import Phase
from godwit.model import OutcomeStatus, Owner
from godwit.plaintext import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from godwit.model import Outcome, Spec


class Hook(StrEnum):
    """The instants of a move at which a hook is run; the names of the files."""

    BEFORE_MOVE = "before-move"
    """All checks were passed, nothing was changed; one that fails keeps the guest from being moved."""
    AFTER_SWITCHOVER = "after-switchover"
    """The guest has just begun to run on the target; tidying up goes on beside it."""
    AFTER_MOVE = "after-move"
    """The guest is the target's, and what there was to tidy up is done."""
    MOVE_FAILED = "move-failed"
    """The move has ended in any other way, after the instant of before-move."""


DEADLINES: Final[Mapping[Hook, float]] = {
    Hook.BEFORE_MOVE: 60.0,
    Hook.AFTER_SWITCHOVER: 30.0,
    Hook.AFTER_MOVE: 60.0,
    Hook.MOVE_FAILED: 60.0,
}
"""Seconds that each may take."""

RUNS_THERE: Final = frozenset({Phase.POSTCOPY, Phase.FINISHING, Phase.DONE})
"""The phases that begin with the guest running on the target, or come after it has."""

_MOVED: Final = frozenset({OutcomeStatus.COMPLETED, OutcomeStatus.UNVERIFIED})


def last_hook(status: OutcomeStatus) -> Hook | None:
    """Return the hook that runs at the end of a move; none in LIMBO, since nobody knows then how it ends."""
    if status is OutcomeStatus.LIMBO:
        return None
    return Hook.AFTER_MOVE if status in _MOVED else Hook.MOVE_FAILED


def environment(hook: Hook, spec: Spec, attempt: int, *, guest: str = "", target: str = "") -> dict[str, str]:
    """Return what a hook is told before the end: `guest` and `target` are addresses, empty where unknown.

    `attempt` counts the runners that have worked on the move: from 2 on the same hook may have been run before.
    """
    return {
        "GODWIT_HOOK": hook.value,
        "GODWIT_MIGRATION": spec.id,
        "GODWIT_GUEST": spec.vm,
        "GODWIT_GUEST_ADDRESS": guest,
        "GODWIT_SOURCE": spec.source,
        "GODWIT_TARGET": spec.target,
        "GODWIT_TARGET_ADDRESS": target,
        "GODWIT_WAY": "upgrade" if spec.upgrade is not None else spec.policy.way.value,
        "GODWIT_ATTEMPT": str(attempt),
    }


def at_the_end(outcome: Outcome) -> dict[str, str]:
    """Return what a hook is told of the end, besides."""
    owners = {Owner.SOURCE: outcome.source, Owner.TARGET: outcome.target, Owner.UNKNOWN: ""}
    crashed = outcome.status is OutcomeStatus.GUEST_CRASHED
    return {
        "GODWIT_OUTCOME": outcome.status.value,
        "GODWIT_RUNS_ON": "" if crashed else owners[outcome.owner],
        "GODWIT_ERROR": one_line(outcome.error),
    }
