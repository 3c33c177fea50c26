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
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from qemu_machines import Machines

from godwit.lab import assets
from godwit.model import RunState, StreamStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

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
    consoles: list[subprocess.Popen[bytes]] = field(default_factory=list)

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
        monitors = [word for one in ("qmp", "see", "third") for word in ("-qmp", f"unix:{one},server,nowait")]
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

    def spawn(self, *lines: str, side: str = "source", options: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        # The target's first socket is held while disks come.
        words = ["monitor", "--qmp", f"{self.folder(side)}/{'qmp' if side == 'source' else 'third'}", *options]
        words += [word for line in lines for word in ("-c", line)]
        console = subprocess.Popen(
            [sys.executable, "-m", "godwit", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                **os.environ,
                "GODWIT_HOME": str(self.machines.folder),
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
        )
        self.consoles.append(console)
        return console

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

    async def memory_begins(self) -> None:
        """Let the disk come to its end, and wait until the memory is on its way."""
        await self.slow("300K")
        await self.sides["source"].human("block_job_set_speed godwit-disk0 0")

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


async def ended(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, err = await asyncio.to_thread(process.communicate, timeout=2 * DEADLINE)
    said, warned = out.decode(), err.decode()
    assert "Traceback" not in warned, warned
    return process.returncode, said, warned


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
    for console in made.consoles:
        if console.poll() is None:
            console.kill()
        console.communicate()
    await made.machines.close()


async def test_b_copies_the_whole_disk_and_then_the_guest(pair: Pair) -> None:
    await pair.both()
    await pair.slow("20m")
    status, said, warned = await pair.type(f"migrate -b {pair.uri}", "info migrate", "info status")
    assert status == 0, warned
    shown, _, after = said.partition("Completed 100 %\n")
    percentages = [int(one) for one in re.findall(r"Completed (\d+) %\r", shown)]
    assert percentages == sorted(set(percentages))
    assert len(percentages) > 1
    assert "Migration status: completed" in after
    assert re.search(r"total ram: \d+ kbytes", after)
    assert re.search(r"transferred disk: (\d+) kbytes\nremaining disk: 0 kbytes\ntotal disk: \1 kbytes\n", after)
    assert after.endswith("VM status: paused (postmigrate)\n")
    await becomes(pair.sides["target"], RunState.RUNNING)
    await pair.assert_equal()


async def test_i_copies_the_overlay_alone(pair: Pair) -> None:
    base = pair.machines.folder / "base.img"
    base.write_bytes(b"\7" * (SIZE * MIB // 2) + bytes(SIZE * MIB // 2))
    await pair.both("-f", "qcow2", "-F", "raw", "-b", str(base), target=("-S",))
    status, said, warned = await pair.type(f"migrate -i {pair.uri}")
    assert (status, said[-16:]) == (0, "Completed 100 %\n"), warned
    assert "the target was started with -S: it has everything, and waits there for cont" in warned
    await becomes(pair.sides["target"], RunState.PAUSED)
    await asyncio.sleep(0.3)
    assert (await pair.sides["target"].view()).state is RunState.PAUSED
    assert (await pair.type("cont", "info status", side="target"))[1] == "VM status: running\n"
    await pair.assert_equal()
    assert (pair.folder("target") / "rhel7.qcow2").stat().st_blocks < 25 * 2048, "the base was not copied"


async def test_d_gives_the_prompt_back_and_both_sides_tell(pair: Pair) -> None:
    await pair.both()
    await pair.slow("500K")
    console = pair.spawn(f"migrate -d -b {pair.uri}", "info migrate")
    await pair.copies()
    status, said, warned = await pair.type("info migrate", side="target")
    assert status == 0, warned
    assert re.search(r"Receiving block device images\nCompleted \d+ %\n$", said)
    console.send_signal(signal.SIGINT)
    status, said, warned = await ended(console)
    assert status == 130
    assert "the migration was taken back: the guest runs on here" in warned
    assert re.search(r"Migration status: active\n(.*\n)*transferred disk: \d+ kbytes\nremaining disk: ", said)
    assert "remaining ram: " in said
    await pair.assert_as_before()
    await pair.slow("100m")
    status, said, warned = await pair.type(f"migrate -b {pair.uri}")  # the target still waits
    assert status == 0, warned
    await becomes(pair.sides["target"], RunState.RUNNING)
    await pair.assert_equal()


@pytest.mark.parametrize("stage", ["disks", "memory"])
async def test_ctrl_c_takes_everything_back(pair: Pair, stage: str) -> None:
    await pair.both()
    await pair.slow()
    process = pair.spawn(f"migrate -d -b {pair.uri}")
    await pair.copies()
    if stage == "memory":
        await pair.memory_begins()
    process.send_signal(signal.SIGINT)
    assert (await ended(process))[0] == 130
    await pair.assert_as_before()
    if stage == "disks":  # the target waits on, and was told to wait when it has everything, too
        await pair.slow("100m")
        assert (await pair.type(f"migrate {pair.uri}"))[0] == 0
        await becomes(pair.sides["target"], RunState.PAUSED)


async def refusal(pair: Pair, flag: str, *options: str) -> str:
    status, said, warned = await pair.type(f"migrate {flag} {pair.uri}", options=options)
    assert (status, said) == (3, "")
    await pair.assert_as_before()
    return warned


async def test_a_target_that_does_not_fit_is_refused_by_name(pair: Pair) -> None:
    await pair.image("source", "-f", "qcow2")
    await pair.start("source")
    assert "nobody listens at TCP port" in await refusal(pair, "-b")
    cases = {
        "the disk ide0-hd0 has 48.0 MiB here and 32.0 MiB at the target": ("-f", "qcow2"),
        "the disk ide0-hd0 is qcow2 here and raw at the target": ("-f", "raw"),
        "-i copies what lies above a backing file, and no disk of this guest has one": ("-f", "qcow2"),
    }
    for words, image in cases.items():
        await pair.image("target", *image, size=32 if "32" in words else SIZE)
        await pair.start("target", "-incoming", f"tcp:0:{pair.port}")
        assert words in await refusal(pair, "-i" if "-i" in words else "-b")
        await pair.sides["target"].quit()
        await until_gone(pair.pids["target"])
    await pair.start("target")
    options = ("--target-qmp", f"{pair.folder('target')}/qmp")
    assert "is running, and waits for no migration" in await refusal(pair, "-b", *options)


async def test_another_backing_file_is_refused(pair: Pair) -> None:
    for side in ("source", "target"):
        (pair.folder(side) / "base").write_bytes(side.encode() * MIB)
        await pair.machines.run(
            *("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base"),
            *(str(pair.folder(side) / "rhel7.qcow2"), f"{SIZE}M"),
        )
    await pair.start("source")
    await pair.start("target", "-incoming", f"tcp:0:{pair.port}")
    assert "the backing file of ide0-hd0 is another at the target" in await refusal(pair, "-i")


async def test_a_shared_disk_is_never_copied_onto_itself(pair: Pair) -> None:
    await pair.image("source", "-f", "qcow2")
    await pair.start("source")
    pair.folder("target").joinpath("rhel7.qcow2").symlink_to(pair.folder("source") / "rhel7.qcow2")
    disk = str(pair.folder("source") / "rhel7.qcow2")
    command = [*shlex.split(QEMU.replace("rhel7.qcow2", disk)), "-qmp", "unix:see,server,nowait"]
    folder = pair.folder("target")
    await pair.machines.start(
        [*command, "-qmp", "unix:qmp,server,nowait", "-incoming", f"tcp:0:{pair.port}"], f"{folder}/see", folder
    )
    assert "is the same file at the target" in await refusal(pair, "-b")


@pytest.mark.parametrize(
    "uri", ["exec:cat", *(pytest.param(one, marks=pytest.mark.long) for one in ("fd:4", "file:stream"))]
)
async def test_what_has_no_live_other_side_takes_no_disks(pair: Pair, uri: str) -> None:
    await pair.image("source", "-f", "qcow2")
    await pair.start("source")
    status, _, warned = await pair.type(f"migrate -d -b {uri}")
    assert status == 3
    assert f"disks cannot be copied to {uri.partition(':')[0]}: their copy needs a live QEMU" in warned


async def test_a_unix_socket_does(pair: Pair) -> None:
    for side in ("source", "target"):
        await pair.image(side, "-f", "qcow2")
    await pair.start("source")
    await pair.start("target", "-incoming", f"unix:{pair.machines.folder}/stream")
    status, said, warned = await pair.type(f"migrate -b unix:{pair.machines.folder}/stream")
    assert (status, said[-16:]) == (0, "Completed 100 %\n"), warned
    await becomes(pair.sides["target"], RunState.RUNNING)
    await pair.assert_equal()


# -- what dies on the way --------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("stage", ["disks", "memory"])
@pytest.mark.parametrize("victim", ["source", "target", "console"])
async def test_somebody_is_killed_on_the_way(pair: Pair, victim: str, stage: str) -> None:
    """The table of end states in docs/monitor-of-old.md."""
    await pair.both()
    await pair.slow("2m")
    process = pair.spawn(f"migrate -b {pair.uri}")
    await pair.copies()
    if stage == "memory":
        await pair.memory_begins()
    os.kill(process.pid if victim == "console" else pair.pids[victim], signal.SIGKILL)
    status, said, warned = await ended(process)
    assert "100 %" not in said
    if victim == "source":
        assert status in {6, 7}, warned
        target = pair.sides["target"]
        with contextlib.suppress(Exception):  # one whose stream was cut ends by itself
            assert (await target.view()).state is RunState.INCOMING
        return
    if victim == "target":
        assert status == 7, warned
    await pair.assert_as_before()
    if victim == "console" and stage == "disks":
        assert (await pair.type("info migrate", side="target"))[1].find("Receiving") == -1


def guard_of(console: subprocess.Popen[bytes]) -> int:
    """Return the guard's process."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes()
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            if b"monitorguard" in words and parent == str(console.pid):
                return int(entry.name)
    raise AssertionError("the console has no guard")


@pytest.mark.long
@pytest.mark.parametrize("stage", ["disks", "memory"])
async def test_console_and_guard_are_killed_and_migrate_cancel_mends_it(pair: Pair, stage: str) -> None:
    await pair.both()
    await pair.slow()
    console = pair.spawn(f"migrate -b {pair.uri}")
    await pair.copies()
    guard = guard_of(console)
    if stage == "memory":
        await pair.memory_begins()
    os.kill(guard, signal.SIGKILL)
    console.kill()
    await ended(console)
    source = pair.sides["source"]
    if stage == "memory":  # nobody says the word that the stream waits for
        await pair.slow("100m")
        await becomes(source, RunState.STOPPED_FOR_SWITCHOVER)
    assert (await pair.type("migrate_cancel"))[0] == 0
    await becomes(source, RunState.RUNNING)
    assert await source.human("info block-jobs") == "No active jobs\n"
