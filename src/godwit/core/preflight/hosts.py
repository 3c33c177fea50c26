"""Checks of the two hosts and the way between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.model import Finding, RunState, Severity
from godwit.units import MIB, format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from godwit.core.preflight.evidence import Evidence

MEMORY_OVERHEAD: Final = 64 * MIB
"""What a QEMU process needs beside the guest's memory, at least."""

CLOCK_TOLERANCE: Final = 1.0
"""Seconds by which two hosts' clocks may differ before users notice."""


def host_findings(e: Evidence) -> Iterator[Finding]:
    """Yield what is wrong with the hosts."""
    yield from _target_is_another(e)
    yield from name_is_free(e)
    yield from memory_fits(e)
    yield from _bridges_exist(e)
    yield from _path_works(e)
    yield from _clocks_agree(e)
    yield from _send_queue(e)
    yield from _monitor_is_private(e)


def _target_is_another(e: Evidence) -> Iterator[Finding]:
    if e.source.machine_id == e.target.machine_id and e.source.hostname == e.target.hostname:
        yield Finding(
            "same-machine",
            Severity.BLOCK,
            e.target.name,
            f"{e.source.name} and {e.target.name} are the same machine ({e.source.hostname})",
            "the guest would move onto the host that it is on",
            "name another target",
        )


def name_is_free(e: Evidence) -> Iterator[Finding]:
    """Yield that the target has a guest of that name, or that nobody can say."""
    if e.on_target.state is RunState.UNREACHABLE:
        yield Finding(
            "name-unknown",
            Severity.BLOCK,
            e.vm.name,
            f"whether {e.target.name} has a guest {e.vm.name} cannot be seen: {e.on_target.detail}",
            "two guests of one name would share monitor, taps and disks",
            f"look at process {e.on_target.pid} on {e.target.name}"
            if e.on_target.pid
            else f"godwit host check {e.target.name}",
        )
    elif e.on_target.state is not RunState.ABSENT:
        yield Finding(
            "name-taken",
            Severity.BLOCK,
            e.vm.name,
            f"{e.target.name} already has a guest {e.vm.name} ({e.on_target.state}, process {e.on_target.pid})",
            "two guests of one name would share monitor, taps and disks",
            f"end or rename the guest on {e.target.name}",
        )


def memory_fits(e: Evidence) -> Iterator[Finding]:
    """Yield that the target has no room for the guest's memory."""
    needed = e.guest.memory + MEMORY_OVERHEAD
    if e.target.memory_available < needed:
        yield Finding(
            "memory-short",
            Severity.BLOCK,
            e.target.name,
            f"{e.target.name} has {format_size(e.target.memory_available)} available, "
            f"{e.vm.name} needs {format_size(needed)}",
            "the target would swap or end processes",
            f"free memory on {e.target.name}, or choose another host",
        )


def _bridges_exist(e: Evidence) -> Iterator[Finding]:
    there = {bridge.name: bridge for bridge in e.target.bridges}
    here = {bridge.name: bridge for bridge in e.source.bridges}
    for name in sorted({nic.tap.bridge for nic in e.guest.nics if nic.tap and nic.tap.bridge}):
        if name not in there:
            yield Finding(
                "bridge-missing",
                Severity.BLOCK,
                name,
                f"{e.target.name} has no bridge {name}",
                "the guest would arrive without its network",
                f"ip link add {name} type bridge; ip link set {name} up  (on {e.target.name})",
            )
        elif name in here and here[name].mtu != there[name].mtu:
            yield Finding(
                "bridge-mtu",
                Severity.WARN,
                name,
                f"MTU {here[name].mtu} on {e.source.name}, {there[name].mtu} on {e.target.name}",
                "large packets of the guest could be lost after the move",
                f"ip link set {name} mtu {here[name].mtu}  (on {e.target.name})",
            )


def _path_works(e: Evidence) -> Iterator[Finding]:
    if not e.reachable:
        yield Finding(
            "migration-path",
            Severity.BLOCK,
            e.target.name,
            f"{e.source.name} does not reach {e.target.migration_address}, the migration address of {e.target.name}",
            "the stream would have no way",
            f"ip route get {e.target.migration_address}  (on {e.source.name}); "
            "or register another address: godwit host add --migration-address",
        )


def _clocks_agree(e: Evidence) -> Iterator[Finding]:
    difference = e.target.clock_offset - e.source.clock_offset
    if abs(difference) > CLOCK_TOLERANCE + e.source.clock_uncertainty + e.target.clock_uncertainty:
        yield Finding(
            "clocks-differ",
            Severity.WARN,
            e.target.name,
            f"the clock of {e.target.name} is {format_duration(abs(difference))} "
            f"{'ahead of' if difference > 0 else 'behind'} that of {e.source.name}",
            "the guest's time could jump",
            "chronyc makestep, or systemctl restart systemd-timesyncd",
        )


def _monitor_is_private(e: Evidence) -> Iterator[Finding]:
    if e.monitor_shared:
        yield Finding(
            "monitor-shared",
            Severity.BLOCK,
            e.vm.control,
            f"{e.vm.control} lies on storage that {e.target.name} shares",
            "the target's QEMU would take the socket from the source's, and nobody could speak to the source any more",
            "start the guest with its -qmp socket on its host alone, for example below /run, and adopt it again",
        )


def _send_queue(e: Evidence) -> Iterator[Finding]:
    if not e.source.can_shorten_send_queue:
        yield Finding(
            "send-queue",
            Severity.WARN,
            e.source.name,
            f"net.ipv4.tcp_notsent_lowat may not be set on {e.source.name}",
            "what waits unsent in the kernel lengthens the blackout by up to some 100 ms",
            f"allow it, or set it once: sysctl -w net.ipv4.tcp_notsent_lowat=65536  (on {e.source.name})",
        )
