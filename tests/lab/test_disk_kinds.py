"""Disks of every kind that QEMU has, between hosts that share nothing: what travels is the same, and stays thin."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

import pytest
from bareguest import FOLDER, Bare, digest, make, new_name, programs, start
from labtraps import Trap
from labwaits import until

from godwit.core.state import Phase
from godwit.errors import DisksUnverifiedError, RefusedError
from godwit.model import OutcomeStatus, Owner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from labtools import Ground


pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

SLOW: Final = 40_000_000
"""Bits a second at which 32 MiB take some seconds."""

MIB: Final = 1 << 20


@pytest.fixture(scope="module")
def ground(bare_ground: Ground) -> Ground:
    """Return a laboratory whose hosts share nothing; its guests are bare QEMUs."""
    return bare_ground


def images(ground: Ground, *lines: str) -> None:
    """Run shell lines in the folder of images on host1."""
    make(ground, "host1", "sh", "-ec", f"cd {FOLDER}\n" + "\n".join(lines))


def drive(path: str, image_format: str, identifier: str = "d0") -> tuple[str, ...]:
    return (
        *("-drive", f"file={FOLDER}/{path},format={image_format},if=none,id={identifier},discard=unmap"),
        *("-device", f"virtio-blk-pci,drive={identifier}"),
    )


def assert_same(bare: Bare, image: str, image_format: str) -> None:
    """Both hosts' images hold the same, and the new one takes no more room."""
    here, there = (bare.file(image, machine) for machine in ("host1", "host2"))
    make(bare.ground, "host1", "cp", "--sparse=always", str(f"{FOLDER}/{image}"), f"{FOLDER}/{image}.old")
    (bare.ground.lab.images("host2") / f"{image}.old").write_bytes((here.parent / f"{image}.old").read_bytes())
    make(
        *(bare.ground, "host2", "qemu-img", "compare", "-U", "-f", image_format, "-F", image_format),
        *(f"{FOLDER}/{image}", f"{FOLDER}/{image}.old"),
    )
    assert there.stat().st_blocks <= 1.1 * here.stat().st_blocks + 1024, (there.stat(), here.stat())


@pytest.mark.long
async def test_what_the_guest_only_reads_goes_before_it(ground: Ground) -> None:
    name = new_name()
    cd, seed = ground.lab.images("host1") / f"{name}.iso", ground.lab.images("host1") / f"{name}.seed"
    cd.write_bytes(os.urandom(3 * MIB))
    os.truncate(cd, 40 * MIB)
    seed.write_bytes(os.urandom(374_001))
    bare = await start(
        *(ground, name, "-cdrom", f"{FOLDER}/{cd.name}"),
        *("-drive", f"file={FOLDER}/{seed.name},format=raw,if=none,id=seed,readonly=on"),
        *("-device", "virtio-scsi-pci", "-device", "scsi-cd,drive=seed"),
    )
    try:
        checked = await bare.check()
        assert "read-only, before its QEMU starts" in checked.out, checked
        moved = await bare.move()
        assert moved.status == 0, moved
        for one in (cd, seed):
            there = bare.file(one.name, "host2")
            assert digest(there) == digest(one)
            assert there.stat().st_size == one.stat().st_size
        assert bare.file(cd.name, "host2").stat().st_blocks * 512 < 4 * MIB, "holes stay holes"
        assert f"{ground.host('host2')}" in moved.out
        assert bare.left("host2") == []
        assert programs(ground, "host1") == programs(ground, "host2") == []

        back = await bare.move()
        assert back.status == 0, back
        assert f"{ground.host('host1')} has the same {FOLDER}/{seed.name}" in back.out
        assert "compared whole" in back.out

        other = bare.file(seed.name, "host2")
        other.write_bytes(other.read_bytes()[:-1] + b"?")
        refused = await bare.move()
        assert refused.status == RefusedError.exit_status
        assert f"{seed.name} is another file on {ground.host('host2')}" in refused.err
        assert refused.err.count("374001 ") == 2, "both digests are told"
        assert (await bare.check("--disks", "shared")).status == RefusedError.exit_status
    finally:
        await bare.end()


@pytest.mark.long
async def test_a_cancel_while_a_medium_is_copied_leaves_nothing(ground: Ground) -> None:
    name = new_name()
    cd = ground.lab.images("host1") / f"{name}.iso"
    cd.write_bytes(os.urandom(32 * MIB))
    bare = await start(ground, name, "-cdrom", f"{FOLDER}/{cd.name}")
    ground.lab.set_rate(SLOW)
    try:
        move = await (await bare.begin()).reaches(Phase.PREPARING)
        await until(
            lambda: bare.file(cd.name, "host2").exists() and "qemu-img" in programs(ground, "host1"), "it flows"
        )
        assert (await ground.godwit("cancel", move.id)).status == 0
        outcome = await move.outcome()
        assert (outcome.status, outcome.owner) == (OutcomeStatus.CANCELLED, Owner.SOURCE)
        assert not bare.file(cd.name, "host2").exists()
        assert bare.left("host2") == []
        assert programs(ground, "host1") == programs(ground, "host2") == []
        assert ground.left_on("host2") == []
    finally:
        ground.lab.set_rate(None)
        await bare.end()


