"""A machine that runs guests, and what is asked of its files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from godwit.ports.devices import GivesDevices
from godwit.ports.links import LooksAtLinks
from godwit.ports.network import Announces
from godwit.ports.trust import KeepsCredentials

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncGenerator, Sequence

    from godwit.core.savefile import DiskState
    from godwit.core.snapshots import DiskSnapshots
    from godwit.model import (
        CpuFacts,
        GuestView,
        HostFacts,
        HostWork,
        ImageFacts,
        Launch,
        OlderCopy,
        Pair,
        PlaceFacts,
        Vm,
        WaitingQemu,
    )
    from godwit.ports.guest import Guest


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended on a host."""

    status: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class Session:
    """The process on a host through which a connection of ours acts there: with it ends all that is still to come.

    `boot` names the boot of the host, `started` is the process's start in the kernel's ticks since then.
    """

    boot: str
    pid: int
    started: int


class Fence(Protocol):
    """Who may act on a host: a connection is used only when this let it in. Raises JournalError.

    Who takes a migration over ends by it what a former runner, or a connection that was lost, may still do there: a
    process that was stopped goes on one day, and what waits in a socket arrives.
    """

    async def enter(self, session: Session) -> tuple[Session, ...]:
        """Write a new session down; returns those that are to be ended first. Raises SupersededError."""
        ...

    async def ended(self, sessions: Sequence[Session]) -> None:
        """Note that these are proven to have ended."""
        ...


class Transfers(Protocol):
    """Whole files and comparisons between hosts, over the migration network. Raises HostError."""

    async def take_file(
        self, path: str, owner: str, address: str, port: int, size: int, *, pair: Pair | None = None
    ) -> None:
        """Let one sender fill the file `path`, of `size` bytes, at `address`:`port`; returns when it is waited for.

        With a `pair` that is its server, and nobody but its client is let in.
        """
        ...

    async def send_file(
        self, path: str, owner: str, url: str, *, size: int, speed: int, pair: Pair | None = None
    ) -> None:
        """Send a file to where another host takes it, at `speed` bytes a second (0: no limit), to the end.

        With a `pair` that is its client.
        """
        ...

    async def end_transfer(self, owner: str) -> None:
        """End whatever sends or takes under that name here, and remove its keys. Idempotent."""
        ...

    async def fit_file(self, path: str, size: int) -> None:
        """Cut a file that was taken to its size, and see it on its disk."""
        ...

    async def used(self, path: str) -> int:
        """Return the bytes that a file takes on its file system; 0 where there is none."""
        ...

    async def compare_image(self, path: str, image_format: str, url: str, *, size: int, credentials: str = "") -> str:
        """Compare an image with what is served at `url`; returns what differs, in words, empty where nothing does.

        `credentials` names whose keys, kept on this host, the server knows; empty where it does not encrypt.
        """
        ...


class Addresses(Protocol):
    """Disks that are served over the network."""

    async def served_head(self, url: str) -> str:
        """Return the size of what is served at an address, and a digest of its first bytes. Raises HostError."""
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


class Host(Transfers, Addresses, KeepsCredentials, GivesDevices, LooksAtLinks, Announces, Protocol):
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

    def guard(self, fence: Fence) -> None:
        """Let every connection from now on be used only when `fence` let it in, and what it names has been ended."""
        ...

    async def facts(self, qemu: str | None = None) -> HostFacts:
        """Describe the host; `qemu` names the binary to look at, else the one on the host's PATH."""
        ...

    async def cpu(self, qemu: str, accelerator: str) -> CpuFacts:
        """Say which processors the program `qemu` could give guests; nothing where the accelerator does not run."""
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

    def hear(self, path: str) -> AsyncGenerator[bytes]:
        """Yield what comes from the UNIX socket `path` on the host, until it ends; nothing is ever said to it.

        Raises MonitorLostError where nobody serves it.
        """
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
        """Return a TCP port that nothing listens on, at any address. Raises BusyError where all are taken."""
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

    async def forbidden(self, files: Sequence[tuple[str, bool]]) -> tuple[str, ...]:
        """Say of each file why a QEMU that is started here could not open it (True: to write to it, too).

        Empty where it can, and for a file that is not there. They are opened as by QEMU, and nothing is written.
        """
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

    async def work(self, vms: Sequence[Vm]) -> HostWork:
        """Return what the processes of these guests have taken of this host so far; one that is not here is absent.

        One round trip, and another where they are not the guests of the last call. Raises HostError.
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
