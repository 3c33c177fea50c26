"""What is made of trials: which are missing, what they say, and how far a guest fell behind."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit import app
from godwit.bench.commands import chosen
from godwit.bench.contestants import CONTESTANTS, By
from godwit.bench.contestants import SHORT as SHORT_WAYS
from godwit.bench.guests import lost_work
from godwit.bench.libvirthosts import LibvirtGuest
from godwit.bench.machines import own_home
from godwit.bench.plots import draw
from godwit.bench.running import Plan, read, words_of
from godwit.bench.scenarios import SCENARIOS
from godwit.bench.scenarios import SHORT as SHORT_GUESTS
from godwit.bench.tables import table, tables
from godwit.bench.trials import Told, Trial, migrate
from godwit.bench.typed import Said, obeyed, typed
from godwit.cli.main import main
from godwit.errors import InputError, LabError, UnknownVmError
from godwit.model import Outcome, OutcomeStatus, Owner, Spec

if TYPE_CHECKING:
    from pathlib import Path

    from godwit.lab.laboratory import Laboratory

TRIAL = Trial(
    ended=True,
    blackout=0.3,
    scenario="quiet",
    contestant="virsh",
    round=0,
    took=5.0,
    link_bytes=120_000_000,
    client_gap=0.34,
)
GODWITS = replace(TRIAL, contestant="seamless", took=3.5, client_gap=0.04, strategy="xbzrle", gaps=((3.1, 0.04),))
NEVER = replace(TRIAL, scenario="whole", took=90.0, ended=False, note="aborted after 90 s")


def plan(path: Path, rounds: int = 2) -> Plan:
    return Plan((SCENARIOS["quiet"], SCENARIOS["whole"]), tuple(CONTESTANTS.values())[:3], rounds, path)


def test_who_is_told_to_end_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(app.HOME_VARIABLE, "another")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), own_home() as home:
        os.kill(os.getpid(), signal.SIGTERM)
    assert not home.exists()
    assert signal.getsignal(signal.SIGTERM) is before


# -- which are made ----------------------------------------------------------------------------------------------------


def test_every_contestant_moves_every_guest_once_a_round_and_begins_as_often(tmp_path: Path) -> None:
    todo = plan(tmp_path / "t", rounds=3).missing([])
    assert len(todo) == len(set(todo)) == 2 * 3 * 3
    firsts = [todo[place][2].name for place in range(0, len(todo), 3)]
    assert sorted(firsts) == sorted([*list(CONTESTANTS)[:3]] * 2)


def test_what_was_made_is_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    assert read(path) == []
    qemus = replace(TRIAL, contestant="qemu", round=1)
    path.write_text("".join(json.dumps(asdict(one)) + "\n" for one in (TRIAL, GODWITS, NEVER, qemus)))
    assert read(path) == [TRIAL, GODWITS, NEVER, qemus]
    everything, rest = plan(path).missing([]), plan(path).missing(read(path))
    assert len(everything) - len(rest) == 3  # the way "seamless" is not asked for
    assert (1, SCENARIOS["quiet"], CONTESTANTS["qemu"]) not in rest


def test_a_trial_that_an_earlier_godwit_kept_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    former = {"stream": 4.0, "qemu": None, "passes": 5, "expected": [1, 2, 3], "expected_gap": None, "plain_ends": True}
    path.write_text(json.dumps(asdict(TRIAL) | former) + "\n")
    assert read(path) == [TRIAL]


def test_a_file_that_keeps_something_else_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text(json.dumps(asdict(TRIAL)) + '\n{"scenario": "quiet"}\n')
    with pytest.raises(InputError, match="line 2 is no trial"):
        read(path)


def test_orders_are_turned_round(tmp_path: Path) -> None:
    ways = tuple(CONTESTANTS.values())
    made = replace(plan(tmp_path), contestants=ways)
    assert [made.order(number)[0] for number in range(len(ways))] == list(ways)
    assert {one.name for one in made.order(3)} == set(CONTESTANTS)


def test_what_is_named_is_taken_and_nonsense_is_named() -> None:
    assert chosen("--scenario", None, SCENARIOS, ("quiet",)) == (SCENARIOS["quiet"],)
    assert chosen("--scenario", ["whole"], SCENARIOS, ("quiet",)) == (SCENARIOS["whole"],)
    with pytest.raises(InputError, match="--scenario: there is no loud"):
        chosen("--scenario", ["loud"], SCENARIOS, ())


def test_the_short_comparison_is_a_part_of_the_whole() -> None:
    assert set(SHORT_GUESTS) < set(SCENARIOS)
    assert set(SHORT_WAYS) < set(CONTESTANTS)
    assert {CONTESTANTS[name].by for name in SHORT_WAYS} == set(By)
    assert len({one.words for one in SCENARIOS.values()}) == len(SCENARIOS)
    assert len({one.words for one in CONTESTANTS.values()}) == len(CONTESTANTS)


# -- what is typed -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "migration", "wrong"),
    [
        ([], None, ""),
        (
            [{"error": {"code": "input", "message": "no such policy", "mend": ""}, "exit_status": 2}],
            None,
            "no such policy",
        ),
        ([{"id": "web1-1", "kind": "started"}, {"id": "web1-1", "kind": "outcome"}], "web1-1", ""),
        ([{"id": "web1-1", "kind": "started"}, {"error": {"message": "it broke"}}], "web1-1", "it broke"),
    ],
)
def test_what_a_command_said_tells_what_it_began(
    lines: list[dict[str, object]], migration: str | None, wrong: str
) -> None:
    said = Said(0, tuple(lines))
    assert (said.migration, said.wrong) == (migration, wrong)


async def test_a_move_that_is_refused_as_it_is_typed_has_not_the_figures_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(app.HOME_VARIABLE, str(tmp_path))
    async with app.opened() as service:
        journal = service.journal
        await journal.create(Spec("web1-1", "web1", "one", "two"), 1.0)
        ended = Outcome("web1-1", "web1", "one", "two", OutcomeStatus.COMPLETED, Owner.TARGET, 6.2)
        await journal.conclude("web1-1", await journal.take_over("web1-1"), ended)
        told = await migrate(service, "web1", "one", ("--policy", "nobodys"))
    assert told == Told(ended=False, refused=True, note="there is no policy nobodys")


async def test_a_command_that_has_to_succeed_and_does_not_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(app.HOME_VARIABLE, str(tmp_path))
    assert (await typed("profile", "nobody")).status == UnknownVmError.exit_status
    with pytest.raises(LabError, match="godwit profile nobody ended with status 2: there is no guest 'nobody'"):
        await obeyed("profile", "nobody")


VIRSH = """#!/bin/sh
case $1 in
    migrate) sleep 0.3; exit {status} ;;
    domjobabort) echo 'error: no job is active on the domain' >&2; exit 1 ;;
    domjobinfo) echo 'downtime: 41' ;;
