"""A simulated QEMU process: the words, the states and the carelessness of the real one.

Read in QEMU's sources or measured on 10.0: `cont` in `inmigrate` only arms, in `finish-migrate` it is refused, and
after a completed migration it succeeds on both sides; capabilities cannot change while a stream runs; MIGRATION events
come only with the `events` capability; a failed incoming QEMU exits; a stopped process (SIGSTOP) carries out what it
was told when it goes on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from godwit.core.capabilities import TLS_UNSET
from godwit.errors import HypervisorError, MonitorCommandError
from godwit.hosts.fakeblocks import FakeBlocks
from godwit.hosts.fakecredentials import FakeTls
from godwit.hosts.fakedirect import FakeDirect
from godwit.hosts.fakeinside import FakeInside
from godwit.hosts.fakesaves import FakeFileStream
from godwit.hosts.fakestream import BROKEN, LIVE, OVER, FakeStream
from godwit.model import (
    GuestView,
    Launch,
    RunState,
    StreamStatus,
    Vm,
)
from godwit.ports import GuestEvent, GuestEventKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from godwit.hosts.fake import FakeHost
    from godwit.hosts.fakeguest import FakeGuest
    from godwit.hosts.fakestream import Workload
    from godwit.hosts.fakeworld import FakeWorld

RUN_STATES: Final = {
    "running": RunState.RUNNING,
    "paused": RunState.PAUSED,
    "inmigrate": RunState.INCOMING,
    "finish-migrate": RunState.STOPPED_FOR_SWITCHOVER,
    "postmigrate": RunState.POSTMIGRATE,
    "shutdown": RunState.POWERED_OFF,
    "prelaunch": RunState.PAUSED,
    "restore-vm": RunState.OTHER,
}
STREAM_STATUSES: Final = {
    "": StreamStatus.NONE,
    "setup": StreamStatus.SETUP,
    "wait-unplug": StreamStatus.SETUP,
    "active": StreamStatus.ACTIVE,
    "pre-switchover": StreamStatus.HELD,
    "device": StreamStatus.SWITCHOVER,
    "cancelling": StreamStatus.OTHER,
    "completed": StreamStatus.COMPLETED,
    "failed": StreamStatus.FAILED,
    "cancelled": StreamStatus.CANCELLED,
    OVER: StreamStatus.POSTCOPY,
    BROKEN: StreamStatus.BROKEN,
}
CAPABILITIES: Final = frozenset(
    {
        *("events", "return-path", "late-block-activate", "pause-before-switchover", "mapped-ram", "multifd", "xbzrle"),
        *("auto-converge", "postcopy-ram", "postcopy-preempt"),
    }
)
COMPRESSIONS: Final = ("none", "zlib", "zstd")
PARAMETERS: Final[dict[str, int | str | bool]] = {
    "downtime-limit": 300,
    "max-bandwidth": 128 * 1024 * 1024,
    "max-postcopy-bandwidth": 0,
    "multifd-channels": 2,
    "direct-io": False,
    "avail-switchover-bandwidth": 0,
    "multifd-compression": "none",
    "cpu-throttle-initial": 20,
    "cpu-throttle-increment": 10,
    "max-cpu-throttle": 99,
    "throttle-trigger-threshold": 50,
    **TLS_UNSET,
}
COMMANDS: Final = frozenset({"migrate", "migrate_cancel", "migrate-incoming", "cont", "stop", "quit", "announce-self"})
VERSION: Final = (10, 0, 2)
HANDED_OVER: Final = 0.002
"""Seconds from a stream's end until the run state of where it came from says so."""

IN_ORDER: Final = frozenset({"quit", "the guest shut down"})
"""The ends of a process at which it closes its disks; when it has handed its guest over, it has done so already."""


