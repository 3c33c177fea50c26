"""What one migration works with: two hosts, a guest, a journal, a clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from godwit.model import Side

if TYPE_CHECKING:
    from godwit.model import Spec, Vm
    from godwit.ports import Clock, Host, Inventory, Journal, Watcher


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that the engine touches, behind ports. `requested` is when the migration was asked for."""

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
    simulated: bool = False

    def host(self, side: Side) -> Host:
        """Return one side's host."""
        return self.source if side is Side.SOURCE else self.target
