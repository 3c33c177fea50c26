"""Taps and the bridges they are plugged into: made before a guest starts, removed after its end. See ip-link(8).

A macvtap is another kind of tap, which lies on an interface of the host. It is down until its guest runs: on the parent
of a target, one that is up would take what its neighbours there send to the guest, which still runs on the source.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from godwit.errors import HostError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from godwit.model import Launch, Tap

PLUG: Final = r"""
while [ $# -ge 5 ]; do
    tap=$1 bridge=$2 queues=$3 flags=$4 vlans=$5
    shift 5
    if [ "$queues" = macvtap ]; then
        ip link show dev "$bridge" >/dev/null 2>&1 || { echo "no-parent $tap $bridge"; exit 1; }
        if ip -d -o link show dev "$tap" 2>/dev/null | grep -q ' macvtap '; then
            # No process has it any more, and it may lie elsewhere than it is to.
            said=$(ip link delete dev "$tap" 2>&1) || { echo "no-macvtap $tap $bridge $said"; exit 1; }
        fi
        said=$(ip link add link "$bridge" name "$tap" address "$vlans" type macvtap mode "$flags" 2>&1) ||
            { echo "no-macvtap $tap $bridge $said"; exit 1; }
        # The host would speak IPv6 with the guest's address, wherever the guest is.
        quiet=/proc/sys/net/ipv6/conf/$tap/disable_ipv6
        if [ -e "$quiet" ]; then
            said=$( (echo 1 > "$quiet") 2>&1) || { echo "no-macvtap $tap $bridge $said"; exit 1; }
        fi
        continue
    fi
    mtu=$(ip -d -o link show dev "$bridge" 2>/dev/null | grep ' bridge ') || {
        echo "no-bridge $tap $bridge"
        exit 1
    }
    mtu=${mtu#* mtu } mtu=${mtu%% *}
    if ! ip link show dev "$tap" >/dev/null 2>&1; then
        case $queues in
            many) said=$(ip tuntap add dev "$tap" mode tap multi_queue 2>&1) ;;
            *) said=$(ip tuntap add dev "$tap" mode tap 2>&1) ;;
        esac || { echo "no-tap $tap $bridge $said"; exit 1; }
    fi
    said=$(ip link set dev "$tap" mtu "$mtu" 2>&1 && ip link set dev "$tap" master "$bridge" 2>&1) ||
        { echo "no-plug $tap $bridge $said"; exit 1; }
    for flag in $flags; do
        said=$(bridge link set dev "$tap" "${flag%%=*}" "${flag#*=}" 2>&1) ||
            { echo "no-port $tap $bridge $flag: $said"; exit 1; }
    done
    if [ -n "$vlans" ]; then
        # The bridge has put it into a VLAN of its own choice.
        bridge vlan del dev "$tap" vid 1-4094 >/dev/null 2>&1
        for vlan in $vlans; do
            # shellcheck disable=SC2046 - a number, and what follows it
            said=$(bridge vlan add dev "$tap" vid $(echo "$vlan" | tr ':' ' ') 2>&1) ||
                { echo "no-vlan $tap $bridge ${vlan%%:*}: $said"; exit 1; }
        done
    fi
    said=$(ip link set dev "$tap" up 2>&1) || { echo "no-plug $tap $bridge $said"; exit 1; }
