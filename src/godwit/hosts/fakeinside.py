"""What goes on inside a simulated guest: how it takes its power button and its agent's word, and its resets."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from godwit.errors import HypervisorError

if TYPE_CHECKING:
    from godwit.hosts.fakeqemu import FakeQemu

_MAC: Final = "52:54:00:00:00:00"
"""Of a simulated guest's first NIC."""


class FakeInside:
    """The inside of one QEMU's guest."""

    def __init__(self, qemu: FakeQemu) -> None:
        """Have been asked for nothing yet."""
        self._qemu = qemu
        self.presses = self.resets = 0

    def power_down(self) -> None:
        """Obey system_powerdown: the guest listens to its button, or not, and takes its time."""
        if self._qemu.raw != "running" or self._qemu.workload.power_off is None:
            return
        self.presses += 1
        if self.presses > self._qemu.workload.presses_missed:
            asyncio.get_running_loop().call_later(self._qemu.workload.power_off, self._switch_off, self.resets)

    def obey_agent(self) -> bool:
        """Let the guest's agent switch it off; returns False where there is none. Raises HypervisorError."""
        if not self._agent_answers():
            return False
        asyncio.get_running_loop().call_later(0.02, self._switch_off, self.resets)
        return True

    def trim(self) -> bool:
        """Let the guest's agent give back what is free on its disks; as above."""
        if not self._agent_answers():
            return False
        self._qemu.world.trimmed |= {path for path, _ in self._qemu.world.disks_of(self._qemu)}
        return True

    def addresses(self) -> dict[str, tuple[str, ...]]:
        """Let the guest's agent name the addresses of its NIC; none where there is no agent. Raises HypervisorError."""
        return {_MAC: ("198.18.0.9",)} if self._agent_answers() else {}

    def time(self) -> float | None:
        """Let the guest's agent tell its time; None where there is no agent. Raises HypervisorError."""
        return self._qemu.world.clock.now() + self._behind if self._agent_answers() else None

    def set_time(self, at: float) -> bool:
        """Let the guest's agent set its time; returns False where there is none. Raises HypervisorError."""
        if not self._agent_answers():
            return False
        self._qemu.world.guest_clocks[self._qemu.vm.name] = at - self._qemu.world.clock.now()
        return True

    @property
    def _behind(self) -> float:
        """What the guest's clock is ahead of the world's, in seconds."""
        return self._qemu.world.guest_clocks.get(self._qemu.vm.name, 0.0)

    def _agent_answers(self) -> bool:
        if self._qemu.workload.agent is False:
            message = "no guest agent answered within 3 s"
            raise HypervisorError(message)
        return self._qemu.workload.agent is not None

    def _switch_off(self, resets: int) -> None:
        """Let the guest have come to its end, unless it was reset since it was asked to: it knows nothing of that."""
        if not self._qemu.alive or self._qemu.raw != "running" or self.resets != resets:
            return
        if self._qemu.hung:
            self._qemu.backlog.append(partial(self._switch_off, resets))
            return
        self._qemu.tell("SHUTDOWN", status="guest-shutdown")
        if self._qemu.outlives:
            self._qemu.halt("shutdown")
        else:
            self._qemu.exit("the guest shut down")

    def reset(self) -> None:
        """Obey system_reset: the guest begins anew; one that is off stands still then."""
        self.resets += 1
        self._qemu.world.boot(self._qemu)
        if self._qemu.raw not in {"running", "inmigrate", "finish-migrate"}:
            self._qemu.raw = "prelaunch"