@pytest.mark.long
async def test_a_runner_that_dies_while_a_medium_is_copied_leaves_nothing(ground: Ground) -> None:
    name = new_name()
    cd = ground.lab.images("host1") / f"{name}.iso"
    cd.write_bytes(os.urandom(32 * MIB))
    bare = await start(ground, name, "-cdrom", f"{FOLDER}/{cd.name}")
    ground.lab.set_rate(SLOW)
    try:
        move = await (await bare.begin()).reaches(Phase.PREPARING)
        await until(lambda: "qemu-img" in programs(ground, "host1"), "it flows")
        await move.kill_runner()
        assert (await move.outcome()).owner is Owner.SOURCE
        assert not bare.file(cd.name, "host2").exists()
        assert bare.left("host2") == []
        assert programs(ground, "host1") == programs(ground, "host2") == []
    finally:
        ground.lab.set_rate(None)
        await bare.end()


def firmware() -> bytes:
    """Return a firmware like no other, which halts at once: QEMU dies of one guest in twenty that runs random bytes."""
    halt = b"\xfa\xf4\xeb\xfc"  # cli; hlt; and again: where a CPU starts, 16 bytes before the end
    return os.urandom(1520 * 1024 - 16) + halt.ljust(16, b"\0")


async def test_the_firmware_s_variables_travel_and_its_code_must_be_there(ground: Ground) -> None:
    name = new_name()
    code, variables = (f"{name}.code", f"{name}.vars")
    (ground.lab.images("host1") / code).write_bytes(firmware())
    (ground.lab.images("host1") / variables).write_bytes(os.urandom(528 * 1024))
    bare = await start(
        *(ground, name, "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={FOLDER}/{code}"),
        *("-blockdev", f"driver=file,node-name=store,filename={FOLDER}/{variables}"),
        *("-machine", "pflash1=store"),
    )
    try:
        missing = await bare.move()
        assert missing.status == RefusedError.exit_status
        assert f"has no {FOLDER}/{code}, the firmware of {name}" in missing.err
        there = bare.file(code, "host2")
        there.write_bytes(firmware())
        differs = await bare.move()
        assert f"{code} is another file on" in differs.err
        there.write_bytes(bare.file(code).read_bytes())
        moved = await bare.move("--verify-disks")
        assert moved.status == 0, moved
        assert "disks compared: equal" in moved.out
        assert digest(bare.file(variables, "host2")) == digest(bare.file(variables, "host1"))
        assert bare.left("host2") == []
    finally:
        await bare.end()


KINDS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "compressed clusters": (
        "qcow2",
        (
            "qemu-img create -q -f qcow2 NAME.tmp 64M && qemu-io -c 'write -q -P 7 3M 8M' NAME.tmp",
            "qemu-img convert -q -c -f qcow2 -O qcow2 NAME.tmp NAME.img && rm NAME.tmp",
        ),
    ),
    "extended L2 entries": (
        "qcow2",
        (
            "qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=128k NAME.img 64M",
            "qemu-io -c 'write -q -P 7 3M 4k' -c 'write -q -P 8 20M 300k' NAME.img",
        ),
    ),
    "raw with holes": (
        "raw",
        ("truncate -s 64M NAME.img", "qemu-io -f raw -c 'write -q -P 7 9M 1M' -c 'write -q -P 8 60M 64k' NAME.img"),
    ),
    "a chain of three, whole": (
        "qcow2",
        (
            "qemu-img create -q -f qcow2 NAME.a 64M && qemu-io -c 'write -q -P 7 1M 4M' NAME.a",
            "qemu-img create -q -f qcow2 -b NAME.a -F qcow2 NAME.b && qemu-io -c 'write -q -P 8 3M 4M' NAME.b",
            "qemu-img create -q -f qcow2 -b NAME.b -F qcow2 NAME.img && qemu-io -c 'write -q -P 9 6M 4M' NAME.img",
        ),
    ),
}


QUICK: Final = {"extended L2 entries", "a chain of three, whole"}


