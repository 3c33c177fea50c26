"""At a terminal: the live display, and what Ctrl-C does. The command runs in a process of its own on a pty."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CTRL_C = b"\x03"
DEADLINE = 20.0
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


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
        end = time.monotonic() + DEADLINE
        while words not in _ESCAPES.sub("", self.shown):
            assert time.monotonic() < end, f"{words!r} never came:\n{self.shown}"
            ready, _, _ = select.select([self.master], [], [], 0.2)
            if ready:
                self.shown += os.read(self.master, 1 << 16).decode(errors="replace")
        _, _, self.shown = _ESCAPES.sub("", self.shown).partition(words)

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


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_(*words: str, columns: int = 100, **variables: str) -> Terminal:
        master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (40, columns))
        report = tmp_path / "report.json"
        environment = {
            **{name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "COLUMNS", "LINES"}},
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]),
            "STAGE_REPORT": str(report),
            "GODWIT_HOME": str(tmp_path),
            "TERM": "xterm-256color",
            **variables,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "clistage", *words],
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

    yield open_
    for one in opened:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()
        os.close(one.master)
        os.close(one.slave)


def test_the_live_display_shows_figures_and_ends_with_the_summary(terminal: Callable[..., Terminal]) -> None:
    at = terminal("migrate", "web1", "host2", STAGE_SPEED="4")
    at.until("web1  host1 → host2")
    at.until("copying memory while the guest runs")
    at.until("% ")
    at.until("left ")
    at.until("the guest stands still")
    at.until("web1 moved from host1 to host2")
    at.until("client's gap")
    assert at.ended() == 0
    assert at.outcome()["status"] == "completed"
    assert at.cooked


def test_ctrl_c_asks_and_go_on_waiting_goes_on(terminal: Callable[..., Terminal]) -> None:
    at = terminal("migrate", "web1", "host2", STAGE_SPEED="3")
    at.until("copying memory")
    at.type(CTRL_C)
    at.until("[d]etach, [c]ancel, or go on waiting?")
    at.type(b"x")
    at.until("go on waiting")
    at.until("web1 moved from host1 to host2")
    assert at.ended() == 0
    assert at.outcome() == {**at.outcome(), "cancel_by": None, "status": "completed"}
    assert at.cooked


def test_ctrl_c_and_c_cancels(terminal: Callable[..., Terminal]) -> None:
    at = terminal("migrate", "web1", "host2")
    at.until("copying memory")
    at.type(CTRL_C)
    at.until("go on waiting?")
    at.type(b"c")
    at.until("web1 stays on host1")
    assert at.ended() == 8
    assert at.outcome()["status"] == "cancelled"
    assert at.cooked


def test_ctrl_c_and_d_detaches(terminal: Callable[..., Terminal]) -> None:
    at = terminal("migrate", "web1", "host2")
    at.until("copying memory")
    at.type(CTRL_C)
    at.until("go on waiting?")
    at.type(b"d")
    at.until("detached; the migration goes on")
    assert at.ended() == 0
    assert at.outcome() == {**at.outcome(), "cancel_by": None, "status": None}
    assert at.cooked


def test_a_second_ctrl_c_detaches(terminal: Callable[..., Terminal]) -> None:
    at = terminal("migrate", "web1", "host2")
    at.until("copying memory")
    at.type(CTRL_C)
    at.until("go on waiting?")
    at.type(CTRL_C)
    at.until("detached; the migration goes on")
    assert at.ended() == 130
    assert at.outcome()["cancel_by"] is None
    assert at.cooked


def test_the_question_goes_away_when_the_migration_ends_meanwhile(terminal: Callable[..., Terminal]) -> None:
    at = terminal("migrate", "web1", "host2", STAGE_SPEED="3")
    at.until("copying memory")
    at.type(CTRL_C)
    at.until("go on waiting?")
    at.until("web1 moved from host1 to host2")
    assert at.ended() == 0
    assert at.cooked


def test_a_closed_terminal_leaves_the_migration_alone(terminal: Callable[..., Terminal]) -> None:
    at = terminal("migrate", "web1", "host2")
    at.until("copying memory")
    at.process.send_signal(signal.SIGHUP)
    at.until("detached; the migration goes on")
    assert at.ended() == 128 + signal.SIGHUP
    assert at.outcome()["cancel_by"] is None


def test_a_narrow_terminal_without_colours_shows_no_line_twice(terminal: Callable[..., Terminal]) -> None:
    at = terminal("migrate", "web1", "host2", columns=50, STAGE_SPEED="4", NO_COLOR="1")
    at.until("copying memory")
    at.until("the guest stands still")
    assert at.ended() == 0
    assert "copying memory" not in _ESCAPES.sub("", at.shown)
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", at.shown)
