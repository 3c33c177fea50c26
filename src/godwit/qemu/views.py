"""QEMU's words for what a guest and its stream do, read into the words of Godwit's model. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self, get_args

from godwit.model import GuestView, RunState, Sample, StreamStatus
from godwit.ports import GuestEvent, GuestEventKind
from godwit.qemu.monitor import LOST
from godwit.qemu.reply import inner, number, text, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from godwit.qemu.monitor import MonitorEvent, MonitorEvents

RUN_STATES: Final = {
    "running": RunState.RUNNING,
    "paused": RunState.PAUSED,
    "prelaunch": RunState.PAUSED,
    "inmigrate": RunState.INCOMING,
    "finish-migrate": RunState.STOPPED_FOR_SWITCHOVER,
    "postmigrate": RunState.POSTMIGRATE,
    "shutdown": RunState.POWERED_OFF,
}
"""query-status: `prelaunch` is a guest started with -S that never ran; `inmigrate` takes `cont` and does not run (R);
a -S target that has received everything is `paused`. All others (io-error, suspended ...) are OTHER."""

STREAM_STATUSES: Final = {
    "": StreamStatus.NONE,
    "none": StreamStatus.NONE,
    "setup": StreamStatus.SETUP,
    "wait-unplug": StreamStatus.SETUP,
    "active": StreamStatus.ACTIVE,
    "pre-switchover": StreamStatus.HELD,
    "device": StreamStatus.SWITCHOVER,
    "postcopy-device": StreamStatus.POSTCOPY,
    "postcopy-active": StreamStatus.POSTCOPY,
    "postcopy-recover-setup": StreamStatus.POSTCOPY,
    "postcopy-recover": StreamStatus.POSTCOPY,
    "postcopy-paused": StreamStatus.BROKEN,
    "completed": StreamStatus.COMPLETED,
    "failed": StreamStatus.FAILED,
    "cancelled": StreamStatus.CANCELLED,
}
"""query-migrate: `cancelling` and the words of COLO decide nothing by themselves and are OTHER."""

_KINDS: Final[dict[str, GuestEventKind]] = {kind: kind for kind in get_args(GuestEventKind)} | {
    "BLOCK_JOB_COMPLETED": "MIRROR_ENDED",
    "BLOCK_JOB_CANCELLED": "MIRROR_ENDED",
    "DEVICE_UNPLUG_GUEST_ERROR": "DEVICE_KEPT",
    "MEM_UNPLUG_ERROR": "DEVICE_KEPT",
}
_STATUS: Final = {
    LOST: "reason",
    "SHUTDOWN": "reason",
    "MIRROR_ENDED": "device",
    "DEVICE_DELETED": "device",
    "DEVICE_KEPT": "device",
    "UNPLUG_PRIMARY": "device-id",
    "FAILOVER_NEGOTIATED": "device-id",
}
_MEGABIT: Final = 1e6 / 8
_FIGURES: Final = ("total-time", "downtime", "setup-time")


class GuestEvents:
    """The events of a guest, taken from those of its monitor; ends after LOST."""

    def __init__(self, source: MonitorEvents) -> None:
        """Read from `source`, which holds events from the moment it was made."""
        self._source = source

    def __aiter__(self) -> Self:
        """Iterate over this very stream."""
        return self

    async def __anext__(self) -> GuestEvent:
        """Wait for the next event that means something to a migration."""
        while True:
            event = make_event(await anext(self._source))
            if event is not None:
                return event


def make_event(event: MonitorEvent) -> GuestEvent | None:
    """Read one of QEMU's events; None for those that mean nothing to a migration."""
    kind = _KINDS.get(event.name)
    if kind is None:
        return None
    return GuestEvent(
        kind=kind,
        received=event.received,
        host_time=event.host_time,
        status=text(event.data, _STATUS.get(kind, "status")),
        number=whole(event.data, "pass"),
        detail=_trouble(event),
    )


def _trouble(event: MonitorEvent) -> str:
    """Say what kept a job from ending whole: one that was cancelled before it was ready did not, either."""
    if event.name == "BLOCK_JOB_CANCELLED":
        return "it was cancelled"
    short = event.name == "BLOCK_JOB_COMPLETED" and whole(event.data, "offset") < whole(event.data, "len")
    return text(event.data, "error") or ("it ended early" if short else "")


def make_view(status: Mapping[str, object], migration: Mapping[str, object]) -> GuestView:
    """Read the replies of query-status and query-migrate; `raw` keeps QEMU's two words, `detail` its error."""
    run_word, stream_word = text(status, "status"), text(migration, "status")
    return GuestView(
        state=RUN_STATES.get(run_word, RunState.OTHER),
        stream=STREAM_STATUSES.get(stream_word, StreamStatus.OTHER),
        raw=f"{run_word}/{stream_word}" if stream_word else run_word,
        detail=text(migration, "error-desc"),
    )


def make_sample(migration: Mapping[str, object], at: float) -> Sample | None:
    """Read the counters in a reply of query-migrate; None where it has none: before the stream, and on the target."""
    if "ram" not in migration:
        return None
    ram = inner(migration, "ram")
    expected = number(migration, "expected-downtime") / 1000 if "expected-downtime" in migration else None
    return Sample(
        at=at,
        iteration=max(1, whole(ram, "dirty-sync-count")),
        transferred=whole(ram, "transferred"),
        remaining=whole(ram, "remaining"),
        total=whole(ram, "total"),
        rate=number(ram, "mbps") * _MEGABIT,
        dirty_rate=number(ram, "dirty-pages-rate") * number(ram, "page-size", 4096),
        expected_downtime=expected,
        throttle=whole(migration, "cpu-throttle-percentage"),
    )


def make_result(migration: Mapping[str, object]) -> dict[str, float]:
    """Read the final figures in a reply of query-migrate; those that QEMU does not give are absent."""
    result = {name: float(number(migration, name)) for name in _FIGURES if name in migration}
    if "ram" in migration:
        ram = inner(migration, "ram")
        result["transferred"] = float(whole(ram, "transferred"))
        result["passes"] = float(whole(ram, "dirty-sync-count"))
    return result
