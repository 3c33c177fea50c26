"""Snapshots of a running guest in its own images: QEMU's jobs snapshot-save, -load and -delete (QEMU 6.0 and later).

QEMU does the work in its main loop: until the job has concluded no monitor of the guest answers, and the job cannot be
cancelled. It stops the guest by itself and lets one that ran go on; after a load that failed it leaves it stopped, in
the state `restore-vm`, though `cont` would be obeyed. Measured on QEMU 10.0.2.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Final

from godwit.core.snapshots import DiskSnapshots, ImageSnapshot
from godwit.errors import MonitorCommandError, MonitorLostError
from godwit.qemu import stamps
from godwit.qemu.media import name_of
from godwit.qemu.monitor import LOST
from godwit.qemu.reply import as_objects, flag, inner, inner_objects, text, whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from godwit.qemu.monitor import Monitor, MonitorEvents

PATIENCE: Final = 3600.0
"""Seconds that a job may take: nobody can end it, and who waits for it can be interrupted."""

_OURS: Final = "godwit-snapshot-"
_BILLION: Final = 1e9


async def read(monitor: Monitor, paths: Mapping[str, str]) -> tuple[DiskSnapshots, ...]:
    """List the guest's disks with the snapshots in them; `paths` are where they lie on the host, by disk."""
    rows = as_objects(await monitor.execute("query-block"), "query-block")
    return tuple(_disk(row, paths) for row in rows if "inserted" in row)


def _disk(row: Mapping[str, object], paths: Mapping[str, str]) -> DiskSnapshots:
    inserted = inner(row, "inserted")
    return DiskSnapshots(
        name=name_of(row),
        path=paths.get(name_of(row), text(inserted, "file")),
        format=text(inserted, "drv"),
        read_only=flag(inserted, "ro"),
        node=text(inserted, "node-name"),
        snapshots=tuple(entries(inner(inserted, "image"))),
    )


def entries(image: Mapping[str, object]) -> Iterator[ImageSnapshot]:
    """Read the snapshots in a description of an image, as QMP and `qemu-img info` give it."""
    for row in inner_objects(image, "snapshots"):
        yield ImageSnapshot(
            tag=text(row, "name"),
            identifier=text(row, "id"),
            taken=whole(row, "date-sec") + whole(row, "date-nsec") / _BILLION,
            vm_clock=whole(row, "vm-clock-sec") + whole(row, "vm-clock-nsec") / _BILLION,
            state_size=whole(row, "vm-state-size"),
        )


async def save(monitor: Monitor, tag: str, vmstate: str, nodes: Sequence[str]) -> float:
    """Keep memory, devices and the disks `nodes` as `tag`, the memory in `vmstate`; returns the standstill's seconds.

    Raises MonitorCommandError with QEMU's reason.
    """
    await _one_stream(monitor)
    return await _run(monitor, "snapshot-save", {"tag": tag, "vmstate": vmstate, "devices": list(nodes)})


async def load(monitor: Monitor, tag: str, vmstate: str, nodes: Sequence[str]) -> float:
    """Take the guest back to `tag`; returns the seconds for which one that ran stood still.

    Raises MonitorCommandError with QEMU's reason: the guest is stopped then, and what it holds is not defined.
    """
    await stamps.forget_all(monitor)
    await _one_stream(monitor)
    return await _run(monitor, "snapshot-load", {"tag": tag, "vmstate": vmstate, "devices": list(nodes)})


async def delete(monitor: Monitor, tag: str, nodes: Sequence[str]) -> None:
    """Remove `tag` from those disks; one that does not have it is none the worse. Raises MonitorCommandError."""
    await _run(monitor, "snapshot-delete", {"tag": tag, "devices": list(nodes)})


async def _one_stream(monitor: Monitor) -> None:
    """See to it that multifd is off, which somebody may have left on: QEMU 7.2 and 10.0 die of a snapshot with it."""
    rows = as_objects(await monitor.execute("query-migrate-capabilities"), "query-migrate-capabilities")
    if any(text(row, "capability") == "multifd" and flag(row, "state") for row in rows):
        off = [{"capability": "multifd", "state": False}]
        await monitor.execute("migrate-set-capabilities", {"capabilities": off})


async def _run(monitor: Monitor, command: str, arguments: Mapping[str, object]) -> float:
    """Run a job to its end and dismiss it. Returns for how many seconds the guest stood still, by its host's clock."""
    await _dismiss_left(monitor)
    job = f"{_OURS}{secrets.token_hex(4)}"
    events = monitor.events()
    await monitor.execute(command, {"job-id": job, **arguments}, deadline=PATIENCE)
    try:
        async with asyncio.timeout(PATIENCE):
            still = await _concluded(monitor, events, job)
    except TimeoutError:
        message = f"`{command}` of {monitor.where} has not ended within {PATIENCE:.0f} s"
        raise MonitorLostError(message, remedy="see whether the guest's disk hangs") from None
    reason = (await _jobs(monitor)).get(job, {})
    await monitor.execute("job-dismiss", {"id": job})
    if words := text(reason, "error"):
        message = f"QEMU of {monitor.where} failed in `{command}`: {words}"
        raise MonitorCommandError(message)
    return still


async def _concluded(monitor: Monitor, events: MonitorEvents, job: str) -> float:
    stopped: float | None = None
    still = 0.0
    async for event in events:
        instant = event.received if event.host_time is None else event.host_time
        if event.name == "STOP":
            stopped = instant
        elif event.name == "RESUME" and stopped is not None:
            still, stopped = still + instant - stopped, None
        elif event.name == "JOB_STATUS_CHANGE" and (event.data.get("id"), event.data.get("status")) == (
            job,
            "concluded",
        ):
            return still if stopped is None else still + instant - stopped
        elif event.name == LOST:
            message = f"the monitor of {monitor.where} went away while a snapshot was worked on"
            raise MonitorLostError(message, remedy="godwit vm list says whether the guest still runs")
    return still


async def _dismiss_left(monitor: Monitor) -> None:
    """Dismiss jobs of ours that ended when nobody listened any more."""
    for identifier, row in (await _jobs(monitor)).items():
        if identifier.startswith(_OURS) and text(row, "status") == "concluded":
            await monitor.execute("job-dismiss", {"id": identifier})


async def _jobs(monitor: Monitor) -> dict[str, Mapping[str, object]]:
    return {text(row, "id"): row for row in as_objects(await monitor.execute("query-jobs"), "query-jobs")}
