"""A running guest behind its QEMU's monitor: the port `Guest` over QMP."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from godwit.errors import HostError, MonitorCommandError, MonitorLostError, MonitorProtocolError
from godwit.qemu import (
    balloon,
    credentials,
    dirtyrate,
    facts,
    features,
    fleecing,
    handover,
    media,
    mirrors,
    plugging,
    power,
    snapshots,
    stamps,
    unplugging,
)
from godwit.qemu.commandline import parse, resolver_of
from godwit.qemu.cpus import vcpu_threads
from godwit.qemu.options import CommandLineError
from godwit.qemu.quirks import LATE_FIGURES, has_quirk
from godwit.qemu.reply import as_object, as_objects, inner_objects, text, whole
from godwit.qemu.views import GuestEvents, make_result, make_sample, make_view

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from godwit.core.snapshots import DiskSnapshots
    from godwit.model import (
        Balloon,
        DevicePlan,
        DirtyWindow,
        DiskCopy,
        Features,
        GuestFacts,
        GuestView,
        MemorySample,
        MirrorView,
        PluggedDevice,
        Sample,
    )
    from godwit.qemu.monitor import Monitor
    from godwit.qemu.process import ProcessFacts

CANCEL_DEADLINE: Final = 10.0
"""Seconds that a copy of a disk may take to end when it is cancelled."""

QUIT_DEADLINE: Final = 5.0
"""Seconds that QEMU may take from `quit` until its monitor closes."""

ANNOUNCE: Final = {"initial": 50, "max": 550, "rounds": 5, "step": 100}
"""Milliseconds between repeated RARP packets, QEMU's own defaults of announce-*."""

_REREAD: Final = 0.02
_REREADS: Final = 25


