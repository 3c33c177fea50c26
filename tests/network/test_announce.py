"""Frames that say where a guest is, read back by the layout of their standards, and what is said of sending them."""

from __future__ import annotations

import ipaddress
import json
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from godwit.errors import HostError
from godwit.model import Announced
from godwit.network import announce

if TYPE_CHECKING:
    from pathlib import Path

MAC = "52:54:00:12:34:56"
PACKED = bytes.fromhex("525400123456")


def test_the_first_frame_is_a_rarp_as_qemu_sends_it() -> None:
    (frame,) = announce.frames_of(Announced(MAC, "tap0"))

    assert frame[:14] == b"\xff" * 6 + PACKED + b"\x80\x35"
    assert frame[14:22] == struct.pack("!HHBBH", 1, 0x0800, 6, 4, 3)
    assert frame[22:42] == PACKED + bytes(4) + PACKED + bytes(4)
    assert len(frame) == 60


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_announced_by_an_arp_request_for_itself(address: ipaddress.IPv4Address) -> None:
    _, frame = announce.frames_of(Announced(MAC, "tap0", (str(address),)))

    assert frame[:14] == b"\xff" * 6 + PACKED + b"\x08\x06"
    operation, sender, asked = frame[20:22], frame[22:32], frame[32:42]
    assert operation == b"\x00\x01"
    assert sender == PACKED + address.packed
    assert asked == bytes(6) + address.packed


@given(address=st.ip_addresses(v=6), router=st.booleans())
@example(address=ipaddress.IPv6Address("fe80::1"), router=True)
@example(address=ipaddress.IPv6Address("fe80::1"), router=False)
def test_an_ipv6_address_is_advertised_to_all_nodes_with_a_valid_checksum(
    address: ipaddress.IPv6Address,
    router: bool,  # noqa: FBT001 - hypothesis gives it
) -> None:
    _, *frames = announce.frames_of(Announced(MAC, "tap0", (str(address),), router=router))
    if address.is_link_local and not router:  # it would take a router that is not known as one from its LAN
        assert frames == []
        return
    (frame,) = frames

    assert frame[:14] == bytes.fromhex("333300000001") + PACKED + b"\x86\xdd"
    length, following, hops = struct.unpack("!HBB", frame[18:22])
    assert (length, following, hops) == (32, 58, 255)
    source, destination, message = frame[22:38], frame[38:54], frame[54:86]
    assert source == address.packed
    assert ipaddress.IPv6Address(destination) == ipaddress.IPv6Address("ff02::1")
    assert (message[0], message[4:8]) == (136, b"\xa0\0\0\0" if router else b"\x20\0\0\0")
    assert message[8:24] == address.packed
    assert message[24:] == b"\x02\x01" + PACKED
    summed = sum(
        int(word) for word in struct.unpack("!36H", source + destination + struct.pack("!II", 32, 58) + message)
    )
    while summed >> 16:
        summed = (summed & 0xFFFF) + (summed >> 16)
    assert summed == 0xFFFF


def test_a_guest_that_names_many_addresses_is_announced_by_some() -> None:
    many = tuple(f"10.0.{n // 256}.{n % 256}" for n in range(1000))
    assert len(announce.frames_of(Announced(MAC, "tap0", many))) == 33


def test_the_sender_is_told_of_each_tap_its_frames() -> None:
    _, frames, *pairs = announce.arguments([Announced(MAC, "tap0", ("10.0.0.1",)), Announced(MAC, "tap1")])

    told = json.loads(frames)
    assert [(one["tap"], len(one["frames"])) for one in told] == [("tap0", 2), ("tap1", 1)]
    assert pairs == [MAC, "tap0", MAC, "tap1"]


def test_what_was_sent_is_counted() -> None:
    assert announce.sent("h1", "sent 12\n") == 12
    assert announce.sent("h1", "trouble eth9 [Errno 100] Network is down\nsent 4\n") == 4
    assert announce.sent("h1", "") == 0


@pytest.mark.parametrize(
    ("said", "message", "remedy"),
    [
        ("trouble tap0 RTNETLINK answers: Operation not permitted\nsent 0\n", "not permitted", "CAP_NET_ADMIN"),
        ("no-python\n", "h1 has no python3", "install python3"),
    ],
)
def test_why_nothing_was_sent_is_said_with_the_mend(said: str, message: str, remedy: str) -> None:
    with pytest.raises(HostError, match=message) as error:
        announce.sent("h1", said)
    assert remedy in error.value.remedy


def test_frames_leave_by_ports_that_forward_and_a_tap_on_something_else_than_a_bridge_is_let_be(tmp_path: Path) -> None:
    """A port that spanning tree blocks sends nothing; Open vSwitch and a VRF are a tap's master, and no bridge."""
    taps = []
    for number, states in enumerate(({}, {"fwd": "3", "blocked": "4", "learns": "2"})):
        master, tap = tmp_path / f"master{number}", tmp_path / f"tap{number}"
        (master / "bridge").mkdir(parents=True)
        tap.mkdir()
        (tap / "master").symlink_to(master)
        taps.append({"tap": tap.name, "frames": ["00" * 60]})
        for port, state in states.items():
            (tmp_path / port / "brport").mkdir(parents=True)
            (tmp_path / port / "brport" / "state").write_text(f"{state}\n")
            (master / "brif" / port).mkdir(parents=True)
    sender = announce.arguments([])[0].replace("/sys/class/net/", f"{tmp_path}/")
    ran = subprocess.run(
        [sys.executable, "-c", sender, json.dumps(taps)], capture_output=True, text=True, timeout=60, check=True
    )
    # There is no such device, so what was tried is told.
    assert [line.split()[1] for line in ran.stdout.splitlines() if line.startswith("trouble")] == ["fwd"]
