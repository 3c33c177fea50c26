"""`godwit monitor` over a simulated guest: one command, scripts, a terminal, and whatever else is typed."""

from __future__ import annotations

import asyncio
import io
import sys
from typing import TYPE_CHECKING

import pytest
from clistage import WEB1, Stage
from cliterminal import CTRL_D

from godwit.cli import ground
from godwit.cli.main import main
from godwit.model import Spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from cliterminal import Terminal

YOUNG = 1e12
"""When a migration was asked for that nobody will take up: its runner may just be starting."""


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage()
    monkeypatch.setattr(ground, "opener", made.opened)
    return made


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def commands(*lines: str) -> list[str]:
    return ["monitor", "web1", *(word for line in lines for word in ("-c", line))]


def state(stage: Stage) -> str:
    return stage.world.hosts["host1"].qemus["web1"].raw


# -- one command, and scripts --------------------------------------------------------------------------------------


def test_commands_are_done_in_turn(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(commands("info status", "stop", "info status", "migrate_set_speed 3", "migrate_set_downtime 0.5")) == 0
    captured = capsys.readouterr()
    assert captured.out == "VM status: running\nVM status: paused\n"
    assert captured.err == ""
    parameters = stage.world.hosts["host1"].qemus["web1"].parameters
    assert (parameters["max-bandwidth"], parameters["downtime-limit"]) == (3 << 20, 500)


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("nonsense", 6, "unknown command: 'nonsense'\n"),
        ("migrate", 6, 'migrate: string expected\nTry "help migrate" for more information\n'),
        ("migrate_set_speed abc", 6, 'invalid size\nTry "help migrate_set_speed" for more information\n'),
        ("migrate -d -b tcp:h:1", 3, "godwit: error: migrate: the copy of disks needs the target's QMP socket, and no"),
        (
            "migrate -d -b exec:cat",
            3,
            "godwit: error: migrate: disks cannot be copied to exec: their copy needs a live",
        ),
        ("quit", 3, "godwit: error: quit: refused in a script"),
        ("q", 3, "godwit: error: quit: refused in a script"),
        ("sto\0p", 6, "unknown command: 'sto\\x00p'\n"),
        ("x" * 9999, 6, "Error: the line has 9999 characters"),
    ],
)
def test_the_first_failure_ends_it(
    stage: Stage, capsys: pytest.CaptureFixture[str], line: str, status: int, words: str
) -> None:
    assert main(commands("info status", line, "stop")) == status
    captured = capsys.readouterr()
    assert captured.out == "VM status: running\n"
    assert captured.err.startswith(words)
    assert "Traceback" not in captured.err
    assert state(stage) == "running"


