"""The documentation as data: its pages, what they link to, and the examples in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]

_FENCE: Final = re.compile(r"^```(?P<info>\S.*)?$")
_CODE_SPAN: Final = re.compile(r"`([^`\n]+)`")
_LINK: Final = re.compile(r"\[[^]]*\]\((?P<target>[^)\s]+)\)")
_HEADING: Final = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: the page it is in (from the root), the line of its fence, the words after it, its text."""

    page: str
    line: int
    info: tuple[str, ...]
    text: str

    @property
    def language(self) -> str:
        """The first word after the fence."""
        return self.info[0] if self.info else ""

    @property
    def commands(self) -> list[list[str]]:
        """The commands of a transcript, as words."""
        return [shlex.split(line[2:], comments=True) for line in self.text.splitlines() if line.startswith("$ ")]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Return every page of the documentation."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(page: Path) -> str:
    """Return a page's path from the root."""
    return page.relative_to(ROOT).as_posix()


def blocks(language: str) -> list[Block]:
    """Return the fenced blocks of a language, in order."""
    return [block for page in pages() for block in blocks_of(page) if block.language == language]


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page. Raises ValueError for a fence that is never closed."""
    opened: tuple[int, tuple[str, ...]] | None = None
    lines: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.match(line.strip())
        if opened is None and fence:
            opened, lines = (number, tuple((fence["info"] or "").split())), []
        elif opened is not None and line.strip() == "```":
            yield Block(name_of(page), *opened, "\n".join(lines))
            opened = None
        else:
            lines.append(line)
    if opened is not None:
        message = f"{name_of(page)}:{opened[0]}: this block is never closed"
        raise ValueError(message)


def prose_of(page: Path) -> str:
    """Return a page without its fenced blocks."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def code_spans(page: Path) -> list[str]:
    """Return what stands between backquotes in a page's prose."""
    return _CODE_SPAN.findall(prose_of(page))


def links(page: Path) -> list[str]:
    """Return the targets of a page's links and pictures."""
    return [match["target"] for match in _LINK.finditer(prose_of(page))]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    texts = (match["text"].lower() for match in _HEADING.finditer(prose_of(page)))
    return {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in texts}
