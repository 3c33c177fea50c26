"""Checks of the way between the two hosts: that it is there, in both directions, and that what is large passes."""

from __future__ import annotations

from ipaddress import ip_address
from shlex import quote
from typing import TYPE_CHECKING

from godwit.core.preflight.rows import found
from godwit.model import MIGRATION_PORTS, Command, TrialEnd
from godwit.units import format_bandwidth, format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from godwit.core.preflight.evidence import Evidence
    from godwit.model import Finding, Packets


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
    yield from _trial(e)
    yield from _burst(e)


def _ways_there(e: Evidence) -> Iterator[Finding]:
    mend = "or register another address: godwit host add --migration-address"
    if not e.reachable:
        yield found(
            "migration-path",
            e.target.name,
            f"{e.source.name} does not reach {e.target.migration_address}, the migration address of {e.target.name}",
            f"ip route get {quote(e.target.migration_address)}  (on {e.source.name}); {mend}",
        )
    elif not e.returns:
        yield found(
            "way-back",
            e.source.name,
            f"{e.target.name} does not reach {e.source.migration_address}, the migration address of {e.source.name}",
            f"ip route get {quote(e.source.migration_address)}  (on {e.target.name}); {mend}",
        )


def vanishing(there: Packets, back: Packets) -> int:
    """Return the size of packets that vanish in either direction, 0 where none do.

    TCP sends none that are larger than either end's interface takes, or than it was told that pass.
    """
    limit = min(there.mtu, back.mtu)
    return limit if any(0 < seen.largest < limit and not seen.told for seen in (there, back)) else 0


def _packets(e: Evidence) -> Iterator[Finding]:
    limit = vanishing(*e.packets)
    if not limit or (e.trial is not None and e.trial.end in {TrialEnd.WORKS, TrialEnd.STALLED}):
        return  # a connection says more than pings, which may be dropped where streams are not
    there, back = e.packets
    ways = ((there, e.source.name, e.target.name), (back, e.target.name, e.source.name))
    directions = " and ".join(f"from {here} to {far}" for seen, here, far in ways if 0 < seen.largest < limit)
    yield found(
        "path-mtu",
        e.target.migration_address,
        f"pings of {limit} bytes vanish without a word {directions}; those of {_largest(e)} bytes arrive",
        *_smaller(e),
    )


def _largest(e: Evidence) -> int:
    return min((seen.largest for seen in e.packets if seen.largest), default=0)


def _trial(e: Evidence) -> Iterator[Finding]:
    """Yield what became of a connection that was tried."""
    if e.trial is None or e.trial.end is TrialEnd.WORKS:
        return
    trial, here, far = e.trial, e.source.name, e.target.name
    place = f"port {trial.port} of {e.target.migration_address}"
    if trial.end is TrialEnd.STALLED:
        limit = vanishing(*e.packets)
        pings = f"; pings of {_largest(e)} bytes arrive, and those of {limit} do not" if limit else ""
        what = f"{here} connects to {place} ({far}), and what it sends then does not arrive{pings}"
        yield found("path-stalls", e.target.migration_address, what, *_smaller(e))
    elif trial.end is TrialEnd.UNTRIED:
        lacks = "no qemu-" in trial.words
        mend = "install qemu-utils, or what has qemu-nbd and qemu-io, on both" if lacks else "check again"
        mend = f"{mend}; a move finds it out, too, and goes back"
        yield found("link-untried", far, f"no connection from {here} to {far} could be tried: {trial.words}", mend)
    elif trial.end is TrialEnd.REFUSED and e.encrypted:
        what = f"no encrypted connection from {here} to {place} ({far}) comes about: {trial.words}"
        yield found("handshake-fails", far, what, f"godwit tls check {here} {far}; or --plaintext")
    else:
        first, last = MIGRATION_PORTS[0], MIGRATION_PORTS[-1]
        what = f"{here} reaches {far}, and gets no connection to {place}: {trial.words}"
        mend = f"let TCP to the ports {first} to {last} through, in the firewall of {far} and on the way"
        yield found("port-closed", far, what, mend)


def _burst(e: Evidence) -> Iterator[Finding]:
    if e.trial is not None and e.trial.bandwidth:
        seconds = e.guest.memory / e.trial.bandwidth
        yield found(
            "link-measured",
            e.target.name,
            f"{e.source.name} sent {format_size(e.trial.sent)} to {e.target.name} in "
            f"{format_duration(e.trial.seconds)}{', encrypted' if e.encrypted else ''}: "
            f"{format_bandwidth(round(e.trial.bandwidth))}; the {format_size(e.guest.memory)} of {e.vm.name} would "
            f"take {format_duration(seconds)}",
            f"godwit forecast {e.vm.name} {e.target.name}  goes by it, until a move shows more",
        )


def _smaller(e: Evidence) -> tuple[str, Command | None]:
    """Return what lets the source send the target smaller packets, and be sent smaller ones, as `found` takes it."""
    others = "set one MTU on all interfaces and switches in between, or let ICMP pass"
    address, size = e.target.migration_address, _largest(e)
    if not size or not vanishing(*e.packets) or not _is_numeric(address):
        return others, None
    route = quote(f"{address}/{128 if ':' in address else 32}")
    way = f"$(ip -o route get {quote(address)} | grep -oE '(via|dev) [^ ]+' | tr '\\n' ' ')"
    add = f"ip route add {route} {way}mtu {size}"
    return f"; or {others}", Command(e.source.name, add, f"ip route del {route}", safe=True)


def _is_numeric(address: str) -> bool:
    """Say whether a route can lead to an address: not to a name, nor to one that means something on one link alone."""
    try:
        return "%" not in str(ip_address(address))  # behind it may stand anything
    except ValueError:
        return False
