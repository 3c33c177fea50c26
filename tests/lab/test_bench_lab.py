"""`godwit bench` on this machine: two ways to move a quiet guest, and what is gone on from."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from godwit.bench.running import LAB, read
from godwit.cli.ground import EXIT_INTERRUPTED
from godwit.lab.laboratory import Laboratory

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

WORDS = ("--scenario", "quiet", "--contestant", "qemu", "--contestant", "seamless")


@pytest.mark.long
def test_two_ways_are_compared_and_none_is_tried_twice(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "godwit", "bench", *WORDS, "--out", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr
    made = read(tmp_path / "trials.jsonl")
    assert [(one.contestant, one.ended) for one in made] == [("qemu", True), ("seamless", True)]
    assert all(one.client_gap is not None and one.link_bytes > 0 for one in made)
    assert "| Godwit, seamless | 1 of 1 |" in (tmp_path / "tables.md").read_text()
    assert (tmp_path / "comparison.png").exists()
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert again.returncode == 0, again.stderr
    assert "0 are to be made" in again.stdout
    assert read(tmp_path / "trials.jsonl") == made
    assert f"/{LAB}/" not in subprocess.check_output(["ps", "-eo", "args"], text=True)


@pytest.mark.long
def test_one_that_is_told_to_end_takes_its_laboratory_down(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "godwit", "bench", *WORDS, "--out", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as bench:
        end = time.monotonic() + 60
        while f"guest={LAB}-" not in subprocess.check_output(["ps", "-eo", "args"], text=True):
            assert time.monotonic() < end
            time.sleep(0.2)  # a QEMU of the comparison's gives no event to others; the loop has a deadline
        bench.terminate()
        _, said = bench.communicate(timeout=60)
    assert bench.returncode == EXIT_INTERRUPTED
    assert "Traceback" not in said
    left = subprocess.check_output(["ps", "-eo", "args"], text=True)
    assert f"/{LAB}/" not in left
    assert f"guest={LAB}-" not in left
    assert LAB not in Laboratory.names()
