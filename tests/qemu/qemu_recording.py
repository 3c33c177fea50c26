"""Recorded QMP replies: made from a real QEMU by tests/qemu/record_qmp.py, played back by the unit tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from godwit.errors import MonitorCommandError
from godwit.qemu.process import ProcessFacts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from godwit.qemu.qom import Asks

FOLDER = Path(__file__).parent / "recorded"


def key_of(command: str, arguments: Mapping[str, object] | None) -> str:
    return f"{command} {json.dumps(arguments or {}, sort_keys=True)}"


class Recorder:
    """Asks a real monitor and remembers what it said."""

    def __init__(self, monitor: Asks) -> None:
        self._monitor = monitor
        self.said: dict[str, object] = {}

    @property
    def version(self) -> tuple[int, int, int]:
        return self._monitor.version

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        key = key_of(command, arguments)
        try:
            reply = await self._monitor.execute(command, arguments)
        except MonitorCommandError as error:
            self.said[key] = {"error": error.message}
            raise
        self.said[key] = {"return": reply}
        return reply


class Recording:
    """Answers as the QEMU did that was recorded under `name`; a command that it was not asked is a failed test."""

    def __init__(self, name: str) -> None:
        document = json.loads((FOLDER / f"{name}.json").read_text())
        major, minor, micro = document["version"]
        self.version: tuple[int, int, int] = (major, minor, micro)
        process = document["process"]
        self.process = ProcessFacts(
            **{**process, "argv": tuple(process["argv"]), "open_files": tuple(process["open_files"])}
        )
        self._said: dict[str, dict[str, object]] = document["said"]

    def change(self, command: str, reply: object, arguments: Mapping[str, object] | None = None) -> None:
        """Let the QEMU answer something else."""
        self._said[key_of(command, arguments)] = {"return": reply}

    def reply(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        said = self._said[key_of(command, arguments)]
        if "error" in said:
            raise MonitorCommandError(str(said["error"]))
        return said["return"]

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        return self.reply(command, arguments)
