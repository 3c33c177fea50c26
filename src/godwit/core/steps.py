"""What a handler of the machine returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from godwit.core.events import Command
    from godwit.core.state import State


@dataclass(frozen=True, slots=True)
class Step:
    """What follows from an event. `durable` says that the record must be on disk before the commands run."""

    state: State
    commands: tuple[Command, ...] = ()
    durable: bool = False
