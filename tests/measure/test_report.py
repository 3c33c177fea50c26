from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measure_samples import START_S, make_report, make_series

from godwit.measure.charts import bin_width_s
from godwit.measure.report import (
    Comparison,
    DiskRow,
    DowntimeFigures,
    PhaseSpan,
    ReportData,
    RunFigures,
    render_comparison_png,
    render_html,
    render_png,
)
from godwit.measure.svg import nice_ticks, tick_text

if TYPE_CHECKING:
    from pathlib import Path

VOID = {"meta", "br", "hr", "img", "input", "link"}
OUTSIDE = re.compile(r"""(?:https?:)?//[a-z]|@import|url\(|<script|<link|<iframe|<img|src=""", re.IGNORECASE)


class Nesting(HTMLParser):
    """Fails on tags that do not nest, and collects the words."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"attribute twice in {tag}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words += " " + " ".join(data.split())


def words_of(page: str) -> str:
    parser = Nesting()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert OUTSIDE.search(page) is None
    return parser.words


def both_runs() -> tuple[RunFigures, RunFigures]:
    stop = START_S + 2.0
    slow = make_series(silent=[(2.0, 2.35)])
    base = RunFigures("QEMU defaults", DowntimeFigures(298, 340, 352), 6.4, 109_000_000, slow, stop, stop + 0.34)
    fast = make_report()
    return base, RunFigures("Godwit", fast.downtime, 6.5, 108_000_000, fast.probe, fast.stop_s, fast.resume_s)


def test_a_whole_report_says_everything() -> None:
    words = words_of(render_html(make_report()))
    for wanted in (
        "web1", "moved", "completed", "2.00 ms", "20.0 ms", "34.0 ms", "not taken off", "cont round trip", "precopy",
        "no reply for", "STOP", "RESUME", "downtime limit 20 ms", "start low", "TCG", "use 8.2", "PREPARING",
        "runs on host2, seen alive", "91.6 MiB", "Godwit 0.1.0", "before the switchover",
    ):  # fmt: skip
        assert wanted in words, wanted
    assert "SIMULATED" not in words


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        ("completed", "moved"),
        ("failed", "did not move"),
        ("cancelled", "was cancelled"),
        ("refused", "preflight refused"),
        ("guest-crashed", "moved and crashed"),
        ("limbo", "nobody can know"),
        ("running", "is moving"),
        ("something-new", "something-new"),
    ],
)
def test_every_status_has_its_page(status: str, wanted: str) -> None:
    assert wanted in words_of(render_html(replace(make_report(status), error="broken", remedy="mend it")))


def test_a_report_of_nothing_but_its_name() -> None:
    words = words_of(render_html(ReportData("m-1", "web1", "host1", "host2", "refused", START_S)))
    assert "No outside probe watched" in words
    assert "no switchover was seen" in words


def test_copied_disks_have_a_table() -> None:
    assert "Disks" not in words_of(render_html(make_report()))
    disks = (DiskRow("vda <1>", 600 << 20, 601 << 20),)
    page = render_html(replace(make_report(), disks=disks, disk_bytes=10 << 20, disks_compared="equal (1 GiB in 3 s)"))
    words = words_of(page)
    assert "vda <1> 600.0 MiB 601.0 MiB" in words
    assert "10.0 MiB copied. Compared afterwards: equal (1 GiB in 3 s)." in words


def test_what_was_not_measured_is_said_to_be_so() -> None:
    downtime = DowntimeFigures(blackout_ms=20.0)
    words = words_of(render_html(replace(make_report(), downtime=downtime, probe=None)))
    assert words.count("not measured") == 2
    assert "no outside probe watched this migration" in words


def test_a_cut_phase_and_an_open_gap_are_shown_as_such() -> None:
    silent = make_series(silent=[(2.0, 99.0)])
    downtime = DowntimeFigures(client_gap_ms=2002.0, client_gap_open=True)
    phases = (PhaseSpan("precopy", START_S, None),)
    words = words_of(render_html(replace(make_report("failed"), probe=silent, downtime=downtime, phases=phases)))
    assert "over 2 002 ms" in words
    assert "not ended" in words
    assert "and on" in words


def test_a_simulated_report_is_loud() -> None:
    page = render_html(replace(make_report(), simulated=True))
    assert "SIMULATED" in words_of(page)
    assert "<title>SIMULATED" in page


def test_a_comparison_shows_both_and_how_they_stand() -> None:
    words = words_of(render_html(replace(make_report(), comparison=Comparison(*both_runs()))))
    assert "Godwit against QEMU defaults" in words
    assert "10 times less" in words
    assert "\u00d7 1.02" in words


@settings(max_examples=30)
@given(st.text(min_size=1, max_size=40))
def test_whatever_a_guest_is_called_the_page_stays_whole(name: str) -> None:
    hostile = f"{name}<script>alert(1)</script>\"'&"
    page = render_html(replace(make_report(), probe=None, vm=hostile, error=hostile, settings=((hostile, hostile),)))
    assert "<script" not in page
    parser = Nesting()
    parser.feed(page)
    assert parser.open == []


def test_hostile_words_inside_pictures_are_escaped() -> None:
    phases = (PhaseSpan("<b>&\"'", START_S, START_S + 1),)
    words_of(render_html(replace(make_report(), phases=phases)))


def test_dark_light_paper_and_phones_are_provided_for() -> None:
    page = render_html(make_report())
    for rule in ("prefers-color-scheme: dark", "@media print", "max-width: 700px", 'name="viewport"'):
        assert rule in page
    for picture in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert re.search(r'(?:fill|stroke)="', picture) is None


def test_pictures_are_written_and_refused_without_a_probe(tmp_path: Path) -> None:
    render_png(replace(make_report(), simulated=True), tmp_path / "run.png")
    render_comparison_png(*both_runs(), tmp_path / "two.png", title="web1")
    for name, width in (("run.png", 1760), ("two.png", 2080)):
        data = (tmp_path / name).read_bytes()
        assert data.startswith(b"\x89PNG")
        assert int.from_bytes(data[16:20], "big") == width
    with pytest.raises(ValueError, match="no outside probe watched web1"):
        render_png(replace(make_report(), probe=None), tmp_path / "none.png")


def test_a_page_needs_no_matplotlib() -> None:
    code = "import sys, godwit.measure.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 12))
def test_ticks_are_round_few_and_inside(low: float, length: float, count: int) -> None:
    ticks = nice_ticks(low, low + length, count)
    assert len(ticks) <= 3 * count + 2
    slack = length * 1e-6 + 1e-6
    assert all(low - slack <= tick <= low + length + slack for tick in ticks)
    assert len({tick_text(tick, ticks) for tick in ticks}) == len(ticks)


def test_bins_stay_near_two_hundred() -> None:
    assert bin_width_s(8.0) == 0.05
    assert bin_width_s(100.0) == 0.5
    assert bin_width_s(1e9) == 10.0
