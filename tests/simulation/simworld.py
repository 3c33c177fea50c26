"""The simulated world with a stricter book: what the law forbids is noticed at the instant at which it happens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from godwit.errors import HostError
from godwit.hosts.fake import FakeHost, FakeQemu, FakeWorld
from godwit.hosts.fakestream import BROKEN, OVER, FakeStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from godwit.model import Vm

KILL_PATIENCE: Final = 5.0
"""Seconds after which a process that cannot be killed is reported."""

_WITHOUT_MEMORY: Final = frozenset({"inmigrate"})


@dataclass(slots=True)
class SimWorld(FakeWorld):
    """Notes, beside what its base does, second writers, and guests of which no copy is left."""

    lost: dict[str, str] = field(default_factory=dict)
    """Guests whose only copy was destroyed, and by what."""
    off: dict[str, float] = field(default_factory=dict)
    """Guests that are switched off, and since when: their disks hold all that they are."""
    faulty: bool = False
    """Whether what happens at this instant is a fault, or the end of one."""
    hit: set[str] = field(default_factory=set)
    """Guests of which a process was ended by a fault."""
    restarted: set[str] = field(default_factory=set)
    """Guests that were started anew from their disks after they were lost."""
    told: Callable[[str], None] | None = None
    on_began: Callable[[FakeQemu], None] | None = None
    on_ended: Callable[[FakeQemu, str], None] | None = None
    locks: bool = True
    """Whether the lock of a disk is seen by another host."""
    stuck: set[int] = field(default_factory=set)
    """Processes that cannot be killed: they wait in the kernel for a disk that does not answer."""

    def say(self, words: str) -> None:
        """Tell whoever writes the story."""
        if self.told is not None:
            self.told(words)

    def say_device(self, qemu: FakeQemu, words: str) -> None:
        """Tell of a guest and its devices."""
        self.say(f"{qemu.vm.name} on {qemu.host.name} {words}")

    def qemus_of(self, vm: str) -> list[FakeQemu]:
        """Return the guest's living processes."""
        return [qemu for host in self.hosts.values() for qemu in host.qemus.values() if qemu.vm.name == vm]

    def locking(self, host: FakeHost) -> Iterable[FakeHost]:
        """Return the hosts whose locks are seen on a host."""
        return self.hosts.values() if self.locks else (host,)

    def began(self, qemu: FakeQemu) -> None:
        """Note that a process executes, and who else has its disks open to write, or writes into them."""
        name, where = qemu.vm.name, qemu.host.name
        self.say(f"{name} executes on {where} (process {qemu.pid})")
        if qemu.blocks.disks_port is not None:
            self.broken_laws.append(f"{name} executes on {where} while others may write to its disks over the network")
        mine = self._writable(qemu)
        for other in self.qemus_of(name):
            if other is qemu:
                continue
            if mine & self._writable(other) and holds_disks(other):
                self.broken_laws.append(
                    f"{name} executes on {where}, and {other.raw} on {other.host.name} has its disk"
                )
            for mirror in other.blocks.mirrors.values():
                if mirror.target is qemu:
                    self.broken_laws.append(f"{name} executes on {where}, and {other.host.name} still copies into it")
        self.off.pop(name, None)
        super(SimWorld, self).began(qemu)
        if self.on_began is not None:
            self.on_began(qemu)

    def boot(self, qemu: FakeQemu) -> None:
        """Note that a guest starts anew."""
        if qemu.vm.name in self.lost:
            self.restarted.add(qemu.vm.name)
        super(SimWorld, self).boot(qemu)

    def ceased(self, qemu: FakeQemu) -> None:
        """Note that a process executes no more; what it wrote last is on its disks."""
        if any(run.pid == qemu.pid and run.ended is None for run in self.runs):
            self.write_to_disks(qemu)
            self.say(f"{qemu.vm.name} stands still on {qemu.host.name} ({qemu.raw})")
            if qemu.raw == "shutdown":
                self.off[qemu.vm.name] = self.clock.now()
        super(SimWorld, self).ceased(qemu)

    def _writable(self, qemu: FakeQemu) -> set[int]:
        files = ((path, self.file(path, qemu.host.name)) for path, _ in self.disks_of(qemu))
        return {file.inode for path, file in files if file is not None and path not in self.read_only}

    def judge_loss(self, vm: str, why: str) -> None:
        """Note that no copy of a guest is left, if that is so. It is asked when a process has ended by a fault."""
        if vm not in self.lost and vm not in self.off and not any(self._could_run(qemu) for qemu in self.qemus_of(vm)):
            self.lost[vm] = why
            self.say(f"no copy of {vm} is left: {why}")

    def _could_run(self, qemu: FakeQemu) -> bool:
        if qemu.raw in _WITHOUT_MEMORY or not qemu.alive:
            return False
        stream = qemu.stream
        if qemu.migration in {OVER, BROKEN} and isinstance(stream, FakeStream):
            return qemu is stream.target and stream.source.alive and qemu.memory == self._newest.get(qemu.vm.name)
        return qemu.memory == self._newest.get(qemu.vm.name)


def holds_disks(qemu: FakeQemu) -> bool:
    """Say whether a process has its disks open to write: not one that waits for a stream, or has handed over."""
    if qemu.raw in {"inmigrate", "postmigrate"}:
        return False
    if qemu.migration in {"completed", "postcopy-active", "postcopy-paused"}:
        return qemu.raw != "finish-migrate" and not _received(qemu)
    return True


def _received(qemu: FakeQemu) -> bool:
    """Say whether a process stands still with what it has received: it opens its disks when it is told to run."""
    return qemu.raw == "paused" and qemu.stays_stopped


class SimHost(FakeHost):
    """A host on which a process may be unkillable."""

    world: SimWorld

    def qemu_ended(self, qemu: FakeQemu, words: str) -> None:
        """Forget a process that has ended; a guest that has switched itself off is on its disks."""
        super().qemu_ended(qemu, words)
        if words == "the guest shut down":
            self.world.off[qemu.vm.name] = self.world.clock.now()
        if self.world.on_ended is not None:
            self.world.on_ended(qemu, words)

    async def destroy(self, vm: Vm) -> None:
        """End the guest's QEMU; see `godwit.ports.Host`."""
        qemu = self.process_of(vm)
        if qemu is not None and qemu.pid in self.world.stuck:
            await self._reach()
            await self.world.clock.sleep(KILL_PATIENCE)
            if qemu.alive and qemu.pid in self.world.stuck:
                message = f"process {qemu.pid} of {vm.name} on {self.name} does not end, though it was killed"
                raise HostError(message)
        await super().destroy(vm)
