"""Snapshots and files on real hosts: the contract of all hosts over real sshd, real QEMU and real images."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
from contract import Bench, until
from snapshotcontract import FileContract, SnapshotContract, nothing_left
from test_plain_lab import guest, host, lab

from godwit import app
from godwit.engine.carrying import Carrier

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from godwit.lab.laboratory import Laboratory
    from godwit.ports import Clock

__all__ = ["lab"]

pytestmark = pytest.mark.lab


@pytest.fixture
def clock() -> Clock:
    return app.RealClock()


@pytest.fixture
async def bench(lab: Laboratory) -> AsyncIterator[Bench]:
    name = f"s{secrets.token_hex(3)}"
    disk, private = f"/mnt/images/{name}.qcow2", f"/var/lib/{name} with spaces.iso"
    async with AsyncExitStack() as stack:
        source, target = [await stack.enter_async_context(host(lab, one)) for one in ("host1", "host2")]
        await source.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "16M"])
        # Neither a whole number of sectors nor without holes.
        await source.run(["sh", "-c", 'head -c 300001 /dev/urandom > "$0" && truncate -s 70000001 "$0"', private])
        drive = ("-drive", f"file={disk},format=qcow2,if=virtio")
        made = Bench(source, target, guest(name, *drive), disk, private)
        yield made
        for one in (source, target):
            await one.destroy(made.vm)
            await one.run(["rm", "-f", private])


class TestPlainSnapshots(SnapshotContract): ...


class TestPlainFiles(FileContract): ...


async def left(bench: Bench) -> str:
    """Return what still moves a file, or says so, on either host."""
    listed = "ls -A /run/godwit | grep -E '^(take|send)-'; ps -eo args | grep -E '[q]emu-nbd -f|[q]emu-img convert'"
    said = [await host.run(["sh", "-c", listed], check=False) for host in (bench.source, bench.target)]
    return "".join(one.stdout.decode() for one in said)


async def test_who_comes_after_ends_what_the_dead_had_under_way(bench: Bench, clock: Clock) -> None:
    address = (await bench.target.facts()).migration_address
    carrier = Carrier(bench.source, bench.target, address, "me", clock, nothing_left)
    image = await bench.source.image(bench.private, "raw")
    await bench.target.create_image(image, "me")
    name = carrier.name(bench.private)
    await bench.target.take_file(bench.private, name, address, await bench.target.free_port(), image.virtual_size)
    assert name in await left(bench)
    await bench.target.remove_image(bench.private, "me")
    assert await carrier.carry(bench.private) > 0
    assert await left(bench) == ""


async def test_a_carrier_that_is_cancelled_leaves_nothing(lab: Laboratory, bench: Bench, clock: Clock) -> None:
    lab.set_rate(8_000_000)
    await bench.source.run(["sh", "-c", 'head -c 20000000 /dev/urandom > "$0"', bench.private])
    try:
        address = (await bench.target.facts()).migration_address
        carrying = asyncio.create_task(
            Carrier(bench.source, bench.target, address, "me", clock, nothing_left).carry(bench.private)
        )

        async def begun() -> bool:
            return await bench.target.used(bench.private) > 0

        await until(begun)
        carrying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await carrying
        assert not (await bench.target.place(bench.private)).exists
        assert await left(bench) == ""
    finally:
        lab.set_rate(None)
