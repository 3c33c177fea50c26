"""Forecasts against what then happened: guests that write in many ways, over links of several rates.

`python -m bench.forecasts --rounds 3` moves a guest to and fro, each time with another writer in it and over another
link, and types `godwit forecast --profile` beforehand. What the writer and the link are, the forecast is not told; the
link's rate is, in `--link`. A move that a forecast says will not end gets a deadline.
"""

from __future__ import annotations

import asyncio
import json
import math
import statistics
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from bench.ground import CALM, keep, one_guest, other_host, parser, run
from godwit.bench.guests import writing
from godwit.bench.scenarios import Scenario, Writes
from godwit.bench.typed import obeyed, typed
from godwit.errors import LabError
from godwit.lab.furnish import prefix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.lab.laboratory import Laboratory
    from godwit.service import Service

NAME: Final = "benchforecasts"
DEADLINE: Final = 25.0
"""Seconds after which a move that does not end is taken back."""

_SETTLE: Final = 3.0
"""Seconds for which a guest is left alone with what it does now."""


def guest(link: int, hot_set: int = 0, rate: int = 0, each: int = 8) -> Scenario:
    """Return a guest behind a link in Mbit/s that writes to so many MiB (0: nothing), MiB a second, bytes of a page."""
    writes = f"{rate} MiB/s to {hot_set} MiB, {each} B a page" if hot_set else "quiet"
    words = f"{writes}, {link} Mbit/s"
    return Scenario(words, words, link, first=Writes(hot_set, rate, each) if hot_set else None)


SCENARIOS: Final = (
    *(guest(link) for link in (160, 400, 800)),
    *(guest(400, hot, rate, each) for hot, rate in ((8, 4), (24, 20), (48, 64)) for each in (8, 512, 4096)),
    *(guest(160, hot, rate, each) for hot, rate in ((8, 4), (24, 10), (48, 64)) for each in (8, 1024)),
    *(guest(800, hot, rate, each) for hot, rate in ((16, 30), (64, 60)) for each in (64, 4096)),
)


@dataclass(frozen=True, slots=True)
class Trial:
    """One forecast, and what came of it; times in seconds. `ended` says whether the move did, by itself."""

    scenario: Scenario
    expected_to_end: bool
    ended: bool
    total: tuple[float, float, float]
    took: float
    gap: tuple[float, float, float]
    felt: float | None
    sent: tuple[float, float, float]
    bytes: int
    passes: int


@dataclass(frozen=True, slots=True)
class Result:
    """All trials."""

    trials: tuple[Trial, ...]


async def measure(rounds: int) -> Result:
    """Build a laboratory, forecast and move, take it down."""
    async with one_guest(NAME) as (service, lab, vm):
        trials = []
        for scenario in SCENARIOS * rounds:
            lab.set_rate(scenario.link * 10**6)
            async with writing(lab, vm.address or "", scenario):
                await asyncio.sleep(_SETTLE)
                trials.append(await attempt(service, lab, vm.name, scenario))
            print(json.dumps(asdict(trials[-1])), flush=True)
        return Result(tuple(trials))


async def attempt(service: Service, lab: Laboratory, name: str, scenario: Scenario) -> Trial:
    """Forecast a move, make it, and put both side by side."""
    vm = await service.inventory.vm(name)
    host = await other_host(service, lab, name)
    link = f"{scenario.link}mbit"
    (told,) = (await obeyed("forecast", name, host, "--profile", "--link", link)).lines
    row = next(one for one in told["prospects"] if one["strategy"] == told["chosen"])
    await asyncio.sleep(CALM)
    probe = f"{vm.address}@{prefix(lab.plan.name)}client"
    said = await typed("migrate", name, host, "--probe", probe, "--deadline", f"{DEADLINE:g}s")
    if said.migration is None:
        raise LabError(said.wrong)
    outcome = (await service.journal.load(said.migration))[0].outcome
    assert outcome is not None  # noqa: S101 - the command waits for it; for the type checker
    gap = outcome.downtime.client_gap_ms
    return Trial(
        scenario=scenario,
        expected_to_end=row["converges"],
        ended=outcome.status.value == "completed",
        total=interval(row["total"]),
        took=outcome.total_s,
        gap=interval(row["client_gap"]),
        felt=None if gap is None else gap / 1000,
        sent=interval(row["bytes"]),
        bytes=outcome.bytes,
        passes=outcome.passes,
    )


def interval(told: dict[str, Any]) -> tuple[float, float, float]:
    """Return low, likely and high."""
    return told["low"], told["likely"], told["high"]


def report(trials: Sequence[Trial]) -> str:
    """Say how far off the forecasts were: at the median, in nine cases of ten, at worst; and how often they held."""
    both = [one for one in trials if one.ended and one.expected_to_end]
    lines = ["| | median | nine of ten | worst | within the interval |", "|---|---|---|---|---|"]
    total = [abs(one.total[1] - one.took) / one.took for one in both]
    sent = [abs(one.sent[1] - one.bytes) / one.bytes for one in both]
    felt = [(one, one.felt) for one in both if one.felt is not None]
    gaps = [abs(one.gap[1] - gap) * 1000 for one, gap in felt]
    rows = (
        ("total time", "{:.1%}", total, [one.total[0] <= one.took <= one.total[2] for one in both]),
        ("bytes", "{:.1%}", sent, [one.sent[0] <= one.bytes <= one.sent[2] for one in both]),
        ("client gap", "{:.1f} ms", gaps, [one.gap[0] <= gap <= one.gap[2] for one, gap in felt]),
    )
    for name, shown, errors, held in rows:
        ordered = sorted(errors)
        figures = (statistics.median(ordered), ordered[math.ceil(0.9 * len(ordered)) - 1], ordered[-1])
        lines.append(f"| {name} | {' | '.join(map(shown.format, figures))} | {statistics.fmean(held):.0%} |")
    right = sum(one.ended == one.expected_to_end for one in trials)
    ended = sum(one.ended for one in trials)
    lines.append(f"\nWhether it ends by itself was right in {right} of {len(trials)} cases; {ended} ended.")
    return "\n".join(lines)


def main() -> int:
    """Parse, measure, print."""
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=3, help="times that each scenario is tried")
    options = arguments.parse_args()
    result = run(lambda: measure(options.rounds))
    keep(result, options.json)
    print(report(result.trials))
    return 0


if __name__ == "__main__":
    sys.exit(main())