@pytest.mark.parametrize("kind", [one if one in QUICK else pytest.param(one, marks=pytest.mark.long) for one in KINDS])
async def test_a_disk_of_any_kind_is_the_same_there(ground: Ground, kind: str) -> None:
    image_format, lines = KINDS[kind]
    name = new_name()
    images(ground, *(line.replace("NAME", name) for line in lines))
    bare = await start(ground, name, *drive(f"{name}.img", image_format))
    try:
        mode = ("--disks", "full") if "chain" in kind else ()
        moved = await bare.move("--verify-disks", *mode)
        assert moved.status == 0, moved
        assert "disks compared: equal (64.0 MiB" in moved.out
        assert f"on {ground.host('host1')}, takes" in moved.out
        assert bare.left("host2") == []
        assert "godwit-" not in str(bare.ground.lab.images("host2"))
        if "chain" not in kind and "compressed" not in kind:
            assert_same(bare, f"{name}.img", image_format)
    finally:
        await bare.end()


async def test_a_chain_of_three_is_copied_alone_and_several_disks_with_it(ground: Ground) -> None:
    name = new_name()
    images(ground, *(line.replace("NAME", name) for line in KINDS["a chain of three, whole"][1]))
    images(ground, f"truncate -s 16M {name}.raw", f"qemu-io -f raw -c 'write -q -P 3 1M 1M' {name}.raw")
    for below in (f"{name}.a", f"{name}.b"):
        (ground.lab.images("host2") / below).write_bytes((ground.lab.images("host1") / below).read_bytes())
    bare = await start(ground, name, *drive(f"{name}.img", "qcow2"), *drive(f"{name}.raw", "raw", "d1"))
    try:
        bare.write("d0", "-P", "5", "30M", "1M")
        moved = await bare.move("--verify-disks", "--disks", "incremental", "--disk", "d1=full")
        assert moved.status == 0, moved
        assert "disks compared: equal (80.0 MiB" in moved.out
        assert bare.file(f"{name}.img", "host2").stat().st_blocks * 512 < 7 * MIB, "the overlay alone"
        info = make(ground, "host2", "qemu-img", "info", "-U", f"{FOLDER}/{name}.img")
        assert f"{FOLDER}/{name}.b" in info
        assert_same(bare, f"{name}.raw", "raw")
    finally:
        await bare.end()


async def test_internal_snapshots_are_refused_by_name_with_what_would_work(ground: Ground) -> None:
    name = new_name()
    images(ground, f"qemu-img create -q -f qcow2 {name}.img 16M", f"qemu-img snapshot -c before {name}.img")
    bare = await start(ground, name, *drive(f"{name}.img", "qcow2"))
    try:
        refused = await bare.move()
        assert refused.status == RefusedError.exit_status
        assert "it holds snapshots, which a copy would not have: before" in refused.err
        assert "godwit snapshot send" in refused.err
    finally:
        await bare.end()


@pytest.mark.long
async def test_a_difference_is_told_with_its_place_and_fails(ground: Ground) -> None:
    """Somebody writes to the old disk after the switchover, before it is compared."""
    name = new_name()
    images(ground, f"truncate -s 16M {name}.raw", f"qemu-io -f raw -c 'write -q -P 3 1M 1M' {name}.raw")
    bare = await start(ground, name, *drive(f"{name}.raw", "raw"))
    traps = ground.lay(Trap("run", at="godwit.qemu.guest:QemuGuest.serve_frozen"))
    traps.runs(f"printf X | dd of={bare.file(f'{name}.raw')} bs=1 seek=1118208 conv=notrunc 2>/dev/null")
    try:
        moved = await bare.move("--verify-disks", traps=traps)
        assert traps.sprung()
        assert moved.status == DisksUnverifiedError.exit_status, moved
        assert "disk d0 on" in moved.err
        assert "offset 1118208" in moved.err
        assert "do not remove the disks on the source" in moved.err
        assert bare.left("host2") == []
        bare.write("d0", "-P", "9", "2M", "64k")
    finally:
        await bare.end()


@pytest.fixture
def served(ground: Ground) -> Iterator[str]:
    """Serve an image from the client's machine over NBD, to several clients at once; its name is its port's, too."""
    name = new_name()
    port = 10900 + int(name[-2:], 16)
    line = f"""
        cd /tmp && qemu-img create -q -f qcow2 {name} 16M && qemu-io -c 'write -q -P 7 0 1M' {name}
        setsid qemu-nbd -t -e 8 -f qcow2 -x disk -b 0.0.0.0 -p {port} --pid-file=/tmp/{name}.pid {name} \\
            >/dev/null 2>&1 </dev/null &
        for i in $(seq 100); do [ -s /tmp/{name}.pid ] && exit 0; sleep 0.05; done; exit 1
    """
    make(ground, "client", "sh", "-c", line)
    yield f"nbd://{ground.lab.plan.management_address('client')}:{port}/disk"
    make(ground, "client", "sh", "-c", f"kill $(cat /tmp/{name}.pid); rm -f /tmp/{name}*")


