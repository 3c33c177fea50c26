"""Keeping a disk as it is at an instant while its guest writes on.

An image lies above the disk, and a job copies to it whatever is about to be overwritten: "image fleecing", see
blockdev-backup in QEMU's docs/interop/live-block-operations.rst.

Measured on QEMU 10.0.2: a node that is added to a QEMU that waits for a stream is inactive, and an active one may not
write to it. An export that may write makes it active; so it gets one, for as long as the disks are served.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from godwit.errors import MonitorCommandError, MonitorLostError
from godwit.qemu import credentials
from godwit.qemu.media import name_of
from godwit.qemu.reply import as_objects, inner, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.model import DiskCopy
    from godwit.qemu.qom import Asks

THAW_DEADLINE: Final = 10.0
"""Seconds that a job which keeps a disk may take to end."""

_POLL: Final = 0.05


async def lay_out(monitor: Asks, copy: DiskCopy, node: str) -> None:
    """Open the image that is to keep what is overwritten of `node`, while the NBD server runs."""
    kept: dict[str, object] = {"driver": "qcow2", "node-name": _kept(copy), "backing": node}
    kept |= {"file": {"driver": "file", "filename": copy.frozen}}
    await monitor.execute("blockdev-add", kept)
    export = {"type": "nbd", "id": _kept(copy), "node-name": _kept(copy), "name": _kept(copy), "writable": True}
    await monitor.execute("block-export-add", export)


async def freeze(monitor: Asks, copies: Sequence[DiskCopy]) -> None:
    """Keep all disks that are to be compared as they are at one instant."""
    wanted = [copy for copy in copies if copy.verify]
    if not wanted:
        return
    nodes = await _backing_nodes(monitor, wanted)
    jobs = [
        {"job-id": _kept(copy), "device": nodes[_kept(copy)], "target": _kept(copy), "sync": "none"} for copy in wanted
    ]
    await monitor.execute("transaction", {"actions": [{"type": "blockdev-backup", "data": job} for job in jobs]})


async def serve(monitor: Asks, address: str, port: int, copies: Sequence[DiskCopy], *, encrypted: bool = False) -> None:
    """Serve what was kept; a server that a former runner started is taken down first."""
    await _stop_serving(monitor)
    server = {"type": "inet", "data": {"host": address, "port": str(port)}}
    connections = 2 * len(copies) + (credentials.STRANGERS if encrypted else 0)
    start = {"addr": server, "max-connections": connections, **credentials.served(encrypted)}
    await monitor.execute("nbd-server-start", start)
    for copy in copies:
        export = {"type": "nbd", "id": copy.job, "node-name": _kept(copy), "name": copy.job, "writable": False}
        await monitor.execute("block-export-add", export)


async def thaw(monitor: Asks, copies: Sequence[DiskCopy]) -> None:
    """End serving and keeping. Raises MonitorLostError where a job does not end."""
    await _stop_serving(monitor)
    ours = {_kept(copy) for copy in copies}
    for job in ours & await _jobs(monitor):
        await monitor.execute("block-job-cancel", {"device": job, "force": True})
    try:
        async with asyncio.timeout(THAW_DEADLINE):
            while ours & await _jobs(monitor):  # noqa: ASYNC110 - who calls may not listen to events
                await asyncio.sleep(_POLL)
    except TimeoutError:
        message = f"a disk is still kept as it was after {THAW_DEADLINE:g} s"
        raise MonitorLostError(message, remedy="see whether its disk hangs") from None
    for node in sorted(ours):
        try:
            await monitor.execute("blockdev-del", {"node-name": node})
        except MonitorCommandError as error:
            if "Failed to find node" not in error.message and "Cannot find device" not in error.message:
                raise


async def _stop_serving(monitor: Asks) -> None:
    try:
        await monitor.execute("nbd-server-stop")
    except MonitorCommandError as error:
        if "not running" not in error.message:
            raise


async def _backing_nodes(monitor: Asks, copies: Sequence[DiskCopy]) -> dict[str, str]:
    """Return the disk's node for each image that keeps, by the latter's name."""
    rows = as_objects(await monitor.execute("query-block"), "query-block")
    nodes = {name_of(row): text(inner(row, "inserted"), "node-name") for row in rows if "inserted" in row}
    return {_kept(copy): nodes[copy.name] for copy in copies}


async def _jobs(monitor: Asks) -> set[str]:
    rows = as_objects(await monitor.execute("query-block-jobs"), "query-block-jobs")
    return {text(row, "device") for row in rows}


def _kept(copy: DiskCopy) -> str:
    return f"{copy.job}-kept"
