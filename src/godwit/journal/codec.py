"""Values to JSON and back, at the edge where they are stored."""

from __future__ import annotations

import json
from typing import Any, Final, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from godwit.errors import JournalError

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


def encode(data: dict[str, object]) -> str:
    """Return a journal line's data as JSON text. Raises TypeError for what is no plain JSON."""
    return json.dumps(data, separators=(",", ":"))
