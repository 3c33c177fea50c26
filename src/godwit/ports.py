"""What the engine needs of the world. Each port has a real implementation and one that ships for the simulation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Sequence

    from godwit.core.state import Phase, State
    from godwit.model import (
        DiskCopy,
        Features,
        GuestFacts,
        GuestView,
        HostFacts,
        HostRecord,
        ImageFacts,
        Launch,
        MirrorView,
        Outcome,
        PlaceFacts,
        ProbeRequest,
        QemuFacts,
        Sample,
        Spec,
        Vm,
        WatchResult,
    )

GuestEventKind = Literal["STOP", "RESUME", "MIGRATION", "MIGRATION_PASS", "SHUTDOWN", "LOST", "MIRROR_ENDED"]


@dataclass(frozen=True, slots=True)
class GuestEvent:
    """Something that a guest's QEMU said unasked.

    `status` is QEMU's word for a MIGRATION event, `number` the pass of a MIGRATION_PASS; of a mirror `status` names the
    job, and `detail` says what went wrong, empty where nothing did. `host_time` is the
    host's clock (None for LOST, which the client makes when the connection ends), `received` the controller's clock.
    """

    kind: GuestEventKind
    received: float
    host_time: float | None = None
    status: str = ""
    number: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended on a host."""

    status: int
    stdout: bytes
    stderr: bytes


class Guest(Protocol):
    """An open monitor of one guest. Every call ends within its deadline or raises.

    Raises MonitorCommandError when QEMU refuses, MonitorLostError when the connection ended.
    """

    async def features(self) -> Features:
        """Return what this QEMU can do, by introspection."""
        ...

    def events(self) -> AsyncIterator[GuestEvent]:
        """Yield events from the moment of the call on, in order; ends after LOST."""
        ...

    async def view(self) -> GuestView:
        """Return run state and stream status of this instant."""
        ...

    async def facts(self) -> GuestFacts:
        """Describe the running machine and how to start it elsewhere."""
        ...

    async def set_capabilities(self, capabilities: dict[str, bool]) -> None:
        """Switch migration capabilities; only before a stream starts."""
        ...

    async def set_parameters(self, parameters: dict[str, int | str | bool]) -> None:
        """Set migration parameters, in QEMU's own units; valid while a stream runs."""
        ...

    async def listen(self, uri: str) -> str:
        """Make an `-incoming defer` guest accept a stream at `uri`, once; returns where it does.

        Of a range of ports (`tcp:HOST:FIRST,to=LAST`) it takes the first that it can have.
        """
        ...

    async def migrate(self, uri: str) -> None:
        """Start the stream to `uri`; returns when QEMU accepted the command."""
        ...

    async def hand_over_hindrances(self) -> tuple[str, ...]:
        """Return why another process on this host cannot take the guest's memory as it stands; empty if it can."""
        ...

    async def hand_over(self, path: str) -> None:
        """Start a stream that hands the memory over to the process launched by `Host.launch_taker` at `path`."""
        ...

    async def forget_hand_over(self) -> None:
        """Let the next stream be an ordinary one, after `hand_over`. Idempotent."""
        ...

    async def sample(self) -> Sample | None:
        """Read the stream's counters, or None before there are any."""
        ...

    async def migration_result(self) -> dict[str, float]:
        """Return QEMU's final figures: `total-time`, `downtime`, `setup-time` (ms), `transferred` (bytes), `passes`."""
        ...

    async def serve_disks(self, address: str, port: int, copies: Sequence[DiskCopy]) -> None:
        """Take disks over the network at `address`:`port` until `stop_serving`; only before the stream has ended."""
        ...

    async def stop_serving(self) -> None:
        """Take disks no longer: what came is all there is. Idempotent."""
        ...

    async def start_mirror(self, copy: DiskCopy, address: str, port: int, speed: int) -> None:
        """Copy a disk to where it is served, at `speed` bytes a second (0: no limit); one under way goes on."""
        ...

    async def keep_alike(self, copy: DiskCopy) -> bool:
        """Let each write of the guest wait for a copy that is ready; False where that cannot be changed on the way."""
        ...

    async def mirrors(self, copies: Sequence[DiskCopy]) -> tuple[MirrorView, ...]:
        """Say how far the copies of these disks are; those that are not under way are absent."""
        ...

    async def end_mirror(self, copy: DiskCopy) -> None:
        """Let a copy that is ready end whole; returns when QEMU accepted it, MIRROR_ENDED says when it has."""
        ...

    async def forget_mirrors(self, copies: Sequence[DiskCopy]) -> None:
        """Close the connections to where copies went that have ended. Idempotent."""
        ...

    async def cancel_mirrors(self, copies: Sequence[DiskCopy]) -> None:
        """End copies before their time, and forget where they went. Idempotent."""
        ...

    async def continue_stream(self) -> None:
        """Let a stream that is held before the switchover go on."""
        ...

    async def resume(self) -> None:
        """Tell the guest to run (`cont`); returning does not mean that it runs."""
        ...

    async def pause(self) -> None:
        """Stop the guest's CPUs (`stop`)."""
        ...

    async def cancel_migration(self) -> None:
        """Cancel the stream; returns when QEMU accepted it, not when it ended."""
        ...

    async def announce(self) -> None:
        """Send the guest's addresses to the network again (`announce-self`)."""
        ...

    async def powerdown(self) -> None:
        """Press the guest's power button."""
        ...

    async def human(self, line: str, *, deadline: float = 30.0) -> str:
        """Type a line at the human monitor and return what it prints; `deadline` in seconds.

        A command that QEMU refuses there is no error but a text that says so.
        """
        ...

    async def quit(self) -> None:
        """End QEMU; returns when the monitor has closed."""
        ...

    async def close(self) -> None:
        """Close the connection; the guest is not touched. Never raises."""
        ...


