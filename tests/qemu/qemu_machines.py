"""Starting real QEMUs for tests, in a mount namespace of their own where the host tree lies over /usr."""

from __future__ import annotations

import asyncio
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from godwit.errors import MonitorLostError
from godwit.qemu.guest import QemuGuest
from godwit.qemu.monitor import Monitor
from godwit.qemu.process import ProcessFacts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from godwit.ports import GuestEvent

_ENTER = 'mount -t overlay overlay -o lowerdir="$1:/usr" /usr && shift && exec "$@"'
_START_DEADLINE = 10.0
_STREAM_DEADLINE = 60.0


def facts_of(pid: int) -> ProcessFacts:
    """Read /proc as the hosts room does."""
    folder = Path(f"/proc/{pid}")
    words = (folder / "cmdline").read_bytes().decode().split("\0")[:-1]
    environment = dict(pair.split("=", 1) for pair in (folder / "environ").read_text().split("\0") if "=" in pair)
    links = (str(link.readlink()) for link in (folder / "fd").iterdir())
    return ProcessFacts(
        pid=pid,
        argv=tuple(words),
        cwd=str((folder / "cwd").readlink()),
        environment={"PWD": environment.get("PWD", "/")},
        open_files=tuple(link for link in links if link.startswith("/")),
    )


@dataclass
class Machines:
    """The QEMUs of one test; all of them are gone when it ends."""

    host_tree: Path
    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    guests: list[QemuGuest] = field(default_factory=list)

    def command(self, *argv: str) -> list[str]:
        """Return the command that runs `argv` with the host tree's programs: this machine may have none of them."""
        enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "sh"]
        return [*enter, str(self.host_tree / "usr"), *argv]

    async def start(self, argv: Sequence[str], control: str, cwd: Path | None = None) -> tuple[QemuGuest, int]:
        """Start a QEMU and attach to its monitor at `control` once it is there."""
        log = self.folder / f"log{len(self.processes)}"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                self.command(*argv),
                cwd=cwd or self.folder,
                env={**os.environ, "PWD": str(cwd or self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.processes.append(process)
        async with asyncio.timeout(_START_DEADLINE):
            while True:
                assert process.poll() is None, log.read_text()
                try:
                    return await self.attach(process.pid, control), process.pid
                except MonitorLostError:  # no socket yet, or one that nobody listens at yet: neither gives an event
                    await asyncio.sleep(0.01)

    async def run(self, *argv: str) -> None:
        """Run a program of the host tree to its end, in the folder of the test."""
        process = await asyncio.create_subprocess_exec(*self.command(*argv), cwd=self.folder)
        async with asyncio.timeout(_START_DEADLINE):
            assert await process.wait() == 0, argv

    async def attach(self, pid: int, control: str) -> QemuGuest:
        async def read_process() -> ProcessFacts:
            return facts_of(pid)

        guest = QemuGuest("test", await Monitor.open(control, where="test"), read_process)
        self.guests.append(guest)
        return guest

    def log(self, number: int) -> str:
        return (self.folder / f"log{number}").read_text()

    async def close(self) -> None:
        for guest in self.guests:
            await guest.close()
        for process in self.processes:
            process.kill()
            process.wait()


async def stream(source: QemuGuest, target: QemuGuest, socket: Path) -> tuple[str, str]:
    """Migrate and return the last status that each side announced ("LOST" where its QEMU ended)."""
    for guest in (source, target):
        await guest.set_capabilities({"events": True})
    sides = source.events(), target.events()
    await target.listen(f"unix:{socket}")
    await source.migrate(f"unix:{socket}")
    async with asyncio.timeout(_STREAM_DEADLINE):
        said = [await last_word(events) for events in sides]
    return said[0], said[1]


async def last_word(events: AsyncIterator[GuestEvent]) -> str:
    async for event in events:
        if event.kind == "LOST":
            return "LOST"
        if event.kind == "MIGRATION" and event.status in {"completed", "failed", "cancelled"}:
            return str(event.status)
    return "LOST"
