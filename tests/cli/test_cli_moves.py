"""`godwit migrate` and its kin, over the simulator: what is said, and with which status it ends."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import threading
import time
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from clistage import Stage, ends
from rich.console import Console

from godwit.cli import following, ground
from godwit.cli.live import LiveScreen
from godwit.cli.main import main
from godwit.model import OutcomeStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from godwit.service import Service


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage()
    monkeypatch.setattr(ground, "opener", made.opened)
    return made


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stage]:
    def make(status: OutcomeStatus, error: str = "", remedy: str = "") -> Stage:
        made = Stage(ends(status, error=error, remedy=remedy))
        monkeypatch.setattr(ground, "opener", made.opened)
        return made

    return make


def test_a_guest_moves_and_the_three_figures_are_said_together(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["migrate", "web1", "host2"]) == 0
    said = capsys.readouterr().out
    assert "SIMULATED: web1 moved from host1 to host2" in said
    for figure in ("QEMU's own figure", "STOP to RESUME", "client's gap", "sent", "godwit report web1-"):
        assert figure in said
    assert [row["status"] for row in stage.rows()] == ["completed"]


def test_plain_lines_come_at_most_once_a_second_beside_the_phases(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    del stage
    assert main(["migrate", "web1", "host2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    progress = [float(line.split(" s ")[0]) for line in lines if " %, pass " in line]
    assert progress
    assert all(after - before >= 0.99 for before, after in pairwise(progress))
    phases = [
        name for name in ("preparing", "precopy", "switchover", "finishing", "done") if f"  {name}: " in str(lines)
    ]
    assert phases == ["preparing", "precopy", "switchover", "finishing", "done"]
    assert not any("\x1b" in line for line in lines)


def test_json_is_an_object_a_line_and_the_last_is_the_outcome(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    del stage
    assert main(["migrate", "web1", "host2", "--json"]) == 0
    captured = capsys.readouterr()
    objects = [json.loads(line) for line in captured.out.splitlines()]
    assert objects[0]["kind"] == "started"
    assert objects[-1]["kind"] == "outcome"
    assert objects[-1]["data"]["status"] == "completed"
    assert {"transition", "sample", "mark", "series"} <= {one["kind"] for one in objects}
    assert [one["sequence"] for one in objects[1:-1]] == list(range(1, len(objects) - 1))
    assert len({one["id"] for one in objects}) == 1
    series = next(one for one in objects if one["kind"] == "series")
    assert isinstance(series["data"]["rtt_us"], int)
    assert captured.err == ""


DECIDED = {
    "action": "raise-downtime-limit",
    "parameters": {"downtime-limit": 120},
    "reason": "passes no longer shrink: allow 120.0 ms of downtime (limit 300.0 ms)",
    "evidence": "after 6 passes 4.0 MiB are left at best; the link carries 40.0 MiB/s",
}
FOUND = {"code": "cpu", "severity": "warn", "subject": "cpu", "found": "host2 lacks avx2", "why": "programs may die"}


def test_decisions_and_findings_are_said_word_for_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def decide(service: Service, identifier: str) -> None:
        service.journal.note(identifier, "finding", 10.0, {**FOUND, "mend": "choose another CPU model"})
        told: dict[str, object] = {"event": "Decided", "detail": DECIDED, "phase": "precopy", "owner": "source"}
        service.journal.note(identifier, "transition", 11.0, told)
        await ends(OutcomeStatus.COMPLETED)(service, identifier)

    made = Stage(decide)
    monkeypatch.setattr(ground, "opener", made.opened)
    assert main(["migrate", "web1", "host2"]) == 0
    said = capsys.readouterr().out
    assert f"decision: {DECIDED['reason']} [downtime-limit=120]\n" in said
    assert f"because: {DECIDED['evidence']}\n" in said
    assert "warning: host2 lacks avx2\n" in said
    assert "because: programs may die\n" in said
    assert "mend: choose another CPU model\n" in said
    console = Console(file=io.StringIO(), force_terminal=True, width=70)
    screen = LiveScreen((asyncio.run(made.journal.rows()))[0], lambda: 12.0, console)
    for entry in asyncio.run(made.journal.entries(str(made.rows()[0]["id"]))):
        screen.take(entry)
    screen.close()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())  # type: ignore[attr-defined] # the StringIO
    shown = " ".join(shown.split())
    assert f"{DECIDED['reason']} [downtime-limit=120]" in shown
    assert f"because {DECIDED['evidence']}" in shown
    assert "mend: choose another CPU model" in shown


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (OutcomeStatus.COMPLETED, 0),
        (OutcomeStatus.REFUSED, 3),
        (OutcomeStatus.FAILED, 7),
        (OutcomeStatus.CANCELLED, 8),
        (OutcomeStatus.LIMBO, 9),
        (OutcomeStatus.GUEST_CRASHED, 10),
    ],
)
def test_each_end_has_its_exit_status(
    ending: Callable[..., Stage], capsys: pytest.CaptureFixture[str], status: OutcomeStatus, expected: int
) -> None:
    ending(status, "the disk is another one", "mount the same")
    assert main(["migrate", "web1", "host2"]) == expected
    captured = capsys.readouterr()
    if expected:
        assert captured.err == "godwit: error: the disk is another one\nmend: mount the same\n"
    ending(status, "the disk is another one")
    assert main(["migrate", "web1", "host2", "--json"]) == expected
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["data"]["status"] == status.value


def test_detach_prints_the_identifier_and_leaves(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", "web1", "host2", "--detach"]) == 0
    captured = capsys.readouterr()
    (row,) = stage.rows()
    assert captured.out == f"{row['id']}\n"
    assert f"godwit watch {row['id']}" in captured.err
    assert row["cancel_by"] is None


def test_a_migration_whose_runner_died_is_taken_up_by_the_next_command(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["migrate", "web1", "host2", "--detach"])
    (row,) = stage.rows()
    capsys.readouterr()
    stage.journal._stories[str(row["id"])].created -= 10  # long enough ago that its runner cannot just be starting
    assert main(["watch", "web1"]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"godwit: took migration {row['id']} up again; nobody was working on it\n"
    assert "web1 moved" in captured.out
    assert stage.runners.started == [row["id"], row["id"]]


def test_nobody_waits_for_ever_for_a_runner_that_stays_dead(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def die(_: object, __: str) -> None:
        return

    made = Stage(die)
    monkeypatch.setattr(ground, "opener", made.opened)
    monkeypatch.setattr(following, "ORPHAN_PATIENCE", 0.2)
    monkeypatch.setattr(following, "_ORPHAN_PERIOD", 0.1)
    assert main(["migrate", "web1", "host2"]) == 1
    assert "nobody works on web1-" in capsys.readouterr().err


def _interrupt(number: signal.Signals, after: float) -> threading.Timer:
    timer = threading.Timer(after, os.kill, (os.getpid(), number))
    timer.start()
    return timer


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_without_a_terminal_leaves_the_migration_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    slow = Stage(speed=1.0)
    monkeypatch.setattr(ground, "opener", slow.opened)
    before = time.monotonic()
    _interrupt(number, 0.6)
    assert main(["migrate", "web1", "host2"]) == 128 + number
    assert time.monotonic() - before < 2.0
    (row,) = slow.rows()
    assert row["cancel_by"] is None
    assert row["status"] is None
    said = capsys.readouterr().err
    assert f"godwit watch {row['id']}" in said
    assert f"godwit cancel {row['id']}" in said


def test_cancel_waits_for_the_end_and_succeeds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = Stage(speed=2.0)
    monkeypatch.setattr(ground, "opener", slow.opened)
    main(["migrate", "web1", "host2", "--detach"])
    for story in slow.journal._stories.values():
        story.created -= 10  # long enough ago that its runner cannot just be starting
    capsys.readouterr()
    assert main(["cancel", "web1"]) == 0
    captured = capsys.readouterr()
    assert "web1 stays on host1" in captured.out
    assert "error" not in captured.err
    (row,) = slow.rows()
    assert row["status"] == "cancelled"
    assert not slow.world.broken_laws


def test_cancel_of_what_has_ended_is_an_error(ending: Callable[..., Stage], capsys: pytest.CaptureFixture[str]) -> None:
    ending(OutcomeStatus.COMPLETED)
    main(["migrate", "web1", "host2"])
    capsys.readouterr()
    assert main(["cancel", "web1"]) == 2
    assert "has ended already: completed" in capsys.readouterr().err


def test_cancel_without_waiting_only_asks(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    main(["migrate", "web1", "host2", "--detach"])
    capsys.readouterr()
    assert main(["cancel", "web1", "--no-wait", "--json"]) == 0
    (row,) = stage.rows()
    assert json.loads(capsys.readouterr().out) == {"id": row["id"], "kind": "cancel-requested"}
    assert row["cancel_by"]


def test_dry_run_and_check_say_the_same_and_change_nothing(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", "web1", "host2", "--dry-run"]) == 0
    first = capsys.readouterr().out
    assert main(["check", "web1", "host2"]) == 0
    assert capsys.readouterr().out == first
    assert "web1 can move to host2" in first
    assert stage.rows() == []


@pytest.mark.parametrize(
    ("words", "price", "said_on_the_way"),
    [
        (["--static"], "web1 stands still while up to", "precopy: copying memory while the guest stands still"),
        (["--static", "--off", "--off-timeout", "9s"], "web1 is switched off by its power button", "the guest is off"),
    ],
    ids=["static", "off"],
)
def test_a_guest_that_stands_still_or_is_switched_off(
    stage: Stage, capsys: pytest.CaptureFixture[str], words: list[str], price: str, said_on_the_way: str
) -> None:
    assert main(["migrate", "web1", "host2", *words, "--dry-run"]) == 0
    assert price in capsys.readouterr().out
    assert stage.rows() == []
    assert main(["migrate", "web1", "host2", *words]) == 0
    said = capsys.readouterr().out
    assert price in said
    assert said_on_the_way in said
    assert "web1 moved from host1 to host2" in said
    assert "while the guest runs" not in said
    assert main(["show", "web1"]) == 0
    assert said_on_the_way.rpartition(": ")[2] in capsys.readouterr().out


def shrunk(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Return a stage on whose link large packets vanish."""
    made = Stage()
    made.world.link("host1", "host2").mtu = 1400
    monkeypatch.setattr(ground, "opener", made.opened)
    return made


