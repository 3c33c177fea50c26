"""A host with plain QEMU, and nothing of ours on it: the port `Host` over a transport.

What it needs of the host: a POSIX shell, coreutils, grep, util-linux, iproute2, and QEMU.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from godwit.errors import (
    BusyError,
    GodwitError,
    HostError,
    HypervisorError,
    InputError,
    MonitorLostError,
    MonitorProtocolError,
    QemuDiedError,
    RemoteCommandError,
)
from godwit.hosts import hostfacts, incoming, launching, processes, sendqueue, tcpports
from godwit.hosts.announcing import Announces
from godwit.hosts.cpumodels import ask_cpu
from godwit.hosts.credentials import KeepsCredentials
from godwit.hosts.devices import GivesDevices
from godwit.hosts.files import LooksIntoFiles
from godwit.hosts.links import LooksAtLinks
from godwit.hosts.plainguest import PlainGuest
from godwit.hosts.savefiles import PlainSaveFiles
from godwit.hosts.shell import run_script, words_of
from godwit.hosts.transfers import Transfers
from godwit.hosts.transport import COMMAND_DEADLINE, shown
from godwit.hosts.trials import TriesLinks
from godwit.hosts.working import CountsWork
from godwit.model import GuestView, RunState
from godwit.network import tap as taps
from godwit.qemu.beside import taking_argv
from godwit.qemu.commandline import incoming_argv, move_vnc, paused_argv, vnc_ports
from godwit.qemu.media import LONGEST_CHAIN
from godwit.qemu.monitor import Monitor
from godwit.storage import images, leftbehind, sharedproof

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from godwit.hosts.processes import QemuProcess
    from godwit.hosts.transport import Transport
    from godwit.model import (
        CpuFacts,
        HostFacts,
        ImageFacts,
        Launch,
        OlderCopy,
        PlaceFacts,
        Vm,
        WaitingQemu,
    )
    from godwit.ports import Completed, Fence
    from godwit.qemu.process import ProcessFacts

MONITOR_DEADLINE: Final = 3.0
"""Seconds after which a silent monitor counts as held by somebody else, or its QEMU as stopped."""

VIEW_DEADLINE: Final = 1.5
"""Seconds that one monitor may take while the guest is observed."""

OBSERVE_DEADLINE: Final = 8.0
"""Seconds that observing may take in all, reaching the host included."""

IMAGE_DEADLINE: Final = 60.0
"""Seconds that making or removing an image may take: a large one has many extents to give back."""

DIGEST_DEADLINE: Final = 3600.0
"""Seconds that reading a whole backing file may take: who asks for it knows how large it is."""

_FIRST_RETRY: Final = 0.01
_SOON: Final = 0.005
_ENDING: Final = 1.0
"""Seconds that a QEMU whose monitor has closed may take to end."""


class PlainHost(
    Transfers, LooksIntoFiles, KeepsCredentials, GivesDevices, LooksAtLinks, TriesLinks, CountsWork, Announces
):
    """One machine that runs plain QEMU. Implements `godwit.ports.Host`; made by `hosts.connect.open_host`."""

    def __init__(self, identity: hostfacts.Identity, transport: Transport) -> None:
        """Serve the host `identity` over `transport`, which this owns."""
        self._identity = identity
        self._transport = transport
        self.saves = PlainSaveFiles(transport)

    @property
    def name(self) -> str:
        """The name under which the host is registered."""
        return self._identity.name

    async def connect(self) -> None:
        """Reach the host; every other call does so on demand, too."""
        await self._transport.connect()

    async def close(self) -> None:
        """Let go of the host. Never raises."""
        await self._transport.close()

    def guard(self, fence: Fence) -> None:
        """Use each connection only when `fence` let it in, and what it names has been ended."""
        self._transport.guard(fence)

    async def facts(self, qemu: str | None = None) -> HostFacts:
        """Describe the host; `qemu` names the binary to look at, else the one on the host's PATH."""
        return await hostfacts.ask(self._transport, self._identity, qemu)

    async def cpu(self, qemu: str, accelerator: str) -> CpuFacts:
        """Say which processors a QEMU could give guests under an accelerator; see the port."""
        return await ask_cpu(self._transport, qemu, accelerator)

    async def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", deadline: float = COMMAND_DEADLINE, check: bool = True
    ) -> Completed:
        """Run a command to its end, `deadline` seconds at most; no argument ever meets a shell unquoted.

        Raises RemoteCommandError on a status other than 0 if `check`, and when the deadline passes.
        """
        completed = await self._transport.run(argv, stdin=stdin, deadline=deadline)
        if check and completed.status != 0:
            where = self._transport.where
            message = f"{shown(argv)} on {where} failed with status {completed.status}: {words_of(completed)}"
            raise RemoteCommandError(message)
        return completed

    async def open_socket(self, path: str) -> socket.socket:
        """Return a non-blocking socket connected to the UNIX socket `path` on the host. Raises MonitorLostError."""
        return await self._transport.open_unix(path)

    async def observe(self, vm: Vm) -> GuestView:
        """Say what the guest does here, within OBSERVE_DEADLINE seconds; a silent host or monitor is a view, too."""
        try:
            async with asyncio.timeout(OBSERVE_DEADLINE):
                seen = await processes.scan(self._transport, socket=vm.control, name=vm.name, pidfile=vm.pidfile)
                return await self._view(vm, seen)
        except TimeoutError:
            detail = f"{self._transport.where} did not answer within {OBSERVE_DEADLINE:g} s"
            return GuestView(RunState.UNREACHABLE, detail=detail)
        except GodwitError as error:
            return GuestView(RunState.UNREACHABLE, detail=error.message)

    async def _view(self, vm: Vm, seen: processes.Scan) -> GuestView:
        found = processes.processes_of(vm, seen)
        others = processes.namesakes(vm, seen)
        if not found and others:
            pid = others[-1].pid
            detail = f"another QEMU named {vm.name} runs on {self._transport.where}; it does not serve {vm.control}"
            return GuestView(RunState.OTHER, raw="namesake", pid=pid, detail=detail)
        if not found:
            return GuestView(RunState.ABSENT, detail=f"{self._transport.where} has no process of {vm.name}")
        silence = ""
        for socket in (vm.observe, vm.control):
            if socket is None:
                continue
            try:
                view = await self._look_through(socket, vm)
            except (HypervisorError, HostError) as error:
                silence = error.message
                continue
            return replace(view, pid=found[-1].pid)
        return await self._silent(vm, found[-1], silence)

    async def _look_through(self, socket: str, vm: Vm) -> GuestView:
        connection = await self._transport.open_unix(socket, deadline=VIEW_DEADLINE)
        monitor = await Monitor.open(connection, where=f"{vm.name} on {self.name}", deadline=VIEW_DEADLINE)
        guest = PlainGuest(vm, monitor, self._transport, self.open_macvtaps)
        try:
            async with asyncio.timeout(VIEW_DEADLINE):
                return await guest.view()
        except TimeoutError:
            message = f"the monitor {socket} greeted and then fell silent"
            raise MonitorLostError(message) from None
        finally:
            await guest.close()

    async def _silent(self, vm: Vm, process: QemuProcess, silence: str) -> GuestView:
        """Tell a process that ended while we looked from one that lives and does not speak."""
        left = await launching.running(self._transport, vm)
        if not left:
            return GuestView(RunState.ABSENT, detail=f"pid {process.pid} has just ended")
        detail = f"pid {left[-1].pid} lives and does not answer: {silence}"
        return GuestView(RunState.UNREACHABLE, pid=left[-1].pid, detail=detail)

    async def attach(self, vm: Vm, *, patience: float = 0.0) -> PlainGuest:
        """Open the guest's control monitor; one that is only coming into being is waited for for `patience` seconds.

        Raises MonitorBusyError after MONITOR_DEADLINE seconds of silence, MonitorProtocolError, QemuDiedError where
        there is no process.
        """
        try:
            monitor = await self._open_monitor(vm, patience)
        except MonitorLostError as error:
            if await launching.running(self._transport, vm):
                raise
            message = f"{vm.name} does not run on {self._transport.where}: {error.message}"
            raise QemuDiedError(message, remedy="see with `godwit vm list` where it runs") from None
        return PlainGuest(vm, monitor, self._transport, self.open_macvtaps)

    async def _open_monitor(self, vm: Vm, patience: float) -> Monitor:
        """Open the control monitor, once more where something came between the greeting and the first answer.

        That may be an event: QEMU emits events as soon as it has understood the command whose answer is still to come.
        """
        where = f"{vm.name} on {self.name}"
        connection = await self._open_soon(vm.control, patience)
        try:
            return await Monitor.open(connection, where=where, deadline=MONITOR_DEADLINE)
        except MonitorProtocolError:
            connection = await self._open_soon(vm.control, patience)
            return await Monitor.open(connection, where=where, deadline=MONITOR_DEADLINE)

    async def _open_soon(self, path: str, patience: float) -> socket.socket:
        """Connect to a socket within `patience` seconds; no event tells that it came into being: look every 5 ms."""
        end = time.monotonic() + patience
        while True:
            try:
                return await self._transport.open_unix(path, deadline=MONITOR_DEADLINE)
            except MonitorLostError:
                if time.monotonic() >= end:
                    raise
                await asyncio.sleep(_SOON)

    async def find_qemu(self, socket: str) -> ProcessFacts:
        """Return the process that serves the QMP socket `socket`, for a guest that is to be adopted.

        Raises InputError where there is no such socket or no single process behind it, MonitorProtocolError where that
        process is no QEMU.
        """
        process = await processes.find_qemu(self._transport, socket)
        return await processes.read_process(self._transport, process)

    async def prepare_launch(self, vm: Vm, launch: Launch) -> None:
        """Make folders and taps that the launch needs; `destroy` removes the taps again, folders stay."""
        arguments = taps.plug_arguments(launch)
        where = self._transport.where
        if await launching.running(self._transport, vm):
            message = f"{vm.name} runs on {where} already"
            raise BusyError(message)
        folders = (str(len(launch.folders)), *launch.folders)
        prepared = await run_script(self._transport, launching.FOLDERS + taps.PLUG, *folders, *arguments, check=False)
        if prepared.status == launching.NO_FOLDER:
            message = f"{where} cannot make the folders of {vm.name}: {words_of(prepared)}"
            raise HostError(message, remedy="see the folders' rights and whether their disk is full")
        if prepared.status != 0:
            raise taps.plug_error(where, prepared.stdout.decode(errors="replace") or words_of(prepared))

    async def launch(self, vm: Vm, launch: Launch, *, incoming: bool = False, paused: bool = False) -> int:
        """Start QEMU detached from everything; returns its pid when its monitor answers.

        `incoming` starts it paused and waiting for a stream instead of running the guest, `paused` ready to run, its
        VNC server on another port if its own is taken here.
        Raises QemuDiedError with QEMU's own words when it ends at once, QemuMissingError.
        """
        if incoming or paused or launch.argv[-1] == "-S":  # a guest from elsewhere: its port may be taken here
            launch = await self._with_free_vnc(launch)
        if not incoming and not paused and launch.argv[-1] != "-S":
            await self.open_macvtaps(launch.taps)
        if incoming or paused:
            launch = replace(launch, argv=incoming_argv(launch) if incoming else paused_argv(launch))
        pid = await launching.start(self._transport, vm, launch)
        try:
            async with asyncio.timeout(launching.LAUNCH_DEADLINE):
                await self._await_monitor(vm)
        except TimeoutError:
            message = f"the monitor of {vm.name} on {self._transport.where} does not answer"
            raise HypervisorError(message, remedy="see its log on the host") from None
        return pid or await self._pid(vm)

    async def launch_taker(self, vm: Vm, launch: Launch, path: str) -> None:
        """Start a QEMU that takes a guest's memory from another process, paused; returns when it waits at `path`.

        Raises QemuDiedError, QemuMissingError, HypervisorError.
        """
        launch = await self._with_free_vnc(launch)
        await launching.start(self._transport, vm, replace(launch, argv=taking_argv(launch, path)), awaited=path)

    async def _with_free_vnc(self, launch: Launch) -> Launch:
        """Move the guest's VNC server to a free port if somebody here has its port already."""
        if not vnc_ports(launch):
            return launch
        completed = await run_script(self._transport, tcpports.LIST)
        return move_vnc(launch, tcpports.parse_used(completed.stdout.decode(errors="replace")))

    async def _await_monitor(self, vm: Vm) -> None:
        """Return when a monitor has greeted: the one for observing if there is one, since control is for migrations."""
        socket = vm.observe or vm.control
        pause = _FIRST_RETRY
        asked = time.monotonic()
        while True:
            try:
                connection = await self._transport.open_unix(socket, deadline=MONITOR_DEADLINE)
                monitor = await Monitor.open(
                    connection, where=f"{vm.name} on {self.name}", deadline=launching.LAUNCH_DEADLINE
                )
            except (MonitorLostError, MonitorProtocolError) as error:
                # Between the birth of the socket file and its listen(), or when QEMU is just ending.
                await self._check_alive(vm)
                if isinstance(error, MonitorProtocolError) and time.monotonic() - asked > _ENDING:
                    raise
                await asyncio.sleep(pause)
                pause = min(2 * pause, 0.2)
            else:
                await monitor.close()
                return

    async def _check_alive(self, vm: Vm) -> None:
        if not await launching.running(self._transport, vm):
            words = await launching.last_words(self._transport, vm)
            raise launching.died(self._transport.where, vm, words)

    async def _pid(self, vm: Vm) -> int:
        found = await launching.running(self._transport, vm)
        if not found:
            await self._check_alive(vm)
            message = f"{vm.name} answers on {self._transport.where}, but its process cannot be seen"
            raise HypervisorError(message)
        return found[-1].pid

    async def destroy(self, vm: Vm) -> None:
        """End the guest's QEMU if there is one and return when it is proven gone, its taps and sockets removed.

        PCI functions that it had are the host's again. Idempotent. Raises HostError when the proof cannot be had.
        """
        if await launching.end(self._transport, vm):
            await self.give_back_functions(vm.name)

    async def free_port(self) -> int:
        """Return a TCP port that nothing on the host uses, on any address, out of the range kept for migrations."""
        completed = await run_script(self._transport, tcpports.LIST)
        return tcpports.choose(tcpports.parse_used(completed.stdout.decode(errors="replace")), secrets.SystemRandom())

    async def waiting_at(self, uri: str) -> WaitingQemu:
        """Return the QEMU that listens here at the port of `tcp:HOST:PORT`, or at the socket of `unix:PATH`.

        Raises InputError where nobody listens there, where it is no QEMU or cannot be seen.
        """
        return await incoming.waiting_at(self._transport, uri)

    async def reaches(self, address: str, port: int) -> bool:
        """Say whether the path to `address`:`port` works: a connection is accepted, or actively refused.

        Never ask it of a port where a QEMU waits for a stream: any connection uses that up.
        """
        return await self._transport.reaches(address, port) != "silent"

    async def plant_token(self, path: str, token: str) -> None:
        """Leave `token` beside the file `path`. Raises BusyError when another check of the same disk goes on."""
        arguments = (sharedproof.check_path(path), sharedproof.check_token(token))
        limits = (str(sharedproof.PATIENCE), str(sharedproof.LEFT_OVER))
        completed = await run_script(self._transport, sharedproof.PLANT, *arguments, *limits)
        error = sharedproof.planting_error(self._transport.where, path, completed.stdout.decode(errors="replace"))
        if error is not None:
            raise error

    async def find_token(self, path: str) -> tuple[str | None, str]:
        """Return the token beside `path` (None if there is none) and the file's size and inode (empty if absent)."""
        completed = await run_script(self._transport, sharedproof.FIND, sharedproof.check_path(path))
        return sharedproof.parse_found(completed.stdout.decode(errors="replace"))

    async def remove_token(self, path: str, token: str) -> None:
        """Remove `token` from beside `path`; another's is left alone. Idempotent."""
        arguments = (sharedproof.check_path(path), sharedproof.check_token(token))
        await run_script(self._transport, sharedproof.REMOVE, *arguments)

    async def image(self, path: str, image_format: str) -> ImageFacts:
        """Describe an image that QEMU has open in that format. Raises HypervisorError, HostError."""
        completed = await run_script(self._transport, images.INFO, sharedproof.check_path(path), image_format)
        return images.parse_info(completed.stdout.decode(errors="replace"), path, self._transport.where)

    async def digest(self, path: str, *, all_of_it: bool) -> str:
        """Return size and digest of a file: of all of it, or of its head, its tail and samples in between."""
        arguments = (sharedproof.check_path(path), "yes" if all_of_it else "no")
        deadline = DIGEST_DEADLINE if all_of_it else IMAGE_DEADLINE
        completed = await run_script(self._transport, images.DIGEST, *arguments, deadline=deadline)
        return completed.stdout.decode(errors="replace").strip()

    async def place(self, path: str) -> PlaceFacts:
        """Say whether an image could be made at `path`."""
        completed = await run_script(self._transport, images.PLACE, sharedproof.check_path(path))
        return images.parse_place(completed.stdout.decode(errors="replace"))

    async def create_image(self, image: ImageFacts, owner: str) -> None:
        """Make an empty image of that kind, marked as `owner`'s. Raises HostError, BusyError."""
        arguments = (sharedproof.check_path(image.path), sharedproof.check_token(owner))
        completed = await run_script(
            self._transport, images.CREATE, *arguments, *images.create_arguments(image), deadline=IMAGE_DEADLINE
        )
        error = images.creating_error(self._transport.where, image.path, completed.stdout.decode(errors="replace"))
        if error is not None:
            raise error

    async def keep_image(self, path: str, owner: str) -> None:
        """Take the mark from an image of `owner`'s. Idempotent."""
        await run_script(self._transport, images.KEEP, sharedproof.check_path(path), sharedproof.check_token(owner))

    async def remove_image(self, path: str, owner: str) -> None:
        """Remove an image that is marked as `owner`'s; any other is left alone. Idempotent."""
        arguments = (sharedproof.check_path(path), sharedproof.check_token(owner))
        await run_script(self._transport, images.REMOVE, *arguments, deadline=IMAGE_DEADLINE)

    async def leave_image(self, path: str, image_format: str, vm: str, stamp: str) -> None:
        """Mark an image that no process has open any more as one that `vm` left behind. Raises HostError."""
        files = [sharedproof.check_path(path)]
        below = leftbehind.next_below(await self.image(path, image_format))
        while below is not None:
            if len(files) > LONGEST_CHAIN or below[0] in files:
                message = f"the backing files of {path} on {self._transport.where} have no end"
                raise HostError(message, remedy="see the chain with qemu-img info --backing-chain")
            files.append(below[0])
            below = leftbehind.next_below(await self.image(*below))
        await run_script(self._transport, leftbehind.LEAVE, path, vm, stamp, *files, deadline=IMAGE_DEADLINE)

    async def older_copy(self, path: str, image_format: str) -> OlderCopy | None:
        """Describe the image that a guest left behind at `path`; None for any other file, and for none."""
        completed = await run_script(self._transport, leftbehind.FIND, sharedproof.check_path(path))
        said = completed.stdout.decode(errors="replace")
        if not said:
            return None
        try:
            image = await self.image(path, image_format)
        except (HostError, HypervisorError):  # gone, or of another format: then it is of no use
            image = None
        return leftbehind.parse_found(said, image)

    async def claim_image(self, path: str, owner: str) -> None:
        """Take an untouched image that was left behind as `owner`'s. Raises HostError."""
        arguments = (sharedproof.check_path(path), sharedproof.check_token(owner))
        completed = await run_script(self._transport, leftbehind.CLAIM, *arguments)
        error = leftbehind.claiming_error(self._transport.where, path, completed.stdout.decode(errors="replace"))
        if error is not None:
            raise error

    async def give_back_image(self, path: str, owner: str) -> None:
        """Leave an image that was claimed as it is now, as left behind by the same guest. Idempotent."""
        arguments = (sharedproof.check_path(path), sharedproof.check_token(owner))
        await run_script(self._transport, leftbehind.GIVE_BACK, *arguments, deadline=IMAGE_DEADLINE)

    async def discard_image(self, path: str) -> None:
        """Remove an untouched image that was left behind; any other file is left alone. Idempotent."""
        await run_script(self._transport, leftbehind.DISCARD, sharedproof.check_path(path), deadline=IMAGE_DEADLINE)

    async def shorten_send_queue(self, lease: str, size: int) -> bool:
        """Keep the unsent queue of TCP sockets on this host under `size` bytes while `lease` lasts."""
        if size <= 0:
            message = f"a send queue of {size} bytes cannot be meant"
            raise InputError(message)
        return await sendqueue.shorten(self._transport, lease, size)

    async def restore_send_queue(self, lease: str) -> None:
        """Give the lease back; the last one restores the host's own value. Idempotent."""
        await sendqueue.restore(self._transport, lease)
