"""Every planted mismatch is named by its code, with its mend, and nothing else is; sound pairs are left alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from planted import ELSEWHERE, PLANTED, SOUND, Planted
from plantedpairs import Pair, Plant

from godwit.core.preflight import check, check_upgrade
from godwit.core.preflight.rows import ROWS
from godwit.model import Finding, Severity

ROOT = Path(__file__).parents[2]


def findings(plant: Plant) -> tuple[Finding, ...]:
    pair = plant(Pair())
    return (check_upgrade if pair.upgrade else check)(pair.evidence())


@pytest.mark.parametrize("row", PLANTED, ids=[row.name for row in PLANTED])
def test_a_planted_mismatch_is_named_with_its_mend_and_nothing_else_is(row: Planted) -> None:
    found = findings(row.plant)
    assert {one.code for one in found} == {row.code} | row.companions
    assert Counter(one.code for one in found)[row.code] == 1
    (finding,) = (one for one in found if one.code == row.code)
    assert finding.severity is row.severity
    assert row.mend in finding.mend
    assert finding.subject
    assert finding.why
    assert "None" not in finding.found + finding.mend


@pytest.mark.parametrize(("name", "plant"), SOUND, ids=[row[0] for row in SOUND])
def test_a_sound_pair_is_let_go(name: str, plant: Plant) -> None:
    assert [one for one in findings(plant) if one.severity is not Severity.INFO] == [], name


def test_there_are_as_many_as_were_promised() -> None:
    assert len({row.name for row in PLANTED}) == len(PLANTED) >= 60
    assert len({name for name, _ in SOUND}) == len(SOUND) >= 30


def test_each_code_of_the_table_is_planted() -> None:
    planted = {row.code for row in PLANTED}
    assert [code for code in ROWS if code not in planted | ELSEWHERE.keys()] == []
    assert [code for code in ELSEWHERE if code in planted or code not in ROWS] == []


def test_what_is_planted_elsewhere_is_planted_there() -> None:
    for code, test in ELSEWHERE.items():
        path, _, function = test.partition("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        assert f"def {function}(" in text
        assert code in text


def test_severities_are_those_of_the_table() -> None:
    assert {row.code: row.severity for row in PLANTED} == {row.code: ROWS[row.code].severity for row in PLANTED}
