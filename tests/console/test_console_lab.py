"""`godwit monitor` against real QEMUs: bare ones that Godwit has never seen, on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import shlex
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from cliterminal import CTRL_C, CTRL_D, terminals
from qemu_machines import Machines

from godwit.lab import assets
from godwit.model import RunState, StreamStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from cliterminal import Terminal

    from godwit.qemu.guest import QemuGuest

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

BARE = "qemu-system-x86_64 -display none -nodefaults"
MEMORY = 32 << 20
DEADLINE = 60.0


@pytest.fixture
async def machines(tmp_path: Path) -> AsyncIterator[Machines]:
    made = Machines(assets.prepare(assets.cache_folder(), print).hosttree, tmp_path)
    yield made
    await made.close()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    with terminals(tmp_path, "godwit") as opened:
        yield opened


class Bench:
    """QEMUs of one test, and somebody who types at them."""

    def __init__(self, machines: Machines) -> None:
        self.machines = machines
        self.folder = machines.folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.uri = f"tcp:127.0.0.1:{self.port}"

    async def start(self, name: str, *more: str) -> QemuGuest:
        """Start a QEMU with two sockets: NAME.qmp for the console, and one through which the test looks.

        Its memory is full of what no zero page stands for, or a migration would be over before anybody looks.
        """
        path = self.folder / f"{name}.memory"
        path.write_bytes(random.Random(1).randbytes(MEMORY))  # noqa: S311 - anything but zeros
        memory = f"memory-backend-file,id=memory,size={MEMORY},share=off,mem-path={path}"
        monitors = [
            word for one in ("qmp", "see") for word in ("-qmp", f"unix:{self.folder}/{name}.{one},server,nowait")
        ]
        machine = ["-m", f"{MEMORY >> 20}", "-object", memory, "-machine", "pc,memory-backend=memory"]
        argv = [*shlex.split(BARE), *machine, *monitors, *more]
        guest, _ = await self.machines.start(argv, f"{self.folder}/{name}.see")
        return guest

    async def type(self, name: str, *lines: str, script: str | None = None) -> tuple[int, str, str]:
        """Run the command over NAME.qmp, or the socket NAME.see, and return its status and what it printed."""
        path = self.folder / (name if name.endswith(".see") else f"{name}.qmp")
        words = ["monitor", "--qmp", str(path), *(word for line in lines for word in ("-c", line))]
        return await asyncio.to_thread(self._run, words, script)

    def _run(self, words: list[str], script: str | None) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "godwit", *words],
            input=(script or "").encode(),
            env={**os.environ, "GODWIT_HOME": str(self.folder), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            timeout=2 * DEADLINE,
            check=False,
        )
        said, warned = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in warned
        return done.returncode, said, warned


@pytest.fixture
def bench(machines: Machines) -> Bench:
    return Bench(machines)


async def becomes(guest: QemuGuest, state: RunState) -> None:
    async with asyncio.timeout(DEADLINE):
        while (await guest.view()).state is not state:  # noqa: ASYNC110 - not every state has an event
            await asyncio.sleep(0.05)


async def says(guest: QemuGuest, line: str, words: str) -> None:
    async with asyncio.timeout(DEADLINE):
        while words not in await guest.human(line):  # noqa: ASYNC110 - there is no event without a capability
            await asyncio.sleep(0.05)


async def test_a_migration_of_old_from_speed_to_cancel(bench: Bench) -> None:
    source = await bench.start("source")
    await bench.start("target", "-incoming", bench.uri)

    status, said, warned = await bench.type(
        "source", "migrate_set_speed 100K", "migrate_set_downtime 0.5", f"migrate -d {bench.uri}", "info status"
    )
    assert (status, said) == (0, "VM status: running\n")
    assert warned.count("two copies") == len(warned.splitlines()) == 1

    await says(source, "info migrate", "Migration status: active")
    status, said, warned = await bench.type(
        "source", "migrate_set_speed 1m", "info migrate", "info migrate_parameters", "migrate_cancel"
    )
    assert (status, warned) == (0, "")
    assert "Migration status: active" in said
    assert re.search(r"remaining ram: \d+ kbytes", said)
    assert "max-bandwidth: 1048576 bytes/second" in said
    assert "downtime-limit: 500 ms" in said
    await says(source, "info migrate", "Migration status: cancelled")
    assert (await source.view()).state is RunState.RUNNING


@pytest.mark.long
async def test_a_whole_migration_shows_its_percentage(bench: Bench) -> None:
    source = await bench.start("source")
    target = await bench.start("target", "-incoming", bench.uri)

    status, said, warned = await bench.type(
        "source",
        "migrate_set_speed 1m",
        "migrate_set_speed 256K",
        f"migrate {bench.uri}",
        "info migrate",
        "info status",
    )

    assert status == 0, warned
    shown, _, after = said.partition("Completed 100 %\n")
    percentages = [int(one) for one in re.findall(r"Completed (\d+) %\r", shown)]
    assert percentages == sorted(set(percentages))
    assert len(percentages) > 2
    assert percentages[-1] < 100
    assert "Migration status: completed" in after
    assert after.endswith("VM status: paused (postmigrate)\n")
    assert (await source.view()).state is RunState.POSTMIGRATE
    await becomes(target, RunState.RUNNING)  # it was started without -S
    status, said, warned = await bench.type("target", "info status")
    assert (status, said) == (0, "VM status: running\n")


async def test_a_target_with_s_waits_for_cont_and_the_source_is_warned_of_it(bench: Bench) -> None:
    await bench.start("source")
    target = await bench.start("target", "-S", "-incoming", bench.uri)

    assert (await bench.type("source", f"migrate {bench.uri}"))[0] == 0
    await becomes(target, RunState.PAUSED)
    assert (await bench.type("target", "cont", "info status"))[1] == "VM status: running\n"
    status, _, warned = await bench.type("source", "cont", "stop")

    assert status == 0
    assert "there are two copies now" in warned


async def test_a_migration_to_nowhere_fails_with_qemus_reason(bench: Bench) -> None:
    await bench.start("source")
    status, _, warned = await bench.type("source", f"migrate {bench.uri}", "stop")
    assert status == 7
    assert f"Error: Failed to connect to '127.0.0.1:{bench.port}': Connection refused" in warned
    assert (await bench.type("source", "info status"))[1] == "VM status: running\n"


@pytest.mark.parametrize(
    "uri", ["unix:{}/stream", '"exec:cat > {}/stream"', pytest.param("file:{}/stream", marks=pytest.mark.long)]
)
async def test_other_uris(bench: Bench, uri: str) -> None:
    await bench.start("source")
    if uri.startswith("unix:"):
        await bench.start("target", "-incoming", uri.format(bench.folder))
    status, said, warned = await bench.type("source", f"migrate {uri.format(bench.folder)}")
    assert (status, said[-16:]) == (0, "Completed 100 %\n"), warned
    assert uri.startswith("unix:") or (bench.folder / "stream").stat().st_size > 0


async def test_snapshots(bench: Bench) -> None:
    disk = bench.folder / "disk.qcow2"
    await bench.machines.run("qemu-img", "create", "-q", "-f", "qcow2", str(disk), "16M")
    await bench.start("source", "-S", "-drive", f"file={disk},if=virtio,format=qcow2")

    status, said, warned = await bench.type(
        "source", "savevm my_tag", "info snapshots", "loadvm my_tag", "delvm my_tag", "info snapshots", "loadvm my_tag"
    )

    assert status == 6
    before, _, after = said.partition("There is no snapshot available.\n")
    assert "my_tag" in before
    assert after == ""
    assert warned == "Error: Snapshot 'my_tag' does not exist in one or more devices\n"


@pytest.mark.long
async def test_mistakes_are_answered_as_qemu_answers_them(bench: Bench) -> None:
    """QEMU's block_job_set_speed takes the size that migrate_set_speed took: the words must be the same."""
    guest = await bench.start("source", "-S")
    sizes = ("abc", "-1", "1.5b", "inf", "0x1.5", "0x1k", "9999999999999999999", "1mx", "5M x", "1e3", ".", "", "1 2 3")
    for size in sizes:
        qemus = await guest.human(f"block_job_set_speed a {size}")
        status, said, words = await bench.type("source", f"migrate_set_speed {size}")
        assert (status, said, words) == (6, "", qemus.replace("block_job_set_speed", "migrate_set_speed")), size
    for line in ("migrate", "migrate -d", "migrate -x a", "migrate a b", 'migrate "a', "migrate foo:bar", "nonsense"):
        qemus = await guest.human(line)
        status, said, words = await bench.type("source", line)
        assert (status, said) == (6, "")
        assert words.endswith(qemus)
    status, said, words = await bench.type("source", script="info status\nmigrate -d -i tcp:h:1\nstop\n")
    assert (status, said) == (3, "VM status: paused (prelaunch)\n")
    assert words.startswith("godwit: error: migrate: the copy of disks needs the target's QMP socket")


