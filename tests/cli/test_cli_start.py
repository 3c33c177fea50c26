"""The command's first instant, as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("migrate", "web1", "host2"), 2, "there is no guest 'web1'"),
        (("migrate", "../web1", "host2"), 2, "there is no guest"),
        (("migrate", "web1", "--nonsense"), 2, "No such option"),
        (("migrate", "web1"), 2, "Missing argument"),
    ],
)
def test_a_move_that_does_not_begin_leaves_no_log_and_no_process(
    words: tuple[str, ...], status: int, said: str, tmp_path: Path
) -> None:
    environment = {**os.environ, "GODWIT_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-m", "godwit", *words], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    assert not list((tmp_path / "log").glob("*"))
