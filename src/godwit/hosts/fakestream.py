"""A simulated migration stream: passes over a link of given rate, in the manner of QEMU's precopy.

Memory is a quantity, not pages: in `t` seconds a guest dirties hot * (1 - exp(-rate * t / hot)) distinct bytes, the
saturating curve that page sampling shows on real guests. What QEMU believes to have sent may still wait in the
kernel's send queue; that part of the blackout QEMU does not report.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from godwit.model import Sample
from godwit.units import MIB

if TYPE_CHECKING:
    from godwit.hosts.fakeqemu import FakeQemu
    from godwit.ports import Clock

DEVICE_STATE: Final = 0.002
"""Seconds to save the devices on the source, and to load them on the target."""

MACHINE: Final = 0.015
"""Seconds from a QEMU's first monitor until its machine is made around the memory that it was given."""

KEPT_FROM: Final = 2
"""Passes after which a page that is sent was sent before and kept: QEMU fills its cache in the second one."""

LOOKS, LOOKS_APART = 2, 1.0
"""How often a guest must have written too much before it is slowed down, and the least seconds between two looks."""

MINIMUM_PASS: Final = 0.005
"""Seconds: no pass is shorter, for finding the dirty pages takes time, too."""

TCP_GIVES_UP: Final = 924.0
"""Seconds after which a Linux kernel ends a connection whose other end does not answer (net.ipv4.tcp_retries2 = 15)."""

WAITS: Final = "wait-unplug"
"""The word of a stream that waits until the guest has let go of a NIC that QEMU takes from it."""

LIVE: Final = frozenset({"setup", WAITS, "active", "pre-switchover", "device"})
OVER, BROKEN = "postcopy-active", "postcopy-paused"
"""The words of a guest that has gone over to the target before its memory, and of one that has lost its connection."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What a simulated guest does with its memory: sizes in bytes, `dirty_rate` in bytes a second.

    `disk_rate` is what it writes to each of its disks, in bytes a second.

    `used` is what a first pass has to send; the guest rewrites `hot_set` over and over. `power_off` is how many seconds
    it takes to switch itself off when its power button is pressed, None where it does not listen to it; the first
    `presses_missed` it does not hear, as one that is only booting. `says` is what it prints on its console once it runs
    anew or elsewhere. `agent` says whether its agent obeys, None where it
    has no channel for one. `again` is the share of a page that its changes take, as xbzrle sends them, `compressed` the
    one that a page takes which multifd compresses. Its CPU is `busy` for that share of its time. `freed` of what it has
    used it uses no more; its balloon, which `yields` when memory runs short, can have that. `cached` it only keeps of
    its disks. `network` is the bytes a second that go through its taps while its CPU gets what it asks for. It
    `lets_go` of a device so many seconds after it was asked, None where it never does.
    """

    memory: int = 512 * MIB
    used: int = 128 * MIB
    hot_set: int = 16 * MIB
    dirty_rate: float = 8.0 * MIB
    disk_rate: float = 0.0
    power_off: float | None = 0.02
    presses_missed: int = 0
    agent: bool | None = None
    says: bytes = b""
    again: float = 1.0
    compressed: float = 1.0
    busy: float = 1.0
    freed: int = 0
    cached: int = 0
    yields: bool = True
    network: float = 0.0
    lets_go: float | None = 0.15

    def writes(self, throttle: float) -> float:
        """Return the share of its writes that a guest comes to which sleeps `throttle` percent of its time."""
        return min(1.0, (1 - throttle / 100) / self.busy)

    def dirtied(self, seconds: float) -> float:
        """Return the distinct bytes that are dirtied in `seconds`."""
        return self.hot_set * -math.expm1(-self.dirty_rate * seconds / self.hot_set) if self.hot_set else 0.0


@dataclass(eq=False, slots=True)
class Link:
    """The way between two hosts: `bandwidth` in bytes a second, `latency` in seconds one way, `mtu` in bytes."""

    bandwidth: float
    latency: float
    up: bool = True
    mtu: int = 1500
    streams: int = 0
    cut_short: list[FakeStream] = field(default_factory=list)
    """Streams of which one end is gone, and the other does not know."""