class QemuGuest:
    """One guest's QEMU over one monitor, which this owns. Implements `godwit.ports.Guest`."""

    def __init__(self, name: str, monitor: Monitor, read_process: Callable[[], Awaitable[ProcessFacts]]) -> None:
        """Speak for the guest `name`; `read_process` looks at its process in /proc on its host."""
        self._name = name
        self._monitor = monitor
        self._read_process = read_process
        self._features: Features | None = None
        self._nodes: dict[str, str] = {}
        """The block nodes of disks that are copied: looked up before the guest stands still."""

    @property
    def monitor(self) -> Monitor:
        """The connection, for commands that the port does not have."""
        return self._monitor

    async def features(self) -> Features:
        """Return what this QEMU can do; asked once, since it cannot change."""
        if self._features is None:
            self._features = await features.probe(self._monitor)
        return self._features

    def events(self) -> GuestEvents:
        """Yield events from the moment of the call on, in order; ends after LOST."""
        return GuestEvents(self._monitor.events())

    async def view(self) -> GuestView:
        """Return run state and stream status of this instant, in one round trip."""
        status, migration = await asyncio.gather(
            self._monitor.execute("query-status"), self._monitor.execute("query-migrate")
        )
        return make_view(as_object(status, "query-status"), as_object(migration, "query-migrate"))

    async def facts(self) -> GuestFacts:
        """Describe the running machine and how to start it elsewhere; `refusals` says why where that cannot be."""
        return await facts.guest_facts(self._name, self._monitor, await self._read_process())

    async def set_capabilities(self, capabilities: dict[str, bool]) -> None:
        """Switch migration capabilities; QEMU refuses it while a stream runs."""
        rows = [{"capability": name, "state": state} for name, state in capabilities.items()]
        await self._monitor.execute("migrate-set-capabilities", {"capabilities": rows})

    async def set_parameters(self, parameters: dict[str, int | str | bool]) -> None:
        """Set migration parameters in QEMU's own units, such as milliseconds for downtime-limit."""
        await self._monitor.execute("migrate-set-parameters", dict(parameters))

    async def listen(self, uri: str) -> str:
        """Make an `-incoming defer` guest accept a stream at `uri`, once; returns where it does.

        Of a range of ports (`tcp:HOST:FIRST,to=LAST`) QEMU takes the first that it can have.
        """
        first, ranged, _ = uri.partition(",to=")
        refusal: MonitorCommandError | None = None
        try:
            await self._monitor.execute("migrate-incoming", {"uri": uri})
        except MonitorCommandError as error:
            refusal = error
        port = await self._listening_port() if ranged else None
        if refusal is not None and port is None:  # else a former runner has let it listen, and died
            raise refusal
        if not ranged:
            return uri
        if port is None:
            message = f"{self._name} was told to listen at {uri}, and does not say where it does"
            raise MonitorProtocolError(message)
        return f"{first.rpartition(':')[0]}:{port}"

    async def _listening_port(self) -> str | None:
        """Return at which port it waits for a stream, None where it does not."""
        addresses = inner_objects(await self._query_migrate(), "socket-address")
        return next((text(address, "port") for address in addresses), None)

    async def use_credentials(self, folder: str, *, let_in: str = "", far: str = "") -> None:
        """Encrypt what is sent and taken from now on; see the port."""
        await credentials.use(self._monitor, folder, let_in=let_in, far=far)

    async def forget_credentials(self) -> None:
        """Encrypt nothing any more. Idempotent."""
        await credentials.forget(self._monitor)

    async def migrate(self, uri: str) -> None:
        """Start the stream to `uri`; returns when QEMU accepted the command."""
        await self._monitor.execute("migrate", {"uri": uri})

    async def go_over(self) -> None:
        """Let the guest go over to the target before its memory; see the port."""
        await self._monitor.execute("migrate-start-postcopy")

    async def break_stream(self) -> None:
        """Give up the connection of a guest in postcopy; see the port."""
        await self._monitor.execute("migrate-pause", out_of_band=True)

    async def listen_again(self, uri: str) -> None:
        """Accept a new connection for a guest in postcopy; see the port.

        In its turn, and not out of band, the command would wait for the main loop, which waits for the guest's memory.
        """
        await self._monitor.execute("migrate-recover", {"uri": uri}, out_of_band=True)

    async def send_again(self, uri: str) -> None:
        """Connect a guest in postcopy to where its target listens again; see the port."""
        await self._monitor.execute("migrate", {"uri": uri, "resume": True})

    async def hand_over_hindrances(self) -> tuple[str, ...]:
        """Return why another process on this host cannot take the guest's memory as it stands; empty if it can."""
        return await handover.hindrances(self._monitor)

    async def hand_over(self, path: str) -> None:
        """Start a stream that hands the memory over to the process that waits at `path`."""
        await handover.begin(self._monitor, path)

    async def forget_hand_over(self) -> None:
        """Let the next stream be an ordinary one. Idempotent."""
        await handover.forget(self._monitor)

    async def sample(self) -> Sample | None:
        """Read the stream's counters, or None before there are any."""
        return make_sample(await self._query_migrate(), self._monitor.now())

    async def migration_result(self) -> dict[str, float]:
        """Return QEMU's final figures: `total-time`, `downtime`, `setup-time` (ms), `transferred` (bytes), `passes`.

        Figures that QEMU does not give are absent.
        """
        reply = await self._query_migrate()
        if has_quirk(LATE_FIGURES, self._monitor.version, "tcg"):
            for _ in range(_REREADS):  # no event says when the figures are there
                if text(reply, "status") != "completed" or whole(reply, "total-time"):
                    break
                await asyncio.sleep(_REREAD)
                reply = await self._query_migrate()
        return make_result(reply)

    async def serve_disks(
        self, address: str, port: int, copies: Sequence[DiskCopy], *, encrypted: bool = False
    ) -> None:
        """Take disks over the network at `address`:`port` until `stop_serving`."""
        await mirrors.serve(self._monitor, address, port, copies, encrypted=encrypted)
        self._nodes |= await mirrors.nodes_of(self._monitor)

    async def stop_serving(self) -> None:
        """Take disks no longer: what came is all there is. Idempotent."""
        await mirrors.stop_serving(self._monitor)

    async def start_mirror(
        self, copy: DiskCopy, address: str, port: int, speed: int, *, encrypted: bool = False
    ) -> None:
        """Copy a disk to where it is served, at `speed` bytes a second (0: no limit); one under way goes on."""
        await mirrors.start(self._monitor, copy, address, port, speed, encrypted=encrypted)
        self._nodes[copy.name] = await mirrors.own_node(self._monitor, copy)

    async def set_mirror_speed(self, copy: DiskCopy, speed: int) -> None:
        """Limit a copy that is under way to `speed` bytes a second (0: no limit)."""
        await mirrors.set_speed(self._monitor, copy, speed)

    async def keep_alike(self, copy: DiskCopy) -> bool:
        """Let each write of the guest wait for the copy, too; False where this QEMU cannot change that on the way."""
        if "block-job-change" not in (await self.features()).commands:
            return False
        await mirrors.keep_alike(self._monitor, copy)
        return True

    async def mirrors(self, copies: Sequence[DiskCopy]) -> tuple[MirrorView, ...]:
        """Say how far the copies of these disks are; those that are not under way are absent."""
        return await mirrors.views(self._monitor, copies)

    async def end_mirror(self, copy: DiskCopy) -> None:
        """Let a copy that is ready end whole; returns when QEMU accepted it, MIRROR_ENDED says when it has."""
        await mirrors.end(self._monitor, copy)

    async def forget_mirrors(self, copies: Sequence[DiskCopy]) -> None:
        """Close the connections to where copies went that have ended. Idempotent."""
        await mirrors.forget(self._monitor, copies)

    async def cancel_mirrors(self, copies: Sequence[DiskCopy]) -> None:
        """End copies before their time, and forget where they went. Idempotent."""
        try:
            await mirrors.cancel(self._monitor, copies, CANCEL_DEADLINE)
        except TimeoutError:
            message = f"a copy of a disk of {self._name} was cancelled and has not ended within {CANCEL_DEADLINE:g} s"
            raise MonitorLostError(message, remedy="see whether its disk or network hangs") from None
        for copy in copies:
            if copy.stamp:
                node = await mirrors.own_node(self._monitor, copy)
                await stamps.remove(self._monitor, node, copy.stamp)

    async def stamp_disks(self, copies: Sequence[DiskCopy]) -> tuple[str, ...]:
        """Set the handover stamps of copies whose guest stands still; returns why, for disks that cannot have any."""
        for copy in copies:
            if copy.name not in self._nodes:  # a former runner has looked them up
                self._nodes[copy.name] = await mirrors.own_node(self._monitor, copy)
        return await stamps.add(self._monitor, self._nodes, copies)

    async def forget_stamps(self, copies: Sequence[DiskCopy]) -> None:
        """Remove all handover stamps from these disks but the copies' own. Idempotent."""
        await stamps.forget_others(self._monitor, await mirrors.rows_of(self._monitor), copies)

    async def freeze(self, copies: Sequence[DiskCopy]) -> None:
        """Keep disks that are to be compared as they are now, in one round trip; does nothing for others."""
        await fleecing.freeze(self._monitor, copies)

    async def serve_frozen(
        self, address: str, port: int, copies: Sequence[DiskCopy], *, encrypted: bool = False
    ) -> None:
        """Serve disks as they were when they were frozen, read-only, each under its job's name."""
        await fleecing.serve(self._monitor, address, port, copies, encrypted=encrypted)

    async def thaw(self, copies: Sequence[DiskCopy]) -> None:
        """Serve frozen disks no longer, and keep them no more. Idempotent."""
        await fleecing.thaw(self._monitor, copies)

    async def continue_stream(self) -> None:
        """Let a stream that is held before the switchover go on."""
        await self._monitor.execute("migrate-continue", {"state": "pre-switchover"})

    async def resume(self) -> None:
        """Tell the guest to run (`cont`), in one round trip; returning does not mean that it runs."""
        await self._monitor.execute("cont")

    async def pause(self) -> None:
        """Stop the guest's CPUs (`stop`)."""
        await self._monitor.execute("stop")

    async def cancel_migration(self) -> None:
        """Cancel the stream; returns when QEMU accepted it, not when it ended."""
        await self._monitor.execute("migrate_cancel")

    async def announce(self) -> None:
        """Send the guest's addresses to the network again (`announce-self`)."""
        await self._monitor.execute("announce-self", ANNOUNCE)

    async def powerdown(self) -> None:
        """Press the guest's power button."""
        await self._monitor.execute("system_powerdown")

    async def power_off_by_agent(self) -> bool:
        """Return False: the agent's channel is a socket of the host's, which a monitor alone does not lead to."""
        return False

    async def trim_by_agent(self) -> bool:
        """Return False, as above."""
        return False

    async def addresses_by_agent(self) -> Mapping[str, tuple[str, ...]]:
        """Return nothing, as above."""
        return {}

    async def time_by_agent(self) -> float | None:
        """Return nothing, as above."""
        return None

    async def set_time_by_agent(self, at: Callable[[], float]) -> bool:
        """Return False, as above."""
        del at
        return False

    async def keep_after_power_off(self, *, keep: bool) -> None:
        """Let QEMU outlive a guest that switches itself off; or let it do again what its command line says."""
        actions = power.OUTLIVE if keep else power.actions_of((await self._read_process()).argv)
        await self._monitor.execute("set-action", dict(actions))

    async def reset(self) -> None:
        """Press the guest's reset button (`system_reset`); one that is off stands still then, able to run."""
        await self._monitor.execute("system_reset")

    async def human(self, line: str, *, deadline: float = 30.0) -> str:
        """Type a line at the human monitor and return what it prints, its lines ended as everywhere else."""
        if line.split()[:1] == ["loadvm"]:
            await stamps.forget_all(self._monitor)
        said = await self._monitor.execute("human-monitor-command", {"command-line": line}, deadline=deadline)
        if not isinstance(said, str):
            message = f"QEMU of {self._monitor.where} answered `{line}` with what is no text"
            raise MonitorProtocolError(message)
        return said.replace("\r\n", "\n")

    async def balloon(self) -> Balloon | None:
        """Return what the guest's balloon is like; see `balloon.read`."""
        return await balloon.read(self._monitor)

    async def leave_memory(self, size: int) -> None:
        """Let the balloon leave `size` bytes of its memory to the guest; see the port."""
        await balloon.leave(self._monitor, size)

    async def memory_left(self) -> int:
        """Return the bytes of its memory that the balloon leaves to the guest at this instant."""
        return await balloon.left(self._monitor)

    async def dirty_window(self, seconds: float) -> DirtyWindow:
        """Measure how much of its memory the guest changes within `seconds`; see `dirtyrate.measure`."""
        return await dirtyrate.measure(self._monitor, seconds)

    async def cpu_times(self) -> tuple[float, ...]:
        """Refuse: what the guest's CPUs take is counted on its host, to which a monitor alone does not lead."""
        message = f"nobody can see through its monitor alone how much the CPUs of {self._name} work"
        raise HostError(message)

    async def cpu_threads(self) -> tuple[int, ...]:
        """Return the threads that play the guest's CPUs, in order; under plain emulation one may play several."""
        return await vcpu_threads(self._monitor)

    async def disk_writes(self) -> int:
        """Return the bytes that the guest has written to its disks so far, as QEMU counts them."""
        return media.written(as_objects(await self._monitor.execute("query-blockstats"), "query-blockstats"))

    async def sample_memory(self) -> MemorySample:
        """Refuse: pages are looked at on the guest's host, to which a monitor alone does not lead."""
        message = f"nobody can look at pages of {self._name} through its monitor alone"
        raise HostError(message)

    async def snapshots(self) -> tuple[DiskSnapshots, ...]:
        """List the guest's disks and the snapshots that their images hold."""
        process, rows = await asyncio.gather(self._read_process(), self._monitor.execute("query-block"))
        try:
            found = parse(process.argv)
        except CommandLineError:  # its relative paths stay as they are
            found = ()
        disks = media.disks(as_objects(rows, "query-block"), resolver_of(process, found))
        return await snapshots.read(self._monitor, {disk.name: disk.path for disk in disks})

    async def save_snapshot(self, tag: str, vmstate: str, nodes: Sequence[str]) -> float:
        """Keep memory (in the node `vmstate`), devices and disks as `tag`; returns the standstill's seconds."""
        return await snapshots.save(self._monitor, tag, vmstate, nodes)

    async def load_snapshot(self, tag: str, vmstate: str, nodes: Sequence[str]) -> float:
        """Take the guest back to `tag`; one that ran goes on from there. Returns the standstill's seconds."""
        return await snapshots.load(self._monitor, tag, vmstate, nodes)

    async def delete_snapshot(self, tag: str, nodes: Sequence[str]) -> None:
        """Remove `tag` from these disks; one that does not have it is none the worse."""
        await snapshots.delete(self._monitor, tag, nodes)

    async def quit(self) -> None:
        """End QEMU; returns when the monitor has closed. Raises MonitorLostError when it does not close."""
        try:
            await self._monitor.execute("quit", deadline=QUIT_DEADLINE)
        except MonitorLostError:
            if self._monitor.connected:
                raise
        try:
            async with asyncio.timeout(QUIT_DEADLINE):
                await self._monitor.lost()
        except TimeoutError:
            message = f"QEMU of {self._monitor.where} was told to quit and has not ended within {QUIT_DEADLINE:g} s"
            raise MonitorLostError(message, remedy="see whether its disk or network hangs") from None

    async def devices(self) -> tuple[PluggedDevice, ...]:
        """Return the devices that have a name, ports left out."""
        return await plugging.devices_of(self._monitor)

    async def names_in_use(self) -> frozenset[str]:
        """Return the names that a new device, or what is behind it, cannot have."""
        return frozenset(await plugging.names_in_use(self._monitor))

    async def plug(self, plan: DevicePlan, *, tap: str = "", vhost: bool = False) -> PluggedDevice:
        """Plug a device in; see the port."""
        return await plugging.plug(self._monitor, self._name, plan, tap=tap, vhost=vhost)

    async def unplug(self, identifier: str, *, deadline: float) -> PluggedDevice | None:
        """Let the guest let go of a device; see the port."""
        return await plugging.unplug(self._monitor, self._name, identifier, deadline=deadline)

    async def plugged(self) -> frozenset[str]:
        """Return the names of the devices that the guest has."""
        return await unplugging.plugged(self._monitor)

    async def properties(self, identifier: str) -> str:
        """Return what `put_back` needs to make a device again; see the port."""
        return await unplugging.properties_of(self._monitor, identifier)

    async def let_go(self, identifier: str) -> None:
        """Ask the guest to let go of a device; see the port."""
        await unplugging.let_go(self._monitor, identifier)

    async def put_back(self, properties: str) -> None:
        """Plug a device in again; see the port."""
        await unplugging.put_back(self._monitor, properties)

    async def close(self) -> None:
        """Close the connection; the guest is not touched. Never raises."""
        await self._monitor.close()

    async def _query_migrate(self) -> Mapping[str, object]:
        return as_object(await self._monitor.execute("query-migrate"), "query-migrate")
