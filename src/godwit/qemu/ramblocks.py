"""Where a guest's memory lies in its QEMU: the monitor's `info ramblock`, which has no counterpart in QMP."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_HEADING: Final = "Block Name"
_USED: Final = "Used"
_ADDRESS: Final = "HVA"


_FIRST: Final = re.compile(r"Host virtual address for 0x0 \(.*\) is 0x([0-9a-f]+)")


async def areas(human: Callable[[str], Awaitable[str]]) -> tuple[tuple[int, int], ...]:
    """Return address in QEMU and bytes of each block of a guest's memory; `human` types at its monitor.

    A QEMU that does not list addresses (7.2) is asked for that of the guest's first byte, which is the largest block's.
    Empty where none is said.
    """
    blocks = blocks_of(await human("info ramblock"))
    largest = max((size for _, size in blocks), default=0)
    if any(address is not None for address, _ in blocks):
        # Those that are smaller than half of the largest are of devices and firmware.
        return tuple((address, size) for address, size in blocks if address is not None and size > largest // 2)
    found = _FIRST.search(await human("gpa2hva 0x0")) if blocks else None
    return ((int(found[1], 16), largest),) if found else ()


def blocks_of(said: str) -> tuple[tuple[int | None, int], ...]:
    """Return address, where it is said, and bytes of each block that `info ramblock` printed."""
    heading, *lines = said.splitlines() or [""]
    columns = heading.replace(_HEADING, "Block").split()
    if _USED not in columns:
        return ()
    found: list[tuple[int | None, int]] = []
    for line in lines:
        # Columns are counted from the right: names hold spaces, and a page size is a number and its unit.
        words = dict(zip(reversed(columns), reversed(line.split()), strict=False))
        try:
            address = int(words[_ADDRESS], 16) if _ADDRESS in columns else None
            found.append((address, int(words[_USED], 16)))
        except (ValueError, KeyError):
            continue
    return tuple(found)
