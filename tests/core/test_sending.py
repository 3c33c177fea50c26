"""What travels with a guest that is sent, and what a successor does: tables."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from godwit.core.preflight.evidence import DiskProof
from godwit.core.sending import SendRecord, SendStep, Verdict, findings, judge, to_carry
from godwit.errors import RefusedError
from godwit.model import Finding, Launch, RunState, Severity

RECORD = SendRecord("web-1", "web", "tag", "one", "two", SendStep.SAVING, Launch(("q",)), running=True, made=True)
AWAY = DiskProof("a", "/a", read_only=False, token_seen=False, source_identity="1:1", target_identity="")
SILENT = RunState.UNREACHABLE


@pytest.mark.parametrize(
    ("proof", "alike", "files"),
    [
        (AWAY, {}, ("/a",)),
        (replace(AWAY, token_seen=True, target_identity="1:1"), {}, ()),
        (replace(AWAY, read_only=True), {}, ("/a",)),
        (replace(AWAY, read_only=True, target_identity="1:9"), {"/a": True}, ()),
        (replace(AWAY, read_only=True, backs="x", target_identity="1:9", digests=("d", "d")), {}, ()),
        (replace(AWAY, token_seen=None, error="no right to write"), {}, ("/a",)),
    ],
)
def test_what_is_not_there_is_carried(proof: DiskProof, alike: dict[str, bool], files: tuple[str, ...]) -> None:
    assert to_carry([proof, proof], alike, "two") == files


@pytest.mark.parametrize(
    ("proof", "words"),
    [
        (replace(AWAY, target_identity="1:9"), "not overwritten"),
        (replace(AWAY, read_only=True, target_identity="1:9"), "another file"),
        (replace(AWAY, read_only=True, target_identity="1:9", digests=("d", "e")), "another file"),
    ],
)
def test_what_is_there_and_another_is_refused(proof: DiskProof, words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        to_carry([proof], {}, "two")


def test_findings_about_disks_and_streams_do_not_count() -> None:
    found = [Finding(code, Severity.BLOCK, "", "", "") for code in ("disk-exists", "not-running", "memory-short")]
    assert [one.code for one in findings(found)] == ["memory-short"]


@pytest.mark.parametrize(
    ("step", "source", "target", "verdict"),
    [
        (SendStep.SAVING, RunState.PAUSED, RunState.ABSENT, Verdict.ANEW),
        (SendStep.SAVING, RunState.RUNNING, RunState.ABSENT, Verdict.ANEW),
        (SendStep.SAVING, SILENT, RunState.ABSENT, Verdict.WAIT),
        (SendStep.ENDING, RunState.PAUSED, RunState.ABSENT, Verdict.ON),
        (SendStep.ENDING, RunState.ABSENT, RunState.ABSENT, Verdict.ON),
        (SendStep.ENDING, RunState.RUNNING, RunState.ABSENT, Verdict.ANEW),
        (SendStep.CARRYING, RunState.ABSENT, RunState.ABSENT, Verdict.ON),
        (SendStep.CARRYING, RunState.RUNNING, RunState.ABSENT, Verdict.GIVEN_UP),
        (SendStep.STARTING, RunState.ABSENT, RunState.PAUSED, Verdict.ON),
        (SendStep.STARTING, SILENT, RunState.PAUSED, Verdict.WAIT),
        (SendStep.ARMED, RunState.ABSENT, RunState.RUNNING, Verdict.FINISH),
        (SendStep.ARMED, SILENT, RunState.PAUSED, Verdict.FINISH),
        (SendStep.ARMED, RunState.ABSENT, RunState.ABSENT, Verdict.CRASHED),
        (SendStep.ARMED, RunState.ABSENT, SILENT, Verdict.WAIT),
    ],
)
def test_a_successor_decides_by_what_both_hosts_say(
    step: SendStep, source: RunState, target: RunState, verdict: Verdict
) -> None:
    assert judge(replace(RECORD, step=step), source, target) is verdict


@pytest.mark.parametrize(("source", "target"), [*product(RunState, RunState)])
def test_once_armed_the_guest_is_never_the_source_s_again(source: RunState, target: RunState) -> None:
    verdict = judge(replace(RECORD, step=SendStep.ARMED), source, target)
    assert verdict in {Verdict.FINISH, Verdict.CRASHED, Verdict.WAIT}


def test_what_to_type_names_all_three() -> None:
    assert RECORD.command == "godwit snapshot send web tag two"
