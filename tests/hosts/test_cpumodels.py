"""What QEMUs say of guests' processors, as two versions of Debian's said it, and as none would."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from godwit.hosts.cpumodels import _ASK, parse_cpu
from godwit.hosts.factsparse import split_sections
from godwit.model import CpuDefinition, CpuFacts

RECORDED = Path(__file__).parent / "recorded"


@pytest.mark.parametrize(("version", "lost"), [("10.0", {"sha-ni", "rdseed"}), ("7.2", {"pcommit"})])
def test_what_a_qemu_said_is_read_whole(version: str, lost: set[str]) -> None:
    cpu = parse_cpu(split_sections((RECORDED / f"cpu-qemu-{version}.txt").read_text(encoding="utf-8")))
    models = {model.name: model for model in cpu.models}
    assert {"max", "qemu64", "Broadwell", "EPYC"} <= models.keys()
    broadwell = models["Broadwell"]
    assert (broadwell.vendor, broadwell.alias_of) == ("GenuineIntel", "Broadwell-v1")
    assert {"rtm", "avx2", "lm"} <= broadwell.flags
    assert "avx512f" not in broadwell.flags
    assert {"rtm", "pcid"} <= broadwell.lacks <= broadwell.flags
    assert models["EPYC"].vendor == "AuthenticAMD"
    assert lost <= cpu.gives
    assert not cpu.gives & {"family", "stepping", "rtm"}


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"definitions": "", "expansions": ""},
        {"definitions": "qemu-system: -accel kvm: failed", "expansions": "[]"},
        {"definitions": '{"return": [{"name": "x"}, 7, {"name": "a b", "unavailable-features": []}]}'},
        {"definitions": '{"return": [{"name": "x", "unavailable-features": []}]}', "expansions": '{"return": 7}'},
        {"expansions": '{"return": {"model": {"props": 7}}, "id": "max"}'},
    ],
)
def test_what_is_no_answer_tells_of_nothing(said: dict[str, str]) -> None:
    assert parse_cpu(said) == CpuFacts()


def test_the_script_asks_for_each_model_and_keeps_the_answer(tmp_path: Path) -> None:
    qemu = tmp_path / "qemu"
    qemu.write_text(
        f"""#!/bin/sh
echo asked >> {tmp_path}/count
while read -r line; do
    case $line in
        *definitions*) echo '{{"return": [{{"name": "One", "unavailable-features": ["b"]}}]}}' ;;
        *expansion*) echo '{{"return": {{"model": {{"props": {{"a": true, "n": 7, "b": true, "c": false}}}}}}, '\
            '"id": "One"}}' ;;
    esac
done
"""
    )
    qemu.chmod(0o755)
    for _ in range(2):
        script = f"runtime() {{ echo {tmp_path}; }}\n{_ASK}"
        done = subprocess.run(
            ["sh", "-s", "--", str(qemu), "tcg"], input=script, capture_output=True, text=True, check=True
        )
        (model,) = parse_cpu(split_sections(done.stdout)).models
        assert model == CpuDefinition("One", "", frozenset({"a", "b"}), frozenset({"b"}))
    assert (tmp_path / "count").read_text().splitlines() == ["asked", "asked"], "definitions and expansions, once"


def test_a_host_without_that_program_says_nothing(tmp_path: Path) -> None:
    script = f"runtime() {{ echo {tmp_path}; }}\n{_ASK}"
    done = subprocess.run(
        ["sh", "-s", "--", "no-such-qemu", "kvm"], input=script, capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
