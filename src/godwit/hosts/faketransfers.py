"""Whole files and comparisons between simulated hosts: what `FakeHost` has of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from godwit.errors import HostError
from godwit.hosts.fakecredentials import refused
from godwit.hosts.fakefiles import THIN
from godwit.storage.sharedproof import check_token

if TYPE_CHECKING:
    from godwit.hosts.fakestream import Link
    from godwit.hosts.fakeworld import FakeWorld
    from godwit.model import Credentials, Pair

STEP = 0.05
"""Seconds between looks at the link."""

SILENCE = 3.0
"""Seconds of a cut link after which a comparison gives up."""


class FakeTransfers:
    """The part of the port `Host` that moves files; `takes` holds what is taken here: path and port by name.

    Keys stay until a transfer is ended: no script of its own removes them before.
    """

    world: FakeWorld
    migration_address: str
    credentials: dict[tuple[str, str], Credentials]

    def __init__(self) -> None:
        """Take nothing yet."""
        self.takes: dict[str, tuple[str, int]] = {}
        self.sends: set[str] = set()
        self.pairs: dict[str, Pair] = {}

    @property
    def name(self) -> str:
        """The name under which the host is registered."""
        raise NotImplementedError

    async def _reach(self) -> None:
        raise NotImplementedError

    async def take_file(
        self, path: str, owner: str, address: str, port: int, size: int, *, pair: Pair | None = None
    ) -> None:
        """Let one sender fill a file. Raises HostError where there is none."""
        del size
        check_token(owner)
        await self._reach()
        if address != self.migration_address or self.world.file(path, self.name) is None:
            message = f"taking {path} on {self.name}: there is no such file, or no such address"
            raise HostError(message)
        self.takes[owner] = (path, port)
        if pair is not None:
            self.pairs[owner] = pair
            self.credentials[owner, "server"] = pair.server
        elif self.name in self.world.strangers:
            self.world.intrusions.append(f"a stranger had {path} on {self.name}")

    async def send_file(
        self, path: str, owner: str, url: str, *, size: int, speed: int, pair: Pair | None = None
    ) -> None:
        """Send a file over the link, to its end. Raises HostError where nobody takes it, or not any more."""
        await self._reach()
        if pair is not None:
            self.credentials[owner, "client"] = pair.client
        there, link = self._taker(owner, url)
        theirs = there.pairs.get(owner)
        words = refused(
            theirs.server if theirs else None,
            pair.client if pair else None,
            theirs.identity if theirs else "",
            there.migration_address,
            self.world.clock.now(),
        )
        if words:
            message = f"sending {path} on {self.name}: {words}"
            raise HostError(message)
        file = self.world.file(path, self.name)
        if file is None:
            message = f"sending {path} on {self.name}: there is no such file"
            raise HostError(message)
        self.sends.add(owner)
        try:
            left = size / THIN
            while left > 0:
                await self.world.clock.sleep(STEP)
                if owner not in there.takes or owner not in self.sends or there.name in self.world.full:
                    message = f"sending {path} on {self.name}: Input/output error"
                    raise HostError(message)
                if link.up:
                    left -= (min(link.bandwidth, speed) if speed else link.bandwidth) * STEP
        finally:
            self.sends.discard(owner)
        there.pairs.pop(owner, None)
        target, _ = there.takes.pop(owner)
        self.world.complete(target, there.name, file)

    def _taker(self, owner: str, url: str) -> tuple[FakeTransfers, Link]:
        for host in self.world.hosts.values():
            taken = host.takes.get(owner)
            if taken is not None and url == f"nbd://{host.migration_address}:{taken[1]}/{owner}":
                return host, self.world.link(self.name, host.name)
        message = f"nobody takes anything at {url}: Connection refused"
        raise HostError(message)

    async def end_transfer(self, owner: str) -> None:
        """End whatever sends or takes under that name here. Idempotent."""
        await self._reach()
        self.takes.pop(owner, None)
        self.pairs.pop(owner, None)
        self.sends.discard(owner)
        for role in ("server", "client"):
            self.credentials.pop((owner, role), None)

    async def fit_file(self, path: str, size: int) -> None:
        """Cut a file to its size."""
        await self._reach()
        file = self.world.file(path, self.name)
        if file is not None:
            self.world.replace_file(path, self.name, replace(file, size=size))

    async def served_head(self, url: str) -> str:
        """Return size and content of what is served at an address: a file of that path, for hosts that reach it."""
        await self._reach()
        file = self.world.file(url, self.name)
        if file is None:
            message = f"opening {url} on {self.name}: Connection refused"
            raise HostError(message)
        return f"{file.size} {file.content or file.inode}"

    async def used(self, path: str) -> int:
        """Return the bytes that a file takes; 0 where there is none."""
        await self._reach()
        file = self.world.file(path, self.name)
        return 0 if file is None or file.inode in self.world.incomplete else file.size // THIN

    async def compare_image(self, path: str, image_format: str, url: str, *, size: int, credentials: str = "") -> str:
        """Compare with what another host's QEMU serves as it was frozen: equal, unless a difference was planted."""
        del image_format
        await self._reach()
        for host in self.world.hosts.values():
            for qemu in host.qemus.values():
                if qemu.blocks.frozen_port is None or not url.startswith(
                    f"nbd://{host.migration_address}:{qemu.blocks.frozen_port}/"
                ):
                    continue
                client = self.world.hosts[self.name].credentials.get((credentials, "client"))
                if words := qemu.blocks.frozen_keeps_out(client, host.migration_address):
                    message = f"comparing {path} with its copy on {self.name}: {words}"
                    raise HostError(message)
                link = self.world.link(self.name, host.name)
                await self.world.clock.sleep(size / THIN / link.bandwidth)
                if await self.world.until(lambda link=link: link.up, SILENCE):  # type: ignore[misc]
                    return self.world.differing.get(path, "")
        message = f"comparing {path} with its copy on {self.name}: Connection refused"
        raise HostError(message)
