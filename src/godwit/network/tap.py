"""Taps and the bridges they are plugged into: made before a guest starts, removed after its end. See ip-link(8)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from godwit.errors import HostError, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.model import Launch

PLUG: Final = r"""
while [ $# -ge 3 ]; do
    tap=$1 bridge=$2 queues=$3
    shift 3
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
    said=$(ip link set dev "$tap" mtu "$mtu" 2>&1 && ip link set dev "$tap" master "$bridge" 2>&1 &&
        ip link set dev "$tap" up 2>&1) || { echo "no-plug $tap $bridge $said"; exit 1; }
done
"""
"""$1 to $3 are a tap, its bridge and "one" or "many" queues, then the next three. A tap that is there is plugged
in anew."""

UNPLUG: Final = r"""
for tap in "$@"; do
    if ip -d -o link show dev "$tap" 2>/dev/null | grep -q ' tun '; then
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
        for name in (tap.interface, tap.bridge):
            if _NAME.fullmatch(name) is None or name in {".", ".."} or name.startswith("-"):
                message = f"{name!r} can be no network interface: up to 15 characters without space, '/' and ':'"
                raise InputError(message)
        arguments += [tap.interface, tap.bridge, "many" if _has_queues(launch.argv, tap.interface) else "one"]
    return tuple(arguments)


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
    doing = f"make the tap {tap}" if code == "no-tap" else f"plug {tap} into {bridge}"
    message = f"{where} cannot {doing}: {words or said.strip() or 'ip said nothing'}"
    return HostError(message, remedy="log in as a user who may change the network (CAP_NET_ADMIN), such as root")