class Host(Protocol):
    """One machine that runs guests. Raises HostError and its kin."""

    @property
    def name(self) -> str:
        """The name under which the host is registered."""
        ...

    async def connect(self) -> None:
        """Reach the host; every other call does so on demand, too."""
        ...

    async def close(self) -> None:
        """Let go of the host. Never raises."""
        ...

    async def facts(self, qemu: str | None = None) -> HostFacts:
        """Describe the host; `qemu` names the binary to look at, else the one on the host's PATH."""
        ...

    async def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", deadline: float = 30.0, check: bool = True
    ) -> Completed:
        """Run a command to its end. No argument ever meets a shell unquoted.

        `deadline` in seconds from now. Raises RemoteCommandError on a status other than 0 if `check`.
        """
        ...

    async def open_socket(self, path: str) -> socket.socket:
        """Return a non-blocking socket connected to the UNIX socket `path` on the host. Raises MonitorLostError."""
        ...

    async def observe(self, vm: Vm) -> GuestView:
        """Say what the guest does here. Never raises for an absent guest or a silent host: that is a view, too."""
        ...

    async def attach(self, vm: Vm, *, patience: float = 0.0) -> Guest:
        """Open the guest's control monitor. Raises MonitorBusyError after 3 s of silence, MonitorProtocolError.

        One that is only coming into being is waited for for `patience` seconds.
        """
        ...

    async def prepare_launch(self, vm: Vm, launch: Launch) -> None:
        """Make folders and taps that the launch needs; what it made is removed by `destroy`."""
        ...

    async def launch(self, vm: Vm, launch: Launch, *, incoming: bool = False) -> int:
        """Start QEMU detached from everything; returns its pid when its monitor answers.

        `incoming` starts it paused and waiting for `Guest.listen` instead of running the guest.
        Raises QemuDiedError with QEMU's own words when it ends at once, QemuMissingError.
        """
        ...

    async def launch_taker(self, vm: Vm, launch: Launch, path: str) -> None:
        """Start a QEMU that takes a guest's memory from another process, paused; returns when it waits at `path`.

        It has no monitor before `Guest.hand_over` was told to the other. Raises as `launch` does.
        """
        ...

    async def destroy(self, vm: Vm) -> None:
        """End the guest's QEMU if there is one and return when it is proven gone, its taps and sockets removed.

        Idempotent. Raises HostError when the proof cannot be had.
        """
        ...

    async def free_port(self) -> int:
        """Return a TCP port that nothing listens on, at any address."""
        ...

    async def reaches(self, address: str, port: int) -> bool:
        """Say whether the path to `address`:`port` works: a connection is accepted, or actively refused."""
        ...

    async def plant_token(self, path: str, token: str) -> None:
        """Leave `token` beside the file `path`, so that another host with the same storage can find it."""
        ...

    async def find_token(self, path: str) -> tuple[str | None, str]:
        """Return the token beside `path` (None if there is none) and the file's identity.

        The identity holds size and inode; it is empty where the file is absent.
        """
        ...

    async def remove_token(self, path: str, token: str) -> None:
        """Remove `token` from beside `path`; another's is left alone. Idempotent."""
        ...

    async def image(self, path: str, image_format: str) -> ImageFacts:
        """Describe an image that QEMU has open in that format. Raises HypervisorError."""
        ...

    async def digest(self, path: str, *, all_of_it: bool) -> str:
        """Return size and digest of a file: of all of it, or of its head, its tail and samples in between."""
        ...

    async def place(self, path: str) -> PlaceFacts:
        """Say whether an image could be made at `path`."""
        ...

    async def create_image(self, image: ImageFacts, owner: str) -> None:
        """Make an empty image of that kind, which is `owner`'s until it is kept or removed.

        Raises HostError where there is a file of that name, or no room.
        """
        ...

    async def keep_image(self, path: str, owner: str) -> None:
        """Let an image of `owner`'s be nobody's but the guest's. Idempotent."""
        ...

    async def remove_image(self, path: str, owner: str) -> None:
        """Remove an image that is `owner`'s; any other is left alone. Idempotent."""
        ...

    async def shorten_send_queue(self, lease: str, size: int) -> bool:
        """Keep the unsent queue of TCP sockets on this host under `size` bytes while `lease` lasts.

        The setting is host-wide and reference-counted over leases. Returns False where it is not permitted.
        Rests on tcp_notsent_lowat, see tcp(7).
        """
        ...

    async def restore_send_queue(self, lease: str) -> None:
        """Give the lease back; the last one restores the host's own value. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a migration's journal. `data` is plain JSON; `sequence` counts from 1 within the migration."""

    sequence: int
    at: float
    kind: str
    data: dict[str, object]


