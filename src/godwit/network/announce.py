"""Telling a network where a guest is: RARP, gratuitous ARP (RFC 5227) and unsolicited neighbour advertisements.

QEMU sends RARP, and a virtio NIC has its guest send the rest; a host sends all three for NICs of any kind. Frames are
made here. On the host they leave through every port of the tap's bridge but the tap's own, so that the guest never
hears its own address from somebody else, and where the bridge filters VLANs they have the tag that its port would give.
"""

from __future__ import annotations

import ipaddress
import json
import struct
from typing import TYPE_CHECKING, Final

from godwit.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from godwit.model import Announced

_BROADCAST: Final = b"\xff" * 6
_ALL_NODES: Final = ipaddress.IPv6Address("ff02::1")
_ALL_NODES_MAC: Final = bytes.fromhex("333300000001")
_ARP, _RARP, _IPV6 = 0x0806, 0x8035, 0x86DD
_SHORTEST: Final = 60
"""Bytes of the shortest frame that Ethernet carries, without its checksum."""

_MOST: Final = 32
"""Addresses of one NIC that are announced: a guest names its own, and may name as many as it likes."""

_SENDER: Final = r"""
import json, os, socket, struct, subprocess, sys

def read(path):
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""

def vlans():
    shown = subprocess.run(["bridge", "-j", "vlan", "show"], stdout=subprocess.PIPE)
    found = {}
    for port in json.loads(shown.stdout or b"[]"):
        for vlan in port.get("vlans", []):
            for number in range(vlan["vlan"], vlan.get("vlanEnd", vlan["vlan"]) + 1):
                found.setdefault(port["ifname"], {})[number] = vlan.get("flags", [])
    return found

sent = 0
for one in json.loads(sys.argv[1]):
    tap, folder = one["tap"], "/sys/class/net/" + one["tap"] + "/brport/"
    try:
        bridge = os.path.basename(os.readlink("/sys/class/net/" + tap + "/master"))
    except OSError:
        continue
    filters = read("/sys/class/net/" + bridge + "/bridge/vlan_filtering") == "1"
    of_ports = vlans() if filters else {}
    own = [number for number, flags in of_ports.get(tap, {}).items() if "PVID" in flags]
    try:
        ports = sorted(os.listdir("/sys/class/net/" + bridge + "/brif"))
    except OSError:  # Open vSwitch, a VRF: no bridge of the kernel's
        continue
    for port in ports:
        there = "/sys/class/net/" + port + "/brport/"
        if port == tap or (read(folder + "isolated") == "1" == read(there + "isolated")):
            continue
        if read(there + "state") != "3":  # spanning tree lets nothing out there
            continue
        tag = b""
        if filters:
            flags = of_ports.get(port, {}).get(own[0]) if own else None
            if flags is None:
                continue
            if "Egress Untagged" not in flags:
                tag = struct.pack("!HH", 0x8100, own[0])
        try:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
                out.bind((port, 0))
                for frame in map(bytes.fromhex, one["frames"]):
                    out.send(frame[:12] + tag + frame[12:])
                    sent += 1
        except OSError as error:
            print("trouble", port, error)
print("sent", sent)
"""
"""Needs Python 3.6 and nothing else; its argument says which frames to send for which tap."""

ANNOUNCE: Final = r"""
sender=$1 frames=$2
shift 2
while [ $# -ge 2 ]; do
    vlan=
    if [ "$(cat "/sys/class/net/$2/master/bridge/vlan_filtering" 2>/dev/null)" = 1 ]; then
        vlan=$(bridge vlan show dev "$2" | sed -n 's/.*[[:space:]]\([0-9][0-9]*\) PVID.*/vlan \1/p' | head -n 1)
    fi
    # The target's bridge may know the guest as one of another host still.
    # shellcheck disable=SC2086 - two words, or none
    said=$(bridge fdb replace "$1" dev "$2" master dynamic $vlan 2>&1) || echo "trouble $2 $said"
    shift 2
done
if command -v python3 >/dev/null 2>&1; then python3 -c "$sender" "$frames"; else echo "no-python"; fi
"""
"""$1 is the sender, $2 its argument, then come a MAC and its tap, and the next two."""