async def test_help_lists_the_dropped_commands_among_qemus_own(bench: Bench) -> None:
    guest = await bench.start("source", "-S")
    status, said, _ = await bench.type("source", "help")
    assert status == 0
    ours = said.splitlines()
    assert [line for line in (await guest.human("help")).splitlines() if line not in ours] == [
        "migrate [-d] [-r] uri -- migrate to URI (using -d to not wait for completion)",
        "\t\t\t -r to resume a paused postcopy migration",
    ]
    places = [
        said.index(f"\n{name} ") for name in ("migrate", "migrate_set_downtime", "migrate_set_speed", "nbd_server_add")
    ]
    assert places == sorted(places)


async def test_a_socket_that_nobody_serves_and_one_that_is_taken(bench: Bench) -> None:
    status, _, words = await bench.type("nothing", "info status")
    assert status == 6
    assert "no QEMU serves" in words
    guest = await bench.start("source", "-S")
    status, _, words = await bench.type("source.see", "info status")
    assert (status, "another client holds it" in words) == (6, True)
    assert (await guest.view()).state is RunState.PAUSED


async def test_ctrl_c_ends_a_script_and_not_the_migration(bench: Bench, terminal: Callable[..., Terminal]) -> None:
    source = await bench.start("source")
    await bench.start("target", "-incoming", bench.uri)

    def talk() -> None:
        lines = ("migrate_set_speed 1m", f"migrate {bench.uri}", "stop")
        words = (word for line in lines for word in ("-c", line))
        at = terminal("monitor", "--qmp", f"{bench.folder}/source.qmp", *words)
        at.until("Completed ")
        at.type(CTRL_C)
        at.until("the migration goes on")
        assert at.ended() == 130

    await asyncio.to_thread(talk)
    view = await source.view()
    assert (view.state, view.stream) == (RunState.RUNNING, StreamStatus.ACTIVE)


