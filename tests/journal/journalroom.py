"""What the contract suite of the journals works in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from godwit.ports import Inventory, Journal


@dataclass(frozen=True, slots=True)
class Room:
    """One kind of journal and the inventory that goes with it."""

    journal: Journal
    inventory: Inventory
