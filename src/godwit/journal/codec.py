"""Values to JSON and back, at the edge where they are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from godwit.errors import JournalError

if TYPE_CHECKING:
    from godwit.core.events import Command, Event
    from godwit.core.state import State

T = TypeVar("T")


_ADAPTERS: Final[dict[Any, TypeAdapter[Any]]] = {}


def _adapter(kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - any of our value types
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def dump(value: object) -> str:
    """Return a frozen dataclass of ours as JSON text."""
    return _adapter(type(value)).dump_json(value).decode()


def load(kind: type[T], text: str) -> T:
    """Return what `dump` stored. Raises JournalError for text that no version of Godwit wrote."""
    try:
        return cast("T", _adapter(kind).validate_json(text))
    except ValidationError as error:
        message = f"the journal holds a {kind.__name__} that cannot be read: {error.errors()[0]['msg']}"
        raise JournalError(message) from error


def plain(value: object) -> Any:  # noqa: ANN401 - JSON has no narrower type
    """Return `value` as plain JSON data: dictionaries, lists, strings, numbers."""
    return to_jsonable_python(value)


def transition(event: Event, state: State, commands: tuple[Command, ...]) -> dict[str, object]:
    """Describe one step of the machine for the journal's readers."""
    return {
        "event": type(event).__name__,
        "detail": cast("dict[str, object]", plain(event)),
        "phase": state.phase.value,
        "owner": state.owner.value,
        "door": state.door.value,
        "commands": [type(command).__name__ for command in commands],
    }
