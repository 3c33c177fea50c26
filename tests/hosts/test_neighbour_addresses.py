"""What a host says of its neighbours, as iproute2 prints it."""

from __future__ import annotations

import pytest

from godwit.errors import HostError
from godwit.hosts.announcing import parse_neighbours

MAC = "52:54:00:12:34:56"


def test_only_the_wanted_nics_and_what_was_confirmed_counts() -> None:
    said = """[
        {"dst":"10.0.0.1","dev":"br0","lladdr":"52:54:00:12:34:56","state":["REACHABLE"]},
        {"dst":"fe80::1","dev":"br0","lladdr":"52:54:00:12:34:56","state":["STALE"]},
        {"dst":"10.0.0.2","dev":"br0","lladdr":"52:54:00:12:34:56","state":["NOARP"]},
        {"dst":"10.0.0.3","dev":"br0","state":["FAILED"]},
        {"dst":"no address","dev":"br0","lladdr":"52:54:00:12:34:56","state":["STALE"]},
        {"dst":"10.0.0.4","dev":"br0","lladdr":"52:54:00:99:99:99","state":["REACHABLE"]}
    ]"""
    assert parse_neighbours(said, [MAC.upper()]) == {MAC: ("10.0.0.1", "fe80::1")}


@pytest.mark.parametrize("said", ["", "[]", '[7, "x", {}]'])
def test_a_host_without_neighbours(said: str) -> None:
    assert parse_neighbours(said, [MAC]) == {}


@pytest.mark.parametrize("said", ["{", '{"dst": 1}', "7"])
def test_what_is_no_list_is_an_error(said: str) -> None:
    with pytest.raises(HostError, match="neighbours"):
        parse_neighbours(said, [MAC])
