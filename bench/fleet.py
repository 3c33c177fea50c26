"""Many simulated guests on many simulated hosts, for measurements of Godwit itself: nothing here waits for a QEMU."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.hosts.fake import FakeHost, FakeWorld, LoopClock, Workload
from godwit.hosts.fakecredentials import FakeAuthority
from godwit.hosts.fakewatch import FakeWatcher
from godwit.model import HostRecord, Launch, Vm
from godwit.qemu.hypervisor import QemuHypervisor
from godwit.service import Service
from godwit.simulation import TaskRunners
from godwit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from godwit.ports import Clock, Host, Inventory, Journal

PAIRS: Final = 10
"""Pairs of hosts, a link for each."""

RATE: Final = 12_000_000
"""Bytes a second that a move has of its link."""

_ROOM: Final = 1 << 45

WRITES: Final = 200_000
"""Bytes a second that a guest changes: it converges."""


@dataclass(frozen=True, slots=True)
class Way:
    """A guest, and where it is to go."""

    vm: Vm
    target: str


@dataclass(frozen=True, slots=True)
class Fleet:
    """A simulated world, its hosts by name, and the moves that are to be made in it."""

    world: FakeWorld
    hosts: dict[str, Host]
    ways: tuple[Way, ...]

    async def service(self, journal: Journal, inventory: Inventory, clock: Clock | None = None) -> Service:
        """Return Godwit over these hosts, its runners as tasks of this process, and register everything."""
        runners = TaskRunners()
        addresses = {way.vm.address: way.vm.name for way in self.ways if way.vm.address}
        service = Service(
            journal=journal,
            inventory=inventory,
            hypervisor=QemuHypervisor(),
            runners=runners,
            watcher=FakeWatcher(self.world, addresses),
            clock=clock or self.world.clock,
            open_host=self.opener(),
            authority=FakeAuthority(self.world.clock),
        )
        runners.service = service
        await self.register(inventory)
        return service

    def opener(self) -> Callable[[HostRecord], Host]:
        """Return what opens a registered host."""
        return lambda record: self.hosts[record.name]

    async def register(self, inventory: Inventory) -> None:
        """Let Godwit know all hosts and guests."""
        for name in self.hosts:
            await inventory.put_host(HostRecord(name, f"ssh://root@{name}"))
        for way in self.ways:
            await inventory.put_vm(way.vm)


def names_of(number: int) -> tuple[str, str]:
    """Return the hosts between which the guest of this number moves."""
    return f"from{number % PAIRS}", f"to{number % PAIRS}"


def number_of(vm: str) -> int:
    """Return the number of a guest of this name."""
    return int(vm.removeprefix("vm"))


def guest(number: int, host: str, *, address: str | None = None) -> Vm:
    """Return a guest with one disk that all hosts see."""
    name = f"vm{number:03d}"
    argv = ("qemu-system-x86_64", "-name", name, "-m", "512", "-drive", f"file={disk(number)}")
    return Vm(name=name, host=host, launch=Launch(argv), control=f"/run/{name}/control.sock", address=address)


def disk(number: int) -> str:
    """Return the path of a guest's disk."""
    return f"/images/vm{number:03d}.raw"


def workload(seconds: float) -> Workload:
    """Return what a guest does whose move takes about so many seconds over its part of a link."""
    used = int(seconds * RATE)
    return Workload(memory=max(512 * MIB, 2 * used), used=used, hot_set=MIB, dirty_rate=WRITES)


def fleet(
    numbers: Sequence[int],
    does: Workload,
    *,
    rate: int = RATE,
    clock: Clock | None = None,
    probed: bool = False,
) -> Fleet:
    """Return guests of these numbers that run, spread over pairs of hosts; each has `rate` bytes a second of its link.

    `probed` gives each an address, under which an outside probe watches it. Must be called within a running loop.
    """
    world = FakeWorld(clock or LoopClock(), seed=1)
    hosts: dict[str, Host] = {}
    streams = Counter(number % PAIRS for number in numbers)
    for pair, shared in sorted(streams.items()):
        for name in names_of(pair):
            hosts[name] = FakeHost(world, name, memory=_ROOM)
        world.shape(*names_of(pair), rate * shared)
    ways = []
    for number in numbers:
        world.add_file(disk(number))
        host, target = names_of(number)
        address = f"198.18.{number // 250}.{number % 250 + 1}" if probed else None
        ways.append(Way(world.start_guest(host, guest(number, host, address=address), does), target))
    return Fleet(world, hosts, tuple(ways))
