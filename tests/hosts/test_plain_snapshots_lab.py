"""Snapshots and files on real hosts: the contract of all hosts over real sshd, real QEMU and real images."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
from contract import Bench, until
from snapshotcontract import FileContract, SnapshotContract
from test_plain_lab import guest, host, lab

from godwit import app
from godwit.engine.carrying import Carrier
from godwit.storage import files

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
    said = await bench.source.run(
        ["sh", "-c", "ls -A /run/godwit/files 2>/dev/null; ps -eo args | grep '[q]emu-nbd --fork'"], check=False
    )
    return said.stdout.decode()


async def test_who_is_no_longer_asked_for_a_file_ends_by_itself(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LEASE", 1)
    address = (await bench.source.facts()).migration_address
    await bench.source.serve_file(bench.private, "a-lease", address)
    assert "a-lease" in await left(bench)

    async def nobody_serves() -> bool:
        return await left(bench) == ""

    await until(nobody_serves)


async def test_a_carrier_that_is_cancelled_leaves_nothing(lab: Laboratory, bench: Bench, clock: Clock) -> None:
    lab.set_rate(8_000_000)
    await bench.source.run(["sh", "-c", 'head -c 20000000 /dev/urandom > "$0"', bench.private])
    try:
        address = (await bench.source.facts()).migration_address
        carrying = asyncio.create_task(Carrier(bench.source, bench.target, address, "me", clock).carry(bench.private))

        async def begun() -> bool:
            return await bench.target.used(bench.private) > 0

        async def nobody_fetches() -> bool:
            listed = ["sh", "-c", "ps -eo args | grep '[q]emu-img convert'"]
            return (await bench.target.run(listed, check=False)).stdout == b""

        await until(begun)
        carrying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await carrying
        assert not (await bench.target.place(bench.private)).exists
        assert await left(bench) == ""
        # Who fetches ends soon after who served: until then it holds a file that has no name any more.
        await until(nobody_fetches)
    finally:
        lab.set_rate(None)
