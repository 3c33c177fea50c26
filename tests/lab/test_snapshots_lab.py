"""Snapshots of real guests: memory and disk agree after going back; a guest is sent, whole or not at all."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import pytest
from diskground import image
from labtools import Ground
from labwaits import until

from godwit import app
from godwit.errors import BusyError, InputError, MigrationCancelledError, MigrationFailedError, RefusedError
from godwit.lab import assets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from godwit.lab.laboratory import Laboratory

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]

SLOW: Final = 40_000_000
"""Bits a second at which an image takes many seconds."""

COUNT: Final = (
    "i=0; while [ ! -e /tmp/enough ]; do i=$((i+1)); echo $i > /data/count.new; sync; mv /data/count.new /data/count; "
    "sync; echo $i > /dev/shm/count; done"
)
"""A writer whose counter is on the disk before it is in memory: at any instant the disk is ahead by one at most."""

BOTH: Final = "touch /tmp/enough; sleep 1; cat /dev/shm/count; sync; echo 3 > /proc/sys/vm/drop_caches; cat /data/count"


@pytest.fixture(scope="module")
def ground(build_lab: Callable[..., Laboratory], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Return a laboratory whose hosts share nothing, with a guest on host1."""
    yield from laid(build_lab(link_rate=None, shared_storage=False), tmp_path_factory.mktemp("godwit"))


def laid(lab: Laboratory, home: Path) -> Iterator[Ground]:
    prepared = assets.prepare(assets.cache_folder(), print)
    made = Ground(lab, prepared, home)
    asyncio.run(made.settle())
    yield made
    made.end_runners()


@asynccontextmanager
async def counting(ground: Ground) -> AsyncIterator[None]:
    """Let a writer count in the guest."""
    ground.ssh("rm -f /tmp/enough; echo 0 > /dev/shm/count")
    writer = await asyncio.create_subprocess_exec(
        *ground.login(), f"setsid sh -c '{COUNT}' > /dev/null 2>&1 < /dev/null &", stderr=asyncio.subprocess.DEVNULL
    )
    await writer.wait()
    await until(lambda: int(ground.ssh("cat /dev/shm/count") or 0) > 3, "the writer counts")
    yield


def counts(ground: Ground) -> tuple[int, int]:
    """Stop the writer; return its counter in memory and on the disk, read anew."""
    in_memory, on_disk = ground.ssh(BOTH).split()
    return int(in_memory), int(on_disk)


def made_there(ground: Ground, machine: str) -> list[str]:
    """Return the guest's image and the marks of copies on a host."""
    folder = ground.lab.images(machine)
    return sorted(path.name for path in folder.iterdir() if path.name == f"{ground.name}.qcow2" or "copy" in path.name)


def exporters(ground: Ground) -> list[str]:
    """Return what still serves a file on any host."""
    found = []
    for machine in ("host1", "host2"):
        listed = ground.inside(machine, "sh", "-c", "ps -eo args | grep '[q]emu-nbd' || true")
        left = ground.inside(machine, "sh", "-c", "ls /run/godwit | grep -E '^(take|send)-' || true")
        found += [*listed.splitlines(), *left.splitlines()]
    return found


async def cleared(ground: Ground) -> tuple[str, str]:
    """Take an old copy out of the way; returns where the guest is and goes."""
    here, there = await ground.whereabouts()
    for name in made_there(ground, there):
        (ground.lab.images(there) / name).unlink()
    for row in (await ground.godwit("snapshot", "list", ground.name, "--json")).out.split('"tag": "')[1:]:
        await ground.godwit("snapshot", "delete", ground.name, row.split('"')[0])
    return here, there


