"""A guest that somebody started by hand in the manner of the old days: adopted, moved there, back, and there again."""

# ruff: noqa: ASYNC220 - short looks at this very machine, while nothing else has to go on

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from byhand import FOLDER, GIVEN, kernel_words, place_images, qmp, start_by_hand, start_given
from labwaits import until

from godwit import app
from godwit.errors import HypervisorError, RefusedError
from godwit.lab.loads import TickReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from labtools import Ground

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]

NUMBER_GIVEN: Final = 42


@dataclass(frozen=True, slots=True)
class Given:
    """What a guest is started with that cannot be moved so, what is said of it, and the finding's name."""

    options: tuple[str, ...]
    words: str
    finding: str = "inherited-descriptor"


_NIC: Final = ("-device", "virtio-net-pci,netdev=n0,mac=52:54:00:00:77:01")
GIVEN_GUESTS: Final = {
    "a tap": Given(("-netdev", "tap,id=n0,fd=TAP", *_NIC), "netdev tap,id=n0,fd="),
    "a file": Given(
        ("-add-fd", "fd=FILE,set=2", "-add-fd", "fd=READ,set=2", "-drive", "file=/dev/fdset/2,format=raw"),
        "drive file=/dev/fdset/2",
    ),
    "a socket": Given(
        ("-chardev", "socket,id=c0,fd=SOCKET,server=on,wait=off", "-serial", "chardev:c0"), "chardev socket,id=c0,fd="
    ),
    # As qemuBuildMasterKeyCommandLine() in libvirt's qemu_command.c writes it.
    "libvirt": Given(
        ("-object", '{"qom-type":"secret","id":"masterKey0","format":"raw","data":"none"}'),
        "libvirt owns this QEMU",
        "libvirt-owned",
    ),
}


@pytest.mark.long
async def test_adopt_plug_a_disk_there_back_and_there_again(ground: Ground) -> None:
    name, number = f"{ground.lab.name}-hand", 40
    path = start_by_hand(ground, name, number)
    adopted = await ground.godwit(
        "vm", "adopt", ground.host("host1"), "--qmp", path, "--address", ground.addressed(number)
    )
    assert adopted.status == 0, adopted.err
    plugged = Path(f"/proc/{ground.init('host1')}/root{path}")
    node = {"driver": "qcow2", "node-name": "more", "file": {"driver": "file", "filename": f"{FOLDER}/more.img"}}
    drive = {"driver": "virtio-blk-pci", "id": "more0", "drive": "more"}
    add = {"execute": "blockdev-add", "arguments": node}
    qmp(str(plugged), add, {"execute": "device_add", "arguments": drive})
    ground.use(name, number)
    token = secrets.token_hex(16)
    async with ground.client():
        await until(lambda: ground.ssh("test -b /dev/vdb && echo there") == "there", "the guest sees its new disk", 20)
        ground.ssh(f"echo {token} | tee /data/token | dd of=/dev/vdb bs=512 conv=fsync,sync 2>/dev/null; sync")
        devices = ground.ssh("cat /proc/partitions /sys/class/net/eth0/address")
        for machine in ("host2", "host1", "host2"):
            ran = await ground.godwit("migrate", name, ground.host(machine))
            assert ran.status == 0, ran.err
            assert ground.ssh("cat /proc/partitions /sys/class/net/eth0/address") == devices
            assert ground.ssh(
                "echo 3 >/proc/sys/vm/drop_caches; cat /data/token; dd if=/dev/vdb bs=33 count=1 2>/dev/null"
            ) == (f"{token}\n{token}")
            other = "host2" if machine == "host1" else "host1"
            mine = {one: [q for q in qemus if name in q.arguments] for one, qemus in ground.qemus().items()}
            assert [len(mine[machine]), len(mine[other])] == [1, 0]
    stopped = await ground.godwit("vm", "stop", "--force", name)
    assert stopped.status == 0, stopped.err


@pytest.mark.long
async def test_a_daemon_that_lost_its_image_is_refused_until_it_can_find_it(ground: Ground) -> None:
    name, number = f"{ground.lab.name}-daemon", 41
    path = start_by_hand(ground, name, number, daemonize=True)
    adopt = ("vm", "adopt", ground.host("host1"), "--qmp", path, "--address", ground.addressed(number))
    assert (await ground.godwit(*adopt)).status == 0
    ground.use(name, number)
    refused = await ground.godwit("migrate", name, ground.host("host2"))
    assert refused.status == RefusedError.exit_status
    assert f"QEMU knows {FOLDER}/{name}.img as {name}.img and went to / when it daemonized" in refused.err
    mend = f"ln -s {FOLDER}/{name}.img /{name}.img"
    assert mend in refused.err
    ground.inside("host1", "sh", "-c", mend)
    try:
        async with ground.client():
            moved = await ground.godwit("migrate", name, ground.host("host2"))
        assert moved.status == 0, moved.err
    finally:
        ground.inside("host1", "rm", f"/{name}.img")
    assert (await ground.godwit("vm", "stop", "--force", name)).status == 0


