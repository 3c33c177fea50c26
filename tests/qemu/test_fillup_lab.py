"""An older copy of a disk is filled up, on real QEMUs, while a writer writes between any two of their commands."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from qemu_machines import Machines

from godwit.core.disks import job_name, stamp_name
from godwit.lab import assets
from godwit.model import DiskCopy, ImageFacts
from godwit.qemu import mirrors, stamps
from godwit.qemu.reply import inner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from godwit.model import Stamp
    from godwit.qemu.guest import QemuGuest
    from godwit.qemu.monitor import Monitor

pytestmark = pytest.mark.lab

SIZE, CHUNK = 64 << 20, 16384
DISK = "disk0"
BACKEND = f"/machine/peripheral/{DISK}/virtio-backend"


@dataclass
class Writer:
    """Stands in for the guest: writes to its disk, through the device, before and after commands to its QEMU."""

    monitor: Monitor
    chance: random.Random
    at_work: bool = True
    written: int = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.monitor, name)

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        await self.write_perhaps()
        reply = await self.monitor.execute(command, arguments)
        await self.write_perhaps()
        return reply

    async def write_perhaps(self) -> None:
        if self.at_work and self.chance.random() < 0.6:
            await self.write()

    async def write(self) -> None:
        where, what = self.chance.randrange(SIZE // CHUNK) * CHUNK, self.chance.randrange(1, 255)
        verb = self.chance.choice([f"write -q -P {what} {where} 4k", f"write -q -z -u {where} {CHUNK}"])
        line = {"command-line": f'qemu-io -d {BACKEND} "{verb}"'}
        said = await self.monitor.execute("human-monitor-command", line)
        assert said == "", said
        self.written += 1


@dataclass
class Handovers:
    """Hands a disk to and fro between two images."""

    machines: Machines
    kind: str
    chance: random.Random
    number: int = 0
    stamp: str = ""

    async def boot(self, name: str) -> QemuGuest:
        self.number += 1
        below = {"driver": "file", "node-name": "below", "filename": f"{name}.{self.kind}", "discard": "unmap"}
        disk = {"driver": self.kind, "node-name": "disk", "file": "below", "discard": "unmap"}
        socket = self.machines.folder / f"qmp{self.number}"
        nodes = [word for node in (below, disk) for word in ("-blockdev", json.dumps(node))]
        argv = ("qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "q35", "-S", "-m", "64", *nodes)
        device = ("-device", f"virtio-blk-pci,id={DISK},drive=disk,share-rw=on")
        guest, _ = await self.machines.start((*argv, *device, "-qmp", f"unix:{socket},server=on,wait=off"), str(socket))
        return guest

    def copy(self) -> DiskCopy:
        image = ImageFacts(f"/images/any.{self.kind}", self.kind, SIZE, SIZE)
        stamp = stamp_name(f"{self.number}-{self.chance.randrange(1 << 30)}")
        return DiskCopy(DISK, image, job_name(DISK), stamp=stamp, older=bool(self.stamp), since=self.stamp)

    async def hand_over(self, source: QemuGuest, target: QemuGuest, port: int, *, torn: bool = False) -> int:
        """Copy the disk while the writer is at work, stamp both; returns the bytes that were copied."""
        copy = self.copy()
        writer = Writer(source.monitor, self.chance)
        source._monitor = writer  # type: ignore[assignment] # where every command goes through
        await target.serve_disks("127.0.0.1", port, (copy,))
        await source.start_mirror(copy, "127.0.0.1", port, 0)
        if torn:
            await source.cancel_mirrors((copy,))
            await source.start_mirror(copy, "127.0.0.1", port, 0)
        async with asyncio.timeout(30):
            while not all(view.ready for view in await source.mirrors((copy,))):
                await writer.write()
        assert await source.mirrors((copy,)), "the copy is under way"
        await source.keep_alike(copy)
        for _ in range(20):
            await writer.write()
        copied = sum(view.done for view in await source.mirrors((copy,)))
        writer.at_work = False
        await source.end_mirror(copy)
        async with asyncio.timeout(10):
            while await source.mirrors((copy,)):  # noqa: ASYNC110 - its end is no matter of events here
                await asyncio.sleep(0.01)
        await source.forget_mirrors((copy,))
        await target.stop_serving()
        assert await source.stamp_disks((copy,)) == ()
        assert await target.stamp_disks((copy,)) == ()
        assert writer.written > 20
        source._monitor = writer.monitor
        self.stamp = copy.stamp
        return copied

    async def assert_equal(self, live: QemuGuest, left: str) -> None:
        """Compare the live disk, as its QEMU sees it, with the image that was left."""
        socket = self.machines.folder / "compare"
        execute = live.monitor.execute
        await execute("nbd-server-start", {"addr": {"type": "unix", "data": {"path": str(socket)}}})
        await execute("block-export-add", {"type": "nbd", "id": "compare", "node-name": "disk", "name": "disk"})
        try:
            there = f"nbd+unix:///disk?socket={socket}"
            await self.machines.run("qemu-img", "compare", "-f", self.kind, "-F", "raw", f"{left}.{self.kind}", there)
        finally:
            await execute("nbd-server-stop")


@pytest.fixture
async def machines(tmp_path: Path) -> AsyncIterator[Machines]:
    made = Machines(assets.prepare(assets.cache_folder(), print).hosttree, tmp_path)
    yield made
    await made.close()


@pytest.mark.parametrize("kind", ["qcow2", pytest.param("raw", marks=pytest.mark.long)])
@pytest.mark.parametrize("seed", range(4))
async def test_a_write_in_any_gap_arrives(machines: Machines, kind: str, seed: int, unused_tcp_port: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    hands = Handovers(machines, kind, chance)
    for name in ("a", "b"):
        await machines.run("qemu-img", "create", "-q", "-f", kind, f"{name}.{kind}", str(SIZE))
    await machines.run("qemu-io", "-f", kind, "-c", "write -q -P 7 0 40M", f"a.{kind}")
    here, there = "a", "b"
    live = await hands.boot(here)
    for turn in range(4):
        target = await hands.boot(there)
        copied = await hands.hand_over(live, target, unused_tcp_port, torn=turn == 2)
        await live.quit()
        await hands.assert_equal(target, here)
        if turn:
            assert copied < 16 << 20, "only what was written"
        assert hands.stamp in {stamp.name for stamp in await facts_of(target)}
        await target.forget_stamps((replace(hands.copy(), stamp=hands.stamp),))
        assert [stamp.name for stamp in await facts_of(target)] == [hands.stamp]
        writer = Writer(target.monitor, chance)
        for _ in range(10):
            await writer.write()
        if kind == "qcow2" and turn == 1:  # the stamp outlives a restart that was in order
            await target.quit()
            target = await hands.boot(there)
        live, here, there = target, there, here


async def facts_of(guest: QemuGuest) -> list[Stamp]:
    rows = await mirrors.rows_of(guest.monitor)
    return list(stamps.trusted(inner(rows[DISK], "inserted")))


async def test_a_qemu_that_was_killed_leaves_no_stamp_that_is_trusted(machines: Machines, unused_tcp_port: int) -> None:
    hands = Handovers(machines, "qcow2", random.Random(7))  # noqa: S311 - not for secrets
    for name in ("a", "b"):
        await machines.run("qemu-img", "create", "-q", "-f", "qcow2", f"{name}.qcow2", str(SIZE))
    source, target = await hands.boot("a"), await hands.boot("b")
    await hands.hand_over(source, target, unused_tcp_port)
    await source.quit()
    await Writer(target.monitor, hands.chance).write()
    machines.processes[-1].kill()
    machines.processes[-1].wait()
    again = await hands.boot("b")
    assert await facts_of(again) == []
    await again.forget_stamps((replace(hands.copy(), stamp=""),))
