"""A running guest behind its monitor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from godwit.ports.devices import HotPlugs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from godwit.core.snapshots import DiskSnapshots
    from godwit.model import (
        Balloon,
        DirtyWindow,
        DiskCopy,
        Features,
        GuestFacts,
        GuestView,
        MemorySample,
        MirrorView,
        Sample,
    )


GuestEventKind = Literal[
    "STOP",
    "RESUME",
    "MIGRATION",
    "MIGRATION_PASS",
    "SHUTDOWN",
    "LOST",
    "MIRROR_ENDED",
    "DEVICE_DELETED",
    "DEVICE_KEPT",
    "UNPLUG_PRIMARY",
    "FAILOVER_NEGOTIATED",
]


@dataclass(frozen=True, slots=True)
class GuestEvent:
    """Something that a guest's QEMU said unasked.

    `status` is QEMU's word for a MIGRATION event, `number` the pass of a MIGRATION_PASS; of a mirror `status` names the
    job, and `detail` says what went wrong, empty where nothing did. Of a device it is the device's name; DEVICE_KEPT
    says that the guest does not let go of it. `host_time` is the host's clock (None for LOST, which the client makes
    when the connection ends), `received` the controller's clock.
    """

    kind: GuestEventKind
    received: float
    host_time: float | None = None
    status: str = ""
    number: int = 0
    detail: str = ""


class Guest(HotPlugs, Protocol):
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

    async def use_credentials(self, folder: str, *, let_in: str = "", far: str = "") -> None:
        """Encrypt the next stream, and disks that are served or copied so, with the credentials in `folder`.

        A server has the distinguished name of the one client that it is to `let_in`, a client the name that its server,
        the `far` end, must have. Raises HypervisorError where QEMU cannot encrypt, or does not take the files.
        """
        ...

    async def forget_credentials(self) -> None:
        """Let nothing be encrypted with what `use_credentials` gave any more. Idempotent."""
        ...

    async def listen(self, uri: str) -> str:
        """Make an `-incoming defer` guest accept a stream at `uri`, once; returns where it does, or did already.

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

    async def serve_disks(
        self, address: str, port: int, copies: Sequence[DiskCopy], *, encrypted: bool = False
    ) -> None:
        """Take disks over the network at `address`:`port` until `stop_serving`; only before the stream has ended."""
        ...

    async def stop_serving(self) -> None:
        """Take disks no longer: what came is all there is. Idempotent."""
        ...

    async def start_mirror(
        self, copy: DiskCopy, address: str, port: int, speed: int, *, encrypted: bool = False
    ) -> None:
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

    async def serve_frozen(
        self, address: str, port: int, copies: Sequence[DiskCopy], *, encrypted: bool = False
    ) -> None:
        """Serve disks as they were when they were frozen, read-only, each under its job's name."""
        ...

    async def thaw(self, copies: Sequence[DiskCopy]) -> None:
        """Serve frozen disks no longer, and keep them no more. Idempotent."""
        ...

    async def continue_stream(self) -> None:
        """Let a stream that is held before the switchover go on."""
        ...

    async def go_over(self) -> None:
        """Let the guest go over to the target before its memory (`migrate-start-postcopy`); says nothing of when."""
        ...

    async def break_stream(self) -> None:
        """Give up the connection of a guest in postcopy (`migrate-pause`, out of band): nobody else may notice."""
        ...

    async def listen_again(self, uri: str) -> None:
        """Accept a new connection for a guest in postcopy (`migrate-recover`, out of band)."""
        ...

    async def send_again(self, uri: str) -> None:
        """Connect a guest in postcopy to where its target listens again (`migrate` with `resume`)."""
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

    async def power_off_by_agent(self) -> bool:
        """Ask the guest's agent to switch the guest off; returns False where it has no channel for one.

        Raises HypervisorError where no agent answers, or with its words where it refuses.
        """
        ...

    async def trim_by_agent(self) -> bool:
        """Let the guest's agent give back what its file systems have freed; returns False as above.

        Raises HypervisorError where no agent answers in time, or with its words where it refuses.
        """
        ...

    async def addresses_by_agent(self) -> Mapping[str, tuple[str, ...]]:
        """Return the IP addresses of the guest's interfaces by MAC address, as its agent says; empty without a channel.

        Raises HypervisorError as above.
        """
        ...

    async def time_by_agent(self) -> float | None:
        """Return what the guest's clock shows, in UNIX seconds, as its agent says; None without a channel. As above."""
        ...

    async def set_time_by_agent(self, at: Callable[[], float]) -> bool:
        """Let the guest's agent set its clock; returns False without a channel. As above.

        `at` gives the time in UNIX seconds; it is asked when the agent listens.
        """
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

    async def balloon(self) -> Balloon | None:
        """Return what the guest's balloon is like, None for a guest without one."""
        ...

    async def leave_memory(self, size: int) -> None:
        """Let the balloon leave `size` bytes of its memory to the guest; `memory_left` says how far it is."""
        ...

    async def memory_left(self) -> int:
        """Return the bytes of its memory that the balloon leaves to the guest at this instant."""
        ...

    async def dirty_window(self, seconds: float) -> DirtyWindow:
        """Measure how much of its memory the guest changes within `seconds`, or the shortest time that QEMU measures.

        Raises MonitorCommandError where QEMU refuses.
        """
        ...

    async def cpu_times(self) -> tuple[float, ...]:
        """Return the seconds for which each of the guest's CPUs has worked so far, as its host counts them.

        Raises HostError where that cannot be seen.
        """
        ...

    async def cpu_threads(self) -> tuple[int, ...]:
        """Return the threads of the guest's process that play its CPUs; under plain emulation one may play several."""
        ...

    async def disk_writes(self) -> int:
        """Return the bytes that the guest has written to its disks so far."""
        ...

    async def sample_memory(self) -> MemorySample:
        """Look at some pages of the guest's memory, twice within a moment; nothing of them is kept.

        Raises HostError where its host does not let anybody, HypervisorError where QEMU does not say where it lies.
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
