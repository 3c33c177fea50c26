"""The contract of all hosts, on real ones: a plain host over real sshd, with real files."""

from __future__ import annotations

import secrets
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
from contract import Bench, GuestContract, MigrationContract, MonitorContract, SiblingContract
from hostcontract import HostContract
from test_plain_lab import guest, host, lab

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from godwit.lab.laboratory import Laboratory

__all__ = ["lab"]

pytestmark = pytest.mark.lab


TAMPER = 'touch -r "$1" /tmp/times && printf x | dd of="$1" bs=1 seek=7 conv=notrunc && touch -r /tmp/times "$1"'


@pytest.fixture
async def bench(lab: Laboratory) -> AsyncIterator[Bench]:
    name = f"c{secrets.token_hex(3)}"
    disk, private = f"/mnt/images/{name}.raw", f"/var/lib/{name}.raw"
    async with AsyncExitStack() as stack:
        source, target = [await stack.enter_async_context(host(lab, one)) for one in ("host1", "host2")]
        await source.run(["truncate", "-s", "1M", disk, private])
        drive = ("-drive", f"file={disk},format=raw,if=virtio")

        async def tamper() -> None:
            await source.run(["sh", "-c", TAMPER, "sh", private])

        made = Bench(source, target, guest(name, *drive), disk, private, tamper)
        yield made
        for one in (source, target):
            await one.destroy(made.vm)


class TestPlainHost(HostContract): ...


class TestPlainMonitor(MonitorContract): ...


class TestPlainGuest(GuestContract): ...


class TestPlainMigration(MigrationContract): ...


class TestPlainSiblings(SiblingContract): ...