done
"""
"""$1 to $5 are a tap, its bridge, "one" or "many" queues, flags of its port such as "isolated=on" and VLANs such as
"100:pvid:untagged 200-210", then the next five. A tap that is there is plugged in anew; it goes up when it is as it is
to be, so that nothing of its guest's is ever in a VLAN that is not its own. Of a macvtap they are its name, its parent,
"macvtap", its mode and its MAC address; OPEN lets it go up."""

OPEN: Final = r"""
while [ $# -ge 2 ]; do
    # In mode passthru this gives the parent the address, too, so it must not be before the guest is here.
    ip link set dev "$1" address "$2" && ip link set dev "$1" up || exit 1
    shift 2
done
"""
"""Each two arguments are a macvtap and its MAC address. Idempotent."""

CLOSE: Final = r"""
for tap in "$@"; do
    if ip -d -o link show dev "$tap" 2>/dev/null | grep -q ' macvtap '; then
        ip link set dev "$tap" down || exit 1
    fi
done
"""
"""Each argument is a macvtap; one that is gone already is no error."""

UNPLUG: Final = r"""
for tap in "$@"; do
    if ip -d -o link show dev "$tap" 2>/dev/null | grep -qE ' (tun|macvtap) '; then
        ip link delete dev "$tap" || exit 1
    fi
done
"""
"""Each argument is a tap to remove; an interface of another kind is never touched."""

_NAME: Final = re.compile(r"[^/\s:]{1,15}")


def plug_arguments(launch: Launch) -> tuple[str, ...]:
    """Return the arguments of PLUG for what the launch needs.

    QEMU opens a tap with several queues only if it was made for them, so its own option is looked at. Raises
    InputError for a name that no interface can have (see dev_valid_name in Linux).
    """
    arguments: list[str] = []
    for tap in launch.taps:
        below = tap.bridge if tap.macvtap is None else tap.macvtap.parent
        for name in (tap.interface, below):
            if _NAME.fullmatch(name) is None or name in {".", ".."} or name.startswith("-"):
                message = f"{name!r} can be no network interface: up to 15 characters without space, '/' and ':'"
                raise InputError(message)
        if tap.macvtap is not None:
            arguments += [tap.interface, below, "macvtap", tap.macvtap.mode, tap.macvtap.mac]
            continue
        arguments += [tap.interface, below, "many" if _has_queues(launch.argv, tap.interface) else "one"]
        arguments += [_flags(tap), _vlans(tap)]
    return tuple(arguments)


def open_arguments(taps: Iterable[Tap]) -> tuple[str, ...]:
    """Return the arguments of OPEN for the macvtaps among `taps`."""
    return tuple(word for tap in taps if tap.macvtap is not None for word in (tap.interface, tap.macvtap.mac))


def held_descriptors(taps: Iterable[Tap]) -> str:
    """Return what QEMU is to inherit for the macvtaps among `taps`, as words such as "3=gw-web1-0"."""
    return " ".join(f"{tap.macvtap.descriptor}={tap.interface}" for tap in taps if tap.macvtap is not None)


def _flags(tap: Tap) -> str:
    return " ".join(f"{name}={'on' if value else 'off'}" for name, value in tap.port.flags) if tap.port else ""


def _vlans(tap: Tap) -> str:
    """Return the VLANs of a tap's port; empty where its bridge does not filter, or nobody has looked."""
    words = []
    for vlan in (tap.port.vlans or ()) if tap.port else ():
        numbers = f"{vlan.first}" if vlan.first == vlan.last else f"{vlan.first}-{vlan.last}"
        words.append(f"{numbers}{':pvid' * vlan.pvid}{':untagged' * vlan.untagged}")
    return " ".join(words)


def _has_queues(argv: Sequence[str], interface: str) -> bool:
    return any(
        f"ifname={interface}" in parts and any(part.startswith("queues=") and part != "queues=1" for part in parts)
        for parts in (argument.split(",") for argument in argv)
    )


def plug_error(where: str, said: str) -> HostError:
    """Say in words what PLUG reported on its standard output."""
    code, _, rest = said.strip().partition(" ")
    tap, _, rest = rest.partition(" ")
    bridge, _, words = rest.partition(" ")
    if code == "no-bridge":
        message = f"{where} has no bridge {bridge}, which the guest's interface {tap} is to be plugged into"
        return HostError(
            message, remedy=f"make it on the host: ip link add {bridge} type bridge; ip link set {bridge} up"
        )
    if code == "no-parent":
        message = f"{where} has no interface {bridge}, which the guest's macvtap {tap} is to lie on"
        remedy = f"give the interface that is in the guest's network this name: ip link set OTHER name {bridge}"
        return HostError(message, remedy=remedy)
    if code == "no-macvtap":
        message = f"{where} cannot make the macvtap {tap} on {bridge}: {words or 'ip said nothing'}"
        remedy = (
            f"{bridge} may be part of a bridge, or have a macvtap in mode passthru: see ip -d link show; "
            "or log in as a user who may change the network (CAP_NET_ADMIN), such as root"
        )
        return HostError(message, remedy=remedy)
    if code in {"no-port", "no-vlan"}:
        setting, _, words = words.partition(": ")
        what = f"VLAN {setting}" if code == "no-vlan" else setting
        message = f"{where} cannot plug {tap} into {bridge} as it is on the source ({what}): {words or 'nothing said'}"
        remedy = f"let {bridge} filter VLANs there, as on the source: ip link set {bridge} type bridge vlan_filtering 1"
        return HostError(message, remedy=remedy if code == "no-vlan" else "see bridge(8); the host's kernel is too old")
    doing = f"make the tap {tap}" if code == "no-tap" else f"plug {tap} into {bridge}"
    message = f"{where} cannot {doing}: {words or said.strip() or 'ip said nothing'}"
    return HostError(message, remedy="log in as a user who may change the network (CAP_NET_ADMIN), such as root")
