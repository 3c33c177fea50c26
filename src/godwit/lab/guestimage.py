"""The guest of the laboratory: Debian's cloud kernel with a small root file system in memory.

The root file system holds busybox, the kernel's modules for virtio, and real programs (redis, dropbear, stress-ng,
iperf3, qemu-guest-agent) with exactly the libraries they are linked to, taken from Debian's packages and never from
the machine that builds it. It is an initramfs: a compressed cpio archive, to which the kernel lets further archives
be appended, and that is how a laboratory's keys come in.
"""

from __future__ import annotations

import base64
import gzip
import lzma
import re
import shutil
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from godwit.errors import LabError
from godwit.lab.packages import Archive, Package, run, unpack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from godwit.lab.assets import Assets

GUEST_SOURCES = Path(__file__).parent / "guest"
GUEST_PACKAGES = (
    "busybox-static",
    "dropbear-bin",
    "e2fsprogs",
    "iperf3",
    "qemu-guest-agent",
    "redis-server",
    "redis-tools",
    "sqlite3",
    "stress-ng",
)
KERNEL_PACKAGE = "linux-image-cloud-amd64"

PROGRAMS = (
    "usr/bin/dropbearkey",
    "usr/bin/iperf3",
    "usr/bin/redis-benchmark",
    "usr/bin/redis-cli",
    "usr/bin/redis-server",
    "usr/bin/sqlite3",
    "usr/sbin/dropbear",
    "usr/sbin/mke2fs",
    "usr/sbin/qemu-ga",
)

# Large and seldom used: it stays compressed in the guest until it is called.
RARE_PROGRAM = "usr/bin/stress-ng"

# Inserted at boot, each after what it depends on. `button` and `evdev` carry the power button to acpid.
BOOT_MODULES = (
    "virtio_pci",
    "virtio_net",
    "virtio_blk",
    "virtio_balloon",
    "virtio_console",
    "virtio_rng",
    "button",
    "evdev",
)
# There for `modprobe`: bonding and the stand-in for a direct NIC.
FURTHER_MODULES = ("bonding", "vmxnet3", "virtio_scsi", "sd_mod", "virtio_mem")

LIBRARY_FOLDER = "usr/lib/x86_64-linux-gnu"

KERNEL_ARGUMENTS = "console=ttyS0 quiet panic=5 random.trust_cpu=on"

