"""What the faults of the matrix do to a laboratory, and how each is taken back."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from labwaits import until

from godwit.lab import plan as names
from godwit.lab import state as records

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from faultcells import Cell
    from labmoves import Move
    from labtools import Ground
    from witness import Acknowledged, Executions

_BALLAST: Final = "ballast"
_PIECE: Final = 1 << 16
_SSHD: Final = ("/usr/sbin/sshd", "-f", "/etc/godwit-lab/sshd_config")


@dataclass(slots=True)
class Scene:
    """A move that is under way, who watches it, and what was done to it."""

    ground: Ground
    cell: Cell
    here: str
    there: str
    executions: Executions
    acknowledged: Acknowledged
    source: int
    move: Move | None = None
    stopped: list[int] = field(default_factory=list)
    lock: sqlite3.Connection | None = None

    @property
    def moving(self) -> Move:
        """The move, once it has been asked for."""
        assert self.move is not None
        return self.move

    def init(self, machine: str) -> int:
        """Return the process that stands for a machine, quickly."""
        recorded = records.read(self.ground.lab.name)
        assert recorded is not None
        return recorded.inits[machine].pid

    async def target(self) -> int:
        """Return the target's QEMU, once it has been heard of."""
        await until(lambda: self.there in self.executions.pids, "a QEMU on the target", 20)
        return self.executions.pids[self.there]

    def signal(self, number: signal.Signals, *pids: int | None) -> None:
        """Send a signal to processes that are still there; those that are stopped are remembered."""
        for pid in pids:
            if pid is None or not Path(f"/proc/{pid}").exists():
                continue
            os.kill(pid, number)
            if number is signal.SIGSTOP:
                self.stopped.append(pid)

    def down(self) -> set[str]:
        """Return the machines that have crashed."""
        return {one.name for one in self.ground.lab.status().machines if not one.up}

    def go_on(self) -> None:
        """Continue what was stopped."""
        stopped, self.stopped = self.stopped, []
        self.signal(signal.SIGCONT, *stopped)


@dataclass(frozen=True, slots=True)
class Fault:
    """What strikes, for how many seconds (None: until all has been looked at), and how it is mended.

    `prepare` comes before the move. `commands` says that somebody types a command once it is over. `impatient` that
    Godwit's patience with what is silent is shortened in this cell, from a minute to seconds. `cut_off` that a host
    cannot be reached until the end, so that what is left there may be named instead of removed.
    """

    strike: Callable[[Scene], Awaitable[None]]
    mend: Callable[[Scene], Awaitable[None]]
    lasts: float | None = 0.0
    prepare: Callable[[Scene], Awaitable[None]] | None = None
    commands: bool = False
    impatient: bool = False
    cut_off: bool = False


async def _nothing(_: Scene) -> None:
    """Leave it as it is."""


async def _go_on(scene: Scene) -> None:
    scene.go_on()


# -- the controller ----------------------------------------------------------------------------------------------------


def _runner(number: signal.Signals, *, supervisor: bool = False) -> Callable[[Scene], Awaitable[None]]:
    async def strike(scene: Scene) -> None:
        await until(lambda: scene.moving.processes()[1] is not None, "a runner")
        above, runner = scene.moving.processes()
        scene.signal(number, *([above, runner] if supervisor else [runner]))

    return strike


async def _kill_all(scene: Scene) -> None:
    scene.signal(signal.SIGKILL, *scene.moving.processes())
    scene.stopped.clear()
    await scene.moving.dies()


async def _fill_home(scene: Scene) -> None:
    _fill(scene.ground.home / _BALLAST)


def _fill(path: Path) -> None:
    """Take all room of a file system that is there."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    for piece in (_PIECE, 4096, 1):
        try:
            while True:
                os.write(descriptor, bytes(piece))
        except OSError:
            continue
    os.close(descriptor)


async def _empty_home(scene: Scene) -> None:
    (scene.ground.home / _BALLAST).unlink(missing_ok=True)


async def _lock(scene: Scene) -> None:
    scene.lock = sqlite3.connect(scene.ground.home / "journal.db", timeout=10, isolation_level=None)
    scene.lock.execute("BEGIN IMMEDIATE")


async def _unlock(scene: Scene) -> None:
    if scene.lock is not None:
        scene.lock.close()
        scene.lock = None


# -- QEMU --------------------------------------------------------------------------------------------------------------


def _source(number: signal.Signals) -> Callable[[Scene], Awaitable[None]]:
    async def strike(scene: Scene) -> None:
        scene.signal(number, scene.source)

    return strike


def _target(number: signal.Signals) -> Callable[[Scene], Awaitable[None]]:
    async def strike(scene: Scene) -> None:
        scene.signal(number, await scene.target())

    return strike


# -- SSH ---------------------------------------------------------------------------------------------------------------


def _sshds(init: int, *, listener: bool) -> list[int]:
    """Return a machine's processes of sshd, as this machine counts: its sessions, and what listens if asked for."""
    inside = Path(f"/proc/{init}/ns/pid").readlink()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit() or not (entry / "comm").read_text().startswith("sshd"):
                continue
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if (entry / "ns/pid").readlink() == inside and (listener or parent != init):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _ssh(number: signal.Signals, *sides: str, listener: bool) -> Callable[[Scene], Awaitable[None]]:
    async def strike(scene: Scene) -> None:
        for side in sides:
            machine = scene.here if side == "source" else scene.there
            scene.signal(number, *_sshds(scene.init(machine), listener=listener))

    return strike


