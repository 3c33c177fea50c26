r"""Texts from outside, made safe to show: what a host, a guest, a file or an API says never commands a terminal.

Whatever is printed, logged or put into a page goes through one of these. They change nothing that a person can read:
only characters that act instead of showing (escape sequences, other controls, marks that turn the direction of
writing, halves of characters) become visible, as `\x1b` or `\u202e`.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from typing import Final

LONGEST: Final = 8192
"""Characters of one text of foreign origin that are worth showing or keeping: an error, a reason, a remedy."""

_ACTING: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Categories of Unicode that show nothing of themselves; spaces (Zs) and combining marks are none of them."""

_LINES: Final = "\n\t"
_BREAKS: Final = re.compile(r"\r\n?")
_MASK: Final = "***"
_VALUE: Final = r"""(?:[^,\s"'\\]|,,)+"""
_SECRETS: Final = re.compile(rf"""(\bdata=|\\*"data\\*"\s*:\s*\\*"){_VALUE}""")
_PASSWORDS: Final = re.compile(
    rf"""(\b(?:password|passwd|passphrase)=|\\*"(?:password|passwd|passphrase)\\*"\s*:\s*\\*"|:key=){_VALUE}"""
    r"""|(://[^/\s:@"]+:)[^@/\s"]+(?=@)"""
)
_CUT: Final = "…"
_DIGITS: Final = 30
"""Digits of the largest whole number that anybody has a use for: far beyond bytes and nanoseconds."""


def lines(text: str) -> str:
    """Return a text of several lines for a terminal or a page: line breaks and tabs stay, what acts becomes visible."""
    return _visible(_BREAKS.sub("\n", masked(text)), _LINES)


def one_line(text: str, longest: int = LONGEST) -> str:
    """Return a text as one line of at most `longest` characters, for a table or a log; line breaks become visible."""
    return shortened(_visible(_BREAKS.sub("\n", masked(shortened(text, longest))), ""), longest)


def masked(text: str) -> str:
    """Return a text without the secrets that a command line of QEMU or an address may hold.

    Those are `-object secret,data=...`, passwords and keys of storage, as key=value or as JSON, and passwords in URLs.
    """
    for pattern in (_PASSWORDS, _SECRETS) if "secret" in text else (_PASSWORDS,):
        text = pattern.sub(_hide, text)
    return text


def _hide(found: re.Match[str]) -> str:
    return "".join(part for part in found.groups() if part) + _MASK


def shortened(text: str, longest: int = LONGEST) -> str:
    """Return a text cut to `longest` characters, with a sign where it was cut."""
    return text if len(text) <= longest else text[: longest - 1] + _CUT


def as_json(value: object) -> str:
    """Return plain data as one line of JSON that holds no character that acts: those are escaped as JSON has it."""
    text = masked(json.dumps(value, ensure_ascii=False))
    return text if text.isprintable() else "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)


def from_json(text: str | bytes) -> object:
    """Read JSON from outside: no NaN, no number without bound, no nesting without end. Raises ValueError."""
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite, parse_int=_bounded)
    except RecursionError:
        message = "it is nested too deeply"
        raise ValueError(message) from None


def _no_constant(name: str) -> float:
    message = f"{name} is no number"
    raise ValueError(message)


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isfinite(value):
        return value
    return _no_constant(shortened(digits, _DIGITS))


def _bounded(digits: str) -> int:
    if len(digits) > _DIGITS:
        message = f"{shortened(digits, _DIGITS)} is too large a number"
        raise ValueError(message)
    return int(digits)


def _visible(text: str, kept: str) -> str:
    if text.isprintable():  # nearly all texts; it is quick
        return text
    return "".join(one if one in kept or not _acts(one) else _escaped(one) for one in text)


def _acts(letter: str) -> bool:
    return not letter.isprintable() and unicodedata.category(letter) in _ACTING


def _escaped(letter: str) -> str:
    """Write one character as Python does, which most people can read."""
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")