class FakeQemu:
    """One QEMU process on one host. `memory` names the content of its memory: a copy that ran on has another name."""

    def __init__(
        self,
        host: FakeHost,
        vm: Vm,
        launch: Launch,
        workload: Workload,
        *,
        incoming: bool,
        paused: bool = False,
        taker: str = "",
    ) -> None:
        """Start the process: running, paused, waiting for a stream, or, without a monitor, for memory to `taker`."""
        self.host, self.vm, self.launch, self.workload = host, vm, launch, workload
        self.world: FakeWorld = host.world
        self.pid = self.world.next_number()
        self.raw = "inmigrate" if incoming else "prelaunch"
        self.migration = ""
        self.detail = ""
        self.memory = self.world.next_number()
        self.capabilities = dict.fromkeys(sorted(CAPABILITIES), False)
        self.parameters: dict[str, int | str | bool] = dict(PARAMETERS)
        self.port: int | None = None
        self.path = taker
        self.born = not taker
        self.objects: dict[str, str] = {}
        self.stays_stopped = incoming
        self.stream: FakeStream | FakeFileStream | None = None
        self.hung = False
        self.alive = True
        self.armed = False
        self.announced = 0
        self.outlives = False
        self.tls = FakeTls(self)
        self.blocks = FakeBlocks(self)
        self.inside = FakeInside(self)
        self.direct = FakeDirect(self)
        self.monitor: FakeGuest | None = None
        self.backlog: list[Callable[[], object]] = []
        self.fresh = not incoming
        self.balloon = workload.memory
        if not incoming and not paused and "-S" not in launch.argv:
            self.execute()

    @property
    def used(self) -> int:
        """Bytes of memory that are no zeroes: the balloon gets what was freed first, then what is kept of disks."""
        load = self.workload
        return load.used - min(load.freed + load.cached, load.memory - self.balloon)

    # -- CPUs ------------------------------------------------------------------------------------------------------

    def execute(self) -> None:
        """Let the CPUs run. Nothing here prevents a second copy: QEMU does not, either; the world takes note."""
        if self.fresh:
            self.world.boot(self)
            self.fresh = False
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
        if not self.hung or not self.alive:
            return
        self.hung = False
        if self.raw == "running":
            self.world.began(self)
        backlog, self.backlog = self.backlog, []
        for command in backlog:
            self.obey(command)
        self.world.stir()

    def obey(self, command: Callable[[], object]) -> None:
        """Carry out what nobody waits for any more; one that stands still again does so later."""
        if self.hung or self.sends_in_vain:
            self.backlog.append(command)
            return
        try:
            if self.alive:
                command()
        except HypervisorError:
            return  # its answer has nobody to go to

    def exit(self, words: str) -> None:
        """End the process."""
        if not self.alive:
            return
        self.alive = False
        self.world.ceased(self)
        self.world.close_disks(self, in_order=words in IN_ORDER or self.raw == "postmigrate")
        self.host.qemu_ended(self, words)
        silent = self.host.crashed  # no kernel is left that would end its connections
        if isinstance(self.stream, FakeStream) and (silent or not self.stream.link.up):
            self.stream.cut_short(self)
        elif self.stream is not None:
            self.stream.end("failed")
        for mirror in list(self.blocks.mirrors.values()):
            mirror.finish("its QEMU ended")
        if self.monitor is not None and not silent:
            self.monitor.lose(words)
        self.world.stir()

    def jitter(self) -> float:
        """Return a factor near 1."""
        return self.world.chance.uniform(0.9, 1.1)

    @property
    def waits_for_memory(self) -> bool:
        """Whether the main loop stands still: it has touched a page that is not there, and cannot come."""
        return self.migration == BROKEN and self.raw == "running"

    @property
    def silent(self) -> bool:
        """Whether its monitor answers nobody who does not hold it already."""
        return self.hung or self.waits_for_memory or self.sends_in_vain

    @property
    def sends_in_vain(self) -> bool:
        """Whether the end of its stream waits in the kernel, under QEMU's big lock: with it everything else does.

        Behind a silently cut link that lasts until its socket is ended (migration_completion() in migration.c).
        """
        stream = self.stream
        if self.migration != "device" or not isinstance(stream, FakeStream) or stream.source is not self:
            return False
        return not stream.link.up or stream.target.host.crashed

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

    def complete_stream(self) -> None:
        """End a stream from here: its status comes first, the run state a moment later (migration_iteration_finish)."""
        if self.raw != "finish-migrate":
            self.halt("finish-migrate")
        self.set_migration("completed")
        asyncio.get_running_loop().call_later(HANDED_OVER, self._hand_over)

    def _hand_over(self) -> None:
        if self.alive and self.raw == "finish-migrate" and self.migration == "completed":
            self.raw = "postmigrate"

    def receive(self, source: FakeQemu) -> None:
        """Have everything: stand still, or run at once if `cont` came too early."""
        self.direct.show()
        self.memory, self.balloon, self.raw, self.port, self.path = source.memory, source.balloon, "paused", None, ""
        self.set_migration("completed")
        if self.armed:
            self.execute()

    def take_over(self, source: FakeQemu) -> None:
        """Have the devices of a guest whose memory follows: stand still, or run at once if `cont` came too early."""
        self.direct.show()
        self.memory, self.balloon, self.raw, self.port = source.memory, source.balloon, "paused", None
        self.set_migration(OVER)
        if self.armed:
            self.execute()

    def refuse(self, command: str, words: str) -> None:
        """Answer with an error. Always raises."""
        message = f"QEMU of {self.vm.name} on {self.host.name} refused `{command}`: {words}"
        raise MonitorCommandError(message)

    # -- commands --------------------------------------------------------------------------------------------------

    def cont(self) -> None:
        """Obey `cont`."""
        if self.raw == "finish-migrate":
            message = f"QEMU of {self.vm.name} refused `cont`: Migration is not finalized yet"
            raise MonitorCommandError(message)
        if self.raw == "shutdown":
            message = f"QEMU of {self.vm.name} refused `cont`: Resetting the Virtual Machine is required"
            raise MonitorCommandError(message)
        if self.raw == "inmigrate":
            self.armed = True
        elif self.raw != "running":
            self.execute()

    def stop(self) -> None:
        """Obey `stop`; one that waits for a stream does not run by itself then (qmp_stop in monitor/qmp-cmds.c)."""
        if self.raw == "running":
            self.halt("paused")
        elif self.raw == "inmigrate":
            self.armed = False

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

    def meet_stranger(self, what: str, *, encrypted: bool) -> bool:
        """Let a stranger come first to a port that opens, where there is one; says whether that was believed."""
        if self.host.name not in self.world.strangers or encrypted:
            return False
        self.world.intrusions.append(f"a stranger had {what} of {self.vm.name} on {self.host.name}")
        return True

    def listen(self, uri: str) -> str:
        """Obey migrate-incoming, and return where; or where it does already."""
        if self.raw != "inmigrate":
            self.refuse("migrate-incoming", "'-incoming' was not specified on the command line")
        if uri.startswith("unix:"):
            self.path = uri.removeprefix("unix:")
            self.set_migration("setup")
            return uri
        if not uri.startswith("tcp:"):
            self.stream = FakeFileStream(self, uri, reading=True)
            return uri
        address, _, ports = uri.rpartition(":")
        if self.port is not None and ",to=" not in ports:
            self.refuse("migrate-incoming", "Illegal migration incoming state")
        if self.port is not None:
            return f"{address}:{self.port}"
        first, _, last = ports.partition(",to=")
        taken = self.host.ports_in_use() | self.host.unseen_ports
        self.port = next((port for port in range(int(first), int(last or first) + 1) if port not in taken), None)
        if self.port is None:
            self.refuse("migrate-incoming", "Failed to find an available port: Address already in use")
        self.set_migration("setup")
        if self.meet_stranger("the memory", encrypted=bool(self.parameters["tls-creds"])):
            asyncio.get_running_loop().call_soon(self.exit, "load of migration failed: Not a migration stream")
        return f"{address}:{self.port}"

    def migrate(self, uri: str) -> None:
        """Obey migrate: a target that cannot be reached is a failed stream, not an error."""
        if self.migration in LIVE:
            self.refuse("migrate", "There's a migration process in progress")
        if self.raw not in {"running", "paused", "prelaunch"}:
            self.refuse("migrate", "Guest is not in a state that can be migrated")
        if uri.startswith(("file:", "exec:")):
            self.detail = ""
            self.stream = FakeFileStream(self, uri, reading=False)
            return
        if self.capabilities["mapped-ram"]:
            self.refuse("migrate", "Migration requires seekable transport (e.g. file)")
        target, link = self.world.listener(self.host, uri)
        if target is None or link is None:
            self.detail = f"Failed to connect to '{uri}': Connection refused"
            self.set_migration("setup")
            self.set_migration("failed")
            return
        if words := self.tls.kept_out(target, uri):
            self.detail = words
            self.set_migration("setup")
            self.set_migration("failed")
            return
        if blockers := self.direct.blockers():
            self.refuse("migrate", blockers[0])
        self.detail = ""
        target.port = None
        self.stream = target.stream = FakeStream(self.world.clock, link, self, target)
        self.stream.start()

    def hand_over_hindrances(self) -> tuple[str, ...]:
        """Say what keeps another process from taking the memory, as QEMU says it in mode cpr-transfer."""
        shared = any("aux-ram-share=on" in word for word in self.launch.argv)
        return () if shared else ("Memory region pc.ram is not compatible with CPR.",)

    def hand_over(self, path: str) -> None:
        """Obey migrate in mode cpr-transfer: the other process makes its machine, and only then the guest stops."""
        if self.migration in LIVE:
            self.refuse("migrate", "There's a migration process in progress")
        if blockers := self.hand_over_hindrances():
            self.refuse("migrate", blockers[0])
        target = next((qemu for qemu in self.host.qemus.values() if qemu.path == path and not qemu.born), None)
        if target is None:
            self.refuse("migrate", f"Failed to connect to '{path}': Connection refused")
            return
        target.path = ""
        target.capabilities |= {"events": True, "return-path": True}
        self.stream = target.stream = FakeStream(self.world.clock, self.host.here, self, target, in_place=True)
        self.stream.start()

    def bear(self) -> None:
        """Have a monitor from now on."""
        self.born = True
        self.world.stir()

    def go_over(self) -> None:
        """Obey migrate-start-postcopy."""
        if not isinstance(self.stream, FakeStream) or self.migration != "active":
            self.refuse("migrate-start-postcopy", "Must be called after migration started")
        elif not self.capabilities["postcopy-ram"]:
            self.refuse("migrate-start-postcopy", "Enable postcopy with migrate_set_capability before the start")
        else:
            self.stream.go_over()

    def break_stream(self) -> None:
        """Obey migrate-pause: the other side learns of it unless the link is cut."""
        if not isinstance(self.stream, FakeStream) or self.migration != OVER:
            self.refuse("migrate-pause", "migrate-pause is currently only supported during postcopy-active state")
            return
        both = (self.stream.source, self.stream.target)
        self.stream.break_off(*(both if self.stream.link.up else (self,)))

    def listen_again(self, uri: str) -> None:
        """Obey migrate-recover."""
        if self.migration != BROKEN or self.port is not None:
            self.refuse("migrate-recover", "Migrate recover can only be run when postcopy is paused.")
        self.port = int(uri.rpartition(":")[2])

    def send_again(self, uri: str) -> None:
        """Obey migrate with `resume`."""
        if not isinstance(self.stream, FakeStream) or self.migration != BROKEN:
            self.refuse("migrate", "Cannot resume if there is no paused migration")
            return
        target, link = self.world.listener(self.host, uri)
        if target is None or link is None or not link.up:
            self.detail = f"Failed to connect to '{uri}': No route to host"
            return
        if words := self.tls.kept_out(target, uri):
            self.detail = words
            return
        target.port = None
        self.stream.connect_again()

    def cancel(self) -> None:
        """Obey migrate_cancel."""
        if self.stream is not None and self.migration in LIVE:
            self.set_migration("cancelling")
            if isinstance(self.stream, FakeStream):
                self.stream.end("cancelled", told=self.stream.link.up)
            else:
                self.stream.end("cancelled")

    def continue_stream(self) -> None:
        """Obey migrate-continue."""
        if self.migration != "pre-switchover" or self.stream is None:
            self.refuse("migrate-continue", "Migration not in expected state: pre-switchover")
            return
        self.stream.release()
