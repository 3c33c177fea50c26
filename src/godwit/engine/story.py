"""One step of the machine as plain data, for the journal's readers."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from godwit.core.events import Command, Event
    from godwit.core.state import State


def plain(value: object) -> object:
    """Return a value of ours as JSON data."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [plain(one) for one in value]
        return sorted(items, key=str) if isinstance(value, (set, frozenset)) else items
    return value


def transition(event: Event, state: State, commands: tuple[Command, ...]) -> dict[str, object]:
    """Describe what happened, where that led, and what follows."""
    return {
        "event": type(event).__name__,
        "detail": plain(event),
        "phase": state.phase.value,
        "owner": state.owner.value,
        "door": state.door.value,
        "commands": [type(command).__name__ for command in commands],
    }
