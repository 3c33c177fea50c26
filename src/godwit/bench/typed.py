"""Commands of Godwit's, as somebody types them, and what they said."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from godwit.errors import LabError


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended, and the lines that it printed for programs."""

    status: int
    lines: tuple[dict[str, Any], ...]

    @property
    def migration(self) -> str | None:
        """The ID of the migration that it began; None for one that was refused before."""
        return next((line["id"] for line in self.lines if line.get("kind") == "started"), None)

    @property
    def wrong(self) -> str:
        """What it said was wrong; empty where it did not."""
        return next((line["error"]["message"] for line in self.lines if "error" in line), "")


async def typed(*words: str) -> Said:
    """Type a command with `--json`, and return what it said, whatever became of it."""
    command = [sys.executable, "-m", "godwit", *words, "--json"]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        out, _ = await process.communicate()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        raise
    return Said(await process.wait(), tuple(map(json.loads, out.decode().splitlines())))


async def obeyed(*words: str) -> Said:
    """Type a command that has to succeed. Raises LabError for one that did not."""
    said = await typed(*words)
    if said.status != 0:
        message = f"godwit {' '.join(words)} ended with status {said.status}: {said.wrong}"
        raise LabError(message)
    return said
