from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.core.ballooning import LEAST_LEFT_FREE, WORTH, reclaimable
from godwit.model import Balloon
from godwit.units import GIB, MIB

FULL = Balloon(512 * MIB, 400 * MIB, yields=True)
"""A guest that uses 112 MiB of its memory."""


@pytest.mark.parametrize(
    ("balloon", "resident", "expected"),
    [
        (FULL, 560 * MIB, 374 * MIB),  # all of it was once used: but for a twentieth
        (FULL, 300 * MIB, 374 * MIB),  # nobody knows which of the free pages were used
        (FULL, 220 * MIB, 0),  # hardly any of it was
        (None, 560 * MIB, 0),
        (Balloon(512 * MIB, None, yields=True), 560 * MIB, 0),  # the guest does not say
        (Balloon(512 * MIB, 400 * MIB), 560 * MIB, 0),  # it would rather end a process
        (Balloon(512 * MIB, 80 * MIB, yields=True), 560 * MIB, 0),  # too little is free
    ],
)
def test_free_memory_is_taken_where_that_is_safe_and_worth_it(
    balloon: Balloon | None, resident: int, expected: int
) -> None:
    assert reclaimable(balloon, resident) == expected


CACHING = Balloon(512 * MIB, 80 * MIB, yields=True, available=400 * MIB)
"""A guest that uses 112 MiB, too, and keeps 320 MiB of what is on its disks."""


@pytest.mark.parametrize(
    ("balloon", "page_cache", "expected"),
    [
        (CACHING, False, 0),
        (CACHING, True, 374 * MIB),
        (FULL, True, 374 * MIB),  # it does not say what is available
        (Balloon(512 * MIB, 400 * MIB, yields=True, available=300 * MIB), True, 374 * MIB),
    ],
)
def test_what_is_kept_of_disks_is_taken_where_that_is_permitted(
    balloon: Balloon,
    page_cache: bool,  # noqa: FBT001
    expected: int,
) -> None:
    assert reclaimable(balloon, 560 * MIB, page_cache=page_cache) == expected


sizes = st.integers(0, 8 * GIB)


@given(sizes, sizes, sizes, st.integers(0, 9 * GIB), st.booleans())
def test_a_guest_always_keeps_what_it_uses_and_some_more(
    size: int,
    free: int,
    available: int,
    resident: int,
    page_cache: bool,  # noqa: FBT001
) -> None:
    free, available = min(free, size), min(available, size)
    balloon = Balloon(size, free, yields=True, available=available)
    taken = reclaimable(balloon, resident, page_cache=page_cache)
    assert taken == 0 or taken + MIB >= WORTH
    assert taken <= max(0, (max(free, available) if page_cache else free) - LEAST_LEFT_FREE)
