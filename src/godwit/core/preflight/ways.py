"""What depends on the way a guest travels: a guest that is off has no stream, and one that stands still writes nothing.

The checks of the other subjects are those of a live move. Here those that mean nothing on another way are left out, and
where another way would help, the mend says so.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from godwit.core.disks import is_copied
from godwit.core.preflight.rows import found
from godwit.model import Finding, Way
from godwit.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from godwit.core.preflight.evidence import Evidence

_MEANINGLESS: Final = {
    Way.LIVE: frozenset[str](),
    Way.STATIC: frozenset({"send-queue", "tcg-corrupts"}),
    Way.OFF: frozenset(
        {"send-queue", "tcg-corrupts", "blocked-by-qemu", "qemu-older", "qemu-differs", "clocks-differ"}
        | {"cpu-flags", "cpu-vendor", "cpu-model", "cpu-max-differs", "nx-differs", "nx-gained"}
        | {"user-network", "conntrack", "disk-cache", "disk-cached"}
    ),
}
"""Findings that say nothing of a guest on that way: they concern its memory, its devices' state or its clock."""

_SWITCHED_OFF_HELPS: Final = frozenset({"blocked-by-qemu", "cpu-flags", "cpu-model", "nx-differs"})
_OF_STREAMS: Final = frozenset(
    {"migration-path", "way-back", "ports-taken", "port-closed", "handshake-fails", "path-stalls", "path-mtu"}
    | {"link-untried", "link-measured"}
)
"""What concerns the way between the hosts: nothing where neither memory nor disks are sent."""

_FIRST_SET_ACTION: Final = (6, 0, 0)


def way_findings(e: Evidence, findings: Iterable[Finding]) -> Iterator[Finding]:
    """Yield the findings that count on the way that the guest is to travel, and those that belong to that way alone."""
    way = e.policy.way
    sends = way is not Way.OFF or any(is_copied(e.policy, disk) for disk in e.disks)
    for finding in findings:
        if finding.code in _MEANINGLESS[way] or (finding.code in _OF_STREAMS and not sends):
            continue
        if finding.code in _SWITCHED_OFF_HELPS:
            off = f"or move it switched off: godwit migrate {e.vm.name} {e.target.name} --static --off"
            yield replace(finding, mend=f"{finding.mend}; {off}")
        else:
            yield finding
    yield from _price(e)
    if way is Way.OFF and e.guest.qemu_version < _FIRST_SET_ACTION:
        yield found(
            "qemu-ends-with-guest",
            e.vm.name,
            f"QEMU {'.'.join(map(str, e.guest.qemu_version))} on {e.source.name} cannot outlive its guest",
            f"godwit vm stop {e.vm.name}, copy its disks, and start it there",
        )


def _price(e: Evidence) -> Iterator[Finding]:
    """Say beforehand what the guest's users will feel."""
    disks = sum(disk.image.allocated for disk in e.disks if disk.image is not None and is_copied(e.policy, disk))
    if e.policy.way is Way.STATIC:
        yield found(
            "stands-still",
            e.vm.name,
            f"{e.vm.name} stands still while up to {format_size(e.guest.memory + disks)} travel",
            "without --static it runs meanwhile",
        )
    if e.policy.way is Way.OFF:
        yield found(
            "switched-off",
            e.vm.name,
            f"{e.vm.name} is switched off by its power button, and started anew on {e.target.name}",
            "without --off its work goes on where it was",
        )
