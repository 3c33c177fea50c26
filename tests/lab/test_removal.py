"""A laboratory is built whole or not at all, and removed without a trace, whatever was killed meanwhile."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from godwit.errors import LabError
from godwit.lab import namespaces, state
from godwit.lab.laboratory import Laboratory
from godwit.lab.plan import LabPlan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Traces = Callable[[str, int, Path], list[str]]

pytestmark = pytest.mark.lab


def hostname(lab: Laboratory, machine: str) -> str:
    return subprocess.check_output(lab.command(machine, ["hostname"]), text=True, timeout=30).strip()


def test_two_laboratories_side_by_side(traces: Traces, lab: Laboratory, build_lab: Callable[..., Laboratory]) -> None:
    other = build_lab(3)
    assert other.plan.number != lab.plan.number
    assert hostname(other, "host3") == "host3"
    assert other.exec("host1", ["ping", "-q", "-c1", "-W1", lab.plan.management_address("host1")]) != 0
    number, directory = other.plan.network_number, other.directory
    other.down()
    assert traces(other.name, number, directory) == []
    assert hostname(lab, "host1") == "host1"


def test_several_at_once_get_different_numbers(host_tree: Path) -> None:
    names = [f"at-once-{os.getpid()}-{i}" for i in range(4)]
    threads = [threading.Thread(target=Laboratory.up, args=(LabPlan(name, hosts=1), host_tree)) for name in names]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len({Laboratory.load(name).plan.number for name in names}) == 4
    finally:
        for name in names:
            Laboratory.remove(name)


def test_up_and_down_are_quick_and_leave_nothing(
    traces: Traces, host_tree: Path, lab_name: str, tmp_path: Path
) -> None:
    started = time.monotonic()
    lab = Laboratory.up(LabPlan(lab_name), host_tree, tmp_path / "data")
    built = time.monotonic()
    number = lab.plan.network_number
    inside = namespaces.identify_namespaces(lab.plan.namespaces, [])
    assert lab.exec("host1", ["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo data >/mnt/images/disk"]) == 0
    assert len(namespaces.residents(inside)) >= 9
    removal = time.monotonic()
    lab.down()
    assert time.monotonic() - removal < 1.5
    assert built - started < 2.5
    assert traces(lab_name, number, tmp_path / "data") == []
    assert namespaces.residents(inside) == []
    lab.down()
    assert not Laboratory.remove(lab_name)
    with pytest.raises(LabError, match="there is no laboratory"):
        Laboratory.load(lab_name)


def test_a_laboratory_outlives_its_maker(host_tree: Path, lab_name: str) -> None:
    program = f"""
from pathlib import Path
from godwit.lab.laboratory import Laboratory
from godwit.lab.plan import LabPlan
Laboratory.up(LabPlan({lab_name!r}), Path({str(host_tree)!r}))
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
    assert lab_name in Laboratory.names()
    assert lab_name not in Laboratory.down_stale()
    assert hostname(Laboratory.load(lab_name), "host2") == "host2"


# A build takes about 0.2 s: one instant at random in each stretch of 20 ms, until after its end.
KILL_INSTANTS = [0.0, *(round(random.uniform(i, i + 1) / 50, 4) for i in range(14))]  # noqa: S311 - no secret

