"""What people type about what a move may cost, and policies of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from godwit.cli.main import main
from godwit.cli.moves import patient_policy
from godwit.cli.policies import FOLDER, PROTECT, Typed, policy_of, with_shares
from godwit.core.goals import policy_for
from godwit.errors import InputError
from godwit.model import Goal, Permission, Policy
from godwit.units import MIB

if TYPE_CHECKING:
    from pathlib import Path

NIGHTLY = """
goal = "finish"
deadline = "10min"
max_downtime = "100ms"
bandwidth = "40MB/s"
max_guest_slowdown = "50%"
forbid = ["pause"]
"""


@pytest.mark.parametrize(
    ("words", "read"),
    [
        (["web", PROTECT], ["web", f"{PROTECT}=90%"]),
        (["web", PROTECT, "80%", "host"], ["web", PROTECT, "80%", "host"]),
        ([PROTECT, "web", "host"], [f"{PROTECT}=90%", "web", "host"]),
        ([PROTECT, "--detach"], [f"{PROTECT}=90%", "--detach"]),
        ([PROTECT, "120"], [PROTECT, "120"]),
        ([f"{PROTECT}=70%"], [f"{PROTECT}=70%"]),
        (["web", "host"], ["web", "host"]),
    ],
    ids=" ".join,
)
def test_neighbours_keep_the_usual_share_where_none_is_typed(words: list[str], read: list[str]) -> None:
    assert with_shares(words) == read


def test_neighbours_are_protected_as_it_was_typed(folder: Path) -> None:
    assert policy_of(Typed()).protect_neighbours is None
    assert policy_of(Typed(protect="85%")).protect_neighbours == 0.85
    (folder / FOLDER / "kind.toml").write_text('protect_neighbours = "95%"')
    assert policy_of(Typed("kind")).protect_neighbours == 0.95
    assert policy_of(Typed("kind", protect="50%")).protect_neighbours == 0.5


def test_a_guest_that_is_off_spares_nobody(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", "web", "host", "--static", "--off", PROTECT]) == 2
    assert "--protect-neighbours and --off contradict each other" in capsys.readouterr().err
    main(["migrate", "web", "host", PROTECT])
    assert "there is no guest 'web'" in capsys.readouterr().err, "without a share the usual one is meant"
    assert folder.exists()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GODWIT_HOME", str(tmp_path))
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "nightly.toml").write_text(NIGHTLY)
    return tmp_path


def test_a_move_can_be_put_off_unless_that_contradicts_something() -> None:
    assert patient_policy(Policy(), "10min", static=False).wait == 600
    assert patient_policy(Policy(), None, static=True).wait == 0
    with pytest.raises(InputError, match="--wait and --static contradict"):
        patient_policy(Policy(), "10s", static=True)
    with pytest.raises(InputError, match="leaves nothing of a deadline of"):
        patient_policy(Policy(deadline=60.0), "60s", static=False)


def test_nothing_typed_is_seamless() -> None:
    assert policy_of(Typed()) == Policy() == policy_for(Goal.SEAMLESS)


@pytest.mark.parametrize("goal", Goal)
def test_a_goal_is_named(goal: Goal) -> None:
    assert policy_of(Typed(goal.value, deadline="60s")) == policy_for(goal, deadline=60.0)


def test_options_change_a_goal() -> None:
    found = policy_of(Typed("fast", "30ms", "5min", "40MB/s", "20%", (Permission.PAUSE,)))
    assert (found.goal, found.max_downtime, found.deadline, found.bandwidth) == (Goal.FAST, 0.03, 300, 40 * MIB)
    assert found.max_guest_slowdown == 0.2
    assert found.allows == {Permission.PAUSE, Permission.THROTTLE, Permission.BALLOON}
    cached = policy_of(Typed("gentle", allow=(Permission.PAGE_CACHE,)))
    assert cached.allows == {Permission.PAGE_CACHE, Permission.BALLOON}
    assert policy_of(Typed(max_slowdown="0%")).most_throttle == 0
    assert policy_of(Typed(forbid=(Permission.THROTTLE,))).most_throttle == 0
    assert policy_of(Typed("gentle", allow=(Permission.THROTTLE,))).most_throttle == 95
    assert policy_of(Typed("gentle", max_slowdown="30%")).most_throttle == 30


def test_a_policy_of_one_s_own_is_found_by_its_name_or_its_path(folder: Path) -> None:
    for name in ("nightly", str(folder / FOLDER / "nightly.toml")):
        found = policy_of(Typed(name))
        assert (found.goal, found.deadline, found.max_downtime) == (Goal.FINISH, 600, 0.1)
        assert (found.bandwidth, found.max_guest_slowdown) == (40 * MIB, 0.5)
        assert found.allows == {Permission.THROTTLE, Permission.BALLOON}
        assert policy_of(Typed(name, deadline="5s", max_downtime="9ms")).deadline == 5
        assert policy_of(Typed(name, max_downtime="10ms")).max_downtime == 0.01


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (Typed("quickly"), "there is no policy quickly"),
        (Typed(allow=(Permission.PAGE_CACHE,), forbid=(Permission.BALLOON,)), "contradict each other"),
        (Typed("finish"), "needs --deadline"),
        (Typed(max_slowdown="0.5"), "--max-slowdown: '0.5' is no share below 100%"),
        (Typed(max_slowdown="100%"), "--max-slowdown: '100%' is no share below 100%"),
        (
            Typed(max_slowdown="50%", forbid=(Permission.THROTTLE,)),
            "--forbid throttle and --max-slowdown 50% contradict",
        ),
        (Typed(max_slowdown="0%", allow=(Permission.THROTTLE,)), "--allow throttle and --max-slowdown 0% contradict"),
        (Typed(allow=(Permission.PAUSE,), forbid=(Permission.PAUSE,)), "--allow pause and --forbid pause contradict"),
        (Typed(max_downtime="0ms"), "--max-downtime: 0ms is no time at all"),
        (Typed(protect="0%"), "--protect-neighbours 0% protects nobody"),
        (Typed(protect="120"), "--protect-neighbours: '120' is no share below 100%"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_nonsense_is_named(typed: Typed, said: str) -> None:
    with pytest.raises(InputError) as caught:
        policy_of(typed)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("goal = ", "cannot be read"),
        ('goal = "soon"', "goal: 'soon' is none of seamless, fast, gentle, finish"),
        ('goal = "finish"', "needs --deadline"),
        ('speed = "fast"', "a policy has no speed"),
        ("max_downtime = 30", "max_downtime: 30 is no text in quotes"),
        ('max_downtime = "soon"', "max_downtime: "),
        ('max_guest_slowdown = "half"', "max_guest_slowdown: 'half' is no share"),
        ('protect_neighbours = "most"', "protect_neighbours: 'most' is no share"),
        ('allow = "pause"', "allow: 'pause' is no list of throttle, postcopy, pause"),
        ('allow = ["magic"]', "allow: ['magic'] is no list"),
        ('allow = [["pause"]]', "allow: [['pause']] is no list"),
        ("forbid = [{pause = 1}]", "forbid: [{'pause': 1}] is no list"),
        ('allow = ["pause"]\nforbid = ["pause"]', "allow pause and forbid pause contradict"),
        ('allow = ["throttle"]\nmax_guest_slowdown = "0%"', "allow throttle and max_guest_slowdown 0% contradict"),
    ],
)
def test_a_policy_that_is_wrong_is_named_with_its_file(folder: Path, text: str, said: str) -> None:
    path = folder / FOLDER / "wrong.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        policy_of(Typed("wrong"))
    assert str(path) in caught.value.message
    assert said in caught.value.message


@pytest.mark.parametrize("way", [["--static"], ["--static", "--off"]], ids=["standing", "off"])
@pytest.mark.parametrize(
    "words",
    [
        ["--max-downtime", "30ms"],
        ["--max-slowdown", "50%"],
        ["--allow", "pause"],
        ["--forbid", "throttle"],
    ],
    ids=["downtime", "slowdown", "allow", "forbid"],
)
@pytest.mark.usefixtures("folder")
def test_what_has_no_meaning_for_a_guest_that_stands_still_is_refused(
    capsys: pytest.CaptureFixture[str], way: list[str], words: list[str]
) -> None:
    assert main(["migrate", "web1", "host2", *way, *words]) == InputError.exit_status
    assert f"{words[0]} and --static contradict each other" in capsys.readouterr().err


def test_a_policy_that_is_not_there_is_told_beside_those_that_are(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["migrate", "web1", "host2", "--policy", "quickly"]) == InputError.exit_status
    said = capsys.readouterr().err
    assert "take one of seamless, fast, gentle, finish, nightly" in said
    assert str(folder / FOLDER / "quickly.toml") in said
