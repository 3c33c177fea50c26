"""Checks of the way between the two hosts: that it is there, in both directions, and that what is large passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from godwit.core.preflight.rows import found
from godwit.model import MIGRATION_PORTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from godwit.core.preflight.evidence import Evidence
    from godwit.model import Finding, HostFacts


def link_findings(e: Evidence) -> Iterator[Finding]:
    """Yield what keeps a stream from getting from the source to the target, or the guest from coming back."""
    if not e.ports_left:
        first, last = MIGRATION_PORTS[0], MIGRATION_PORTS[-1]
        yield found(
            "ports-taken",
            e.target.name,
            f"all TCP ports from {first} to {last} are in use on {e.target.name}",
            f"ss -tanp 'sport >= {first} and sport <= {last}'  (on {e.target.name}) names who uses them: end that",
        )
    yield from _ways_there(e)
    yield from _packets(e)


def _ways_there(e: Evidence) -> Iterator[Finding]:
    mend = "or register another address: godwit host add --migration-address"
    if not e.reachable:
        yield found(
            "migration-path",
            e.target.name,
            f"{e.source.name} does not reach {e.target.migration_address}, the migration address of {e.target.name}",
            f"ip route get {e.target.migration_address}  (on {e.source.name}); {mend}",
        )
    elif not e.returns:
        yield found(
            "way-back",
            e.source.name,
            f"{e.target.name} does not reach {e.source.migration_address}, the migration address of {e.source.name}",
            f"ip route get {e.source.migration_address}  (on {e.target.name}); {mend}",
        )


def _packets(e: Evidence) -> Iterator[Finding]:
    """Yield that large packets vanish. TCP sends none that are larger than either end's interface takes."""
    there, back = e.packets
    limit = min(there.mtu, back.mtu)
    ways = ((there, e.source.name, e.target.name), (back, e.target.name, e.source.name))
    lost = [(seen, here, far) for seen, here, far in ways if 0 < seen.largest < limit and not seen.told]
    if lost:
        largest = min(seen.largest for seen, _, _ in lost)
        directions = " and ".join(f"from {here} to {far}" for _, here, far in lost)
        yield found(
            "path-mtu",
            e.target.migration_address,
            f"pings of {limit} bytes vanish without a word {directions}; those of {largest} bytes arrive",
            _smaller(e.source, e.target, largest),
        )


def _smaller(here: HostFacts, far: HostFacts, size: int) -> str:
    """Return what lets one host send another smaller packets, and be sent smaller ones."""
    prefix = 128 if ":" in far.migration_address else 32
    address = far.migration_address
    return (
        f"ip route replace {address}/{prefix} "
        f"$(ip -o route get {address} | grep -oE '(via|dev) [^ ]+' | tr '\\n' ' ')mtu {size}  (on {here.name}); "
        "or set one MTU on all interfaces and switches in between, or let ICMP pass"
    )
