"""The scripts that look at files and processes, on this machine."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from godwit.storage import files

if TYPE_CHECKING:
    from pathlib import Path


def run(script: str, *arguments: str) -> int:
    done = subprocess.run(["sh", "-s", "--", *arguments], input=script, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_what_a_file_takes(tmp_path: Path) -> None:
    thin = tmp_path / "thin with spaces"
    thin.write_bytes(b"x" * 100_000)
    os.truncate(thin, 10 << 20)
    assert 100_000 <= run(files.USED, str(thin)) < 1 << 20
    assert run(files.USED, f"{tmp_path}/none") == 0


def test_what_a_process_has_in_memory() -> None:
    assert 1 << 20 < run(files.RESIDENT, str(os.getpid())) < 1 << 34
