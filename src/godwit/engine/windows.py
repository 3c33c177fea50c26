"""Measuring how a running guest changes its memory, window by window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from godwit.core.dirtying import LONGER, WINDOWS, still_rises

if TYPE_CHECKING:
    from godwit.model import DirtyWindow
    from godwit.ports import Guest


async def measure_windows(guest: Guest, memory: int) -> tuple[DirtyWindow, ...]:
    """Measure windows of all lengths, some 8 s in all, and one of LONGER seconds where the curve still rises.

    `memory` is the guest's, in bytes. Raises HypervisorError, HostError.
    """
    windows: list[DirtyWindow] = []
    shortest = 0.0
    for seconds, times in WINDOWS:
        for _ in range(times):
            if seconds < shortest:
                continue
            window = await guest.dirty_window(seconds)
            windows.append(window)
            if window.seconds > seconds:  # this QEMU measures nothing shorter
                shortest = window.seconds
    if still_rises(windows, memory):
        windows.append(await guest.dirty_window(LONGER))
    return tuple(windows)
