"""What the engine needs of the world. Each port has a real implementation and one that ships for the simulation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from godwit.core.savefile import DiskState
    from godwit.core.saves import Job
    from godwit.core.sending import SendRecord
    from godwit.core.snapshots import DiskSnapshots
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
        OlderCopy,
        Outcome,
        PlaceFacts,
        ProbeRequest,
        QemuFacts,
        Sample,
        Spec,
        Vm,
        WaitingQemu,
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


@dataclass(frozen=True, slots=True)
class ServedFile:
    """A file that a host gives away to one other host: its path and size in bytes there, and where it is to be had."""

    path: str
    size: int
    uri: str
    lease: str


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

    async def set_mirror_speed(self, copy: DiskCopy, speed: int) -> None:
        """Limit a copy that is under way to `speed` bytes a second (0: no limit)."""
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

    async def stamp_disks(self, copies: Sequence[DiskCopy]) -> tuple[str, ...]:
        """Set the handover stamps of copies whose guest stands still; returns why, for disks that cannot have any."""
        ...

    async def forget_stamps(self, copies: Sequence[DiskCopy]) -> None:
        """Remove all handover stamps from these disks but the copies' own. Idempotent."""

    async def freeze(self, copies: Sequence[DiskCopy]) -> None:
        """Keep disks that are to be compared as they are now, whatever the guest writes; does nothing for others."""
        ...

    async def serve_frozen(self, address: str, port: int, copies: Sequence[DiskCopy]) -> None:
        """Serve disks as they were when they were frozen, read-only, each under its job's name."""
        ...

    async def thaw(self, copies: Sequence[DiskCopy]) -> None:
        """Serve frozen disks no longer, and keep them no more. Idempotent."""
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

    async def keep_after_power_off(self, *, keep: bool) -> None:
        """Let QEMU outlive a guest that switches itself off (POWERED_OFF); or let it do again what it was started for.

        Raises MonitorCommandError where QEMU cannot (before 6.0).
        """
        ...

    async def reset(self) -> None:
        """Press the guest's reset button (`system_reset`); one that is off stands still then, able to run."""
        ...

    async def human(self, line: str, *, deadline: float = 30.0) -> str:
        """Type a line at the human monitor and return what it prints; `deadline` in seconds.

        A command that QEMU refuses there is no error but a text that says so.
        """
        ...

    async def snapshots(self) -> tuple[DiskSnapshots, ...]:
        """List the guest's disks and the snapshots that their images hold."""
        ...

    async def save_snapshot(self, tag: str, vmstate: str, nodes: Sequence[str]) -> float:
        """Keep memory (in the node `vmstate`), devices and disks as `tag`; returns the standstill's seconds.

        A guest that ran goes on, whatever happens. Until this has ended no monitor of the guest answers.
        """
        ...

    async def load_snapshot(self, tag: str, vmstate: str, nodes: Sequence[str]) -> float:
        """Take the guest back to `tag`; one that ran goes on from there. Returns the standstill's seconds.

        After a MonitorCommandError it is stopped, and what it holds is not defined.
        """
        ...

    async def delete_snapshot(self, tag: str, nodes: Sequence[str]) -> None:
        """Remove `tag` from these disks; one that does not have it is none the worse."""
        ...

    async def quit(self) -> None:
        """End QEMU; returns when the monitor has closed."""
        ...

    async def close(self) -> None:
        """Close the connection; the guest is not touched. Never raises."""
        ...


class Transfers(Protocol):
    """Whole files and comparisons between hosts, over the migration network. Raises HostError."""

    async def take_file(self, path: str, owner: str, address: str, port: int, size: int) -> None:
        """Let one sender fill the file `path`, of `size` bytes, at `address`:`port`; returns when it is waited for."""
        ...

    async def send_file(self, path: str, owner: str, url: str, *, size: int, speed: int) -> None:
        """Send a file to where another host takes it, at `speed` bytes a second (0: no limit), to the end."""
        ...

    async def end_transfer(self, owner: str) -> None:
        """End whatever sends or takes under that name here. Idempotent."""
        ...

    async def fit_file(self, path: str, size: int) -> None:
        """Cut a file that was taken to its size, and see it on its disk."""
        ...

    async def used(self, path: str) -> int:
        """Return the bytes that a file takes on its file system; 0 where there is none."""
        ...

    async def compare_image(self, path: str, image_format: str, url: str, *, size: int) -> str:
        """Compare an image with what is served at `url`; returns what differs, in words, empty where nothing does."""
        ...


class Addresses(Protocol):
    """Disks that are served over the network."""

    async def served_head(self, url: str) -> str:
        """Return the size of what is served at an address, and a digest of its first bytes. Raises HostError."""
        ...


