"""What a host counts of the threads that play a guest's CPUs."""

from __future__ import annotations

import pytest

from godwit.hosts.cputimes import parse

LINE = "4711 (CPU 0/TCG) S 1 4711 4711 0 -1 4194368 3035 0 0 0 250 50 0 0 20 0 4 0 8123 1 2 3"


def test_user_and_kernel_time_count_together_whatever_the_thread_is_called() -> None:
    odd = LINE.replace("CPU 0/TCG", "a) R (b")
    assert parse(f"100\n{LINE}\n{odd}\n") == (3.0, 3.0)
    assert parse("100\n") == ()


@pytest.mark.parametrize("text", ["", "soon\n", "100\nno stat\n", "100\n1 (short) S 1 2\n"])
def test_what_cannot_be_read_is_no_figure(text: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        parse(text)
