"""`godwit tls check` that is interrupted while it tries encryption on this very machine: no key of it stays here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

SERVER = """#!/bin/sh
for word; do case $word in --pid-file=*) echo $$ > "${word#*=}" ;; esac; done
exec sleep 60
"""
CLIENT = """#!/bin/sh
: > "$TRIAL"
sleep 2
echo "qemu-img: nobody answers" >&2
exit 1
"""
"""Programs that look like QEMU's: one that listens, and one to which nobody answers."""


@pytest.fixture
def godwit(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Run the command line in a home of its own, which knows this machine."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("qemu-nbd", SERVER), ("qemu-img", CLIENT)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "GODWIT_HOME": str(tmp_path / "home"),
        "HOME": str(tmp_path),
        "TRIAL": str(tmp_path / "trial"),
    }

    def run(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "godwit", *words]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    with run("host", "add", "here", "local", "--migration-address", "127.0.0.1") as adding:
        assert adding.wait(60) == 0, adding.communicate()
    return run


def keys(folder: Path) -> list[Path]:
    """Return the folders of keys that a check has on this machine."""
    places = [Path("/run/godwit-tls"), Path("/run/godwit/tls"), folder / ".cache/godwit/tls"]
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        places.append(Path(runtime) / "godwit/tls")
    return [path for place in places for path in place.glob("tls-check-*")]


def test_a_check_that_is_interrupted_leaves_no_keys(
    godwit: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    # One after the other, for all of them use the same folder of this machine.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        before = keys(tmp_path)
        (tmp_path / "trial").unlink(missing_ok=True)
        with godwit("tls", "check", "here") as checking:
            end = time.monotonic() + 60
            while not (tmp_path / "trial").exists():
                assert time.monotonic() < end
                assert checking.poll() is None, checking.communicate()
                time.sleep(0.02)  # another process makes the file, and tells nobody; the loop has a deadline
            assert len(keys(tmp_path)) == len(before) + 1
            checking.send_signal(number)
            said, complaint = checking.communicate(timeout=60)

        assert keys(tmp_path) == before
        assert checking.returncode == 130, (number, said, complaint)
        assert complaint == "godwit: interrupted\n"
