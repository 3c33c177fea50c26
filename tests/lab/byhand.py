"""Guests that somebody starts by hand, without Godwit."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING, Any, Final

from godwit.lab.furnish import public_key
from godwit.lab.guestimage import KERNEL_ARGUMENTS, personalise

if TYPE_CHECKING:
    from labtools import Ground

FOLDER: Final = "/mnt/images/by-hand"
GIVEN: Final = "/run/given.sock"
"""The QMP socket of a guest that was given open files."""

# Opens what a manager of guests opens for them, and becomes QEMU; TAP, FILE, READ and SOCKET in its arguments
# become their descriptors. The request is TUNSETIFF with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR: see linux/if_tun.h.
_GIVE: Final = r"""
import fcntl, os, socket, struct, subprocess, sys
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"tap-given", 0x5002))
subprocess.run(["ip", "link", "set", "tap-given", "master", "br0", "up"], check=True)
file = os.open("/run/given.img", os.O_RDWR | os.O_CREAT)
os.truncate(file, 1 << 20)
server = socket.socket(socket.AF_UNIX)
server.bind("\0given")
server.listen()
words = sys.argv[1:]
reading = os.open("/run/given.img", os.O_RDONLY)
for name, descriptor in {"TAP": tap, "FILE": file, "READ": reading, "SOCKET": server.fileno()}.items():
    os.set_inheritable(descriptor, True)
    words = [word.replace(name, str(descriptor)) for word in words]
os.execvp(words[0], words)
"""
_START_GIVEN: Final = f"""
rm -f {GIVEN}
setsid python3 -c "$@" >/run/given.log 2>&1 </dev/null &
until [ -S {GIVEN} ]; do sleep 0.05; done
"""


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


def place_images(ground: Ground) -> None:
    """Lay out a kernel and an initrd for guests that are started by hand."""
    images = ground.lab.images("host1") / "by-hand"
    images.mkdir(exist_ok=True)
    shutil.copyfile(ground.assets.kernel, images / "kernel")
    personalise(ground.assets, images / "initrd", public_key(ground.lab))


def kernel_words(ground: Ground, name: str, number: int) -> str:
    """Return what the kernel of a guest that is started by hand is told."""
    return f"{KERNEL_ARGUMENTS} godwit.name={name} godwit.address={ground.addressed(number)}/24"


def start_by_hand(ground: Ground, name: str, number: int, *, daemonize: bool = False) -> str:
    """Start a QEMU as in the old days: everything by its relative path, `-net nic -net tap`. Returns its QMP socket.

    With -daemonize it goes to "/", from where it does not find the images again that it named by relative paths.
    """
    place_images(ground)
    for disk, size in ((f"{name}.img", "32M"), ("more.img", "16M")):
        create = ["qemu-img", "create", "-q", "-f", "qcow2", f"{FOLDER}/{disk}", size]
        subprocess.run(ground.lab.command("host1", create), check=True, capture_output=True)
    # The socket lies on the host itself: on storage that is shared the two QEMUs would take it from each other.
    path = f"/run/by-hand/{name}.sock"
    command = "mkdir -p /run/by-hand && cd /mnt/images/by-hand && setsid qemu-system-x86_64"
    command += f" -drive file={name}.img,format=qcow2,if=virtio -smp 1 -m 224 -net nic,model=virtio -net tap"
    command += ' -kernel kernel -initrd initrd -append "$1" -display none'
    command += f" -name {name} -qmp unix:{path},server,nowait {'-daemonize' * daemonize} >/dev/null 2>&1 </dev/null &"
    command += f" until [ -S {path} ]; do sleep 0.05; done"
    started = ground.lab.command("host1", ["sh", "-c", command, "sh", kernel_words(ground, name, number)])
    subprocess.run(started, check=True, capture_output=True, text=True, timeout=30)
    return path


def start_given(ground: Ground, name: str, *options: str) -> None:
    """Start a QEMU on host1 whose options may name files that were opened for it."""
    argv = ["qemu-system-x86_64", "-name", name, "-m", "224", "-display", "none", "-qmp", f"unix:{GIVEN},server,nowait"]
    command = ground.lab.command("host1", ["sh", "-c", _START_GIVEN, "sh", _GIVE, *argv, *options])
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