async def test_a_person_at_a_terminal(bench: Bench, terminal: Callable[..., Terminal]) -> None:
    source = await bench.start("source")
    target = await bench.start("target", "-incoming", bench.uri)

    def talk() -> None:
        at = terminal("monitor", "--qmp", f"{bench.folder}/source.qmp")
        at.until("QEMU 10")
        at.until("(qemu) ")
        at.type(b"migrate_set_speed 1m\n")
        at.until("(qemu) ")
        at.type(f"migrate {bench.uri}\n".encode())
        at.until("Completed ")
        at.type(CTRL_C)
        at.until("the migration goes on; info migrate shows it, migrate_cancel ends it")
        at.until("(qemu) ")
        at.type(b"info mig\t\n")
        at.until("Migration status: ")  # active, or on a busy machine setup still
        at.until("(qemu) ")
        at.type(b"migrate_set_speed 0\n")
        at.until("(qemu) ")
        at.type(CTRL_D)
        assert at.ended() == 0
        assert at.cooked

    await asyncio.to_thread(talk)
    await becomes(target, RunState.RUNNING)
    assert (await source.view()).state is RunState.POSTMIGRATE

    def end() -> None:
        at = terminal("monitor", "--qmp", f"{bench.folder}/source.qmp")
        at.until("(qemu) ")
        at.type(b"quit\n")
        at.until("Enter to only leave: ")
        at.type(b"end\n")
        at.until("has ended")
        assert at.ended() == 0

    await asyncio.to_thread(end)
    with contextlib.suppress(subprocess.TimeoutExpired):
        bench.machines.processes[0].wait(DEADLINE)
    assert bench.machines.processes[0].returncode == 0
