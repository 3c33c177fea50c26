"""How much of what goes on for long is kept."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, cast

import pytest

from godwit.engine.pacing import LONGEST, TURNS, Pace
from godwit.engine.sampler import KEPT, Sampler
from godwit.model import Sample

if TYPE_CHECKING:
    from godwit.engine.actions import Actions
    from godwit.ports import Guest


def kept(seconds: float, period: float, *, turns: int = 0) -> list[float]:
    pace = Pace()
    instants = [number * period for number in range(int(seconds / period))]
    return [at for number, at in enumerate(instants) if pace.worth(at, turn=bool(turns) and number % turns == 0)]


def test_of_the_first_minutes_every_line_is_kept() -> None:
    assert len(kept(250, 0.25)) == 1000


def test_of_a_day_some_thousands_are() -> None:
    lines = kept(86_400, 1.0)
    assert 5000 < len(lines) < 8000
    assert max(late - early for early, late in pairwise(lines)) <= LONGEST + 1


def test_what_tells_more_is_kept_but_not_without_end() -> None:
    lines = kept(20_000, 1.0, turns=10)
    assert {float(number) for number in range(0, 10_000, 10)} <= set(lines)
    assert len(kept(86_400, 0.1, turns=1)) < len(kept(86_400, 0.1)) + TURNS + 1


@pytest.mark.parametrize("samples_a_pass", [1, 10, 100_000])
def test_what_is_remembered_of_a_stream_is_bounded(samples_a_pass: int) -> None:
    async def copied(_: Guest) -> int | None:
        return None

    sampler = Sampler(cast("Actions", None), lambda _: None, copied)
    for number in range(10 * KEPT):
        sampler._keep(Sample(number / 4, 1 + number // samples_a_pass, number, 10 * KEPT - number, 1000, 10.0, 1.0))
    assert len(sampler.samples) <= KEPT
    assert len(sampler._samples) < 300
    assert sampler.samples[0].at == 0