esac
"""


class OneMachine:
    """Stands for a laboratory: whatever is run on one of its machines is run here."""

    def command(self, _: str, argv: list[str]) -> list[str]:
        return argv


@pytest.mark.parametrize(("status", "told"), [(0, {"downtime": 41}), (1, None)], ids=["it ended", "it was aborted"])
async def test_a_job_that_is_over_when_it_is_aborted_ends_no_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, told: dict[str, int] | None
) -> None:
    (tmp_path / "virsh").write_text(VIRSH.format(status=status))
    (tmp_path / "virsh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    guest = LibvirtGuest(cast("Laboratory", OneMachine()), "libvirt1", "198.18.0.9")
    assert await guest.migrate("host1", "host2", deadline=0.05) == told


# -- what they came to -------------------------------------------------------------------------------------------------


def test_a_table_has_a_row_a_way_with_its_median_and_worst() -> None:
    slower = replace(GODWITS, round=1, took=4.5, client_gap=0.05)
    said = table([TRIAL, GODWITS, slower, NEVER], "quiet").splitlines()
    assert said[0] == ("| | ended | the command takes | a client waits | blackout, by its own account | on the link |")
    assert said[2] == "| virsh migrate --live | 1 of 1 | 5.0 s | 340 ms | 300 ms | 120 MB |"
    assert said[3] == "| Godwit, seamless | 2 of 2 | 4.0 (4.5) s | 45 (50) ms | 300 (300) ms | 120 (120) MB |"


def test_what_never_ended_has_no_figures() -> None:
    assert table([NEVER], "whole").splitlines()[2].startswith("| virsh migrate --live | 0 of 1 | ")
    assert "90.0" not in table([NEVER], "whole")


def test_what_was_refused_is_told_apart_from_what_never_ended() -> None:
    refused = replace(NEVER, contestant="gentle", refused=True, note="it would not end")
    assert "| Godwit, gentle | 0 of 1, 1 refused |" in table([NEVER, refused], "whole")
    assert words_of(refused) == "whole: gentle: refused (it would not end)"


def test_tables_are_in_the_order_of_the_scenarios() -> None:
    titles = [line for line in tables([NEVER, TRIAL]).splitlines() if line.startswith("### ")]
    assert titles[0] == "### quiet: a guest that does nothing, 400 Mbit/s"
    assert titles[1].startswith("### whole: ")


def test_a_trial_says_in_a_line_what_came() -> None:
    assert words_of(GODWITS) == "quiet: seamless, xbzrle: 3.5 s, 120 MB, 40 ms of silence"
    assert words_of(replace(GODWITS, lost=1.25)).endswith(", 1.2 s behind")
    assert words_of(NEVER) == "whole: virsh: does not end (aborted after 90 s)"


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    draw([TRIAL, GODWITS, NEVER], tmp_path / "comparison.png")
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


# -- a guest that falls behind -----------------------------------------------------------------------------------------


@given(st.floats(10, 1e6), st.floats(0.0, 8.0))
def test_a_writer_that_stands_still_for_a_while_is_behind_by_that(pace: float, pause: float) -> None:
    """It tells its pages once a second; it stands still from the instant 5 on."""
    heard = [(float(at), round(pace * (at if at <= 5 else max(5.0, at - pause)))) for at in range(21)]
    lost = lost_work(heard, 4.0, 19.0)
    assert lost is not None
    assert lost == pytest.approx(pause, abs=0.3 + 2 / pace)


def test_of_a_writer_that_was_hardly_heard_nothing_is_said() -> None:
    heard = [(float(at), at * 100) for at in range(5)]
    assert lost_work(heard, 0.5, 3.0) is None  # one line before
    assert lost_work(heard, 2.0, 5.0) is None  # none after
    assert lost_work([], 0.0, 1.0) is None
    assert lost_work([(0.0, 5), (1.0, 5), (9.0, 5)], 2.0, 3.0) is None  # it writes nothing


# -- as it is typed ----------------------------------------------------------------------------------------------------


def test_what_there_is_to_choose_from_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--list"]) == 0
    said = capsys.readouterr().out
    for name in (*SCENARIOS, *CONTESTANTS):
        assert f"  {name} " in said


def test_nonsense_is_refused_before_anything_is_built(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert main(["bench", "--scenario", "loud"]) == InputError.exit_status
    assert "there is no loud" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main(["bench"]) == InputError.exit_status
    assert "needs root" in capsys.readouterr().err
