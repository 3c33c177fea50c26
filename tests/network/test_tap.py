from __future__ import annotations

import pytest

from godwit.errors import HostError, InputError
from godwit.model import Launch, Tap
from godwit.network.tap import plug_arguments, plug_error

TAP = Tap("tap0", "br0")


def test_a_tap_goes_with_its_bridge_and_the_queues_that_qemu_will_ask_for() -> None:
    argv = ("qemu", "-netdev", "tap,id=n0,ifname=tap0,script=no,queues=2", "-netdev", "tap,ifname=tap1,queues=1")
    launch = Launch(argv, taps=(TAP, Tap("tap1", "br1"), Tap("tap2", "br1")))
    assert plug_arguments(launch) == ("tap0", "br0", "many", "tap1", "br1", "one", "tap2", "br1", "one")
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
    ],
)
def test_what_went_wrong_is_said_in_words(said: str, message: str, remedy: str) -> None:
    error = plug_error("h1", said)
    assert isinstance(error, HostError)
    assert message in error.message
    assert remedy in error.remedy
