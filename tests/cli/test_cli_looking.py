"""Commands that look: status, history, show, report, host and vm."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from clistage import Stage

from godwit.cli import ground
from godwit.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Stage:
    made = Stage()
    monkeypatch.setattr(ground, "opener", made.opened)
    assert main(["migrate", "web1", "host2"]) == 0
    capsys.readouterr()
    return made


def _identifier(stage: Stage) -> str:
    (row,) = stage.rows()
    return str(row["id"])


def _said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_status_shows_where_guests_are(moved: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    said = _said(capsys, "status")
    assert "no migration is running" in said
    assert "web1  host2  running" in said
    told = json.loads(_said(capsys, "status", "--json"))
    assert told["running"] == []
    assert told["vms"][0]["view"]["state"] == "running"
    del moved


def test_status_of_one_shows_both_sides(moved: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    said = _said(capsys, "status", "web1")
    assert "on host1   absent" in said
    assert "on host2   running" in said
    assert "owner      host2" in said
    told = json.loads(_said(capsys, "status", _identifier(moved)[:7], "--json"))
    assert told["state"]["owner"] == "target"
    assert told["source"]["state"] == "absent"
    assert told["outcome"]["status"] == "completed"


def test_status_of_a_silent_host_says_so(moved: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    moved.world.hosts["host2"].crashed = True
    said = _said(capsys, "status")
    assert "web1  host2  unreachable" in said


def test_history_and_its_json(moved: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    said = _said(capsys, "history").splitlines()
    assert said[0].startswith("WHEN")
    assert _identifier(moved) in said[1]
    assert "completed" in said[1]
    assert [row["id"] for row in json.loads(_said(capsys, "history", "--json"))] == [_identifier(moved)]


def test_show_tells_the_story_in_order(moved: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    said = _said(capsys, "show", "web1")
    story = [
        "PENDING: ",
        "preflight found nothing that blocks",
        "PREPARING: ",
        "PRECOPY: ",
        "pass 1: ",
        "SWITCHOVER: ",
        "the target has received everything",
        "COMMITTING: ",
        "FINISHING: ",
        "DONE: ",
        "web1 moved",
    ]
    places = [said.index(words) for words in story]
    assert places == sorted(places)
    told = json.loads(_said(capsys, "show", "web1", "--json"))
    assert told["id"] == _identifier(moved)
    assert [entry["sequence"] for entry in told["entries"]] == list(range(1, len(told["entries"]) + 1))


def test_watch_of_what_has_ended_tells_it_all_and_ends(moved: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    del moved
    said = _said(capsys, "watch", "web1")
    assert "precopy: " in said
    assert "web1 moved from host1 to host2" in said


def test_report_as_text_page_picture_and_json(moved: Stage, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = _said(capsys, "report", "web1")
    for words in ("blackout", "phases", "passes", "asked for", "client's gap"):
        assert words in said
    page, picture = tmp_path / "report.html", tmp_path / "report.png"
    told = json.loads(_said(capsys, "report", "web1", "--html", str(page), "--png", str(picture), "--json"))
    assert told["written"] == {"html": str(page), "png": str(picture)}
    assert [one["name"] for one in told["phases"]][:3] == ["pending", "preparing", "precopy"]
    assert _identifier(moved) in page.read_text()
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["report", "web1", "--html", str(tmp_path / "no" / "where.html")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_identifiers_may_be_shortened_but_not_ambiguously(moved: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", "web1", "host1", "--detach"]) == 0
    capsys.readouterr()
    assert main(["show", "web"]) == 2
    assert "'web' can mean 2 migrations" in capsys.readouterr().err
    first = str(moved.rows()[1]["id"])
    assert main(["show", first]) == 0
    assert f"{first}: " in capsys.readouterr().out


def test_hosts_are_listed_shown_checked_and_forgotten(moved: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    del moved
    assert "host2  ssh://root@host2  -                  1" in _said(capsys, "host", "list")
    assert [one["name"] for one in json.loads(_said(capsys, "host", "list", "--json"))] == ["host1", "host2"]
    assert "web1" in _said(capsys, "host", "show", "host2")
    facts = _said(capsys, "host", "check", "host1")
    for section in ("hypervisor", "network", "bridges"):
        assert section in facts
    assert json.loads(_said(capsys, "host", "check", "host1", "--json"))["name"] == "host1"
    assert "is forgotten" in _said(capsys, "host", "remove", "host1")
    assert "host1" not in _said(capsys, "host", "list")


def test_a_guest_is_shown_stopped_and_forgotten(moved: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    del moved
    said = _said(capsys, "vm", "show", "web1")
    assert "command    qemu-system-x86_64 \\" in said
    assert "-name web1" in said
    assert json.loads(_said(capsys, "vm", "list", "--json"))[0]["view"]["state"] == "running"
    assert "web1 is off" in _said(capsys, "vm", "stop", "web1", "--force")
    assert "web1  host2  absent" in _said(capsys, "vm", "list")
    assert "web1 is forgotten" in _said(capsys, "vm", "remove", "web1")
    assert "no guests yet" in _said(capsys, "vm", "list")
