"""What a laboratory is made of: programs for its hosts, and a kernel and root file system for its guests.

Everything is made of Debian's packages in a cache folder, once, and nothing is installed on the machine.
`hosttree/usr` is laid over the machine's own /usr inside a laboratory host's mount namespace
(`mount -t overlay overlay -o lowerdir=HOSTTREE/usr:/usr /usr`), so the machine's QEMU stays what it is.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from godwit.errors import LabError
from godwit.lab import guestimage
from godwit.lab.packages import DPKG_STATUS, codename, installed, newer, open_archive, status_without, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from godwit.lab.packages import Archive, Package

CACHE_VARIABLE = "GODWIT_LAB_CACHE"
CACHE_FOLDER = Path("/var/cache/godwit/lab")
MINIMUM_QEMU = "1:8.2"  # older ones lose guest writes when they migrate under TCG

_KEPT_SECONDS = 86400

# Always taken from the archive, whatever the machine has: the laboratory must not depend on the machine's own.
_QEMU_FAMILY = ("qemu-*", "seabios")
_HIDDEN = (
    "qemu-guest-agent",
    "qemu-system-common",
    "qemu-system-data",
    "qemu-system-x86",
    "qemu-utils",
    "qemu-block-extra",
    "libvirt-clients",
    "libvirt-common",
    "libvirt-daemon",
    "libvirt-daemon-common",
    "libvirt-daemon-driver-qemu",
    "libvirt-daemon-log",
    "libvirt0",
    "seabios",
    "ipxe-qemu",
    "openssh-server",
    "openssh-sftp-server",
)
HOST_PACKAGES = ("qemu-system-x86", "qemu-utils", "openssh-server", "iproute2", "iputils-ping", "nftables")


class Tree(StrEnum):
    """Trees for hosts beside the plain one, made when they are asked for.

    OLD has the release's own QEMU where that is older than the plain tree's. LIBVIRT and STORAGE are the plain tree
    with libvirt's daemon and tools, or with QEMU's network block drivers, servers of NFS and NBD, and a TPM.
    """

    OLD = "old"
    LIBVIRT = "libvirt"
    STORAGE = "storage"


FURTHER_PACKAGES = {
    Tree.LIBVIRT: ("libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-clients"),
    Tree.STORAGE: ("qemu-block-extra", "nfs-ganesha", "nfs-ganesha-vfs", "rpcbind", "nbdkit", "swtpm"),
}


@dataclass(frozen=True, slots=True)
class Assets:
    """Where everything lies; `trees` has those that were asked for, OLD only where the release has an older QEMU."""

    folder: Path
    hosttree: Path
    kernel: Path
    initramfs: Path
    qemu_version: str
    trees: Mapping[Tree, Path] = field(default_factory=dict)


def cache_folder() -> Path:
    """Return the folder of the laboratory's assets: $GODWIT_LAB_CACHE, or else the system's cache."""
    return Path(os.environ.get(CACHE_VARIABLE) or CACHE_FOLDER)


def with_sshd_user(passwd: str) -> str:
    """Return the text of /etc/passwd with the user that sshd gives up its privileges for.

    A machine without openssh-server lacks it, and nothing is installed there: a host mounts the text over its own.
    """
    if any(line.startswith("sshd:") for line in passwd.splitlines()):
        return passwd
    return f"{passwd.rstrip()}\nsshd:x:74:65534::/run/sshd:/usr/sbin/nologin\n"


def prepare(cache: Path, report: Callable[[str], None], *trees: Tree) -> Assets:
    """Make the assets below `cache` where they are not there yet, and return where they lie.

    `report` is called with a line for each step; `trees` are wanted besides the plain one. Safe against a kill at any
    time and against two at once. Raises LabError when the machine is no Debian, the archive does not answer, or the
    folder cannot be written.
    """
    release = codename()
    folder = cache / content_key(release)
    assets = _ready(folder, *trees)
    if assets is not None:
        return assets
    if os.geteuid() != 0:
        message = f"the laboratory's assets are not in {cache} yet, and making them needs root"
        raise LabError(message, remedy="run script/setup as root")
    with _locked(cache, report):
        assets = _ready(folder, *trees)  # somebody else may have made them meanwhile
        if assets is None:
            with _building(cache) as building:
                _build(folder, building, release, report, trees)
                _prune(cache, folder, building)
            assets = _ready(folder, *trees)
    if assets is None:
        message = f"the machine's packages changed while {folder} was made"
        raise LabError(message, remedy="try again")
    return assets


def content_key(release: str) -> str:
    """Return a key that changes with the release and with everything of ours that the assets are made by."""
    digest = hashlib.sha256(release.encode())
    own = Path(__file__).parent
    sources = [own / "assets.py", own / "packages.py", own / "guestimage.py", *guestimage.GUEST_SOURCES.iterdir()]
    for source in sorted((path for path in sources if path.is_file()), key=lambda path: path.name):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return f"{release}-{digest.hexdigest()[:16]}"


def _ready(folder: Path, *trees: Tree) -> Assets | None:
    """Return the assets of a complete folder whose trees still fit the machine, else nothing."""
    parts = ["", *trees]
    manifests = {part: folder / part / "manifest.json" for part in parts}
    if not all(manifest.exists() for manifest in manifests.values()):
        return None
    read = {part: json.loads(manifest.read_text(encoding="utf-8")) for part, manifest in manifests.items()}
    here = installed()
    if not all(_serves(here.get(name), version) for each in read.values() for name, version in each["machine"].items()):
        return None
    return Assets(
        folder=folder,
        hosttree=folder / "hosttree",
        kernel=folder / "guest/vmlinuz",
        initramfs=folder / "guest/initramfs.cpio.gz",
        qemu_version=read[""]["qemu"],
        trees={tree: folder / tree / "hosttree" for tree in trees if read[tree]["qemu"]},
    )


def _serves(here: str | None, needed: str) -> bool:
    """Say whether a package of the machine is still what a tree was made for: within a release, later ones serve."""
    return here is not None and (here == needed or not newer(needed, here))


def _build(folder: Path, building: Path, release: str, report: Callable[[str], None], trees: Collection[Tree]) -> None:
    """Make what is missing of `folder` below `building`, and put it in place by renaming."""
    report(f"fetching the lists of packages of Debian {release}")
    archive = open_archive(building / "apt", release)
    if _ready(folder) is None:
        fresh = building / "fresh"
        fresh.mkdir()
        _new_tree(archive, fresh, report)
        report("making the guest's kernel and root file system")
        packages = guestimage.build(archive, fresh / "guest", building / "guestwork")
        _add_packages(fresh / "manifest.json", "guest", packages)
        _replace(fresh, folder)
    for tree in trees:
        if _ready(folder, tree) is None:
            made = building / tree
            made.mkdir()
            if tree is Tree.OLD:
                _old_tree(archive, made, report)
            else:
                _further_tree(archive, made, report, tree)
            _replace(made, folder / tree)


def _new_tree(archive: Archive, fresh: Path, report: Callable[[str], None]) -> None:
    version, suite = _new_enough(archive)
    report(f"fetching QEMU {version} and what a laboratory host needs")
    archive.prefer(suite, _QEMU_FAMILY)
    _tree(archive, fresh, version)


def _further_tree(archive: Archive, destination: Path, report: Callable[[str], None], tree: Tree) -> None:
    version, suite = _new_enough(archive)
    report(f"fetching QEMU {version} for hosts with {tree}")
    archive.prefer(suite, (*_QEMU_FAMILY, "libvirt*"))
    _tree(archive, destination, version, FURTHER_PACKAGES[tree])


def _new_enough(archive: Archive) -> tuple[str, str]:
    """Return the version and the suite of the QEMU that the laboratory uses."""
    versions = archive.versions("qemu-system-x86")
    own = _release_version(versions, archive.release)
    backports = f"{archive.release}-backports"
    if own and not newer(MINIMUM_QEMU, own):
        return own, archive.release
    if backports in versions and not newer(MINIMUM_QEMU, versions[backports]):
        return versions[backports], backports
    message = f"no suite of Debian {archive.release} has QEMU {MINIMUM_QEMU.partition(':')[2]} or newer: {versions}"
    raise LabError(message)


def _old_tree(archive: Archive, old: Path, report: Callable[[str], None]) -> None:
    own = _release_version(archive.versions("qemu-system-x86"), archive.release)
    if not own or not newer(MINIMUM_QEMU, own):
        report(f"Debian {archive.release} has no older QEMU")
        manifest = {"qemu": "", "machine": {}, "packages": {}}
        (old / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        return
    report(f"fetching QEMU {own} for tests between versions")
    archive.prefer(archive.release, _QEMU_FAMILY)
    _tree(archive, old, own)


def _release_version(versions: dict[str, str], release: str) -> str:
    """Return the newest version in the release itself and its updates, empty where there is none."""
    best = ""
    for suite, version in versions.items():
        if suite.startswith(release) and not suite.endswith("-backports") and (not best or newer(version, best)):
            best = version
    return best


def _tree(archive: Archive, destination: Path, qemu: str, further: tuple[str, ...] = ()) -> None:
    """Unpack what the machine lacks of a host's packages and of `further` ones, and record what is relied on."""
    wanted = (*HOST_PACKAGES, *further)
    status = archive.folder / "machine-status"
    status.write_text(status_without(DPKG_STATUS.read_text("utf-8", "replace"), _HIDDEN), encoding="utf-8")
    packages = archive.fetch(wanted, status)
    unpack(packages, destination / "hosttree")
    fetched = {package.name for package in packages}
    here = installed()
    whole = (file.split("_", 1)[0] for file in archive.closure(wanted))
    manifest = {
        "qemu": qemu,
        "machine": {name: here[name] for name in sorted(whole) if name in here and name not in fetched},
        "packages": {"host": {package.name: package.version for package in packages}},
    }
    (destination / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _add_packages(manifest: Path, part: str, packages: list[Package]) -> None:
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["packages"][part] = {package.name: package.version for package in packages}
    manifest.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _replace(fresh: Path, folder: Path) -> None:
    """Put a finished folder in place; one that was there and no longer fits is moved aside first."""
    if folder.exists():
        folder.rename(fresh.parent / f"outdated-{folder.name}")
    fresh.rename(folder)


def _prune(cache: Path, current: Path, building: Path) -> None:
    """Remove the assets of earlier versions of Godwit that are a day old and mounted by nobody."""
    for manifest in cache.glob("*/manifest.json"):
        folder = manifest.parent
        if folder != current and time.time() - manifest.stat().st_mtime > _KEPT_SECONDS and not _mounted(folder):
            folder.rename(building / folder.name)


def _mounted(folder: Path) -> bool:
    """Say whether a mount in any namespace of the machine names a folder, as an overlay names its lower one."""
    for mounts in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            text = mounts.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ESRCH, errno.EINVAL}:
                continue  # the process has ended meanwhile
            raise
        if f"{folder}/" in text:
            return True
    return False


