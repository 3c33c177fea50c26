"""Checks over several simulated hosts: one look at each, a host that is silent, and what two guests share."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from clistage import WEB1
from fleetstage import Fleet

from godwit.api.client import Godwit
from godwit.checks import Checks
from godwit.core.preflight.matrix import Matrix, Verdict
from godwit.errors import HostError, InputError, UnknownHostError
from godwit.hosts.fake import FakeHost
from godwit.model import DiskMode, HostFacts, Launch, Packets, Policy

SHARED = Policy(disks=DiskMode.SHARED)


def matrix(fleet: Fleet, *hosts: str, sources: tuple[str, ...] = ()) -> Matrix:
    return asyncio.run(Checks(fleet.service).matrix(hosts, sources=sources, policy=SHARED))


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def test_every_guest_against_every_host(fleet: Fleet) -> None:
    found = matrix(fleet)
    assert [(row.vm, row.home) for row in found.rows] == [("web1", "host1"), ("web2", "host2")]
    assert found.hosts == ("host1", "host2", "host3", "host4")
    assert [[found.cell(row.vm, host).words for host in found.hosts] for row in found.rows] == [
        ["-", "ok", "warn 1", "blocked: qemu-missing"],
        ["ok", "-", "warn 1", "blocked: qemu-missing"],
    ]
    assert [finding.code for finding in found.cell("web1", "host3").findings] == ["clocks-differ"]
    assert found.silent == ()


def test_a_cell_says_what_a_check_of_that_pair_says(fleet: Fleet) -> None:
    found = matrix(fleet)
    for vm, host in (("web1", "host2"), ("web1", "host3"), ("web2", "host4")):
        assert found.cell(vm, host).findings == asyncio.run(fleet.service.dry_run(vm, host, SHARED))


def test_each_host_is_asked_once(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[str] = Counter()
    real = FakeHost.facts

    async def facts(self: FakeHost, qemu: str | None = None) -> HostFacts:
        asked[self.name] += 1
        return await real(self, qemu)

    monkeypatch.setattr(FakeHost, "facts", facts)
    matrix(fleet)
    assert asked == dict.fromkeys(fleet.hosts, 1)


def test_a_way_is_pinged_once_however_many_guests_would_take_it(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    pinged: Counter[tuple[str, str]] = Counter()
    real = FakeHost.packets

    async def packets(self: FakeHost, address: str) -> Packets:
        pinged[self.name, address] += 1
        return await real(self, address)

    async def another() -> None:
        web3 = replace(WEB1, name="web3", launch=Launch(("qemu-system-x86_64", "-name", "web3", "-m", "512")))
        web3 = replace(web3, control="/run/web3.qmp", address=None)
        await fleet.service.inventory.put_vm(fleet.stage.world.start_guest("host1", web3))

    asyncio.run(another())
    monkeypatch.setattr(FakeHost, "packets", packets)
    assert len(matrix(fleet, "host3").rows) == 3
    assert set(pinged.values()) == {1}


def test_tokens_of_two_guests_with_one_disk_do_not_meet(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    planted: set[str] = set()
    plant, remove = FakeHost.plant_token, FakeHost.remove_token

    async def plant_token(self: FakeHost, path: str, token: str) -> None:
        assert path not in planted, "somebody's token lies there"
        await plant(self, path, token)
        planted.add(path)

    async def remove_token(self: FakeHost, path: str, token: str) -> None:
        await remove(self, path, token)
        planted.discard(path)

    monkeypatch.setattr(FakeHost, "plant_token", plant_token)
    monkeypatch.setattr(FakeHost, "remove_token", remove_token)
    assert not matrix(fleet, "host1", "host2", "host3").of(Verdict.UNKNOWN)
    assert planted == set()


def test_a_host_that_does_not_answer_is_a_column(fleet: Fleet) -> None:
    fleet.hosts["host3"].cut_off = True
    found = matrix(fleet, "host2", "host3")
    assert found.cell("web1", "host2").verdict is Verdict.OK
    assert found.cell("web1", "host3").verdict is Verdict.UNKNOWN
    assert "host3 does not answer" in found.cell("web1", "host3").trouble
    assert [host for host, _ in found.silent] == ["host3"]


def test_the_guests_of_a_host_that_does_not_answer_are_rows_of_which_nothing_is_known(fleet: Fleet) -> None:
    fleet.hosts["host1"].cut_off = True
    found = matrix(fleet, "host1", "host3")
    assert found.cell("web1", "host3").verdict is Verdict.UNKNOWN
    assert found.cell("web1", "host1").verdict is Verdict.HOME
    assert found.cell("web2", "host3").verdict is Verdict.WARN


def test_a_guest_that_is_off_keeps_the_others_from_nothing(fleet: Fleet) -> None:
    async def end() -> None:
        fleet.hosts["host1"].qemus["web1"].exit("killed")

    asyncio.run(end())
    found = matrix(fleet, "host3")
    assert found.cell("web1", "host3").verdict is Verdict.UNKNOWN
    assert "does not run on host1" in found.cell("web1", "host3").trouble
    assert found.cell("web2", "host3").verdict is Verdict.WARN


def test_the_guests_of_one_host_alone(fleet: Fleet) -> None:
    assert [row.vm for row in matrix(fleet, "host3", sources=("host2",)).rows] == ["web2"]
    with pytest.raises(InputError, match="no guest on host4"):
        matrix(fleet, "host3", sources=("host4",))


def test_hosts_that_nobody_knows_are_refused(fleet: Fleet) -> None:
    with pytest.raises(UnknownHostError):
        matrix(fleet, "host9")
    with pytest.raises(UnknownHostError):
        matrix(fleet, "host3", sources=("host9",))


def test_all_monitors_are_free_afterwards(fleet: Fleet) -> None:
    matrix(fleet)
    assert all(qemu.monitor is None for host in fleet.hosts.values() for qemu in host.qemus.values())


def test_the_library_offers_the_same(fleet: Fleet) -> None:
    g = Godwit(fleet.service)
    assert asyncio.run(g.check_all(["host2"], policy=SHARED)).cell("web1", "host2").verdict is Verdict.OK
    aspects = asyncio.run(g.compare_hosts("host1", "host3"))
    assert [one.subject for one in aspects if one.differs] == ["clock"]
    assert asyncio.run(g.cpu_baseline(["host1", "host3"])).argument == "qemu64,enforce"


def test_two_hosts_are_two(fleet: Fleet) -> None:
    with pytest.raises(InputError, match="does not differ from itself"):
        asyncio.run(Checks(fleet.service).compare("host1", "host1"))


def test_a_baseline_needs_every_host(fleet: Fleet) -> None:
    fleet.hosts["host3"].cut_off = True
    with pytest.raises(HostError, match="host3 does not answer"):
        asyncio.run(Checks(fleet.service).baseline(["host1", "host3"]))
    with pytest.raises(InputError, match="host4 has no QEMU"):
        asyncio.run(Checks(fleet.service).baseline(["host1", "host4"]))
