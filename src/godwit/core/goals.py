"""What a move is to be best at: what each goal permits, and which of two prospects it prefers. Pure.

| goal | prefers | the guest may sleep | what else |
|---|---|---|---|
| seamless | the shortest gap of a client, a quarter of the lost work added | 95 % of its time: naps of 190 ms | |
| fast | the shortest move | 97 % of its time: naps of 323 ms | |
| gentle | the least work lost, then the fewest bytes | never | compresses only where nothing else ends |
| finish | to end in time, and of that the shortest gap | 99 % of its time | it may be paused; needs a deadline |

A client feels two and a half naps (`sleeping.FELT_NAPS`), and these are never longer than the guest may stand still
(`max_downtime`): with the usual 300 ms no guest sleeps more than 92 % of its time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from godwit.errors import InputError
from godwit.model import Goal, Permission, Policy, Sending

if TYPE_CHECKING:
    from collections.abc import Callable

    from godwit.model import Prospect

_NOTICED: Final = 0.02
"""Seconds by which gaps must differ for one to count as shorter."""

_TRADED: Final = 0.25
"""Seconds of lost work that are worth one second of the move's time."""

_FELT: Final = 0.25
"""Seconds of a client's wait that a second of lost work is worth: who uses a guest that sleeps nine tenths of its time
waits again and again, and the shortest naps are those of which it takes the most."""

SURE: Final = 0.8
"""The chance from which on a strategy is taken for one that ends."""

_FASTER: Final = 1.1
"""How many times as long moves must take for one to count as faster."""

_COMPRESSED: Final = frozenset({Sending.ZSTD, Sending.ZLIB})

Score = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class GoalRow:
    """What a goal permits, and how it ranks a prospect that ends: the least is the best."""

    max_guest_slowdown: float
    allows: frozenset[Permission]
    rank: Callable[[Prospect], Score]
    words: str


def _seamless(row: Prospect) -> Score:
    felt = row.client_gap.likely + _FELT * row.lost
    return (felt // _NOTICED, row.lost + _TRADED * row.total.likely)


def _fast(row: Prospect) -> Score:
    return (math.floor(math.log(max(row.total.likely, _NOTICED), _FASTER)), row.client_gap.likely, row.total.likely)


def _gentle(row: Prospect) -> Score:
    return (row.lost, row.how.sending in _COMPRESSED, row.bytes.likely)


_USUAL: Final = frozenset({Permission.THROTTLE, Permission.BALLOON})
_ANYTHING: Final = frozenset(Permission)

GOALS: Final = {
    Goal.SEAMLESS: GoalRow(0.95, _USUAL, _seamless, "its clients would wait the shortest"),
    Goal.FAST: GoalRow(0.97, _USUAL, _fast, "the move is over soonest"),
    Goal.GENTLE: GoalRow(0.0, frozenset(), _gentle, "it costs the guest and its neighbours least"),
    Goal.FINISH: GoalRow(0.99, _USUAL | {Permission.PAUSE}, _seamless, "of what ends in time, its clients wait least"),
}


def policy_for(goal: Goal, *, deadline: float | None = None) -> Policy:
    """Return the policy of a goal. Raises InputError for one that needs a deadline and has none."""
    if goal is Goal.FINISH and deadline is None:
        message = "the policy finish is about ending in time, and needs --deadline"
        raise InputError(message, remedy="say it as in --deadline 10min")
    row = GOALS[goal]
    return replace(Policy(), goal=goal, deadline=deadline, max_guest_slowdown=row.max_guest_slowdown, allows=row.allows)


def late(policy: Policy, row: Prospect) -> bool:
    """Say whether a strategy is likely to end after the policy's deadline."""
    return policy.deadline is not None and row.total.likely > policy.deadline


def rank(policy: Policy, row: Prospect) -> Score:
    """Return what orders prospects by a policy: the least is the one to take.

    What does not end comes last, before that what is not sure to, what ends too late, what takes a pause, and what
    compresses on processors that neighbours are to have.
    """
    compresses = policy.protect_neighbours is not None and row.how.sending in _COMPRESSED
    ends = (not row.converges, row.chance < SURE, late(policy, row), row.how.pauses, compresses)
    return (*ends, *GOALS[policy.goal].rank(row))
