"""Whether a QEMU that is started on a host could open a file: asked without touching it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from godwit.hosts.files import _OPEN, LooksIntoFiles
from godwit.hosts.local import LocalTransport
from godwit.hosts.shell import _PRELUDE

NOBODY = 65534


class Here(LooksIntoFiles):
    """This machine."""

    def __init__(self) -> None:
        self._transport = LocalTransport("here")


BUSYBOX = """#!/bin/sh
for word; do case $word in *nocreat*) echo "dd: invalid argument 'nocreat' to 'conv'" >&2; exit 1 ;; esac; done
exec REAL "$@"
"""


@pytest.fixture(params=["coreutils", "busybox"])
def dd(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whose dd there is: busybox's has no conv=nocreat."""
    if request.param == "busybox":
        own = tmp_path / "bin" / "dd"
        own.parent.mkdir()
        own.write_text(BUSYBOX.replace("REAL", str(shutil.which("dd"))))
        own.chmod(0o755)
        monkeypatch.setenv("PATH", f"{own.parent}:{os.environ['PATH']}")
    return str(request.param)


@pytest.mark.usefixtures("dd")
async def test_what_can_be_opened_is_not_touched(tmp_path: Path) -> None:
    disk = tmp_path / "it's a disk.raw"
    disk.write_bytes(b"content")
    os.utime(disk, (1, 1))
    absent = tmp_path / "absent"
    said = await Here().forbidden([(str(disk), True), (str(absent), True), (str(disk), False)])
    assert said == ("", "", "")
    assert disk.read_bytes() == b"content"
    assert disk.stat().st_mtime == 1
    assert not absent.exists()


PROTECTED: Final = Path("/proc/sys/fs/protected_regular")


@pytest.mark.skipif(
    os.geteuid() != 0 or not PROTECTED.exists() or not PROTECTED.read_text(encoding="ascii").strip("0\n"),
    reason="NOT SHOWN HERE: the kernel permits it (fs.protected_regular is 0), or this is not root",
)
async def test_another_s_disk_in_a_folder_like_tmp_can_be_opened_as_qemu_opens_it(tmp_path: Path) -> None:
    """The kernel (fs.protected_regular) keeps even root from a file there that opening would have made."""
    folder = tmp_path / "like-tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    disk = folder / "disk.raw"
    disk.write_bytes(b"x")
    os.chown(disk, NOBODY, NOBODY)
    assert await Here().forbidden([(str(disk), True)]) == ("",)


@pytest.mark.usefixtures("dd")
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="NOT SHOWN HERE: only root, with setpriv, can be another user",
)
def test_what_the_user_may_not_open_is_told_with_the_reason(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001 and folder.is_relative_to(tmp_path.parents[2]):
            folder.chmod(folder.stat().st_mode | 0o055)
    closed, readable = tmp_path / "closed", tmp_path / "readable"
    closed.write_bytes(b"x")
    closed.chmod(0o600)
    readable.write_bytes(b"x")
    readable.chmod(0o644)
    asked = [closed, "r", readable, "r", readable, "rw"]
    argv = ["setpriv", f"--reuid={NOBODY}", "--clear-groups", "sh", "-c", _PRELUDE + _OPEN, "sh", *map(str, asked)]
    lines = subprocess.check_output(argv, text=True, cwd="/").splitlines()
    assert [line.strip().rpartition(": ")[2] for line in lines] == ["Permission denied", "", "Permission denied"]