@dataclass(frozen=True, slots=True)
class MigrationRow:
    """A migration as the journal lists it."""

    spec: Spec
    created: float
    phase: Phase
    epoch: int
    outcome: Outcome | None


class Journal(Protocol):
    """The story of every migration, written before it is acted upon. Raises JournalError."""

    async def create(self, spec: Spec, at: float) -> None:
        """Begin a story. Raises BusyError when an unfinished one of the same guest exists."""
        ...

    async def take_over(self, identifier: str) -> int:
        """Return a new epoch: from now on a runner of an earlier one can write no transition any more."""
        ...

    async def transition(self, identifier: str, epoch: int, entry: Entry, state: State, *, durable: bool) -> None:
        """Write a new state with the event that led to it; durable means on disk when the call returns.

        Transitions that are not durable are written soon, in order. Raises JournalError for an old epoch.
        """
        ...

    def note(self, identifier: str, kind: str, at: float, data: dict[str, object]) -> None:
        """Write something that nobody acts upon (a sample, a finding, a mark) soon."""
        ...

    async def conclude(self, identifier: str, epoch: int, outcome: Outcome) -> None:
        """Write how it ended, durably."""
        ...

    async def flush(self) -> None:
        """Write what waits."""
        ...

    async def load(self, identifier: str) -> tuple[MigrationRow, State]:
        """Return a migration and its last state. Raises UnknownMigrationError."""
        ...

    async def entries(self, identifier: str, after: int = 0) -> list[Entry]:
        """Return the journal's lines after that sequence number."""
        ...

    async def rows(self, *, unfinished: bool = False, limit: int = 50) -> list[MigrationRow]:
        """List migrations, the newest first."""
        ...

    async def request_cancel(self, identifier: str, by: str, at: float) -> None:
        """Ask whoever runs it to cancel."""
        ...

    async def cancel_requested(self, identifier: str) -> str | None:
        """Return who asked to cancel, or None."""
        ...

    async def close(self) -> None:
        """Write what waits and let go."""
        ...


