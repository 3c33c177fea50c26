"""Devices that come and go while a guest runs, and guests that are moved with them."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING, Any, Final

import pytest
from bareguest import make
from labwaits import until

from godwit import app
from godwit.errors import HypervisorError, InputError, RefusedError
from godwit.lab.furnish import GuestPlan, add_guest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from labtools import Ground, Ran

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900), pytest.mark.usefixtures("healthy")]

SLOW: Final = 60
"""Seconds that an emulated guest on a busy machine may take to see a device."""

ROOM: Final = ("-m", "slots=4,maxmem=1G", "-smp", "maxcpus=3")
"""What a guest needs to be given memory and processors later."""


@pytest.fixture
async def guest(ground: Ground) -> AsyncIterator[Ground]:
    """Start a guest with ports, and room for memory and processors; it is ended afterwards."""
    plan = GuestPlan(f"plug{ground.guests}", ground.guests, 224 << 20, hotplug_ports=3, extra=ROOM)
    before, ground.guests = (ground.name, ground.number), ground.guests + 1
    async with app.opened(ground.home) as service:
        vm = await add_guest(service, ground.lab, ground.assets, plan)
    ground.use(vm.name, plan.number)
    await ground.answers()
    yield ground
    for words in (("stop", "--force"), ("remove",)):
        await ground.godwit("vm", *words, vm.name)
    ground.use(*before)


async def device(ground: Ground, *words: str) -> Ran:
    """Type a device command about the present guest."""
    ran = await ground.godwit("device", words[0], ground.name, *words[1:], "--json")
    assert ran.status == 0, ran
    return ran


async def listed(ground: Ground) -> dict[str, dict[str, Any]]:
    rows = json.loads((await device(ground, "list")).out)
    return {row["identifier"]: row for row in rows}


async def move(ground: Ground) -> str:
    """Move the guest to the other host while a client reads, and return that host."""
    _, there = await ground.whereabouts()
    async with ground.client():
        ran = await ground.godwit("migrate", ground.name, ground.host(there))
    assert ran.status == 0, ran
    return there


async def tell(ground: Ground, command: str, **arguments: object) -> Any:  # noqa: ANN401 - whatever QEMU returns
    """Say something with arguments to the guest's second monitor, as somebody without Godwit would."""
    here, _ = await ground.whereabouts()
    path = f"/proc/{ground.init(here)}/root/run/godwit/{ground.name}/observe.sock"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(path)
        stream = connection.makefile("rw")
        stream.readline()
        for words in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
            stream.write(json.dumps(words) + "\n")
            stream.flush()
            while not {"return", "error"} & (said := json.loads(stream.readline())).keys():
                pass
            assert "error" not in said, said
    return said["return"]


def sees(ground: Ground, what: str) -> bool:
    return ground.ssh(f"test -e {what} && echo yes") == "yes"


@pytest.mark.long
async def test_a_nic_and_a_disk_come_move_there_and_back_and_go(guest: Ground) -> None:
    image = f"/mnt/images/{guest.name}-more.qcow2"
    make(guest, "host1", "qemu-img", "create", "-q", "-f", "qcow2", image, "64M")
    nic = json.loads((await device(guest, "attach", "--bridge", "br0")).out)["device"]
    disk = json.loads((await device(guest, "attach", "--disk", image)).out)["device"]
    assert (nic["bus"], disk["bus"], disk["source"]) == ("hotplug0", "hotplug1", image)
    await until(lambda: sees(guest, "/sys/class/net/eth1") and sees(guest, "/dev/vdb"), "the guest sees both", SLOW)
    guest.ssh("ip link set eth1 up; echo kept | dd of=/dev/vdb bs=512 conv=sync,fsync 2>/dev/null")
    assert guest.ssh("cat /sys/class/net/eth1/address") == nic["mac"]
    wire = f"cat /sys/class/net/{nic['source']}/carrier"
    for expected in ("host2", "host1"):
        there = await move(guest)
        assert there == expected
        assert guest.inside(there, "sh", "-c", wire).strip() == "1"
        assert nic["source"] in guest.inside(there, "ip", "link", "show", "master", "br0")
        assert nic["source"] not in guest.taps("host2" if there == "host1" else "host1")
        read = (
            "echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vdb bs=5 count=1 2>/dev/null; cat /sys/class/net/eth1/address"
        )
        assert guest.ssh(read).split() == ["kept", nic["mac"]]
        assert {nic["identifier"], disk["identifier"]} <= set(await listed(guest))
    for one in (nic, disk):
        await device(guest, "detach", one["identifier"], "--within", f"{SLOW}s")
    await until(lambda: not sees(guest, "/sys/class/net/eth1") and not sees(guest, "/dev/vdb"), "both are gone", SLOW)
    assert nic["source"] not in guest.taps("host1")
    # The image is nobody's any more: whoever wants to write to it gets its lock.
    make(guest, "host1", "qemu-io", "-f", "qcow2", "-c", "write 0 512", image)
    assert set(await listed(guest)) & {nic["identifier"], disk["identifier"]} == set()
    async with app.opened(guest.home) as service:
        kept = (await service.inventory.vm(guest.name)).launch
    assert nic["source"] not in {tap.interface for tap in kept.taps}
    assert image not in " ".join(kept.argv)


@pytest.mark.long
async def test_what_was_attached_is_there_after_the_next_start(guest: Ground) -> None:
    nic = json.loads((await device(guest, "attach", "--bridge", "br0", "--id", "extra")).out)["device"]
    await guest.godwit("vm", "stop", "--force", guest.name)
    assert nic["source"] not in guest.taps("host1")
    assert (await guest.godwit("vm", "start", guest.name)).status == 0
    await guest.answers()
    assert (await listed(guest))["extra"]["mac"] == nic["mac"]
    await until(lambda: guest.ssh("cat /sys/class/net/eth1/address") == nic["mac"], "the guest sees it", SLOW)


