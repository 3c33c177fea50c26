"""The three sessions of the seed text, line by line, on QEMU 7.2 and on 10.0; and its static migration.

The lines are the text's own. What is added: `-display none` (there is no screen), `-qmp` (a console needs it), `-F`
(the backing format that `qemu-img` asks for by now), and a smaller guest. rhel7.img is a guest in one sector.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest
from tinyguest import ACKNOWLEDGED, COUNTER, MIB, lost_writes, write_image

from godwit import app
from godwit.errors import LabError
from godwit.lab import assets
from godwit.lab.assets import Tree
from godwit.lab.laboratory import Laboratory
from godwit.lab.plan import LabPlan
from godwit.model import HostRecord

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

HOSTS: Final = {"kvm-host1": "host1", "kvm-host2": "host2"}
FOLDER: Final = "/var/lib/seed"
QMP: Final = "/run/seed.qmp"
START: Final = "qemu-system-x86_64 {image} -smp 2 -m 64 -net nic -net tap"
INCOMING: Final = " -incoming tcp:0:6666"
CREATE: Final = "qemu-img create -f qcow2 -o backing_file=/mnt/rhel7.img,size=64M{added} rhel7.qcow2"
ADDED: Final = f" -display none -qmp unix:{QMP},server=on,wait=off"
DEADLINE: Final = 60.0
SIZE: Final = 64 * MIB

HELP: Final = {
    "migrate_cancel": "migrate_cancel  -- cancel the current VM migration\n",
    "migrate_set_speed": (
        "migrate_set_speed value -- set maximum speed (in bytes) for migrations. "
        "Defaults to MB if no size suffix is specified, ie. B/K/M/G/T\n"
    ),
    "migrate_set_downtime": (
        "migrate_set_downtime value -- set maximum tolerated downtime (in seconds) for migrations\n"
    ),
}


@dataclass(slots=True)
class Room:
    """Two hosts by the seed's names, and somebody who types at their monitors."""

    lab: Laboratory
    version: str
    home: Path

    @property
    def old(self) -> bool:
        """Whether this QEMU still copies disks itself."""
        return self.version.startswith("7.")

    def speed(self, wanted: str) -> str:
        """Type a speed at which a guest that writes can be moved: QEMU's own copy sends a whole MiB for each write."""
        return f"migrate_set_speed {'64m' if self.old else wanted}"

    def on(self, host: str, line: str, *, check: bool = True) -> str:
        """Type a line at a host's shell, in the folder of this test."""
        words = self.lab.command(HOSTS[host], ["sh", "-c", f"mkdir -p {FOLDER} && cd {FOLDER} && {line}"])
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def start(self, host: str, line: str) -> None:
        """Start a QEMU and wait for its monitor; what it prints goes to a file."""
        self.on(
            host, f"rm -f {QMP}; setsid {line}{ADDED} >said 2>&1 </dev/null & until [ -S {QMP} ]; do sleep 0.05; done"
        )

    def console(self, host: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "godwit", "monitor", "--qmp", QMP, "--host", host],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "GODWIT_HOME": str(self.home), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def type(self, host: str, *lines: str, pause: float = 0.0, status: int = 0) -> str:
        """Type lines at the monitor of the QEMU on a host, `pause` seconds between them; returns what it says."""
        with self.console(host) as process:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                for line in lines:
                    process.stdin.write(f"{line}\n".encode())
                    process.stdin.flush()
                    time.sleep(pause)  # the pace of a person who types
            out, err = process.communicate(timeout=2 * DEADLINE)
        assert process.returncode == status, err.decode()
        assert "Traceback" not in err.decode()
        return out.decode()

    def number(self, host: str, address: int = COUNTER) -> int:
        said = self.type(host, f"xp /1wx {address:#x}")
        return int(said.rpartition("0x")[2], 16)

    def counts(self, host: str, above: int) -> int:
        """Wait until the guest has counted further than `above`."""
        end = time.monotonic() + DEADLINE
        while (number := self.number(host)) <= above:
            assert time.monotonic() < end, number
            time.sleep(0.2)  # a cell of the guest's memory gives no event; the loop has a deadline
        return number

    def clear(self) -> None:
        """End every QEMU, and remove what a test has made."""
        for machine in self.lab.status().machines:
            for qemu in machine.qemus:
                os.kill(qemu.pid, 9)
        for host in HOSTS:
            self.on(
                host, f"cd / && while pidof qemu-system-x86_64 >/dev/null; do sleep 0.05; done; rm -rf {FOLDER} {QMP}"
            )

    def assert_moved(self, before: int, image: str) -> None:
        """The guest goes on where it was, on the target alone, and the target's disk holds what it was told."""
        assert self.type("kvm-host2", "info status").startswith("VM status: running\n")
        assert self.type("kvm-host1", "info status").startswith("VM status: paused (postmigrate)\n")
        assert self.counts("kvm-host2", before) < before + 2000
        self.type("kvm-host2", "stop")
        acknowledged = self.number("kvm-host2", ACKNOWLEDGED)
        self.type("kvm-host2", "quit!")
        self.type("kvm-host1", "quit!")
        raw = self.lab.images("host2") / "compared.raw"
        self.on("kvm-host2", f"qemu-img convert -O raw {image} /mnt/images/compared.raw")
        assert lost_writes(raw, acknowledged) == []
        raw.unlink()