def _listen(side: str) -> Callable[[Scene], Awaitable[None]]:
    async def mend(scene: Scene) -> None:
        scene.ground.inside(scene.here if side == "source" else scene.there, *_SSHD)

    return mend


# -- hosts and links ---------------------------------------------------------------------------------------------------


def _cut(scene: Scene, *ports: str) -> None:
    lines = "".join(f"link set dev {port} nomaster\n" for port in ports)
    argv = ["ip", "-netns", scene.ground.lab.plan.switch_namespace, "-batch", "-"]
    subprocess.run(argv, input=lines, text=True, check=True)


async def _cut_migration(scene: Scene) -> None:
    _cut(scene, names.migration_port(scene.there))


async def _heal(scene: Scene) -> None:
    scene.ground.lab.heal(scene.there, "migration")


def _crash(side: str, *, silent: bool = False) -> Callable[[Scene], Awaitable[None]]:
    async def strike(scene: Scene) -> None:
        machine = scene.here if side == "source" else scene.there
        if silent:
            _cut(scene, names.migration_port(machine), names.switch_port(machine))
        scene.signal(signal.SIGKILL, scene.init(machine))

    return strike


def _boot(side: str) -> Callable[[Scene], Awaitable[None]]:
    async def mend(scene: Scene) -> None:
        machine = scene.here if side == "source" else scene.there
        await until(lambda: machine in scene.down(), "the host is down", 20)
        await asyncio.to_thread(scene.ground.lab.restart, machine)

    return mend


# -- room --------------------------------------------------------------------------------------------------------------


async def _small_images(scene: Scene) -> None:
    """Give the target's images a file system of their own, with little more room than they take."""
    name, hide = scene.ground.name, "mkdir -p /tmp/kept && cp /mnt/images/*.initrd /mnt/images/*.vmlinuz /tmp/kept/"
    small = f"{hide} && mount -t tmpfs -o size=110m tmpfs /mnt/images && cp /tmp/kept/{name}.* /mnt/images/"
    scene.ground.inside(scene.there, "sh", "-c", small)


async def _fill_images(scene: Scene) -> None:
    _fill(Path(f"/proc/{scene.init(scene.there)}/root/mnt/images") / _BALLAST)


async def _old_images(scene: Scene) -> None:
    scene.ground.inside(scene.there, "umount", "/mnt/images")


BOTH: Final = ("source", "target")
FAULTS: Final = {
    "runner killed": Fault(_runner(signal.SIGKILL), _nothing),
    "runner and supervisor killed, then a command": Fault(_kill_all, _nothing, commands=True),
    "runner stopped for 4 s": Fault(_runner(signal.SIGSTOP), _go_on, lasts=4),
    "runner and supervisor stopped for good, then killed, then a command": Fault(
        _runner(signal.SIGSTOP, supervisor=True), _kill_all, lasts=6, commands=True
    ),
    "source's QEMU killed": Fault(_source(signal.SIGKILL), _nothing),
    "source's QEMU stopped for 4 s": Fault(_source(signal.SIGSTOP), _go_on, lasts=4),
    "source's QEMU stopped for good": Fault(_source(signal.SIGSTOP), _go_on, lasts=None, impatient=True, cut_off=True),
    "target's QEMU killed": Fault(_target(signal.SIGKILL), _nothing),
    "target's QEMU stopped for 4 s": Fault(_target(signal.SIGSTOP), _go_on, lasts=4),
    "target's QEMU stopped for good": Fault(_target(signal.SIGSTOP), _go_on, lasts=None, impatient=True),
    "SSH sessions of both hosts killed": Fault(_ssh(signal.SIGKILL, *BOTH, listener=False), _nothing),
    "sshd of the source stopped for 4 s": Fault(_ssh(signal.SIGSTOP, "source", listener=True), _go_on, lasts=4),
    "sshd of the target stopped for 4 s": Fault(_ssh(signal.SIGSTOP, "target", listener=True), _go_on, lasts=4),
    "sshd of the source dead for good": Fault(
        _ssh(signal.SIGKILL, "source", listener=True), _listen("source"), lasts=None, impatient=True, cut_off=True
    ),
    "sshd of the target dead for good": Fault(
        _ssh(signal.SIGKILL, "target", listener=True), _listen("target"), lasts=None, impatient=True, cut_off=True
    ),
    "source host crashes": Fault(_crash("source"), _boot("source"), lasts=2),
    "source host falls silent and crashes": Fault(
        _crash("source", silent=True), _boot("source"), lasts=None, impatient=True, cut_off=True
    ),
    "target host crashes": Fault(_crash("target"), _boot("target"), lasts=2, cut_off=True),
    "target host falls silent and crashes": Fault(
        _crash("target", silent=True), _boot("target"), lasts=None, impatient=True, cut_off=True
    ),
    "migration link cut for 1 s": Fault(_cut_migration, _heal, lasts=1),
    "migration link cut for 3 s": Fault(_cut_migration, _heal, lasts=3),
    "migration link cut for 10 s": Fault(_cut_migration, _heal, lasts=10),
    "migration link cut for good": Fault(_cut_migration, _heal, lasts=None, impatient=True),
    "no room left for the target's images": Fault(_fill_images, _old_images, lasts=None, prepare=_small_images),
    "no room left in the controller's home": Fault(_fill_home, _empty_home, lasts=6, commands=True),
    "journal locked for 3 s": Fault(_lock, _unlock, lasts=3),
    "journal locked for good": Fault(_lock, _unlock, lasts=12, impatient=True, commands=True),
}
