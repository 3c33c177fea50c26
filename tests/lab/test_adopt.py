"""A guest that somebody started by hand in the manner of the old days: adopted, moved there, back, and there again."""

# ruff: noqa: ASYNC220 - short looks at this very machine, while nothing else has to go on

from __future__ import annotations

import json
import secrets
import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from labtools import until

from godwit.errors import RefusedError
from godwit.lab.furnish import public_key
from godwit.lab.guestimage import KERNEL_ARGUMENTS, personalise

if TYPE_CHECKING:
    from labtools import Ground

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.usefixtures("healthy")]

FOLDER: Final = "/mnt/images/by-hand"


def qmp(path: str, *commands: dict[str, Any]) -> list[Any]:
    """Say a few things over a QMP socket and return the answers."""
    answers = []
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(path)
        stream = connection.makefile("rw")
        stream.readline()
        for command in ({"execute": "qmp_capabilities"}, *commands):
            stream.write(json.dumps(command) + "\n")
            stream.flush()
            while not {"return", "error"} & (said := json.loads(stream.readline())).keys():
                pass
            assert "error" not in said, said
            answers.append(said["return"])
    return answers[1:]


def start_by_hand(ground: Ground, name: str, number: int, *, daemonize: bool = False) -> str:
    """Start a QEMU as in the old days: everything by its relative path, `-net nic -net tap`. Returns its QMP socket.

    With -daemonize it goes to "/", from where it does not find the images again that it named by relative paths.
    """
    images = ground.lab.images("host1") / "by-hand"
    images.mkdir(exist_ok=True)
    shutil.copyfile(ground.assets.kernel, images / "kernel")
    personalise(ground.assets, images / "initrd", public_key(ground.lab))
    for disk, size in ((f"{name}.img", "32M"), ("more.img", "16M")):
        create = ["qemu-img", "create", "-q", "-f", "qcow2", f"{FOLDER}/{disk}", size]
        subprocess.run(ground.lab.command("host1", create), check=True, capture_output=True)
    words = f"{KERNEL_ARGUMENTS} godwit.name={name} godwit.address={ground.lab.plan.guest_address(number)}/24"
    # The socket lies on the host itself: on storage that is shared the two QEMUs would take it from each other.
    path = f"/run/by-hand/{name}.sock"
    command = "mkdir -p /run/by-hand && cd /mnt/images/by-hand && setsid qemu-system-x86_64"
    command += f" -drive file={name}.img,format=qcow2,if=virtio -smp 1 -m 224 -net nic,model=virtio -net tap"
    command += ' -kernel kernel -initrd initrd -append "$1" -display none'
    command += f" -name {name} -qmp unix:{path},server,nowait {'-daemonize' * daemonize} >/dev/null 2>&1 </dev/null &"
    command += f" until [ -S {path} ]; do sleep 0.05; done"
    started = ground.lab.command("host1", ["sh", "-c", command, "sh", words])
    subprocess.run(started, check=True, capture_output=True, text=True, timeout=30)
    return path


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


async def test_what_is_no_qmp_is_not_adopted(ground: Ground) -> None:
    """A file, nothing at all, somebody else's socket: refused by name, and left alone."""
    here = "host1"
    serve = "import socket,time; s=socket.socket(socket.AF_UNIX); s.bind('/run/other.sock'); s.listen()\n"
    serve += "print('up',flush=True)\nwhile True:\n c,_=s.accept(); c.sendall(b'220 hello\\r\\n'); time.sleep(60)"
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
