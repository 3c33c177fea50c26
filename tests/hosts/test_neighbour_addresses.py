"""What a host says of its neighbours, as iproute2 prints it."""

from __future__ import annotations

import pytest

from godwit.errors import HostError
from godwit.hosts.announcing import parse_neighbours
from godwit.model import Neighbours

MAC = "52:54:00:12:34:56"


def test_only_the_wanted_nics_and_what_was_confirmed_counts() -> None:
    said = """[
        {"dst":"10.0.0.1","dev":"br0","lladdr":"52:54:00:12:34:56","state":["REACHABLE"]},
        {"dst":"10.0.0.7","dev":"br0","lladdr":"52:54:00:12:34:56","state":["STALE"]},
        {"dst":"fe80::1","dev":"br0","lladdr":"52:54:00:12:34:56","router":null,"state":["PERMANENT"]},
        {"dst":"10.0.0.2","dev":"br0","lladdr":"52:54:00:12:34:56","state":["NOARP"]},
        {"dst":"10.0.0.3","dev":"br0","state":["FAILED"]},
        {"dst":"no address","dev":"br0","lladdr":"52:54:00:12:34:56","state":["STALE"]},
        {"dst":"10.0.0.4","dev":"br0","lladdr":"52:54:00:99:99:99","state":["REACHABLE"]}
    ]
---
[{"ifname":"br0","addr_info":[{"family":"inet","local":"10.0.0.250","prefixlen":24}]}]
---
[{"dst":"default","gateway":"10.0.0.254"},{"dst":"default","nexthops":[{"gateway":"10.0.0.253"},{"dev":"br1"}]}]
---
[{"dst":"default","via":{"family":"inet6","host":"fe80::fe"}}]
"""
    assert parse_neighbours(said, [MAC.upper()]) == Neighbours(
        {MAC: ("10.0.0.1", "fe80::1")},
        frozenset({MAC}),
        frozenset({"10.0.0.4", "10.0.0.250", "10.0.0.254", "10.0.0.253", "fe80::fe"}),
    )


@pytest.mark.parametrize("said", ["", "[]", "[ ]\n---\n[]\n---\n---\n", '[7, "x", {}]'])
def test_a_host_without_neighbours(said: str) -> None:
    assert parse_neighbours(said, [MAC]) == Neighbours()


@pytest.mark.parametrize("said", ["{", '{"dst": 1}', "7"])
def test_what_is_no_list_is_an_error(said: str) -> None:
    with pytest.raises(HostError, match="neighbours"):
        parse_neighbours(said, [MAC])
