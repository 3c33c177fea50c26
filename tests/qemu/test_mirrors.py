"""Mirrors: how finely what is still to be copied is marked, and whose node is whose while a job ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from godwit.errors import HypervisorError
from godwit.model import DiskCopy, ImageFacts
from godwit.qemu.mirrors import granularity, own_node

if TYPE_CHECKING:
    from collections.abc import Mapping

GIB = 1 << 30


@pytest.mark.parametrize(
    ("size", "marked"),
    [(1, 4096), (10 * GIB, 4096), (1024 * GIB, 4096), (1024 * GIB + 1, 8192), (5000 * GIB, 32768), (1 << 62, 64 << 20)],
)
def test_no_disk_needs_more_marks_than_one_of_a_tebibyte(size: int, marked: int) -> None:
    assert granularity(DiskCopy("disk0", ImageFacts("/images/web.raw", "raw", size, 1), "job")) == marked


COPY = DiskCopy("disk0", ImageFacts("/images/web.raw", "raw", GIB, 1), "job")


class Ending:
    """A QEMU whose mirror ends, its node with it, when it has been asked for its disks so many times."""

    version = (10, 0, 2)

    def __init__(self, after: int) -> None:
        self.left = after

    async def execute(self, command: str, _arguments: Mapping[str, object] | None = None) -> object:
        mirrors = self.left > 0
        if command == "query-block":
            self.left -= 1
            return [{"qdev": "disk0", "inserted": {"node-name": "job-mirror" if mirrors else "disk0-format"}}]
        if command == "query-named-block-nodes":
            return [{"node-name": "disk0-format"}]
        assert command == "x-debug-query-block-graph"
        return {"nodes": [{"id": 1, "name": "disk0-format"}], "edges": []}


async def test_a_mirror_that_ends_between_two_questions_is_no_trouble() -> None:
    assert await own_node(Ending(1), COPY) == "disk0-format"


async def test_a_mirror_of_which_qemu_says_nothing_is_named() -> None:
    with pytest.raises(HypervisorError, match="lies below job-mirror"):
        await own_node(Ending(9), COPY)
