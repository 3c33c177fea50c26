"""The core is pure: no clock, socket, log, loop or chance, so that every decision can be replayed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import godwit.core

BANNED_MODULES = frozenset(
    {"asyncio", "logging", "os", "random", "secrets", "socket", "structlog", "subprocess", "threading", "time"}
)
BANNED_CALLS = frozenset({"now", "today", "utcnow", "open", "print", "input"})
FILES = sorted(Path(godwit.core.__path__[0]).rglob("*.py"))


def impurities(tree: ast.AST) -> list[str]:
    found: list[str] = []
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found += [alias.name for alias in names if alias.name.partition(".")[0] in BANNED_MODULES]
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in BANNED_MODULES:
                found.append(module)
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in BANNED_CALLS:
                found.append(f"{name}() in line {node.lineno}")
            case ast.AsyncFunctionDef(name=name) | ast.Call(func=ast.Name(id="__import__" as name)):
                found.append(name)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_of_the_core_is_pure(path: Path) -> None:
    assert impurities(ast.parse(path.read_text())) == []


@pytest.mark.parametrize(
    "text",
    [
        "import time",
        "import asyncio.events",
        "from logging import getLogger",
        "from random import Random",
        "import datetime\nx = datetime.datetime.now()",
        "async def f(): ...",
        "def f():\n    import socket",
        "print(1)",
        "__import__('os')",
    ],
)
def test_the_test_itself_sees_what_is_banned(text: str) -> None:
    assert impurities(ast.parse(text))


def test_there_is_something_to_look_at() -> None:
    assert {"machine", "recovery", "state"} <= {path.stem for path in FILES}