class Inventory(Protocol):
    """The hosts and guests that Godwit knows. Raises JournalError."""

    async def hosts(self) -> list[HostRecord]:
        """List all hosts by name."""
        ...

    async def host(self, name: str) -> HostRecord:
        """Return a host. Raises UnknownHostError, naming those that exist."""
        ...

    async def put_host(self, record: HostRecord) -> None:
        """Add or replace a host."""
        ...

    async def remove_host(self, name: str) -> None:
        """Forget a host. Raises UnknownHostError."""
        ...

    async def vms(self) -> list[Vm]:
        """List all guests by name."""
        ...

    async def vm(self, name: str) -> Vm:
        """Return a guest. Raises UnknownVmError, naming those that exist."""
        ...

    async def put_vm(self, vm: Vm) -> None:
        """Add or replace a guest."""
        ...

    async def remove_vm(self, name: str) -> None:
        """Forget a guest. Raises UnknownVmError."""
        ...


class Clock(Protocol):
    """Time, so that a simulation can have its own."""

    def now(self) -> float:
        """Return UNIX seconds."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""
        ...


class Watch(Protocol):
    """An outside probe at work."""

    async def replied_since(self, instant: float, deadline: float) -> bool:
        """Say whether the guest answered a request sent after `instant`; waits at most `deadline` seconds for it."""
        ...

    async def finish(self, stopped: float | None, resumed: float | None) -> WatchResult:
        """Stop probing; the gap is looked for around the blackout if its ends are given (controller's clock)."""
        ...


class Watcher(Protocol):
    """Starts outside probes."""

    async def start(self, request: ProbeRequest) -> Watch:
        """Start to probe. Raises ProbeError."""
        ...


class Hypervisor(Protocol):
    """Turns what people write, and what already runs, into guests."""

    def define(self, text: str, origin: str, host: HostFacts) -> Vm:
        """Read a definition for a guest that is to run on `host`; `origin` is the file's name.

        Raises InvalidDefinitionError naming line or key.
        """
        ...

    def beside(self, vm: Vm, launch: Launch, program: str) -> Vm:
        """Return the guest as another process of `program` on the same host: no socket, file or tap is the same.

        `launch` is how the guest is started now. The names follow from those of now, and are nobody else's. Raises
        InputError for a command line that holds what only one process can have.
        """
        ...

    def fitted(self, launch: Launch, qemu: QemuFacts) -> Launch:
        """Return the launch without what this QEMU lacks, as far as that makes no difference to the guest."""
        ...

    async def adopt(self, host: Host, socket: str, name: str | None) -> Vm:
        """Describe the QEMU that serves `socket` on `host` as a guest. `name` overrides the one it has itself.

        Raises HypervisorError, HostError, InputError.
        """
        ...


class Runners(Protocol):
    """The processes that carry migrations."""

    def start(self, identifier: str, vm: str) -> None:
        """Start a runner that outlives whoever calls this."""
        ...

    def alive(self, vm: str) -> bool:
        """Say whether a runner holds this guest."""
        ...
