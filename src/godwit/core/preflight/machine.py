"""Checks of the virtual machine: machine type, accelerator, QEMU versions, what keeps it from being repeated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.core.preflight.cpu import cpu_findings
from godwit.core.preflight.rows import found
from godwit.model import Finding, RunState, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from godwit.core.preflight.evidence import Evidence

_UNSAFE_TCG_BEFORE: Final = (8, 2, 0)


def machine_findings(e: Evidence) -> Iterator[Finding]:
    """Yield what is wrong with moving this machine there."""
    yield from _guest_is_running(e)
    yield from _may_be_moved(e)
    yield from _qemu_is_there(e)
    yield from _machine_type(e)
    yield from _accelerator(e)
    yield from cpu_findings(e)


def _guest_is_running(e: Evidence) -> Iterator[Finding]:
    if e.guest.run_state is not RunState.RUNNING:
        yield Finding(
            "not-running",
            Severity.BLOCK,
            e.vm.name,
            f"{e.vm.name} is {e.guest.run_state} on {e.source.name}",
            "only a running guest can be moved",
            f"godwit vm start {e.vm.name}, or continue it",
        )


def _may_be_moved(e: Evidence) -> Iterator[Finding]:
    if e.guest.libvirt:
        yield Finding(
            "libvirt-owned",
            Severity.BLOCK,
            e.vm.name,
            "libvirt owns this QEMU",
            "two managers of one process undo each other's work",
            "move it with libvirt's own tools",
        )
    for descriptor in e.guest.inherited_descriptors:
        yield Finding(
            "inherited-descriptor",
            Severity.BLOCK,
            e.vm.name,
            f"its command line takes an open file from whoever started it: {descriptor}",
            "the same command line cannot be started on another host",
            "start the guest with paths or interface names instead",
        )
    for refusal in e.guest.refusals:
        yield Finding(
            "cannot-be-repeated",
            Severity.BLOCK,
            e.vm.name,
            refusal,
            "the target must be started with exactly the same devices",
            "unplug what it names, or restart the guest with it on its command line",
        )
    for blocker in e.guest.blockers:
        yield Finding(
            "blocked-by-qemu",
            Severity.BLOCK,
            e.vm.name,
            blocker,
            "QEMU refuses to migrate this guest",
            "unplug the device named, or end what it names",
        )


def _qemu_is_there(e: Evidence) -> Iterator[Finding]:
    qemu = e.target.qemu
    if qemu is None:
        yield Finding(
            "qemu-missing",
            Severity.BLOCK,
            e.target.name,
            f"{e.target.name} has no {e.guest.launch.argv[0]}",
            "nothing could run the guest there",
            f"install QEMU on {e.target.name}",
        )
        return
    if qemu.version < e.guest.qemu_version:
        yield Finding(
            "qemu-older",
            Severity.WARN,
            e.target.name,
            f"QEMU {dotted(e.guest.qemu_version)} on {e.source.name}, {dotted(qemu.version)} on {e.target.name}",
            "a move to an older QEMU can fail late, when device state of the newer one arrives",
            f"upgrade QEMU on {e.target.name}",
        )
    versions = min(qemu.version, e.guest.qemu_version)
    if e.guest.accelerator == "tcg" and versions < _UNSAFE_TCG_BEFORE:
        yield Finding(
            "tcg-corrupts",
            Severity.WARN,
            e.vm.name,
            f"TCG on QEMU {dotted(versions)}",
            "before 8.2 its dirty tracking has a race: a guest that writes can arrive corrupted",
            "use QEMU 8.2 or newer, or KVM",
        )


def _machine_type(e: Evidence) -> Iterator[Finding]:
    qemu = e.target.qemu
    if qemu is not None and qemu.machine_types and e.guest.machine not in qemu.machine_types:
        yield Finding(
            "machine-type",
            Severity.BLOCK,
            e.guest.machine,
            f"QEMU {dotted(qemu.version)} on {e.target.name} has no machine type {e.guest.machine}",
            "the guest must find the same board on the other side",
            f"install a QEMU on {e.target.name} that has it",
        )


def _accelerator(e: Evidence) -> Iterator[Finding]:
    if e.guest.accelerator not in e.target.accelerators:
        usable = ", ".join(e.target.accelerators) or "none"
        yield Finding(
            "accelerator",
            Severity.BLOCK,
            e.target.name,
            f"{e.vm.name} runs under {e.guest.accelerator}; usable on {e.target.name}: {usable}",
            "a running guest cannot change its accelerator",
            "; ".join(e.target.notes) or f"make {e.guest.accelerator} usable on {e.target.name}",
        )


def software_findings(e: Evidence) -> Iterator[Finding]:
    """Yield that the hosts' software is not alike, where that is good to know and nothing worse."""
    qemu = e.target.qemu
    if qemu is not None and qemu.version > e.guest.qemu_version:
        yield found(
            "qemu-differs",
            e.target.name,
            f"QEMU {dotted(e.guest.qemu_version)} on {e.source.name}, {dotted(qemu.version)} on {e.target.name}",
            "godwit upgrade, when all hosts have the newer one; until then the way back is from newer to older",
        )
    here, there = (host.kernel.partition(".")[0] for host in (e.source, e.target))
    if here != there:
        yield found(
            "kernel-differs",
            e.target.name,
            f"kernel {e.source.kernel} on {e.source.name}, {e.target.kernel} on {e.target.name}",
            "run the same release of the same distribution on both",
        )


def dotted(version: tuple[int, int, int]) -> str:
    """Print a version."""
    return ".".join(map(str, version))
