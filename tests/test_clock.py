"""The controller's clock does not follow a time of day that is set."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from godwit import clock
from godwit.app import RealClock

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def first_question() -> Iterator[None]:
    clock._boot.cache_clear()
    yield
    clock._boot.cache_clear()


def test_it_is_the_time_of_day() -> None:
    assert clock.now() == pytest.approx(time.time(), abs=1.0)


@pytest.mark.parametrize("step", [-86_400.0, -1.0, 60.0, 86_400.0])
def test_a_time_of_day_that_is_set_changes_no_interval(step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    before = RealClock().now()
    monkeypatch.setattr(time, "time", lambda: real() + step)
    assert 0.0 <= RealClock().now() - before < 1.0
