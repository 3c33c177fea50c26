"""What lies around a migration: time, the outside view, how guests are defined, and what carries it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from godwit.core.snapshots import DiskSnapshots
    from godwit.model import HostFacts, Launch, ProbeRequest, QemuFacts, Vm, WatchResult
    from godwit.ports.host import Host


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

    def with_devices(self, launch: Launch, devices: Mapping[str, str]) -> Launch:
        """Return the launch with these devices, by name, as `device_add` takes them; an empty one is left out.

        What they are connected to, such as a tap, stays: it waits for them.
        """
        ...

    async def adopt(self, host: Host, socket: str, name: str | None) -> Vm:
        """Describe the QEMU that serves `socket` on `host` as a guest. `name` overrides the one it has itself.

        Raises HypervisorError, HostError, InputError.
        """
        ...

    def disks(self, launch: Launch) -> tuple[DiskSnapshots, ...]:
        """Return the disks that a command line names, for a guest that is off. Raises HypervisorError."""
        ...


@dataclass(frozen=True, slots=True)
class Log:
    """A runner's log: its bytes, and when it was last written, in UNIX seconds."""

    size: int
    written: float


@dataclass(frozen=True, slots=True)
class Signs:
    """What can be seen of a runner from outside: its processes, the supervisor first.

    `stopped` says that the one which works was stopped (SIGSTOP), `turns` how often that one has been given a CPU;
    None where there is none, or only a supervisor that is about to start another.
    """

    pids: tuple[int, ...] = ()
    stopped: bool = False
    turns: int | None = None


class Runners(Protocol):
    """The processes that carry migrations."""

    def start(self, identifier: str, vm: str) -> None:
        """Start a runner that outlives whoever calls this."""
        ...

    def alive(self, vm: str) -> bool:
        """Say whether a runner holds this guest."""
        ...

    def logs(self) -> dict[str, Log]:
        """Return what runners have said, by identifier, each file with its size."""
        ...

    def remove_log(self, identifier: str) -> None:
        """Remove what the runners of one migration, save or restore have said. Idempotent."""
        ...

    def hold(self, vm: str) -> AbstractAsyncContextManager[None]:
        """Hold the guest as a runner does, so that no runner begins meanwhile. Raises BusyError where one has it."""
        ...


class RunnerLife(Protocol):
    """Signs of life of runners, and their end."""

    def signs(self, identifier: str, vm: str) -> Signs:
        """Return what can be seen of the runner of a migration, save or restore."""
        ...

    def end(self, identifier: str, vm: str) -> tuple[int, ...]:
        """End that runner and return which processes it was. Raises RunnerStuckError for one that cannot be ended."""
        ...
