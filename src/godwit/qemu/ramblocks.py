"""Where a guest's memory lies in its QEMU: the monitor's `info ramblock`, which has no counterpart in QMP."""

from __future__ import annotations

from typing import Final

from godwit.core.dirtying import LEAST_SAMPLED

_HEADING: Final = "Block Name"
_USED: Final = "Used"
_ADDRESS: Final = "HVA"


def areas_of(said: str) -> tuple[tuple[int, int], ...]:
    """Return address in QEMU and bytes of each large block of memory, from what `info ramblock` printed.

    Empty where this QEMU does not say addresses (before 7.1), or in a way that nobody knew.
    """
    heading, *lines = said.splitlines() or [""]
    columns = heading.replace(_HEADING, "Block").split()
    if _ADDRESS not in columns or _USED not in columns:
        return ()
    found = []
    for line in lines:
        # Columns are counted from the right: names hold spaces, and a page size is a number and its unit.
        words = line.split()
        try:
            size, address = (int(words[columns.index(name) - len(columns)], 16) for name in (_USED, _ADDRESS))
        except (ValueError, IndexError):
            continue
        if size >= LEAST_SAMPLED:
            found.append((address, size))
    return tuple(found)