@pytest.mark.long
async def test_what_is_no_qmp_is_not_adopted(ground: Ground) -> None:
    """A file, nothing at all, somebody else's socket: refused by name, and left alone."""
    here = "host1"
    serve = "import socket; held=[]; s=socket.socket(socket.AF_UNIX); s.bind('/run/other.sock'); s.listen()\n"
    serve += "print('up',flush=True)\nwhile True:\n c,_=s.accept(); c.sendall(b'220 hello\\r\\n'); held.append(c)"
    command = ground.lab.command(here, ["python3", "-c", serve])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "up\n"
            cases = {"/run/other.sock": 6, "/run/none.sock": 2, "/etc/hostname": 2, "relative.sock": 2}
            for path, status in cases.items():
                ran = await ground.godwit("vm", "adopt", ground.host(here), "--qmp", path)
                assert (ran.status, ran.out) == (status, ""), ran
                assert path in ran.err
                assert "mend:" in ran.err
            assert other.poll() is None
        finally:
            other.kill()


# -- guests that cannot be moved as they are --------------------------------------------------------------------------


def given_processes(ground: Ground, name: str, machine: str = "host1") -> list[int]:
    return [one.pid for one in ground.qemus()[machine] if name in one.arguments]


def end_given(ground: Ground, name: str) -> None:
    for pid in given_processes(ground, name):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def given(ground: Ground) -> Iterator[str]:
    """Return the name of a guest that somebody else starts on host1, and end it afterwards."""
    name = f"{ground.lab.name}-given-{secrets.token_hex(2)}"
    yield name
    end_given(ground, name)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(one, marks=pytest.mark.long if one in {"a file", "a socket", "a tap"} else ())
        for one in GIVEN_GUESTS
    ],
)
async def test_what_cannot_be_started_elsewhere_is_refused_by_name_and_runs_on(
    ground: Ground, given: str, row: str
) -> None:
    """It is not adopted; nor is it moved if it was adopted before somebody started it anew like this."""
    start_given(ground, given)
    adopt = ("vm", "adopt", ground.host("host1"), "--qmp", GIVEN)
    adopted = await ground.godwit(*adopt)
    assert adopted.status == 0, adopted.err
    end_given(ground, given)
    await until(lambda: given_processes(ground, given) == [], "the guest that could be moved is gone")

    wanted = GIVEN_GUESTS[row]
    has_users = row == "a tap"
    boot = ("-kernel", f"{FOLDER}/kernel", "-initrd", f"{FOLDER}/initrd", "-append")
    if has_users:
        place_images(ground)
    start_given(
        ground, given, *wanted.options, *((*boot, kernel_words(ground, given, NUMBER_GIVEN)) if has_users else ())
    )
    process = given_processes(ground, given)
    async with AsyncExitStack() as stack:
        users = await stack.enter_async_context(TickReader(ground.addressed(NUMBER_GIVEN))) if has_users else None
        refused = await ground.godwit(*adopt, "--name", "another")
        assert (refused.status, refused.out) == (HypervisorError.exit_status, "")
        assert wanted.words in refused.err
        assert "mend: " in refused.err
        async with app.opened(ground.home) as service:
            assert "another" not in {vm.name for vm in await service.inventory.vms()}

        moved = await ground.godwit("migrate", given, ground.host("host2"), "--json")
        assert moved.status == RefusedError.exit_status, moved
        outcome = moved.lines[-1]["data"]
        assert (outcome["status"], outcome["owner"]) == ("refused", "source")
        blocking = [one for one in outcome["findings"] if one["severity"] == "block"]
        assert wanted.finding in {one["code"] for one in blocking}
        assert any(wanted.words in one["found"] for one in blocking)
        if users is not None:
            seen = users.ticks
            await until(lambda: users.ticks > seen + 5, "the guest ticks on")
            assert users.faults == []
    assert given_processes(ground, given, "host2") == []
    assert (await ground.godwit("vm", "remove", given)).status == 0
    assert given_processes(ground, given) == process, "neither to refuse it nor to let it go is to end it"
    path = Path(f"/proc/{ground.init('host1')}/root{GIVEN}")
    assert qmp(str(path), {"execute": "query-status"})[0]["status"] == "running"
