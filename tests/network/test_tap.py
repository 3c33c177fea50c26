from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from godwit.errors import HostError, InputError
from godwit.model import Launch, Macvtap, Port, PortVlan, Tap
from godwit.network.tap import PLUG, held_descriptors, open_arguments, plug_arguments, plug_error

if TYPE_CHECKING:
    from pathlib import Path

TAP = Tap("tap0", "br0")


def test_a_tap_goes_with_its_bridge_and_the_queues_that_qemu_will_ask_for() -> None:
    argv = ("qemu", "-netdev", "tap,id=n0,ifname=tap0,script=no,queues=2", "-netdev", "tap,ifname=tap1,queues=1")
    launch = Launch(argv, taps=(TAP, Tap("tap1", "br1"), Tap("tap2", "br1")))
    unknown = ("", "")
    assert plug_arguments(launch) == (
        *("tap0", "br0", "many", *unknown),
        *("tap1", "br1", "one", *unknown),
        *("tap2", "br1", "one", *unknown),
    )
    assert plug_arguments(Launch(argv)) == ()


@pytest.mark.parametrize("name", ["", "x" * 16, "a b", "a/b", "a:b", ".", "..", "-x", "tap0\n", "\ttap"])
@pytest.mark.parametrize("which", ["tap", "bridge"])
def test_names_that_no_interface_can_have_are_refused(name: str, which: str) -> None:
    tap = Tap(name, "br0") if which == "tap" else Tap("tap0", name)
    with pytest.raises(InputError, match="no network interface"):
        plug_arguments(Launch(("qemu",), taps=(tap,)))


@pytest.mark.parametrize(
    ("said", "message", "remedy"),
    [
        (
            "no-bridge tap0 br9\n",
            "h1 has no bridge br9, which the guest's interface tap0",
            "ip link add br9 type bridge",
        ),
        ("no-tap tap0 br0 ioctl(TUNSETIFF): Operation not permitted", "make the tap tap0: ioctl", "CAP_NET_ADMIN"),
        ("no-plug tap0 br0 RTNETLINK answers: busy", "plug tap0 into br0: RTNETLINK answers: busy", "CAP_NET_ADMIN"),
        ("", "ip said nothing", "CAP_NET_ADMIN"),
        (
            'no-port tap0 br0 isolated=on: what is "isolated"?',
            "as it is on the source (isolated=on): what is",
            "kernel",
        ),
        (
            "no-vlan tap0 br0 100: RTNETLINK answers: Operation not supported",
            "(VLAN 100): RTNETLINK answers: Operation not supported",
            "vlan_filtering 1",
        ),
    ],
)
def test_what_went_wrong_is_said_in_words(said: str, message: str, remedy: str) -> None:
    error = plug_error("h1", said)
    assert isinstance(error, HostError)
    assert message in error.message
    assert remedy in error.remedy


def test_a_tap_is_plugged_in_as_it_was() -> None:
    vlans = (PortVlan(100, 100, pvid=True, untagged=True), PortVlan(200, 210), PortVlan(7, 7, untagged=True))
    port = Port(vlans, (("isolated", True), ("learning", False)))
    assert plug_arguments(Launch(("qemu",), taps=(Tap("tap0", "br0", port),))) == (
        *("tap0", "br0", "one"),
        *("isolated=on learning=off", "100:pvid:untagged 200-210 7:untagged"),
    )


def stand_in(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/log\n{text}\n')
    (folder / name).chmod(0o700)


def plugged(folder: Path, *arguments: str, bridge: str = "") -> tuple[int, str, list[str]]:
    """Run PLUG with stand-ins for iproute2, as not every kernel has VLANs; returns status, words and what was asked."""
    shown = "2: br0: <UP> mtu 9000 qdisc x bridge forward_delay 0"
    stand_in(folder, "ip", f'case "$*" in *"show dev br"*) echo "{shown}" ;; "link show"*) exit 1 ;; esac')
    stand_in(folder, "bridge", bridge)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}"}
    ran = subprocess.run(
        ["sh", "-s", "--", *arguments], input=PLUG, capture_output=True, text=True, env=environment, check=False
    )
    return ran.returncode, ran.stdout, (folder / "log").read_text().splitlines()


