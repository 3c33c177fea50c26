"""Mirrors: how finely what is still to be copied is marked."""

from __future__ import annotations

import pytest

from godwit.model import DiskCopy, ImageFacts
from godwit.qemu.mirrors import granularity

GIB = 1 << 30


@pytest.mark.parametrize(
    ("size", "marked"),
    [(1, 4096), (10 * GIB, 4096), (1024 * GIB, 4096), (1024 * GIB + 1, 8192), (5000 * GIB, 32768), (1 << 62, 64 << 20)],
)
def test_no_disk_needs_more_marks_than_one_of_a_tebibyte(size: int, marked: int) -> None:
    assert granularity(DiskCopy("disk0", ImageFacts("/images/web.raw", "raw", size, 1), "job")) == marked
