"""How QEMU's human monitor reads a line: names, and arguments by type. Pure.

A re-telling of monitor/hmp.c (`get_command_name`, `get_str`, `get_double`, `monitor_parse_arguments`) and of
`qemu_strtosz_MiB` in util/cutils.c, with their words for what is wrong. Types are QEMU's own letters: `-d` a flag,
`s` a text, `o` a size (MiB unless a suffix says otherwise), `T` seconds.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

SPACE: Final = " \t\n\v\f\r"
"""What C's isspace() takes for space."""

LARGEST: Final = (1 << 63) - 1
"""QEMU's int64_t: no size is larger."""

Value = bool | str | int | float

_NAME: Final = re.compile(rf"[{SPACE}]*([^{SPACE}/]*)")
_HEX: Final = re.compile(r"\+?(0[xX][0-9a-fA-F]+)")
_SIZE: Final = re.compile(r"\+?(?=\.?\d)(?P<whole>\d*)(?:\.(?P<part>\d*))?", re.ASCII)
_SUFFIXES: Final = {"B": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
_DEFAULT: Final = _SUFFIXES["M"]
_NUMBER: Final = re.compile(
    r"[+-]?(?:inf(?:inity)?|nan|0x[0-9a-f]+(?:\.[0-9a-f]*)?(?:p[+-]?\d+)?|(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)",
    re.IGNORECASE | re.ASCII,
)
_INVALID_SIZE: Final = "invalid size"
_SMALLER_SECONDS: Final = {"ms": 1e3, "us": 1e6, "ns": 1e9}
_ESCAPES: Final = {"n": "\n", "r": "\r", "\\": "\\", "'": "'", '"': '"'}


class BadArgumentsError(Exception):
    """A line does not fit its command. The text is what QEMU's monitor prints."""


@dataclass(slots=True)
class _Reader:
    """A place in a line."""

    text: str
    at: int = 0

    def skip_space(self) -> None:
        while self.at < len(self.text) and self.text[self.at] in SPACE:
            self.at += 1

    @property
    def rest(self) -> str:
        return self.text[self.at :]

    @property
    def ended(self) -> bool:
        return self.at >= len(self.text)


def split_name(line: str) -> tuple[str, str]:
    """Return the command's name and the rest of the line: QEMU ends a name at space and at "/"."""
    match = _NAME.match(line)
    assert match is not None  # noqa: S101 - the pattern takes the empty text, too; for the type checker
    return match[1], line[match.end() :]


def parse_arguments(name: str, types: str, rest: str) -> dict[str, Value]:
    """Read the arguments that follow the command `name`; flags that were not given are absent.

    `types` is QEMU's own notation: "detach:-d,uri:s". Raises BadArgumentsError.
    """
    reader = _Reader(rest)
    values: dict[str, Value] = {}
    try:
        waiting = types
        while waiting:
            one, _, waiting = waiting.partition(",")
            key, _, kind = one.partition(":")
            if kind.startswith("-"):
                if _flag(name, kind[1], waiting, reader):
                    values[key] = True
            else:
                values[key] = _READERS[kind](name, reader)
        reader.skip_space()
        if not reader.ended:
            raise BadArgumentsError(f"{name}: extraneous characters at the end of line")  # noqa: EM102, TRY003, TRY301
    except BadArgumentsError as error:
        message = f'{error}\nTry "help {name}" for more information\n'
        raise BadArgumentsError(message) from None
    return values


def _flag(name: str, letter: str, later: str, reader: _Reader) -> bool:
    """Say whether the flag is here; as in QEMU, flags are known in their order only."""
    reader.skip_space()
    if not reader.rest.startswith("-"):
        return False
    found = reader.rest[1:2]
    if found == letter:
        reader.at += 2
        return True
    if f"-{found}" not in later:
        message = f"{name}: unsupported option -{found}"
        raise BadArgumentsError(message)
    return False


def _text(name: str, reader: _Reader) -> str:
    reader.skip_space()
    try:
        return _quoted(reader) if reader.rest.startswith('"') else _bare(reader)
    except ValueError:
        message = f"{name}: string expected"
        raise BadArgumentsError(message) from None


def _bare(reader: _Reader) -> str:
    begin = reader.at
    while not reader.ended and reader.text[reader.at] not in SPACE:
        reader.at += 1
    if begin == reader.at:
        raise ValueError
    return reader.text[begin : reader.at]


def _quoted(reader: _Reader) -> str:
    """Read a text between quotes. Raises ValueError where it does not end, or for an escape that QEMU lacks."""
    said = ""
    reader.at += 1
    while not reader.rest.startswith('"'):
        if reader.ended:
            raise ValueError
        letter = reader.text[reader.at]
        reader.at += 1
        if letter == "\\":
            letter = _ESCAPES.get(reader.rest[:1], "")
            reader.at += 1
            if not letter:
                raise ValueError
        said += letter
    reader.at += 1
    return said


def _size(_name: str, reader: _Reader) -> int:
    reader.skip_space()
    value, length = parse_size(reader.rest)
    reader.at += length
    return value


def parse_size(text: str) -> tuple[int, int]:
    """Return the bytes at the beginning of `text`, and how many characters say so. Raises BadArgumentsError."""
    hexadecimal = _HEX.match(text)
    if hexadecimal is not None:
        length = hexadecimal.end()
        follows = text[length : length + 1].upper()
        if follows == "." or follows in _SUFFIXES:
            raise BadArgumentsError(_INVALID_SIZE)
        return _checked(int(hexadecimal[1], 16) << (10 * _DEFAULT)), length
    match = _SIZE.match(text)
    if match is None:
        raise BadArgumentsError(_INVALID_SIZE)
    suffix = _SUFFIXES.get(text[match.end() : match.end() + 1].upper())
    power = _DEFAULT if suffix is None else suffix
    part = float(f"0.{match['part'] or 0}")
    if part and not power:
        raise BadArgumentsError(_INVALID_SIZE)
    scale = 1 << (10 * power)
    return _checked(int(match["whole"] or 0) * scale + int(part * scale)), match.end() + (suffix is not None)


def _checked(value: int) -> int:
    if value > LARGEST:
        raise BadArgumentsError(_INVALID_SIZE)
    return value


def _seconds(_name: str, reader: _Reader) -> float:
    reader.skip_space()
    match = _NUMBER.match(reader.rest)
    if match is None:
        raise BadArgumentsError("Number expected")  # noqa: EM101, TRY003 - QEMU's words
    try:
        value = float.fromhex(match[0]) if "0x" in match[0].lower() else float(match[0])
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise BadArgumentsError("Bad number")  # noqa: EM101, TRY003 - QEMU's words
    reader.at += match.end()
    smaller = _SMALLER_SECONDS.get(reader.rest[:2])
    if smaller is not None:
        reader.at += 2
        value /= smaller
    if not reader.ended and reader.text[reader.at] not in SPACE:
        raise BadArgumentsError("Unknown unit suffix")  # noqa: EM101, TRY003 - QEMU's words
    return value


_READERS: Final[dict[str, Callable[[str, _Reader], Value]]] = {"s": _text, "o": _size, "T": _seconds}


def quoted(text: str) -> str:
    """Return a text as QEMU's monitor reads it back, between quotes where it must be."""
    if text and not text.startswith(('"', "-")) and not any(letter in SPACE for letter in text):
        return text
    for letter in ("\\", '"'):
        text = text.replace(letter, f"\\{letter}")
    return '"' + text.replace("\n", "\\n").replace("\r", "\\r") + '"'
