"""The guest of the laboratory: its archive format and its keys, and a guest that really boots."""

from __future__ import annotations

import base64
import gzip
import json
import re
import socket
import stat
import struct
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from godwit.errors import LabError
from godwit.lab import assets, guestimage
from godwit.lab.guestimage import Entry, cpio, directory, regular, symlink, with_parents
from godwit.lab.packages import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BOOT_DEADLINE = 120.0


def read_cpio(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Read a `newc` archive as the kernel does: mode and content of each path."""
    files: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name_at = at + 110
        name = data[name_at : name_at + fields[11] - 1].decode()
        content_at = -(-(name_at + fields[11]) // 4) * 4
        content = data[content_at : content_at + fields[6]]
        at = -(-(content_at + fields[6]) // 4) * 4
        if name == "TRAILER!!!":
            assert at == len(data)
            return files
        files[name] = (fields[1], content)


ENTRIES = [
    directory("etc"),
    regular("etc/a", b"odd"),
    regular("etc/program", bytes(range(256)) * 17, 0o755),
    symlink("bin", "usr/bin"),
    Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
]


def test_what_is_written_is_read_back() -> None:
    files = read_cpio(cpio(ENTRIES))
    assert list(files) == [entry.path for entry in ENTRIES]
    assert files["etc/program"] == (stat.S_IFREG | 0o755, bytes(range(256)) * 17)
    assert files["bin"] == (stat.S_IFLNK | 0o777, b"usr/bin")
    assert cpio(ENTRIES) == cpio(ENTRIES)


@pytest.mark.lab  # script/setup installs cpio; the plain tests ask nothing of a machine
def test_cpio_itself_unpacks_the_archive(tmp_path: Path) -> None:
    archive = cpio(ENTRIES[:-1])  # a device takes root to unpack
    command = ["cpio", "--extract", "--quiet", "--no-preserve-owner"]
    subprocess.run(command, input=archive, cwd=tmp_path, check=True)
    assert (tmp_path / "etc/program").read_bytes() == bytes(range(256)) * 17
    assert (tmp_path / "etc/program").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "bin").readlink().as_posix() == "usr/bin"


def test_parents_come_first_and_once() -> None:
    given = [regular("a/b/c", b""), directory("a", 0o700), regular("a/b/d", b"1"), regular("a/b/d", b"2")]
    paths = [(entry.path, entry.content) for entry in with_parents(given)]
    assert paths == [("a", b""), ("a/b", b""), ("a/b/c", b""), ("a/b/d", b"1")]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name, kind in (("host", "ed25519"), ("user", "ed25519"), ("other", "ecdsa")):
        run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", name, "-f", str(folder / name)])
    return folder


def test_an_openssh_key_becomes_a_dropbear_key(keys: Path) -> None:
    key = guestimage.dropbear_key((keys / "host").read_bytes())
    kind = b"ssh-ed25519"
    public = base64.b64decode((keys / "host.pub").read_text().split()[1])[-32:]
    assert key.startswith(struct.pack(">I", len(kind)) + kind + struct.pack(">I", 64))
    assert len(key) == 4 + len(kind) + 4 + 64
    assert key.endswith(public)
    assert guestimage.dropbear_key(key) == key


def test_another_kind_of_host_key_is_refused(keys: Path) -> None:
    with pytest.raises(LabError, match="Ed25519"):
        guestimage.dropbear_key((keys / "other").read_bytes())


def test_an_encrypted_host_key_is_refused(tmp_path: Path) -> None:
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret words", "-f", str(tmp_path / "key")])
    with pytest.raises(LabError, match="unencrypted"):
        guestimage.dropbear_key((tmp_path / "key").read_bytes())


def _assets_with(initramfs: Path) -> assets.Assets:
    return assets.Assets(initramfs.parent, initramfs.parent, initramfs.parent / "vmlinuz", initramfs, "10")


def test_a_personal_image_is_the_base_with_the_keys_behind_it(tmp_path: Path, keys: Path) -> None:
    base = gzip.compress(cpio([regular("init", b"#!/bin/sh\n", 0o755)]), mtime=0)
    (tmp_path / "base").write_bytes(base)
    ready = _assets_with(tmp_path / "base")
    public = (keys / "user.pub").read_text()
    image = guestimage.personalise(ready, tmp_path / "one", public, (keys / "host").read_bytes()).read_bytes()
    assert image.startswith(base)
    appended = image[len(base) + -len(base) % 4 :]
    files = read_cpio(appended)
    assert files["root/.ssh/authorized_keys"] == (stat.S_IFREG | 0o600, public.encode())
    assert files["root/.ssh"][0] == stat.S_IFDIR | 0o700
    assert files["etc/dropbear/host_key"][1] == guestimage.dropbear_key((keys / "host").read_bytes())
    again = guestimage.personalise(ready, tmp_path / "two", public, (keys / "host").read_bytes()).read_bytes()
    assert again == image
    without = guestimage.personalise(ready, tmp_path / "three", public).read_bytes()
    assert "etc/dropbear/host_key" not in read_cpio(without[len(base) + -len(base) % 4 :])


# --- A real guest under QEMU, with QEMU's user-mode network, so that no namespace of the machine's is touched.


@dataclass
class Guest:
    """A running guest: its folder, its ports on loopback, and a QMP connection."""

    folder: Path
    ports: dict[str, int]
    process: subprocess.Popen[bytes]

    def console(self) -> str:
        return (self.folder / "console").read_text(errors="replace")

    def ssh(self, keys: Path, command: str) -> str:
        known = self.folder / "known_hosts"
        public = (keys / "host.pub").read_text().rsplit(maxsplit=1)[0]
        known.write_text(f"[127.0.0.1]:{self.ports['ssh']} {public}\n")
        options = ["-F", "none", "-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes"]
        options += ["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20"]
        options += ["-i", str(keys / "user")]
        return run(["ssh", *options, "-p", str(self.ports["ssh"]), "root@127.0.0.1", command])

    def monitor(self, name: str, *commands: dict[str, object]) -> list[dict[str, object]]:
        """Send commands to a monitor or an agent, and return what it answers to each."""
        answers = []
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(str(self.folder / name))
            with connection.makefile("rw", encoding="utf-8") as stream:
                for command in commands:
                    stream.write(json.dumps(command) + "\n")
                    stream.flush()
                    answer = json.loads(stream.readline())
                    while "return" not in answer and "error" not in answer:
                        answer = json.loads(stream.readline())
                    answers.append(answer)
        return answers


def _free_ports(names: tuple[str, ...]) -> dict[str, int]:
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: holder.getsockname()[1] for name, holder in zip(names, holders, strict=True)}
    for holder in holders:
        holder.close()
    return ports


@contextmanager
def _guest(ready: assets.Assets, folder: Path, initramfs: Path, words: str, *devices: str) -> Iterator[Guest]:
    ports = _free_ports(("ssh", "redis", "tick"))
    inside = {"ssh": 22, "redis": 6379, "tick": 7000}
    forwards = "".join(f",hostfwd=tcp:127.0.0.1:{port}-:{inside[name]}" for name, port in ports.items())
    address = "godwit.address=10.0.2.15/24 godwit.gateway=10.0.2.2"
    qemu = ["qemu-system-x86_64", "-M", "q35", "-m", "256", "-smp", "1", "-accel", "tcg", "-nodefaults"]
    qemu += ["-display", "none", "-kernel", str(ready.kernel), "-initrd", str(initramfs)]
    qemu += ["-append", f"{guestimage.KERNEL_ARGUMENTS} {address} {words}", "-serial", f"file:{folder / 'console'}"]
    qemu += ["-netdev", f"user,id=n0{forwards}", "-device", "virtio-net-pci,netdev=n0,romfile="]
    qemu += ["-device", "virtio-rng-pci", "-qmp", f"unix:{folder / 'qmp'},server=on,wait=off", *devices]
    mount = 'mount -t overlay overlay -o "lowerdir=$1/usr:/usr" /usr && shift && exec "$@"'
    # `unshare` without a fork becomes the shell and then QEMU: the process is QEMU's own.
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, "sh", str(ready.hosttree), *qemu]
    (folder / "console").touch()
    with (folder / "qemu.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        guest = Guest(folder, ports, process)
        try:
            _wait_for(guest, r"godwit-guest ready", BOOT_DEADLINE)
            yield guest
        finally:
            process.kill()


def _wait_for(guest: Guest, pattern: str, deadline: float) -> None:
    """Wait for a line on the console; a file has no event for its growth, so it is looked at."""
    pause = threading.Event()
    end = time.monotonic() + deadline
    while not re.search(pattern, guest.console()):
        if guest.process.poll() is not None or time.monotonic() > end:
            log = (guest.folder / "qemu.log").read_text(errors="replace")
            pytest.fail(f"no {pattern!r} on the console within {deadline} s:\n{guest.console()}\n{log}")
        pause.wait(0.05)


@pytest.fixture(scope="module")
def ready() -> assets.Assets:
    return assets.prepare(assets.cache_folder(), print)


@pytest.fixture(scope="module")
def guest(ready: assets.Assets, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    folder = tmp_path_factory.mktemp("guest")
    host_key = (keys / "host").read_bytes()
    image = guestimage.personalise(ready, folder / "initramfs", (keys / "user.pub").read_text(), host_key)
    with (folder / "disk").open("wb") as disk:
        disk.truncate(64 << 20)
    load = "memwriter:rate=8M:set=32M:verify"
    devices = ["-device", "virtio-serial-pci", "-chardev", f"socket,id=ga,path={folder / 'agent'},server=on,wait=off"]
    devices += ["-device", "virtserialport,chardev=ga,name=org.qemu.guest_agent.0", "-device", "pcie-root-port,id=rp1"]
    devices += ["-drive", f"if=none,id=d0,format=raw,file={folder / 'disk'}", "-device", "virtio-blk-pci,drive=d0"]
    with _guest(ready, folder, image, f"godwit.name=web1 godwit.redis=disk godwit.load={load}", *devices) as running:
        yield running


@pytest.mark.lab
def test_the_guest_boots_without_a_warning(guest: Guest) -> None:
    console = guest.console()
    assert "godwit-guest warning" not in console
    found = re.search(r"godwit-guest ready name=web1 uptime=([\d.]+)", console)
    assert found is not None
    assert 0 < float(found[1]) < BOOT_DEADLINE


@pytest.mark.lab
def test_redis_answers_and_keeps_its_file_on_the_disk(guest: Guest, keys: Path) -> None:
    with socket.create_connection(("127.0.0.1", guest.ports["redis"]), timeout=10) as redis:
        redis.sendall(b"PING\r\n")
        assert redis.recv(64) == b"+PONG\r\n"
    mounts = guest.ssh(keys, "grep /data /proc/mounts; ls /data")
    assert "/dev/vda /data ext4" in mounts
    assert "appendonlydir" in mounts


@pytest.mark.lab
def test_ssh_takes_the_keys_of_the_image(guest: Guest, keys: Path) -> None:
    assert guest.ssh(keys, "hostname; id -u").split() == ["web1", "0"]
    assert "COMMAND" in guest.ssh(keys, "top -b -n 1")


@pytest.mark.lab
def test_tick_counts_without_a_gap_a_hundred_times_a_second(guest: Guest) -> None:
    lines = []
    with (
        socket.create_connection(("127.0.0.1", guest.ports["tick"]), timeout=10) as connection,
        connection.makefile() as stream,
    ):
        for line in stream:
            lines.append([int(part) for part in line.split()])
            if len(lines) == 200:
                break
    counters = [counter for counter, _ in lines]
    assert counters == list(range(counters[0], counters[0] + 200))
    assert (lines[-1][1] - lines[0][1]) / 1e9 == pytest.approx(1.99, rel=0.1)


@pytest.mark.lab
def test_memwriter_keeps_its_rate_and_finds_its_pages_as_written(guest: Guest, keys: Path) -> None:
    guest.ssh(keys, "while [ $(wc -l </run/log/memwriter) -lt 5 ]; do usleep 100000; done")
    log = guest.ssh(keys, "cat /run/log/memwriter")
    rates = [float(rate) for rate in re.findall(r"rate=(\d+)", log)]
    assert sum(rates) / len(rates) == pytest.approx(8 << 20, rel=0.1)
    assert int(re.findall(r"checked=(\d+)", log)[-1]) > 0
    assert "CORRUPT" not in log


@pytest.mark.lab
@pytest.mark.parametrize("sync", ["", "--sync"])
def test_diskwriter_keeps_its_rate(guest: Guest, keys: Path, sync: str) -> None:
    guest.ssh(
        keys,
        # The shell may look into the log before the writer's own shell has made it.
        ": >/run/log/diskwriter; "
        f"diskwriter --rate 20 --blocks 64 --file /data/blocks {sync} >/run/log/diskwriter & p=$!; "
        "while [ $(wc -l </run/log/diskwriter) -lt 3 ]; do usleep 100000; done; kill $p",
    )
    lines = guest.ssh(keys, "cat /run/log/diskwriter; wc -c </data/blocks").splitlines()
    totals = [int(line.split("total=")[1].split()[0]) for line in lines if line.startswith("diskwriter t=")]
    assert 30 <= totals[2] <= 66
    assert lines[-1] == str(64 * 4096)


@pytest.mark.lab
def test_ackwriter_says_what_is_on_the_disk_and_goes_on_after_its_end(guest: Guest, keys: Path) -> None:
    said = guest.ssh(
        keys,
        "for token in 77 78; do ackwriter --file /data/acked --port 7002 & p=$!; "
        "until netstat -ltn | grep -q :7002; do usleep 50000; done; usleep 500000; "
        "(echo $token; sleep 1; echo dump 1; sleep 1) | nc 127.0.0.1 7002; kill $p; wait $p; echo over; done",
    )
    first, second = ([line.split() for line in part.splitlines() if line] for part in said.split("over")[:2])
    acked = [int(words[0]) for words in first if len(words) == 2]
    found = {int(words[1]): int(words[2]) for words in first if words[0] == "="}
    assert acked == list(range(acked[0], acked[0] + len(acked)))
    assert len(acked) > 20
    assert {found[number] for number in acked[5:-60]} == {77}
    again = {int(words[1]): int(words[2]) for words in second if words[0] == "="}
    assert again.items() >= found.items(), "what was written before is still there"
    assert max(again) > max(found)
    assert again[max(again)] == 78


@pytest.mark.lab
def test_memwriter_notices_a_page_that_was_changed(guest: Guest, keys: Path) -> None:
    overwrite = (
        "memwriter --rate 4M --set 8M --verify >/run/log/second 2>&1 & p=$!; usleep 1500000;"
        # The hot set is the largest mapping of the process; a word in the middle of it is overwritten from outside.
        ' r=$(awk \'$6=="" && $2=="rw-p" {print $1}\' /proc/$p/maps | while IFS=- read a b; do'
        " [ $((0x$b - 0x$a)) -ge 8388608 ] && echo $((0x$a + 4194304 + 2048)); done | head -n 1);"
        " printf damaged! | dd of=/proc/$p/mem bs=1 seek=$r conv=notrunc 2>/dev/null;"
        " wait $p; echo status $?; tail -n 2 /run/log/second"
    )
    said = guest.ssh(keys, overwrite)
    assert "status 1" in said
    assert re.search(r"CORRUPT page \d+ of 2048", said)


@pytest.mark.lab
def test_the_agent_answers(guest: Guest) -> None:
    answers = guest.monitor("agent", {"execute": "guest-ping"}, {"execute": "guest-get-host-name"})
    assert answers[1]["return"] == {"host-name": "web1"}


@pytest.mark.lab
def test_stress_ng_runs_once_it_is_wanted(guest: Guest, keys: Path) -> None:
    said = guest.ssh(keys, "stress-ng --vm 1 --vm-bytes 8M --timeout 1 2>&1")
    assert "successful run" in said


@pytest.mark.lab
def test_a_disk_plugged_in_is_seen(guest: Guest, keys: Path) -> None:
    (guest.folder / "second").write_bytes(bytes(8 << 20))
    file = {"driver": "file", "filename": str(guest.folder / "second")}
    backend = {"driver": "raw", "node-name": "second", "file": file}
    device = {"driver": "virtio-blk-pci", "id": "second", "drive": "second", "bus": "rp1"}
    answers = guest.monitor(
        "qmp",
        {"execute": "qmp_capabilities"},
        {"execute": "blockdev-add", "arguments": backend},
        {"execute": "device_add", "arguments": device},
    )
    assert [answer.get("error") for answer in answers] == [None, None, None]
    # `device_add` returns before the guest has seen the device.
    wait = "for i in $(seq 100); do [ -e /dev/vdb ] && break; usleep 100000; done; cat /sys/block/vdb/size"
    assert guest.ssh(keys, wait).strip() == str((8 << 20) // 512)


@pytest.mark.lab
def test_the_power_button_ends_the_guest(ready: assets.Assets, tmp_path: Path) -> None:
    with _guest(ready, tmp_path, ready.initramfs, "godwit.name=off godwit.services=none") as guest:
        guest.monitor("qmp", {"execute": "qmp_capabilities"}, {"execute": "system_powerdown"})
        assert guest.process.wait(timeout=20) == 0
