"""The examples that are marked `console lab` are typed, page by page, in a laboratory of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest
from pages import blocks
from typing_in_lab import Session

from godwit.lab.laboratory import Laboratory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

TYPED: Final = [block for block in blocks("console") if "lab" in block.info]
PAGES: Final = list(dict.fromkeys(block.page for block in TYPED))
QUICK: Final = {"README.md"}
"""What is left to script/test; script/soak long types the others."""


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    one = Session(f"d{os.getpid()}", tmp_path)
    try:
        yield one
    finally:
        one.end()


@pytest.mark.parametrize("page", [one if one in QUICK else pytest.param(one, marks=pytest.mark.long) for one in PAGES])
def test_what_a_page_shows_works(page: str, session: Session) -> None:
    shown = [command for block in TYPED if block.page == page for command in block.commands]
    said = [session.type(command) for command in shown]
    moves = [text for command, text in zip(shown, said, strict=True) if command[:2] == ["godwit", "migrate"]]
    assert moves, "what a page does to a guest ends with a move, which shows that it lives"
    for text in moves:
        assert "web1 moved from" in text
        assert "alive, seen from outside" in text
    if shown[-1] == ["godwit", "lab", "down"]:
        assert session.laboratory not in Laboratory.names()


def test_the_library_example_works(session: Session) -> None:
    session.type(["godwit", "lab", "up"])
    block = next(one for one in blocks("python") if one.page == "docs/library.md")
    script = session.home / "example.py"
    script.write_text(re.sub(r'"(web1|host2)"', rf'"{session.laboratory}-\1"', block.text))
    done = subprocess.run(
        [sys.executable, str(script)],
        env=session.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("completed ")