@contextmanager
def _locked(cache: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of the cache; the kernel gives it back when its holder dies."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / "lock").open("w", encoding="utf-8")
    except OSError as error:
        message = f"the laboratory's assets cannot be written: {error}"
        raise LabError(message, remedy=f"set {CACHE_VARIABLE} to a folder that can be written") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting for another process that makes the laboratory's assets")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _building(cache: Path) -> Iterator[Path]:
    """Give a folder to build in, and remove it and any that a killed build left; the lock must be held."""
    for left in cache.glob("building-*"):
        # An apt that outlived its killed parent may still write there: what stays now goes the next time.
        shutil.rmtree(left, ignore_errors=True)
    building = Path(tempfile.mkdtemp(prefix="building-", dir=cache))
    try:
        yield building
    finally:
        shutil.rmtree(building)


def main() -> int:
    """Make the assets and say what is there; the command behind script/setup."""
    start = time.monotonic()
    try:
        assets = prepare(cache_folder(), _say)
    except LabError as error:
        sys.stderr.write(f"laboratory: {error}\n{error.remedy}".rstrip() + "\n")
        return error.exit_status
    _say(f"{assets.folder}, {time.monotonic() - start:.1f} s")
    _say(f"QEMU {assets.qemu_version}, guest image {assets.initramfs.stat().st_size / 2**20:.1f} MiB")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"  {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