def arguments(announced: Sequence[Announced]) -> tuple[str, ...]:
    """Return the arguments of ANNOUNCE."""
    frames = [{"tap": one.tap, "frames": [frame.hex() for frame in frames_of(one)]} for one in announced]
    pairs = (word for one in announced for word in (one.mac, one.tap))
    return _SENDER, json.dumps(frames, separators=(",", ":")), *pairs


def sent(where: str, said: str) -> int:
    """Return how many frames were sent. Raises HostError where none could be, with the reason."""
    lines = [line.split(maxsplit=1) for line in said.splitlines()]
    count = sum(int(rest[0]) for word, *rest in lines if word == "sent" and rest and rest[0].isdecimal())
    troubles = [rest[0] for word, *rest in lines if word == "trouble" and rest]
    if count == 0 and troubles:
        message = f"{where} cannot announce the guest: {troubles[0]}"
        raise HostError(message, remedy="log in as a user who may change the network (CAP_NET_ADMIN, CAP_NET_RAW)")
    if any(words == ["no-python"] for words in lines):
        message = f"{where} has no python3, so only QEMU announces the guest"
        raise HostError(message, remedy="install python3 there, or rely on what QEMU and the guest send")
    return count


def frames_of(one: Announced) -> tuple[bytes, ...]:
    """Return the frames that say where a NIC is: RARP, and one for each address that is known."""
    mac = bytes.fromhex(one.mac.replace(":", ""))
    frames = [_padded(_rarp(mac)), *map(_padded, _of_addresses(mac, one.addresses[:_MOST], router=one.router))]
    return tuple(frames)


def _of_addresses(mac: bytes, addresses: Sequence[str], *, router: bool) -> Iterator[bytes]:
    """Yield a frame for each address.

    Who hears that a router is none any more takes it out of its routers (RFC 4861, 7.2.5), which it knows by their
    link-local addresses: of those of a guest that may be one nothing is said.
    """
    for text in addresses:
        address = ipaddress.ip_address(text)
        if isinstance(address, ipaddress.IPv4Address):
            yield _arp(mac, address)
        elif router or not address.is_link_local:
            yield _advertisement(mac, address, router=router)


def _padded(frame: bytes) -> bytes:
    return frame.ljust(_SHORTEST, b"\0")


def _rarp(mac: bytes) -> bytes:
    """Ask, as QEMU does, what one's own address is: what counts is from where that comes (RFC 903)."""
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 3) + mac + bytes(4) + mac + bytes(4)
    return _BROADCAST + mac + struct.pack("!H", _RARP) + body


def _arp(mac: bytes, address: ipaddress.IPv4Address) -> bytes:
    """Announce an address by asking for it oneself (RFC 5227, 2.3)."""
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + address.packed + bytes(6) + address.packed
    return _BROADCAST + mac + struct.pack("!H", _ARP) + body


def _advertisement(mac: bytes, address: ipaddress.IPv6Address, *, router: bool) -> bytes:
    """Advertise an address to all nodes, overriding what they know (RFC 4861, 7.2.6)."""
    override = 0x20000000
    target = struct.pack("!I", override | (router << 31)) + address.packed + b"\x02\x01" + mac
    message = struct.pack("!BBH", 136, 0, 0) + target
    pseudo = address.packed + _ALL_NODES.packed + struct.pack("!II", len(message), 58)
    message = struct.pack("!BBH", 136, 0, _checksum(pseudo + message)) + target
    header = struct.pack("!IHBB", 6 << 28, len(message), 58, 255) + address.packed + _ALL_NODES.packed
    return _ALL_NODES_MAC + mac + struct.pack("!H", _IPV6) + header + message


def _checksum(data: bytes) -> int:
    """Return the Internet checksum of data of even length (RFC 1071)."""
    total = sum(int(word) for word in struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
