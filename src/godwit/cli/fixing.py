"""Applying the safe mends of what a check has found: said before it is done, and each with what takes it back."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from godwit.cli.terminal import echo
from godwit.errors import GodwitError, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.model import Command, Finding
    from godwit.service import Service


@dataclass(frozen=True, slots=True)
class Fixed:
    """A mend that was applied; `trouble` is what went wrong, empty where nothing did."""

    host: str
    command: str
    back: str
    trouble: str


def safe_commands(findings: Sequence[Finding]) -> tuple[Command, ...]:
    """Return the commands that mend what was found, and may be run unseen, each once."""
    commands = (finding.command for finding in findings)
    return tuple(dict.fromkeys(command for command in commands if command is not None and command.safe))


async def apply(opened: Service, findings: Sequence[Finding], *, yes: bool, quiet: bool) -> tuple[Fixed, ...]:
    """Say which mends can be applied, ask, apply them, and say what became of each.

    `quiet` leaves standard output to somebody else: nothing is said but what whoever is asked has to know.
    Raises InputError where nobody can be asked.
    """
    commands = safe_commands(findings)
    if not (quiet and yes):
        for command in commands:
            echo(f"would run on {command.host}: {command.text}", err=quiet)
            echo(f"  taken back by: {command.back}", err=quiet)
    if not quiet and findings and not commands:
        echo("there is nothing here that --fix may mend")
    if not commands or not _permitted(len(commands), yes=yes):
        return ()
    fixed = []
    for command in commands:
        try:
            trouble = await opened.mend(command)
        except GodwitError as error:
            trouble = error.message
        fixed.append(Fixed(command.host, command.text, command.back, trouble))
        if not quiet:
            echo(f"{'failed' if trouble else 'done'} on {command.host}: {command.text}")
            if trouble:
                echo(f"  because: {trouble}")
    return tuple(fixed)


def _permitted(count: int, *, yes: bool) -> bool:
    if yes:
        return True
    question = "Run it?" if count == 1 else f"Run these {count}?"
    if not sys.stdin.isatty():
        message = "--fix asks before it runs anything, and nobody can be asked here"
        raise InputError(message, remedy="add --yes if that is meant")
    return typer.confirm(question, err=True)
