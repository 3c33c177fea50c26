"""Against a real QEMU: that QEMU itself takes the command lines is the proof that they are right."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from qemu_machines import Machines, stream

from godwit.errors import MonitorBusyError, MonitorLostError
from godwit.lab import assets
from godwit.lab.guestimage import KERNEL_ARGUMENTS
from godwit.model import RunState, StreamStatus
from godwit.qemu.commandline import incoming_argv
from godwit.qemu.define import make_definition
from godwit.qemu.monitor import Monitor
from godwit.qemu.vmline import to_vm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from godwit.lab.assets import Assets
    from godwit.model import Launch
    from godwit.qemu.guest import QemuGuest

pytestmark = pytest.mark.lab

SEED = "qemu-system-x86_64 rhel7.img -smp 2 -m 256 -net nic -net user -qmp unix:qmp0,server,nowait"
Q35 = (
    "qemu-system-x86_64 -M q35,usb=off -smp 2,maxcpus=4,sockets=4 -m 256"
    " -device virtio-net-pci,netdev=n1,id=a -netdev user,id=n1 -netdev user,id=n3"
    " -device pcie-root-port,id=rp1,chassis=1 -device pcie-root-port,id=rp2,chassis=2"
    ' -device pcie-root-port,id=rp3,chassis=3 -device \'{"driver":"virtio-scsi-pci","id":"vs"}\''
    " -device virtio-rng-pci -device qemu-xhci,id=xhci -drive file=rhel7.img,if=virtio,format=raw"
    " -nic user,model=virtio -nographic -monitor none -serial file:ser.log -qmp unix:qmp0,server,nowait"
)


@pytest.fixture(scope="module")
def host_tree() -> Path:
    named = os.environ.get("GODWIT_LAB_HOST_TREE")
    return Path(named) if named else assets.prepare(assets.cache_folder(), print).hosttree


@pytest.fixture(scope="module")
def guest() -> Assets:
    return assets.prepare(assets.cache_folder(), print)


@pytest.fixture
async def machines(host_tree: Path, tmp_path: Path) -> AsyncIterator[Machines]:
    made = Machines(host_tree, tmp_path)
    for arguments in (
        ["raw", "rhel7.img", "64M"],
        ["qcow2", "e1.qcow2", "32M"],
        ["qcow2", "e2.qcow2", "32M"],
        ["qcow2", "-b", "e2.qcow2", "-F", "qcow2", "o2.qcow2"],
    ):
        subprocess.run(made.command("qemu-img", "create", "-q", "-f", *arguments), cwd=tmp_path, check=True)  # noqa: ASYNC221
    yield made
    await made.close()


def renamed(launch: Launch, number: int) -> tuple[str, ...]:
    """Give the target another monitor socket: in these tests both sides share one file system."""
    return tuple(word.replace(f"/qmp{number - 1}", f"/qmp{number}") for word in incoming_argv(launch))


async def move(machines: Machines, source: QemuGuest, number: int) -> QemuGuest:
    facts = await source.facts()
    assert facts.refusals == ()
    folder = machines.folder
    target, _ = await machines.start(renamed(facts.launch, number), str(folder / f"qmp{number}"))
    assert (await target.view()).state is RunState.INCOMING
    said = await stream(source, target, folder / f"stream{number}")
    assert said == ("completed", "completed"), machines.log(number)
    view = await target.view()
    assert (view.state, view.stream) == (RunState.PAUSED, StreamStatus.COMPLETED)
    async with asyncio.timeout(30):
        # The run state follows the stream's end, without an event of its own.
        while (await source.view()).state is not RunState.POSTMIGRATE:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await target.resume()
    assert (await target.view()).state is RunState.RUNNING
    await source.quit()
    return target


async def test_a_seed_style_guest_goes_there_and_back_and_there_with_what_was_plugged_in(machines: Machines) -> None:
    guest, _ = await machines.start(shlex.split(SEED), str(machines.folder / "qmp0"))
    ask = guest.monitor.execute
    disk = {"driver": "file", "filename": str(machines.folder / "e1.qcow2")}
    await ask("blockdev-add", {"driver": "qcow2", "node-name": "hp0", "file": disk})
    await ask("device_add", {"driver": "virtio-blk-pci", "drive": "hp0", "id": "hpdisk", "serial": "abc"})
    await ask("netdev_add", {"type": "user", "id": "hpn"})
    await ask("device_add", {"driver": "virtio-net-pci", "netdev": "hpn", "id": "hpnic"})
    before = await guest.facts()
    guest = await move(machines, guest, 1)
    ask = guest.monitor.execute
    await ask("blockdev-add", {"driver": "file", "node-name": "f2", "filename": str(machines.folder / "o2.qcow2")})
    await ask("blockdev-add", {"driver": "qcow2", "node-name": "hp2", "file": "f2"})
    await ask("object-add", {"qom-type": "iothread", "id": "io0"})
    await ask("device_add", {"driver": "virtio-scsi-pci", "id": "scsi0", "iothread": "io0"})
    await ask("device_add", {"driver": "scsi-hd", "drive": "hp2", "id": "hp2d", "bus": "scsi0.0"})
    await ask("device_add", {"driver": "virtio-rng-pci", "addr": "0x12"})
    guest = await move(machines, guest, 2)
    guest = await move(machines, guest, 3)
    after = await guest.facts()
    assert after.nics == before.nics
    assert [disk.name for disk in after.disks] == ["ide0-hd0", "hpdisk", "hp2d", "hp2d backing"]


async def test_a_q35_guest_keeps_ports_cpus_and_usb_that_were_plugged_in(machines: Machines) -> None:
    guest, _ = await machines.start(shlex.split(Q35), str(machines.folder / "qmp0"))
    ask = guest.monitor.execute
    disk = {"driver": "file", "filename": str(machines.folder / "e1.qcow2"), "cache": {"direct": True}}
    await ask("blockdev-add", {"driver": "qcow2", "node-name": "hp0", "file": disk})
    await ask("device_add", {"driver": "virtio-blk-pci", "drive": "hp0", "id": "hpdisk", "bus": "rp1"})
    await ask("netdev_add", {"type": "user", "id": "hpn"})
    await ask("device_add", {"driver": "e1000e", "netdev": "hpn", "id": "hpnic", "bus": "rp2"})
    cpu = {"driver": "qemu64-x86_64-cpu", "id": "cpu2", "socket-id": 2, "core-id": 0, "thread-id": 0}
    await ask("device_add", cpu)
    await ask("device_add", {"driver": "usb-tablet", "id": "tab", "bus": "xhci.0"})
    guest = await move(machines, guest, 1)
    no_rom = {
        "driver": "virtio-net-pci",
        "netdev": "n3",
        "id": "n3dev",
        "bus": "rp3",
        "rx_queue_size": 1024,
        "romfile": "",
    }
    await guest.monitor.execute("device_add", no_rom)
    guest = await move(machines, guest, 2)
    guest = await move(machines, guest, 3)
    assert (await guest.facts()).vcpus == 3


async def test_what_was_unplugged_stays_away_and_the_others_keep_their_places(
    machines: Machines, guest: Assets
) -> None:
    line = (
        f"qemu-system-x86_64 -M pc -m 192 -kernel {guest.kernel} -initrd {guest.initramfs} -nographic -monitor none"
        f" -append '{KERNEL_ARGUMENTS} godwit.services=none' -serial file:console -qmp unix:qmp0,server=on,wait=off"
        " -device virtio-rng-pci -blockdev file,node-name=f1,filename=e1.qcow2 -blockdev qcow2,node-name=d1,file=f1"
        " -device virtio-blk-pci,drive=d1,id=gone -netdev user,id=n1 -device virtio-net-pci,netdev=n1 -device e1000"
    )
    source, _ = await machines.start(shlex.split(line), str(machines.folder / "qmp0"))
    async with asyncio.timeout(60):
        # A file gives no event when it grows.
        while "godwit-guest ready" not in (machines.folder / "console").read_text(errors="replace"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    events = source.monitor.events()
    await source.monitor.execute("device_del", {"id": "gone"})
    async with asyncio.timeout(30):
        async for event in events:
            if event.name == "DEVICE_DELETED" and event.data.get("device") == "gone":
                break
    for node in ("d1", "f1"):
        await source.monitor.execute("blockdev-del", {"node-name": node})
    facts = await source.facts()
    assert facts.disks == ()
    assert not [word for word in facts.launch.argv if "d1" in word.split("=") or "gone" in word]
    assert "virtio-net-pci,netdev=n1,addr=05.0,bus=pci.0,mac=52:54:00:12:34:56" in facts.launch.argv
    target = await move(machines, source, 1)
    disk = {"driver": "file", "filename": str(machines.folder / "e1.qcow2")}
    await target.monitor.execute("blockdev-add", {"driver": "qcow2", "node-name": "d9", "file": disk})
    await target.monitor.execute("device_add", {"driver": "virtio-blk-pci", "drive": "d9", "id": "new"})
    await move(machines, await move(machines, target, 2), 3)


async def test_plugged_memory_is_refused_because_qemu_would_die(machines: Machines) -> None:
    line = f"{SEED} -m 256,slots=2,maxmem=1G"
    guest, _ = await machines.start(shlex.split(line), str(machines.folder / "qmp0"))
    await guest.monitor.execute("object-add", {"qom-type": "memory-backend-ram", "id": "m1", "size": 128 << 20})
    await guest.monitor.execute("device_add", {"driver": "pc-dimm", "id": "dimm1", "memdev": "m1"})
    facts = await guest.facts()
    assert facts.memory == 384 << 20
    assert "plugged-in memory" in facts.refusals[0]


@pytest.mark.parametrize(
    ("shared", "there_too"),
    [
        pytest.param(True, True, id="shared here and there"),
        pytest.param(True, False, id="shared here alone", marks=pytest.mark.long),
        pytest.param(False, True, id="shared there alone"),
        pytest.param(False, False, id="shared nowhere", marks=pytest.mark.long),
    ],
)
async def test_a_defined_guest_starts_pauses_moves_and_quits(
    machines: Machines, *, shared: bool, there_too: bool
) -> None:
    """Whether all of its memory is shared is nobody's business but its host's: the stream is the same."""
    document: dict[str, object] = {
        "name": f"test-{os.getpid()}",
        "memory": "64M",
        "disks": [{"path": str(machines.folder / "e1.qcow2"), "format": "qcow2", "cache": "writeback"}],
    }
    vm, other = (
        to_vm(
            make_definition(document, "test"),
            host="h",
            machine="pc-q35-10.0",
            accelerator="tcg",
            shares_memory=sharing,
        )
        for sharing in (shared, shared if there_too else not shared)
    )
    for folder in vm.launch.folders:
        os.makedirs(folder)  # noqa: PTH103 - as ASYNC240 wants it
    try:
        guest, pid = await machines.start(vm.launch.argv, vm.control)
        with pytest.raises(MonitorBusyError):
            await Monitor.open(vm.control, where="test", deadline=0.5)
        assert (await guest.view()).state is RunState.RUNNING
        assert await guest.sample() is None
        await guest.pause()
        assert (await guest.view()).state is RunState.PAUSED
        await guest.resume()
        await guest.announce()
        facts = await guest.facts()
        assert facts.refusals == ()
        launch = facts.launch if there_too else other.launch
        there = tuple(word.replace(vm.launch.folders[0], str(machines.folder)) for word in incoming_argv(launch))
        target, _ = await machines.start(there, str(machines.folder / "control.sock"))
        await guest.set_parameters({"downtime-limit": 20, "max-bandwidth": 0})
        assert await stream(guest, target, machines.folder / "stream") == ("completed", "completed")
        result = await guest.migration_result()
        assert result["transferred"] > 0
        assert result["passes"] >= 1
        await target.resume()
        assert (await target.view()).state is RunState.RUNNING
        events = guest.events()
        os.kill(pid, signal.SIGKILL)
        assert [event.kind async for event in events] == ["LOST"]
        with pytest.raises(MonitorLostError):
            await guest.view()
        await target.quit()
    finally:
        shutil.rmtree(vm.launch.folders[0])


async def test_a_stopped_process_is_silent_and_can_be_let_go_of(machines: Machines) -> None:
    guest, pid = await machines.start(shlex.split(SEED), str(machines.folder / "qmp0"))
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(MonitorLostError, match="did not answer"):
        await guest.monitor.execute("query-status", deadline=0.2)
    assert guest.monitor.connected
    await guest.close()
    os.kill(pid, signal.SIGCONT)
    again = await machines.attach(pid, str(machines.folder / "qmp0"))
    assert (await again.view()).state is RunState.RUNNING


async def test_a_broken_stream_fails_on_the_source_and_ends_the_target(machines: Machines) -> None:
    guest, _ = await machines.start(shlex.split(SEED), str(machines.folder / "qmp0"))
    facts = await guest.facts()
    target, pid = await machines.start(renamed(facts.launch, 1), str(machines.folder / "qmp1"))
    await guest.set_capabilities({"events": True})
    await guest.set_parameters({"max-bandwidth": 65536, "downtime-limit": 1})
    events, ends = guest.events(), target.events()
    await target.listen(f"unix:{machines.folder}/stream")
    await guest.migrate(f"unix:{machines.folder}/stream")
    async for event in events:
        if event.kind == "MIGRATION_PASS":
            break
    os.kill(pid, signal.SIGKILL)
    statuses = [event.kind async for event in ends]
    assert statuses[-1] == "LOST"
    async for event in events:
        if event.status == "failed":
            break
    view = await guest.view()
    assert (view.state, view.stream) == (RunState.RUNNING, StreamStatus.FAILED)
    assert view.detail


async def test_cancel_leaves_the_source_running(machines: Machines) -> None:
    guest, _ = await machines.start(shlex.split(SEED), str(machines.folder / "qmp0"))
    target, _ = await machines.start(renamed((await guest.facts()).launch, 1), str(machines.folder / "qmp1"))
    await guest.set_capabilities({"events": True, "pause-before-switchover": True})
    await guest.set_parameters({"max-bandwidth": 0})
    events = guest.events()
    await target.listen(f"unix:{machines.folder}/stream")
    await guest.migrate(f"unix:{machines.folder}/stream")
    async for event in events:
        if event.status == "pre-switchover":
            break
    view = await guest.view()
    assert (view.state, view.stream) == (RunState.STOPPED_FOR_SWITCHOVER, StreamStatus.HELD)
    await guest.cancel_migration()
    async for event in events:
        if event.status == "cancelled":
            break
    view = await guest.view()
    assert (view.state, view.stream) == (RunState.RUNNING, StreamStatus.CANCELLED)
