"""A simulated copy of a disk to another QEMU: it flows over the link, is ready, keeps up, and ends whole or not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from godwit.hosts.fakedisks import CHANGE
from godwit.model import MirrorView

if TYPE_CHECKING:
    from godwit.hosts.fakeqemu import FakeQemu
    from godwit.hosts.fakestream import Link
    from godwit.model import DiskCopy

STEP: Final = 0.05
"""Seconds between looks at the link."""


class FakeMirror:
    """One job on `source`, whose copy goes to the disk of the same path that `target` serves."""

    def __init__(self, source: FakeQemu, target: FakeQemu, copy: DiskCopy, link: Link, speed: int = 0) -> None:
        """Begin to flow."""
        self.source, self.target, self.copy, self.link = source, target, copy, link
        self.speed = speed
        self.done = 0.0
        self.needed = self._changed() if copy.since else copy.image.allocated
        self.ending = False
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"mirror-{copy.job}")

    @property
    def ready(self) -> bool:
        """Whether each write of the guest reaches both sides."""
        return self.done >= self.needed

    def view(self) -> MirrorView:
        """Say how far it is."""
        return MirrorView(self.copy.name, int(self.done), self.needed, self.ready)

    def _changed(self) -> int:
        here = self.source.world.file(self.copy.image.path, self.source.host.name)
        return len(self.source.world.disks.recorded(here.inode, self.copy.since)) * CHANGE if here else 0

    async def _run(self) -> None:
        while not (self.ready and self.ending):
            await self.source.world.clock.sleep(STEP)
            if self.target.host.crashed:  # nobody is left who would say so
                continue
            if not self.target.alive or self.target.blocks.disks_port is None:
                self.finish("Input/output error")
                return
            if self.target.host.name in self.source.world.full and not self.ready:
                self.finish("No space left on device")
                return
            if not self.link.up or self.source.hung or self.target.hung:
                continue
            self.done = min(float(self.needed), self.done + self._rate() * STEP)
            if self.source.raw == "running":
                self.source.world.write_to_disks(self.source)
                self._send_written()
        world, path = self.source.world, self.copy.image.path
        here, there = world.file(path, self.source.host.name), world.file(path, self.target.host.name)
        if here is not None and there is not None:
            world.disks.copied(here.inode, there.inode, self.copy.since)
            if self.source.raw != "running":  # what a running guest writes now is not in the copy
                world.incomplete.discard(there.inode)
        self.finish("")

    def _send_written(self) -> None:
        """Send what the guest has written meanwhile, whatever the limit: a copy that is ready keeps up."""
        if self.ready:
            written = round(self.source.workload.disk_rate * STEP)
            self.needed += written
            self.done += written

    def _rate(self) -> float:
        """Return the bytes a second that it may copy: copies share a link, as far as none is limited to less."""
        share = self.link.bandwidth / max(1, sum(not one.ready for one in self.source.blocks.mirrors.values()))
        return min(share, float(self.speed)) if self.speed else share

    def finish(self, trouble: str) -> None:
        """End the job and say so."""
        if self.source.blocks.mirrors.pop(self.copy.job, None) is None:
            return
        if trouble:
            self._leave_a_part()
        if self._task is not asyncio.current_task():
            self._task.cancel()
        self.source.tell("MIRROR_ENDED", status=self.copy.job, detail=trouble)

    def _leave_a_part(self) -> None:
        """Let an older copy hold some of what was to come: whoever fills it up next must not mind."""
        world, path = self.source.world, self.copy.image.path
        here, there = world.file(path, self.source.host.name), world.file(path, self.target.host.name)
        if self.copy.since and self.done and here is not None and there is not None:
            came = sorted(world.disks.recorded(here.inode, self.copy.since))[::2]
            world.disks.content[there.inode] = world.disks.holds(there.inode) | set(came)
