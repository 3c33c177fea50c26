"""Many guests against many hosts: what preflight finds for each pair, and where nothing could be looked at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from godwit.model import Severity

if TYPE_CHECKING:
    from godwit.model import Finding


class Verdict(StrEnum):
    """What a guest can do on a host."""

    HOME = "home"
    """It is there already."""
    OK = "ok"
    WARN = "warn"
    BLOCKED = "blocked"
    UNKNOWN = "unknown"
    """The host, or the guest, could not be looked at: nothing is known, and nothing is promised."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A guest against a host. `trouble` says why nothing is known of it, `verdict` what comes out."""

    vm: str
    host: str
    verdict: Verdict
    findings: tuple[Finding, ...] = ()
    trouble: str = ""

    @property
    def words(self) -> str:
        """What stands in the table: the first reason's code where it is blocked, else how many warnings there are."""
        if self.verdict is Verdict.BLOCKED:
            return f"blocked: {self.findings[0].code}"
        if self.verdict is Verdict.WARN:
            return f"warn {sum(finding.severity is Severity.WARN for finding in self.findings)}"
        return "-" if self.verdict is Verdict.HOME else "?" if self.verdict is Verdict.UNKNOWN else "ok"


@dataclass(frozen=True, slots=True)
class Row:
    """A guest and the host that it is on."""

    vm: str
    home: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """All cells, row by row; `silent` are the hosts that do not answer, with what was said of that."""

    rows: tuple[Row, ...]
    hosts: tuple[str, ...]
    cells: tuple[Cell, ...]
    silent: tuple[tuple[str, str], ...] = ()

    def cell(self, vm: str, host: str) -> Cell:
        """Return one cell."""
        return self.cells[[row.vm for row in self.rows].index(vm) * len(self.hosts) + self.hosts.index(host)]

    def of(self, verdict: Verdict) -> tuple[Cell, ...]:
        """Return the cells in which that came out."""
        return tuple(cell for cell in self.cells if cell.verdict is verdict)


def judged(vm: str, host: str, findings: tuple[Finding, ...]) -> Cell:
    """Return the cell of a pair that was looked at; findings that block come first."""
    severities = {finding.severity for finding in findings}
    worst = Verdict.BLOCKED if Severity.BLOCK in severities else Verdict.OK
    if worst is Verdict.OK and Severity.WARN in severities:
        worst = Verdict.WARN
    return Cell(vm, host, worst, findings)
