"""Hostile inputs: what is almost right, changed in one place or several, and what never was."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Sequence

LETTERS = st.characters(codec=None)
WORDS = st.sampled_from(
    (
        *(
            "",
            "\0",
            "\x1b[2J",
            "\u202e",
            "\udc9b",
            "\u2028",
            "</script>",
            "[bold]",
            "'",
            '"',
            "\\",
            ",,",
            "=",
            "-",
            "{",
        ),
        *("../../etc/passwd", "/dev/zero", "$(reboot)", "`x`", ";", "|", "\n== path\n/x", "x" * 5000, "९", "NaN", "-1"),
        *("true", "null", "json:{", "unix:/x", "1e999", "0x", "%s", "${x}", "{{x}}", "\r\nmend: x", "a\n\nb", "²"),
    )
)
TEXTS = WORDS | st.text(LETTERS, max_size=40)
NUMBERS = (
    st.integers(-3, 3)
    | st.integers()
    | st.sampled_from((1 << 31, 1 << 62, 1 << 63, 1 << 64, 10**29, -(1 << 63), 0.5, -1.5, 1e308))
    | st.floats(allow_nan=False, allow_infinity=False)
)
LEAVES: st.SearchStrategy[Any] = st.none() | st.booleans() | NUMBERS | TEXTS
JSON: st.SearchStrategy[Any] = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=8
)


def places(document: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:  # noqa: ANN401 - JSON
    """Return where something can be changed in a document."""
    found = [at]
    if isinstance(document, dict):
        for key, value in document.items():
            found += places(value, (*at, key))
    elif isinstance(document, list):
        for index, value in enumerate(document[:20]):
            found += places(value, (*at, index))
    return found


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:  # noqa: ANN401 - JSON
    """Change a document in one to three places: another value, something gone, something more."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(places(document)))
        if not at:
            if draw(st.integers(0, 9)) == 0:
                return draw(JSON)
            continue
        inner = document
        for key in at[:-1]:
            inner = inner[key]
        act = draw(st.integers(0, 3))
        if act == 0:
            del inner[at[-1]]
        elif act == 1 and isinstance(inner, dict):
            inner[draw(TEXTS)] = draw(JSON)
        else:
            inner[at[-1]] = draw(JSON)
    return document


@st.composite
def bent(draw: st.DrawFn, texts: Sequence[str]) -> str:
    """Change a text: pieces cut out, doubled, put elsewhere, or others put in."""
    text = draw(st.sampled_from(texts))
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(text)))
        end = min(len(text), begin + draw(st.integers(0, 12) | st.integers(0, 400)))
        piece = draw(st.sampled_from(("", text[begin:end] * 2)) | TEXTS)
        text = text[:begin] + piece + text[end:]
    return text


@st.composite
def bent_bytes(draw: st.DrawFn, samples: Sequence[bytes]) -> bytes:
    """Change some bytes."""
    data = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(data)))
        end = min(len(data), begin + draw(st.integers(0, 8) | st.integers(0, 400)))
        piece = draw(st.sampled_from((b"", data[begin:end] * 2, b"\xff", b"\0", b"[" * 3000)) | st.binary(max_size=12))
        data = data[:begin] + piece + data[end:]
    return data


def packed(value: Any) -> bytes:  # noqa: ANN401 - JSON
    """Return a document as a peer would write it: half characters, too."""
    return json.dumps(value).encode()


def lines(choices: st.SearchStrategy[bytes], most: int = 5) -> st.SearchStrategy[bytes]:
    """Return some lines of these, and now and then what is no line."""
    return st.lists(choices, max_size=most).map(lambda rows: b"".join(row + b"\r\n" for row in rows))
