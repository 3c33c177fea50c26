"""The device commands as people and programs see them, over simulated hosts."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from clistage import Stage

from godwit.cli import ground
from godwit.cli.main import main
from godwit.errors import BusyError, HostError, HypervisorError, InputError
from godwit.model import NicPlan, PciFunction, Policy, Spec, Tap, Vm

if TYPE_CHECKING:
    from collections.abc import Callable

    from godwit.hosts.fake import FakeHost

    Type = Callable[..., tuple[int, str, str]]

MORE = "/images/more.raw"
VF = "0000:3b:02.0"


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage()
    made.world.add_file(MORE)
    for host in made.world.hosts.values():
        host.pci[VF] = PciFunction(VF, "8086", "154c", "iavf", "60", ("ens1f0v0",), physical="0000:3b:00.0", number=0)
        host.pci["0000:3b:00.0"] = PciFunction(
            "0000:3b:00.0", "8086", "1572", "i40e", "40", ("ens1f0",), up=True, vfs=1, vfs_total=64
        )
    monkeypatch.setattr(ground, "opener", made.opened)
    return made


@pytest.fixture
def typed(stage: Stage, capsys: pytest.CaptureFixture[str]) -> Type:
    del stage

    def type_(*words: str) -> tuple[int, str, str]:
        status = main(list(words))
        said = capsys.readouterr()
        return status, said.out, said.err

    return type_


def kept(stage: Stage) -> Vm:
    """Return the guest as it would be started now."""
    return asyncio.run(stage.inventory.vm("web1"))


def host(stage: Stage, name: str = "host1") -> FakeHost:
    return stage.world.hosts[name]


def test_a_nic_and_a_disk_come_move_along_and_go(stage: Stage, typed: Type) -> None:
    status, out, _ = typed("device", "attach", "web1", "--bridge", "br0")
    assert (status, "web1 has nic0 (virtio-net-pci, 52:54:00:" in out) == (0, True)
    assert "moves along" in out
    (tap,) = kept(stage).launch.taps
    assert (tap.bridge, host(stage).made) == ("br0", {tap.interface})
    status, out, _ = typed("device", "attach", "web1", "--disk", MORE, "--json")
    assert (status, json.loads(out)["device"]["identifier"], json.loads(out)["kept"]) == (0, "disk0", True)

    assert typed("migrate", "web1", "host2")[0] == 0
    assert (host(stage).made, host(stage, "host2").made) == (set(), {tap.interface})
    rows = json.loads(typed("device", "list", "web1", "--json")[1])
    assert {(row["identifier"], row["source"]) for row in rows} == {("nic0", tap.interface), ("disk0", MORE)}

    for name in ("nic0", "disk0"):
        status, out, _ = typed("device", "detach", "web1", name)
        assert (status, f"web1 has let go of {name}" in out) == (0, True), out
    assert host(stage, "host2").made == set()
    assert kept(stage).launch.taps == ()
    assert not any(MORE in word for word in kept(stage).launch.argv)


def test_what_was_attached_is_there_after_the_next_start(stage: Stage, typed: Type) -> None:
    assert typed("device", "attach", "web1", "--bridge", "br0", "--id", "extra", "--mac", "52:54:00:aa:bb:CC")[0] == 0
    assert typed("vm", "stop", "web1", "--force")[0] == 0
    assert host(stage).made == set()
    status, _, err = typed("device", "attach", "web1", "--bridge", "br0")
    assert (status, "web1 is off" in err, "godwit vm start web1" in err) == (InputError.exit_status, True, True)
    assert typed("vm", "start", "web1")[0] == 0
    (row,) = json.loads(typed("device", "list", "web1", "--json")[1])
    assert (row["identifier"], row["mac"]) == ("extra", "52:54:00:aa:bb:cc")


def test_a_guest_that_does_not_let_go_keeps_it_and_its_tap(stage: Stage, typed: Type) -> None:
    assert typed("device", "attach", "web1", "--bridge", "br0")[0] == 0
    stage.world.holds_on.add(("web1", "nic0"))
    status, _, err = typed("device", "detach", "web1", "nic0", "--within", "2s")
    assert (status, "has not let go of nic0 within 2 s" in err) == (HypervisorError.exit_status, True)
    assert len(host(stage).made) == 1
    assert len(kept(stage).launch.taps) == 1
    stage.world.holds_on.clear()
    assert typed("device", "detach", "web1", "nic0")[0] == 0


def test_five_devices_do_not_fit_into_four_ports_and_nothing_is_left_of_the_fifth(stage: Stage, typed: Type) -> None:
    for _ in range(4):
        assert typed("device", "attach", "web1", "--bridge", "br0")[0] == 0
    before = kept(stage)
    status, _, err = typed("device", "attach", "web1", "--bridge", "br0")
    assert (status, "no free port" in err, "detach" in err) == (HypervisorError.exit_status, True, True)
    assert len(host(stage).made) == 4
    assert kept(stage).launch == before.launch


def test_a_function_of_a_pool_is_the_guest_s_until_it_lets_go_or_is_off(stage: Stage, typed: Type) -> None:
    status, _, err = typed("device", "attach", "web1", "--pool", "fast")
    assert (status, "has no pool 'fast'" in err, "godwit host pool" in err) == (InputError.exit_status, True, True)
    assert typed("host", "pool", "host1", "fast", "--functions", "0000:3b:00.0/*")[0] == 0
    status, out, _ = typed("host", "devices", "host1")
    assert status == 0
    assert "1 of 64, 0 in use" in out
    assert "the host's own" in out
    assert [line.split()[-2:] for line in out.splitlines() if line.startswith(VF)] == [["fast", "free"]]
    status, out, _ = typed("device", "attach", "web1", "--pool", "fast", "--mac", "52:54:00:00:00:09", "--vlan", "7")
    assert (status, "until it is switched off" in out) == (0, True)
    rows = {row["address"]: row for row in json.loads(typed("host", "devices", "host1", "--json")[1])}
    assert (rows[VF]["guest"], rows[VF]["driver"], rows[VF]["pools"], rows[VF]["free"]) == (
        *("web1", "vfio-pci", ["fast"]),
        False,
    )
    status, _, err = typed("device", "attach", "web1", "--pool", "fast")
    assert (status, "is free" in err) == (BusyError.exit_status, True)
    assert VF in typed("device", "detach", "web1", "host0")[1]
    assert host(stage).pci[VF].driver == "iavf"
    assert typed("device", "attach", "web1", "--function", VF)[0] == 0
    status, _, err = typed("device", "attach", "web1", "--function", VF)
    assert (status, f"has {VF} already" in err) == (InputError.exit_status, True)
    assert (host(stage).pci[VF].driver, host(stage).pci[VF].guest) == ("vfio-pci", "web1"), "it is not taken away"
    assert typed("device", "attach", "web1", "--bridge", "br0")[0] == 0
    assert "vfio-pci" not in " ".join(kept(stage).launch.argv), "the host has it when the guest is off"
    assert typed("vm", "stop", "web1", "--force")[0] == 0
    assert (host(stage).pci[VF].driver, host(stage).pci[VF].guest) == ("iavf", "")
    assert typed("host", "pool", "host1", "fast", "--forget")[0] == 0
    assert typed("host", "pool", "host1", "fast", "--forget")[0] == InputError.exit_status


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ((), InputError.exit_status, "nothing says what"),
        (("--bridge", "br0", "--disk", MORE), InputError.exit_status, "cannot be one device"),
        (("--bridge", "br9"), HostError.exit_status, "has no bridge br9"),
        (("--bridge", "br0", "--mac", "53:54:00:00:00:01"), InputError.exit_status, "no MAC that a NIC can have"),
        (("--bridge", "br0", "--mac", "x"), InputError.exit_status, "no MAC"),
        (("--bridge", "br0", "--vlan", "5"), InputError.exit_status, "--vlan says nothing"),
        (("--bridge", "br0", "--id", "a b"), InputError.exit_status, "cannot be the name of a device"),
        (("--disk", MORE, "--mac", "52:54:00:00:00:01"), InputError.exit_status, "--mac says nothing"),
        (("--disk", "more.raw"), InputError.exit_status, "no absolute path"),
        (("--disk", "/images/more.vmdk"), InputError.exit_status, "does not say its format"),
        (("--disk", MORE, "--format", "vmdk"), InputError.exit_status, "cannot be attached"),
        (("--disk", "/images/none.raw"), HypervisorError.exit_status, "No such file"),
        (("--function", "3b:02.0"), HostError.exit_status, "has no PCI function"),
        (("--function", VF, "--vlan", "5000", "--mac", "52:54:00:00:00:01"), InputError.exit_status, "is no VLAN"),
        (("--function", VF, "--vlan", "5"), InputError.exit_status, "MAC of the function has to be said"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_left(
    stage: Stage, typed: Type, words: tuple[str, ...], status: int, said: str
) -> None:
    before = kept(stage)
    got, out, err = typed("device", "attach", "web1", *words)
    assert (got, out, said in err) == (status, "", True), err
    assert "mend: " in err or status != InputError.exit_status
    assert (kept(stage), host(stage).made) == (before, set())
    assert all(not one.guest for one in host(stage).pci.values())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("device", "detach", "web1", "nic7"), "no device 'nic7'"),
        (("device", "detach", "web1", "nic7", "--within", "0s"), "no time at all"),
        (("device", "attach", "nobody", "--bridge", "br0"), "nobody"),
        (("device", "list", "nobody"), "nobody"),
        (("host", "devices", "nowhere"), "nowhere"),
        (("host", "pool", "host1", "fast"), "a pool needs functions"),
        (("host", "pool", "host1", "fast", "--functions", "eth0"), "names no PCI functions"),
        (("host", "pool", "host1", "a b", "--functions", "8086:154c"), "cannot be the name of a pool"),
    ],
)
def test_nonsense_is_refused_by_name(typed: Type, words: tuple[str, ...], said: str) -> None:
    status, out, err = typed(*words)
    assert (status, out, said in err) == (InputError.exit_status, "", True), err


async def nobody(_: object) -> list[str]:
    return []


def test_a_guest_that_is_being_migrated_is_left_alone(
    stage: Stage, typed: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(stage.journal.create(Spec("web1-0000", "web1", "host1", "host2", Policy(), None), 1.0))
    monkeypatch.setattr(stage.service.__class__, "take_up", nobody)
    status, _, err = typed("device", "attach", "web1", "--bridge", "br0")
    assert (status, host(stage).made) == (BusyError.exit_status, set()), err
    assert "is being migrated" in err


def test_the_tap_of_a_nic_that_was_plugged_in_by_hand_does_not_stay_behind(stage: Stage, typed: Type) -> None:
    async def by_hand() -> None:
        await host(stage).plug_taps([Tap("tap7", "br0")])
        guest = await host(stage).attach(await stage.inventory.vm("web1"))
        await guest.plug(NicPlan("br0", "52:54:00:00:00:07", identifier="hand"), tap="tap7")
        await guest.close()

    asyncio.run(by_hand())
    assert kept(stage).launch.taps == ()
    assert typed("migrate", "web1", "host2")[0] == 0
    assert (host(stage).made, host(stage, "host2").made) == (set(), {"tap7"})
    assert kept(stage).launch.taps == (Tap("tap7", "br0"),)


def test_a_function_that_the_guest_let_go_of_late_is_given_back_when_asked_again(stage: Stage, typed: Type) -> None:
    async def let_go() -> None:
        guest = await host(stage).attach(await stage.inventory.vm("web1"))
        await guest.unplug("host0", deadline=1.0)
        await guest.close()

    assert typed("device", "attach", "web1", "--function", VF)[0] == 0
    stage.world.holds_on.add(("web1", "host0"))
    assert typed("device", "detach", "web1", "host0", "--within", "1s")[0] == HypervisorError.exit_status
    assert host(stage).pci[VF].guest == "web1"
    stage.world.holds_on.clear()
    asyncio.run(let_go())
    status, out, _ = typed("device", "detach", "web1", "host0", "--json")
    assert (status, json.loads(out)["returned"], json.loads(out)["device"]) == (0, [VF], None)
    assert (host(stage).pci[VF].guest, host(stage).pci[VF].driver) == ("", "iavf")
    assert typed("device", "detach", "web1", "host0")[0] == InputError.exit_status
