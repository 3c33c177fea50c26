"""The one way onto the terminal: what is printed never commands it, whoever said it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

import typer

from godwit import plaintext

if TYPE_CHECKING:
    from godwit.errors import GodwitError


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a line on standard output, or on standard error.

    Further lines of it, which others said, are set in: none passes for a line of Godwit's own. Characters that act on a
    terminal become visible, and so do those that its encoding lacks.
    """
    echo_lines(set_in(text), err=err, end="\n" if nl else "")


def echo_lines(text: str, *, err: bool = False, end: Literal["\n", "", "\r"] = "\n") -> None:
    """Print lines as they stand: a text of Godwit's own, or the answer of a monitor to its user."""
    stream = sys.stderr if err else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    shown = plaintext.lines(text).encode(encoding, "backslashreplace").decode(encoding)
    typer.echo(f"{shown}{end}", err=err, nl=False)


def echo_error(error: GodwitError) -> None:
    """Say on standard error what is wrong and what mends it."""
    echo_trouble(error.message, error.remedy)


def echo_trouble(message: str, remedy: str) -> None:
    """Say on standard error what is wrong and what mends it."""
    echo(f"godwit: error: {message}", err=True)
    if remedy:
        echo(f"mend: {remedy}", err=True)


def set_in(text: str) -> str:
    """Return a text whose second and further lines are set in."""
    return "\n    ".join(plaintext.lines(text).split("\n"))