def test_the_port_is_as_it_is_to_be_before_the_tap_goes_up(tmp_path: Path) -> None:
    vlans = "100:pvid:untagged 200-210 7:untagged"
    status, said, asked = plugged(tmp_path, "tap0", "br0", "many", "isolated=on learning=off", vlans)

    assert (status, said) == (0, "")
    assert asked[2:] == [
        "ip tuntap add dev tap0 mode tap multi_queue",
        "ip link set dev tap0 mtu 9000",
        "ip link set dev tap0 master br0",
        "bridge link set dev tap0 isolated on",
        "bridge link set dev tap0 learning off",
        "bridge vlan del dev tap0 vid 1-4094",
        "bridge vlan add dev tap0 vid 100 pvid untagged",
        "bridge vlan add dev tap0 vid 200-210",
        "bridge vlan add dev tap0 vid 7 untagged",
        "ip link set dev tap0 up",
    ]


def test_several_taps_are_plugged_in_one_after_the_other(tmp_path: Path) -> None:
    status, said, asked = plugged(tmp_path, *("tap0", "br0", "one", "", ""), *("tap1", "br1", "many", "", "5"))

    assert (status, said) == (0, "")
    assert "ip tuntap add dev tap0 mode tap" in asked
    assert "ip tuntap add dev tap1 mode tap multi_queue" in asked
    assert [line for line in asked if line.startswith("bridge")] == [
        "bridge vlan del dev tap1 vid 1-4094",
        "bridge vlan add dev tap1 vid 5",
    ]


@pytest.mark.parametrize(
    ("flags", "vlans", "said"),
    [
        ("isolated=on", "", "no-port tap0 br0 isolated=on: not supported\n"),
        ("", "100:pvid", "no-vlan tap0 br0 100: not supported\n"),
    ],
)
def test_a_host_that_cannot_plug_it_in_so_says_so_and_the_tap_stays_down(
    tmp_path: Path, flags: str, vlans: str, said: str
) -> None:
    refuses = 'case "$*" in *"vlan del"*) ;; *) echo not supported >&2; exit 1 ;; esac'
    status, words, asked = plugged(tmp_path, "tap0", "br0", "one", flags, vlans, bridge=refuses)

    assert (status, words) == (1, said)
    assert "ip link set dev tap0 up" not in asked


MACVTAP = Tap("gw0", "", macvtap=Macvtap("eth0", "private", "52:54:00:00:00:01", 3))


def test_a_macvtap_goes_with_its_parent_mode_and_address() -> None:
    assert plug_arguments(Launch(("qemu",), taps=(TAP, MACVTAP))) == (
        *("tap0", "br0", "one", "", ""),
        *("gw0", "eth0", "macvtap", "private", "52:54:00:00:00:01"),
    )
    assert open_arguments((TAP, MACVTAP)) == ("gw0", "52:54:00:00:00:01")
    assert held_descriptors((TAP, MACVTAP)) == "3=gw0"
    nowhere = Tap("gw0", "", macvtap=Macvtap("-x", "bridge", "52:54:00:00:00:01", 3))
    with pytest.raises(InputError, match="no network interface"):
        plug_arguments(Launch(("qemu",), taps=(nowhere,)))


def test_a_macvtap_is_made_and_stays_down(tmp_path: Path) -> None:
    status, said, _ = plugged(tmp_path, "gw0", "eth0", "macvtap", "private", "52:54:00:00:00:01")
    assert (status, said) == (1, "no-parent gw0 eth0\n")
    status, said, asked = plugged(tmp_path, "gw0", "br-eth0", "macvtap", "private", "52:54:00:00:00:01")
    assert (status, said) == (0, "")
    added = "ip link add link br-eth0 name gw0 address 52:54:00:00:00:01 type macvtap mode private"
    assert added in asked
    assert not [line for line in asked if line.endswith(" up")]


@pytest.mark.parametrize(
    ("said", "message", "remedy"),
    [
        (
            "no-parent gw0 eth0",
            "no interface eth0, which the guest's macvtap gw0",
            "ip link set OTHER name eth0",
        ),
        ("no-macvtap gw0 eth0 RTNETLINK answers: busy", "the macvtap gw0 on eth0: RTNETLINK answers: busy", "passthru"),
    ],
)
def test_what_went_wrong_with_a_macvtap_is_said_in_words(said: str, message: str, remedy: str) -> None:
    error = plug_error("h1", said)
    assert message in error.message
    assert remedy in error.remedy
