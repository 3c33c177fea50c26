"""What QEMUs say of guests' processors, as two versions of Debian's said it, and as none would."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from godwit.errors import HostError
from godwit.hosts.cpumodels import _ASK, ask_cpu, parse_cpu
from godwit.hosts.factsparse import split_sections
from godwit.hosts.local import LocalTransport
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
        {
            "definitions": '{"return": [{"name": "x", "unavailable-features": []}]}',
            "expansions": '{"return": {"model": {"props": {"a": true}}}, "id": "x"}',
        },
    ],
)
def test_what_is_no_answer_tells_of_nothing(said: dict[str, str]) -> None:
    assert parse_cpu(said) == CpuFacts()


DEFINED = '{"return": [{"name": "One", "unavailable-features": ["b"]}, {"name": "max", "unavailable-features": []}]}'
EXPANDED = '{"return": {"model": {"props": {"a": true, "n": 7, "b": true, "c": false}}}, "id": "%s"}'
ONE, MAX = (EXPANDED % name for name in ("One", "max"))


class Asked:
    """A QEMU that says what a test wants it to, the script that asks it, and how often it was run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.qemu = folder / "qemu"

    def says(self, definitions: str, one: str, most: str, end: str = "exit 0") -> None:
        lines = "\n".join(
            f"        {pattern}) echo '{said}' ;;"
            for pattern, said in (("*definitions*", definitions), ('*\'"id":"One"\'*', one), ('*\'"id":"max"\'*', most))
            if said
        )
        count = f"echo asked >> {self.folder}/count"
        self.qemu.write_text(
            f"#!/bin/sh\n{count}\nwhile read -r line; do\n    case $line in\n{lines}\n    esac\ndone\n{end}\n"
        )
        self.qemu.chmod(0o755)
        os.utime(self.qemu, (1, 1))  # the answer is kept by its time and size

    def run(self) -> dict[str, str]:
        script = f"runtime() {{ echo {self.folder}; }}\n{_ASK}"
        done = subprocess.run(
            ["sh", "-s", "--", str(self.qemu), "tcg"], input=script, capture_output=True, text=True, check=True
        )
        assert not list(self.folder.glob("facts/.cpu*"))
        return split_sections(done.stdout)

    @property
    def times(self) -> int:
        return len((self.folder / "count").read_text().splitlines())


def test_the_script_asks_for_each_model_and_keeps_the_answer(tmp_path: Path) -> None:
    asked = Asked(tmp_path)
    asked.says(DEFINED, ONE, MAX)
    for _ in range(2):
        cpu = parse_cpu(asked.run())
        assert cpu.gives == {"a", "b"}
        assert cpu.models[0] == CpuDefinition("One", "", frozenset({"a", "b"}), frozenset({"b"}))
    assert asked.times == 2, "definitions and expansions, once"


@pytest.mark.parametrize(
    "said",
    [
        ("", "", "", "exit 1"),
        (DEFINED, "", ""),
        (DEFINED, ONE, ""),
        (DEFINED, "", MAX, "exit 124"),
        (DEFINED, ONE, MAX[:-20], "exit 124"),
    ],
    ids=["nothing", "definitions alone", "no max", "cut off after max", "cut off within max"],
)
def test_half_an_answer_is_not_kept(tmp_path: Path, said: tuple[str, ...]) -> None:
    asked = Asked(tmp_path)
    asked.says(*said)
    assert ("cut-off" in asked.run()) is (said[-1] == "exit 124")
    before = asked.times
    asked.says(DEFINED, ONE, MAX)
    assert parse_cpu(asked.run()).gives == {"a", "b"}
    assert asked.times == before + 2


async def test_an_answer_that_was_cut_off_is_none(tmp_path: Path) -> None:
    asked = Asked(tmp_path)
    asked.says(DEFINED, ONE, MAX, "exit 124")
    transport = LocalTransport("host1")
    with pytest.raises(HostError, match="did not say in time"):
        await ask_cpu(transport, str(asked.qemu), "tcg")


def test_a_host_without_that_program_says_nothing(tmp_path: Path) -> None:
    script = f"runtime() {{ echo {tmp_path}; }}\n{_ASK}"
    done = subprocess.run(
        ["sh", "-s", "--", "no-such-qemu", "kvm"], input=script, capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
