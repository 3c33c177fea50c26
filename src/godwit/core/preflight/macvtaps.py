"""Checks of a guest's macvtaps: the interfaces under them must be there on the target, alike and free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.core.preflight.rows import found
from godwit.model import Command, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from godwit.core.preflight.evidence import Evidence
    from godwit.model import InterfaceFacts, Macvtap

_ALONE: Final = "passthru"


def macvtap_findings(e: Evidence) -> Iterator[Finding]:
    """Yield why the guest's macvtaps could not lie on the target's interfaces, or not as they do here."""
    there = {interface.name: interface for interface in e.target.interfaces}
    here = {interface.name: interface for interface in e.source.interfaces}
    own = {nic.tap.interface for nic in e.guest.nics if nic.tap}
    wanted = {nic.tap.macvtap.parent: nic.tap.macvtap for nic in e.guest.nics if nic.tap and nic.tap.macvtap}
    for name, macvtap in sorted(wanted.items()):
        parent = there.get(name)
        if parent is None:
            yield found(
                "parent-missing",
                name,
                f"{e.target.name} has no interface {name}, on which a macvtap of {e.vm.name} lies",
                f"give the interface of {e.target.name} that is in the same network this name: ip link set OTHER name "
                f"{name}",
            )
            continue
        if not parent.up:
            yield found(
                "parent-down",
                name,
                f"{name} is down on {e.target.name}",
                command=Command(e.target.name, f"ip link set {name} up"),
            )
        if taken := _taken(e, parent, macvtap, own):
            yield found("parent-taken", name, *taken)
        if name in here and here[name].mtu != parent.mtu:
            yield found(
                "parent-mtu",
                name,
                f"MTU {here[name].mtu} on {e.source.name}, {parent.mtu} on {e.target.name}",
                command=Command(e.target.name, f"ip link set {name} mtu {here[name].mtu}"),
            )


def held_findings(e: Evidence) -> Iterator[Finding]:
    """Yield why a guest with macvtaps cannot have a second QEMU on its host."""
    for nic in e.guest.nics:
        if nic.tap is not None and nic.tap.macvtap is not None:
            parent = nic.tap.macvtap.parent
            yield found(
                "macvtap-held",
                nic.tap.interface,
                f"{nic.name} is on a macvtap on {parent}, which carries its address {nic.mac} once only",
                f"move {e.vm.name} to another host and back: each way starts the QEMU that is installed there",
            )


def _taken(e: Evidence, parent: InterfaceFacts, macvtap: Macvtap, own: set[str]) -> tuple[str, str] | None:
    """Return what keeps a macvtap from lying on `parent`, and the mend; see macvlan_common_newlink() in Linux."""
    name, host = parent.name, e.target.name
    others = [(other, mode) for other, mode in parent.carried if other not in own]
    if parent.master:
        return (
            f"{name} is a part of {parent.master} on {host}",
            f"ip link set {name} nomaster  (on {host}); or define the guest with a NIC on {parent.master}",
        )
    alone = next((other for other, mode in others if mode == _ALONE), None)
    if alone is not None:
        return f"{alone} has {name} on {host} for itself (mode passthru)", f"ip link delete {alone}  (on {host})"
    if macvtap.mode == _ALONE and others:
        return (
            f"a macvtap in mode passthru has {name} for itself, and on {host} {others[0][0]} lies on it",
            f"ip link delete {others[0][0]}  (on {host}); or define the guest with another mode",
        )
    if macvtap.mode == _ALONE and parent.addresses:
        return (
            f"a macvtap in mode passthru takes all that comes to {name}, with {parent.addresses[0]} of {host}'s own",
            f"give {host} its address on another interface, or define the guest with another mode",
        )
    return None
