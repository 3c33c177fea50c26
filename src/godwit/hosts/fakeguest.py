"""The control monitor of a simulated QEMU, held by one client: the port `Guest`."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final, Self, TypeVar

from godwit.errors import MonitorLostError
from godwit.hosts import fakehuman, fakesnapshots
from godwit.hosts.fakedevices import FakePlugs
from godwit.hosts.fakedisks import CHANGE
from godwit.hosts.fakenetwork import macvtaps_of
from godwit.hosts.fakeqemu import CAPABILITIES, COMMANDS, PARAMETERS, RUN_STATES, VERSION
from godwit.hosts.fakeworld import format_of
from godwit.hosts.memorysample import PAUSE, SAMPLE
from godwit.model import (
    Balloon,
    DirtyWindow,
    DiskFacts,
    Features,
    GuestFacts,
    GuestView,
    MemorySample,
    NicFacts,
    Sample,
    Stamp,
)
from godwit.ports import GuestEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from godwit.core.snapshots import DiskSnapshots
    from godwit.hosts.fakeqemu import FakeQemu
    from godwit.model import DiskCopy, MirrorView

T = TypeVar("T")

COMMAND_DEADLINE: Final = 5.0
"""Seconds after which a command without an answer counts as lost."""

OUT_OF_BAND: Final = frozenset({"migrate-pause", "migrate-recover"})
"""What is carried out although QEMU's main loop waits for a page of its guest's memory."""


class FakeEvents:
    """The events of a guest from the moment it was made; ends after LOST."""

    def __init__(self) -> None:
        """Begin empty."""
        self._queue: asyncio.Queue[GuestEvent] = asyncio.Queue()
        self._ended = False

    def put(self, event: GuestEvent) -> None:
        """Append an event."""
        self._queue.put_nowait(event)

    def __aiter__(self) -> Self:
        """Iterate over this very stream."""
        return self

    async def __anext__(self) -> GuestEvent:
        """Wait for the next event."""
        if self._ended:
            raise StopAsyncIteration
        event = await self._queue.get()
        self._ended = event.kind == "LOST"
        return event


class FakeGuest(FakePlugs):
    """The control monitor of a simulated QEMU, held by one client. Implements `godwit.ports.Guest`."""

    def __init__(self, qemu: FakeQemu) -> None:
        """Hold the monitor of `qemu`."""
        self._qemu = qemu
        self._world = qemu.world
        self.controller = qemu.world.controller
        self.session = self.controller.session_on(qemu.host)
        self._left = False
        self._streams: list[FakeEvents] = []
        self._unheard: list[GuestEvent] = []
        self._unsent: list[Callable[[], object]] = []
        self._lost: GuestEvent | None = None
        self._latest: asyncio.Event | None = None
        qemu.monitor = self

    # -- the connection --------------------------------------------------------------------------------------------

    def hear(self, event: GuestEvent) -> None:
        """Pass one of QEMU's events on, or keep it while the host is out of reach."""
        if self._qemu.host.reachable:
            self._put(event)
        else:
            self._unheard.append(event)

    def heal(self) -> None:
        """Deliver what was said while the host was out of reach, both ways."""
        for event in self._unheard:
            self._put(event)
        self._unheard.clear()
        unsent, self._unsent = self._unsent, []
        for command in unsent:
            if self._lost is None:
                self._qemu.obey(command)

    def lose(self, reason: str) -> None:
        """End the connection."""
        if self._lost is None:
            self._lost = GuestEvent("LOST", self._world.clock.now(), status=reason)
            self._put(self._lost)
            if self._qemu.monitor is self:
                self._qemu.monitor = None
            self._world.stir()

    def leave(self, reason: str) -> None:
        """End the connection from this end: what was sent before arrives all the same, as long as its session lives."""
        self._left = self._left or self._lost is None
        self.lose(reason)

    def _put(self, event: GuestEvent) -> None:
        for stream in self._streams:
            stream.put(event)

    async def _tell(self, command: str, act: Callable[[], T]) -> T:
        """Carry a command out: a round trip, the faults that were planted, and then QEMU's own mind."""
        qemu = self._qemu
        await self.controller.awake()
        self._check_open(f"`{command}` was not sent")
        await self._arrive()
        arrived = qemu.host.reachable and self.session not in qemu.host.ended_sessions
        answered = await self._world.until(lambda: self._answers(command) or self._lost is not None, COMMAND_DEADLINE)
        if arrived and self._left:
            qemu.obey(act)
        self._check_open(f"`{command}` was under way")
        if not answered:
            if qemu.host.reachable:
                qemu.backlog.append(act)
            elif self._lost is None:
                self._unsent.append(act)  # TCP goes on trying: it arrives when the way is mended
            message = f"QEMU of {qemu.vm.name} did not answer `{command}` within {COMMAND_DEADLINE:g} s"
            raise MonitorLostError(message, remedy="see whether the process is stopped or its host is cut off")
        words = self._world.planted_refusal(qemu.host, command)
        if words is not None:
            qemu.refuse(command, words)
        return act()

    async def _arrive(self) -> None:
        """Let the way there and back take its time; what was said before arrives before."""
        before, self._latest = self._latest, asyncio.Event()
        arrived = self._latest
        try:
            await self._qemu.host.round_trip()
            if before is not None:
                await before.wait()
        finally:
            arrived.set()

    def _check_open(self, what: str) -> None:
        if self._lost is not None:
            where = f"{self._qemu.vm.name} on {self._qemu.host.name}"
            message = f"the monitor of {where} is gone ({self._lost.status}): {what}"
            raise MonitorLostError(message)

    def _answers(self, command: str) -> bool:
        waits = self._qemu.waits_for_memory and command not in OUT_OF_BAND
        return self._qemu.host.reachable and not self._qemu.hung and not waits and not self._qemu.sends_in_vain

    async def close(self) -> None:
        """Close the connection; the guest is not touched. Never raises."""
        self.leave("it was closed")

    # -- the port --------------------------------------------------------------------------------------------------

    async def features(self) -> Features:
        """Return what this QEMU can do."""
        found = Features(COMMANDS, CAPABILITIES, frozenset(PARAMETERS))
        return await self._tell("query-commands", lambda: found)

    def events(self) -> FakeEvents:
        """Yield events from the moment of the call on, in order; ends after LOST."""
        stream = FakeEvents()
        if self._lost is not None:
            stream.put(self._lost)
        self._streams.append(stream)
        return stream

    async def view(self) -> GuestView:
        """Return run state and stream status of this instant."""
        return await self._tell("query-status", self._qemu.view)

    async def facts(self) -> GuestFacts:
        """Describe the machine and how to start it elsewhere."""
        return await self._tell("query-block", self._facts)

    def _facts(self) -> GuestFacts:
        qemu = self._qemu
        disks = tuple(self._disk(number, path, size) for number, (path, size) in enumerate(self._world.disks_of(qemu)))
        nics = tuple(NicFacts(f"net{n}", f"52:54:00:00:00:{n:02x}", tap) for n, tap in enumerate(qemu.launch.taps))
        return GuestFacts(
            vm=qemu.vm.name,
            run_state=RUN_STATES[qemu.raw],
            qemu_version=VERSION,
            machine="pc-q35-10.0",
            accelerator="tcg",
            cpu_model="qemu64",
            memory=qemu.workload.memory,
            vcpus=1,
            disks=disks,
            nics=nics,
            launch=qemu.launch,
            pid=qemu.pid,
            blockers=qemu.direct.blockers(),
            direct=qemu.direct.facts(),
        )

    def _disk(self, number: int, path: str, size: int) -> DiskFacts:
        file = self._world.file(path, self._qemu.host.name)
        recorded = self._world.disks.stamps.get(file.inode, {}) if file else {}
        stamps = tuple(Stamp(name, len(since) * CHANGE) for name, since in recorded.items())
        read_only = path in self._world.read_only or path.endswith(".iso")
        return DiskFacts(f"disk{number}", path, format_of(path), read_only, virtual_size=size, stamps=stamps)

    async def set_capabilities(self, capabilities: dict[str, bool]) -> None:
        """Switch migration capabilities; only before a stream starts."""
        await self._tell("migrate-set-capabilities", lambda: self._qemu.set_capabilities(capabilities))

    async def set_parameters(self, parameters: dict[str, int | str | bool]) -> None:
        """Set migration parameters, in QEMU's own units."""
        await self._tell("migrate-set-parameters", lambda: self._qemu.set_parameters(parameters))

    async def use_credentials(self, folder: str, *, let_in: str = "", far: str = "") -> None:
        """Encrypt from now on with the credentials in `folder`."""
        await self._tell("object-add", lambda: self._qemu.tls.use(folder, let_in, far))

    async def forget_credentials(self) -> None:
        """Encrypt nothing any more."""
        await self._tell("object-del", self._qemu.tls.forget)

    async def listen(self, uri: str) -> str:
        """Make the waiting guest accept a stream at `uri`; returns where it does."""
        return await self._tell("migrate-incoming", lambda: self._qemu.listen(uri))

    async def migrate(self, uri: str) -> None:
        """Start the stream to `uri`."""
        await self._tell("migrate", lambda: self._qemu.migrate(uri))

    async def go_over(self) -> None:
        """Let the guest go over to the target before its memory."""
        await self._tell("migrate-start-postcopy", self._qemu.go_over)

    async def break_stream(self) -> None:
        """Give up the connection of a guest in postcopy."""
        await self._tell("migrate-pause", self._qemu.break_stream)

    async def listen_again(self, uri: str) -> None:
        """Accept a new connection for a guest in postcopy."""
        await self._tell("migrate-recover", lambda: self._qemu.listen_again(uri))

    async def send_again(self, uri: str) -> None:
        """Connect a guest in postcopy to where its target listens again."""
        await self._tell("migrate", lambda: self._qemu.send_again(uri))

    async def hand_over_hindrances(self) -> tuple[str, ...]:
        """Return why another process cannot take the guest's memory as it stands."""
        return await self._tell("query-migrate", self._qemu.hand_over_hindrances)

    async def hand_over(self, path: str) -> None:
        """Start a stream that hands the memory over to the process that waits at `path`."""
        await self._tell("migrate", lambda: self._qemu.hand_over(path))

    async def forget_hand_over(self) -> None:
        """Let the next stream be an ordinary one: a simulated QEMU keeps no mode."""
        await self._tell("migrate-set-parameters", lambda: None)

    async def sample(self) -> Sample | None:
        """Read the stream's counters, or None before there are any and on the target."""
        return await self._tell("query-migrate", self._sample)

    def _sample(self) -> Sample | None:
        stream = self._qemu.stream
        return stream.sample() if stream is not None and stream.source is self._qemu and stream.iteration else None

    async def migration_result(self) -> dict[str, float]:
        """Return the final figures; those that there are none of are absent."""
        return await self._tell("query-migrate", lambda: dict(self._qemu.stream.result) if self._qemu.stream else {})

    async def serve_disks(
        self, address: str, port: int, copies: Sequence[DiskCopy], *, encrypted: bool = False
    ) -> None:
        """Take disks over the network."""
        del address, copies  # a simulated target knows its disks by their paths
        await self._tell("nbd-server-start", lambda: self._qemu.blocks.serve_disks(port, encrypted=encrypted))

    async def stop_serving(self) -> None:
        """Take disks no longer."""
        await self._tell("nbd-server-stop", self._qemu.blocks.stop_serving)

    async def start_mirror(
        self, copy: DiskCopy, address: str, port: int, speed: int, *, encrypted: bool = False
    ) -> None:
        """Copy a disk to where it is served."""
        start = partial(self._qemu.blocks.start_mirror, copy, address, port, speed, encrypted=encrypted)
        await self._tell("blockdev-mirror", start)

    async def freeze(self, copies: Sequence[DiskCopy]) -> None:
        """Keep disks that are to be compared as they are now."""
        jobs = [copy.job for copy in copies if copy.verify]
        if jobs:
            await self._tell("transaction", lambda: self._qemu.blocks.frozen.update(jobs))

    async def serve_frozen(
        self, address: str, port: int, copies: Sequence[DiskCopy], *, encrypted: bool = False
    ) -> None:
        """Serve disks as they were when they were frozen."""
        del address
        await self._tell("nbd-server-start", lambda: self._qemu.blocks.serve_frozen(port, copies, encrypted=encrypted))

    async def thaw(self, copies: Sequence[DiskCopy]) -> None:
        """Serve frozen disks no longer."""
        del copies
        await self._tell("nbd-server-stop", self._qemu.blocks.thaw)

    async def set_mirror_speed(self, copy: DiskCopy, speed: int) -> None:
        """Limit a copy that is under way."""
        await self._tell("block-job-set-speed", lambda: self._qemu.blocks.set_mirror_speed(copy, speed))

    async def keep_alike(self, copy: DiskCopy) -> bool:
        """Let each write of the guest wait for the copy; a simulated copy never falls behind."""
        await self._tell("block-job-change", lambda: copy)
        return True

    async def mirrors(self, copies: Sequence[DiskCopy]) -> tuple[MirrorView, ...]:
        """Say how far the copies are."""
        jobs = self._qemu.blocks.mirrors
        return await self._tell(
            "query-block-jobs", lambda: tuple(jobs[copy.job].view() for copy in copies if copy.job in jobs)
        )

    async def end_mirror(self, copy: DiskCopy) -> None:
        """Let a copy that is ready end whole."""
        await self._tell("block-job-cancel", lambda: self._qemu.blocks.end_mirror(copy))

    async def forget_mirrors(self, copies: Sequence[DiskCopy]) -> None:
        """Close the connections of copies that have ended."""
        await self._tell("blockdev-del", lambda: copies)

    async def cancel_mirrors(self, copies: Sequence[DiskCopy]) -> None:
        """End copies before their time."""
        await self._tell("block-job-cancel", lambda: self._qemu.blocks.cancel_mirrors(copies))

    async def stamp_disks(self, copies: Sequence[DiskCopy]) -> tuple[str, ...]:
        """Set the handover stamps of copies."""
        return await self._tell("block-dirty-bitmap-add", lambda: self._qemu.blocks.stamp_disks(copies))

    async def forget_stamps(self, copies: Sequence[DiskCopy]) -> None:
        """Remove all handover stamps but the copies' own."""
        await self._tell("block-dirty-bitmap-remove", lambda: self._qemu.blocks.forget_stamps(copies))

    async def continue_stream(self) -> None:
        """Let a held stream go on."""
        await self._tell("migrate-continue", self._qemu.continue_stream)

    async def resume(self) -> None:
        """Tell the guest to run (`cont`)."""
        await self._tell("cont", self._run)

    def _run(self) -> None:
        self._qemu.cont()
        self._qemu.host.opened |= macvtaps_of(self._qemu.launch)

    async def pause(self) -> None:
        """Stop the guest's CPUs (`stop`)."""
        await self._tell("stop", self._qemu.stop)

    async def cancel_migration(self) -> None:
        """Cancel the stream."""
        await self._tell("migrate_cancel", self._qemu.cancel)

    async def announce(self) -> None:
        """Send the guest's addresses to the network again."""
        await self._tell("announce-self", self._announce)

    def _announce(self) -> None:
        self._qemu.announced += 1

    async def powerdown(self) -> None:
        """Press the power button; what comes of it is up to the guest (`Workload.power_off`)."""
        await self._tell("system_powerdown", self._qemu.inside.power_down)

    async def power_off_by_agent(self) -> bool:
        """Ask the guest's agent; what comes of it is up to the guest (`Workload.agent`)."""
        return await self._tell("guest-shutdown", self._qemu.inside.obey_agent)

    async def trim_by_agent(self) -> bool:
        """Let the guest's agent trim; where it obeys, its images shrink by half."""
        return await self._tell("guest-fstrim", self._qemu.inside.trim)

    async def addresses_by_agent(self) -> Mapping[str, tuple[str, ...]]:
        """Return the addresses that the guest's agent names, for each of its NICs one."""
        return await self._tell("guest-network-get-interfaces", self._qemu.inside.addresses)

    async def time_by_agent(self) -> float | None:
        """Return what the guest's clock shows (`FakeWorld.guest_clocks`)."""
        return await self._tell("guest-get-time", self._qemu.inside.time)

    async def set_time_by_agent(self, at: Callable[[], float]) -> bool:
        """Let the guest's agent set its clock."""
        return await self._tell("guest-set-time", lambda: self._qemu.inside.set_time(at()))

    async def keep_after_power_off(self, *, keep: bool) -> None:
        """Let QEMU outlive a guest that switches itself off, or end with it."""
        await self._tell("set-action", lambda: setattr(self._qemu, "outlives", keep))

    async def balloon(self) -> Balloon | None:
        """Return what the guest's balloon is like."""
        load, size = self._qemu.workload, await self.memory_left()
        free = max(0, size - load.used + load.freed)
        return Balloon(size, free, yields=load.yields, available=free + load.cached)

    async def leave_memory(self, size: int) -> None:
        """Let the balloon leave `size` bytes of its memory to the guest, at once."""
        await self._tell("balloon", lambda: setattr(self._qemu, "balloon", size))

    async def memory_left(self) -> int:
        """Return the bytes of its memory that the balloon leaves to the guest."""
        return await self._tell("query-balloon", lambda: self._qemu.balloon)

    async def dirty_window(self, seconds: float) -> DirtyWindow:
        """Measure how much of its memory the guest changes within `seconds`."""
        await self._tell("calc-dirty-rate", lambda: None)
        await self._world.clock.sleep(seconds)
        workload = self._qemu.workload
        unique = await self._tell("query-dirty-rate", lambda: workload.dirtied(seconds))
        return DirtyWindow(seconds, round(unique))

    async def cpu_times(self) -> tuple[float, ...]:
        """Return the seconds for which the guest's CPU has worked so far."""
        return await self._tell("query-cpus-fast", lambda: (self._qemu.executed_since(0.0) * self._qemu.workload.busy,))

    async def cpu_threads(self) -> tuple[int, ...]:
        """Return the thread that plays the guest's only CPU."""
        return await self._tell("query-cpus-fast", lambda: (self._qemu.pid,))

    async def disk_writes(self) -> int:
        """Return the bytes that the guest has written to its disks so far."""
        disks = len(self._world.disks_of(self._qemu))
        rate = self._qemu.workload.disk_rate * disks
        return await self._tell("query-blockstats", lambda: round(self._qemu.executed_since(0.0) * rate))

    async def sample_memory(self) -> MemorySample:
        """Look at some pages of the guest's memory, whose changes take what its workload says."""
        await self._tell("human-monitor-command", lambda: None)
        await self._world.clock.sleep(PAUSE)
        load = self._qemu.workload
        zero, changed = (round(SAMPLE * part / load.memory) for part in (load.memory - load.used, load.dirtied(PAUSE)))
        return MemorySample(
            SAMPLE, zero, changed, load.again if changed else None, load.compressed, PAUSE, load.compressed
        )

    async def reset(self) -> None:
        """Press the reset button."""
        await self._tell("system_reset", self._qemu.inside.reset)

    async def human(self, line: str, *, deadline: float = 30.0) -> str:
        """Type a line at the human monitor and return what it prints; of QEMU's commands it knows a few."""
        del deadline  # all that it knows ends at once
        return await self._tell("human-monitor-command", lambda: fakehuman.answer(self._qemu, line))

    async def snapshots(self) -> tuple[DiskSnapshots, ...]:
        """List the disks and the snapshots in them."""
        return await self._tell("query-block", lambda: fakesnapshots.disks(self._qemu))

    async def save_snapshot(self, tag: str, vmstate: str, nodes: Sequence[str]) -> float:
        """Keep memory and disks as `tag`: the guest stands still meanwhile."""
        return await self._still("snapshot-save", lambda: fakesnapshots.save(self._qemu, tag, vmstate, nodes))

    async def load_snapshot(self, tag: str, vmstate: str, nodes: Sequence[str]) -> float:
        """Take the guest back to `tag`."""
        del vmstate
        return await self._still("snapshot-load", lambda: fakesnapshots.load(self._qemu, tag, nodes))

    async def _still(self, command: str, act: Callable[[], None]) -> float:
        """Let the guest stand still for as long as its memory takes, then act; it goes on unless `act` stopped it."""
        qemu, began = self._qemu, self._world.clock.now()
        ran = await self._tell(command, lambda: qemu.raw == "running")
        if ran:
            qemu.halt("paused")
        await self._world.until(lambda: not qemu.alive, fakesnapshots.seconds(qemu))
        self._check_open(f"`{command}` was under way")
        if ran:
            qemu.execute()
        act()
        return self._world.clock.now() - began if ran else 0.0

    async def delete_snapshot(self, tag: str, nodes: Sequence[str]) -> None:
        """Remove `tag` from these disks."""
        await self._tell("snapshot-delete", lambda: fakesnapshots.delete(self._qemu, tag, nodes))

    async def quit(self) -> None:
        """End QEMU; returns when the monitor has closed."""
        await self._tell("quit", lambda: self._qemu.exit("quit"))
