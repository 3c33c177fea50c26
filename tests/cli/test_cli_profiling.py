"""The command profile: what it says, and what it gives to programs."""

from __future__ import annotations

import json

import pytest
from clistage import Stage

from godwit.cli import ground
from godwit.cli.main import main
from godwit.cli.profiling import profile_lines
from godwit.core.dirtying import curve_of
from godwit.errors import InputError
from godwit.model import DirtyWindow, Profile
from godwit.units import MIB


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage()
    monkeypatch.setattr(ground, "opener", made.opened)
    return made


def test_a_profile_is_told(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    del stage
    assert main(["profile", "web1"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("web1 on host1: ")
    assert [line.split()[1:3] for line in said[1:7]] == [
        ["50.0", "ms"],
        ["100.0", "ms"],
        ["200.0", "ms"],
        ["500.0", "ms"],
        ["1.00", "s"],
        ["2.00", "s"],
    ]


def test_a_program_gets_windows_and_curve(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    del stage
    assert main(["profile", "web1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["vm"] == "web1"
    assert len(told["windows"]) == 17
    assert told["curve"][0] == [0.0, 0.0]
    assert told["write_rate"] > 0


def test_a_guest_that_is_not_known(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    del stage
    assert main(["profile", "nobody"]) != 0
    assert "nobody" in capsys.readouterr().err


def test_a_paused_guest(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.world.hosts["host1"].qemus["web1"].raw = "paused"
    assert main(["profile", "web1"]) == InputError.exit_status
    assert "is paused on host1: only of a running guest" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--link", "1000mbit"), "ends with no more downtime than its devices take"),
        (("--link", "4MB/s", "--max-downtime", "5s"), "ends with 2."),
        (("--link", "4MB/s"), "does not end within 300.0 ms of downtime: it needs 2."),
    ],
)
def test_a_link_is_judged(
    stage: Stage, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: str
) -> None:
    del stage
    assert main(["profile", "web1", *options]) == 0
    assert words in capsys.readouterr().out
    assert main(["profile", "web1", *options, "--json"]) == 0
    needed = json.loads(capsys.readouterr().out)["least_downtime"]
    assert (needed == 0) is ("no more downtime" in words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--link", "fast"), "--link"),
        (("--link", "0"), "0 means unlimited"),
        (("--max-downtime", "1s"), "--max-downtime goes with --link"),
        (("--link", "1MB/s", "--max-downtime", "soon"), "--max-downtime"),
    ],
)
def test_nonsense_is_refused_before_anything_is_measured(
    stage: Stage, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: str
) -> None:
    del stage
    assert main(["profile", "web1", *options]) == InputError.exit_status
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("unique", "words"),
    [
        ([0, 0, 0], "it changes next to nothing"),
        ([10, 20, 40], "no hot set was seen"),
        ([10, 12, 12], "it comes back to a hot set of 12.0 MiB"),
    ],
)
def test_what_the_curve_means_is_said(unique: list[int], words: str) -> None:
    windows = tuple(DirtyWindow(s, u * MIB) for s, u in zip((0.5, 1.0, 2.0), unique, strict=True))
    said = profile_lines(Profile("web1", "host1", 0.0, 512 * MIB, windows), curve_of(windows, 512 * MIB))
    assert words in said[-1]


def test_what_pages_are_like_is_told_unless_nobody_is_to_look(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    del stage
    assert main(["profile", "web1"]) == 0
    said = capsys.readouterr().out
    assert "of 4096 pages 25% are not zero, which compress to 100% (zlib)" in said
    assert "what changes in a page within 1.00 s takes 100% of its size" in said
    assert main(["profile", "web1", "--no-sample"]) == 0
    assert "of 4096 pages" not in capsys.readouterr().out
