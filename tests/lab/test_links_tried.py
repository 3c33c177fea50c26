"""The way between two real hosts: a black hole in the middle is found before a move, with the mend that works."""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from labwaits import LONG

if TYPE_CHECKING:
    from collections.abc import Iterator

    from labtools import Ground, Ran

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

SMALLER = 1400


def ip(namespace: str, line: str) -> None:
    subprocess.run(["ip", "-n", namespace, *line.split()], check=True)


@contextmanager
def black_hole(ground: Ground) -> Iterator[None]:
    """Let the switch between the hosts take less than their interfaces, which it tells nobody.

    Within one machine a packet that is to be cut up later passes any MTU: such are not made here.
    """
    plan = ground.lab.plan
    try:
        for host in ("host1", "host2"):
            ip(plan.namespace(host), "link set mig0 gso_max_segs 1")
        ip(plan.switch_namespace, f"link set m-host1 mtu {SMALLER}")
        yield
    finally:
        ip(plan.switch_namespace, "link set m-host1 mtu 1500")
        for host in ("host1", "host2"):
            ip(plan.namespace(host), "link set mig0 gso_max_segs 65535")


@contextmanager
def slow_link(ground: Ground) -> Iterator[None]:
    """Let what leaves the first host be too slow for all of a trial, and not for the little before it.

    The laboratory itself shapes links of a megabit and more.
    """

    def shape(*words: str) -> None:
        namespace = ground.lab.plan.namespace("host1")
        subprocess.run(["tc", "-n", namespace, "qdisc", "replace", "dev", "mig0", "root", *words], check=True)

    shape("tbf", "rate", "256kbit", "burst", "16kb", "limit", "64kb")
    try:
        yield
    finally:
        shape("pfifo")


def findings(ran: Ran) -> dict[str, dict[str, str]]:
    return {one["code"]: one for one in json.loads(ran.out)["findings"]}


def nothing_is_left(ground: Ground) -> None:
    for machine in ("host1", "host2"):
        assert "trial" not in ground.inside(machine, "sh", "-c", "ls -R /run/godwit /run/godwit-tls 2>/dev/null; true")


async def test_a_connection_is_tried_and_measured(ground: Ground) -> None:
    await ground.healthy_guest()
    checked = await ground.godwit("check", ground.name, ground.host("host2"), "--measure", "--json")
    assert checked.status == 0, checked
    found = findings(checked)
    assert "encrypted" in found["link-measured"]["found"], found
    assert not {"link-untried", "path-mtu", "path-stalls"} & set(found), found
    nothing_is_left(ground)


@pytest.mark.long
async def test_a_link_that_is_slow_is_not_one_that_stalls(ground: Ground) -> None:
    await ground.healthy_guest()
    with slow_link(ground):
        checked = await ground.godwit("check", ground.name, ground.host("host2"), "--json")
    assert checked.status == 0, checked
    assert not {"link-untried", "path-stalls", "port-closed", "handshake-fails"} & set(findings(checked)), checked
    nothing_is_left(ground)


@pytest.mark.long
async def test_a_black_hole_is_found_a_move_into_it_refused_and_the_way_mended(ground: Ground) -> None:
    await ground.healthy_guest()
    target = ground.host("host2")
    with black_hole(ground):
        checked = await ground.godwit("check", ground.name, target, "--json")
        assert checked.status == 3, checked
        stalls = findings(checked)["path-stalls"]
        assert f"pings of {SMALLER} bytes arrive" in stalls["found"], stalls
        moved = await ground.godwit("migrate", ground.name, target)
        assert moved.status == 3, moved
        fixed = await ground.godwit("check", ground.name, target, "--fix", "--yes")
        assert fixed.status == 0, fixed
        assert "done on" in fixed.out, fixed
        moved = await ground.godwit("migrate", ground.name, target, deadline=4 * LONG)  # packet by packet
        assert moved.status == 0, moved
    (route,) = [one for one in ground.inside("host1", "ip", "route").splitlines() if f"mtu {SMALLER}" in one]
    ground.inside("host1", "ip", "route", "del", route.split()[0])
    assert await ground.ticks()
    nothing_is_left(ground)
