"""The page on security: each threat has what protects and a test that exists."""

from __future__ import annotations

import ast
import re

import pytest
from pages import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.partition("## Threats")[2].partition("\n## ")[0].splitlines()
    if line.startswith("|") and not line.startswith(("|---", "| Threat"))
]


def functions() -> set[str]:
    """Return the names of all tests."""
    return {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_each_threat_has_a_test_that_exists() -> None:
    assert len(ROWS) > 25
    named = {name for row in ROWS for name in re.findall(r"`(test_\w+)`", row[2])}
    assert named - functions() == set()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_each_row_says_what_protects(row: list[str]) -> None:
    threat, protects, test = row
    assert threat
    assert protects
    assert re.fullmatch(r"`test_\w+`", test)