class FakeStream:
    """One stream from `source` to `target`. It owns both sides' migration status while it lives."""

    def __init__(self, clock: Clock, link: Link, source: FakeQemu, target: FakeQemu, *, in_place: bool = False) -> None:
        """Prepare the stream; `start` lets it flow. `in_place` sends no memory: the target has it already."""
        self.in_place = in_place
        self.source, self.target, self.link = source, target, link
        self.iteration = 0
        self.transferred = 0.0
        self.remaining = 0.0 if in_place else float(source.used)
        self.dirty_rate = 0.0
        self.throttle = 0
        self._looked = clock.now()
        self._seen = 0
        self._goes_over = False
        self.result: dict[str, float] = {}
        self._clock = clock
        self._began = self._accounted = clock.now()
        self._stopped: float | None = None
        self._was_running = False
        self._queued = self._flowing = 0.0
        self._changed = asyncio.Event()
        self._released = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def release(self) -> None:
        """Let it go on into the switchover."""
        self._released.set()

    def start(self) -> None:
        """Begin to set up."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"stream-{self.source.vm.name}")

    @property
    def rate(self) -> float:
        """Bytes a second that flow now."""
        name = "max-postcopy-bandwidth" if self.source.migration == OVER else "max-bandwidth"
        cap = float(self.source.parameters[name]) or math.inf
        alive = self.source.alive and self.target.alive and BROKEN not in {self.source.migration, self.target.migration}
        flows = self.link.up and not self.source.hung and not self.target.hung and alive
        return min(cap, self.link.bandwidth / max(1, self.link.streams)) if flows else 0.0

    @property
    def again(self) -> float:
        """The share of a page that is sent of it: whole in the first two passes, then its changes where that is set."""
        if self.source.capabilities.get("multifd") and self.source.parameters["multifd-compression"] != "none":
            return self.source.workload.compressed
        changes = self.source.capabilities.get("xbzrle") and self.iteration > KEPT_FROM
        return self.source.workload.again if changes else 1.0

    @property
    def fitting(self) -> float:
        """Bytes of pages that fit into the downtime limit: at what the source was told, or sees on the wire."""
        pace = float(self.source.parameters["avail-switchover-bandwidth"]) or self.rate
        return pace * float(self.source.parameters["downtime-limit"]) / 1000

    def changed(self) -> None:
        """Look again at what decides the rate: a link, a parameter or a process has changed."""
        self._account()
        self._changed.set()

    def sample(self) -> Sample:
        """Return the counters of this instant."""
        self._account()
        rate = self.rate
        return Sample(
            at=self._clock.now(),
            iteration=max(1, self.iteration),
            transferred=int(self.transferred),
            remaining=int(max(0.0, self.remaining)),
            total=self.source.workload.memory,
            rate=rate,
            dirty_rate=self.dirty_rate,
            expected_downtime=self.remaining / rate if rate else None,
            throttle=self.throttle,
        )

    def go_over(self) -> None:
        """Let the guest go over to the target before its memory, as soon as may be."""
        self._goes_over = True
        self._changed.set()

    def break_off(self, *sides: FakeQemu) -> None:
        """Lose the connection of a guest in postcopy, as far as these sides know; a target without devices exits."""
        for qemu in sides:
            if qemu.alive and qemu.migration == OVER:
                qemu.set_migration(BROKEN)
        if self.target in sides and self.target.alive and self.target.raw == "inmigrate":
            self.target.exit("load of migration failed: the stream ended")
        self.changed()

    def connect_again(self) -> None:
        """Take the stream of a guest in postcopy up again."""
        for qemu in (self.source, self.target):
            qemu.set_migration(OVER)
        self.changed()

    def end(self, status: str, *, told: bool = True) -> None:
        """End the stream before its time: "failed" or "cancelled". QEMU takes a stopped source back by itself.

        A stopped process (SIGSTOP) learns of it when it goes on. A guest in postcopy only loses its connection. The
        target is not `told` behind a cut link: it waits on.
        """
        if self.source.migration in {OVER, BROKEN}:
            self.break_off(self.source, *((self.target,) if told else ()))
            return
        if self.source.migration not in LIVE and self.source.migration != "cancelling":
            return
        if self.source.alive and self.source.hung:
            self.source.backlog.append(partial(self.end, status, told=told))
            return
        self._stop_task()
        if self.source.alive:
            self.source.set_migration(status)
            self.source.direct.show()
            if self.source.raw == "finish-migrate":
                self.source.halt("paused")
                if self._was_running:
                    self.source.execute()
        if told and self.target.alive and self.target.raw == "inmigrate":
            if self.target.hung:
                self.target.backlog.append(partial(self.target.exit, "load of migration failed: the stream ended"))
                return
            self.target.set_migration("failed")
            self.target.exit("load of migration failed: the stream ended")

    def cut_short(self, gone: FakeQemu) -> None:
        """Stand still: one end is gone, with its host or behind a cut link, and the other hears nothing.

        It hears when the link is mended. Where the host has lost its power, whoever sends to it hears when that has
        started anew, or when TCP gives up; whoever only waits, never.
        """
        if not gone.host.crashed:
            self.link.cut_short.append(self)
        elif gone is self.target:
            gone.host.cut_short.append(self)
            asyncio.get_running_loop().call_later(TCP_GIVES_UP, self.end, "failed")
        self.changed()

    def _stop_task(self) -> None:
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        self._task = None

    # -- the stages ------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        self._say("setup")
        await self._pause(4 * self.link.latency + DEVICE_STATE)
        if self.in_place:
            self.target.bear()
            await self._pause(MACHINE)
        await self._let_go()
        self._say("active")
        self.link.streams += 1
        try:
            if not self.in_place:
                await self._precopy()
            await (self._postcopy() if self._goes_over else self._switch_over())
        finally:
            self.link.streams -= 1

    async def _let_go(self) -> None:
        """Wait until the guest has let go of its failover primaries; the target must have the very same devices."""
        if self.source.direct.primaries:
            self.source.set_migration(WAITS)
            await self._pause(self.source.workload.lets_go)
            self.source.direct.hide()
        if not self.target.direct.fits(self.source):
            self.target.exit("load of migration failed: the devices are not the same")
            self.end("failed")
            await asyncio.Event().wait()

    def _say(self, status: str) -> None:
        self.source.set_migration(status)
        self.target.set_migration(status if status in {"setup", "active"} else self.target.migration)

    async def _precopy(self) -> None:
        """Send passes until what is left fits into the downtime limit (migration_iteration_run)."""
        self._account()
        self._next_pass(0.0, 0.0)
        while True:
            began = self._clock.now()
            await self._send(leave=True)
            executed = self.source.executed_since(began) * self.source.workload.writes(self.throttle)
            self._next_pass(self.source.workload.dirtied(executed), self._clock.now() - began)
            if self._goes_over:
                return
            if self.rate and self.remaining <= self.fitting:
                return

    def _next_pass(self, dirtied: float, seconds: float) -> None:
        self.iteration += 1
        self.remaining += dirtied
        self._slow_down(dirtied, seconds * self.rate)
        self.dirty_rate = dirtied / seconds if seconds else 0.0
        self.source.tell("MIGRATION_PASS", number=self.iteration)

    def _slow_down(self, dirtied: float, sent: float) -> None:
        """Let the guest sleep more where it wrote too much: each second look a second apart (auto-converge)."""
        parameters = self.source.parameters
        if not self.source.capabilities.get("auto-converge") or self._clock.now() - self._looked <= LOOKS_APART:
            return
        self._looked = self._clock.now()
        self._seen += dirtied > sent * float(parameters["throttle-trigger-threshold"]) / 100
        if self._seen < LOOKS:
            return
        self._seen = 0
        further = self.throttle + int(parameters["cpu-throttle-increment"])
        self.throttle = min(
            further if self.throttle else int(parameters["cpu-throttle-initial"]), int(parameters["max-cpu-throttle"])
        )

    async def _postcopy(self) -> None:
        """Stop the guest, let the target have its devices, and send the rest while it may run there."""
        self._stopped = self._clock.now()
        self._was_running = self.source.raw == "running"
        self.source.halt("finish-migrate")
        self.source.set_migration(OVER)
        await self._pause(DEVICE_STATE + self.link.latency)
        self.target.take_over(self.source)
        await self._send(leave=False)
        self.target.set_migration("completed")
        await self._pause(self.link.latency)
        self._complete_source(DEVICE_STATE)

    async def _switch_over(self) -> None:
        """Stop the guest, send the rest, load it; then the target is complete, and the source learns of it."""
        self._stopped = self._clock.now()
        self._was_running = self.source.raw == "running"
        self.source.halt("finish-migrate")
        if self.source.capabilities.get("pause-before-switchover"):
            self.source.set_migration("pre-switchover")
            await self._released.wait()
        self.source.set_migration("device")
        self._queued = unsent = min(self.source.send_queue, self.transferred)
        self.remaining += unsent / self.again
        await self._send(leave=False, minimum=0.0)
        believed = self._clock.now() - self._stopped - unsent / self.rate
        await self._pause(DEVICE_STATE + self.link.latency)
        if not self.source.capabilities.get("return-path"):
            self._complete_source(believed)
        await self._pause(DEVICE_STATE * self.source.jitter())
        self.target.receive(self.source)
        await self._pause(self.link.latency)
        self._complete_source(believed)

    def _complete_source(self, believed: float) -> None:
        if self.source.migration == "completed":
            return
        self.result = {
            "total-time": (self._clock.now() - self._began) * 1000,
            "downtime": (max(0.0, believed) + DEVICE_STATE) * 1000,
            "setup-time": DEVICE_STATE * 1000,
            "transferred": self.transferred,
            "passes": float(self.iteration),
        }
        self.source.complete_stream()

    # -- bytes and time --------------------------------------------------------------------------------------------

    def _account(self) -> None:
        """Book what has flowed since the last look."""
        now = self._clock.now()
        if self.source.migration in {"active", "device", OVER}:
            sent = min(max(0.0, self.remaining) * self.again, self._flowing * (now - self._accounted))
            self.remaining -= sent / self.again
            fresh = sent - min(sent, self._queued)
            self._queued -= sent - fresh
            self.transferred += fresh
        self._accounted, self._flowing = now, self.rate

    async def _send(self, *, leave: bool, minimum: float = MINIMUM_PASS) -> None:
        """Let bytes flow until nothing is left, or with `leave` what fits, and for `minimum` seconds at least."""
        end = self._clock.now() + minimum
        while True:
            self._account()
            now, rate = self._clock.now(), self.rate
            left = self.fitting if leave else 0.0
            if leave and self._goes_over:
                return
            if rate and self.remaining <= left + 1 and now >= end:
                return
            seconds = max((self.remaining - left) * self.again / rate, end - now) if rate else None
            await self._wait(seconds)

    async def _pause(self, seconds: float | None) -> None:
        """Let `seconds` pass (None: all time), and go on when both sides work and the link is up."""
        if seconds is None:
            await asyncio.Event().wait()
            return
        end = self._clock.now() + seconds
        while (left := end - self._clock.now()) > 0 or not self.rate:
            await self._wait(left if left > 0 else None)

    async def _wait(self, seconds: float | None) -> None:
        """Wait `seconds`, or until something has changed."""
        self._changed.clear()
        changed = asyncio.ensure_future(self._changed.wait())
        waits: list[asyncio.Task[bool] | asyncio.Task[None]] = [changed]
        if seconds is not None:
            waits.append(asyncio.ensure_future(self._clock.sleep(seconds)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