class Host(Transfers, Addresses, Protocol):
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

    async def launch(self, vm: Vm, launch: Launch, *, incoming: bool = False, paused: bool = False) -> int:
        """Start QEMU detached from everything; returns its pid when its monitor answers.

        `incoming` starts it paused and waiting for `Guest.listen` instead of running the guest, `paused` ready to run.
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

    async def waiting_at(self, uri: str) -> WaitingQemu:
        """Return the QEMU that listens here at the port of `tcp:HOST:PORT`, or at the socket of `unix:PATH`.

        Raises InputError where nobody listens there, where it is no QEMU or cannot be seen.
        """
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

    async def leave_image(self, path: str, image_format: str, vm: str, stamp: str) -> None:
        """Mark an image that no process has open any more as one that its guest left behind. Idempotent.

        The mark holds what tells of any change to it and to its backing files. Raises HostError.
        """
        ...

    async def older_copy(self, path: str, image_format: str) -> OlderCopy | None:
        """Describe the image that a guest left behind at `path`; None for any other file, and for none."""
        ...

    async def claim_image(self, path: str, owner: str) -> None:
        """Take an untouched image that was left behind as `owner`'s until it is kept or given back.

        Raises HostError where it was changed, or is none.
        """
        ...

    async def give_back_image(self, path: str, owner: str) -> None:
        """Leave an image that was claimed as it is now, as left behind by the same guest. Idempotent."""
        ...

    async def discard_image(self, path: str) -> None:
        """Remove an untouched image that was left behind; any other file is left alone. Idempotent."""

    async def image_snapshots(self, disk: DiskSnapshots) -> DiskSnapshots:
        """Return the disk of a guest that is off with its format and the snapshots in its image. Raises HostError."""
        ...

    async def delete_image_snapshot(self, path: str, tag: str) -> None:
        """Remove a snapshot from an image that no QEMU has open. Raises HypervisorError."""
        ...

    async def serve_file(self, path: str, lease: str, address: str) -> ServedFile:
        """Give a file away to one other host at `address` of this one, until it has it or the lease ends.

        `renew_lease` keeps it for a while. `lease` is a name that nobody can guess. Raises HostError.
        """
        ...

    async def renew_lease(self, lease: str) -> None:
        """Let what is served under `lease` be served for another while. Idempotent."""
        ...

    async def stop_serving_file(self, lease: str) -> None:
        """Serve it no longer. Idempotent."""
        ...

    async def fetch_file(self, served: ServedFile, path: str, owner: str) -> None:
        """Make a copy at `path` of what another host serves; holes stay holes. It is `owner`'s, as an image made is.

        Raises HostError where there is a file of that name, or no room; what was made then is still `owner`'s.
        """
        ...

    async def resident(self, pid: int) -> int:
        """Return how many bytes of memory a process has resident. Raises RemoteCommandError for one that is gone."""
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

    @property
    def saves(self) -> SaveFiles:
        """The files on this host that guests are saved to."""
        ...


class SaveFiles(Protocol):
    """Files of saved guests on one host. Every call raises HostError and its kin."""

    async def begin(self, path: str, part: str, program: str) -> None:
        """Make `part`, which is to become `path`. Raises HostError where it cannot be, or the host lacks `program`."""
        ...

    async def program_ended(self, part: str) -> str:
        """Return the status of the program that writes to `part`, in words; empty while it has not told it."""
        ...

    async def measure(self, part: str, disks: Sequence[str]) -> tuple[int, tuple[DiskState, ...]]:
        """Return the length of `part` and the state of these disks. Raises HostError where one is absent."""
        ...

    async def complete(self, path: str, part: str, header: bytes) -> None:
        """Put the header in front, sync, and give `part` its name. Raises HostError where the name is taken."""
        ...

    async def discard(self, part: str) -> None:
        """Remove a file that was begun, and what belongs to it. Idempotent."""
        ...

    async def head(self, path: str) -> tuple[int, bytes]:
        """Return length and beginning of a file, as much as describes it. Raises HostError where there is none."""
        ...

    async def disks(self, paths: Sequence[str]) -> tuple[DiskState | None, ...]:
        """Return the state of files, None for one that is not there."""
        ...

    async def chunk_sum(self, path: str, number: int) -> str:
        """Return the digest of the stream's chunk of that number, from 0."""
        ...

    async def seal(self, path: str, seal: bytes) -> None:
        """Put the seal in its place, and sync."""
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

    @property
    def jobs(self) -> JobBook:
        """The saves and restores that are under way, and those that were."""
        ...


class JobBook(Protocol):
    """The record of every save and restore, written before it is acted upon. Raises JournalError."""

    async def create(self, job: Job) -> None:
        """Write a new job down. Raises BusyError when one of the same guest, or a migration of it, is unfinished."""
        ...

    async def take_over(self, identifier: str) -> tuple[int, Job]:
        """Return a new epoch, and the job: who had an earlier one can write nothing any more."""
        ...

    async def taken_over(self, identifier: str) -> bool:
        """Say whether who began it has been followed by another."""
        ...

    async def write(self, job: Job, epoch: int, *, durable: bool) -> None:
        """Write how far it is; durable means on disk when the call returns. Raises SupersededError."""
        ...

    async def load(self, identifier: str) -> Job:
        """Return a job. Raises UnknownMigrationError."""
        ...

    async def rows(self, *, unfinished: bool = False, limit: int = 50) -> list[Job]:
        """List jobs, the newest first."""
        ...

    async def request_cancel(self, identifier: str) -> None:
        """Ask whoever does it to go back."""
        ...

    async def cancel_requested(self, identifier: str) -> bool:
        """Say whether somebody asked for that."""
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

    async def sends(self) -> list[SendRecord]:
        """List the guests that are being sent with a snapshot, or were when whoever sent them died."""
        ...

    async def put_send(self, record: SendRecord) -> None:
        """Write durably how far a guest is that is being sent."""
        ...

    async def remove_send(self, vm: str) -> None:
        """Forget that a guest is being sent: it has ended. Idempotent."""
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

    def disks(self, launch: Launch) -> tuple[DiskSnapshots, ...]:
        """Return the disks that a command line names, for a guest that is off. Raises HypervisorError."""
        ...


class Runners(Protocol):
    """The processes that carry migrations."""

    def start(self, identifier: str, vm: str) -> None:
        """Start a runner that outlives whoever calls this."""
        ...

    def alive(self, vm: str) -> bool:
        """Say whether a runner holds this guest."""
        ...

    def hold(self, vm: str) -> AbstractAsyncContextManager[None]:
        """Hold the guest as a runner does, so that no runner begins meanwhile. Raises BusyError where one has it."""
        ...
