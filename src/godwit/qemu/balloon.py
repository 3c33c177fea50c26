"""A guest's balloon: what of its memory is free, and taking that from it for a while (virtio-balloon).

QEMU asks the guest for figures at once when it is told to do so every second, and keeps their time in whole seconds
(hw/virtio/virtio-balloon.c). Its own setting is put back afterwards.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from godwit.errors import MonitorCommandError
from godwit.model import Balloon
from godwit.qemu import qom
from godwit.qemu.reply import as_object, inner, number, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from godwit.qemu.qom import Asks

_TYPES: Final = "virtio-balloon"
_INTERVAL: Final = "guest-stats-polling-interval"
_PATIENCE: Final = 1.5
"""Seconds that a guest has to say how its memory is used; one whose kernel starts, or is stopped, says nothing."""

_POLL: Final = 0.05


async def read(monitor: Asks) -> Balloon | None:
    """Return what the guest's balloon is like, None for a guest that has none.

    The guest is asked what is free only where its balloon may be of use: one that yields when memory runs short.
    """
    try:
        size = await left(monitor)
    except MonitorCommandError:
        return None
    path = await _path(monitor)
    if path is None:
        return Balloon(size)
    if await qom.get(monitor, path, "deflate-on-oom") is not True:
        return Balloon(size)
    free, available = await _free(monitor, path)
    return Balloon(size, free, yields=True, available=available)


async def left(monitor: Asks) -> int:
    """Return the bytes of its memory that the balloon leaves to the guest. Raises MonitorCommandError without one."""
    return whole(as_object(await monitor.execute("query-balloon"), "query-balloon"), "actual")


async def leave(monitor: Asks, size: int) -> None:
    """Let the balloon leave `size` bytes of its memory to the guest; `query-balloon` says how far it is."""
    await monitor.execute("balloon", {"value": size})


async def _path(monitor: Asks) -> str | None:
    """Return where the balloon is among the devices; QEMU has one at most."""
    for parent in (qom.PERIPHERAL, qom.ANONYMOUS):
        for name, kind in (await qom.children(monitor, parent)).items():
            if kind.startswith(_TYPES):
                return f"{parent}/{name}"
    return None


_Figures = tuple[int | None, int | None]


async def _free(monitor: Asks, path: str) -> _Figures:
    """Return the bytes of memory that the guest uses for nothing, and those that it could; None where it is silent."""
    interval = await qom.get(monitor, path, _INTERVAL)
    if isinstance(interval, int) and interval > 0:  # somebody keeps asking already
        return (await _figures(monitor, path))[1]
    asked, _ = await _figures(monitor, path)
    await monitor.execute("qom-set", {"path": path, "property": _INTERVAL, "value": 1})
    try:
        loop = asyncio.get_running_loop()
        end = loop.time() + _PATIENCE
        while True:
            at, found = await _figures(monitor, path)
            if at != asked or loop.time() >= end:
                return found
            await asyncio.sleep(_POLL)
    finally:
        await monitor.execute("qom-set", {"path": path, "property": _INTERVAL, "value": 0})


async def _figures(monitor: Asks, path: str) -> tuple[int, _Figures]:
    """Return when the guest last said how its memory is used, in seconds, how much is free and how much available."""
    found = await qom.get(monitor, path, "guest-stats")
    if found is None:
        return 0, (None, None)
    figures = as_object(found, "guest-stats")
    stats = inner(figures, "stats")
    return whole(figures, "last-update"), (_known(stats, "stat-free-memory"), _known(stats, "stat-available-memory"))


def _known(stats: Mapping[str, object], name: str) -> int | None:
    """Return a figure; what is not known is -1, which some QEMUs show as the largest number of 64 bits."""
    found = number(stats, name, -1)
    return int(found) if 0 <= found < 1 << 62 else None
