"""Figures in the pages are those of the code."""

from __future__ import annotations

import pytest
from pages import ROOT

from godwit import runner
from godwit.core import capabilities, recovery, sleeping, strategy
from godwit.engine import engine, outside, sampler
from godwit.hosts import sendqueue
from godwit.journal import database, sqljournal
from godwit.lab import furnish, plan
from godwit.model import Policy
from godwit.units import KIB, MIB

FIRST_LIMIT = f"{capabilities.FIRST_DOWNTIME_LIMIT * 1000:g} ms"
FIGURES = [
    ("docs/move-a-guest.md", f"stand still at most; {Policy().max_downtime * 1000:g} ms"),
    ("docs/decisions/0004-low-downtime-limit.md", f"Begin with {FIRST_LIMIT}"),
    ("docs/decisions/0004-low-downtime-limit.md", f"has not shrunk by {strategy.IMPROVEMENT:.0%}".replace("%", " %")),
    ("docs/decisions/0004-low-downtime-limit.md", f"for {strategy.STALLED_PASSES} passes"),
    ("docs/decisions/0005-short-send-queue.md", f"Set it to {capabilities.SEND_QUEUE_BYTES // KIB} KiB"),
    ("docs/decisions/0003-journal-on-sqlite.md", f"within {sqljournal._SOON * 1000:g} ms"),
    ("docs/decisions/0003-journal-on-sqlite.md", f"A file of {database._RESERVE_BYTES // MIB} MiB"),
    ("docs/troubleshooting.md", f"not a byte was sent for {strategy.STALL_SECONDS:g} s"),
    ("docs/troubleshooting.md", f"announces the guest for {outside.ALIVE_DEADLINE:g} s"),
    ("docs/move-it-switched-off.md", f"shut down, {Policy().off_timeout:g} s unless told otherwise"),
    ("docs/move-it-switched-off.md", f"after\n   {outside.BOOT_DEADLINE:g} s with the warning"),
    ("docs/architecture.md", f"longer than {engine.SWITCHOVER_PATIENCE:g} s"),
    ("docs/architecture.md", f"quiet for {engine.HEARTBEAT:g} s"),
    ("docs/architecture.md", f"every\n  {sampler.PERIOD * 1000:g} ms"),
    ("docs/architecture.md", f"- `PATIENCE`: {recovery.PATIENCE:g} s"),
    *(
        ("docs/choose-a-policy.md", f"| {ms} ms | {sleeping.ladder(Policy(max_downtime=ms / 1000))[-1]} % |")
        for ms in (300, 100, 50)
    ),
    ("docs/laboratory.md", f"{plan.DEFAULT_LINK_RATE // 1_000_000} Mbit/s unless"),
    ("docs/laboratory.md", f"{furnish.GUEST_MEMORY // MIB} MiB, under emulation"),
]
NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@pytest.mark.parametrize(("page", "words"), FIGURES)
def test_figures_are_those_of_the_code(page: str, words: str) -> None:
    assert words in (ROOT / page).read_text(encoding="utf-8")


def test_runners_and_leases() -> None:
    record = (ROOT / "docs" / "decisions" / "0002-runner-and-supervisor.md").read_text(encoding="utf-8")
    assert f"At most {NUMBERS[runner.RESTARTS]} runners" in record
    assert sendqueue._OLDEST == 24 * 3600, "docs/decisions/0005 says that a lease is a day"
