"""Several hosts with guests, for commands that look at many of them. Run as a program it is `godwit` over them."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from clistage import WEB1, Stage

from godwit.cli import ground
from godwit.cli.main import main
from godwit.hosts.fake import FakeHost
from godwit.model import HostRecord, Launch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from godwit.service import Service

LAUNCH = Launch(("qemu-system-x86_64", "-name", "web2", "-m", "512", "-drive", "file=/images/web1.raw"))


class Fleet:
    """Four hosts; web1 on host1 and web2 on host2 share a disk file, host3 has another clock, host4 no QEMU."""

    def __init__(self, *more: str) -> None:
        self.stage = Stage()
        world = self.stage.world
        FakeHost(world, "host3", clock_offset=30.0)
        FakeHost(world, "host4", has_qemu=False)
        for name in more:
            FakeHost(world, name)
        world._files.clear()
        world.disks.newest.clear()
        world.add_file("/images/web1.raw", list(world.hosts))
        self.hosts: dict[str, FakeHost] = dict(world.hosts)
        self.service: Service = replace(self.stage.service, open_host=lambda record: self.hosts[record.name])
        asyncio.run(self._furnish())

    async def _furnish(self) -> None:
        for name in self.hosts:
            await self.service.inventory.put_host(HostRecord(name, f"ssh://root@{name}"))
        web2 = replace(WEB1, name="web2", host="host2", launch=LAUNCH, control="/run/web2.qmp", address=None)
        await self.service.inventory.put_vm(self.stage.world.start_guest("host2", web2))

    @asynccontextmanager
    async def opened(self, _: tuple[str, str] | None = None, **__: bool) -> AsyncIterator[Service]:
        """Be what commands get their service from."""
        yield self.service


if __name__ == "__main__":
    fleet = Fleet(*(f"a-host-with-a-longer-name-{number}" for number in range(6)))
    fleet.hosts["a-host-with-a-longer-name-5"].cut_off = True
    ground.opener = fleet.opened
    sys.exit(main(sys.argv[1:]))
