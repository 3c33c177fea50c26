"""A simulated QEMU process and its monitor: the words, the states and the carelessness of the real one.

Read in QEMU's sources or measured on 10.0: `cont` in `inmigrate` only arms, in `finish-migrate` it is refused, and
after a completed migration it succeeds on both sides; capabilities cannot change while a stream runs; MIGRATION events
come only with the `events` capability; a failed incoming QEMU exits; a stopped process (SIGSTOP) carries out what it
was told when it goes on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Self, TypeVar

from godwit.errors import MonitorCommandError, MonitorLostError
from godwit.hosts import fakehuman
from godwit.hosts.fakemirror import FakeMirror
from godwit.hosts.fakestream import LIVE, FakeStream
from godwit.model import (
    DiskFacts,
    Features,
    GuestFacts,
    GuestView,
    Launch,
    NicFacts,
    RunState,
    Sample,
    StreamStatus,
    Vm,
)
from godwit.ports import GuestEvent, GuestEventKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from godwit.hosts.fake import FakeHost
    from godwit.hosts.fakestream import Workload
    from godwit.hosts.fakeworld import FakeWorld
    from godwit.model import DiskCopy, MirrorView

T = TypeVar("T")

COMMAND_DEADLINE: Final = 5.0
"""Seconds after which a command without an answer counts as lost."""

RUN_STATES: Final = {
    "running": RunState.RUNNING,
    "paused": RunState.PAUSED,
    "inmigrate": RunState.INCOMING,
    "finish-migrate": RunState.STOPPED_FOR_SWITCHOVER,
    "postmigrate": RunState.POSTMIGRATE,
}
STREAM_STATUSES: Final = {
    "": StreamStatus.NONE,
    "setup": StreamStatus.SETUP,
    "active": StreamStatus.ACTIVE,
    "pre-switchover": StreamStatus.HELD,
    "device": StreamStatus.SWITCHOVER,
    "cancelling": StreamStatus.OTHER,
    "completed": StreamStatus.COMPLETED,
    "failed": StreamStatus.FAILED,
    "cancelled": StreamStatus.CANCELLED,
}
CAPABILITIES: Final = frozenset({"events", "return-path", "late-block-activate", "pause-before-switchover"})
PARAMETERS: Final = {"downtime-limit": 300, "max-bandwidth": 128 * 1024 * 1024}
COMMANDS: Final = frozenset({"migrate", "migrate_cancel", "migrate-incoming", "cont", "stop", "quit", "announce-self"})
VERSION: Final = (10, 0, 2)


class FakeQemu:
    """One QEMU process on one host. `memory` names the content of its memory: a copy that ran on has another name."""

    def __init__(self, host: FakeHost, vm: Vm, launch: Launch, workload: Workload, *, incoming: bool) -> None:
        """Start the process: running, or waiting for a stream."""
        self.host, self.vm, self.launch, self.workload = host, vm, launch, workload
        self.world: FakeWorld = host.world
        self.pid = self.world.next_number()
        self.raw = "inmigrate" if incoming else "paused"
        self.migration = ""
        self.detail = ""
        self.memory = self.world.next_number()
        self.capabilities = dict.fromkeys(sorted(CAPABILITIES), False)
        self.parameters: dict[str, int | str | bool] = dict(PARAMETERS)
        self.port: int | None = None
        self.disks_port: int | None = None
        self.mirrors: dict[str, FakeMirror] = {}
        self.stream: FakeStream | None = None
        self.hung = False
        self.alive = True
        self.armed = False
        self.announced = 0
        self.monitor: FakeGuest | None = None
        self.backlog: list[Callable[[], object]] = []
        if not incoming:
            self.world.boot(self)
            self.execute()

    # -- CPUs ------------------------------------------------------------------------------------------------------

    def execute(self) -> None:
        """Let the CPUs run. Nothing here prevents a second copy: QEMU does not, either; the world takes note."""
        self.raw = "running"
        self.world.began(self)
        self.tell("RESUME")

    def halt(self, raw: str) -> None:
        """Stop the CPUs; `raw` is QEMU's word for the state that follows."""
        was_running, self.raw = self.raw == "running", raw
        if was_running:
            self.world.ceased(self)
            self.tell("STOP")

    def executed_since(self, instant: float) -> float:
        """Return for how many of the seconds since `instant` the CPUs ran."""
        return self.world.executed(self, instant)

    def hang(self) -> None:
        """Stop the process (SIGSTOP)."""
        self.hung = True
        self.world.ceased(self)
        self.world.stir()

    def wake(self) -> None:
        """Let the process go on (SIGCONT): it carries out what it was told meanwhile."""
        if not self.hung:
            return
        self.hung = False
        if self.raw == "running":
            self.world.began(self)
        for command in self.backlog:
            try:
                command()
            except MonitorCommandError:
                continue  # its answer has nobody to go to
        self.backlog.clear()
        self.world.stir()

    def exit(self, words: str) -> None:
        """End the process."""
        if not self.alive:
            return
        self.alive = False
        self.world.ceased(self)
        self.host.qemu_ended(self, words)
        if self.stream is not None:
            self.stream.end("failed")
        for mirror in list(self.mirrors.values()):
            mirror.finish("its QEMU ended")
        if self.monitor is not None:
            self.monitor.lose(words)
        self.world.stir()

    def jitter(self) -> float:
        """Return a factor near 1."""
        return self.world.chance.uniform(0.9, 1.1)

    @property
    def send_queue(self) -> float:
        """Bytes that the kernel of this host keeps unsent for a socket."""
        return self.host.send_queue

    # -- words -----------------------------------------------------------------------------------------------------

    def tell(self, kind: GuestEventKind, *, status: str = "", number: int = 0, detail: str = "") -> None:
        """Say something unasked to whoever holds the control monitor; of migrations only with the capability."""
        if self.monitor is not None and (not kind.startswith("MIGRATION") or self.capabilities["events"]):
            self.monitor.hear(GuestEvent(kind, self.world.clock.now(), self.host.time(), status, number, detail))

    def set_migration(self, status: str) -> None:
        """Change the migration status and say so."""
        if status != self.migration:
            self.migration = status
            self.tell("MIGRATION", status=status)

    def view(self) -> GuestView:
        """Return what query-status and query-migrate say."""
        word = f"{self.raw}/{self.migration}" if self.migration else self.raw
        return GuestView(RUN_STATES[self.raw], STREAM_STATUSES[self.migration], word, self.pid, self.detail)

    def receive(self, source: FakeQemu) -> None:
        """Have everything: stand still, or run at once if `cont` came too early."""
        self.memory, self.raw, self.port = source.memory, "paused", None
        self.set_migration("completed")
        if self.armed:
            self.execute()

    # -- commands --------------------------------------------------------------------------------------------------

    def cont(self) -> None:
        """Obey `cont`."""
        if self.raw == "finish-migrate":
            message = f"QEMU of {self.vm.name} refused `cont`: Migration is not finalized yet"
            raise MonitorCommandError(message)
        if self.raw == "inmigrate":
            self.armed = True
        elif self.raw != "running":
            self.execute()

    def stop(self) -> None:
        """Obey `stop`."""
        if self.raw == "running":
            self.halt("paused")

    def set_capabilities(self, capabilities: dict[str, bool]) -> None:
        """Obey migrate-set-capabilities."""
        if self.migration in LIVE:
            self.refuse("migrate-set-capabilities", "There's a migration process in progress")
        for name, state in capabilities.items():
            if name not in CAPABILITIES:
                self.refuse("migrate-set-capabilities", f"Invalid parameter '{name}'")
            self.capabilities[name] = state

    def set_parameters(self, parameters: dict[str, int | str | bool]) -> None:
        """Obey migrate-set-parameters."""
        for name in parameters:
            if name not in PARAMETERS:
                self.refuse("migrate-set-parameters", f"Parameter '{name}' is unexpected")
        self.parameters.update(parameters)
        self.world.stir()

    def listen(self, uri: str) -> str:
        """Obey migrate-incoming, and return where."""
        if self.raw != "inmigrate":
            self.refuse("migrate-incoming", "'-incoming' was not specified on the command line")
        address, _, ports = uri.rpartition(":")
        first, _, last = ports.partition(",to=")
        taken = self.host.ports_in_use() | self.host.unseen_ports
        self.port = next((port for port in range(int(first), int(last or first) + 1) if port not in taken), None)
        if self.port is None:
            self.refuse("migrate-incoming", "Failed to find an available port: Address already in use")
        self.set_migration("setup")
        return f"{address}:{self.port}"

    def migrate(self, uri: str) -> None:
        """Obey migrate: a target that cannot be reached is a failed stream, not an error."""
        if self.migration in LIVE:
            self.refuse("migrate", "There's a migration process in progress")
        if self.raw not in {"running", "paused"}:
            self.refuse("migrate", "Guest is not in a state that can be migrated")
        target, link = self.world.listener(self.host, uri)
        if target is None or link is None:
            self.detail = f"Failed to connect to '{uri}': Connection refused"
            self.set_migration("setup")
            self.set_migration("failed")
            return
        self.detail = ""
        target.port = None
        self.stream = target.stream = FakeStream(self.world.clock, link, self, target)
        self.stream.start()

    def cancel(self) -> None:
        """Obey migrate_cancel."""
        if self.stream is not None and self.migration in LIVE:
            self.set_migration("cancelling")
            self.stream.end("cancelled")

    # -- disks -----------------------------------------------------------------------------------------------------

    def serve_disks(self, port: int) -> None:
        """Obey nbd-server-start and block-export-add."""
        if self.disks_port is not None or port in self.host.ports_in_use():
            self.refuse("nbd-server-start", "NBD server already running")
        self.disks_port = port

    def stop_serving(self) -> None:
        """Obey nbd-server-stop."""
        self.disks_port = None

    def start_mirror(self, copy: DiskCopy, address: str, port: int) -> None:
        """Obey blockdev-add and blockdev-mirror."""
        if copy.job in self.mirrors:
            return
        target, link = self.world.server(self.host, address, port)
        if target is None or link is None:
            self.refuse("blockdev-add", "Failed to connect: Connection refused")
            return
        self.mirrors[copy.job] = FakeMirror(self, target, copy, link)

    def end_mirror(self, copy: DiskCopy) -> None:
        """Obey block-job-cancel without force."""
        mirror = self.mirrors.get(copy.job)
        if mirror is None or not mirror.ready:
            self.refuse("block-job-cancel", f"Block job '{copy.job}' not found, or not ready")
            return
        mirror.ending = True

    def cancel_mirrors(self, copies: Sequence[DiskCopy]) -> None:
        """Obey block-job-cancel with force."""
        for copy in copies:
            if copy.job in self.mirrors:
                self.mirrors[copy.job].finish("it was cancelled")

    def continue_stream(self) -> None:
        """Obey migrate-continue."""
        if self.migration != "pre-switchover" or self.stream is None:
            self.refuse("migrate-continue", "Migration not in expected state: pre-switchover")
            return
        self.stream.release()

    def refuse(self, command: str, words: str) -> None:
        """Answer with an error. Always raises."""
        message = f"QEMU of {self.vm.name} on {self.host.name} refused `{command}`: {words}"
        raise MonitorCommandError(message)


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


