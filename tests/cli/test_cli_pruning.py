"""`godwit history prune`: what goes, what is said, what is refused."""

from __future__ import annotations

import json

import pytest
from clistage import Stage, ends

from godwit.cli import ground
from godwit.cli.main import main
from godwit.model import OutcomeStatus


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Stage:
    made = Stage(ends(OutcomeStatus.COMPLETED))
    monkeypatch.setattr(ground, "opener", made.opened)
    for _ in range(3):
        main(["migrate", "web1", "host2"])
    capsys.readouterr()
    return made


def said(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    assert main(list(words)) == status
    captured = capsys.readouterr()
    return captured.err if status else captured.out


def test_history_is_still_listed(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "history").splitlines()
    assert len(lines) == 1 + len(stage.rows())
    assert len(said(capsys, "history", "-n", "2").splitlines()) == 3
    assert len(json.loads(said(capsys, "history", "--json"))) == 3


def test_the_newest_are_kept(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    newest = stage.rows()[0]["id"]
    assert said(capsys, "history", "prune", "--keep", "1", "--dry-run") == "would remove 2 of what had ended\n"
    assert len(stage.rows()) == 3
    assert said(capsys, "history", "prune", "--keep", "1").startswith("removed 2 of what had ended: 0 B are free")
    assert [row["id"] for row in stage.rows()] == [newest]
    assert said(capsys, "history", "prune", "--keep", "1") == "nothing is old enough to go\n"


def test_programs_are_told_which(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    names = {row["id"] for row in stage.rows()}
    told = json.loads(said(capsys, "history", "prune", "--keep", "0", "--json"))
    assert told["dry_run"] is False
    assert set(told["pruned"]["identifiers"]) == names
    assert stage.rows() == []


def test_what_is_young_stays(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "history", "prune", "--older-than", "30d") == "nothing is old enough to go\n"
    assert len(stage.rows()) == 3


def test_what_is_in_limbo_stays(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stage(ends(OutcomeStatus.LIMBO))
    monkeypatch.setattr(ground, "opener", stage.opened)
    main(["migrate", "web1", "host2"])
    capsys.readouterr()
    assert said(capsys, "history", "prune", "--keep", "0") == "nothing is old enough to go\n"
    assert len(stage.rows()) == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "mend: write for example --older-than 90d"),
        (("--keep", "-1"), "--keep"),
        (("--keep", "many"), "--keep"),
        (("--older-than", "soon"), "no duration"),
        (("--older-than", "0s"), "no time at all"),
        (("--older-than", "30"), "no duration"),
        (("--keep", "1", "--learned"), "mend: write for example --older-than 365d --learned"),
        (("web1",), "prune"),
    ],
)
def test_nonsense_is_refused(
    stage: Stage, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], expected: str
) -> None:
    assert expected in said(capsys, "history", "prune", *words, status=2)
    assert len(stage.rows()) == 3
