"""A guest whose NIC is a macvtap on an interface of its host: seen from outside, moved there and back."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from labtools import Ground

from godwit import app
from godwit.lab import assets
from godwit.lab.furnish import GuestPlan, add_guest
from godwit.model import OutcomeStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from godwit.lab.laboratory import Laboratory

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

PARENT = "lan0"
NUMBER = 7


@pytest.fixture(scope="module")
def ground(build_lab: Callable[..., Laboratory], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Return a laboratory without a guest."""
    prepared = assets.prepare(assets.cache_folder(), print)
    made = Ground(build_lab(link_rate=None), prepared, tmp_path_factory.mktemp("godwit"))
    asyncio.run(made.introduce())
    yield made
    made.end_runners()


def give_parent(ground: Ground, machine: str) -> None:
    """Give a host an interface in the guests' network that is no part of its bridge: a veth, one end in it."""
    ground.inside(machine, *f"ip link add {PARENT} type veth peer name {PARENT}p".split())
    ground.inside(machine, *f"ip link set {PARENT}p master br0 up".split())
    ground.inside(machine, *f"ip link set {PARENT} up".split())


def link(ground: Ground, machine: str) -> dict[str, object]:
    (tap,) = ground.taps(machine)
    (shown,) = json.loads(ground.inside(machine, "ip", "-j", "-d", "link", "show", "dev", tap))
    return {"mac": shown["address"], "up": "UP" in shown["flags"], "parent": shown["link"], **shown["linkinfo"]}


@pytest.mark.long
async def test_a_guest_on_a_macvtap_moves_there_and_back_with_its_address(ground: Ground) -> None:
    for machine in ("host1", "host2"):
        give_parent(ground, machine)
    plan = GuestPlan("mac", NUMBER, nic=f'macvtap = "{PARENT}"')
    async with app.opened(ground.home) as service:
        vm = await add_guest(service, ground.lab, ground.assets, plan, "host1")
    ground.use(vm.name, NUMBER)
    await ground.answers()
    before = link(ground, "host1")
    mac = ground.ssh("cat /sys/class/net/eth0/address")
    assert (before["mac"], before["up"], before["parent"], before["info_kind"]) == (mac, True, PARENT, "macvtap")

    for machine in ("host2", "host1"):
        async with ground.client():
            move = await ground.begin(machine, "--probe", f"{ground.address}@{ground.host('client')}")
            outcome = await move.outcome()
        assert outcome.status is OutcomeStatus.COMPLETED, outcome
        assert outcome.guest_alive is True
        await ground.assert_settled(machine)
        assert await ground.ticks()
        assert link(ground, machine) == before
        assert ground.ssh("cat /sys/class/net/eth0/address") == mac

    ground.inside("host2", "ip", "link", "delete", PARENT)
    refused = await ground.godwit("check", ground.name, ground.host("host2"), "--json")
    assert "parent-missing" in refused.out
    assert ground.inside("host1", "sh", "-c", "ls /dev | grep ^godwit- || true") == ""
    async with app.opened(ground.home) as service:
        await service.stop_vm(ground.name, force=True)
    assert ground.left_on("host1") == []
