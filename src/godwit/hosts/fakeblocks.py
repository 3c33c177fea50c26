"""The block layer of a simulated QEMU: what it serves of its disks, the jobs that copy them, and stamps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from godwit.hosts.fakecredentials import refused
from godwit.hosts.fakemirror import FakeMirror

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.hosts.fakeqemu import FakeQemu
    from godwit.model import Credentials, DiskCopy


class FakeBlocks:
    """The disks of one QEMU, as far as others have to do with them."""

    def __init__(self, qemu: FakeQemu) -> None:
        """Serve nothing, copy nothing."""
        self._qemu = qemu
        self.disks_port: int | None = None
        self.frozen: set[str] = set()
        self.frozen_port: int | None = None
        self.mirrors: dict[str, FakeMirror] = {}
        self.disks_encrypted = self.frozen_encrypted = False

    def serve_disks(self, port: int, *, encrypted: bool = False) -> None:
        """Obey nbd-server-start and block-export-add."""
        self._qemu.tls.shown(encrypted=encrypted)
        if self.disks_port is not None or port in self._qemu.host.ports_in_use():
            self._qemu.refuse("nbd-server-start", "NBD server already running")
        self.disks_port, self.disks_encrypted = port, encrypted
        self._qemu.meet_stranger("the disks", encrypted=encrypted)

    def serve_frozen(self, port: int, copies: Sequence[DiskCopy], *, encrypted: bool = False) -> None:
        """Obey nbd-server-start and block-export-add for disks that were frozen."""
        if missing := [copy.name for copy in copies if copy.job not in self.frozen]:
            self._qemu.refuse("block-export-add", f"Cannot find the frozen {', '.join(missing)}")
        self._qemu.tls.shown(encrypted=encrypted)
        self.frozen_port, self.frozen_encrypted = port, encrypted
        self._qemu.meet_stranger("the disks", encrypted=encrypted)

    def frozen_keeps_out(self, client: Credentials | None, address: str) -> str:
        """Return why somebody is not let in to the disks that were frozen; empty where they are."""
        tls = self._qemu.tls
        return refused(tls.shown(encrypted=self.frozen_encrypted), client, tls.let_in, address, self._qemu.host.time())

    def thaw(self) -> None:
        """Obey nbd-server-stop, block-job-cancel and blockdev-del for disks that were frozen."""
        self.frozen_port = None
        self.frozen.clear()

    def stop_serving(self) -> None:
        """Obey nbd-server-stop."""
        self.disks_port = None

    def set_mirror_speed(self, copy: DiskCopy, speed: int) -> None:
        """Obey block-job-set-speed."""
        mirror = self.mirrors.get(copy.job)
        if mirror is None:
            self._qemu.refuse("block-job-set-speed", f"Block job '{copy.job}' not found")
            return
        mirror.speed = speed

    def start_mirror(self, copy: DiskCopy, address: str, port: int, speed: int = 0, *, encrypted: bool = False) -> None:
        """Obey blockdev-add and blockdev-mirror."""
        if copy.job in self.mirrors:
            return
        target, link = self._qemu.world.server(self._qemu.host, address, port)
        if target is None or link is None:
            self._qemu.refuse("blockdev-add", "Failed to connect: Connection refused")
            return
        server = target.tls.shown(encrypted=target.blocks.disks_encrypted)
        client = self._qemu.tls.shown(encrypted=encrypted)
        if words := refused(server, client, target.tls.let_in, address, target.host.time()):
            self._qemu.refuse("blockdev-add", words)
        self.mirrors[copy.job] = FakeMirror(self._qemu, target, copy, link, speed)

    def end_mirror(self, copy: DiskCopy) -> None:
        """Obey block-job-cancel without force."""
        mirror = self.mirrors.get(copy.job)
        if mirror is None or not mirror.ready:
            self._qemu.refuse("block-job-cancel", f"Block job '{copy.job}' not found, or not ready")
            return
        mirror.ending = True

    def cancel_mirrors(self, copies: Sequence[DiskCopy]) -> None:
        """Obey block-job-cancel with force."""
        for copy in copies:
            if copy.job in self.mirrors:
                self.mirrors[copy.job].finish("it was cancelled")
            file = self._qemu.world.file(copy.image.path, self._qemu.host.name)
            if copy.stamp and file is not None:
                self._qemu.world.disks.stamps.get(file.inode, {}).pop(copy.stamp, None)

    def stamp_disks(self, copies: Sequence[DiskCopy]) -> tuple[str, ...]:
        """Obey block-dirty-bitmap-add; returns why, for disks that have none."""
        refused = []
        for copy in copies:
            file = self._qemu.world.file(copy.image.path, self._qemu.host.name)
            if copy.stamp and file is None:
                refused.append(f"{copy.name}: there is no such file")
            elif copy.stamp and file is not None:
                self._qemu.world.disks.stamp(file.inode, copy.stamp)
        return tuple(refused)

    def forget_stamps(self, copies: Sequence[DiskCopy]) -> None:
        """Obey block-dirty-bitmap-remove."""
        for copy in copies:
            file = self._qemu.world.file(copy.image.path, self._qemu.host.name)
            if file is not None:
                self._qemu.world.disks.forget_stamps(file.inode, but={copy.stamp})
