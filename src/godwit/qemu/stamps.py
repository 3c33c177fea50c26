"""Handover stamps: dirty bitmaps that a disk and its copy get while the guest stands still between them.

In a qcow2 image they are persistent: QEMU keeps them through restarts, and marks those of an image that it did not
close in order as in use, so that a gap in what they recorded is seen. A raw image can hold none: there a bitmap lives
as long as its QEMU. See "Dirty Bitmaps and Incremental Backup" in QEMU's documentation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.core.disks import STAMP_PREFIX
from godwit.errors import MonitorCommandError
from godwit.model import Stamp
from godwit.qemu.reply import as_objects, flag, inner, inner_objects, text, whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from godwit.model import DiskCopy
    from godwit.qemu.qom import Asks

GRANULARITY: Final = 65536
"""Bytes for each bit: qcow2's usual cluster, and what a backup copies at once."""

_NONE: Final = "not found"


def trusted(inserted: Mapping[str, object]) -> Iterator[Stamp]:
    """Yield the stamps of a disk, from its part of query-block's reply, that have recorded without a gap."""
    for row in _rows(inserted):
        without_gap = flag(row, "recording") and not flag(row, "inconsistent")
        if text(row, "name").startswith(STAMP_PREFIX) and without_gap:
            yield Stamp(text(row, "name"), whole(row, "count"))


def _rows(inserted: Mapping[str, object]) -> Iterable[Mapping[str, object]]:
    return inner_objects(inserted, "dirty-bitmaps") if "dirty-bitmaps" in inserted else ()


async def add(monitor: Asks, nodes: Mapping[str, str], copies: Iterable[DiskCopy]) -> tuple[str, ...]:
    """Set the stamps of copies, whose guest must stand still; returns what QEMU said of those that it refused."""
    refused = []
    for copy in copies:
        if not copy.stamp:
            continue
        stamp: dict[str, object] = {"node": nodes[copy.name], "name": copy.stamp, "granularity": GRANULARITY}
        try:
            await monitor.execute("block-dirty-bitmap-add", {**stamp, "persistent": copy.image.format == "qcow2"})
        except MonitorCommandError as error:  # an image of an old kind (compat=0.10) holds no bitmaps
            refused.append(f"{copy.name}: {error.message}")
    return tuple(refused)


async def remove(monitor: Asks, node: str, stamp: str) -> None:
    """Remove a stamp, if it is there."""
    try:
        await monitor.execute("block-dirty-bitmap-remove", {"node": node, "name": stamp})
    except MonitorCommandError as error:
        if _NONE not in error.message:
            raise


async def forget_all(monitor: Asks) -> None:
    """Remove all stamps of all disks, before a snapshot is loaded.

    A snapshot changes a disk past all bitmaps, so QEMU refuses to load one while there are any (bdrv_snapshot_goto()
    in block/snapshot.c: "Device has active dirty bitmaps").
    """
    rows = as_objects(await monitor.execute("query-named-block-nodes", {"flat": True}), "query-named-block-nodes")
    for row in rows:
        for bitmap in _rows(row):
            if text(bitmap, "name").startswith(STAMP_PREFIX):
                await remove(monitor, text(row, "node-name"), text(bitmap, "name"))


async def forget_others(monitor: Asks, rows: Mapping[str, Mapping[str, object]], copies: Iterable[DiskCopy]) -> None:
    """Remove all stamps but the copies' own; `rows` are query-block's by the disk's name."""
    for copy in copies:
        if copy.name not in rows:  # a medium that was taken out meanwhile
            continue
        inserted = inner(rows[copy.name], "inserted")
        for row in _rows(inserted):
            name = text(row, "name")
            if name.startswith(STAMP_PREFIX) and name != copy.stamp:
                await remove(monitor, text(inserted, "node-name"), name)