@pytest.mark.long
async def test_memory_and_disk_agree_after_going_back(ground: Ground) -> None:
    await cleared(ground)
    async with counting(ground):
        made = await ground.godwit("snapshot", "create", ground.name, "my_tag")
        assert made.status == 0, made.err
        assert "stood still for" in made.out
        at = int(ground.ssh("cat /dev/shm/count"))
        await until(lambda: int(ground.ssh("cat /dev/shm/count") or 0) > at + 5, "the writer counts on")
    first = counts(ground)
    asked = await ground.godwit("snapshot", "apply", ground.name, "my_tag")
    assert asked.status == InputError.exit_status
    assert "will be lost" in asked.err
    back = await ground.godwit("snapshot", "apply", ground.name, "my_tag", "--yes")
    assert back.status == 0, back.err
    # The writer of that instant lives again, and its counter in memory goes with the one on the disk.
    await until(lambda: ground.ssh("cat /dev/shm/count") != "", "the guest answers")
    second = counts(ground)
    assert second[0] > 0
    assert 0 <= second[1] - second[0] <= 1
    assert 0 <= first[1] - first[0] <= 1


@pytest.mark.long
async def test_names_taken_unknown_or_numbers_and_guests_that_are_off(ground: Ground) -> None:
    here, _ = await cleared(ground)
    assert (await ground.godwit("snapshot", "create", ground.name, "one")).status == 0
    taken = await ground.godwit("snapshot", "create", ground.name, "one")
    assert (taken.status, "there is a snapshot one already" in taken.err) == (InputError.exit_status, True)
    number = await ground.godwit("snapshot", "create", ground.name, "1")
    assert (number.status, "cannot be the name" in number.err) == (InputError.exit_status, True)
    unknown = await ground.godwit("snapshot", "apply", ground.name, "two", "--yes")
    assert (unknown.status, "it has: one" in unknown.err) == (InputError.exit_status, True)
    ground.ssh("echo alive > /dev/shm/mark")
    assert (await ground.godwit("snapshot", "create", ground.name, "marked")).status == 0
    assert (await ground.godwit("vm", "stop", "--force", ground.name)).status == 0
    listed = await ground.godwit("snapshot", "list", ground.name)
    assert "one" in listed.out
    assert "complete" in listed.out
    deleted = await ground.godwit("snapshot", "delete", ground.name, "one")
    assert deleted.status == 0, deleted.err
    assert "one" not in (await ground.godwit("snapshot", "list", ground.name)).out.replace("marked", "")
    applied = await ground.godwit("snapshot", "apply", ground.name, "marked", "--yes")
    assert applied.status == 0, applied.err
    assert ground.ssh("cat /dev/shm/mark") == "alive"
    await ground.assert_settled(here)


@pytest.mark.long
async def test_a_full_disk_leaves_the_guest_as_it_was(ground: Ground) -> None:
    """The room is looked for beforehand; QEMU itself would take all of it, and not give it back."""
    here, _ = await cleared(ground)
    assert (await ground.godwit("vm", "stop", "--force", ground.name)).status == 0
    narrow(ground, here, room=40)
    try:
        assert (await ground.godwit("vm", "start", ground.name)).status == 0
        await ground.answers()
        ran = await ground.godwit("snapshot", "create", ground.name, "large")
        assert ran.status == RefusedError.exit_status
        assert "MiB left" in ran.err
        assert ground.ssh("echo 1 > /data/x && sync && cat /data/x") == "1"
    finally:
        await ground.godwit("vm", "stop", "--force", ground.name)
        ground.inside(here, "umount", "/mnt/images")
        await ground.godwit("vm", "start", ground.name)
    await ground.answers()


def narrow(ground: Ground, machine: str, *, room: int) -> None:
    """Lay a small disk over a host's images, with what the guest needs and `room` MiB more."""
    script = (
        'cd /mnt/images && mkdir -p /tmp/kept && rm -f /tmp/kept/* && cp --sparse=always "$0".* /tmp/kept/ && '
        "size=$(($(du -cm /tmp/kept/* | tail -n 1 | cut -f 1) + $1)) && cd / && "
        "mount -t tmpfs -o size=${size}m tmpfs /mnt/images && cp --sparse=always /tmp/kept/* /mnt/images/"
    )
    ground.inside(machine, "sh", "-c", script, ground.name, str(room))


