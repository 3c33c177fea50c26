"""Help: small outside, and readable on the narrowest terminal that people use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from godwit import __version__
from godwit.cli.main import main

COMMANDS = [
    *([name] for name in ("migrate", "check", "status", "cancel", "report", "watch", "history", "show", "probe")),
    *(["host", name] for name in ("add", "list", "show", "check", "compare", "remove")),
    *(["cpu"], ["cpu", "baseline"]),
    *(["vm", name] for name in ("define", "adopt", "start", "stop", "list", "show", "console", "remove")),
    *(["device", name] for name in ("attach", "detach", "list")),
    *(["host", name] for name in ("devices", "pool")),
    *(["save"], ["restore"], ["monitor"]),
    ["host"],
    ["vm"],
    [],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_fits_eighty_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    assert main([*words, "--help"]) == 0
    said = capsys.readouterr().out
    assert "Usage: godwit" in said
    assert max(map(len, said.splitlines())) <= 80
    assert "\\[" not in said
    assert "--qemu-defaults" not in said


def test_what_people_need_first_stands_first(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    said = capsys.readouterr().out
    order = ["migrate", "check", "status", "cancel", "report", "watch", "history", "show", "probe", "host", "vm", "lab"]
    places = [said.index(f"│ {name} ") for name in order]
    assert places == sorted(places)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"godwit {__version__}\n"


def test_nothing_heavy_is_loaded_for_the_command_line_itself() -> None:
    code = (
        "import sys, godwit.cli.main; heavy = {'asyncssh', 'numpy', 'matplotlib', 'jinja2', 'sqlalchemy', 'rich.live'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
