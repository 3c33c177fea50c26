"""Checks of the virtual machine: machine type, accelerator, QEMU versions, what keeps it from being repeated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.core.preflight.cpu import cpu_findings
from godwit.core.preflight.direct import covered
from godwit.core.preflight.rows import found
from godwit.model import Finding, RunState

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
    yield from _device_models(e)
    yield from _accelerator(e)
    yield from cpu_findings(e)


def _guest_is_running(e: Evidence) -> Iterator[Finding]:
    if e.guest.run_state is not RunState.RUNNING:
        yield found(
            "not-running",
            e.vm.name,
            f"{e.vm.name} is {e.guest.run_state} on {e.source.name}",
            f"godwit vm start {e.vm.name}, or continue it",
        )


def _may_be_moved(e: Evidence) -> Iterator[Finding]:
    if e.guest.libvirt:
        yield found(
            "libvirt-owned",
            e.vm.name,
            "libvirt owns this QEMU",
            "move it with libvirt's own tools",
        )
    for descriptor in e.guest.inherited_descriptors:
        yield found(
            "inherited-descriptor",
            e.vm.name,
            f"its command line takes an open file from whoever started it: {descriptor}",
            "start the guest with paths or interface names instead; for a macvtap, define it: "
            "godwit vm define opens what [[nics]] macvtap names",
        )
    for refusal in e.guest.refusals:
        yield found(
            "cannot-be-repeated",
            e.vm.name,
            refusal,
            "unplug what it names, or restart the guest with it on its command line",
        )
    for blocker in e.guest.blockers:
        if covered(e, blocker):
            continue
        yield found(
            "blocked-by-qemu",
            e.vm.name,
            blocker,
            "unplug the device named, or end what it names",
        )


def _qemu_is_there(e: Evidence) -> Iterator[Finding]:
    qemu = e.target.qemu
    if qemu is None:
        yield found(
            "qemu-missing",
            e.target.name,
            f"{e.target.name} has no {e.guest.launch.argv[0]}",
            f"install QEMU on {e.target.name}",
        )
        return
    if qemu.version < e.guest.qemu_version:
        yield found(
            "qemu-older",
            e.target.name,
            f"QEMU {dotted(e.guest.qemu_version)} on {e.source.name}, {dotted(qemu.version)} on {e.target.name}",
            f"upgrade QEMU on {e.target.name}",
        )
    versions = min(qemu.version, e.guest.qemu_version)
    if e.guest.accelerator == "tcg" and versions < _UNSAFE_TCG_BEFORE:
        yield found(
            "tcg-corrupts",
            e.vm.name,
            f"TCG on QEMU {dotted(versions)}",
            "use QEMU 8.2 or newer, or KVM",
        )


def _machine_type(e: Evidence) -> Iterator[Finding]:
    qemu = e.target.qemu
    if qemu is not None and qemu.machine_types and e.guest.machine not in qemu.machine_types:
        yield found(
            "machine-type",
            e.guest.machine,
            f"QEMU {dotted(qemu.version)} on {e.target.name} has no machine type {e.guest.machine}",
            f"install a QEMU on {e.target.name} that has it",
        )


def _device_models(e: Evidence) -> Iterator[Finding]:
    qemu = e.target.qemu
    missing = sorted(e.guest.needs.devices - qemu.devices) if qemu is not None and qemu.devices else []
    if qemu is not None and missing:
        yield found(
            "device-model",
            ", ".join(missing),
            f"{qemu.path} on {e.target.name} has no device {', '.join(missing)}, which {e.vm.name} has",
            f"install what belongs to QEMU on {e.target.name} as on {e.source.name}: distributions have packages of "
            "their own for displays, USB and storage",
        )


def _accelerator(e: Evidence) -> Iterator[Finding]:
    if e.guest.accelerator not in e.target.accelerators:
        usable = ", ".join(e.target.accelerators) or "none"
        yield found(
            "accelerator",
            e.target.name,
            f"{e.vm.name} runs under {e.guest.accelerator}; usable on {e.target.name}: {usable}",
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
