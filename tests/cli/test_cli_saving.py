"""`godwit save` and `godwit restore`, over the simulator: what is said, and with which status it ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from clistage import Stage
from cliterminal import CTRL_C

from godwit.cli import ground, saving
from godwit.cli.main import main
from godwit.errors import BusyError, InputError, SaveFailedError, SaveFileError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cliterminal import Terminal

FILE = "/images/web1.save"


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage()
    monkeypatch.setattr(ground, "opener", made.opened)
    return made


def test_there_and_back(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["save", "web1", FILE]) == 0
    said = capsys.readouterr().out
    assert f"web1 is saved: 129.0 MiB in {FILE} on host1" in said
    assert f"godwit restore {FILE} host1" in said
    assert "writing: " in said  # the steps after it may be over before anybody looks again
    assert "\x1b" not in said
    assert stage.world.executing("web1") == []
    assert main(["restore", FILE, "host2"]) == 0
    said = capsys.readouterr().out
    assert "web1 goes on on host2" in said
    assert f"{FILE} is kept" in said
    assert stage.world.executing("web1") == ["host2"]
    assert main(["restore", FILE, "host1"]) == BusyError.exit_status
    said = capsys.readouterr().err
    assert "web1 is running on host2" in said
    assert "mend: " in said


def test_json_is_an_object_a_line_and_the_last_is_the_outcome(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    del stage
    assert main(["save", "web1", FILE, "--compress", "zstd", "--json"]) == 0
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {one["kind"] for one in objects[:-1]} == {"progress"}
    assert objects[-1]["kind"] == "outcome"
    assert objects[-1]["data"]["step"] == "done"
    assert objects[-1]["data"]["way"] == "zstd"
    assert main(["restore", FILE, "host1", "--no-verify", "--json"]) == 0
    capsys.readouterr()
    assert main(["restore", FILE, "host1", "--json"]) == BusyError.exit_status
    (last,) = [one for one in map(json.loads, capsys.readouterr().out.splitlines()) if one["kind"] == "outcome"]
    assert (last["data"]["code"], last["data"]["step"]) == ("busy", "failed")


def test_a_full_disk(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.world.fill_disk("host1")
    assert main(["save", "web1", FILE]) == SaveFailedError.exit_status
    said = capsys.readouterr().err
    assert "No space left on device; web1 runs on, on host1" in said
    assert "mend: see the folder's rights and the room on its disk" in said
    assert stage.world.executing("web1") == ["host1"]
    assert stage.world.saves == {}


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["save", "web1", "web1.save"], InputError.exit_status, "no absolute path"),
        (["save", "web1", "/a,b"], InputError.exit_status, "comma"),
        (["save", "nobody", FILE], InputError.exit_status, "nobody"),
        (["save", "web1", FILE, "--compress", "rar"], 2, "rar"),
        (["restore", FILE, "host9"], InputError.exit_status, "host9"),
        (["restore", FILE, "host1"], 5, "there is no"),
    ],
)
def test_what_cannot_be_meant(
    stage: Stage, capsys: pytest.CaptureFixture[str], words: list[str], status: int, said: str
) -> None:
    assert main(words) == status
    captured = capsys.readouterr()
    assert said in captured.err
    assert stage.world.executing("web1") == ["host1"]


def test_a_file_that_is_no_save(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["save", "web1", FILE]) == 0
    stage.world.saves[FILE].head[:4] = b"PK\3\4"
    assert main(["restore", FILE, "host1"]) == SaveFileError.exit_status
    assert f"{FILE} is no save of a guest" in capsys.readouterr().err


def test_ctrl_c_lets_the_guest_run_on(terminal: Callable[..., Terminal]) -> None:
    seen = terminal("save", "web1", FILE, STAGE_SPEED="0.2")
    seen.until("the guest stands still")
    seen.until("%")
    seen.type(CTRL_C)
    seen.until("going back")
    seen.until("the save was cancelled; web1 runs on, on host1")
    assert seen.ended() == SaveFailedError.exit_status
    assert seen.cooked


def test_a_bar_shows_how_far_it_is(terminal: Callable[..., Terminal]) -> None:
    seen = terminal("save", "web1", FILE, STAGE_SPEED="0.5")
    for words in ("the guest stands still", "writing", "%", "web1 is saved"):
        seen.until(words)
    assert seen.ended() == 0


def test_every_step_that_lasts_has_words() -> None:
    assert all(words for words in saving.WORDS.values())
