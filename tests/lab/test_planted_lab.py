"""Mismatches that can be made on laboratory hosts: each is made there, named by `godwit check`, and taken back.

Their like on recorded answers, with all those that cannot be made here, is tests/core/planted.py. A bridge cannot be
taken from a host here: its own address is on it.
"""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest
from labtools import Ground

from godwit.lab import assets

if TYPE_CHECKING:
    from collections.abc import Callable

    from godwit.lab.laboratory import Laboratory

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

QEMU: Final = "/usr/bin/qemu-system-x86_64"
LATER: Final = (
    'cp /usr/bin/date /run/date && printf \'#!/bin/sh\\nexec /run/date -d "+{time}" "$@"\\n\' >/run/later && '
    "chmod 755 /run/later && mount --bind /run/later /usr/bin/date"
)
LITTLE: Final = "sed 's/^MemAvailable:.*/MemAvailable: 1000 kB/' /proc/meminfo >/run/little && "
NOTHING: Final = "mount -t tmpfs none /mnt/images"


@dataclass(frozen=True)
class Made:
    """A mismatch: the line that makes it on a host, the one that takes it back, and the codes that come of it."""

    name: str
    make: str
    undo: str
    codes: frozenset[str]
    mend: str
    on: str = "host2"


def made(name: str, make: str, undo: str, codes: str, mend: str, *, on: str = "host2") -> Made:
    return Made(name, make, undo, frozenset(codes.split()), mend, on)


ROWS: Final = (
    made("the seed's own: /mnt/images here, /mnt there", "mount --bind /mnt/images /mnt", "umount /mnt",
         "disk-folder", "mount the storage that holds it"),
    made("two files of one name", f"{NOTHING} && touch /mnt/images/{{vm}}.qcow2", "umount /mnt/images",
         "disk-not-shared", "storage that both hosts mount at the same place"),
    made("a disk that the target has not", NOTHING, "umount /mnt/images", "disk-copied", "mount its storage there"),
    made("too little room", f"{NOTHING} -o size=64k", "umount /mnt/images", "disk-room", "make room"),
    made("no qemu-img", f"{NOTHING} && mount --bind /dev/null /usr/bin/qemu-img",
         "umount /usr/bin/qemu-img; umount /mnt/images", "qemu-img-missing", "qemu-utils"),
    made("another MTU", "ip link set br0 mtu 1400", "ip link set br0 mtu 1500", "bridge-mtu",
         "ip link set br0 mtu 1500"),
    made("no memory", f"{LITTLE} mount --bind /run/little /proc/meminfo", "umount /proc/meminfo", "memory-short",
         "free memory"),
    made("no QEMU", f"mount --bind /dev/null {QEMU}", f"umount {QEMU}", "qemu-missing accelerator", "install QEMU"),
    made("a clock 90 s ahead", LATER.format(time="90 seconds"), "umount /usr/bin/date", "clocks-differ", "chronyc"),
    made("a clock by which no certificate holds", LATER.format(time="30 days"), "umount /usr/bin/date",
         "clock-forbids clocks-differ", "chronyc makestep"),
    made("no right to shorten the send queue",
         "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys", "umount /proc/sys", "send-queue",
         "tcp_notsent_lowat=65536", on="host1"),
    made("no way to the migration address", "ip link set mig0 down", "ip link set mig0 up", "migration-path",
         "ip route get"),
)  # fmt: skip


@pytest.fixture(scope="module")
def planted(build_lab: Callable[..., Laboratory], tmp_path_factory: pytest.TempPathFactory) -> Ground:
    prepared = assets.prepare(assets.cache_folder(), print)
    ground = Ground(build_lab(link_rate=None), prepared, tmp_path_factory.mktemp("godwit"))
    asyncio.run(ground.settle())
    return ground


def on(ground: Ground, machine: str, line: str) -> None:
    done = subprocess.run(
        ground.lab.command(machine, ["sh", "-c", line]), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


async def checked(ground: Ground) -> tuple[int, dict[str, dict[str, str]]]:
    ran = await ground.godwit("check", ground.name, ground.host("host2"), "--json")
    return ran.status, {one["code"]: one for one in ran.lines[0]["findings"]}


async def test_the_hosts_are_alike_before(planted: Ground) -> None:
    status, found = await checked(planted)
    assert status == 0
    assert {one["severity"] for one in found.values()} <= {"info"}, found


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
async def test_a_mismatch_that_is_made_is_named_with_its_mend(planted: Ground, row: Made) -> None:
    _, before = await checked(planted)
    on(planted, row.on, row.make.replace("{vm}", planted.name))
    try:
        status, found = await checked(planted)
    finally:
        on(planted, row.on, row.undo)
    assert found.keys() - before.keys() == row.codes, found
    assert any(row.mend in found[code]["mend"] for code in row.codes), found
    assert status == (3 if any(found[code]["severity"] == "block" for code in row.codes) else 0)


async def test_the_hosts_are_alike_afterwards(planted: Ground) -> None:
    status, found = await checked(planted)
    assert status == 0
    assert {one["severity"] for one in found.values()} <= {"info"}, found