def test_a_script_comes_from_the_standard_input(
    stage: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    piped(monkeypatch, b"info status\r\n\n   \nstop\ninfo status")
    assert main(["monitor", "web1"]) == 0
    assert capsys.readouterr().out == "VM status: running\nVM status: paused\n"
    assert state(stage) == "paused"


@pytest.mark.parametrize(
    "data",
    [b"\xff\xfe\x00\n", b"\0" * 100, b"x" * 100_000, b"migrate " + b"y" * (1 << 20), bytes(range(128, 256)) + b"\n"],
)
def test_what_is_no_script_is_refused(
    stage: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    piped(monkeypatch, data + b"\nstop\n")
    assert main(["monitor", "web1"]) == 6
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(("unknown command: '", "Error: the line has "))
    assert len(captured.err) < 1000
    assert state(stage) == "running"


def test_an_empty_script_does_nothing(
    stage: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    del stage
    piped(monkeypatch, b"")
    assert main(["monitor", "web1"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_migration_that_cannot_start_says_why(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    del stage
    assert main(commands("migrate tcp:198.18.9.9:6666")) == 7
    captured = capsys.readouterr()
    assert "Error: Failed to connect to 'tcp:198.18.9.9:6666': Connection refused" in captured.err
    assert captured.err.count("two copies") == 1


def test_quit_with_a_mark_ends_the_guest(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(commands("quit!", "info status")) == 0
    assert capsys.readouterr().out == ""
    assert "web1" not in stage.world.hosts["host1"].qemus
    assert main(commands("info status")) == 6
    assert "web1 does not run on host1" in capsys.readouterr().err


def test_a_guest_that_godwit_moves_is_left_alone(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(stage.journal.create(Spec("web1-1", "web1", "host1", "host2"), YOUNG))
    for line in ("migrate -d tcp:h:1", "migrate_cancel", "stop", "cont", "savevm a", "loadvm a", "quit!"):
        assert main(commands(line)) == 4
        captured = capsys.readouterr()
        assert "web1 is being migrated: web1-1" in captured.err
    assert main(commands("info status")) == 0
    assert capsys.readouterr().out == "VM status: running\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["monitor"], "name a guest, or a QMP socket with --qmp"),
        (["monitor", "web1", "--qmp", "/run/x"], "name a guest or --qmp, not both"),
        (["monitor", "web1", "--host", "host1"], "--host goes with --qmp"),
        (["monitor", "nope", "-c", "info status"], "there is no guest 'nope'"),
        (["monitor", "--qmp", "relative", "-c", "info status"], "--qmp: 'relative' is no absolute path"),
        (["monitor", "--qmp", "/run/x", "--host", "nope", "-c", "info status"], "there is no host 'nope'"),
        (["monitor", "web1", "--nope"], "No such option"),
        (["monitor", "web1", "-c"], "requires an argument"),
    ],
)
def test_bad_words_on_the_command_line(
    stage: Stage, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    del stage
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_a_known_guests_socket_is_that_guest(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(stage.journal.create(Spec("web1-1", "web1", "host1", "host2"), YOUNG))
    assert main(["monitor", "--qmp", WEB1.control, "--host", "host1", "-c", "stop"]) == 4
    assert "web1 is being migrated" in capsys.readouterr().err
    assert main(["monitor", "--qmp", "/run/other.qmp", "--host", "host1", "-c", "stop"]) == 6
    assert "no QEMU serves /run/other.qmp on host1" in capsys.readouterr().err


# -- at a terminal -------------------------------------------------------------------------------------------------


def test_a_session_at_a_terminal(terminal: Callable[..., Terminal]) -> None:
    at = terminal("monitor", "web1")
    at.until("monitor of web1 on host1; Ctrl-D leaves")
    at.until("QEMU 10.0.2 monitor - type 'help' for more information")
    at.until("(qemu) ")
    at.type(b"info status\n")
    at.until("VM status: running")
    at.until("(qemu) ")
    at.type(b"nonsense\n")
    at.until("unknown command: 'nonsense'")
    at.until("(qemu) ")
    at.type(b"migrate -b tcp:h:1\n")
    at.until("error: migrate: the copy of disks needs the target's QMP socket")
    at.until("mend: ")
    at.until("(qemu) ")
    at.type(b"half a line")
    at.until("half a line")
    at.interrupt("(qemu) ")
    at.type(CTRL_D)
    assert at.ended() == 0
    assert at.cooked


def test_tab_completes_and_the_arrow_brings_back(terminal: Callable[..., Terminal]) -> None:
    at = terminal("monitor", "web1")
    at.until("(qemu) ")
    at.type(b"migrate_set_s\t3\n")
    at.until("migrate_set_speed 3")
    at.until("(qemu) ")
    at.type(b"sto\t\n")
    at.until("(qemu) ")
    at.type(b"info status\n")
    at.until("VM status: paused")
    at.until("(qemu) ")
    at.type(b"\x1b[A\n")
    at.until("VM status: paused")
    at.until("(qemu) ")
    at.type(CTRL_D)
    assert at.ended() == 0


def test_quit_asks_and_enter_only_leaves(terminal: Callable[..., Terminal]) -> None:
    at = terminal("monitor", "web1")
    at.until("(qemu) ")
    at.type(b"quit\n")
    at.until('quit ends the QEMU of web1 on host1. Type "end" if that is meant, Enter to only leave: ')
    for answer in (b"what?\n", CTRL_D):
        at.type(answer)
        at.until("(qemu) ")
        at.type(b"quit\n")
        at.until("Enter to only leave: ")
    at.interrupt("(qemu) ")
    at.type(b"q\n")
    at.until("Enter to only leave: ")
    at.type(b"\n")
    assert at.ended() == 0
    assert "has ended" not in at.shown


def test_quit_that_is_meant_ends_the_guest(terminal: Callable[..., Terminal]) -> None:
    at = terminal("monitor", "web1")
    at.until("(qemu) ")
    at.type(b"quit\n")
    at.until("Enter to only leave: ")
    at.type(b"end\n")
    at.until("the QEMU of web1 on host1 has ended")
    assert at.ended() == 0
    assert at.cooked
