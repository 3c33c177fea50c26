"""Copying disks to another QEMU: NBD on the target, a mirror job for each disk on the source.

A mirror that is ready keeps both sides alike; `block-job-cancel` without force then ends it whole and leaves the guest
on its own disk (job-complete would move it to the copy). Measured on QEMU 10.0.2, TCG.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from godwit.errors import HypervisorError, MonitorCommandError
from godwit.model import DiskMode, MirrorView
from godwit.qemu import fleecing
from godwit.qemu.media import name_of
from godwit.qemu.reply import as_objects, flag, inner, text, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.model import DiskCopy
    from godwit.qemu.qom import Asks


_POLL: Final = 0.05
_SYNC: Final = {DiskMode.FULL: "full", DiskMode.INCREMENTAL: "top"}
"""What a mirror copies: everything that can be read, or what the topmost image holds itself."""


async def serve(monitor: Asks, address: str, port: int, copies: Sequence[DiskCopy]) -> None:
    """Take disks at `address`:`port`. An export makes an inactive node of a waiting QEMU writable by itself."""
    nodes = await _nodes(monitor)
    server = {"type": "inet", "data": {"host": address, "port": str(port)}}
    # Two connections a disk: one that breaks may still be there when the next is made.
    await monitor.execute("nbd-server-start", {"addr": server, "max-connections": 2 * len(copies)})
    for copy in copies:
        export = {"type": "nbd", "id": copy.job, "node-name": _node(nodes, copy.name), "name": copy.job}
        await monitor.execute("block-export-add", {**export, "writable": True})
        if copy.verify:
            await fleecing.lay_out(monitor, copy, _node(nodes, copy.name))


async def stop_serving(monitor: Asks) -> None:
    """Close the server, its exports with it."""
    try:
        await monitor.execute("nbd-server-stop")
    except MonitorCommandError as error:
        if "not running" not in error.message:
            raise


async def start(monitor: Asks, copy: DiskCopy, address: str, port: int, speed: int) -> None:
    """Begin to copy a disk, unless that is under way already."""
    job = copy.job
    if job in await _jobs(monitor):
        return
    node = _node(await _nodes(monitor), copy.name)
    target: dict[str, object] = {"driver": "nbd", "node-name": f"{job}-far", "export": job}
    target |= {"server": {"type": "inet", "host": address, "port": str(port)}}
    # Zeroes that the source has written become holes on the target.
    target |= {"discard": "unmap", "detect-zeroes": "unmap"}
    await monitor.execute("blockdev-add", target)
    mirror = {"job-id": job, "device": node, "target": f"{job}-far", "sync": _SYNC[copy.mode], "speed": speed}
    mirror |= {"copy-mode": "background", "filter-node-name": f"{job}-mirror"}
    try:
        await monitor.execute("blockdev-mirror", mirror)
    except MonitorCommandError:
        await monitor.execute("blockdev-del", {"node-name": f"{job}-far"})
        raise


async def set_speed(monitor: Asks, copy: DiskCopy, speed: int) -> None:
    """Limit a job to `speed` bytes a second; 0 means no limit."""
    await monitor.execute("block-job-set-speed", {"device": copy.job, "speed": speed})


async def keep_alike(monitor: Asks, copy: DiskCopy) -> None:
    """Let each write of the guest wait until both sides have it, so that the copy cannot fall behind any more."""
    change = {"id": copy.job, "type": "mirror", "copy-mode": "write-blocking"}
    await monitor.execute("block-job-change", change)


async def views(monitor: Asks, copies: Sequence[DiskCopy]) -> tuple[MirrorView, ...]:
    """Say how far the jobs of these disks are."""
    jobs = await _jobs(monitor)
    return tuple(
        MirrorView(
            name=copy.name,
            done=whole(row, "offset"),
            needed=whole(row, "len"),
            ready=flag(row, "ready"),
        )
        for copy in copies
        if (row := jobs.get(copy.job)) is not None
    )


async def end(monitor: Asks, copy: DiskCopy) -> None:
    """Let a ready job end whole."""
    await monitor.execute("block-job-cancel", {"device": copy.job})


async def forget(monitor: Asks, copies: Sequence[DiskCopy]) -> None:
    """Close the connections to where the copies went, once their jobs have ended."""
    for copy in copies:
        try:
            await monitor.execute("blockdev-del", {"node-name": f"{copy.job}-far"})
        except MonitorCommandError as error:
            if "Failed to find node" not in error.message and "Cannot find device" not in error.message:
                raise


async def cancel(monitor: Asks, copies: Sequence[DiskCopy], patience: float) -> None:
    """End jobs whatever they have done, within `patience` seconds, and forget where they went."""
    for copy in copies:
        if copy.job in await _jobs(monitor):
            await monitor.execute("block-job-cancel", {"device": copy.job, "force": True})
    ours = {copy.job for copy in copies}
    async with asyncio.timeout(patience):
        while ours & (await _jobs(monitor)).keys():  # noqa: ASYNC110 - who calls may not listen to events
            await asyncio.sleep(_POLL)
    await forget(monitor, copies)


async def _jobs(monitor: Asks) -> dict[str, dict[str, object]]:
    rows = as_objects(await monitor.execute("query-block-jobs"), "query-block-jobs")
    return {text(row, "device"): dict(row) for row in rows}


async def _nodes(monitor: Asks) -> dict[str, str]:
    rows = as_objects(await monitor.execute("query-block"), "query-block")
    return {name_of(row): text(inner(row, "inserted"), "node-name") for row in rows if "inserted" in row}


def _node(nodes: dict[str, str], disk: str) -> str:
    if disk not in nodes:
        message = f"the guest has no disk {disk}; it has {', '.join(sorted(nodes)) or 'none'}"
        raise HypervisorError(message)
    return nodes[disk]