KILLED_BUILDER = """
import sys
from pathlib import Path
from godwit.lab.laboratory import Laboratory
from godwit.lab.plan import LabPlan
print("go", flush=True)
Laboratory.up(LabPlan(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.fixture
def killed_after(host_tree: Path, lab_name: str) -> Callable[[float | None], None]:
    """Return a function that starts a build and kills it after some seconds; None: once it is on record."""

    def build_and_kill(delay: float | None) -> None:
        argv = [sys.executable, "-c", KILLED_BUILDER, lab_name, str(host_tree)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as builder:
            assert builder.stdout is not None
            assert builder.stdout.readline() == "go\n"
            while delay is None and state.read(lab_name) is None:
                assert builder.poll() is None
            time.sleep(delay or 0)  # the instant is what is being varied
            builder.kill()

    return build_and_kill


@pytest.mark.parametrize(
    "delay",
    [one if i % 6 == 0 else pytest.param(one, marks=pytest.mark.long) for i, one in enumerate(KILL_INSTANTS)],
    ids=range(len(KILL_INSTANTS)),
)
def test_sigkill_of_the_builder_leaves_nothing(
    traces: Traces, lab_name: str, killed_after: Callable[[float | None], None], delay: float
) -> None:
    killed_after(delay)
    record = state.read(lab_name)
    if record is None:  # killed before it had made anything
        Laboratory.remove(lab_name)
        assert not state.folder(lab_name).exists()
        assert not (state.DATA_ROOT / lab_name).exists()
        return
    inside = namespaces.identify_namespaces(record.plan.namespaces, [])
    assert Laboratory.remove(lab_name)
    assert traces(lab_name, record.plan.network_number, record.directory) == []
    assert namespaces.residents(inside) == []


def test_down_stale_removes_only_what_is_half_built(
    traces: Traces, lab: Laboratory, lab_name: str, killed_after: Callable[[float | None], None]
) -> None:
    killed_after(None)
    record = state.read(lab_name)
    assert record is not None
    assert record.phase == "building"
    with pytest.raises(LabError, match="left while building"):
        Laboratory.load(lab_name)
    removed = Laboratory.down_stale()
    assert lab_name in removed
    assert lab.name not in removed
    assert traces(lab_name, record.plan.network_number, record.directory) == []


def test_a_restart_that_was_killed_can_be_repeated(build_lab: Callable[..., Laboratory]) -> None:
    lab = build_lab(1)
    program = "import sys; from godwit.lab.laboratory import Laboratory; Laboratory(sys.argv[1]).restart('host1')"
    for delay in (0.3, 0.33, 0.36, 0.39, 0.42, 0.45):  # a good part of it is the start of Python
        lab.crash("host1")
        with subprocess.Popen([sys.executable, "-c", program, lab.name]) as restarter:
            time.sleep(delay)  # the instant is what is being varied
            restarter.kill()
        if not lab.status().machines[0].up:
            lab.restart("host1")
        assert hostname(lab, "host1") == "host1"


def test_what_fails_half_way_is_removed(
    traces: Traces, host_tree: Path, lab_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("godwit.lab.machine._SSHD_CONFIG", "NoSuchOption yes\n")
    with pytest.raises(LabError, match="NoSuchOption"):
        Laboratory.up(LabPlan(lab_name, number=200), host_tree)
    assert traces(lab_name, 200, state.DATA_ROOT / lab_name) == []


def test_a_directory_that_cannot_be_made_is_named(host_tree: Path, lab_name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LabError, match="file") as caught:
        Laboratory.up(LabPlan(lab_name), host_tree, tmp_path / "file" / "data")
    assert "directory" in caught.value.remedy
    assert lab_name not in Laboratory.names()


def test_a_name_a_number_and_a_directory_are_taken_once(
    lab: Laboratory, lab_name: str, host_tree: Path, tmp_path: Path
) -> None:
    with pytest.raises(LabError, match="already a laboratory"):
        Laboratory.up(LabPlan(lab.name), host_tree)
    with pytest.raises(LabError, match="in use"):
        Laboratory.up(LabPlan(lab_name, number=lab.plan.number), host_tree)
    with pytest.raises(LabError, match="belongs to"):
        Laboratory.up(LabPlan(lab_name), host_tree, lab.directory)
    (tmp_path / "precious").touch()
    with pytest.raises(LabError, match="not empty"):
        Laboratory.up(LabPlan(lab_name), host_tree, tmp_path)
    assert (tmp_path / "precious").exists()
    with pytest.raises(LabError, match="no folder usr"):
        Laboratory.up(LabPlan(lab_name), tmp_path)
    assert lab_name not in Laboratory.names()
