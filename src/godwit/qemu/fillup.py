"""Filling up an older copy of a disk: only what was written since its handover stamp goes over the link.

A mirror that copies nothing by itself (sync=none) sends each write of the guest to the older copy, too, from its start
on. Below it a backup job sends what the stamp's bitmap has: the state of its own start, since it copies a cluster out
before a write changes it. So a write that overtakes the backup arrives after what it replaces, and none is lost.

QEMU refuses two such jobs on one node. So a raw node is put between the guest's device and its disk while the guest
runs (the property `drive` of a realized device, QEMU 6.2): the mirror is on it, the backup below. Measured on 7.2.22
and 10.0.2 with virtio-blk, SCSI and IDE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from godwit.errors import HypervisorError, MonitorCommandError
from godwit.model import MirrorView
from godwit.qemu.blocknodes import read_graph
from godwit.qemu.media import name_of
from godwit.qemu.reply import as_objects, inner, text, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from godwit.model import DiskCopy
    from godwit.qemu.qom import Asks


@dataclass(frozen=True, slots=True)
class Names:
    """What a copy's jobs and nodes are called; at most 31 characters, as QEMU wants it."""

    mirror: str

    @property
    def fill(self) -> str:
        """The backup job."""
        return f"{self.mirror}-fill"

    @property
    def fill_far(self) -> str:
        """Where the backup goes; the mirror has a connection of its own."""
        return f"{self.mirror}-far2"

    @property
    def filter(self) -> str:
        """The node that the mirror puts above what it copies."""
        return f"{self.mirror}-mirror"

    @property
    def fill_filter(self) -> str:
        """The node that the backup puts above the disk."""
        return f"{self.mirror}-old"

    @property
    def top(self) -> str:
        """The raw node above the disk."""
        return f"{self.mirror}-top"


async def put_on_top(monitor: Asks, copy: DiskCopy, row: Mapping[str, object]) -> str:
    """Put a raw node between a disk and its device, whose row of query-block is given; returns the disk's own node.

    Raises HypervisorError, with nothing changed, where QEMU does not let the device be moved. A whole copy onto the
    older one would not do then: it zeroes all of it first, and an older copy that is left half way must stay one.
    """
    top = Names(copy.job).top
    node = text(inner(row, "inserted"), "node-name")
    await monitor.execute("blockdev-add", {"driver": "raw", "node-name": top, "file": node})
    try:
        await monitor.execute("qom-set", {"path": _device(row), "property": "drive", "value": top})
    except MonitorCommandError as error:
        await monitor.execute("blockdev-del", {"node-name": top})
        message = f"disk {copy.name} cannot be copied in part: {error.message}"
        raise HypervisorError(message, remedy=f"copy all of it: --disk {copy.name}=full") from error
    return node


async def take_off(monitor: Asks, copy: DiskCopy) -> None:
    """Give the device its disk back. Idempotent."""
    top = Names(copy.job).top
    rows = as_objects(await monitor.execute("query-block"), "query-block")
    row = next((row for row in rows if name_of(row) == copy.name and "inserted" in row), None)
    if row is not None and text(inner(row, "inserted"), "node-name") == top:
        node = await below(monitor, copy, top)
        await monitor.execute("qom-set", {"path": _device(row), "property": "drive", "value": node})
    await delete(monitor, top)


async def below(monitor: Asks, copy: DiskCopy, node: str) -> str:
    """Return the first node at or below `node` that no job of this copy has put there. Raises HypervisorError."""
    names = Names(copy.job)
    edges = (await read_graph(monitor)).edges
    while node in {names.filter, names.top, names.fill_filter}:
        children = edges.get(node, {})
        known = children.get("file") or children.get("backing")
        if known is None:
            message = f"QEMU does not say which block node lies below {node}"
            raise HypervisorError(message)
        node = known
    return node


async def fill(monitor: Asks, copy: DiskCopy, node: str, far: Mapping[str, object], speed: int) -> None:
    """Begin to send what was written since the stamp, unless that is under way or done; the mirror must be at work.

    `far` describes where to, `speed` is in bytes a second (0: no limit).
    """
    names = Names(copy.job)
    if names.fill in await jobs(monitor):
        return
    await delete(monitor, names.fill_far)
    await monitor.execute("blockdev-add", {**far, "node-name": names.fill_far})
    backup: dict[str, object] = {"job-id": names.fill, "device": node, "target": names.fill_far, "speed": speed}
    backup |= {"sync": "bitmap", "bitmap": copy.since, "bitmap-mode": "never", "filter-node-name": names.fill_filter}
    # Its end must still be known to a runner that was not there when it came.
    await monitor.execute("blockdev-backup", {**backup, "auto-dismiss": False})


def view(copy: DiskCopy, mirror: MirrorView, found: Mapping[str, Mapping[str, object]]) -> MirrorView | None:
    """Put both jobs together; `found` are query-jobs' rows by name. None where one of them has failed or is gone."""
    row = found.get(Names(copy.job).fill)
    if row is None or "error" in row:
        return None
    done = text(row, "status") == "concluded"
    return MirrorView(
        name=copy.name,
        done=mirror.done + whole(row, "current-progress"),
        needed=mirror.needed + whole(row, "total-progress"),
        ready=mirror.ready and done,
    )


async def jobs(monitor: Asks) -> dict[str, Mapping[str, object]]:
    """Return all jobs by name, those that have ended and were not dismissed as well."""
    rows = as_objects(await monitor.execute("query-jobs"), "query-jobs")
    return {text(row, "id"): row for row in rows}


async def dismiss(monitor: Asks, copy: DiskCopy) -> None:
    """Forget a backup that has ended, and close its connection. Idempotent."""
    names = Names(copy.job)
    row = (await jobs(monitor)).get(names.fill)
    if row is not None and text(row, "status") == "concluded":
        await monitor.execute("job-dismiss", {"id": names.fill})
    await delete(monitor, names.fill_far)


def _device(row: Mapping[str, object]) -> str:
    """Return the path of a disk's device in QEMU's object tree."""
    qdev = text(row, "qdev")
    return qdev if qdev.startswith("/") else f"/machine/peripheral/{qdev}"


async def delete(monitor: Asks, node: str) -> None:
    """Remove a block node, if it is there."""
    try:
        await monitor.execute("blockdev-del", {"node-name": node})
    except MonitorCommandError as error:
        if "Failed to find node" not in error.message and "Cannot find device" not in error.message:
            raise
