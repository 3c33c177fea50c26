"""`migrate -b` and `-i` at bare QEMUs that Godwit has never seen, on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from qemu_machines import Machines

from godwit.lab import assets
from godwit.model import RunState, StreamStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from godwit.qemu.guest import QemuGuest

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

QEMU = "qemu-system-x86_64 rhel7.qcow2 -display none -smp 1 -m 64 -net nic"
DEADLINE = 60.0
MIB = 1 << 20
SIZE = 48
ENDS = {RunState.RUNNING, RunState.PAUSED, RunState.POSTMIGRATE}


@dataclass
class Pair:
    """A source and a target, each in a folder of its own, and somebody who types at the source."""

    machines: Machines
    port: int
    sides: dict[str, QemuGuest] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        return f"tcp:127.0.0.1:{self.port}"

    def folder(self, side: str) -> Path:
        made = self.machines.folder / side
        made.mkdir(exist_ok=True)
        return made

    async def image(self, side: str, *words: str, size: int = SIZE) -> None:
        await self.machines.run("qemu-img", "create", "-q", *words, str(self.folder(side) / "rhel7.qcow2"), f"{size}M")

    async def write(self, file: str, pattern: int, offset: int, length: int) -> None:
        await self.machines.run("qemu-io", "-c", f"write -q -P {pattern} {offset}M {length}M", file)

    async def start(self, side: str, *more: str) -> QemuGuest:
        monitors = [word for one in ("qmp", "see") for word in ("-qmp", f"unix:{one},server,nowait")]
        folder = self.folder(side)
        guest, pid = await self.machines.start([*shlex.split(QEMU), *monitors, *more], f"{folder}/see", folder)
        self.sides[side], self.pids[side] = guest, pid
        return guest

    async def both(self, *words: str, target: tuple[str, ...] = ()) -> None:
        """Start both, with images made by `qemu-img create WORDS`; 20 MiB of the source's are full."""
        for side in ("source", "target"):
            await self.image(side, *(words or ("-f", "qcow2")))
        await self.write(str(self.folder("source") / "rhel7.qcow2"), 7, 1, 20)
        await self.start("source")
        await self.start("target", "-incoming", f"tcp:0:{self.port}", *target)

    def spawn(self, *lines: str, side: str = "source", options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        words = ["monitor", "--qmp", f"{self.folder(side)}/qmp", *options]
        words += [word for line in lines for word in ("-c", line)]
        return subprocess.Popen(
            [sys.executable, "-m", "godwit", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                **os.environ,
                "GODWIT_HOME": str(self.machines.folder),
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
            text=True,
        )

    async def type(self, *lines: str, side: str = "source", options: tuple[str, ...] = ()) -> tuple[int, str, str]:
        process = self.spawn(*lines, side=side, options=options)
        return await ended(process)

    async def slow(self, speed: str = "2m") -> None:
        await self.sides["source"].human(f"migrate_set_parameter max-bandwidth {speed}")

    async def copies(self) -> None:
        """Wait until some of the disk was copied."""
        await until(lambda: self._done("source"))

    async def _done(self, side: str) -> bool:
        found = re.search(r"godwit-disk0: Completed (\d+)", await self.sides[side].human("info block-jobs"))
        return found is not None and int(found[1]) > MIB

    async def streams(self) -> None:
        async def flows() -> bool:
            return (await self.sides["source"].view()).stream is StreamStatus.ACTIVE

        await until(flows)

    async def end(self) -> None:
        """End both QEMUs, which lets go of their images."""
        for side, guest in self.sides.items():
            with contextlib.suppress(Exception):
                await guest.quit()
            await until_gone(self.pids[side])

    async def assert_equal(self) -> None:
        await self.end()
        await self.machines.run("qemu-img", "compare", "source/rhel7.qcow2", "target/rhel7.qcow2")

    async def assert_as_before(self) -> None:
        """The guest runs on the source, its capabilities are as they were, and nothing of a copy is left there."""
        source = self.sides["source"]
        await becomes(source, RunState.RUNNING)
        assert await source.human("info block-jobs") == "No active jobs\n"
        said = await source.human("info migrate_capabilities")
        assert "pause-before-switchover: off" in said
        assert "\nevents: off" in said
        assert "godwit-disk" not in str(await source.monitor.execute("query-named-block-nodes"))


async def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = await asyncio.to_thread(process.communicate, timeout=2 * DEADLINE)
    assert "Traceback" not in err, err
    return process.returncode, out, err


async def until(what: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while not await what():  # type: ignore[misc]
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


async def until_gone(pid: int) -> None:
    async def gone() -> bool:
        try:
            with open(f"/proc/{pid}/stat") as stat:  # noqa: ASYNC230, PTH123 - /proc
                return stat.read().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    await until(gone)


async def becomes(guest: QemuGuest, state: RunState) -> None:
    async def there() -> bool:
        return (await guest.view()).state is state

    await until(there)


@pytest.fixture
async def pair(tmp_path: Path, unused_tcp_port: int) -> AsyncIterator[Pair]:
    made = Pair(Machines(assets.prepare(assets.cache_folder(), print).hosttree, tmp_path), unused_tcp_port)
    yield made
    await made.machines.close()


async def test_b_copies_the_whole_disk_and_then_the_guest(pair: Pair) -> None:
    await pair.both()
    await pair.slow("20m")
    status, said, warned = await pair.type(f"migrate -b {pair.uri}", "info migrate", "info status")
    assert status == 0, warned
    shown, _, after = said.partition("Completed 100 %\n")
    percentages = [int(one) for one in re.findall(r"Completed (\d+) %\r", shown)]
    assert percentages == sorted(set(percentages))
    assert len(percentages) > 2
    assert "Migration status: completed" in after
    assert re.search(r"total ram: \d+ kbytes", after)
    assert f"transferred disk: {SIZE << 10} kbytes\nremaining disk: 0 kbytes\ntotal disk: {SIZE << 10} kbytes\n" in after
    assert after.endswith("VM status: paused (postmigrate)\n")
    await becomes(pair.sides["target"], RunState.RUNNING)
    await pair.assert_equal()
