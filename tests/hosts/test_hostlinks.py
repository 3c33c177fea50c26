"""How large packets pass: what the script's answers mean, and what it says on this machine."""

from __future__ import annotations

import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.hosts.links import LooksAtLinks, parse_packets
from godwit.hosts.local import LocalTransport
from godwit.model import Packets


class Here(LooksAtLinks):
    """This machine."""

    def __init__(self) -> None:
        self._transport = LocalTransport("here")


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("mtu 1500\ncame 1500\ncame 200", Packets(1500, 1500)),
        ("mtu 1500\ncame 200\ncame 1400\ncame 1280", Packets(1500, 1400)),
        ("mtu 1500\ncame 200\ntold", Packets(1500, 200, told=True)),
        ("mtu 1500", Packets(1500)),
        ("mtu 0", Packets()),
        ("", Packets()),
        ("ping: invalid option -- M\nmtu 99999999", Packets()),
    ],
)
def test_what_a_host_says_of_its_packets(said: str, found: Packets) -> None:
    assert parse_packets(said) == found


@given(st.text())
def test_a_host_may_say_anything(said: str) -> None:
    found = parse_packets(said)
    assert found.mtu >= 0
    assert found.largest >= 0


@pytest.mark.skipif(
    shutil.which("ping") is None or shutil.which("ip") is None, reason="NOT SHOWN HERE: there is no ping or no ip"
)
async def test_on_the_loopback_everything_passes() -> None:
    found = await Here().packets("127.0.0.1")
    if not found.largest:
        pytest.skip("NOT SHOWN HERE: this machine may not send pings")
    assert (found.mtu > 200, found.told) == (True, False)
    assert found.largest == found.mtu


async def test_of_an_address_without_a_way_nothing_is_known() -> None:
    assert (await Here().packets("no.such.host.invalid")).largest == 0
