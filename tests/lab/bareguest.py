"""QEMUs without an operating system, for tests of what QEMU has open: they start at once and dirty nothing."""

from __future__ import annotations

import hashlib
import secrets
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from byhand import qmp

if TYPE_CHECKING:
    from pathlib import Path

    from labmoves import Move
    from labtools import Ground, Ran
    from labtraps import Traps

PROGRAM: Final = (
    "qemu-system-x86_64",
    "-machine",
    "q35",
    "-accel",
    "tcg",
    "-m",
    "32",
    "-nodefaults",
    "-display",
    "none",
)
FOLDER: Final = "/mnt/images"


@dataclass(slots=True)
class Bare:
    """One such QEMU, adopted; `at` is the laboratory's machine that it runs on."""

    ground: Ground
    name: str
    at: str = "host1"

    @property
    def elsewhere(self) -> str:
        """The other machine."""
        return "host2" if self.at == "host1" else "host1"

    def file(self, name: str, machine: str | None = None) -> Path:
        """Return an image as this machine sees it; by default where the guest is."""
        return self.ground.lab.images(machine or self.at) / name

    def left(self, machine: str) -> list[str]:
        """Return the files of a machine that no guest would miss."""
        names = sorted(path.name for path in self.ground.lab.images(machine).iterdir())
        return [one for one in names if one.startswith(".godwit") or one.endswith("frozen")]

    def write(self, disk: str, *words: str) -> None:
        """Write to a disk as the guest would, through its QEMU."""
        path = f"/proc/{self.ground.init(self.at)}/root/run/{self.name}.sock"
        line = f'qemu-io {disk} "write {" ".join(words)}"'
        qmp(path, {"execute": "human-monitor-command", "arguments": {"command-line": line}})

    async def begin(self, *options: str, traps: Traps | None = None) -> Move:
        """Ask for a move to the other machine and leave it to its runner."""
        self.ground.use(self.name, 0)
        return await self.ground.begin(self.elsewhere, *options, traps=traps)

    async def check(self, *options: str) -> Ran:
        """Ask what would keep it from moving to the other machine."""
        host = self.ground.host(self.elsewhere)
        return await self.ground.godwit("migrate", self.name, host, "--dry-run", *options)

    async def move(self, *options: str, traps: Traps | None = None) -> Ran:
        """Move it to the other machine."""
        there = self.elsewhere
        ran = await self.ground.godwit("migrate", self.name, self.ground.host(there), *options, traps=traps)
        if ran.status in {0, 16}:
            self.at = there
        return ran

    async def end(self) -> None:
        """End it, and remove its files."""
        await self.ground.godwit("vm", "stop", "--force", self.name)
        await self.ground.godwit("vm", "remove", self.name)
        for machine in ("host1", "host2"):
            for path in self.ground.lab.images(machine).glob(f"{self.name}*"):
                path.unlink()


def make(ground: Ground, machine: str, *argv: str) -> str:
    """Run a program on a machine of the laboratory."""
    command = ground.lab.command(machine, list(argv))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return done.stdout


def new_name() -> str:
    """Return a name for a guest and its files."""
    return f"bare{secrets.token_hex(3)}"


def launch(ground: Ground, name: str, *options: str) -> None:
    """Start a QEMU on host1; returns when its monitor is there."""
    argv = [*PROGRAM, "-name", name, "-qmp", f"unix:/run/{name}.sock,server=on,wait=off", *options]
    line = 'setsid "$@" >/run/bare.log 2>&1 </dev/null & '
    line += f"for i in $(seq 200); do [ -S /run/{name}.sock ] && exit 0; sleep 0.05; done; cat /run/bare.log; exit 1"
    make(ground, "host1", "sh", "-c", line, "sh", *argv)


async def adopt(ground: Ground, name: str) -> Ran:
    """Let Godwit know of a QEMU that was started on host1."""
    return await ground.godwit("vm", "adopt", ground.host("host1"), "--qmp", f"/run/{name}.sock", "--name", name)


async def start(ground: Ground, name: str, *options: str) -> Bare:
    """Start a QEMU on host1 and adopt it."""
    launch(ground, name, *options)
    adopted = await adopt(ground, name)
    assert adopted.status == 0, adopted.err
    return Bare(ground, name)


def digest(path: Path) -> str:
    """Return what a file holds, in short."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def programs(ground: Ground, machine: str) -> list[str]:
    """Return the qemu-nbd and qemu-img processes that run on a machine."""
    found = make(ground, machine, "sh", "-c", "cat /proc/[0-9]*/comm 2>/dev/null; true").split()
    return [one for one in found if one in {"qemu-nbd", "qemu-img"}]
