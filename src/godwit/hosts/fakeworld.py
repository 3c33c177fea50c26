"""The world of the simulation: hosts, links, storage, faults, and the book that is kept of who executed when.

A world is deterministic: the same seed, clock and calls give the same story. What may never happen is not prevented,
since QEMU does not prevent it: it is written down in `broken_laws`, where tests look.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from godwit.errors import InputError
from godwit.hosts.fakeclock import LoopClock
from godwit.hosts.fakecontroller import CONTROLLER, FakeController
from godwit.hosts.fakedisks import FakeDisks
from godwit.hosts.fakestream import Link, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from godwit.core.snapshots import ImageSnapshot
    from godwit.hosts.fake import FakeHost
    from godwit.hosts.fakeqemu import FakeQemu
    from godwit.hosts.fakesaves import FakeSave
    from godwit.model import Launch, Vm
    from godwit.ports import Clock

GIGABIT: Final = 125_000_000
LINK_BANDWIDTH: Final = 50_000_000
"""Bytes a second: 400 Mbit/s, the rate of the laboratory."""

LOST_AFTER: Final = 10.0
"""Seconds of silence after which a connection counts as lost (the keepalive of the real one)."""

ROUND_TRIP: Final = 0.0005
"""Seconds from the client to the guest and back, for the outside view."""


def format_of(path: str) -> str:
    """Return the format of a simulated image: its name says it."""
    return "qcow2" if path.endswith(".qcow2") else "raw"


@dataclass(frozen=True, slots=True)
class File:
    """A file on some hosts' storage: one `inode` on two hosts is the same file, one `content` a copy of it."""

    inode: int
    size: int
    hosts: frozenset[str]
    content: str = ""


@dataclass(frozen=True, slots=True)
class FakeSnapshot:
    """A snapshot in an image; `memory` names the content of the guest's memory, 0 where another disk holds it."""

    entry: ImageSnapshot
    memory: int = 0


@dataclass(slots=True)
class Run:
    """One stretch of time in which a process executed the guest."""

    vm: str
    host: str
    pid: int
    began: float
    ended: float | None = None


@dataclass(slots=True)
class Refusal:
    """A planted refusal of a command; `left` counts down, None lasts."""

    words: str
    left: int | None


