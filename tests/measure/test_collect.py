"""From a prober's lines to a series, however long it runs: what is left of its beginning."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from godwit.measure import collect
from godwit.measure.collect import Collector
from godwit.measure.gaps import client_view
from godwit.measure.series import ProbeSeries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STEP_US = 2000
RTT_US = 400
EPOCH_NS = 1_700_000_000 * 10**9
Row = list[int | None]


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a collector keep little."""
    monkeypatch.setattr(collect, "KEPT_ROWS", 1000)
    monkeypatch.setattr(collect, "KEPT_GAPS", 5)


def rows(count: int, outages: Iterable[range] = ()) -> Iterator[Row]:
    lost = {number for outage in outages for number in outage}
    for number in range(count):
        yield [number, number * STEP_US, None if number in lost else RTT_US, 10]


def collected(told: Iterable[Row], *, batch: int = 50) -> Collector:
    """Feed a collector as a prober does, a clock with each batch."""
    made = Collector()
    header = {"t": "header", "version": 1, "kind": "icmp", "method": "raw", "host": "198.51.100.80", "port": 0}
    more = {"interval_us": STEP_US, "vantage": "", "scheduling": "fifo", "mono_us": 0, "real_ns": EPOCH_NS}
    made.feed(json.dumps({**header, **more}).encode())
    waiting: list[Row] = []
    for row in told:
        waiting.append(row)
        if len(waiting) == batch:
            made.feed(json.dumps({"t": "rows", "rows": waiting}).encode())
            at = row[1] or 0
            made.feed(json.dumps({"t": "clock", "mono_us": at, "real_ns": EPOCH_NS + at * 1000}).encode())
            waiting = []
    made.feed(json.dumps({"t": "rows", "rows": waiting}).encode())
    return made


OUTAGES = [range(300, 340), range(2500, 2600), range(5000, 5020), range(9000, 9050)]


@pytest.mark.usefixtures("little")
def test_a_long_series_tells_what_the_whole_one_would(monkeypatch: pytest.MonkeyPatch) -> None:
    short = client_view(collected(rows(10_000, OUTAGES)).series())
    monkeypatch.setattr(collect, "KEPT_ROWS", 100_000)
    whole = client_view(collected(rows(10_000, OUTAGES)).series())
    assert (short.sent, short.lost) == (whole.sent, whole.lost) == (10_000, 210)
    assert short.client_gap_s == pytest.approx(whole.client_gap_s, abs=1e-5)
    assert short.longest is not None
    assert short.longest.lost == 100
    assert [gap.lost for gap in short.gaps] == [gap.lost for gap in whole.gaps] == [40, 100, 20, 50]
    for seen, all_of_it in zip(short.gaps, whole.gaps, strict=True):
        assert (seen.start_s, seen.end_s) == pytest.approx((all_of_it.start_s, all_of_it.end_s), abs=1e-5)


@pytest.mark.usefixtures("little")
def test_no_gap_is_made_where_it_was_cut() -> None:
    series = collected(rows(10_000)).series()
    assert client_view(series).client_gap_s == pytest.approx(STEP_US / 1e6, rel=0.3)
    assert series.earlier is not None
    assert series.began_s == EPOCH_NS / 1e9
    assert series.sent_s[0] > series.began_s + 10
    assert np.all(np.diff(series.sent_s) > 0)


@pytest.mark.usefixtures("little")
@pytest.mark.parametrize("outage", [range(100, 9990), range(10_000)])
def test_an_outage_longer_than_what_is_kept_has_its_length(outage: range) -> None:
    series = collected(rows(10_000, [outage])).series()
    view = client_view(series)
    assert view.client_gap_s == pytest.approx(len(outage) * STEP_US / 1e6, rel=0.01)
    assert (view.sent, view.lost) == (10_000, len(outage))


@pytest.mark.usefixtures("little")
def test_late_rows_are_put_in_order() -> None:
    told = list(rows(10_000, [range(4000, 4003)]))
    late = [told.pop(index) for index in (4000, 4000, 4000)]
    told[4300:4300] = late
    series = collected(told).series()
    assert (series.sent, series.lost) == (10_000, 3)
    assert np.all(np.diff(series.sent_s) > 0)


@pytest.mark.usefixtures("little")
def test_a_collector_does_not_grow() -> None:
    outages = [range(begin, begin + 30) for begin in range(0, 60_000, 100)]
    made = collected(rows(60_000, outages))
    assert len(made._numbers) <= 2000
    assert len(made._clocks) <= 60
    assert made._earlier is not None
    assert len(made._earlier.gaps) == 5


@pytest.mark.usefixtures("little")
def test_what_is_left_of_the_beginning_survives_the_journal() -> None:
    series = collected(rows(10_000, OUTAGES)).series()
    again = ProbeSeries.from_json(json.loads(json.dumps(series.to_json())))
    assert again.earlier == series.earlier
    assert client_view(again).client_gap_s == pytest.approx(client_view(series).client_gap_s)
    assert "earlier" not in collected(rows(500)).series().to_json()
