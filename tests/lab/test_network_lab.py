"""The guest's network the moment it runs on the target: who hears of it, and what its host's bridge knows."""

from __future__ import annotations

import asyncio
import json
import struct
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from godwit.hosts import factsparse
from godwit.model import Launch, OutcomeStatus, Tap
from godwit.network.tap import PLUG, plug_arguments

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from labtools import Ground

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

RECORDER = """
import socket, sys
wanted = bytes.fromhex(sys.argv[1])
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as taken:
    taken.bind(("eth0", 0))
    print("ready", flush=True)
    while True:
        frame = taken.recv(2048)
        if frame[6:12] == wanted and frame[0] & 1:
            print(frame.hex(), flush=True)
"""
"""Prints what comes from one MAC address for many."""


@dataclass
class Heard:
    """The frames of a guest that somebody else on its network has heard."""

    frames: list[bytes] = field(default_factory=list)

    def of(self, kind: int) -> list[bytes]:
        return [frame for frame in self.frames if frame[12:14] == struct.pack("!H", kind)]


@asynccontextmanager
async def recorded(ground: Ground, mac: str) -> AsyncIterator[Heard]:
    """Record at the client what is heard of a NIC."""
    command = ground.lab.command("client", [sys.executable, "-c", RECORDER, mac.replace(":", "")])
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    heard = Heard()

    async def read() -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            heard.frames.append(bytes.fromhex(line.decode()))

    assert await process.stdout.readline() == b"ready\n"
    reading = asyncio.create_task(read())
    try:
        yield heard
    finally:
        process.kill()
        await process.wait()
        await reading


def mac_of(ground: Ground) -> str:
    return ground.ssh("cat /sys/class/net/eth0/address")


async def test_the_guest_is_announced_by_all_means_and_seen_soon(ground: Ground, healthy: None) -> None:
    """RARP from QEMU, and from the host RARP, gratuitous ARP and an advertisement of each address that it knows."""
    del healthy
    mac = mac_of(ground)
    here, there = await ground.whereabouts()
    # The host has an address of the guest's network, so it knows its guest as a neighbour: it asks it once.
    prefix = ground.address.rpartition(".")[0]
    ground.inside(here, "ip", "address", "replace", f"{prefix}.250/24", "dev", "br0")
    ground.inside(here, "sh", "-c", f"ping -c 2 -W 5 {ground.address} || true")
    known = ground.inside(here, "ip", "neigh", "show", ground.address)
    try:
        async with ground.client(), recorded(ground, mac) as heard:
            move = await ground.begin(there, "--probe", f"{ground.address}@{ground.host('client')}")
            outcome = await move.outcome()
            await asyncio.sleep(1)
    finally:
        ground.inside(here, "ip", "address", "del", f"{prefix}.250/24", "dev", "br0")

    assert outcome.status is OutcomeStatus.COMPLETED
    assert outcome.guest_alive is True
    assert outcome.downtime.first_packet_ms is not None
    assert 0 < outcome.downtime.first_packet_ms < 10_000
    assert mac in known.lower(), known
    assert len(heard.of(0x8035)) > 5  # five are QEMU's
    packed = bytes(int(part) for part in ground.address.split("."))
    announced = [frame for frame in heard.of(0x0806) if frame[28:32] == packed == frame[38:42]]
    # The guest sends its own unpadded through its tap; what the host made has the length that Ethernet demands.
    assert any(len(frame) == 60 for frame in announced), [frame.hex() for frame in heard.of(0x0806)]
    told = [str(line.data.get("text")) for line in await move.entries() if line.kind == "note"]
    assert any("frames by" in text for text in told), told
    # The target's bridge knows by which port the guest is reached.
    rows = json.loads(ground.inside(there, "bridge", "-j", "fdb", "show", "br", "br0"))
    (tap,) = ground.taps(there)
    assert tap in {row["ifname"] for row in rows if row["mac"] == mac}
    await ground.assert_settled(there)


def in_a_network(*words: str, script: str) -> str:
    """Run a script in a network of its own that has a bridge br0, and return what it printed."""
    made = "ip link add br0 mtu 1400 type bridge && ip link set br0 up\n"
    command = ["unshare", "--net", "sh", "-s", "--", *words]
    return subprocess.run(command, input=made + script, capture_output=True, text=True, timeout=60, check=True).stdout


def test_a_real_kernel_plugs_taps_in_as_they_were_elsewhere() -> None:
    """What is read of one host is asked of another: two NICs, one of them of several queues and an isolated port."""
    flags = "isolated on learning off hairpin on flood off"
    there = in_a_network(
        script="ip tuntap add dev tap0 mode tap; ip link set tap0 master br0; ip tuntap add dev tap1 mode tap\n"
        f"ip link set tap1 master br0; bridge link set dev tap0 {flags}; ip -j -d link show"
    )
    taps = tuple(factsparse.parse_network(there).plugged(Tap(name, "")) for name in ("tap0", "tap1"))
    assert taps[0].port is not None
    assert dict(taps[0].port.flags) == {"isolated": True, "learning": False, "hairpin": True, "flood": False}
    argv = ("qemu", "-netdev", "tap,ifname=tap0,queues=2", "-netdev", "tap,ifname=tap1")

    here = in_a_network(*plug_arguments(Launch(argv, taps=taps)), script=f"{PLUG}\nip -j -d link show")

    network = factsparse.parse_network(here)
    assert tuple(network.plugged(Tap(tap.interface, "")) for tap in taps) == taps
    links = {link["ifname"]: link for link in json.loads(here)}
    assert [links[name]["linkinfo"]["info_data"]["multi_queue"] for name in ("tap0", "tap1")] == [True, False]
    assert {links[name]["mtu"] for name in ("tap0", "tap1")} == {1400}
    assert all("UP" in links[name]["flags"] for name in ("tap0", "tap1"))
