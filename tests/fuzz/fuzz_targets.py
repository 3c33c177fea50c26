"""What reads something from outside, and inputs for it. Each reader may raise an error of Godwit's, and nothing else."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import fuzz_files
import fuzz_hosts
import fuzz_qemu

from godwit.errors import GodwitError
from godwit.plaintext import LONGEST

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from hypothesis import strategies as st

DEADLINE: Final = 10.0
"""Seconds after which reading one input counts as a hang."""


@dataclass(frozen=True, slots=True)
class Target:
    """`read` takes what `inputs` makes; where it is a coroutine, it must end within DEADLINE."""

    name: str
    inputs: st.SearchStrategy[Any]
    read: Callable[[Any], Coroutine[Any, Any, None] | None]

    def attempt(self, value: Any) -> None:  # noqa: ANN401 - whatever the strategy makes
        """Let it read one input. Anything but an error of Godwit's, of bounded length, is a defect."""
        try:
            asyncio.run(_ended(self.read, value))
        except GodwitError as error:
            _check(error)


def _check(error: GodwitError) -> None:
    assert 0 < len(error.message) <= LONGEST
    assert len(error.remedy) <= LONGEST


async def _ended(read: Callable[[Any], Coroutine[Any, Any, None] | None], value: Any) -> None:  # noqa: ANN401 - as above
    async with asyncio.timeout(DEADLINE):
        reading = read(value)
        if reading is not None:
            await reading


TARGETS: Final = tuple(
    Target(f"{room.__name__.removeprefix('fuzz_')}-{name}", *pair)
    for room in (fuzz_files, fuzz_hosts, fuzz_qemu)
    for name, pair in room.READERS.items()
)
