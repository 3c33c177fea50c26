"""Waiting in the laboratory: every wait has a deadline, and says what it waited for."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

LONG: Final = 60.0


async def until(what: Callable[[], bool], words: str, deadline: float = LONG) -> None:
    """Return once `what` holds; fail with `words` when it does not within `deadline` seconds."""
    end = time.monotonic() + deadline
    while not what():
        assert time.monotonic() < end, f"not within {deadline:.0f} s: {words}"
        await asyncio.sleep(0.02)