class FakeGuest:
    """The control monitor of a simulated QEMU, held by one client. Implements `godwit.ports.Guest`."""

    def __init__(self, qemu: FakeQemu) -> None:
        """Hold the monitor of `qemu`."""
        self._qemu = qemu
        self._world = qemu.world
        self._streams: list[FakeEvents] = []
        self._unheard: list[GuestEvent] = []
        self._lost: GuestEvent | None = None
        qemu.monitor = self

    # -- the connection --------------------------------------------------------------------------------------------

    def hear(self, event: GuestEvent) -> None:
        """Pass one of QEMU's events on, or keep it while the host is out of reach."""
        if self._qemu.host.reachable:
            self._put(event)
        else:
            self._unheard.append(event)

    def heal(self) -> None:
        """Deliver what was said while the host was out of reach."""
        for event in self._unheard:
            self._put(event)
        self._unheard.clear()

    def lose(self, reason: str) -> None:
        """End the connection."""
        if self._lost is None:
            self._lost = GuestEvent("LOST", self._world.clock.now(), status=reason)
            self._put(self._lost)
            if self._qemu.monitor is self:
                self._qemu.monitor = None
            self._world.stir()

    def _put(self, event: GuestEvent) -> None:
        for stream in self._streams:
            stream.put(event)

    async def _tell(self, command: str, act: Callable[[], T]) -> T:
        """Carry a command out: a round trip, the faults that were planted, and then QEMU's own mind."""
        qemu = self._qemu
        self._check_open(f"`{command}` was not sent")
        await qemu.host.round_trip()
        answered = await self._world.until(lambda: self._answers() or self._lost is not None, COMMAND_DEADLINE)
        self._check_open(f"`{command}` was under way")
        if not answered:
            if qemu.host.reachable:
                qemu.backlog.append(act)
            message = f"QEMU of {qemu.vm.name} did not answer `{command}` within {COMMAND_DEADLINE:g} s"
            raise MonitorLostError(message, remedy="see whether the process is stopped or its host is cut off")
        words = self._world.planted_refusal(qemu.host, command)
        if words is not None:
            qemu.refuse(command, words)
        return act()

    def _check_open(self, what: str) -> None:
        if self._lost is not None:
            where = f"{self._qemu.vm.name} on {self._qemu.host.name}"
            message = f"the monitor of {where} is gone ({self._lost.status}): {what}"
            raise MonitorLostError(message)

    def _answers(self) -> bool:
        return self._qemu.host.reachable and not self._qemu.hung

    async def close(self) -> None:
        """Close the connection; the guest is not touched. Never raises."""
        self.lose("it was closed")

    # -- the port --------------------------------------------------------------------------------------------------

    async def features(self) -> Features:
        """Return what this QEMU can do."""
        return await self._tell("query-commands", lambda: Features(COMMANDS, CAPABILITIES, frozenset(PARAMETERS)))

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
        disks = tuple(
            DiskFacts(f"disk{number}", path, "raw", read_only=False, virtual_size=size)
            for number, (path, size) in enumerate(self._world.disks_of(qemu))
        )
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
        )

    async def set_capabilities(self, capabilities: dict[str, bool]) -> None:
        """Switch migration capabilities; only before a stream starts."""
        await self._tell("migrate-set-capabilities", lambda: self._qemu.set_capabilities(capabilities))

    async def set_parameters(self, parameters: dict[str, int | str | bool]) -> None:
        """Set migration parameters, in QEMU's own units."""
        await self._tell("migrate-set-parameters", lambda: self._qemu.set_parameters(parameters))

    async def listen(self, uri: str) -> str:
        """Make the waiting guest accept a stream at `uri`; returns where it does."""
        return await self._tell("migrate-incoming", lambda: self._qemu.listen(uri))

    async def migrate(self, uri: str) -> None:
        """Start the stream to `uri`."""
        await self._tell("migrate", lambda: self._qemu.migrate(uri))

    async def sample(self) -> Sample | None:
        """Read the stream's counters, or None before there are any and on the target."""
        return await self._tell("query-migrate", self._sample)

    def _sample(self) -> Sample | None:
        stream = self._qemu.stream
        return stream.sample() if stream is not None and stream.source is self._qemu and stream.iteration else None

    async def migration_result(self) -> dict[str, float]:
        """Return the final figures; those that there are none of are absent."""
        return await self._tell("query-migrate", lambda: dict(self._qemu.stream.result) if self._qemu.stream else {})

    async def serve_disks(self, address: str, port: int, copies: Sequence[DiskCopy]) -> None:
        """Take disks over the network."""
        del address, copies  # a simulated target knows its disks by their paths
        await self._tell("nbd-server-start", lambda: self._qemu.serve_disks(port))

    async def stop_serving(self) -> None:
        """Take disks no longer."""
        await self._tell("nbd-server-stop", self._qemu.stop_serving)

    async def start_mirror(self, copy: DiskCopy, address: str, port: int, speed: int) -> None:
        """Copy a disk to where it is served."""
        del speed  # the link alone limits a simulated copy
        await self._tell("blockdev-mirror", lambda: self._qemu.start_mirror(copy, address, port))

    async def keep_alike(self, copy: DiskCopy) -> bool:
        """Let each write of the guest wait for the copy; a simulated guest's disk is never written."""
        await self._tell("block-job-change", lambda: copy)
        return True

    async def mirrors(self, copies: Sequence[DiskCopy]) -> tuple[MirrorView, ...]:
        """Say how far the copies are."""
        jobs = self._qemu.mirrors
        return await self._tell(
            "query-block-jobs", lambda: tuple(jobs[copy.job].view() for copy in copies if copy.job in jobs)
        )

    async def end_mirror(self, copy: DiskCopy) -> None:
        """Let a copy that is ready end whole."""
        await self._tell("block-job-cancel", lambda: self._qemu.end_mirror(copy))

    async def forget_mirrors(self, copies: Sequence[DiskCopy]) -> None:
        """Close the connections of copies that have ended."""
        await self._tell("blockdev-del", lambda: copies)

    async def cancel_mirrors(self, copies: Sequence[DiskCopy]) -> None:
        """End copies before their time."""
        await self._tell("block-job-cancel", lambda: self._qemu.cancel_mirrors(copies))

    async def continue_stream(self) -> None:
        """Let a held stream go on."""
        await self._tell("migrate-continue", self._qemu.continue_stream)

    async def resume(self) -> None:
        """Tell the guest to run (`cont`)."""
        await self._tell("cont", self._qemu.cont)

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
        """Press the power button: a simulated guest shuts down at once and its QEMU ends."""
        await self._tell("system_powerdown", self._powerdown)

    def _powerdown(self) -> None:
        self._qemu.tell("SHUTDOWN", status="guest-shutdown")
        self._qemu.exit("the guest shut down")

    async def human(self, line: str, *, deadline: float = 30.0) -> str:
        """Type a line at the human monitor and return what it prints; of QEMU's commands it knows a few."""
        del deadline  # all that it knows ends at once
        return await self._tell("human-monitor-command", lambda: fakehuman.answer(self._qemu, line))

    async def quit(self) -> None:
        """End QEMU; returns when the monitor has closed."""
        await self._tell("quit", lambda: self._qemu.exit("quit"))
