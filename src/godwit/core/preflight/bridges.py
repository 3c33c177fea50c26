"""Checks of the guest's network: bridges on both sides, the firewall on its path, and connections that cannot move."""

from __future__ import annotations

from typing import TYPE_CHECKING

from godwit.core.preflight.rows import found
from godwit.model import Bond, Command, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from godwit.core.preflight.evidence import Evidence
    from godwit.model import BridgeFacts


def bridge_findings(e: Evidence) -> Iterator[Finding]:
    """Yield what the guest would miss of its network on the target."""
    there = {bridge.name: bridge for bridge in e.target.bridges}
    here = {bridge.name: bridge for bridge in e.source.bridges}
    used = sorted({nic.tap.bridge for nic in e.guest.nics if nic.tap and nic.tap.bridge})
    for name in used:
        if name not in there:
            yield found(
                "bridge-missing",
                name,
                f"{e.target.name} has no bridge {name}",
                command=Command(e.target.name, f"ip link add {name} type bridge; ip link set {name} up"),
            )
        elif name in here:
            yield from _bridges_are_alike(e, here[name], there[name])
    if used and e.target.resources.tracks_bridged:
        yield found(
            "conntrack",
            e.target.name,
            f"{e.target.name} tracks connections, and passes what its bridges carry through iptables "
            "(net.bridge.bridge-nf-call-iptables is 1)",
            ", if nothing there relies on it; or let its rules accept the guest's traffic whatever its state is",
            Command(e.target.name, "sysctl -w net.bridge.bridge-nf-call-iptables=0"),
        )
    yield from _user_networks(e)


def _bridges_are_alike(e: Evidence, here: BridgeFacts, there: BridgeFacts) -> Iterator[Finding]:
    name = here.name
    if here.mtu != there.mtu:
        yield found(
            "bridge-mtu",
            name,
            f"MTU {here.mtu} on {e.source.name}, {there.mtu} on {e.target.name}",
            command=Command(e.target.name, f"ip link set {name} mtu {here.mtu}"),
        )
    if here.vlan_filtering != there.vlan_filtering:
        filters, lets = (e.source, e.target) if here.vlan_filtering else (e.target, e.source)
        yield found(
            "bridge-vlan",
            name,
            f"{name} filters VLANs on {filters.name}, and does not on {lets.name}",
            command=Command(e.target.name, f"ip link set {name} type bridge vlan_filtering {int(here.vlan_filtering)}"),
        )
    elif here.vlans and there.vlans and here.vlans != there.vlans:
        vlans = [", ".join(map(str, one.vlans)) for one in (here, there)]
        yield found(
            "bridge-vlan",
            name,
            f"{name} is plugged into VLAN {vlans[0]} on {e.source.name}, into {vlans[1]} on {e.target.name}",
            f"plug an interface of VLAN {vlans[0]} into {name}  (on {e.target.name}), if they are no names of one net",
        )


def _user_networks(e: Evidence) -> Iterator[Finding]:
    for bond in e.guest.needs.bonds:
        if bond.kind is Bond.USER_NETWORK:
            yield found(
                "user-network",
                bond.name,
                f"{e.vm.name} is on QEMU's user network ({bond.name})",
                "give it a NIC on a bridge; what is connected through this one has to connect again",
            )
