"""What was measured of a guest before a move."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DirtyWindow:
    """One measurement of dirtying: `unique` bytes of memory were changed at least once within `seconds`."""

    seconds: float
    unique: int


@dataclass(frozen=True, slots=True)
class MemorySample:
    """What some pages of a guest's memory were like, looked at twice, `seconds` apart: figures, no content.

    Of `pages` pages `zero` held nothing but zeroes, and `changed` were not the same at the second look. `again` is the
    share of a changed page that its changes take, as xbzrle sends them; `compressed` the share of its size to which
    zlib, at its fastest, brings a page that is not zero, `compressed_again` one that was changed. Each is None where
    there was none to look at.
    """

    pages: int
    zero: int
    changed: int
    again: float | None
    compressed: float | None
    seconds: float
    compressed_again: float | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """A guest's memory and how it changes, as measured at the instant `at`; `memory` in bytes.

    `windows` are the single measurements, in the order in which they were taken. `sample` is None where nobody looked
    at pages; `unsampled` says why, where somebody wanted to. `busy` is the share of its time for which the busiest of
    the guest's CPUs worked, None where that cannot be seen; `disk_writes` the bytes a second that it wrote to its
    disks.
    """

    vm: str
    host: str
    at: float
    memory: int
    windows: tuple[DirtyWindow, ...]
    sample: MemorySample | None = None
    unsampled: str = ""
    busy: float | None = None
    disk_writes: float = 0.0
