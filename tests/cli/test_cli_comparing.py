"""check --all, host compare and cpu baseline, typed: tables that fit, JSON, exit statuses, and nonsense."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from fleetstage import Fleet

from godwit.cli import comparing, ground
from godwit.cli.comparing import _groups
from godwit.cli.main import main
from godwit.core.preflight.matrix import Cell, Verdict
from godwit.model import CpuDefinition, CpuFacts, Finding, HostFacts, Severity

HOSTILE = "\x1b[31m\x07evil\nhost9 is fine"

if TYPE_CHECKING:
    from godwit.hosts.fake import FakeHost


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    made = Fleet()
    monkeypatch.setattr(ground, "opener", made.opened)
    return made


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(words)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.usefixtures("fleet")
def test_a_table_of_guests_and_hosts_with_what_blocks_and_the_mend(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(capsys, "check", "--all")
    assert status == 3
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["guest", "on", "host1", "host2", "host3", "host4"]
    assert lines[1] == ["web1", "host1", "-", "ok", "warn", "1", "blocked:", "qemu-missing"]
    assert "blocks: qemu-missing: host4 has no qemu-system-x86_64\n  concerns: web1 to host4, web2 to host4" in out
    assert "mend: install QEMU on host4" in out
    assert err.startswith("godwit: error: 2 of 6 moves are blocked")


@pytest.mark.usefixtures("fleet")
def test_what_is_only_warned_of_is_a_success(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(capsys, "check", "--all", "host3", "--from", "host1")
    assert (status, err) == (0, "")
    assert "web2" not in out
    assert "warning: clocks-differ" in out


@pytest.mark.parametrize(("hosts", "status"), [(("host2", "host3"), 5), (("host3", "host4"), 3)])
def test_a_silent_host_is_a_column_and_no_success(
    fleet: Fleet, capsys: pytest.CaptureFixture[str], hosts: tuple[str, ...], status: int
) -> None:
    fleet.hosts["host3"].cut_off = True
    found, out, err = said(capsys, "check", "--all", *hosts)
    assert found == status
    assert "not known: host3 does not answer" in out
    assert "?" in out.splitlines()[1].split()
    if status == 5:
        assert "could not be looked at" in err


@pytest.mark.usefixtures("fleet")
def test_a_table_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capsys, "check", "--all", "host2", "host4", "--json")
    assert status == 3
    document = json.loads(out)
    assert document["guests"] == [{"vm": "web1", "host": "host1"}, {"vm": "web2", "host": "host2"}]
    assert document["hosts"] == ["host2", "host4"]
    assert document["counts"] == {"ok": 1, "blocked": 2, "home": 1}
    cell = document["cells"][1]
    assert (cell["vm"], cell["host"], cell["verdict"]) == ("web1", "host4", "blocked")
    assert cell["findings"][0]["code"] == "qemu-missing"


@pytest.mark.parametrize(
    ("words", "status", "complaint"),
    [
        (["check", "--all", "host9"], 2, "there is no host 'host9'"),
        (["check", "--all", "host2", "--from", "host4"], 2, "no guest on host4"),
        (["check", "web1"], 2, "not of 1 names: web1"),
        (["check"], 2, "not of 0 names: none"),
        (["check", "web1", "host2", "host3"], 2, "not of 3 names"),
        (["check", "web1", "host2", "--from", "host1"], 2, "--from goes with --all"),
        (["host", "compare", "host1", "host1"], 2, "does not differ from itself"),
        (["host", "compare", "host1", "host9"], 2, "there is no host 'host9'"),
        (["cpu", "baseline", "host1", "host4"], 2, "host4 has no QEMU"),
        (["cpu", "baseline", "host9"], 2, "there is no host 'host9'"),
        (["cpu", "baseline"], 2, "Missing argument"),
    ],
)
@pytest.mark.usefixtures("fleet")
def test_nonsense_is_named(capsys: pytest.CaptureFixture[str], words: list[str], status: int, complaint: str) -> None:
    found, out, err = said(capsys, *words)
    assert (found, out) == (status, "")
    assert complaint in err


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_hosts_that_do_not_fit_come_below(width: int) -> None:
    widths = {f"host-{number:02}": 8 + number % 3 * 12 for number in range(12)}
    groups = _groups(widths, width)
    assert [host for group in groups for host in group] == list(widths)
    assert all(sum(widths[host] + 3 for host in group) - 3 <= width for group in groups)
    assert all(len(group) > 1 for group in groups[:-1])


def test_a_terminal_that_is_too_narrow_for_one_host_has_one_table_each() -> None:
    assert _groups({"a": 40, "b": 50}, 10) == [["a"], ["b"]]


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_no_line_of_the_table_is_wider_than_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    fleet = Fleet(*(f"a-host-of-the-second-rack-{number}" for number in range(9)))
    monkeypatch.setattr(ground, "opener", fleet.opened)
    real = comparing._console

    def narrow() -> object:
        console = real()
        console.width = columns
        return console

    monkeypatch.setattr(comparing, "_console", narrow)
    _, out, _ = said(capsys, "check", "--all")
    table = out.partition("\nblocks")[0].splitlines()
    assert max(map(len, table)) <= columns
    assert all(name in out for name in fleet.hosts)
    assert "…" not in out


@pytest.mark.usefixtures("fleet")
def test_two_hosts_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capsys, "host", "compare", "host1", "host4")
    assert status == 0
    assert "moves from host1 to host4:\n" in out
    assert "QEMU: nothing runs guests on host4 (qemu-missing)" in out
    assert "host1 and host4 are alike in architecture, CPU vendor" in out
    status, out, _ = said(capsys, "host", "compare", "host1", "host2")
    assert out.startswith("host1 and host2 do not differ. Compared: ")
    document = json.loads(said(capsys, "host", "compare", "host1", "host3", "--json")[1])
    assert document["hosts"] == ["host1", "host3"]
    assert [one["subject"] for one in document["aspects"] if one["differs"]] == ["clock"]


@pytest.mark.usefixtures("fleet")
def test_a_cpu_for_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    async def cpu(self: FakeHost, _: str, __: str) -> CpuFacts:
        flags = frozenset({"nx", "lm", "avx"})
        has = flags if self.name == "host1" else flags - {"avx"}
        return CpuFacts((CpuDefinition("SandyBridge", "GenuineIntel", flags, flags - has),), has)

    monkeypatch.setattr("godwit.hosts.fake.FakeHost.cpu", cpu)
    status, out, _ = said(capsys, "cpu", "baseline", "host1", "host2")
    assert status == 0
    assert out.startswith("QEMU:     -cpu SandyBridge,-avx,enforce\n")
    assert "    <feature policy='disable' name='avx'/>\n" in out
    assert "avx: not on host2" in out
    document = json.loads(said(capsys, "cpu", "baseline", "host1", "host2", "--json")[1])
    assert document["argument"] == "SandyBridge,-avx,enforce"
    assert document["limits"] == [{"flag": "avx", "hosts": ["host2"]}]


def test_what_hosts_say_does_not_command_the_terminal(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = type(fleet.hosts["host1"]).facts

    async def facts(self: FakeHost, qemu: str | None = None) -> HostFacts:
        found = await real(self, qemu)
        return replace(found, kernel=HOSTILE if self.name == "host2" else found.kernel, cpu_model=HOSTILE + self.name)

    monkeypatch.setattr("godwit.hosts.fake.FakeHost.facts", facts)
    for words in (["host", "compare", "host1", "host2"], ["check", "--all"], ["cpu", "baseline", "host1", "host2"]):
        _, out, err = said(capsys, *words)
        assert "\x1b" not in out + err
        assert "\x07" not in out + err


def test_a_cell_says_the_first_reason() -> None:
    blocks = Finding("cpu-flags", Severity.BLOCK, "two", "lacks avx", "it would crash", "choose another")
    assert Cell("a", "b", Verdict.BLOCKED, (blocks,)).words == "blocked: cpu-flags"
