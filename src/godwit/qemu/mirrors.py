"""Copying disks to another QEMU: NBD on the target, a mirror job for each disk on the source.

A mirror that is ready keeps both sides alike; `block-job-cancel` without force then ends it whole and leaves the guest
on its own disk (job-complete would move it to the copy). Measured on QEMU 10.0.2, TCG. An older copy that is there
already is filled up, see godwit.qemu.fillup.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

from godwit.core.trust import verified_name
from godwit.errors import HypervisorError, MonitorCommandError
from godwit.model import DiskMode, MirrorView
from godwit.qemu import credentials, fillup, fleecing
from godwit.qemu.media import name_of
from godwit.qemu.reply import as_objects, flag, inner, text, whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from godwit.model import DiskCopy
    from godwit.qemu.qom import Asks

T = TypeVar("T")

_POLL: Final = 0.05
_SYNC: Final = {DiskMode.FULL: "full", DiskMode.INCREMENTAL: "top"}
"""What a mirror copies: everything that can be read, or what the topmost image holds itself."""


_FINEST, _COARSEST = 4096, 64 << 20
_MOST_MARKS: Final = 1 << 28


def granularity(copy: DiskCopy) -> int:
    """Return the bytes that one mark of what is still to be copied stands for, a power of two.

    QEMU's own choice is the target's cluster: a guest that writes 4 KiB has 64 KiB sent again. A bit for each 4 KiB is
    32 MiB for a disk of a tebibyte; larger disks have no more bits than that.
    """
    size = _FINEST
    while size < _COARSEST and copy.image.virtual_size > size * _MOST_MARKS:
        size *= 2
    return size


async def serve(monitor: Asks, address: str, port: int, copies: Sequence[DiskCopy], *, encrypted: bool = False) -> None:
    """Take disks at `address`:`port`. An export makes an inactive node of a waiting QEMU writable by itself."""
    nodes = await nodes_of(monitor)
    server = {"type": "inet", "data": {"host": address, "port": str(port)}}
    # Two connections for each of a disk's jobs: one that breaks may still be there when the next is made.
    connections = sum(4 if copy.since else 2 for copy in copies) + (credentials.STRANGERS if encrypted else 0)
    start = {"addr": server, "max-connections": connections, **credentials.served(encrypted)}
    await monitor.execute("nbd-server-start", start)
    for copy in copies:
        export = {"type": "nbd", "id": copy.job, "node-name": found(nodes, copy.name), "name": copy.job}
        await monitor.execute("block-export-add", {**export, "writable": True})
        if copy.verify:
            await fleecing.lay_out(monitor, copy, found(nodes, copy.name))


async def stop_serving(monitor: Asks) -> None:
    """Close the server, its exports with it."""
    try:
        await monitor.execute("nbd-server-stop")
    except MonitorCommandError as error:
        if "not running" not in error.message:
            raise


async def start(monitor: Asks, copy: DiskCopy, address: str, port: int, speed: int, *, encrypted: bool = False) -> None:
    """Begin to copy a disk, or go on with it where a former runner left it."""
    far: dict[str, object] = {"driver": "nbd", "export": copy.job}
    far |= {"server": {"type": "inet", "host": address, "port": str(port)}}
    far |= credentials.reached(address, verified_name(address), encrypted)
    # Zeroes that the source has written become holes on the target.
    far |= {"discard": "unmap", "detect-zeroes": "unmap"}
    under_way = copy.job in await _jobs(monitor)
    if not copy.since:
        if not under_way:
            node = found(await nodes_of(monitor), copy.name)
            await _mirror(monitor, copy, node, far, {"sync": _SYNC[copy.mode], "speed": speed})
        return
    top = fillup.Names(copy.job).top
    if not under_way:
        await fillup.take_off(monitor, copy)
        await fillup.put_on_top(monitor, copy, found(await rows_of(monitor), copy.name))
        await _mirror(monitor, copy, top, far, {"sync": "none", "copy-mode": "write-blocking"})
    await fillup.fill(monitor, copy, await fillup.below(monitor, copy, top), far, speed)


async def _mirror(
    monitor: Asks, copy: DiskCopy, node: str, far: Mapping[str, object], how: Mapping[str, object]
) -> None:
    """Start the mirror of `node` to what `far` describes."""
    there = f"{copy.job}-far"
    await fillup.delete(monitor, there)
    await monitor.execute("blockdev-add", {**far, "node-name": there})
    mirror = {
        "job-id": copy.job,
        "device": node,
        "target": there,
        "copy-mode": "background",
        "granularity": granularity(copy),
        **how,
    }
    try:
        await monitor.execute("blockdev-mirror", {**mirror, "filter-node-name": fillup.Names(copy.job).filter})
    except MonitorCommandError:
        await monitor.execute("blockdev-del", {"node-name": there})
        raise


async def set_speed(monitor: Asks, copy: DiskCopy, speed: int) -> None:
    """Limit a job to `speed` bytes a second; 0 means no limit."""
    for job in {copy.job, fillup.Names(copy.job).fill} & await _working(monitor):
        await monitor.execute("block-job-set-speed", {"device": job, "speed": speed})


async def keep_alike(monitor: Asks, copy: DiskCopy) -> None:
    """Let each write of the guest wait until both sides have it, so that the copy cannot fall behind any more."""
    change = {"id": copy.job, "type": "mirror", "copy-mode": "write-blocking"}
    await monitor.execute("block-job-change", change)


async def views(monitor: Asks, copies: Sequence[DiskCopy]) -> tuple[MirrorView, ...]:
    """Say how far the jobs of these disks are; a copy one of whose jobs has failed is absent."""
    mirrors = await _jobs(monitor)
    filling = await fillup.jobs(monitor) if any(copy.since for copy in copies) else {}
    seen = []
    for copy in copies:
        row = mirrors.get(copy.job)
        if row is None:
            continue
        view = MirrorView(copy.name, whole(row, "offset"), whole(row, "len"), ready=flag(row, "ready"))
        seen.append(fillup.view(copy, view, filling) if copy.since else view)
    return tuple(view for view in seen if view is not None)


async def end(monitor: Asks, copy: DiskCopy) -> None:
    """Let a ready job end whole."""
    await monitor.execute("block-job-cancel", {"device": copy.job})


async def forget(monitor: Asks, copies: Sequence[DiskCopy]) -> None:
    """Close the connections to where the copies went, once their jobs have ended."""
    for copy in copies:
        if copy.since:
            await fillup.dismiss(monitor, copy)
        await fillup.delete(monitor, f"{copy.job}-far")


async def cancel(monitor: Asks, copies: Sequence[DiskCopy], patience: float) -> None:
    """End jobs whatever they have done, within `patience` seconds, and forget where they went."""
    ours = {name for copy in copies for name in (copy.job, fillup.Names(copy.job).fill)}
    for name in ours & await _working(monitor):
        try:
            await monitor.execute("block-job-cancel", {"device": name, "force": True})
        except MonitorCommandError:
            if name in await _working(monitor):  # it has not just ended by itself
                raise
    async with asyncio.timeout(patience):
        while ours & await _working(monitor):  # noqa: ASYNC110 - who calls may not listen to events
            await asyncio.sleep(_POLL)
    await forget(monitor, copies)
    for copy in copies:
        if copy.since:
            await fillup.take_off(monitor, copy)


async def _jobs(monitor: Asks) -> dict[str, dict[str, object]]:
    rows = as_objects(await monitor.execute("query-block-jobs"), "query-block-jobs")
    return {text(row, "device"): dict(row) for row in rows}


async def _working(monitor: Asks) -> set[str]:
    """Return the jobs that have not ended; one that nobody has dismissed yet is listed on."""
    return {name for name, row in (await _jobs(monitor)).items() if text(row, "status") != "concluded"}


async def rows_of(monitor: Asks) -> dict[str, Mapping[str, object]]:
    """Return query-block's rows of the disks by name."""
    rows = as_objects(await monitor.execute("query-block"), "query-block")
    return {name_of(row): row for row in rows if "inserted" in row}


async def nodes_of(monitor: Asks) -> dict[str, str]:
    """Return the disks' own block nodes by the disk's name."""
    rows = await rows_of(monitor)
    return {name: text(inner(row, "inserted"), "node-name") for name, row in rows.items()}


async def own_node(monitor: Asks, copy: DiskCopy) -> str:
    """Return the node of the disk itself, whatever a mirror or a fill-up has put above it."""
    top = found(await nodes_of(monitor), copy.name)
    while True:
        try:
            return await fillup.below(monitor, copy, top)
        except HypervisorError:
            now = found(await nodes_of(monitor), copy.name)
            if now == top:
                raise
            top = now  # a job that ended between the two questions took its node along


def found(known: Mapping[str, T], disk: str) -> T:
    """Return what is known of a disk. Raises HypervisorError, naming the disks that there are."""
    if disk not in known:
        message = f"the guest has no disk {disk}; it has {', '.join(sorted(known)) or 'none'}"
        raise HypervisorError(message)
    return known[disk]
