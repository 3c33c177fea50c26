"""Whatever is typed: one or two lines that say what is wrong and what mends it, an exit status, never a traceback."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from clistage import Stage

from godwit.cli import ground
from godwit.cli.main import main
from godwit.errors import BusyError, HostUnreachableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BAD = [
    (["migrate"], 2, "Missing argument"),
    (["migrate", "web1"], 2, "Missing argument"),
    (["migrate", "nope", "host2"], 2, "there is no guest 'nope'; known: web1"),
    (["migrate", "web1", "nope"], 2, "there is no host 'nope'; known: host1, host2"),
    (["migrate", "web1", "host1"], 2, "web1 is on host1 already"),
    (["migrate", "web1", "host2", "--max-downtime", "30"], 2, "--max-downtime: '30' is no duration"),
    (["migrate", "web1", "host2", "--max-downtime", "0ms"], 2, "--max-downtime: 0ms is no time"),
    (["migrate", "web1", "host2", "--max-downtime", "1h"], 2, "more than QEMU takes"),
    (["migrate", "web1", "host2", "--deadline", "soon"], 2, "--deadline: 'soon' is no duration"),
    (["migrate", "web1", "host2", "--bandwidth", "fast"], 2, "--bandwidth: 'fast' is no bandwidth"),
    (["migrate", "web1", "host2", "--probe", "gopher://x"], 2, "--probe: "),
    (["migrate", "web1", "host2", "--probe", "198.18.0.1@nowhere"], 2, "there is no host 'nowhere'"),
    (["migrate", "web1", "host2", "--disks", "some"], 2, "'some' is not one of"),
    (["migrate", "web1", "host2", "--disk", "disk0"], 2, "--disk: 'disk0' is not NAME=MODE"),
    (["migrate", "web1", "host2", "--device", "nic1"], 2, "--device: 'nic1' is not ID=HOW[:MATCH]"),
    (["migrate", "web1", "host2", "--device", "nic1=fly"], 2, "--device: 'nic1=fly' is not ID=HOW"),
    (["migrate", "web1", "host2", "--device", "=unplug"], 2, "--device: '=unplug' is not ID=HOW[:MATCH]"),
    (["migrate", "web1", "host2", *2 * ("--device", "a=unplug")], 2, "--device a was said twice"),
    (["migrate", "web1", "host2", "--unplug-timeout", "soon"], 2, "--unplug-timeout"),
    (["migrate", "web1", "host2", "--disk", "disk0=half"], 2, "--disk: 'disk0=half' is not NAME=MODE"),
    (["migrate", "web1", "host2", "--detach", "--dry-run"], 2, "contradict"),
    (["migrate", "web1", "host2", "--off"], 2, "--off goes with --static"),
    (["migrate", "web1", "host2", "--static", "--off-timeout", "9s"], 2, "--off-timeout goes with --static --off"),
    (["migrate", "web1", "host2", "--static", "--max-downtime", "1s"], 2, "--max-downtime and --static contradict"),
    (["migrate", "web1", "host2", "--static", "--off", "--off-timeout", "9"], 2, "--off-timeout: '9' is no duration"),
    (["migrate", "web1", "host2", "--static", "--qemu-defaults"], 2, "--qemu-defaults compares live moves"),
    (["migrate", "web1; rm -rf /", "host2"], 2, "there is no guest"),
    (["migrate", "web1", "host2", "--nope"], 2, "No such option"),
    (["check", "web1", "nope"], 2, "there is no host 'nope'"),
    (["status", "nope"], 2, "there is no migration 'nope'"),
    (["show", ""], 2, "there is no migration ''"),
    (["watch", "nope"], 2, "there is no migration 'nope'"),
    (["cancel", "nope"], 2, "there is no migration 'nope'"),
    (["report", "nope"], 2, "there is no migration 'nope'"),
    (["history", "-n", "0"], 2, "Invalid value"),
    (["probe", "gopher://x"], 2, "cannot probe gopher://x"),
    (["probe", "198.18.0.1", "--kind", "tcp"], 2, "tcp needs a port"),
    (["probe", "198.18.0.1", "--duration", "long"], 2, "--duration: 'long' is no duration"),
    (["probe", "tcp://198.18.0.1:22", "--kind", "redis"], 2, "name a kind twice"),
    (["host", "show", "nope"], 2, "there is no host 'nope'"),
    (["host", "remove", "nope"], 2, "there is no host 'nope'"),
    (["host", "remove", "host1"], 4, "host1 still has guests: web1"),
    (["host", "add", "../x", "local"], 2, "'../x' cannot be the name of a host"),
    (["host", "add", "h" * 200, "local"], 2, "cannot be the name of a host"),
    (["host", "add", "three", "ssh://x", "--identity", "/nonexistent/key"], 2, "there is no file /nonexistent/key"),
    (["vm", "define", "/nonexistent.toml", "--on", "host1"], 2, "cannot read /nonexistent.toml: No such file"),
    (["vm", "define", "/", "--on", "host1"], 2, "cannot read /: Is a directory"),
    (["vm", "define", "x.toml"], 2, "Missing option"),
    (["vm", "show", "nope"], 2, "there is no guest 'nope'"),
    (["vm", "start", "web1"], 2, "web1 is running on host1 already"),
    (["vm", "remove", "web1"], 4, "web1 is running on host1"),
    (["vm", "console", "web1"], 2, "web1 has no serial console"),
    (["frobnicate"], 2, "No such command"),
]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage()
    monkeypatch.setattr(ground, "opener", made.opened)
    return made


@pytest.mark.parametrize(
    ("words", "status", "message"), BAD, ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else ""
)
def test_bad_input(
    stage: Stage, capsys: pytest.CaptureFixture[str], words: list[str], status: int, message: str
) -> None:
    assert main(words) == status
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert lines[0].startswith("godwit: error: ")
    assert message in lines[0]
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("mend: "))
    assert captured.out == ""
    assert stage.rows() == []

    takes_json = words[:2] not in (["vm", "console"], ["vm", "define"]) or len(words) > 3
    if takes_json and words[:2] != ["vm", "console"] and words != ["frobnicate"]:
        assert main([*words, "--json"]) == status
        captured = capsys.readouterr()
        told = json.loads(captured.out)
        assert message in told["error"]["message"]
        assert set(told["error"]) == {"code", "message", "mend"}
        assert told["exit_status"] == status
        assert captured.err == ""


def test_a_file_that_is_no_text_is_refused_by_name(
    stage: Stage, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    del stage
    path = tmp_path / "guest.toml"
    path.write_bytes(b"name = \xff")
    assert main(["vm", "define", str(path), "--on", "host1"]) == 2
    assert f"{path} is no text: byte 7" in capsys.readouterr().err
    path.write_bytes(b"#" * (2 << 20))
    assert main(["vm", "define", str(path), "--on", "host1"]) == 2
    assert "too large" in capsys.readouterr().err


def _failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def opened(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ground, "opener", opened)


@pytest.mark.parametrize("carries", [False, True])
async def test_only_a_command_that_carries_nothing_is_hurried(
    monkeypatch: pytest.MonkeyPatch, *, carries: bool
) -> None:
    asked: list[object] = []

    @contextlib.asynccontextmanager
    async def opened(**how: object) -> AsyncIterator[None]:
        asked.append(how["hurried"])
        yield

    monkeypatch.setattr("godwit.app.opened", opened)
    async with ground.service(carries=carries):
        pass
    assert asked == [not carries]


def test_a_defect_is_an_apology_and_its_traceback_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("GODWIT_HOME", str(tmp_path))
    _failing(monkeypatch, KeyError("socket"))
    assert main(["status"]) == 70
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.startswith("godwit: error: sorry, godwit failed in a way nobody foresaw: KeyError: 'socket'\n")
    assert str(tmp_path / "log" / "cli.log") in said
    assert "Traceback" in (tmp_path / "log" / "cli.log").read_text()
    monkeypatch.setenv("GODWIT_DEBUG", "1")
    with pytest.raises(KeyError):
        main(["status"])


def test_errors_of_a_task_group_are_told_as_the_first_of_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = ExceptionGroup("two", [HostUnreachableError("host2 is silent", remedy="wake it"), BusyError("held")])
    _failing(monkeypatch, ExceptionGroup("all", [inner]))
    assert main(["status"]) == 5
    assert capsys.readouterr().err == "godwit: error: host2 is silent\nmend: wake it\n"


def test_ctrl_c_elsewhere_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _failing(monkeypatch, KeyboardInterrupt())
    assert main(["status"]) == 130
    assert capsys.readouterr().err == "godwit: interrupted\n"


def _godwit(line: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "GODWIT_HOME": str(home), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = f"{line.replace('godwit', f'{sys.executable} -m godwit.cli.main')}"
    return subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_reader_that_goes_away_is_no_error_worth_words(tmp_path: Path) -> None:
    done = _godwit("{ godwit history --json; echo $? >&2; } | true", tmp_path)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_closed_standard_streams_and_a_full_disk_behind_them(tmp_path: Path) -> None:
    assert _godwit("godwit history <&- >&- 2>&-", tmp_path).returncode == 0
    full = _godwit("godwit --version > /dev/full", tmp_path)
    assert full.returncode == 74
    assert full.stderr == "godwit: error: cannot write the output: No space left on device\n"
