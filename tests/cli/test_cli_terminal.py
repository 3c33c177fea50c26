"""At a terminal: the live display, and what Ctrl-C does."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

from cliterminal import CTRL_C, ESCAPES

if TYPE_CHECKING:
    from collections.abc import Callable

    from cliterminal import Terminal


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
    assert "copying memory" not in ESCAPES.sub("", at.shown)
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", at.shown)
