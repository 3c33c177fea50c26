"""The two guests' monitors: open, watched, looked at, and opened again after a loss."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from godwit.core import events as e
from godwit.errors import GodwitError, MonitorLostError, SupersededError
from godwit.model import GuestView, RunState, Side, StreamStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from godwit.core.ledger import Ledger
    from godwit.engine.parts import Parts
    from godwit.ports import Guest, GuestEvent

LOOK_DEADLINE: Final = 3.0
"""Seconds after which a monitor that does not answer counts as silent."""

PROCESS_DEADLINE: Final = 9.0
"""Seconds more that its host may take to tell whether the process of a silent monitor lives."""

_OF_DEVICES: Final = {
    "DEVICE_DELETED": "the guest has let go of it,",
    "DEVICE_KEPT": "the guest does not let go of it,",
    "UNPLUG_PRIMARY": "QEMU asks the guest to let go of it,",
    "FAILOVER_NEGOTIATED": "the guest can do without the NIC that it stands in for,",
}
_STREAM_WORDS: Final = {
    "completed": StreamStatus.COMPLETED,
    "failed": StreamStatus.FAILED,
    "cancelled": StreamStatus.CANCELLED,
}


@dataclass(slots=True)
class Sides:
    """Keeps one monitor per side, turns what it says into events of the machine, and reads clocks on the way.

    `emit` takes the machine's events; `on_pass`, if set, is called when a pass ends, `on_mirror` when the copy of a
    disk has ended on the source. `asked` holds when a command that
    makes an event was sent, so that the event's own timestamp becomes a reading of that host's clock.
    """

    parts: Parts
    ledger: Ledger
    tasks: asyncio.TaskGroup
    emit: Callable[[e.Event], None]
    on_pass: Callable[[], None] | None = None
    on_mirror: Callable[[GuestEvent], None] | None = None
    guests: dict[Side, Guest] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    """Devices of which the guest on the source has said that it does not let go."""
    asked: dict[tuple[Side, str], float] = field(default_factory=dict)
    _opening: dict[Side, asyncio.Lock] = field(
        default_factory=lambda: {Side.SOURCE: asyncio.Lock(), Side.TARGET: asyncio.Lock()}
    )

    async def attach(self, side: Side, *, patience: float = 0.0) -> Guest:
        """Return the side's open monitor; opens and watches it if there is none. Raises HypervisorError, HostError.

        One that is only coming into being is waited for for `patience` seconds.
        """
        async with self._opening[side]:
            guest = self.guests.get(side)
            if guest is None:
                guest = await self.parts.host(side).attach(self.parts.vm_on(side), patience=patience)
                self.guests[side] = guest
                # Subscribed here and now: what the next command causes must not be missed.
                self.tasks.create_task(self._watch(side, guest, guest.events()), name=f"watch-{side}")
        return guest

    async def _watch(self, side: Side, guest: Guest, events: AsyncIterator[GuestEvent]) -> None:
        async for event in events:
            if event.kind == "LOST":
                if self.guests.get(side) is guest:
                    del self.guests[side]
                await guest.close()
                self.emit(e.Lost(side))
                return
            self._take(side, event)

    def _take(self, side: Side, event: GuestEvent) -> None:
        word = event.status if event.kind == "MIGRATION" else event.kind
        sent = self.asked.get((side, word))
        if sent is not None and event.host_time is not None:
            self.ledger.bracket(side, sent, event.host_time, event.received)
        if event.kind == "MIGRATION":
            self._take_status(side, event)
        elif event.kind == "MIGRATION_PASS" and side is Side.SOURCE and self.on_pass is not None:
            self.on_pass()
        elif event.kind == "MIRROR_ENDED" and side is Side.SOURCE and self.on_mirror is not None:
            self.on_mirror(event)
        elif event.kind in _OF_DEVICES:
            self._take_device(side, event)
        elif event.kind == "STOP" and side is Side.SOURCE:
            self._mark("source_stopped", event)
            self.emit(e.SourceStopped())
        elif event.kind == "RESUME":
            if side is Side.TARGET:
                self._mark("target_running", event)
            self.emit(e.TargetRunning() if side is Side.TARGET else e.SourceResumed())

    def _take_device(self, side: Side, event: GuestEvent) -> None:
        """Tell what QEMU and the guest do about a device; what they did is looked at, events may be missed."""
        if not event.status:  # a path without a name: one that has a name comes beside it
            return
        if event.kind == "DEVICE_KEPT" and side is Side.SOURCE:
            self.kept.add(event.status)
        text = f"{event.status}: {_OF_DEVICES[event.kind]} on {self.parts.host(side).name}"
        self.parts.journal.note(self.parts.spec.id, "device", event.received, {"text": text})

    def _take_status(self, side: Side, event: GuestEvent) -> None:
        if event.status == "pre-switchover" and side is Side.SOURCE:
            self.emit(e.StreamHeld())
        if event.status == "postcopy-active":
            self.emit(e.WentOver(side))
        if event.status == "postcopy-paused":
            self.emit(e.StreamBroke(side))
        status = _STREAM_WORDS.get(event.status)
        if status is None:
            return
        if status is StreamStatus.COMPLETED:
            self._mark(f"{side}_completed", event)
        self.emit(e.StreamEnded(side, status))

    def _mark(self, name: str, event: GuestEvent) -> None:
        """Keep an instant on both clocks and in the journal, so that a later runner has it, too."""
        data: dict[str, object] = {"name": name, "received": event.received}
        if self.ledger.mark(name, event.received) and event.host_time is not None:
            self.ledger.mark(f"{name}_host", event.host_time)
            data["host_time"] = event.host_time
        self.parts.journal.note(self.parts.spec.id, "mark", event.received, data)

    async def look(self, side: Side, *, closely: bool = False) -> GuestView:
        """Say what the guest does on that side; silence is a view, too. Never raises GodwitError.

        Who looks `closely` is also told by the host whether a process lives whose monitor does not answer.
        """
        silent = GuestView(RunState.UNREACHABLE, detail=f"no answer within {LOOK_DEADLINE:.0f} s")
        try:
            async with asyncio.timeout(LOOK_DEADLINE):
                return await self._look(side)
        except TimeoutError:
            if not closely:
                return silent
        try:
            async with asyncio.timeout(PROCESS_DEADLINE):
                return await self._process(side)
        except TimeoutError:
            return silent

    async def _look(self, side: Side) -> GuestView:
        guest: Guest | None = None
        try:
            guest = await self.attach(side)
            return await guest.view()
        except MonitorLostError:
            # Only this one: another may have been opened meanwhile. Dropped and still open, a monitor keeps everybody
            # out, us as well, and who watches it never comes to an end.
            if guest is not None and self.guests.get(side) is guest:
                del self.guests[side]
                await guest.close()
        except GodwitError:
            # Whatever keeps the monitor from being opened: the host itself still knows whether the process lives.
            pass
        return await self._process(side)

    async def _process(self, side: Side) -> GuestView:
        """Say what the host knows of the process; what keeps us from asking it is silence, too. Raises SupersededError.

        A journal whose disk is full does: no connection is used that is not in it.
        """
        try:
            return await self.parts.host(side).observe(self.parts.vm_on(side))
        except SupersededError:
            raise
        except GodwitError as error:
            return GuestView(RunState.UNREACHABLE, detail=error.message)

    async def close(self) -> None:
        """Let go of both monitors, which ends their watchers; the guests are not touched."""
        for guest in list(self.guests.values()):
            await guest.close()
        self.guests.clear()