def test_fix_says_what_it_does_and_looks_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = shrunk(monkeypatch)
    assert main(["check", "web1", "host2"]) == 3
    assert "ip route add 198.18.0.2/32" in capsys.readouterr().out
    assert main(["check", "web1", "host2", "--fix", "--yes"]) == 0
    said = capsys.readouterr().out
    assert said.index("would run on host1: ip route add 198.18.0.2/32") < said.index("done on host1: ip route add")
    assert "taken back by: ip route del 198.18.0.2/32" in said
    assert said.endswith("web1 can move to host2\n")
    assert made.world.hosts["host1"].routes == {"198.18.0.2": 1400}
    assert not made.world.hosts["host2"].routes


def test_fix_as_json_has_the_command_and_what_became_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = shrunk(monkeypatch)
    assert main(["check", "web1", "host2", "--json"]) == 3
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    command = finding["command"]
    assert (command["host"], command["safe"], command["back"]) == ("host1", True, "ip route del 198.18.0.2/32")
    made.world.hosts["host1"].routes["198.18.0.2"] = 1500
    assert main(["check", "web1", "host2", "--json", "--fix", "--yes"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert [one["trouble"] for one in told["fixed"]] == ["status 2: RTNETLINK answers: File exists"]
    assert told["possible"] is False


@pytest.mark.parametrize("arguments", [["--fix"], ["--fix", "--json"]])
def test_fix_runs_nothing_where_nobody_can_be_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    made = shrunk(monkeypatch)
    assert main(["check", "web1", "host2", *arguments]) == 2
    said = capsys.readouterr()
    assert "add --yes" in said.out + said.err
    assert not made.world.hosts["host1"].routes


@pytest.mark.parametrize("arguments", [["--fix"], ["--fix", "--json"]])
def test_fix_says_what_it_would_run_before_it_asks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    made, asked = shrunk(monkeypatch), list[str]()

    def confirm(question: str, *, err: bool) -> bool:
        said = capsys.readouterr()
        assert err
        assert (said.out == "") is ("--json" in arguments)
        asked.append(f"{said.out}{said.err}{question}")
        return False

    monkeypatch.setattr("godwit.cli.fixing.typer.confirm", confirm)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert main(["check", "web1", "host2", *arguments]) == 3
    (said,) = asked
    assert (
        said.index("would run on host1: ip route add") < said.index("taken back by: ip route del") < said.index("Run")
    )
    assert not made.world.hosts["host1"].routes


def test_fix_leaves_alone_what_a_person_has_to_decide(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stage.world.hosts["host1"], "_may_shorten", False)
    assert main(["check", "web1", "host2", "--fix", "--yes"]) == 0
    assert "there is nothing here that --fix may mend" in capsys.readouterr().out
    assert main(["check", "web1", "host2", "--yes"]) == 2


def test_check_names_what_blocks_and_the_mend(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Stage()
    made.world._files.clear()
    made.world.disks.newest.clear()
    made.world.add_file("/images/web1.raw", ["host1"])
    monkeypatch.setattr(ground, "opener", made.opened)
    made.world.add_file("/images/web1.raw", ["host2"])
    assert main(["check", "web1", "host2"]) == 3
    captured = capsys.readouterr()
    assert captured.out.startswith("blocks: ")
    assert "because: " in captured.out
    assert captured.err.startswith("godwit: error: web1 cannot move to host2: ")
    assert main(["check", "web1", "host2", "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["possible"] is False
    assert found["findings"][0]["severity"] == "block"


def upgradable(stage: Stage) -> None:
    """Let the guest's memory be such that another process can take it."""
    process = stage.world.hosts["host1"].qemus["web1"]
    process.launch = replace(process.launch, argv=(*process.launch.argv, "-machine", "q35,aux-ram-share=on"))


def test_an_upgrade_says_which_qemu_runs_the_guest_now(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    upgradable(stage)
    assert main(["upgrade", "web1", "--dry-run"]) == 0
    assert "takes the memory of web1 as it stands" in capsys.readouterr().out
    assert stage.rows() == []
    assert main(["upgrade", "web1", "--qemu", "/usr/local/bin/qemu-system-x86_64"]) == 0
    said = capsys.readouterr().out
    assert "SIMULATED: web1 runs on host1, in QEMU 10.0.2 after 10.0.2; replaced in" in said
    assert main(["status", "web1"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "old QEMU on host1 absent" in told
    assert "new QEMU on host1 running, process" in told
    assert main(["vm", "show", "web1"]) == 0
    shown = capsys.readouterr().out
    assert "/run/web1.qmp.godwit-2" in shown
    assert "/usr/local/bin/qemu-system-x86_64" in shown


def test_an_upgrade_by_copy_tells_why(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upgrade", "web1", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    outcome = lines[-1]["data"]
    assert (outcome["status"], outcome["qemus"]) == ("completed", ["10.0.2", "10.0.2"])
    assert "upgrade-by-copy" in {one["code"] for one in outcome["findings"]}
    assert outcome["bytes"] > 0
    assert [row["status"] for row in stage.rows()] == ["completed"]


def test_an_upgrade_to_a_program_that_is_not_there_is_refused(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.world.hosts["host1"].missing_programs.add("/none")
    assert main(["upgrade", "web1", "--dry-run", "--qemu", "/none"]) == 3
    assert main(["upgrade", "web1", "--qemu", "/none"]) == 3
    assert main(["upgrade", "web1", "--dry-run", "--qemu", "/none", "--json"]) == 3
    said = capsys.readouterr()
    assert said.err.count("mend: name the new QEMU with --qemu PATH") == 2
    assert json.loads(said.out.splitlines()[-1])["possible"] is False
    assert list(stage.world.hosts["host1"].qemus) == ["web1"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--qemu", "qemu"], "is no absolute path"),
        (["--detach", "--dry-run"], "contradict each other"),
        (["--max-downtime", "soon"], "--max-downtime"),
    ],
)
def test_an_upgrade_that_cannot_be_meant(
    words: list[str], says: str, stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["upgrade", "web1", *words]) == 2
    assert says in capsys.readouterr().err
    assert main(["upgrade", "web9"]) == 2
    assert stage.rows() == []


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_disks_of_a_guest_that_is_switched_off_are_not_compared(
    more: list[str], stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["migrate", "web1", "host2", "--static", "--off", "--verify-disks", *more]) == 2
    said = capsys.readouterr().err
    assert "--off has no such instant" in said
    assert "mend: " in said
    assert stage.rows() == []
