"""Where a guest's memory lies in its QEMU: the monitor's `info ramblock`, which has no counterpart in QMP."""

from __future__ import annotations

from typing import Final

_HEADING: Final = "Block Name"
_USED: Final = "Used"
_ADDRESS: Final = "HVA"


def areas_of(said: str) -> tuple[tuple[int, int], ...]:
    """Return address in QEMU and bytes of each block of the guest's memory, from what `info ramblock` printed.

    Those that are smaller than half of the largest are of devices and firmware. Empty where this QEMU does not say
    addresses, or in a way that nobody knew.
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
        found.append((address, size))
    largest = max((size for _, size in found), default=0)
    return tuple((address, size) for address, size in found if size > largest // 2)
