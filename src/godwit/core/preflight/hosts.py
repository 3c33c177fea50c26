"""Checks of the two hosts and the way between them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from godwit.core.preflight.limits import huge_memory
from godwit.core.preflight.rows import found
from godwit.model import Finding, RunState
from godwit.plaintext import shortened
from godwit.units import MIB, format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from godwit.core.preflight.evidence import Evidence

_VALID_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")
_SHOWN: Final = 80

MEMORY_OVERHEAD: Final = 64 * MIB
"""What a QEMU process needs beside the guest's memory, at least."""

CLOCK_TOLERANCE: Final = 1.0
"""Seconds by which two hosts' clocks may differ before users notice."""


def host_findings(e: Evidence) -> Iterator[Finding]:
    """Yield what is wrong with the hosts."""
    yield from _target_is_another(e)
    yield from name_is_free(e)
    yield from _name_is_valid(e)
    yield from memory_fits(e)
    yield from _clocks_agree(e)
    yield from _send_queue(e)
    yield from _monitor_is_private(e)


def _target_is_another(e: Evidence) -> Iterator[Finding]:
    if e.source.machine_id == e.target.machine_id and e.source.hostname == e.target.hostname:
        yield found(
            "same-machine",
            e.target.name,
            f"{e.source.name} and {e.target.name} are the same machine ({e.source.hostname})",
            "name another target",
        )


def name_is_free(e: Evidence) -> Iterator[Finding]:
    """Yield that the target has a guest of that name, or that nobody can say."""
    if e.on_target.state is RunState.UNREACHABLE:
        yield found(
            "name-unknown",
            e.vm.name,
            f"whether {e.target.name} has a guest {e.vm.name} cannot be seen: {e.on_target.detail}",
            f"look at process {e.on_target.pid} on {e.target.name}"
            if e.on_target.pid
            else f"godwit host check {e.target.name}",
        )
    elif e.on_target.state is not RunState.ABSENT:
        yield found(
            "name-taken",
            e.vm.name,
            f"{e.target.name} already has a guest {e.vm.name} ({e.on_target.state}, process {e.on_target.pid})",
            f"end or rename the guest on {e.target.name}",
        )


def _name_is_valid(e: Evidence) -> Iterator[Finding]:
    name = e.guest.needs.name
    if name is not None and not _VALID_NAME.fullmatch(name):
        yield found(
            "name-invalid",
            e.vm.name,
            f"QEMU calls {e.vm.name} {shortened(name, _SHOWN)!r}",
            f"start the guest anew with -name {e.vm.name}",
        )


def memory_fits(e: Evidence) -> Iterator[Finding]:
    """Yield that the target has no room for the guest's memory."""
    huge = sum(one.size for one in huge_memory(e))  # it comes out of a pool of its own
    needed = max(0, e.guest.memory - huge) + MEMORY_OVERHEAD
    if e.target.memory_available < needed:
        yield found(
            "memory-short",
            e.target.name,
            f"{e.target.name} has {format_size(e.target.memory_available)} available, "
            f"{e.vm.name} needs {format_size(needed)}",
            f"free memory on {e.target.name}, or choose another host",
        )


def _clocks_agree(e: Evidence) -> Iterator[Finding]:
    difference = e.target.clock_offset - e.source.clock_offset
    if abs(difference) > CLOCK_TOLERANCE + e.source.clock_uncertainty + e.target.clock_uncertainty:
        yield found(
            "clocks-differ",
            e.target.name,
            f"the clock of {e.target.name} is {format_duration(abs(difference))} "
            f"{'ahead of' if difference > 0 else 'behind'} that of {e.source.name}",
            "chronyc makestep, or systemctl restart systemd-timesyncd",
        )


def _monitor_is_private(e: Evidence) -> Iterator[Finding]:
    if e.monitor_shared:
        yield found(
            "monitor-shared",
            e.vm.control,
            f"{e.vm.control} lies on storage that {e.target.name} shares",
            "start the guest with its -qmp socket on its host alone, for example below /run, and adopt it again",
        )


def _send_queue(e: Evidence) -> Iterator[Finding]:
    if not e.source.can_shorten_send_queue:
        yield found(
            "send-queue",
            e.source.name,
            f"net.ipv4.tcp_notsent_lowat may not be set on {e.source.name}",
            f"allow it, or set it once: sysctl -w net.ipv4.tcp_notsent_lowat=65536  (on {e.source.name})",
        )
