"""QEMU's measurement of how fast a guest changes its memory: calc-dirty-rate, by samples of pages.

It hashes some pages of each gigabyte, and hashes them again at the end of the window (migration/dirtyrate.c). The other
modes are not safe everywhere: under TCG QEMU 7.2 dies of them. Writes of the same value are not seen. Blocks of memory
below 128 MiB are not sampled.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

from godwit.errors import HypervisorError, MonitorCommandError
from godwit.model import DirtyWindow
from godwit.qemu.reply import as_object, number, text

if TYPE_CHECKING:
    from godwit.qemu.qom import Asks

SAMPLE_PAGES: Final = 4096
"""Pages of each gigabyte that are looked at: 16 MiB are hashed twice, some milliseconds of one core."""

PATIENCE: Final = 10.0
"""Seconds beyond its window that a measurement may take."""

_POLL: Final = 0.02
_MIB: Final = 1 << 20


async def measure(monitor: Asks, seconds: float) -> DirtyWindow:
    """Measure one window; the QEMU of before 8.2 knows whole seconds only, so the window may be longer than asked for.

    Raises MonitorCommandError where QEMU refuses, HypervisorError where it does not come to an end.
    """
    length = await _begin(monitor, seconds)
    await asyncio.sleep(length)
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE
    while True:
        reply = as_object(await monitor.execute("query-dirty-rate"), "query-dirty-rate")
        if text(reply, "status") == "measured":
            return DirtyWindow(length, round(number(reply, "dirty-rate") * _MIB * length))
        if loop.time() >= end:
            message = f"QEMU has not measured the dirty rate within {length + PATIENCE:g} s"
            raise HypervisorError(message)
        await asyncio.sleep(_POLL)


async def _begin(monitor: Asks, seconds: float) -> float:
    """Start to measure; returns the window's length in seconds."""
    asked: dict[str, object] = {"mode": "page-sampling", "sample-pages": SAMPLE_PAGES}
    try:
        finely = {"calc-time": round(seconds * 1000), "calc-time-unit": "millisecond"}
        await monitor.execute("calc-dirty-rate", asked | finely)
    except MonitorCommandError as error:
        if "calc-time-unit" not in error.message:
            raise
    else:
        return seconds
    whole = max(1, math.ceil(seconds))
    await monitor.execute("calc-dirty-rate", asked | {"calc-time": whole})
    return float(whole)
