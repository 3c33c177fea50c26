"""A person at a terminal: the command runs in a process of its own on a pty."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CTRL_C = b"\x03"
CTRL_D = b"\x04"
DEADLINE = 20.0
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(slots=True)
class Terminal:
    """A person at a terminal: types, and reads what is shown."""

    process: subprocess.Popen[bytes]
    master: int
    slave: int
    report: Path
    shown: str = ""
    _modes: list[object] = field(default_factory=list)

    def until(self, words: str) -> None:
        """Read until the words have been shown since the last call."""
        assert self._comes(words, DEADLINE), f"{words!r} never came:\n{self.shown}"

    def interrupt(self, words: str) -> None:
        """Press Ctrl-C until the words are shown: `input` overlooks one between its prompt and its wait for a key."""
        end = time.monotonic() + DEADLINE
        self.type(CTRL_C)
        while not self._comes(words, 2.0):
            assert time.monotonic() < end, f"{words!r} never came:\n{self.shown}"
            self.type(CTRL_C)

    def _comes(self, words: str, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while words not in ESCAPES.sub("", self.shown):
            if time.monotonic() >= end:
                return False
            ready, _, _ = select.select([self.master], [], [], 0.2)
            if ready:
                self.shown += os.read(self.master, 1 << 16).decode(errors="replace")
        _, _, self.shown = ESCAPES.sub("", self.shown).partition(words)
        return True

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def ended(self) -> int:
        """Read on to the end, and return the exit status."""
        end = time.monotonic() + DEADLINE
        while self.process.poll() is None:
            assert time.monotonic() < end, self.shown
            ready, _, _ = select.select([self.master], [], [], 0.05)
            if ready:
                self.shown += os.read(self.master, 1 << 16).decode(errors="replace")
        return self.process.returncode

    def outcome(self) -> dict[str, object]:
        (row,) = json.loads(self.report.read_text())
        return dict(row)

    @property
    def cooked(self) -> bool:
        """Whether lines are edited and keys are echoed, as a shell needs it."""
        local = termios.tcgetattr(self.slave)[3]
        return bool(local & termios.ICANON) and bool(local & termios.ECHO)


@contextmanager
def terminals(folder: Path, module: str = "clistage") -> Iterator[Callable[..., Terminal]]:
    """Give what opens a terminal in which `python -m module WORDS` runs; all are closed at the end."""
    opened: list[Terminal] = []

    def open_(*words: str, columns: int = 100, **variables: str) -> Terminal:
        master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (40, columns))
        report = folder / "report.json"
        environment = {
            **{name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "COLUMNS", "LINES"}},
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]),
            "STAGE_REPORT": str(report),
            "GODWIT_HOME": str(folder),
            "TERM": "xterm-256color",
            **variables,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # noqa: PLW1509 - makes it the terminal of the session
        )
        made = Terminal(process, master, slave, report)
        opened.append(made)
        return made

    try:
        yield open_
    finally:
        for one in opened:
            if one.process.poll() is None:
                one.process.kill()
            one.process.wait()
            os.close(one.master)
            os.close(one.slave)