async def test_a_disk_behind_an_address_is_shared(ground: Ground, served: str) -> None:
    name = new_name()
    options = ("-drive", f"file={served},format=raw,if=none,id=d0", "-device", "virtio-blk-pci,drive=d0")
    bare = await start(ground, name, *options)
    try:
        copied = await bare.move("--disks", "full")
        assert copied.status == RefusedError.exit_status
        assert f"both hosts get the same from {served}" in copied.err
        moved = await bare.move()
        assert moved.status == 0, moved
        assert "copying disks" not in moved.out
        bare.write("d0", "-P", "9", "2M", "64k")
        assert "Pattern verification failed" not in make(
            *(ground, "host1", "qemu-io", "-r", "-f", "raw", "-c", "read -P 9 2M 64k", served)
        ), "what it wrote from its new host is what the old one reads"
    finally:
        await bare.end()


@pytest.mark.parametrize(("clients", "words"), [(8, "leads to this very host"), (1, "may take no further client")])
async def test_an_address_that_the_target_cannot_use_is_refused(ground: Ground, clients: int, words: str) -> None:
    name = new_name()
    port = 11200 + int(name[-2:], 16)
    address = "127.0.0.1" if clients > 1 else ground.lab.plan.management_address("host1")
    images(
        *(ground, f"qemu-img create -q -f raw {name}.img 16M"),
        f"setsid qemu-nbd -t -e {clients} -f raw -x disk -b {address} -p {port} --pid-file=/run/{name}.pid {name}.img "
        ">/dev/null 2>&1 </dev/null &",
        f"for i in $(seq 100); do [ -s /run/{name}.pid ] && break; sleep 0.05; done",
    )
    options = (
        "-drive",
        f"file=nbd://{address}:{port}/disk,format=raw,if=none,id=d0",
        "-device",
        "virtio-blk-pci,drive=d0",
    )
    bare = await start(ground, name, *options)
    try:
        refused = await bare.move()
        assert refused.status == RefusedError.exit_status, refused
        assert words in refused.err
        assert f"nbd://{address}:{port}/disk" in refused.err
    finally:
        await bare.end()
        make(ground, "host1", "sh", "-c", f"kill $(cat /run/{name}.pid)")


async def test_an_image_that_qemu_img_does_not_understand_is_refused(ground: Ground) -> None:
    name = new_name()
    images(ground, f"qemu-img create -q -f qcow2 {name}.img 16M")
    bare = await start(ground, name, *drive(f"{name}.img", "qcow2"))
    try:
        with bare.file(f"{name}.img").open("r+b") as image:
            image.write(bytes(4096))
        refused = await bare.move()
        assert refused.status == RefusedError.exit_status
        assert f"does not understand {FOLDER}/{name}.img" in refused.err
    finally:
        await bare.end()


@pytest.mark.long
async def test_a_disk_that_is_larger_than_a_file_may_be_on_the_target(ground: Ground) -> None:
    """Refused by preflight; and where the limit comes down after it, the image is not made, and why is told."""
    name = new_name()
    images(ground, f"truncate -s 64M {name}.raw")
    bare = await start(ground, name, *drive(f"{name}.raw", "raw"))
    limited = "prlimit --fsize={}: --pid $(pgrep -o sshd)"
    try:
        make(ground, "host2", "sh", "-c", limited.format(32 * MIB))
        refused = await bare.move()
        assert refused.status == RefusedError.exit_status, refused
        assert "files on" in refused.err
        assert "may not be larger than 32.0 MiB" in refused.err
        assert "ulimit -f" in refused.err
        assert not bare.file(f"{name}.raw", "host2").exists()
        make(ground, "host2", "sh", "-c", limited.format("unlimited"))
        assert (await bare.move()).status == 0
    finally:
        make(ground, "host2", "sh", "-c", limited.format("unlimited"))
        await bare.end()


async def test_a_connection_that_breaks_while_a_disk_is_copied_leaves_the_guest(ground: Ground) -> None:
    name = new_name()
    (ground.lab.images("host1") / f"{name}.raw").write_bytes(os.urandom(32 * MIB))
    bare = await start(ground, name, *drive(f"{name}.raw", "raw"))
    ground.lab.set_rate(SLOW)
    try:
        move = await (await bare.begin()).reaches(Phase.MIRRORING)
        await asyncio.sleep(1)
        make(ground, "host1", "ss", "--tcp", "--kill", "dst", ground.lab.plan.migration_address("host2"))
        outcome = await move.outcome()
        assert (outcome.status, outcome.owner) == (OutcomeStatus.FAILED, Owner.SOURCE)
        assert "disk d0" in outcome.error
        assert not bare.file(f"{name}.raw", "host2").exists()
        assert bare.left("host2") == []
        bare.write("d0", "-P", "9", "2M", "64k")
    finally:
        ground.lab.set_rate(None)
        await bare.end()