_FILES: Mapping[str, tuple[int, str]] = {
    "etc/passwd": (0o644, "root:x:0:0:root:/root:/bin/sh\n"),
    "etc/group": (0o644, "root:x:0:\ntty:x:5:\n"),
    "etc/shells": (0o644, "/bin/sh\n"),
    "etc/hosts": (0o644, "127.0.0.1 localhost\n"),
    "etc/profile": (0o644, "export PS1='\\h:\\w\\$ ' TERM=${TERM:-vt100}\n"),
    "etc/acpi/PWRF/00000080": (0o755, "#!/bin/sh\nexec poweroff\n"),
    "usr/sbin/shutdown": (0o755, "#!/bin/sh\n# What qemu-guest-agent calls.\nexec poweroff\n"),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a cpio archive: its path, its mode with the file type, and its content."""

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str, mode: int = 0o755) -> Entry:
    """Return a directory for an archive."""
    return Entry(path, stat.S_IFDIR | mode)


def regular(path: str, content: bytes, mode: int = 0o644) -> Entry:
    """Return a regular file for an archive."""
    return Entry(path, stat.S_IFREG | mode, content)


def symlink(path: str, target: str) -> Entry:
    """Return a symbolic link for an archive."""
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def cpio(entries: Iterable[Entry]) -> bytes:
    """Write a cpio archive in the `newc` format, which the kernel reads; the same entries give the same bytes.

    Everything belongs to root and has no time. The format is that of the kernel's buffer-format document.
    """
    out = bytearray()
    for number, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], start=1):
        name = entry.path.encode() + b"\0"
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        fields = (number, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, *entry.device, len(name), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        out += bytes(-len(out) % 4) + entry.content
        out += bytes(-len(out) % 4)
    return bytes(out)


def with_parents(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Put the directories that entries need before them; the first entry of a path wins."""
    seen = set()
    for entry in entries:
        for parent in reversed(Path(entry.path).parents):
            if str(parent) != "." and str(parent) not in seen:
                seen.add(str(parent))
                yield directory(str(parent))
        if entry.path not in seen:
            seen.add(entry.path)
            yield entry


def personalise(assets: Assets, destination: Path, authorized_keys: str, host_key: bytes | None = None) -> Path:
    """Write an initramfs whose root accepts `authorized_keys` over SSH and whose server has `host_key`.

    `host_key` is an Ed25519 private key, in OpenSSH's unencrypted format or in dropbear's; without one every boot
    makes its own. Returns `destination`. The same input gives the same bytes. Raises LabError for another kind of key.
    """
    entries = [
        directory("root", 0o700),
        directory("root/.ssh", 0o700),
        regular("root/.ssh/authorized_keys", (authorized_keys.rstrip("\n") + "\n").encode(), 0o600),
    ]
    if host_key is not None:
        entries.append(regular("etc/dropbear/host_key", dropbear_key(host_key), 0o600))
    base = assets.initramfs.read_bytes()
    # An archive that is not compressed must begin at a multiple of four bytes.
    destination.write_bytes(base + bytes(-len(base) % 4) + cpio(with_parents(entries)))
    return destination


def dropbear_key(key: bytes) -> bytes:
    """Return an Ed25519 private key in dropbear's format; a key that is in it already is returned as it is.

    Raises LabError when an OpenSSH key is encrypted or of another kind.
    """
    marker = b"-----BEGIN OPENSSH PRIVATE KEY-----"
    if not key.lstrip().startswith(marker):
        return key
    body = b"".join(line for line in key.split() if line and b"-" not in line and line not in _ARMOUR_WORDS)
    fields = _Fields(base64.b64decode(body).removeprefix(b"openssh-key-v1\0"))
    cipher, _, _ = fields.take(), fields.take(), fields.take()
    fields.number()  # how many keys
    fields.take()  # the public half
    private = _Fields(fields.take())
    private.number()
    private.number()
    kind = private.take()
    if cipher != b"none" or kind != b"ssh-ed25519":
        message = f"the guest's host key must be an unencrypted Ed25519 key, not {kind[:40]!r} under {cipher[:40]!r}"
        raise LabError(message)
    private.take()
    return b"".join(struct.pack(">I", len(part)) + part for part in (kind, private.take()))


_ARMOUR_WORDS = frozenset({b"BEGIN", b"END", b"OPENSSH", b"PRIVATE", b"KEY"})


class _Fields:
    """Reads SSH's wire format from its start on."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def number(self) -> int:
        value = int.from_bytes(self._data[:4], "big")
        self._data = self._data[4:]
        return value

    def take(self) -> bytes:
        length = self.number()
        value, self._data = self._data[:length], self._data[length:]
        return value


def kernel_package(archive: Archive) -> str:
    """Return the package that holds the kernel which Debian's meta package stands for today."""
    found = re.search(r"\blinux-image-\d[^\s,(|]*", archive.depends(KERNEL_PACKAGE))
    if found is None:
        message = f"{KERNEL_PACKAGE} depends on no kernel"
        raise LabError(message)
    return found[0]


def build(archive: Archive, destination: Path, work: Path) -> list[Package]:
    """Write `vmlinuz` and `initramfs.cpio.gz` below `destination`, and return the packages they were made of.

    `work` is a folder for what is unpacked on the way. Raises LabError when a package, a library or a module is
    missing.
    """
    packages = archive.fetch(GUEST_PACKAGES)
    kernel = archive.fetch_alone(kernel_package(archive))
    programs, modules = work / "programs", work / "kernel"
    unpack(packages, programs)
    unpack([kernel], modules)
    version = next((modules / "usr/lib/modules").iterdir()).name
    destination.mkdir(parents=True)
    shutil.copyfile(modules / f"boot/vmlinuz-{version}", destination / "vmlinuz")
    tools = _compile(work / "tools")
    entries = [
        *_skeleton(),
        *_busybox(programs),
        *_programs(programs),
        # A name of its own: `killall memwriter` goes by a process's program, too, and that is the same for all of them.
        regular("usr/bin/godwit-tools", tools.read_bytes(), 0o755),
        *(symlink(f"usr/bin/{name}", "godwit-tools") for name in ("ackwriter", "diskwriter", "memwriter", "tick")),
        *_modules(modules / "usr/lib/modules" / version, version),
    ]
    archive_bytes = cpio(with_parents(entries))
    (destination / "initramfs.cpio.gz").write_bytes(_compressed(archive_bytes))
    return [*packages, kernel]


def _skeleton() -> Iterator[Entry]:
    for path in ("dev", "proc", "sys", "run", "tmp", "var", "etc", "mnt", "data", "usr/bin", "usr/sbin", "usr/lib"):
        yield directory(path)
    yield directory("root", 0o700)
    for name in ("bin", "sbin", "lib", "lib64"):
        yield symlink(name, f"usr/{name}")
    yield symlink("var/run", "/run")
    yield Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    yield symlink("init", "usr/bin/busybox")
    for path, (mode, text) in _FILES.items():
        yield regular(path, text.encode(), mode)
    yield regular("etc/rc", (GUEST_SOURCES / "rc").read_bytes(), 0o755)
    yield regular("etc/down", (GUEST_SOURCES / "down").read_bytes(), 0o755)
    yield regular("etc/inittab", (GUEST_SOURCES / "inittab").read_bytes())


def _busybox(root: Path) -> Iterator[Entry]:
    busybox = next(path for path in (root / "usr/bin/busybox", root / "usr/sbin/busybox") if path.exists())
    yield regular("usr/bin/busybox", busybox.read_bytes(), 0o755)
    taken = {Path(program).name for program in PROGRAMS}
    for applet in sorted(run([str(busybox), "--list"]).split()):
        if applet not in taken and applet != "busybox":
            yield symlink(f"usr/bin/{applet}", "busybox")


def _programs(root: Path) -> Iterator[Entry]:
    loader = (root / "usr/lib64/ld-linux-x86-64.so.2").resolve()
    libraries: dict[str, Path] = {}
    for program in PROGRAMS:
        path = (root / program).resolve()
        yield regular(program, path.read_bytes(), 0o755)
        libraries |= needed_libraries(path, root, loader)
    yield regular("usr/lib64/ld-linux-x86-64.so.2", loader.read_bytes(), 0o755)
    yield from _library_entries(libraries)
    rare = root / RARE_PROGRAM
    extra = needed_libraries(rare, root, loader)
    packed = [
        regular(f"{RARE_PROGRAM}.real", rare.read_bytes(), 0o755),
        *_library_entries({name: path for name, path in extra.items() if name not in libraries}),
    ]
    yield regular(RARE_PROGRAM, (GUEST_SOURCES / "stress-ng").read_bytes(), 0o755)
    yield regular(f"usr/lib/{rare.name}.cpio.gz", _compressed(cpio(with_parents(packed))))


def _library_entries(libraries: Mapping[str, Path]) -> Iterator[Entry]:
    for name, path in sorted(libraries.items()):
        yield regular(f"{LIBRARY_FOLDER}/{name}", path.read_bytes(), 0o755)


def _compressed(content: bytes) -> bytes:
    return gzip.compress(content, compresslevel=6, mtime=0)


def needed_libraries(program: Path, root: Path, loader: Path) -> dict[str, Path]:
    """Ask the dynamic loader of `root` which libraries a program needs, and return their files below `root`.

    Raises LabError when one is missing there, also when the machine itself has it.
    """
    folders = [root / LIBRARY_FOLDER, *sorted((root / LIBRARY_FOLDER).glob("*/"))]
    listing = run(
        [str(loader), "--inhibit-cache", "--library-path", ":".join(map(str, folders)), "--list", str(program)]
    )
    libraries = {}
    for line in listing.splitlines():
        name, arrow, rest = line.strip().partition(" => ")
        if not arrow or name.startswith("/"):
            continue
        path = Path(rest.rsplit(" (", 1)[0])
        if not path.is_relative_to(root):
            message = f"{program.name} needs {name}, which none of the guest's packages has"
            raise LabError(message)
        libraries[name] = path.resolve()
    return libraries


def _compile(output: Path) -> Path:
    sources = [str(path) for path in sorted(GUEST_SOURCES.glob("*.c"))]
    run(["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s", "-o", str(output), *sources])
    return output


def _modules(folder: Path, version: str) -> Iterator[Entry]:
    """Yield the modules with what they depend on, the order of those inserted at boot, and modprobe's table."""
    files = {_module_name(path): path for path in sorted((folder / "kernel").rglob("*.ko*"))}
    built_in = {_module_name(Path(line)) for line in (folder / "modules.builtin").read_text("utf-8").splitlines()}
    contents: dict[str, bytes] = {}  # in an order in which they can be inserted
    needs: dict[str, list[str]] = {}

    def add(name: str) -> None:
        if name in contents or name in built_in:
            return
        if name not in files:
            message = f"Debian's kernel {version} has no module {name}"
            raise LabError(message)
        content = _module_content(files[name])
        needs[name] = [need for need in _module_needs(content) if need not in built_in]
        for need in needs[name]:
            add(need)
        contents[name] = content

    for name in BOOT_MODULES:
        add(name)
    at_boot = list(contents)
    for name in FURTHER_MODULES:
        add(name)
    base = f"usr/lib/modules/{version}"
    for name, content in contents.items():
        yield regular(f"{base}/{name}.ko", content)
    yield regular("etc/modules", "".join(f"/{base}/{name}.ko\n" for name in at_boot).encode())
    table = "".join(f"{name}.ko:{''.join(f' {need}.ko' for need in _all_needs(name, needs))}\n" for name in contents)
    yield regular(f"{base}/modules.dep", table.encode())


def _all_needs(name: str, needs: Mapping[str, list[str]]) -> list[str]:
    found: list[str] = []
    for need in needs[name]:
        found += [each for each in (need, *_all_needs(need, needs)) if each not in found]
    return found


def _module_name(path: Path) -> str:
    return path.name.split(".ko", 1)[0].replace("-", "_")


def _module_content(path: Path) -> bytes:
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content


def _module_needs(content: bytes) -> list[str]:
    """Read what a module depends on from its `.modinfo` section, a row of NUL-ended NAME=VALUE texts."""
    found = re.search(rb"\0depends=([^\0]*)\0", content)
    return [name.replace("-", "_") for name in found[1].decode().split(",") if name] if found else []
