"""The snapshot commands as people and programs see them, over simulated hosts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from clistage import WEB1, Stage

from godwit.cli import ground
from godwit.cli.main import main
from godwit.errors import InputError, InvalidNameError, RefusedError, UnknownSnapshotError

if TYPE_CHECKING:
    from collections.abc import Callable

    from godwit.model import Vm

DISK = "/images/web1.qcow2"


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Type commands at a stage whose guest has a qcow2 disk that only the first host has."""
    monkeypatch.setattr("clistage.WEB1", WITH_DISK)
    monkeypatch.setattr(Stage, "_furnish", furnished)
    stage = Stage(speed=200.0)
    monkeypatch.setattr(ground, "opener", stage.opened)

    def type_(*words: str) -> tuple[int, str, str]:
        status = main(["snapshot", *words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return type_


def qcow2(vm: Vm) -> Vm:
    argv = tuple(word.replace("web1.raw", "web1.qcow2") for word in vm.launch.argv)
    return replace(vm, launch=replace(vm.launch, argv=argv))


WITH_DISK = qcow2(WEB1)
_furnish = Stage._furnish


async def furnished(stage: Stage) -> None:
    stage.world.add_file(DISK, ["host1"], size=64 << 20)
    await _furnish(stage)


def test_a_snapshot_from_its_making_to_its_end(typed: Callable[..., tuple[int, str, str]]) -> None:
    status, out, _ = typed("list", "web1")
    assert (status, "has no snapshots: godwit snapshot create web1 TAG" in out) == (0, True)
    status, out, _ = typed("create", "web1", "my_tag")
    assert (status, "stood still for" in out) == (0, True)
    status, out, _ = typed("list", "web1")
    assert "my_tag" in out
    assert "complete" in out
    (row,) = json.loads(typed("list", "web1", "--json")[1])
    assert (row["tag"], row["complete"], row["disks"], row["missing"]) == ("my_tag", True, ["disk0"], [])
    status, _, err = typed("apply", "web1", "my_tag")
    assert status == InputError.exit_status
    assert "will be lost" in err
    assert "--yes" in err
    status, out, _ = typed("apply", "web1", "my_tag", "--yes")
    assert (status, "what it did since is lost" in out) == (0, True)
    status, out, _ = typed("delete", "web1", "my_tag")
    assert (status, "gone from disk0" in out) == (0, True)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("create", "web1", "1"), InvalidNameError.exit_status, "cannot be the name of a snapshot"),
        (("create", "web1", "a\x1b[2J"), InvalidNameError.exit_status, "cannot be the name"),
        (("create", "nobody", "a"), InputError.exit_status, "nobody"),
        (("apply", "web1", "none", "--yes"), UnknownSnapshotError.exit_status, "it has: none"),
        (("delete", "web1", "x"), UnknownSnapshotError.exit_status, "no snapshot 'x'"),
        (("send", "web1", "a", "host1"), InputError.exit_status, "on host1 already"),
        (("send", "web1", "a", "host9"), InputError.exit_status, "host9"),
        (("send", "web1", "7", "host2"), InvalidNameError.exit_status, "cannot be the name"),
    ],
)
def test_what_cannot_be_meant_is_said(
    typed: Callable[..., tuple[int, str, str]], words: tuple[str, ...], status: int, said: str
) -> None:
    got, _, err = typed(*words)
    assert got == status
    assert said in err
    assert "\x1b" not in err


def test_a_guest_is_sent_and_the_old_copy_named(typed: Callable[..., tuple[int, str, str]]) -> None:
    status, out, _ = typed("send", "web1", "my_tag", "host2")
    assert status == 0
    assert "web1 runs on host2, from my_tag" in out
    assert f"{DISK} on host1: the old copy. Do not start it" in out
    status, _, err = typed("send", "web1", "my_tag", "host1")
    assert status == InputError.exit_status
    assert "everything that web1 did since will be lost" in err
    status, _, err = typed("send", "web1", "my_tag", "host1", "--yes")
    assert status == RefusedError.exit_status, "the old copy is in the way"
    assert "not overwritten" in err


def test_a_program_reads_what_was_sent(typed: Callable[..., tuple[int, str, str]]) -> None:
    status, out, _ = typed("send", "web1", "my_tag", "host2", "--json")
    assert status == 0
    said = json.loads(out)
    assert (said["source"], said["target"], said["carried"], said["running"]) == ("host1", "host2", [DISK], True)
