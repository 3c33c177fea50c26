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


@given(st.integers(0, 8 * GIB), st.integers(0, 8 * GIB), st.integers(0, 9 * GIB))
def test_a_guest_always_keeps_what_it_uses_and_some_more(size: int, free: int, resident: int) -> None:
    free = min(free, size)
    taken = reclaimable(Balloon(size, free, yields=True), resident)
    assert taken == 0 or taken + MIB >= WORTH
    assert taken <= max(0, free - LEAST_LEFT_FREE)