async def test_a_guest_is_sent_and_goes_on_in_the_middle_of_its_work(ground: Ground) -> None:
    here, there = await cleared(ground)
    async with counting(ground):
        before = int(ground.ssh("cat /dev/shm/count"))
        sent = await ground.godwit("snapshot", "send", ground.name, "my_tag", ground.host(there))
        assert sent.status == 0, sent.err + sent.out
        assert "the old copy" in sent.out
        await until(lambda: int(ground.ssh("cat /dev/shm/count") or 0) > before + 3, "the writer counts on")
    in_memory, on_disk = counts(ground)
    assert 0 <= on_disk - in_memory <= 1
    await ground.assert_settled(there)
    assert made_there(ground, there) == [f"{ground.name}.qcow2"]
    assert (ground.lab.images(here) / f"{ground.name}.qcow2").exists()
    assert exporters(ground) == []
    sizes = [int(ground.inside(machine, "stat", "-c", "%b", image(ground))) for machine in (here, there)]
    assert sizes[1] <= 1.1 * sizes[0] + 2048, "holes stay holes"
    assert "my_tag" in (await ground.godwit("snapshot", "list", ground.name)).out
    # Its QEMU was ended by force: clusters may have leaked (status 3), and nothing worse.
    ground.inside(here, "sh", "-c", f"qemu-img check -q {image(ground)} || [ $? -eq 3 ]")


@pytest.mark.long
async def test_an_existing_snapshot_is_sent_when_that_is_meant(ground: Ground) -> None:
    _, there = await cleared(ground)
    ground.ssh("echo then > /dev/shm/mark; echo then > /data/mark; sync")
    assert (await ground.godwit("snapshot", "create", ground.name, "then")).status == 0
    ground.ssh("echo now > /dev/shm/mark; echo now > /data/mark; sync")
    asked = await ground.godwit("snapshot", "send", ground.name, "then", ground.host(there))
    assert asked.status == InputError.exit_status
    assert "will be lost" in asked.err
    sent = await ground.godwit("snapshot", "send", ground.name, "then", ground.host(there), "--yes")
    assert sent.status == 0, sent.err
    assert ground.ssh("cat /dev/shm/mark; echo 3 > /proc/sys/vm/drop_caches; cat /data/mark").split() == [
        "then",
        "then",
    ]
    await ground.assert_settled(there)


@pytest.mark.long
async def test_a_file_in_the_way_is_not_overwritten(ground: Ground) -> None:
    here, there = await cleared(ground)
    other = ground.lab.images(there) / f"{ground.name}.qcow2"
    other.write_text("somebody's")
    ran = await ground.godwit("snapshot", "send", ground.name, "my_tag", ground.host(there))
    assert ran.status == RefusedError.exit_status
    assert "not overwritten" in ran.err
    assert other.read_text() == "somebody's"
    await ground.assert_settled(here)


