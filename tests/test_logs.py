"""Logs that do not grow without end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from godwit.logs import LONGEST, keep_short

if TYPE_CHECKING:
    from pathlib import Path


def test_a_log_that_is_too_long_loses_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    lines = [f"line {n} {'x' * 90}" for n in range(LONGEST // 80)]
    path.write_text("\n".join(lines) + "\n")
    with path.open("ab") as log:
        keep_short(log.fileno())
        log.write(b"after\n")
    kept = path.read_text().splitlines()
    assert path.stat().st_size < LONGEST / 3
    assert kept[0] == "(the beginning was cut off)"
    assert kept[1] in lines
    assert kept[-2:] == [lines[-1], "after"]


def test_a_log_within_its_bound_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(b"y" * LONGEST)
    with path.open("ab") as log:
        keep_short(log.fileno())
    assert path.stat().st_size == LONGEST


def test_what_is_no_file_is_left_alone() -> None:
    reader, writer = os.pipe()
    keep_short(writer)
    os.write(writer, b"still open")
    assert os.read(reader, 20) == b"still open"
    for one in (reader, writer):
        os.close(one)