@pytest.fixture(scope="module", params=["10.0", pytest.param("7.2", marks=pytest.mark.long)])
def room(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    """Return a laboratory whose hosts have that QEMU."""
    old = request.param == "7.2"
    prepared = assets.prepare(assets.cache_folder(), print, *([Tree.OLD] if old else []))
    tree = prepared.trees.get(Tree.OLD) if old else prepared.hosttree
    if tree is None:
        pytest.skip(
            "NOT SHOWN HERE: the seed's sessions on an older QEMU, since this Debian release has none of its own"
        )
    lab = Laboratory.up(LabPlan(f"seed-{request.param.replace('.', '')}", link_rate=None), tree)
    try:
        made = Room(lab, request.param, tmp_path_factory.mktemp("godwit"))
        asyncio.run(furnish(made))
        write_image(lab.images("host1") / "rhel7.img", SIZE, 20 * MIB)
        for host in HOSTS:
            names = "".join(f"{lab.hosts[HOSTS[one]].migration_address} {one}\\n" for one in HOSTS)
            made.on(host, f"ln -sf /mnt/images/rhel7.img /mnt/rhel7.img && printf '{names}' >>/etc/hosts")
            assert f" {request.param}." in made.on(host, "qemu-system-x86_64 --version")
        yield made
    finally:
        with contextlib.suppress(LabError):
            lab.down()


async def furnish(room: Room) -> None:
    async with app.opened(room.home) as service:
        for name, machine in HOSTS.items():
            one = room.lab.hosts[machine]
            await service.inventory.put_host(
                HostRecord(
                    name=name,
                    url=f"ssh://{one.ssh_user}@{one.ssh_address}:{one.ssh_port}",
                    identity_file=str(one.key_file),
                    known_hosts=str(one.known_hosts),
                    use_agent=False,
                    migration_address=one.migration_address or "",
                )
            )


@pytest.fixture(autouse=True)
def cleared(room: Room) -> Iterator[None]:
    yield
    room.clear()


def percentages(said: str) -> list[int]:
    return [int(one) for one in re.findall(r"Completed (\d+) %\r", said)]


def test_over_shared_storage(room: Room) -> None:
    shutil.copyfile(room.lab.images("host1") / "rhel7.img", room.lab.images("host1") / "shared.img")
    line = START.format(image="/mnt/images/shared.img")
    room.start("kvm-host1", line)
    room.start("kvm-host2", line + INCOMING)
    before = room.counts("kvm-host1", 10)
    said = room.type("kvm-host1", "migrate tcp:kvm-host2:6666", "info migrate")
    assert "Completed 100 %\n" in said
    assert "Migration status: completed" in said
    room.assert_moved(before, "/mnt/images/shared.img")


def test_the_overlay_alone(room: Room) -> None:
    create = CREATE.format(added=",backing_fmt=raw")
    if not room.old:
        assert "Backing file specified without backing format" in room.on(
            "kvm-host1", CREATE.format(added="") + " 2>&1", check=False
        )
    line = START.format(image="rhel7.qcow2")
    for host in HOSTS:
        room.on(host, create)
    room.on("kvm-host1", "qemu-io -c 'write -q -P 5 40M 12M' rhel7.qcow2")
    room.start("kvm-host1", line)
    room.start("kvm-host2", line + INCOMING)
    before = room.counts("kvm-host1", 10)
    said = room.type("kvm-host1", room.speed("8m"), "migrate -i tcp:kvm-host2:6666", "info migrate")
    shown, _, after = said.partition("Completed 100 %\n")
    assert percentages(shown) == sorted(set(percentages(shown)))
    assert len(percentages(shown)) > (0 if room.old else 1)  # that QEMU is asked, and may be quicker than we look
    assert "Migration status: completed" in after
    received(room, "kvm-host2")
    room.assert_moved(before, "rhel7.qcow2")
    allocated = int(room.on("kvm-host2", "stat -c %b rhel7.qcow2")) * 512
    assert allocated < 18 * MIB, "20 MiB of the base were not copied"
    compare(room, "rhel7.qcow2", 12)


def test_the_whole_disk(room: Room) -> None:
    line = START.format(image="rhel7.img")
    room.on("kvm-host1", "cp --sparse=always /mnt/rhel7.img rhel7.img")
    room.on("kvm-host2", "qemu-img create -q -f raw rhel7.img 64M")
    room.start("kvm-host1", line)
    room.start("kvm-host2", line + INCOMING)
    before = room.counts("kvm-host1", 10)
    said = room.type("kvm-host1", room.speed("20m"), "migrate -b tcp:kvm-host2:6666", "info migrate")
    shown, _, after = said.partition("Completed 100 %\n")
    assert percentages(shown) == sorted(set(percentages(shown)))
    assert len(percentages(shown)) > (0 if room.old else 1)  # that QEMU is asked, and may be quicker than we look
    assert "Migration status: completed" in after
    received(room, "kvm-host2")
    room.assert_moved(before, "rhel7.img")
    compare(room, "rhel7.img", 20)


def received(room: Room, host: str) -> None:
    """A QEMU that copies disks itself says so on its standard output, as the text shows; later ones say nothing."""
    said = room.on(host, "cat said").replace("\r", "\n")
    if room.old:
        assert "Receiving block device images\n" in said
        assert "Completed 100 %" in said
    else:
        assert "Completed" not in said


def compare(room: Room, image: str, filled: int) -> None:
    """Beyond the sectors that the guest went on writing both disks are alike."""
    for host in HOSTS:
        room.on(host, f"qemu-img convert -O raw {image} /mnt/images/{host}.raw")
    paths = [room.lab.images("host1") / f"{host}.raw" for host in HOSTS]
    one, other = (path.read_bytes()[MIB:] for path in paths)
    assert one == other
    assert len(one) - one.count(0) > filled * MIB * 0.9
    for path in paths:
        path.unlink()


def test_d_and_cancel(room: Room) -> None:
    """`-d` gives the prompt back; `info migrate` tells of memory and disk; `migrate_cancel` leaves the guest here."""
    line = START.format(image="rhel7.img")
    room.on("kvm-host1", "cp --sparse=always /mnt/rhel7.img rhel7.img")
    room.on("kvm-host2", "qemu-img create -q -f raw rhel7.img 64M")
    room.start("kvm-host1", line)
    room.start("kvm-host2", line + INCOMING)
    before = room.counts("kvm-host1", 10)
    lines = (
        *("migrate_set_speed 1m", "migrate_set_downtime 0.5", "migrate -d -b tcp:kvm-host2:6666"),
        *("info migrate", "migrate_cancel", "info status", "info migrate"),
    )
    said = room.type("kvm-host1", *lines, pause=1.0)
    live, _, after = said.partition("VM status: running\n")
    assert "Migration status: active" in live
    for kind in ("ram", "disk"):
        for word in ("transferred", "remaining", "total"):
            assert re.search(rf"^{word} {kind}: \d+ kbytes$", live, re.MULTILINE), (word, kind)
    assert "Migration status: active" not in after
    room.counts("kvm-host1", before)


@pytest.mark.parametrize("room", ["10.0"], indirect=True)  # an older QEMU copies disks itself, without Godwit
@pytest.mark.parametrize("stage", ["disks", "memory"])
def test_a_cut_link_is_mended_by_ctrl_c(room: Room, stage: str) -> None:
    """Frames vanish without a sound: nothing fails by itself for minutes."""
    # What no zero page stands for, from 16 MiB of its memory on: the memory takes some seconds, however busy we are.
    line = START.format(image="rhel7.img") + " -device loader,file=noise,addr=0x1000000,force-raw=on"
    for host in HOSTS:
        room.on(host, "head -c 32M /dev/urandom >noise")
    room.on("kvm-host1", "cp --sparse=always /mnt/rhel7.img rhel7.img")
    room.on("kvm-host2", "qemu-img create -q -f raw rhel7.img 64M")
    room.start("kvm-host1", line)
    room.start("kvm-host2", line + INCOMING)
    before = room.counts("kvm-host1", 10)
    with room.console("kvm-host1") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"migrate_set_speed 4m\nmigrate -b tcp:kvm-host2:6666\n")
        process.stdin.flush()
        wanted = 5 if stage == "disks" else 50  # of the 84 MiB in all the disk's 20 come first, then 16 of zeros fly by
        seen = b""
        while not any(one >= wanted for one in percentages(seen.decode())):
            more = os.read(process.stdout.fileno(), 4096)
            assert more, seen  # the console has ended
            seen += more
            assert b"100 %" not in seen  # it is over before the link is cut
        room.lab.cut("host2", "migration")
        try:
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            assert process.wait(DEADLINE) == 130
            assert process.stderr is not None
            said = process.stderr.read().decode()
            assert "the migration was taken back" in said
            assert room.type("kvm-host1", "info block-jobs") == "No active jobs\n"
            room.counts("kvm-host1", before)
        finally:
            room.lab.heal("host2", "migration")


