"""The command forecast: what it says of each strategy, and of how well it did."""

from __future__ import annotations

import json

import pytest
from clistage import Stage

from godwit.cli import ground
from godwit.cli.main import main
from godwit.errors import InputError, UnknownHostError, UnknownVmError
from godwit.hosts.fake import Workload
from godwit.units import MIB


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage()
    monkeypatch.setattr(ground, "opener", made.opened)
    return made


def test_each_strategy_has_a_line_and_the_chosen_one_is_marked(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    del stage
    assert main(["forecast", "web1", "host2", "--link", "400mbit"]) == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert lines[0] == "web1 from host1 to host2, live"
    assert lines[1].startswith("the guest writes ")
    assert "; the link carries 45.3 MiB/s; a page sent again takes 100% of its size" in lines[1]
    assert lines[2].split()[-2:] == ["sent", "passes"]
    assert lines[3].startswith("  plain precopy  ")
    assert lines[4].startswith("* xbzrle         ")
    assert lines[3].count(" to ") == lines[4].count(" to ") == 3
    assert max(map(len, lines)) <= 120
    assert "chosen: xbzrle: pages that were sent before travel as their changes" in said
    assert "resting on:\n  its writes from a profile" in said


def test_a_guest_that_no_strategy_ends(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ground, "opener", Stage(workload=Workload(used=200 * MIB, hot_set=64 * MIB, dirty_rate=160e6)).opened
    )
    assert main(["forecast", "web1", "host2", "--link", "400mbit", "--forbid", "throttle"]) == 0
    said = capsys.readouterr().out
    assert "does not end below 1." in said
    assert "and 300.0 ms are permitted" in said
    assert "in all" not in said
    assert "mend: --max-downtime 1" in said


def test_a_program_gets_the_same(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    del stage
    assert main(["forecast", "web1", "host2", "--link", "400mbit", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["chosen"] == told["prospects"][1]["strategy"] == "xbzrle"
    total = told["prospects"][0]["total"]
    assert total["low"] <= total["likely"] <= total["high"]


def test_a_move_tells_what_is_expected_of_it_and_the_record_what_came(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    del stage
    assert main(["forecast", "--accuracy"]) == 0
    assert capsys.readouterr().out.startswith("no move was forecast yet")
    assert main(["migrate", "web1", "host2"]) == 0
    assert "expected" not in capsys.readouterr().out
    assert main(["migrate", "web1", "host1", "--probe", "198.18.0.100"]) == 0
    assert "expected by " in capsys.readouterr().out
    assert main(["forecast", "--accuracy"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3
    assert ": expected " in said[0]
    assert said[1].startswith("total time of 1 moves: off by ")
    assert said[2].startswith("client's gap of 1 moves: off by ")
    assert main(["forecast", "--accuracy", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["accuracy"]["moves"] == 1
    assert len(told["moves"]) == 2


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], InputError.exit_status, "forecast takes a guest and a host"),
        (["web1"], InputError.exit_status, "forecast takes a guest and a host"),
        (["web1", "host2", "--link", "0"], InputError.exit_status, "--link is the rate of a real link"),
        (["web1", "host2", "--link", "fast"], InputError.exit_status, "--link"),
        (["web1", "host2", "--accuracy"], InputError.exit_status, "--accuracy is about all moves"),
        (["nobody", "host2"], UnknownVmError.exit_status, "nobody"),
        (["web1", "nowhere"], UnknownHostError.exit_status, "nowhere"),
        (["web1", "host1"], InputError.exit_status, "is on host1 already"),
        (["web1", "host2"], InputError.exit_status, "nobody knows what the link between host1 and host2 carries"),
    ],
)
def test_nonsense_is_refused_and_says_why(
    stage: Stage, capsys: pytest.CaptureFixture[str], words: list[str], status: int, said: str
) -> None:
    del stage
    assert main(["forecast", *words]) == status
    told = capsys.readouterr()
    assert said in told.err
    assert "Traceback" not in told.err
