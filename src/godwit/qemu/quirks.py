"""The one place where QEMU's version numbers count: bugs that introspection cannot see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Quirk:
    """A bug of some QEMU versions.

    It is there from `since` on and gone in `fixed` (None: still there); `accelerator` names the only one that has it,
    None means all. `source` says how it is known.
    """

    code: str
    since: Version
    fixed: Version | None
    accelerator: str | None
    effect: str
    source: str

    def concerns(self, version: Version, accelerator: str) -> bool:
        """Say whether a guest of this version and accelerator has it."""
        in_time = self.since <= version and (self.fixed is None or version < self.fixed)
        return in_time and self.accelerator in {None, accelerator}


CORRUPTS_GUEST: Final = "tcg-migration-corrupts-guest"
DIRTY_RATE_KILLS: Final = "dirty-rate-modes-kill-guest"
DIRTY_RATE_BLIND: Final = "dirty-rate-modes-blind"
MEMORY_KILLS: Final = "tcg-several-memories-kill-source"
LATE_FIGURES: Final = "late-final-figures"
MULTIFD_POSTCOPY: Final = "multifd-postcopy-unsafe"
COMPRESSION_UNCOUNTED: Final = "multifd-compression-uncounted"

_ALWAYS: Final = (0, 0, 0)

QUIRKS: Final = (
    Quirk(
        CORRUPTS_GUEST,
        _ALWAYS,
        (8, 2, 0),
        "tcg",
        "a guest that writes while it moves can arrive with corrupted memory, everything reported as completed",
        "a race in its dirty tracking; measured: 3 of 10 moves with 7.2.22 ended in a kernel BUG, 0 of 24 with 10.0.2",
    ),
    Quirk(
        DIRTY_RATE_KILLS,
        _ALWAYS,
        (8, 2, 0),
        "tcg",
        "calc-dirty-rate in the modes dirty-ring and dirty-bitmap ends QEMU with SIGSEGV",
        "measured with 7.2.22",
    ),
    Quirk(
        DIRTY_RATE_BLIND,
        (8, 2, 0),
        None,
        "tcg",
        "calc-dirty-rate refuses the mode dirty-ring and reports 0 in the mode dirty-bitmap: only page-sampling works",
        "measured with 10.0.2",
    ),
    Quirk(
        MEMORY_KILLS,
        (8, 2, 0),
        None,
        "tcg",
        "the source of a guest with plugged-in memory fails an assertion while it migrates, or it arrives dead",
        "10.0.2: physmem.c, tlb_reset_dirty_range_all; measured: with shared memory 2 of 2 guests arrived dead",
    ),
    Quirk(
        LATE_FIGURES,
        _ALWAYS,
        (10, 0, 0),
        None,
        "total-time and downtime can read 0 at the instant at which the status becomes completed",
        "measured with 7.2.22, not seen with 10.0.2",
    ),
    Quirk(
        MULTIFD_POSTCOPY,
        _ALWAYS,
        (8, 0, 0),
        None,
        "multifd together with postcopy-ram is accepted and unsafe; later ones refuse it, 10.1 supports it",
        "accepted by 7.2.22, refused by 10.0.2",
    ),
    Quirk(
        COMPRESSION_UNCOUNTED,
        _ALWAYS,
        (9, 0, 0),
        None,
        "multifd compression counts uncompressed bytes against max-bandwidth: no gain under a limit",
        "measured with 7.2.22; 10.0.2 gains fourfold",
    ),
)


def quirks_of(version: Version, accelerator: str) -> tuple[Quirk, ...]:
    """Return the known bugs of a QEMU of `version` that runs its guest with `accelerator` ("kvm" or "tcg")."""
    return tuple(quirk for quirk in QUIRKS if quirk.concerns(version, accelerator))


def has_quirk(code: str, version: Version, accelerator: str) -> bool:
    """Say whether the quirk `code` concerns this QEMU."""
    return any(quirk.code == code for quirk in quirks_of(version, accelerator))