@pytest.mark.long
async def test_a_guest_that_does_not_let_go_keeps_it_and_is_asked_again(guest: Ground) -> None:
    nic = json.loads((await device(guest, "attach", "--bridge", "br0")).out)["device"]
    await until(lambda: sees(guest, "/sys/class/net/eth1"), "the guest sees it", SLOW)
    name = nic["identifier"]
    await tell(guest, "stop")  # a guest whose processors stand still answers nobody
    refused = await guest.godwit("device", "detach", guest.name, name, "--within", "2s")
    assert refused.status == HypervisorError.exit_status, refused
    assert f"has not let go of {name} within 2 s" in refused.err
    assert f"godwit device detach {guest.name} {name}" in refused.err
    assert nic["source"] in guest.taps("host1")
    assert name in await listed(guest)
    await tell(guest, "cont")
    await device(guest, "detach", name, "--within", f"{SLOW}s")
    assert name not in await listed(guest)
    assert nic["source"] not in guest.taps("host1")


@pytest.mark.long
async def test_what_a_guest_lets_go_of_when_nobody_waits_any_more_is_tidied_up_when_asked_again(guest: Ground) -> None:
    nic = json.loads((await device(guest, "attach", "--bridge", "br0")).out)["device"]
    await until(lambda: sees(guest, "/sys/class/net/eth1"), "the guest sees it", SLOW)
    await tell(guest, "stop")
    refused = await guest.godwit("device", "detach", guest.name, nic["identifier"], "--within", "1s")
    assert refused.status == HypervisorError.exit_status, refused
    await tell(guest, "cont")
    await until(lambda: not sees(guest, "/sys/class/net/eth1"), "the guest has let go", SLOW)
    assert nic["source"] in guest.taps("host1")
    ran = await device(guest, "detach", nic["identifier"])
    assert json.loads(ran.out)["device"] is None
    assert nic["source"] not in guest.taps("host1")


@pytest.mark.long
async def test_a_full_machine_says_what_mends_it_and_nothing_is_left_of_the_fourth(guest: Ground) -> None:
    for _ in range(3):
        await device(guest, "attach", "--bridge", "br0")
    taps = set(guest.taps("host1"))
    refused = await guest.godwit("device", "attach", guest.name, "--bridge", "br0")
    assert refused.status == HypervisorError.exit_status, refused
    assert "hotplug0, hotplug1, hotplug2 are taken" in refused.err
    assert "hotplug_ports" in refused.err
    assert set(guest.taps("host1")) == taps
    for words, status in (
        (("--bridge", "br9"), 5),
        (("--disk", "/mnt/images/none.raw"), HypervisorError.exit_status),
        (("--bridge", "br0", "--model", "no-such-nic"), HypervisorError.exit_status),
    ):
        ran = await guest.godwit("device", "attach", guest.name, *words)
        assert ran.status == status, ran
        assert set(guest.taps("host1")) == taps
    fixed = await guest.godwit("device", "detach", guest.name, "nic0")
    assert fixed.status == InputError.exit_status


@pytest.mark.long
async def test_a_processor_that_was_plugged_in_by_hand_moves_along(guest: Ground) -> None:
    place = {"socket-id": 0, "core-id": 1, "thread-id": 0, "node-id": 0}
    await tell(guest, "device_add", driver="qemu64-x86_64-cpu", id="cpu1", **place)
    await until(lambda: sees(guest, "/sys/devices/system/cpu/cpu1"), "the guest sees it", SLOW)
    guest.ssh("echo 1 > /sys/devices/system/cpu/cpu1/online")
    await until(lambda: guest.ssh("cat /sys/devices/system/cpu/online") == "0-1", "it works", SLOW)
    for _ in range(2):
        await move(guest)
        assert guest.ssh("cat /sys/devices/system/cpu/online") == "0-1"
        assert len(await tell(guest, "query-cpus-fast")) == 2


@pytest.mark.long
@pytest.mark.parametrize("kind", ["pc-dimm", "virtio-mem-pci"])
@pytest.mark.parametrize("backend", ["memory-backend-ram", "memory-backend-memfd"])
async def test_memory_that_was_plugged_in_is_refused_under_emulation_and_could_be_started_elsewhere(
    guest: Ground, kind: str, backend: str
) -> None:
    """QEMU's emulation loses such guests; what would start them elsewhere is right all the same: a QEMU takes it."""
    await tell(guest, "object-add", **{"qom-type": backend, "id": "m1", "size": 128 << 20})
    bus = {"bus": "hotplug2", "requested-size": 0} if kind == "virtio-mem-pci" else {}
    await tell(guest, "device_add", driver=kind, id="mem1", memdev="m1", **bus)
    async with app.opened(guest.home) as service:
        vm = await service.inventory.vm(guest.name)
        here = service.open_host(await service.inventory.host(vm.host))
        there = service.open_host(await service.inventory.host(guest.host("host2")))
        try:
            monitor = await here.attach(vm)
            facts = await monitor.facts()
            await monitor.close()
            await there.prepare_launch(vm, facts.launch)
            assert await there.launch(vm, facts.launch, incoming=True)
            await there.destroy(vm)
        finally:
            await asyncio.gather(here.close(), there.close())
    assert '"mem1"' in " ".join(facts.launch.argv)
    if kind == "pc-dimm":  # of the other kind the guest has not taken anything yet
        refused = await guest.godwit("migrate", guest.name, guest.host("host2"))
        assert refused.status == RefusedError.exit_status, refused
        assert "plugged-in memory" in refused.err