@pytest.mark.parametrize(
    "trouble", ["interrupted", *(pytest.param(one, marks=pytest.mark.long) for one in ("full", "target dies"))]
)
async def test_a_guest_that_cannot_be_sent_goes_on_where_it_was(ground: Ground, trouble: str) -> None:
    here, there = await cleared(ground)
    ground.ssh(f"echo '{trouble}' > /dev/shm/mark")
    if trouble == "full":
        narrow(ground, there, room=2000)
    ground.lab.set_rate(SLOW)
    try:
        process = await ground.spawn("snapshot", "send", ground.name, "my_tag", ground.host(there))
        if trouble == "full":
            await until(lambda: made_in(ground, there), "the copy is made", 60)
            shrink = "mount -o remount,size=$(($(df -k --output=used /mnt/images | tail -n 1) + 4096))k /mnt/images"
            ground.inside(there, "sh", "-c", shrink)
        else:
            await until(lambda: made_there(ground, there) != [], "the copy is made", 60)
        if trouble == "interrupted":
            process.send_signal(signal.SIGINT)
        if trouble == "target dies":
            ground.lab.crash(there)
        async with asyncio.timeout(120):
            out, err = await process.communicate()
        assert "Traceback" not in (out + err).decode()
        expected = MigrationCancelledError if trouble == "interrupted" else MigrationFailedError
        assert process.returncode == expected.exit_status, (out + err).decode()
        assert "runs on" in err.decode()
        if trouble == "target dies":
            ground.lab.restart(there)
        assert ground.ssh("cat /dev/shm/mark") == trouble
        assert exporters(ground) == []
        if trouble == "full":
            assert ground.inside(there, "ls", "-A", "/mnt/images").split().count(f"{ground.name}.qcow2") == 0
        elif trouble == "interrupted":
            assert made_there(ground, there) == []
        await ground.assert_settled(here)
    finally:
        if trouble == "full":
            ground.inside(there, "umount", "/mnt/images")


def made_in(ground: Ground, machine: str) -> bool:
    """Say whether a copy of the image is begun, whatever is mounted over its folder."""
    return "copy" in ground.inside(machine, "ls", "-A", "/mnt/images")


@pytest.mark.long
async def test_who_is_killed_on_the_way_is_succeeded(ground: Ground) -> None:
    here, there = await cleared(ground)
    ground.ssh("echo killed > /dev/shm/mark")
    ground.lab.set_rate(SLOW)
    process = await ground.spawn("snapshot", "send", ground.name, "my_tag", ground.host(there))
    await until(lambda: made_there(ground, there) != [], "the copy is made", 60)
    os.kill(process.pid, signal.SIGKILL)
    await process.communicate()
    ground.lab.set_rate(None)
    said = await ground.godwit("status")
    command = f"godwit snapshot send {ground.name} my_tag {ground.host(there)}"
    assert command in said.err
    refused = await ground.godwit("vm", "start", ground.name)
    assert (refused.status, command in refused.err) == (BusyError.exit_status, True)
    other = await ground.godwit("snapshot", "send", ground.name, "other", ground.host(there))
    assert (other.status, command in other.err) == (BusyError.exit_status, True)
    went_on = await ground.godwit(*command.split()[1:], deadline=120)
    assert went_on.status == 0, went_on.err + went_on.out
    assert ground.ssh("cat /dev/shm/mark") == "killed"
    await ground.assert_settled(there)
    assert made_there(ground, there) == [f"{ground.name}.qcow2"]
    end = time.monotonic() + 60  # the lease of who served for the one that was killed
    while exporters(ground):
        assert time.monotonic() < end
        await asyncio.sleep(1)
    assert here != there


async def test_a_writable_raw_disk_is_named(ground: Ground) -> None:
    here, there = await cleared(ground)
    ground.inside(here, "truncate", "-s", "4M", "/mnt/images/extra.raw")
    name = f"{ground.name}-raw"
    text = (
        f'name = "{name}"\nmemory = "32M"\naccelerator = "tcg"\ndisks = [{{ path = "/mnt/images/extra.raw", '
        'format = "raw" }]\n'
    ).replace("}]", "}]")
    text = text.replace("{{", "{").replace("}}", "}")
    async with app.opened(ground.home) as service:
        await service.define_vm(text, "raw.toml", ground.host(here))
        await service.start_vm(name)
    try:
        refused = await ground.godwit("snapshot", "create", name, "a")
        assert refused.status == RefusedError.exit_status
        assert "/mnt/images/extra.raw) is raw" in refused.err
        again = await ground.godwit("snapshot", "send", name, "a", ground.host(there))
        assert again.status == RefusedError.exit_status
    finally:
        await ground.godwit("vm", "stop", "--force", name)
        await ground.godwit("vm", "remove", name)
