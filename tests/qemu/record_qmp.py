"""Record the QMP replies of a real QEMU for the unit tests: python tests/qemu/record_qmp.py HOST_TREE (as root)."""

from __future__ import annotations

import asyncio
import json
import shlex
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from qemu_machines import Machines, facts_of
from qemu_recording import FOLDER, Recorder

from godwit.qemu.facts import guest_facts
from godwit.qemu.features import probe

if TYPE_CHECKING:
    from collections.abc import Sequence


_Q35 = (
    "qemu-system-x86_64 -name guest=web1 -M q35,usb=off -cpu qemu64 -smp 2,maxcpus=4,sockets=4 -m 256"
    " -device virtio-net-pci,netdev=n1,id=a -netdev user,id=n1 -device pcie-root-port,id=rp1,chassis=1"
    """ -device '{"driver":"virtio-scsi-pci","id":"vs"}' -device virtio-rng-pci"""
    " -drive file=rhel7.img,if=virtio,format=raw"
    " -nic user,model=virtio -cdrom empty.iso -nographic -monitor none -serial file:serial.log"
    " -qmp unix:qmp.sock,server=on,wait=off"
)

SCENES: dict[str, tuple[str, tuple[tuple[str, dict[str, object]], ...]]] = {
    "seed-style": (
        "qemu-system-x86_64 rhel7.img -smp 2 -m 256 -net nic -net user -qmp unix:qmp.sock,server,nowait",
        (
            (
                "blockdev-add",
                {"driver": "qcow2", "node-name": "hp0", "file": {"driver": "file", "filename": "{folder}/extra.qcow2"}},
            ),
            ("device_add", {"driver": "virtio-blk-pci", "drive": "hp0", "id": "hpdisk", "serial": "abc"}),
            ("netdev_add", {"type": "user", "id": "hpn"}),
            ("device_add", {"driver": "virtio-net-pci", "netdev": "hpn", "id": "hpnic"}),
        ),
    ),
    "q35": (
        _Q35,
        (
            ("blockdev-add", {"driver": "file", "node-name": "f1", "filename": "{folder}/overlay.qcow2"}),
            ("blockdev-add", {"driver": "qcow2", "node-name": "d1", "file": "f1"}),
            ("object-add", {"qom-type": "iothread", "id": "io0"}),
            ("device_add", {"driver": "virtio-blk-pci", "drive": "d1", "id": "hp", "bus": "rp1", "iothread": "io0"}),
            ("device_add", {"driver": "qemu64-x86_64-cpu", "id": "cpu2", "socket-id": 2, "core-id": 0, "thread-id": 0}),
            ("eject", {"device": "ide2-cd0"}),
        ),
    ),
}


async def record(name: str, host_tree: Path, folder: Path) -> None:
    """Play a scene in `folder` and write down what its QEMU answers."""
    line, plugs = SCENES[name]
    machines = Machines(host_tree, folder)
    guest, pid = await machines.start(shlex.split(line), str(folder / "qmp.sock"))
    try:
        for command, arguments in plugs:
            text = json.dumps(arguments).replace("{folder}", str(folder))
            await guest.monitor.execute(command, json.loads(text))
        recorder = Recorder(guest.monitor)
        process = facts_of(pid)
        await guest_facts("test", recorder, process)
        await probe(recorder)
        document = {
            "version": guest.monitor.version,
            "process": {**asdict(process), "pid": 4711},
            "said": recorder.said,
        }
        text = json.dumps(document, indent=1, sort_keys=True).replace(str(folder), "/srv/guests")
        (FOLDER / f"{name}.json").write_text(text + "\n")
    finally:
        await machines.close()


def images(folder: Path) -> None:
    """Make the disks of the scenes."""
    for arguments in (
        ["raw", "rhel7.img", "64M"],
        ["raw", "empty.iso", "1M"],
        ["qcow2", "extra.qcow2", "32M"],
        ["qcow2", "-b", "extra.qcow2", "-F", "qcow2", "overlay.qcow2"],
    ):
        subprocess.run(["qemu-img", "create", "-q", "-f", *arguments], cwd=folder, check=True)


def main(arguments: Sequence[str]) -> None:
    """Record every scene."""
    for name in SCENES:
        with tempfile.TemporaryDirectory() as folder:
            images(Path(folder))
            asyncio.run(record(name, Path(arguments[0]), Path(folder)))


if __name__ == "__main__":
    main(sys.argv[1:])