@dataclass(slots=True)
class FakeWorld:
    """Everything that a simulation knows. `chance` is seeded; nothing else is left to it."""

    clock: Clock = field(default_factory=LoopClock)
    seed: int = 0
    hosts: dict[str, FakeHost] = field(default_factory=dict)
    workloads: dict[str, Workload] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    broken_laws: list[str] = field(default_factory=list)
    chance: random.Random = field(init=False)
    tokens: dict[int, str] = field(default_factory=dict)
    full: set[str] = field(default_factory=set)
    incomplete: set[int] = field(default_factory=set)
    """Inodes of images that a copy was begun into and did not end whole."""
    disks: FakeDisks = field(default_factory=FakeDisks)
    images: dict[int, tuple[FakeSnapshot, ...]] = field(default_factory=dict)
    """The snapshots in an image, by its inode."""
    owned: dict[int, str] = field(default_factory=dict)
    """The migration that an image was made by, by inode, until it is kept."""
    guest_clocks: dict[str, float] = field(default_factory=dict)
    """By how many seconds a guest's clock is ahead of the world's."""
    trimmed: set[str] = field(default_factory=set)
    """Paths of images that their guest has trimmed: half of what they held was free."""
    read_only: set[str] = field(default_factory=set)
    """Paths of files that a guest only reads."""
    locked: set[tuple[str, str]] = field(default_factory=set)
    """Hosts and paths of files there that a QEMU may not open."""
    differing: dict[str, str] = field(default_factory=dict)
    """What a comparison finds in the disk of a path, where something is to be found."""
    saves: dict[str, FakeSave] = field(default_factory=dict)
    """Files that guests were saved to, by path; all hosts see them."""
    strangers: set[str] = field(default_factory=set)
    """Hosts at which somebody who is none of ours comes first to whatever port is opened."""
    intrusions: list[str] = field(default_factory=list)
    """What strangers got at."""
    changed: dict[int, int] = field(default_factory=dict)
    """When a file was last written, by inode, in numbers that only grow."""
    holds_on: set[tuple[str, str]] = field(default_factory=set)
    """Guests and devices of theirs that they do not let go of."""
    own_controller: FakeController = field(default_factory=FakeController)
    _links: dict[frozenset[str], Link] = field(default_factory=dict)
    _files: dict[str, list[File]] = field(default_factory=dict)
    _refusals: dict[tuple[str, str], Refusal] = field(default_factory=dict)
    _newest: dict[str, int] = field(default_factory=dict)
    _number: int = 1000
    _waiters: dict[asyncio.Event, None] = field(default_factory=dict)
    """Who waits for the world to change, in the order in which they came."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Seed chance."""
        self.chance = random.Random(self.seed)  # noqa: S311 - a simulation, no secrets

    @property
    def controller(self) -> FakeController:
        """The process that asks."""
        return CONTROLLER.get() or self.own_controller

    # -- what there is ---------------------------------------------------------------------------------------------

    def add_host(self, host: FakeHost) -> FakeHost:
        """Let a host exist, linked to all others at the laboratory's rate."""
        for other in self.hosts:
            self._links[frozenset({host.name, other})] = Link(LINK_BANDWIDTH, 0.0002)
        self.hosts[host.name] = host
        return host

    def add_file(
        self, path: str, hosts: Iterable[str] | None = None, *, size: int = 1 << 30, content: str = ""
    ) -> None:
        """Put a file on storage that the named hosts share (all, if none are named)."""
        there = frozenset(self.hosts if hosts is None else hosts)
        self._files.setdefault(path, []).append(File(self.next_number(), size, there, content))

    def make_image(self, path: str, host: str, size: int, owner: str) -> None:
        """Make an empty image on one host."""
        file = File(self.next_number(), size, frozenset({host}))
        self._files.setdefault(path, []).append(file)
        self.incomplete.add(file.inode)
        self.owned[file.inode] = owner

    def replace_file(self, path: str, host: str, file: File) -> None:
        """Put a changed file in the place of the one that a host sees."""
        before = self.file(path, host)
        self._files[path] = [file if one == before else one for one in self._files[path]]

    def complete(self, path: str, host: str, original: File) -> None:
        """Let a file be a whole copy of another one, snapshots included."""
        file = self.file(path, host)
        if file is not None:
            self.replace_file(path, host, replace(file, content=original.content or str(original.inode)))
            self.incomplete.discard(file.inode)
            self.images[file.inode] = self.images.get(original.inode, ())
            self.disks.content[file.inode] = self.disks.holds(original.inode)

    def remove_image(self, path: str, host: str) -> None:
        """Remove a file from one host's storage."""
        file = self.file(path, host)
        if file is not None:
            self._files[path].remove(file)
            self.incomplete.discard(file.inode)
            self.owned.pop(file.inode, None)
            self.disks.gone(file.inode)

    def start_guest(self, host: str, vm: Vm, workload: Workload | None = None) -> Vm:
        """Let a guest run on a host, and return it as the one that lives there."""
        self.workloads[vm.name] = workload or Workload()
        self.hosts[host].boot(vm)
        return replace(vm, host=host)

    def file(self, path: str, host: str) -> File | None:
        """Return the file that a host sees at a path."""
        return next((file for file in self._files.get(path, ()) if host in file.hosts), None)

    def locking(self, host: FakeHost) -> Iterable[FakeHost]:
        """Return the hosts whose locks are seen on `host`: all of them, on a file system that both mount."""
        del host
        return self.hosts.values()

    def say_device(self, qemu: FakeQemu, words: str) -> None:
        """Hear of a guest and its devices; nobody listens here."""

    def lock_held(self, host: FakeHost, vm: Vm, launch: Launch, *, incoming: bool) -> str | None:
        """Return the words of a QEMU that does not get the lock of a disk; one that waits for a stream takes none."""
        if incoming:
            return None
        wanted = {file.inode for path in self.paths_of(launch) if (file := self.file(path, host.name)) is not None}
        for other in self.locking(host):
            qemu = other.qemus.get(vm.name)
            if qemu is None or qemu.raw in {"inmigrate", "postmigrate"}:
                continue
            held = {file.inode for path in self.paths_of(qemu.launch) if (file := self.file(path, other.name))}
            if held & wanted:
                return 'Failed to get "write" lock: Is another process using the image?'
        return None

    def paths_of(self, launch: Launch) -> list[str]:
        """Return the files that a command line names, as far as any host has them."""
        line = ",".join(launch.argv).split(",")
        words = [word.partition("=")[2] if "=" in word else word for word in line]
        return [word for word in words if word in self._files]

    def disks_of(self, qemu: FakeQemu) -> list[tuple[str, int]]:
        """Return path and size of the files that a command line names."""
        found = [(path, self.file(path, qemu.host.name)) for path in self.paths_of(qemu.launch)]
        return [(path, file.size) for path, file in found if file is not None]

    def link(self, one: str, other: str) -> Link:
        """Return the way between two hosts; raises InputError where there is none."""
        link = self._links.get(frozenset({one, other}))
        if link is None:
            message = f"there is no link between {one} and {other}"
            raise InputError(message)
        return link

    def listener(self, source: FakeHost, uri: str) -> tuple[FakeQemu | None, Link | None]:
        """Return the QEMU that waits at a migration URI, and the way there."""
        if uri.startswith("unix:"):
            here = (qemu for qemu in source.qemus.values() if qemu.path == uri.removeprefix("unix:"))
            return next(here, None), source.here
        address, _, port = uri.removeprefix("tcp:").rpartition(":")
        host = next((host for host in self.hosts.values() if host.migration_address == address.strip("[]")), None)
        if host is None or host is source or host.crashed:
            return None, None
        link = self.link(source.name, host.name)
        qemus = (qemu for qemu in host.qemus.values() if qemu.port == int(port))
        return (next(qemus, None), link) if link.up else (None, None)

    def server(self, source: FakeHost, address: str, port: int) -> tuple[FakeQemu | None, Link | None]:
        """Return the QEMU that serves disks at an address, and the way there."""
        host = next((host for host in self.hosts.values() if host.migration_address == address), None)
        if host is None or host is source or host.crashed:
            return None, None
        link = self.link(source.name, host.name)
        qemus = (qemu for qemu in host.qemus.values() if qemu.blocks.disks_port == port)
        return (next(qemus, None), link) if link.up else (None, None)

    def close_disks(self, qemu: FakeQemu, *, in_order: bool) -> None:
        """Let the images of a process that has ended be closed."""
        for path, _ in self.disks_of(qemu):
            file = self.file(path, qemu.host.name)
            if file is not None:
                self.disks.close(file.inode, keeps_stamps=format_of(path) == "qcow2", in_order=in_order)

    def write_to_disks(self, qemu: FakeQemu) -> None:
        """Let a guest write once to each of its disks."""
        for path, _ in self.disks_of(qemu):
            file = self.file(path, qemu.host.name)
            if file is not None and path not in self.read_only:
                self.disks.guest_writes(qemu.vm.name, path, file.inode)

    def next_number(self) -> int:
        """Return a number that was never used here: a pid, an inode, the name of a memory's content."""
        self._number += 1
        return self._number

    # -- who executes ----------------------------------------------------------------------------------------------

    def boot(self, qemu: FakeQemu) -> None:
        """Note that a guest starts anew: whatever its disks hold is what it begins with."""
        self._newest[qemu.vm.name] = qemu.memory

    def began(self, qemu: FakeQemu) -> None:
        """Note that a process executes from now on, and whether that broke the law."""
        name, where = qemu.vm.name, qemu.host.name
        others = [run.host for run in self.runs if run.vm == name and run.ended is None and run.pid != qemu.pid]
        if others:
            self.broken_laws.append(f"{name} executes on {where} and on {', '.join(others)}: two writers of its disks")
        elif self._newest.get(name, qemu.memory) != qemu.memory:
            self.broken_laws.append(f"{name} executes on {where} with memory older than its disks")
        for path, _ in self.disks_of(qemu):
            file = self.file(path, where)
            if file is not None and file.inode in self.incomplete:
                self.broken_laws.append(f"{name} executes on {where} with a disk that is not whole: {path}")
            reads_only = path in self.read_only
            if file is not None and not reads_only and not self.disks.guest_writes(name, path, file.inode):
                self.broken_laws.append(f"{name} executes on {where} with a disk that lacks writes: {path}")
        qemu.memory = self._newest[name] = self.next_number()
        files = (self.file(path, where) for path, _ in self.disks_of(qemu))
        self.changed.update({file.inode: qemu.memory for file in files if file is not None})
        self.runs.append(Run(name, where, qemu.pid, self.clock.now()))

    def went_back(self, qemu: FakeQemu, memory: int) -> None:
        """Note that memory and disks of a guest went back together: that memory is the newest again."""
        qemu.memory = self._newest[qemu.vm.name] = memory
        for path, _ in self.disks_of(qemu):
            file = self.file(path, qemu.host.name)
            if file is not None:
                self.disks.forget_stamps(file.inode)
                self.disks.newest[qemu.vm.name, path] = self.disks.holds(file.inode)

    def ceased(self, qemu: FakeQemu) -> None:
        """Note that a process executes no more."""
        for run in self.runs:
            if run.pid == qemu.pid and run.ended is None:
                run.ended = self.clock.now()

    def executed(self, qemu: FakeQemu, since: float) -> float:
        """Return for how many seconds a process has executed since an instant."""
        now = self.clock.now()
        mine = (run for run in self.runs if run.pid == qemu.pid)
        return sum(max(0.0, (now if run.ended is None else run.ended) - max(since, run.began)) for run in mine)

    def executing(self, vm: str) -> list[str]:
        """Return the hosts on which a guest executes now: one at most, if the law holds."""
        return [run.host for run in self.runs if run.vm == vm and run.ended is None]

    def probe(self, vm: str, begin: float, end: float, interval: float) -> list[tuple[float, float | None]]:
        """Return what a client outside would have seen: when it asked, and after how many seconds it was answered.

        A request reaches the guest half a round trip later; it is lost (None) where nobody executes then.
        """
        runs = [run for run in self.runs if run.vm == vm]
        seen: list[tuple[float, float | None]] = []
        for number in range(max(0, int((end - begin) / interval) + 1)):
            sent = begin + number * interval
            there = sent + ROUND_TRIP / 2
            answered = any(run.began <= there and (run.ended is None or there < run.ended) for run in runs)
            seen.append((sent, ROUND_TRIP if answered else None))
        return seen

    # -- faults ----------------------------------------------------------------------------------------------------

    def crash_host(self, name: str) -> None:
        """Let a host lose its power: every QEMU on it is gone, and it is silent. Nobody tells the other ends of it."""
        host = self.hosts[name]
        host.crashed = True
        host.boots += 1
        host.sessions.clear()
        host.forsaken = host.monitors()
        for qemu in list(host.qemus.values()):
            qemu.exit("the host lost its power")
        host.leases.clear()
        host.opened.clear()
        self._silence(host)

    def restore_host(self, name: str) -> None:
        """Let a host come back: it answers, runs nothing, and knows nothing of the connections that others send on."""
        host = self.hosts[name]
        host.crashed = False
        for guest in host.forsaken:
            guest.lose("the host has started anew")
        for stream in host.cut_short:
            stream.end("failed")
        host.forsaken, host.cut_short = [], []
        self.stir()

    def kill(self, host: str, vm: str) -> None:
        """End a QEMU at once (SIGKILL)."""
        self.hosts[host].qemus[vm].exit("it was killed")

    def hang(self, host: str, vm: str) -> None:
        """Stop a QEMU process (SIGSTOP)."""
        self.hosts[host].qemus[vm].hang()

    def wake(self, host: str, vm: str) -> None:
        """Let a stopped QEMU process go on (SIGCONT)."""
        self.hosts[host].qemus[vm].wake()

    def cut(self, one: str, other: str | None = None) -> None:
        """Cut two hosts off from each other, or a host from the controller; nothing says so to anybody."""
        if other is not None:
            self.link(one, other).up = False
            self.stir()
            return
        self.hosts[one].cut_off = True
        self._silence(self.hosts[one])

    def heal(self, one: str, other: str | None = None) -> None:
        """Mend what `cut` cut; what was said meanwhile arrives, if the connection was not lost by then."""
        if other is not None:
            link = self.link(one, other)
            link.up = True
            ended, link.cut_short = link.cut_short, []
            for stream in ended:
                stream.end("failed")
        else:
            self.hosts[one].cut_off = False
            for guest in self.hosts[one].monitors():
                guest.heal()
        self.stir()

    def shape(self, one: str, other: str, bandwidth: float) -> None:
        """Give a link another rate, in bytes a second."""
        self.link(one, other).bandwidth = bandwidth
        self.stir()

    def refuse(self, host: str, command: str, words: str = "it was planted so", *, times: int | None = None) -> None:
        """Let a host's QEMUs refuse a monitor command (or "launch"), `times` times or always."""
        self._refusals[host, command] = Refusal(words, times)

    def delay(self, host: str, seconds: float) -> None:
        """Let every answer of a host come `seconds` late."""
        self.hosts[host].late = seconds

    def fill_disk(self, host: str) -> None:
        """Let nothing be written on a host any more."""
        self.full.add(host)

    def drop_controller(self, controller: FakeController | None = None) -> None:
        """Let a controller's process die: its connections end, what it leased stays leased. By default all of them."""
        for host in self.hosts.values():
            for session, process in list(host.sessions.items()):
                if controller in {None, process}:
                    del host.sessions[session]
            for guest in host.monitors():
                if controller in {None, guest.controller}:
                    guest.leave("the controller died")

    def planted_refusal(self, host: FakeHost, command: str) -> str | None:
        """Return the words with which a command is refused now, or None."""
        refusal = self._refusals.get((host.name, command))
        if refusal is None or refusal.left == 0:
            return None
        if refusal.left is not None:
            refusal.left -= 1
        return refusal.words

    # -- waiting ---------------------------------------------------------------------------------------------------

    def stir(self) -> None:
        """Let everybody who waits for the world look again."""
        for host in self.hosts.values():
            for qemu in host.qemus.values():
                if qemu.stream is not None:
                    qemu.stream.changed()
        for waiter in list(self._waiters):
            waiter.set()

    async def until(self, holds: Callable[[], bool], deadline: float) -> bool:
        """Wait until something holds, `deadline` seconds at most; say whether it does."""
        end = self.clock.now() + deadline
        while not holds():
            left = end - self.clock.now()
            if left <= 0:
                return False
            await self._next_stir(left)
        return True

    async def _next_stir(self, seconds: float) -> None:
        waiter = asyncio.Event()
        self._waiters[waiter] = None
        stirred = asyncio.ensure_future(waiter.wait())
        slept = asyncio.ensure_future(self.clock.sleep(seconds))
        try:
            await asyncio.wait([stirred, slept], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiters.pop(waiter, None)
            stirred.cancel()
            slept.cancel()

    def _silence(self, host: FakeHost) -> None:
        self.stir()
        task = asyncio.get_running_loop().create_task(self._lose_later(host), name=f"silence-{host.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _lose_later(self, host: FakeHost) -> None:
        """End the connections to a host that stays silent."""
        if not await self.until(lambda: host.reachable, LOST_AFTER):
            for controller in {*host.sessions.values()}:
                controller.lost(host)
            for guest in (*host.monitors(), *host.forsaken):
                guest.lose("the host does not answer")
            self.stir()
