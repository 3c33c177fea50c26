"""What was measured of a guest before a move."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DirtyWindow:
    """One measurement of dirtying: `unique` bytes of memory were changed at least once within `seconds`."""

    seconds: float
    unique: int


@dataclass(frozen=True, slots=True)
class Profile:
    """A guest's memory and how it changes, as measured at the instant `at`; `memory` in bytes.

    `windows` are the single measurements, in the order in which they were taken.
    """

    vm: str
    host: str
    at: float
    memory: int
    windows: tuple[DirtyWindow, ...]
