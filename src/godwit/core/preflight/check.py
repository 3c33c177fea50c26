"""Run every row of every subject over the evidence."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final

from godwit.core.preflight.bridges import bridge_findings
from godwit.core.preflight.caches import cache_findings
from godwit.core.preflight.devices import device_findings
from godwit.core.preflight.direct import direct_findings
from godwit.core.preflight.encryption import encryption_findings
from godwit.core.preflight.evidence import Evidence
from godwit.core.preflight.hosts import host_findings
from godwit.core.preflight.limits import limit_findings
from godwit.core.preflight.links import link_findings
from godwit.core.preflight.machine import machine_findings, software_findings
from godwit.core.preflight.macvtaps import macvtap_findings
from godwit.core.preflight.storage import storage_findings
from godwit.core.preflight.upgrading import upgrade_findings
from godwit.core.preflight.ways import way_findings
from godwit.model import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Evidence", "blocking", "check", "check_upgrade"]


_SUBJECTS: Final = (
    host_findings,
    link_findings,
    limit_findings,
    bridge_findings,
    macvtap_findings,
    machine_findings,
    software_findings,
    device_findings,
    direct_findings,
    storage_findings,
    cache_findings,
    encryption_findings,
)


def check(evidence: Evidence) -> tuple[Finding, ...]:
    """Return all findings, those that block first."""
    order = list(Severity)
    found = chain.from_iterable(findings(evidence) for findings in _SUBJECTS)
    return tuple(sorted(way_findings(evidence, found), key=lambda finding: order.index(finding.severity)))


def check_upgrade(evidence: Evidence) -> tuple[Finding, ...]:
    """Return all findings about a guest whose QEMU is to be replaced on its host, those that block first."""
    order = list(Severity)
    return tuple(sorted(upgrade_findings(evidence), key=lambda finding: order.index(finding.severity)))


def blocking(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return those that forbid the migration."""
    return tuple(finding for finding in findings if finding.severity is Severity.BLOCK)
