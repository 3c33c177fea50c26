"""What one migration works with: two hosts, a guest, a journal, a clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from godwit.core.upgrading import names
from godwit.model import Side

if TYPE_CHECKING:
    from collections.abc import Mapping

    from godwit.model import HostRecord, Spec, Vm
    from godwit.ports import Authority, Clock, Fencer, Hooks, Host, Hypervisor, Inventory, Journal, Watcher


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that the engine touches, behind ports. `requested` is when the migration was asked for.

    `records` are the two hosts as they were registered, with what `fencer` may do to them; none where that is nothing.
    """

    spec: Spec
    vm: Vm
    source: Host
    target: Host
    journal: Journal
    inventory: Inventory
    clock: Clock
    watcher: Watcher
    epoch: int
    requested: float
    hypervisor: Hypervisor
    authority: Authority
    mark: str = ""
    """Tells this Godwit's keys on a host from those of another; empty where nothing is encrypted."""
    simulated: bool = False
    records: Mapping[Side, HostRecord] = field(default_factory=dict)
    fencer: Fencer | None = None
    hooks: Hooks | None = None

    def host(self, side: Side) -> Host:
        """Return one side's host."""
        return self.source if side is Side.SOURCE else self.target

    @property
    def keys(self) -> str:
        """The name under which the guest's keys lie on hosts: this Godwit's, and the same for its next move."""
        return f"{self.spec.vm}.{self.mark}" if self.mark else self.spec.vm

    def vm_on(self, side: Side) -> Vm:
        """Return the guest by the names that it has on that side: others where both are one host."""
        return names(self.spec, side, self.vm)
