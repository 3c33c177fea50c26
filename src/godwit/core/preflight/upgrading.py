"""Checks of a guest whose QEMU is to be replaced on its own host, and how its memory will get across."""

from __future__ import annotations

from typing import TYPE_CHECKING

from godwit.core.preflight.hosts import memory_fits, name_is_free
from godwit.core.preflight.machine import dotted, machine_findings
from godwit.core.preflight.macvtaps import held_findings
from godwit.core.preflight.rows import found
from godwit.core.preflight.storage import images_are_found_again

if TYPE_CHECKING:
    from collections.abc import Iterator

    from godwit.core.preflight.evidence import Evidence
    from godwit.model import Finding


def upgrade_findings(e: Evidence) -> Iterator[Finding]:
    """Yield what is wrong with the new QEMU, or with taking the guest over into it; there is one host only."""
    yield from name_is_free(e)
    if e.target.qemu is None:
        program = e.guest.launch.argv[0]
        yield found(
            "qemu-missing",
            program,
            f"{e.target.name} cannot run {program}: {'; '.join(e.target.notes) or 'it is no QEMU'}",
            "name the new QEMU with --qemu PATH, an executable file on the guest's host",
        )
        return
    yield from machine_findings(e)
    yield from held_findings(e)
    yield from images_are_found_again(e)
    yield found(
        "upgrade",
        e.vm.name,
        f"QEMU {dotted(e.guest.qemu_version)} now, {dotted(e.target.qemu.version)} afterwards ({e.target.qemu.path})",
    )
    if not e.hindrances:
        yield found(
            "upgrade-in-place",
            e.vm.name,
            f"the new QEMU takes the memory of {e.vm.name} as it stands",
        )
        return
    yield from memory_fits(e)
    others = f" (and {len(e.hindrances) - 1} more reasons)" if len(e.hindrances) > 1 else ""
    yield found(
        "upgrade-by-copy",
        e.vm.name,
        f"the memory of {e.vm.name} is copied to the new QEMU: {e.hindrances[0]}{others}",
        "a guest that Godwit defines anew is started so that it need not be, where QEMU can do it",
    )
