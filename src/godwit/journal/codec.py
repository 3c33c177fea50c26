"""Values to JSON and back, at the edge where they are stored."""

from __future__ import annotations

import json
from typing import Any, Final, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from godwit.core.state import Phase
from godwit.errors import JournalError
from godwit.model import Outcome
from godwit.plaintext import masked, shortened

T = TypeVar("T")

_SHOWN: Final = 80
_REMEDY: Final = "restore the journal from a backup, or read it with the Godwit that wrote it; guests are not affected"

_ADAPTERS: Final[dict[Any, TypeAdapter[Any]]] = {}


def _adapter(kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - any of our value types
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def dump(value: object) -> str:
    """Return a frozen dataclass of ours as JSON text."""
    text = _adapter(type(value)).dump_json(value).decode()
    return masked(text) if isinstance(value, Outcome) else text


def load(kind: type[T], text: str) -> T:
    """Return what `dump` stored. Raises JournalError for text that no version of Godwit wrote."""
    try:
        return cast("T", _adapter(kind).validate_json(text))
    except (ValidationError, RecursionError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "it is nested too deeply"
        message = f"the journal holds a {kind.__name__} that cannot be read: {reason}"
        raise JournalError(message, remedy=_REMEDY) from None


def phase_of(word: str) -> Phase:
    """Return the phase of a migration. Raises JournalError for a word that no version of Godwit wrote."""
    try:
        return Phase(word)
    except ValueError:
        message = f"the journal holds a migration in a phase that nobody knows: {word!r}"
        raise JournalError(message, remedy=_REMEDY) from None


def decode(text: str) -> dict[str, object]:
    """Return the data of a journal line. Raises JournalError for what is no JSON object."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        message = f"the journal holds a line that cannot be read: {error}"
        raise JournalError(message, remedy=_REMEDY) from None
    if isinstance(data, dict):
        return data
    message = f"the journal holds a line that is no object: {shortened(text, _SHOWN)}"
    raise JournalError(message, remedy=_REMEDY)


def encode(data: dict[str, object]) -> str:
    """Return a journal line's data as JSON text, without secrets. Raises TypeError for what is no plain JSON."""
    return masked(json.dumps(data, separators=(",", ":")))
