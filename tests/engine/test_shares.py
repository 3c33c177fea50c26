"""Memory yields to what copied disks go on to send: never to nothing, and not for trifles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.engine.shares import LEAST, WINDOW, MemoryShare


def changes(bandwidth: int, rates: list[float], step: float = 0.25) -> list[tuple[int, float]]:
    """Return what is changed while disks send at these rates, one for each look."""
    share, at, copied, found = MemoryShare(bandwidth), 0.0, 0.0, []
    for rate in rates:
        changed = share.after(at, round(copied))
        if changed is not None:
            found.append(changed)
        at, copied = at + step, copied + rate * step
    return found


def test_memory_yields_what_the_disks_take_and_gets_it_back() -> None:
    found = changes(1000, [400.0] * 40 + [0.0] * 40)
    share, rate = found[0]
    assert share == 600
    assert rate == pytest.approx(400)
    assert found[-1][0] == 1000
    assert len(found) <= 8


@pytest.mark.parametrize("rates", [[0.0] * 80, [50.0] * 80], ids=["nothing is written", "a trifle is"])
def test_a_trifle_changes_nothing(rates: list[float]) -> None:
    assert changes(1000, rates) == []


def test_without_a_limit_there_is_nothing_to_share() -> None:
    assert changes(0, [1e9] * 40) == []


@given(st.integers(1000, 10**10), st.lists(st.floats(0, 1e10), max_size=60))
def test_memory_always_keeps_a_part_and_never_gets_more_than_was_allowed(bandwidth: int, rates: list[float]) -> None:
    for share, rate in changes(bandwidth, rates):
        assert bandwidth * LEAST * 0.999 - 1 <= share <= bandwidth
        assert rate >= 0


def test_a_burst_is_no_rate_until_it_was_measured() -> None:
    share = MemoryShare(1000)
    assert share.after(0.0, 0) is None
    assert share.after(WINDOW / 2, 10**6) is None
    assert share.after(WINDOW, 10**6) == (250, 10**6 / WINDOW)
