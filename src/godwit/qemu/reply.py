"""Reading QMP replies: plain JSON whose shape QEMU promises and Godwit checks.

Each reader raises MonitorProtocolError when a reply is not of the promised shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from godwit.errors import MonitorProtocolError
from godwit.plaintext import shortened

if TYPE_CHECKING:
    from collections.abc import Iterator


_LARGEST: Final = 1 << 64
_SHOWN: Final = 200


def as_object(value: object, what: str) -> Mapping[str, object]:
    """Return `value` as a JSON object; `what` names it in the error."""
    if isinstance(value, Mapping):
        return value
    raise _wrong(value, what, "an object")


def as_objects(value: object, what: str) -> Iterator[Mapping[str, object]]:
    """Yield the JSON objects of the list `value`."""
    if not isinstance(value, list):
        raise _wrong(value, what, "a list")
    for item in value:
        yield as_object(item, what)


def as_text(value: object, what: str) -> str:
    """Return `value` as a text; `what` names it in the error."""
    if isinstance(value, str):
        return value
    raise _wrong(value, what, "a text")


def text(source: Mapping[str, object], key: str, default: str = "") -> str:
    """Return the text at `key`, or `default` where the key is absent."""
    value = source.get(key, default)
    if isinstance(value, str):
        return value
    raise _wrong(value, key, "a text")


def number(source: Mapping[str, object], key: str, default: float = 0) -> float:
    """Return the number at `key`, or `default` where the key is absent."""
    value = source.get(key, default)
    if isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST:
        return value
    raise _wrong(value, key, "a number")


def whole(source: Mapping[str, object], key: str, default: int = 0) -> int:
    """Return the whole number at `key`, or `default` where the key is absent."""
    return int(number(source, key, default))


def flag(source: Mapping[str, object], key: str, *, default: bool = False) -> bool:
    """Return the truth value at `key`, or `default` where the key is absent."""
    value = source.get(key, default)
    if isinstance(value, bool):
        return value
    raise _wrong(value, key, "a truth value")


def inner(source: Mapping[str, object], key: str) -> Mapping[str, object]:
    """Return the object at `key`, or an empty one where the key is absent."""
    return as_object(source.get(key, {}), key)


def inner_objects(source: Mapping[str, object], key: str) -> Iterator[Mapping[str, object]]:
    """Yield the objects of the list at `key`; nothing where the key is absent."""
    return as_objects(source.get(key, []), key)


def texts(source: Mapping[str, object], key: str) -> tuple[str, ...]:
    """Return the texts of the list at `key`; nothing where the key is absent."""
    value = source.get(key, [])
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise _wrong(value, key, "a list of texts")


def _wrong(value: object, what: str, expected: str) -> MonitorProtocolError:
    message = f"QEMU's reply has {shortened(repr(value), _SHOWN)} for {what}, where {expected} was promised"
    return MonitorProtocolError(message)
