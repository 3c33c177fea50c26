"""The disks of a guest that is off, read from its command line: a table."""

from __future__ import annotations

import json

import pytest

from godwit.errors import HypervisorError
from godwit.model import Launch
from godwit.qemu.offline import disks_of

FILE = {"driver": "file", "node-name": "f", "filename": "/a,b.qcow2", "read-only": False}
FORMAT = {"driver": "qcow2", "node-name": "d", "file": "f", "read-only": False}
NODES = ("-blockdev", json.dumps(FILE), "-blockdev", json.dumps(FORMAT), "-device", "virtio-blk-pci,drive=d,id=disk0")


@pytest.mark.parametrize(
    ("words", "disks"),
    [
        (NODES, [("disk0", "/a,b.qcow2", "qcow2", False)]),
        (("-blockdev", "driver=qcow2,node-name=d,file.driver=file,file.filename=/x"), [("d", "/x", "qcow2", False)]),
        (
            (
                "-blockdev",
                "driver=file,node-name=base,filename=/base,read-only=on",
                "-blockdev",
                "driver=qcow2,node-name=d,file.driver=file,file.filename=/top,backing=base",
            ),
            [("d", "/top", "qcow2", False)],
        ),
        (("-drive", "file=/a.qcow2,format=qcow2,id=web"), [("web", "/a.qcow2", "qcow2", False)]),
        (("-drive", "file=rel.qcow2,if=virtio"), [("virtio0", "/srv/rel.qcow2", "", False)]),
        (("-drive", "file=/v.fd,if=pflash,format=raw,readonly=on"), [("pflash0", "/v.fd", "raw", True)]),
        (("-drive", "file=/cd.iso,media=cdrom"), [("drive0", "/cd.iso", "", True)]),
        (("-hda", "/a.img", "-cdrom", "/c.iso"), [("hda", "/a.img", "", False), ("cdrom", "/c.iso", "", True)]),
        (("/bare.img",), [("hda", "/bare.img", "", False)]),
        (("-drive", "if=ide,media=cdrom"), []),
        ((), []),
    ],
)
def test_disks_of_a_command_line(words: tuple[str, ...], disks: list[tuple[str, str, str, bool]]) -> None:
    found = disks_of(Launch(("qemu-system-x86_64", *words), "/srv"))
    assert [(one.name, one.path, one.format, one.read_only) for one in found] == disks


def test_a_command_line_that_is_none_says_so() -> None:
    with pytest.raises(HypervisorError, match="cannot be read"):
        disks_of(Launch(("qemu-system-x86_64", "-unheard-of", "x")))