def test_help(room: Room) -> None:
    room.on("kvm-host1", "cp --sparse=always /mnt/rhel7.img rhel7.img")
    room.start("kvm-host1", START.format(image="rhel7.img"))
    said = room.type("kvm-host1", "help migrate")
    assert re.match(r"migrate \[-d\] \[-b\] \[-i\] (\[-r\] )?uri -- migrate to URI \(using -d to not wait for", said)
    assert "-b for migration without shared storage with full copy of disk" in said
    words = "-i for migration without shared storage with incremental copy of disk (base image shared between src and"
    assert words in re.sub(r"\s+", " ", said)
    for name, words in HELP.items():
        assert room.type("kvm-host1", f"help {name}") == words


def test_static_migration_with_a_snapshot(room: Room) -> None:
    """`savevm`, the guest ends, its image is carried over, the same command starts it there, `loadvm`."""
    line = START.format(image="rhel7.qcow2")
    room.on("kvm-host1", "qemu-img convert -f raw -O qcow2 /mnt/rhel7.img rhel7.qcow2")
    room.start("kvm-host1", line)
    before = room.counts("kvm-host1", 200)
    assert "my_tag" in room.type("kvm-host1", "savevm my_tag", "stop", "info snapshots", "quit!")
    room.on("kvm-host1", "mv rhel7.qcow2 /mnt/images/carried.qcow2")
    room.on("kvm-host2", "mv /mnt/images/carried.qcow2 rhel7.qcow2")
    room.start("kvm-host2", line)
    room.type("kvm-host2", "loadvm my_tag")
    assert before <= room.counts("kvm-host2", before) < before + 1000
