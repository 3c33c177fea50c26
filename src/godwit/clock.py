"""The controller's clock: the time of day as it was when this process first asked, and steady from then on.

Instants are compared with each other: for how long a host has been silent, when a deadline has passed, how long nobody
executed. A time of day that is set while a guest is on its way must change none of that, so steps and slews of it are
not followed; a machine that was suspended has aged, though (CLOCK_BOOTTIME).
"""

from __future__ import annotations

import functools
import time


@functools.cache
def _boot() -> float:
    """Return when the machine was booted, in UNIX seconds, by the time of day of the first question."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def now() -> float:
    """Return UNIX seconds; of two answers of one process the later is never the smaller."""
    return _boot() + time.clock_gettime(time.CLOCK_BOOTTIME)
