"""Checks of what an encrypted move rests on: QEMUs that can, an authority that holds, clocks that agree with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from godwit.core.preflight.rows import found
from godwit.core.trust import BACKDATED, MOVE_LIFE, Standing, standing
from godwit.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from godwit.core.preflight.evidence import Evidence
    from godwit.model import Finding

PLAINLY = "or let it travel in the clear: --plaintext"


def encryption_findings(e: Evidence) -> Iterator[Finding]:
    """Yield what keeps a move from being encrypted, or that it is not to be."""
    if not e.encrypted:
        if e.policy.plaintext:
            yield _in_the_clear(e)
        return
    yield from _qemus_can(e)
    yield from _authority_holds(e)
    yield from _clocks_allow(e)


def _in_the_clear(e: Evidence) -> Finding:
    return found(
        "unencrypted",
        e.vm.name,
        f"nothing of this move is encrypted between {e.source.name} and {e.target.name}",
        "move it without --plaintext; godwit tls on, where encryption is switched off",
    )


def _qemus_can(e: Evidence) -> Iterator[Finding]:
    for host in (e.source, e.target):
        if host.qemu is not None and not host.qemu.encrypts:
            yield found(
                "cannot-encrypt",
                host.name,
                f"{host.qemu.path} on {host.name} is built without GnuTLS (no object tls-creds-x509)",
                f"install a QEMU that can on {host.name}, {PLAINLY}",
            )


def _authority_holds(e: Evidence) -> Iterator[Finding]:
    if e.authority is None:  # it is made when it is needed
        return
    state = standing(e.authority.valid_from, e.authority.valid_until, e.now)
    if state in {Standing.EXPIRED, Standing.EARLY}:
        yield found(
            "authority-expired",
            e.authority.subject,
            f"the certificate authority of this Godwit is {state}"
            if state is Standing.EXPIRED
            else "the certificate authority of this Godwit does not hold yet: this machine's clock is behind",
            f"godwit tls rotate; {PLAINLY}",
        )
    elif state is Standing.SOON:
        yield found(
            "authority-ends",
            e.authority.subject,
            f"the certificate authority of this Godwit ends in {format_duration(e.authority.valid_until - e.now)}",
            "godwit tls rotate",
        )


def _clocks_allow(e: Evidence) -> Iterator[Finding]:
    """Yield hosts by whose clocks, by which they judge, what they are shown does not hold yet, or not any more."""
    for host in (e.source, e.target):
        if not -BACKDATED < host.clock_offset < MOVE_LIFE:
            yield found(
                "clock-forbids",
                host.name,
                f"the clock of {host.name} is {format_duration(abs(host.clock_offset))} "
                f"{'ahead of' if host.clock_offset > 0 else 'behind'} this machine's",
                f"set it (chronyc makestep, or systemctl restart systemd-timesyncd), {PLAINLY}",
            )
