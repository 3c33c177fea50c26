"""The values of QEMU's options: `key=value,...` lists and their JSON form. Pure.

In a list, a comma inside a value is written twice; the first value may stand without its key, which then is the
option's implied one (util/qemu-option.c, util/keyval.c). -device, -blockdev, -netdev, -object and some others
take a JSON object instead.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Self

from godwit.plaintext import from_json, shortened
from godwit.qemu.options import CommandLineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SHOWN: Final = 200
_DELIMITER: Final = re.compile("[=,]")


@dataclass(frozen=True, slots=True)
class Pair:
    """One `key=value` of a list; `value` is None for a bare word, `implied` says that the key is not written."""

    key: str
    value: str | None
    implied: bool = False

    def __str__(self) -> str:
        """Return it as QEMU reads it."""
        if self.value is None:
            return self.key
        escaped = self.value.replace(",", ",,")
        return escaped if self.implied else f"{self.key}={escaped}"


@dataclass(frozen=True, slots=True)
class Properties:
    """What an option's value holds: `pairs` in order, or, where it was JSON, `document`.

    In a document, the key "file.filename" means the member filename of the member file, as it does in a list.
    """

    pairs: tuple[Pair, ...] = ()
    document: dict[str, object] | None = None

    def __str__(self) -> str:
        """Return the value as QEMU reads it."""
        if self.document is not None:
            return json.dumps(self.document, separators=(",", ":"))
        return ",".join(str(pair) for pair in self.pairs)

    def get(self, key: str) -> str | None:
        """Return the value at `key`, the last one where it is given twice; None where it is absent."""
        found = None
        for name, value in self.items():
            if name == key:
                found = value
        return found

    def items(self) -> Iterator[tuple[str, str | None]]:
        """Yield keys and values; a document's members with their dotted names."""
        if self.document is not None:
            yield from _flat("", self.document)
        else:
            for pair in self.pairs:
                yield pair.key, pair.value

    def put(self, key: str, value: str) -> Self:
        """Return these properties with `key` set: replaced in its place, or appended."""
        if self.document is not None:
            document: dict[str, object] = json.loads(json.dumps(self.document))
            *outer, last = key.split(".")
            inner = document
            for name in outer:
                member = inner.setdefault(name, {})
                if not isinstance(member, dict):
                    message = f"{key} has no place in {self}"
                    raise CommandLineError(message)
                inner = member
            inner[last] = value
            return replace(self, document=document)
        if any(pair.key == key for pair in self.pairs):
            return replace(
                self, pairs=tuple(replace(pair, value=value) if pair.key == key else pair for pair in self.pairs)
            )
        return replace(self, pairs=(*self.pairs, Pair(key, value)))

    def without(self, *keys: str) -> Self:
        """Return these properties without the given keys (of a document: of its outermost members)."""
        if self.document is not None:
            return replace(self, document={name: value for name, value in self.document.items() if name not in keys})
        return replace(self, pairs=tuple(pair for pair in self.pairs if pair.key not in keys))

    def map(self, change: Callable[[str, str], str]) -> Self:
        """Return these properties with every text value replaced by `change(key, value)`."""
        if self.document is not None:
            return replace(self, document=_mapped("", self.document, change))
        return replace(
            self,
            pairs=tuple(
                pair if pair.value is None else replace(pair, value=change(pair.key, pair.value)) for pair in self.pairs
            ),
        )


def parse(text: str, implied: str = "") -> Properties:
    """Read an option's value; `implied` is the key of a first value that stands alone.

    Raises CommandLineError for a text that begins as JSON and is none.
    """
    if text.startswith("{"):
        try:
            document = from_json(text)
        except ValueError as error:
            message = f"{shortened(text, _SHOWN)} is no JSON: {error}"
            raise CommandLineError(message) from None
        assert isinstance(document, dict)  # noqa: S101 - it began so
        return Properties(document=document)
    return Properties(pairs=tuple(_pairs(text, implied)))


def _pairs(text: str, implied: str) -> Iterator[Pair]:
    at = 0
    while at < len(text):
        delimiter = _DELIMITER.search(text, at)
        if delimiter is not None and delimiter[0] == "=":
            value, end = _value(text, delimiter.end())
            yield Pair(text[at : delimiter.start()], value)
        elif at == 0 and implied:
            value, end = _value(text, 0)
            yield Pair(implied, value, implied=True)
        else:
            end = delimiter.start() if delimiter else len(text)
            if end > at:
                yield Pair(text[at:end], None)
        at = end + 1


def _value(text: str, at: int) -> tuple[str, int]:
    """Return the value that begins at `at`, its commas single again, and where it ends."""
    parts: list[str] = []
    while True:
        comma = text.find(",", at)
        if comma < 0:
            return "".join([*parts, text[at:]]), len(text)
        if not text.startswith(",,", comma):
            return "".join([*parts, text[at:comma]]), comma
        parts.append(text[at : comma + 1])
        at = comma + 2


def _flat(prefix: str, document: dict[str, object]) -> Iterator[tuple[str, str | None]]:
    for name, value in document.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{name}.", value)
        elif isinstance(value, bool):
            yield f"{prefix}{name}", "on" if value else "off"
        elif not isinstance(value, list):
            yield f"{prefix}{name}", str(value)


def _mapped(prefix: str, document: dict[str, object], change: Callable[[str, str], str]) -> dict[str, object]:
    changed: dict[str, object] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            changed[name] = _mapped(f"{prefix}{name}.", value, change)
        else:
            changed[name] = change(f"{prefix}{name}", value) if isinstance(value, str) else value
    return changed
