"""A NIC that does not travel, an emulated one in the place of a part of the host: taken out, and given back.

The guest bonds it with a virtio NIC, or its kernel makes a pair of both (failover); its users notice neither.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import pytest
from labtools import CRAWL, Ground
from labwaits import until

from godwit.core.state import Phase
from godwit.lab import assets
from godwit.lab.loads import SshTop
from godwit.model import OutcomeStatus, Owner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from godwit.lab.furnish import Direct
    from godwit.lab.laboratory import Laboratory


@pytest.fixture(scope="module")
def ground(build_lab: Callable[..., Laboratory], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Return a laboratory without a guest: each test has one of its own."""
    prepared = assets.prepare(assets.cache_folder(), print)
    made = Ground(build_lab(link_rate=None), prepared, tmp_path_factory.mktemp("godwit"))
    asyncio.run(made.introduce())
    yield made
    made.end_runners()


pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

NIC: Final = "nic1"
BOND: Final = "/sys/class/net/bond0/bonding"


def has_it(ground: Ground, machine: str) -> bool:
    """Say whether the guest's QEMU there has the NIC."""
    (qemu,) = (one for one in ground.qemus()[machine] if ground.name in " ".join(one.arguments))
    return f'"qdev_id": "{NIC}"' in json.dumps(ground.ask(qemu.pid, "query-pci"))


def in_use(ground: Ground) -> str:
    """Return the NIC that the guest's bond sends by."""
    return ground.ssh(f"cat {BOND}/active_slave")


@asynccontextmanager
async def guest_with(ground: Ground, direct: Direct) -> AsyncIterator[None]:
    """Have a guest with such a NIC, and end it afterwards."""
    ground.lab.set_rate(None)
    await ground.fresh_guest(direct=direct)
    try:
        if direct != "failover":
            await until(lambda: in_use(ground) == "eth1", "the guest's bond uses its direct NIC")
        yield
    finally:
        ground.lab.set_rate(None)
        await ground.godwit("vm", "stop", "--force", ground.name)


async def test_a_bonded_guest_keeps_its_sessions_and_has_its_nic_again(ground: Ground) -> None:
    async with guest_with(ground, "unplug"), ground.client(), SshTop(ground.lab, ground.address) as top:
        for machine, other in (("host2", "host1"), ("host1", "host2")):
            ran = await ground.godwit("migrate", ground.name, ground.host(machine), "--json")
            assert ran.status == 0, ran
            outcome = ran.lines[-1]["data"]
            assert (outcome["status"], outcome["owner"], outcome["leftovers"]) == ("completed", "target", [])
            assert "unplugging" in await (await ground.latest()).phases()
            assert has_it(ground, machine), ran.out
            await until(lambda: in_use(ground) == "eth1", "the guest's bond uses its direct NIC again")
            assert await top.survives()
            assert ground.left_on(other) == []


async def test_a_move_that_fails_gives_the_nic_back(ground: Ground) -> None:
    async with guest_with(ground, "unplug"), ground.client():
        ground.lab.set_rate(CRAWL)
        async with ground.dirtying():
            move = await (await ground.begin("host2")).reaches(Phase.PRECOPY)
            await until(lambda: not has_it(ground, "host1"), "the guest has let go of its NIC")
            os.kill(await ground.qemu("host2"), signal.SIGKILL)
            outcome = await move.outcome()
        assert (outcome.status, outcome.owner, outcome.leftovers) == (OutcomeStatus.FAILED, Owner.SOURCE, ())
        assert has_it(ground, "host1")
        ground.lab.set_rate(None)
        await until(lambda: in_use(ground) == "eth1", "the guest's bond uses its direct NIC again")
        assert ground.left_on("host2") == []


@pytest.mark.long
@pytest.mark.parametrize("how", ["cancel", "runner"])
async def test_whoever_ends_it_the_nic_is_there_again(ground: Ground, how: str) -> None:
    async with guest_with(ground, "unplug"), ground.client():
        ground.lab.set_rate(CRAWL)
        async with ground.dirtying():
            move = await (await ground.begin("host2")).reaches(Phase.PRECOPY)
            if how == "runner":
                await move.kill_runner()
            await ground.godwit("cancel", move.id)
            outcome = await move.outcome()
        assert (outcome.status, outcome.owner) == (OutcomeStatus.CANCELLED, Owner.SOURCE)
        assert has_it(ground, "host1")


@pytest.mark.long
async def test_a_guest_that_does_not_let_go_stays_with_its_nic(ground: Ground) -> None:
    async with guest_with(ground, "held"), ground.client():
        ran = await ground.godwit("migrate", ground.name, ground.host("host2"), "--json", "--unplug-timeout", "3s")
        assert ran.status == 7, ran
        outcome = ran.lines[-1]["data"]
        assert (outcome["status"], outcome["owner"]) == ("failed", "source")
        assert f"did not let go of {NIC} within 3" in outcome["error"]
        assert "--unplug-timeout" in outcome["remedy"]
        assert any("may yet let go" in left for left in outcome["leftovers"])
        assert has_it(ground, "host1")
        assert in_use(ground) == "eth1"
        assert ground.left_on("host2") == []


async def test_qemu_takes_a_nic_out_and_puts_it_in_again(ground: Ground) -> None:
    async with guest_with(ground, "failover"), ground.client(), SshTop(ground.lab, ground.address) as top:
        for machine in ("host2", "host1"):
            ran = await ground.godwit("migrate", ground.name, ground.host(machine), "--json")
            assert ran.status == 0, ran
            assert ran.lines[-1]["data"]["leftovers"] == []
            told = json.dumps([entry.data for entry in await (await ground.latest()).entries()])
            assert "QEMU asks the guest to let go" in told
            assert has_it(ground, machine)
            assert await top.survives()
