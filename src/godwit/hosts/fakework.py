"""What guests take of a simulated host: a stream that passes through it takes processor time from all others there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from godwit.hosts.fakestream import FakeStream
from godwit.model import GuestWork, HostWork, ThreadWork

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.hosts.fakeqemu import FakeQemu
    from godwit.hosts.fakeworld import FakeWorld
    from godwit.model import Vm


@dataclass(slots=True)
class _Account:
    """What a process had until an instant: seconds that it executed, ran and waited, and bytes."""

    executed: float = 0.0
    ran: float = 0.0
    waited: float = 0.0
    network: float = 0.0


class FakeWork:
    """The part of a simulated host that counts what guests take.

    `crowding` is the share of its processors that a stream takes from guests which want all of them, as long as it
    sends or takes as much as its link carries; less where it is held back.
    """

    world: FakeWorld
    qemus: dict[str, FakeQemu]
    crowding: float = 0.0
    _accounts: dict[int, _Account]
    _sent: dict[FakeStream, float]
    _looked: float

    def __init__(self) -> None:
        """Begin without anybody."""
        self._accounts, self._sent, self._looked = {}, {}, 0.0

    async def _reach(self) -> None:
        """Take a round trip; the host has it."""
        raise NotImplementedError

    def process_of(self, vm: Vm) -> FakeQemu | None:
        """Return the guest's process; the host has it."""
        raise NotImplementedError

    async def work(self, vms: Sequence[Vm]) -> HostWork:
        """Say what these guests have taken, with what streams took from them since the last look."""
        await self._reach()
        found = [(vm, qemu) for vm in vms if (qemu := self.process_of(vm)) is not None]
        strain = self._strain()
        return HostWork(self.world.clock.now(), tuple(self._counted(vm, qemu, strain) for vm, qemu in found))

    def _counted(self, vm: Vm, qemu: FakeQemu, strain: float) -> GuestWork:
        account = self._accounts.setdefault(qemu.pid, _Account())
        executed = qemu.executed_since(0.0)
        seconds, account.executed = executed - account.executed, executed
        own = qemu.stream is not None
        wanted = seconds * qemu.workload.busy
        taken = 0.0 if own else strain
        account.ran += wanted * (1 - taken)
        account.waited += wanted * taken
        account.network += seconds * (1 - taken) * qemu.workload.network
        disk = round(executed * qemu.workload.disk_rate)
        thread = ThreadWork(qemu.pid, account.ran, account.waited)
        return GuestWork(vm.name, qemu.pid, (thread,), disk, round(account.network))

    def _strain(self) -> float:
        """Return the share that streams took from other guests since the last look: by what they sent meanwhile."""
        now, strain = self.world.clock.now(), 0.0
        seconds, self._looked = now - self._looked, now
        for stream in {one.stream: None for one in self.qemus.values() if isinstance(one.stream, FakeStream)}:
            stream.changed()
            sent = stream.transferred - self._sent.get(stream, 0.0)
            self._sent[stream] = stream.transferred
            strain += self.crowding * sent / (stream.link.bandwidth * seconds) if seconds > 0 else 0.0
        return min(1.0, strain)
