"""A simulated host: stateful, careless where QEMU is, with faults. It backs the simulated demonstration and the tests.

world = FakeWorld(LoopClock(speed=10), seed=7)
one, two = FakeHost(world, "one"), FakeHost(world, "two")
world.add_file("/images/web.raw")
vm = world.start_guest("one", vm, Workload(dirty_rate=30e6))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.errors import (
    BusyError,
    HostError,
    HostUnreachableError,
    InputError,
    MonitorBusyError,
    MonitorLostError,
    QemuDiedError,
    QemuMissingError,
    RemoteCommandError,
)
from godwit.hosts.fakeclock import LoopClock, VirtualTimeLoop
from godwit.hosts.fakecredentials import FakeKeeping
from godwit.hosts.fakedevices import FakeGiving
from godwit.hosts.fakefiles import FakeFiles
from godwit.hosts.fakeguest import FakeGuest
from godwit.hosts.fakelinks import FakeLinks
from godwit.hosts.fakenetwork import FakeAnnouncing, macvtaps_of
from godwit.hosts.fakeqemu import COMPRESSIONS, VERSION, FakeQemu
from godwit.hosts.fakesaves import FakeSaveFiles
from godwit.hosts.fakestream import FakeStream, Link, Workload
from godwit.hosts.faketransfers import FakeTransfers
from godwit.hosts.fakework import FakeWork
from godwit.hosts.fakeworld import FakeWorld
from godwit.model import (
    MIGRATION_PORTS,
    BridgeFacts,
    CpuDefinition,
    CpuFacts,
    GuestView,
    HostFacts,
    InterfaceFacts,
    Launch,
    QemuFacts,
    RunState,
    Vm,
    WaitingQemu,
)
from godwit.ports import Completed
from godwit.units import GIB, MIB

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from godwit.hosts.fakecontroller import FakeController
    from godwit.ports import Fence, Session

__all__ = ["FakeGuest", "FakeHost", "FakeQemu", "FakeWorld", "Link", "LoopClock", "VirtualTimeLoop", "Workload"]

SILENCE: Final = 3.0
"""Seconds after which a host or monitor that does not answer is given up."""

BOOT: Final = 0.15
"""Seconds from starting QEMU until its monitor answers."""

LOCAL_BANDWIDTH: Final = 500_000_000
"""Bytes a second between two processes of one host."""

LONG_QUEUE: Final = 4 * MIB
"""Bytes that a Linux kernel keeps unsent for a socket when nobody asks for less (net.ipv4.tcp_wmem)."""

_FLAGS: Final = frozenset({"nx", "lm", "sse4_2"})
_NO_SUCH_PROGRAM: Final = 127
_PROGRAMS: Final[dict[str, Callable[[Sequence[str], bytes], Completed]]] = {
    "true": lambda _argv, _stdin: Completed(0, b"", b""),
    "false": lambda _argv, _stdin: Completed(1, b"", b""),
    "cat": lambda _argv, stdin: Completed(0, stdin, b""),
    "echo": lambda argv, _stdin: Completed(0, " ".join(argv[1:]).encode() + b"\n", b""),
}


class FakeHost(FakeTransfers, FakeKeeping, FakeFiles, FakeGiving, FakeLinks, FakeWork, FakeAnnouncing):
    """One simulated machine. Implements `godwit.ports.Host`."""

    def __init__(
        self,
        world: FakeWorld,
        name: str,
        *,
        memory: int = 8 * GIB,
        bridges: Sequence[str] = ("br0",),
        interfaces: Sequence[str] = ("eth0",),
        has_qemu: bool = True,
        clock_offset: float = 0.0,
        may_shorten_send_queue: bool = True,
    ) -> None:
        """Join a world. `clock_offset` is in seconds against the controller's clock."""
        FakeTransfers.__init__(self)
        FakeKeeping.__init__(self)
        FakeGiving.__init__(self)
        FakeLinks.__init__(self)
        FakeWork.__init__(self)
        FakeAnnouncing.__init__(self)
        self.world = world
        self._name = name
        self._memory = memory
        self._bridges = tuple(bridges)
        self._interfaces = tuple(interfaces)
        self._has_qemu = has_qemu
        self._clock_offset = clock_offset
        self._may_shorten = may_shorten_send_queue
        self._prepared: set[str] = set()
        self._ports = MIGRATION_PORTS[0]
        self.unseen_ports: set[int] = set()
        self.no_ports = False
        self.missing_programs: set[str] = set()
        self.here = Link(LOCAL_BANDWIDTH, 0.00005)
        self.leases: dict[str, int] = {}
        self.migration_address = f"198.18.0.{len(world.hosts) + 1}"
        self.qemus: dict[str, FakeQemu] = {}
        self.last_words: dict[str, str] = {}
        self.crashed = False
        self.forsaken: list[FakeGuest] = []
        self.cut_short: list[FakeStream] = []
        self.cut_off = False
        self.late = 0.0
        self.boots = 1
        self.sessions: dict[Session, FakeController] = {}
        self.ended_sessions: set[Session | None] = set()
        self.saves = FakeSaveFiles(world, name, self._reach)
        world.add_host(self)

    # -- for the world ---------------------------------------------------------------------------------------------

    @property
    def reachable(self) -> bool:
        """Whether the controller gets through."""
        return not self.crashed and not self.cut_off

    @property
    def send_queue(self) -> float:
        """Bytes that a socket here keeps unsent."""
        return min(self.leases.values(), default=LONG_QUEUE)

    def time(self) -> float:
        """Return what this host's clock shows."""
        return self.world.clock.now() + self._clock_offset

    def boot(self, vm: Vm) -> None:
        """Start a guest on the spot."""
        self.qemus[vm.name] = FakeQemu(self, vm, vm.launch, self.world.workloads[vm.name], incoming=False)
        self.opened |= macvtaps_of(vm.launch)

    def process_of(self, vm: Vm) -> FakeQemu | None:
        """Return the guest's process; of one that has two here, the one with the control socket that `vm` names."""
        ours = [qemu for qemu in self.qemus.values() if qemu.vm.name == vm.name]
        return next((qemu for qemu in ours if not vm.sibling or qemu.vm.control == vm.control), None)

    def _keep(self, qemu: FakeQemu) -> FakeQemu:
        """Note a new process: under the guest's name, or beside the one that has it."""
        name = qemu.vm.name
        self.qemus[f"{name} beside" if name in self.qemus else name] = qemu
        return qemu

    def qemu_ended(self, qemu: FakeQemu, words: str) -> None:
        """Forget a process that has ended, but not its last words."""
        name = qemu.vm.name
        others = [one for one in self.qemus.values() if one.vm.name == name and one is not qemu]
        self.qemus = {key: one for key, one in self.qemus.items() if one.vm.name != name}
        if others:
            self.qemus[name] = others[0]
        self.last_words[qemu.vm.name] = words

    def monitors(self) -> list[FakeGuest]:
        """Return the monitors that are held here."""
        return [qemu.monitor for qemu in self.qemus.values() if qemu.monitor is not None]

    def ports_in_use(self) -> frozenset[int]:
        """Return the ports at which a QEMU listens."""
        ports = (port for qemu in self.qemus.values() for port in (qemu.port, qemu.blocks.disks_port))
        return frozenset(port for port in ports if port is not None)

    async def round_trip(self) -> None:
        """Let the way to the host and back take its time."""
        await self.world.clock.sleep(0.0005 * self.world.chance.uniform(0.8, 1.2) + self.late)

    @property
    def this_boot(self) -> str:
        """The name of its present boot."""
        return f"{self.name}-{self.boots}"

    def end_session(self, session: Session) -> None:
        """End the process of a connection: its monitors close, and nothing comes through it any more."""
        controller = self.sessions.pop(session, None)
        self.ended_sessions.add(session)
        for guest in self.monitors():
            if controller is not None and guest.controller is controller:
                guest.lose("its session was ended")

    async def _reach(self) -> None:
        """Take a round trip through a session of ours. Raises HostUnreachableError after SILENCE, JournalError."""
        controller = self.world.controller
        await controller.awake()
        await self._get_through()
        await controller.enter(self)

    async def _get_through(self) -> None:
        await self.round_trip()
        if not await self.world.until(lambda: self.reachable, SILENCE):
            message = f"{self.name} does not answer within {SILENCE:g} s"
            raise HostUnreachableError(message, remedy="see whether the host is up and the network works")

    # -- the host --------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name under which the host is registered."""
        return self._name

    async def connect(self) -> None:
        """Reach the host."""
        await self._reach()

    async def close(self) -> None:
        """Let go of the host; monitors that are open stay so. Never raises."""

    def guard(self, fence: Fence) -> None:
        """Let this process act here only with sessions that `fence` let in."""
        self.world.controller.guard(self, fence)

    async def facts(self, qemu: str | None = None) -> HostFacts:
        """Describe the host."""
        await self._reach()
        used = sum(process.workload.memory for process in self.qemus.values())
        program = qemu or "qemu-system-x86_64"
        aliases = (("q35", "pc-q35-10.0"), ("pc", "pc-i440fx-10.0"))
        return HostFacts(
            name=self.name,
            hostname=f"{self.name}.simulated",
            machine_id=f"{self.world.seed:016x}{self.migration_address}",
            kernel="6.1.0-simulated",
            architecture="x86_64",
            cpu_model="simulated",
            cpu_vendor="GenuineIntel",
            cpu_flags=_FLAGS,
            cpu_count=4,
            memory_total=self._memory,
            memory_available=self._memory - used,
            qemu=QemuFacts(
                program,
                VERSION,
                tuple(name for _, name in aliases),
                aliases,
                shares_memory=True,
                compressions=COMPRESSIONS,
                encrypts=self.has_tls,
            )
            if self._has_qemu and program not in self.missing_programs
            else None,
            accelerators=("tcg",),
            bridges=tuple(BridgeFacts(name, 1500, up=True) for name in self._bridges),
            migration_address=self.migration_address,
            clock_offset=self._clock_offset,
            clock_uncertainty=0.0005,
            can_shorten_send_queue=self._may_shorten,
            notes=("a simulated host",),
            interfaces=tuple(InterfaceFacts(name, 1500, up=True) for name in self._interfaces),
        )

    async def cpu(self, qemu: str, accelerator: str) -> CpuFacts:
        """Say which processors guests could be given; a simulated QEMU emulates two models."""
        await self._reach()
        if accelerator != "tcg" or not self._has_qemu or qemu in self.missing_programs:
            return CpuFacts()
        return CpuFacts((CpuDefinition("qemu64", "AuthenticAMD", _FLAGS), CpuDefinition("max", "", _FLAGS)), _FLAGS)

    async def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", deadline: float = 30.0, check: bool = True
    ) -> Completed:
        """Run a command; a simulated host has but a few. Raises RemoteCommandError as the real one does."""
        del deadline  # all that it has end at once
        await self._reach()
        if argv[:3] == ["ss", "--tcp", "--kill"]:
            self._end_sockets(argv[-1])
            return Completed(0, b"", b"")
        program = (lambda argv, _: self.add_route(argv[-1])) if argv[0] == "sh" else _PROGRAMS.get(argv[0])
        missing = Completed(_NO_SUCH_PROGRAM, b"", f"{argv[0]}: no such program on a simulated host\n".encode())
        completed = program(argv, stdin) if program else missing
        if check and completed.status != 0:
            message = f"{argv[0]} on {self.name} failed with status {completed.status}: {completed.stderr.decode()}"
            raise RemoteCommandError(message)
        return completed

    def _end_sockets(self, destination: str) -> None:
        """End the streams that go out to an address: the other end hears of it unless the link is cut."""
        address = destination.rpartition(":")[0].strip("[]")
        for qemu in list(self.qemus.values()):
            stream = qemu.stream
            ours = isinstance(stream, FakeStream) and stream.source is qemu
            if isinstance(stream, FakeStream) and ours and stream.target.host.migration_address == address:
                stream.end("failed", told=stream.link.up)

    async def open_socket(self, path: str) -> socket.socket:
        """Refuse: what a simulated guest has is no socket of this machine. Raises MonitorLostError."""
        await self._reach()
        message = f"{self.name} is simulated: nothing accepts at {path}"
        raise MonitorLostError(message)

    async def free_port(self) -> int:
        """Return a port at which no QEMU listens."""
        await self._reach()
        if self.no_ports:
            message = f"all TCP ports are in use on {self.name}"
            raise BusyError(message)
        begin, last = self._ports - MIGRATION_PORTS[0], len(MIGRATION_PORTS)
        turn = [MIGRATION_PORTS[(begin + step) % last] for step in range(1, last + 1)]
        self._ports = next((port for port in turn if port not in self.ports_in_use()), self._ports + 1)
        return self._ports

    async def waiting_at(self, uri: str) -> WaitingQemu:
        """Return the QEMU that listens at a port here. Raises InputError where there is none."""
        await self._reach()
        port = uri.rpartition(":")[2]
        for qemu in self.qemus.values():
            if str(qemu.port) == port:
                sockets = [socket for socket in (qemu.vm.control, qemu.vm.observe) if socket]
                return WaitingQemu(qemu.pid, tuple(sockets), qemu.stays_stopped)
        message = f"nobody listens at {uri} on {self.name}"
        raise InputError(message)

    async def reaches(self, address: str, port: int) -> bool:
        """Say whether the host that owns `address` can be reached from here."""
        del port  # a refusal proves the way just as well
        await self._reach()
        owner = next((host for host in self.world.hosts.values() if host.migration_address == address), None)
        return owner is not None and not owner.crashed and (owner is self or self.world.link(self.name, owner.name).up)

    # -- guests ----------------------------------------------------------------------------------------------------

    async def observe(self, vm: Vm) -> GuestView:
        """Say what the guest does here; silence is a view, too."""
        try:
            await self._reach()
        except HostUnreachableError as error:
            return GuestView(RunState.UNREACHABLE, detail=error.message)
        qemu = self.process_of(vm)
        if qemu is None:
            return GuestView(RunState.ABSENT, detail=self.last_words.get(vm.name, ""))
        answers = await self.world.until(lambda: not qemu.silent or not qemu.alive, SILENCE)
        if not qemu.alive:
            return GuestView(RunState.ABSENT, detail=self.last_words.get(vm.name, ""))
        silent = "" if answers else "its monitor is silent"
        if not qemu.born:
            silent = "it lives and has no monitor yet"
        elif vm.observe is None and qemu.monitor is not None:
            silent = silent or "its only monitor is held by another client"
        if silent:
            return GuestView(RunState.UNREACHABLE, pid=qemu.pid, detail=silent)
        return qemu.view()

    async def attach(self, vm: Vm, *, patience: float = 0.0) -> FakeGuest:
        """Open the control monitor, which serves one client; waits `patience` seconds for one that is not there yet.

        Raises MonitorBusyError after 3 s of silence, QemuDiedError where there is no process.
        """
        await self._reach()
        qemu = self.process_of(vm)
        if qemu is not None:
            await self.world.until(lambda: not qemu.alive or qemu.born, patience)
            await self.world.until(lambda: not qemu.alive or (not qemu.silent and qemu.monitor is None), SILENCE)
        if qemu is None or not qemu.alive:
            message = f"{vm.name} does not run on {self.name}: {self.last_words.get(vm.name, 'no such process')}"
            raise QemuDiedError(message, remedy="see with `godwit vm list` where it runs")
        if not qemu.born:
            message = f"{vm.control} on {self.name} does not exist"
            raise MonitorLostError(message)
        if qemu.silent or qemu.monitor is not None:
            message = f"the monitor of {vm.name} on {self.name} is silent for {SILENCE:g} s: another client holds it"
            raise MonitorBusyError(message, remedy="close the other client of this socket")
        return FakeGuest(qemu)

    async def prepare_launch(self, vm: Vm, launch: Launch) -> None:
        """Make what the launch needs. Raises HostError for a bridge that is missing, BusyError for a name taken."""
        await self._reach()
        if self.process_of(vm) is not None:
            message = f"{vm.name} runs on {self.name} already"
            raise BusyError(message)
        for tap in launch.taps:
            parent = tap.macvtap.parent if tap.macvtap is not None else None
            if parent is not None and parent not in self._interfaces:
                message = f"{self.name} has no interface {parent} for {tap.interface}"
                raise HostError(message, remedy=f"ip link set OTHER name {parent}  (on {self.name})")
            if parent is None and tap.bridge not in self._bridges:
                message = f"{self.name} has no bridge {tap.bridge} for {tap.interface}"
                raise HostError(message, remedy=f"ip link add {tap.bridge} type bridge  (on {self.name})")
            self.made.add(tap.interface)
        self._prepared.add(vm.name)

    async def launch(self, vm: Vm, launch: Launch, *, incoming: bool = False, paused: bool = False) -> int:
        """Start QEMU, running, paused, or waiting for a stream; returns its pid when its monitor answers.

        Raises QemuMissingError, or QemuDiedError with QEMU's words.
        """
        pid = (await self._launched(vm, launch, incoming=incoming, paused=paused)).pid
        if not incoming and not paused:
            self.opened |= macvtaps_of(launch)
        return pid

    async def launch_taker(self, vm: Vm, launch: Launch, path: str) -> None:
        """Start a QEMU that waits at `path` for another process's memory, and has no monitor until it comes."""
        await self._launched(vm, launch, incoming=True, taker=path)

    async def _launched(
        self, vm: Vm, launch: Launch, *, incoming: bool, paused: bool = False, taker: str = ""
    ) -> FakeQemu:
        await self._reach()
        if not self._has_qemu or launch.argv[0] in self.missing_programs:
            message = f"{self.name} has no {launch.argv[0]}"
            raise QemuMissingError(message, remedy=f"install QEMU on {self.name}")
        words = self.world.planted_refusal(self, "launch")
        if self.process_of(vm) is not None:
            words = f"qemu-system-x86_64: -qmp unix:{vm.control}: Address already in use"
        else:
            words = words or self.world.lock_held(self, vm, launch, incoming=incoming)
        if words is not None:
            message = f"QEMU of {vm.name} on {self.name} ended at once: {words}"
            raise QemuDiedError(message, remedy="see its command line with `godwit vm show`")
        workload = self.world.workloads.setdefault(vm.name, Workload())
        await self.world.clock.sleep(BOOT * self.world.chance.uniform(0.9, 1.1))
        await self._reach()
        return self._keep(FakeQemu(self, vm, launch, workload, incoming=incoming, paused=paused, taker=taker))

    async def destroy(self, vm: Vm) -> None:
        """End the guest's QEMU if there is one; a stopped process is killed like any other."""
        await self._reach()
        qemu = self.process_of(vm)
        if qemu is not None:
            qemu.exit("it was destroyed")
        self.made -= {tap.interface for tap in vm.launch.taps}
        self.opened -= {tap.interface for tap in vm.launch.taps}
        self.return_functions(vm.name)
        self._prepared.discard(vm.name)

    # -- network -------------------------------------------------------------------------------------------------------

    async def shorten_send_queue(self, lease: str, size: int) -> bool:
        """Keep the unsent queue under `size` bytes while `lease` lasts; False where it is not permitted."""
        if size <= 0:
            message = f"a send queue of {size} bytes cannot be meant"
            raise InputError(message)
        await self._reach()
        if self._may_shorten:
            self.leases[lease] = size
        return self._may_shorten

    async def restore_send_queue(self, lease: str) -> None:
        """Give the lease back. Idempotent."""
        await self._reach()
        self.leases.pop(lease, None)
