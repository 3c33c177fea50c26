"""What a move cost its guest and its neighbours, from the journal's lines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from godwit.core.state import State
from godwit.measure.costs import DISK, GOT, NETWORK, PROCESSORS, Stretches, costs, stretches, throttle
from godwit.measure.costwords import lines
from godwit.measure.report import ReportData, render_html
from godwit.model import Policy, Spec
from godwit.ports import Entry, MigrationRow

SPEC = Spec("web-1", "web", "one", "two", Policy())
ROW = MigrationRow(spec=SPEC, created=100.0, phase=State().phase, epoch=1, outcome=None)
TIMES = Stretches(105.0, 110.1, 110.0, 110.1)


def work(at: float, side: str = "source", **guests: tuple[float | None, ...]) -> Entry:
    host = "one" if side == "source" else "two"
    data: dict[str, object] = {"side": side, "host": host, "at": at, "guests": {k: list(v) for k, v in guests.items()}}
    return Entry(1, at, "work", data)


def phase(at: float, name: str) -> Entry:
    return Entry(1, at, "transition", {"event": "X", "phase": name})


STORY = (
    work(101.0, web=(0.0, 0.0, 0, 0), db=(0.0, 0.0, 0, 0)),
    work(105.0, web=(4.0, 0.0, 0, 0), db=(4.0, 0.0, 0, 40_000_000)),
    work(109.0, web=(6.0, 2.0, 0, 0), db=(7.0, 1.0, 0, 60_000_000)),
    work(110.6, web=(6.5, 2.5, 0, 0), db=(8.6, 1.0, 0, 76_000_000)),
    work(110.6, "target", web=(0.5, 0.0, 0, 0)),
    work(111.6, "target", web=(1.5, 0.0, 0, 0)),
)


def test_the_guest_and_its_neighbours_have_rows() -> None:
    rows = {(row.guest, row.what): row for row in costs(ROW, STORY, TIMES, None)}
    own = rows["web", PROCESSORS]
    assert own.moved
    assert own.before == pytest.approx(1.0)
    assert own.during == pytest.approx(2.5 / 5.1)
    assert own.least == pytest.approx((0.5 * 0.4 + 0.0 * 0.1) / 0.5)
    assert own.after == pytest.approx(1.0)
    assert own.back_s == pytest.approx(0.0)
    assert own.lost_s == pytest.approx(5.1 - 2.5)
    db = rows["db", GOT]
    assert not db.moved
    assert db.host == "one"
    assert db.before == pytest.approx(1.0)
    assert db.least == pytest.approx(0.75)
    assert db.kept is not None
    assert 0.75 < db.kept < 0.9
    assert rows["db", NETWORK].before == pytest.approx(10e6)
    assert ("web", NETWORK) not in rows, "one without traffic has no row of it"


def test_a_guest_whose_disks_were_copied_has_no_rate_of_its_disk_but_its_neighbours_have() -> None:
    story = [
        work(101.0 + n, web=(1.0 * n, 0.0, 5_000_000 * n, 0), db=(1.0 * n, 0.0, 5_000_000 * n, 0)) for n in range(9)
    ]
    copy = Entry(1, 105.0, "mirror", {"name": "vda", "done": 1, "needed": 2})
    for entries, expected in ((story, {"web", "db"}), ([*story, copy], {"db"})):
        assert {row.guest for row in costs(ROW, entries, TIMES, None) if row.what == DISK} == expected


def test_what_the_source_shows_after_it_stood_still_was_done_before() -> None:
    (own,) = [row for row in costs(ROW, STORY, TIMES, None) if row.guest == "web" and row.what == PROCESSORS]
    standing = [piece for piece in own.pieces if piece[2] == 0.0]
    assert standing == [(110.0, 110.1, 0.0)]
    assert all(end <= 110.0 or start >= 110.0 for start, end, _ in own.pieces)


def test_a_runner_that_counted_anew_leaves_a_gap_and_no_nonsense() -> None:
    anew = (*STORY[:3], work(109.5, web=(0.0, 0.0, 0, 0), db=(0.0, 0.0, 0, 0)), work(110.0, db=(0.5, 0.0, 0, 0)))
    assert all(rate >= 0 for row in costs(ROW, anew, TIMES, None) for _, _, rate in row.pieces)


@pytest.mark.parametrize(
    "figures", [[1.0], "x", [None] * 4, [float("nan")] * 4, [True, 1, 2, 3], [[], {}, "", 0]], ids=repr
)
def test_what_cannot_be_meant_is_left_out(figures: object) -> None:
    odd = Entry(
        1, 103.0, "work", {"side": "source", "host": "one", "at": 103.0, "guests": {"web": figures, "x": figures}}
    )
    assert costs(ROW, [odd, *STORY], TIMES, None)


def test_stretches_begin_with_the_first_byte_and_end_with_the_handover_or_the_way_back() -> None:
    assert stretches(ROW, [phase(101, "preparing")], None, None) is None
    going = [phase(101, "preparing"), phase(103, "mirroring"), phase(105, "precopy")]
    assert stretches(ROW, going, 110.0, 110.2) == Stretches(103, 110.2, 110.0, 110.2)
    back = [*going, phase(107, "rolling-back"), phase(108, "cancelled")]
    assert stretches(ROW, back, None, None) == Stretches(103, 107, None, None)


def sample(at: float, percent: int) -> Entry:
    return Entry(1, at, "sample", {"at": at, "throttle": percent})


@pytest.mark.parametrize("waited", [0.0, 0.3], ids=["alone", "beside others"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_throttle_is_held_against_what_was_asked(share: float, waited: float) -> None:
    """Time for which others kept a core from it is no work of the throttle's."""
    free = (work(101.0, web=(0.0, 0.0, 0, 0)), work(106.0, web=(5.0, 0.0, 0, 0)))
    awake = 4.0 * (1 - share)
    slow = work(110.0, web=(5.0 + awake * (1 - waited), awake * waited, 0, 0))
    asked = round(share * 100)
    row = replace(ROW, spec=replace(SPEC, policy=Policy(max_guest_slowdown=0.92)))
    found = throttle(row, (*free, sample(105.5, 1), sample(106.0, asked), slow), TIMES)
    assert found is not None
    assert (found.permitted, found.asked) == (0.92, share)
    assert found.applied == pytest.approx(share, abs=0.01)
    assert f"{asked} % of its time at most, of 92 %" in lines([], found)["made to sleep"]


def test_a_guest_that_was_not_slowed_down_has_no_such_row() -> None:
    assert throttle(ROW, [*STORY, sample(106.0, 1), sample(107.0, 0)], TIMES) is None


def test_the_words_say_who_kept_what() -> None:
    told = lines(costs(ROW, STORY, TIMES, None), None)
    assert told["web, CPU"].endswith("back at 95 % at once, 2.60 s of its work lost")
    assert "kept " in told["db on one, CPU it got"]


def test_the_page_has_the_table_and_draws_each_rate_and_shows_names_as_they_are() -> None:
    row = replace(costs(ROW, STORY, TIMES, None)[0], guest="<b>web</b>")
    data = ReportData("web-1", "web", "one", "two", "completed", 100.0, costs=(row,), began_s=TIMES.began)
    page = render_html(data)
    assert "What the move cost its guest and its neighbours" in page
    assert page.count("against their former rates</title>") == 2, "for a desk and for a phone"
    assert "&lt;b&gt;web&lt;/b&gt;, CPU: 1.00 before" in page
    assert "<b>web</b>, CPU" not in page
    assert "What the move cost" not in render_html(replace(data, costs=()))
