"""A guest whose CPUs are made to sleep, so that it writes less: how far, what that leaves it, and what is felt. Pure.

It sleeps in naps (QEMU's auto-converge): NAP of work, and then as long a nap as the percentage asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.core.capabilities import HELD
from godwit.model import DirtyWindow

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from godwit.core.dirtying import DirtyCurve
    from godwit.model import PassRecord, Policy, Sample

LADDER: Final = (*range(10, 90, 5), 90, 92, 94, 95, 96, 97, 98, 99)
"""The percentages of its time for which a guest is made to sleep: QEMU brings each in only after two looks a second
apart, so steps that tell are worth waiting for."""

NAP: Final = 0.01
"""Seconds that a guest which is slowed down runs between two naps (CPU_THROTTLE_TIMESLICE_NS in QEMU)."""

FELT_NAPS: Final = 2.5
"""How long a client waits for a guest that is slowed down, in naps: in seven moves under emulation 1.1 to 4.5."""

AWAKE: Final = 0.45
"""The share of its waking time that a guest has for its work between two naps: it has its timers to see to first.
Measured under emulation with guests that work 14 % of their time, and all of it: between 0.42 and 0.5."""

MISJUDGED: Final = 1.5
"""How many times as much a guest may get done between two naps as is thought: in passes of a guest that slept 90 % of
its time it was between 0.6 and 1.9 times that."""

_LEAST_BUSY: Final = 0.01

HALVING: Final = 0.5
"""The share that a pass of a guest that is slowed down may leave of what it began with: less sleep takes longer, and
costs the guest more of its work in all; more sleep is felt more at each moment."""


def asleep(sample: Sample) -> int:
    """Return how far a guest is slowed down, in percent, where that is noticeable."""
    return sample.throttle if sample.throttle > HELD else 0


def ladder(policy: Policy) -> list[int]:
    """Return the percentages of its time for which a guest may be made to sleep, the least first.

    No nap is felt for longer than the guest may stand still.
    """
    return [one for one in LADDER if one <= policy.most_throttle and nap(one) * FELT_NAPS <= policy.max_downtime]


def nap(throttle: int) -> float:
    """Return the seconds for which a guest's CPUs sleep in one piece when they are to sleep so many percent."""
    return NAP * throttle / (100 - throttle)


def writes_at(throttle: int, busy: float) -> float:
    """Return the share of its writes that a guest comes to which sleeps `throttle` percent of its time.

    One whose CPU works only a share of its time loses nothing until less than that is left to it.
    """
    if throttle <= HELD:
        return 1.0
    return min(1.0, (1 - throttle / 100) * AWAKE / max(busy, _LEAST_BUSY))


def throttle_for(curve: DirtyCurve, pace: float, downtime: float, rungs: Sequence[int], busy: float = 1.0) -> int:
    """Return the least of these percentages at which passes halve down to one of `downtime` seconds; else the last.

    Since U(t)/t falls with t, whatever halves a pass of `downtime` halves all longer ones (see godwit.core.dirtying).
    `pace` is bytes of pages a second.
    """
    for percentage in rungs:
        if curve.unique(downtime * writes_at(percentage, busy)) <= pace * downtime * HALVING:
            return percentage
    return rungs[-1]


def windows_of(passes: Iterable[PassRecord], busy: float) -> list[DirtyWindow]:
    """Return what passes tell of how a guest changes its memory, as if it had never slept."""
    return [DirtyWindow(one.seconds * writes_at(one.throttle, busy), one.left) for one in passes if one.seconds > 0]
