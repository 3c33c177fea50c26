"""Trials as pictures: how long each contestant takes, what a client waits, and when."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Final

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from godwit.bench.contestants import CONTESTANTS
from godwit.bench.scenarios import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from godwit.bench.trials import Trial

_NOTHING: Final = 1e-3
_OURS, _THEIRS, _NEVER = "#1f77b4", "#b0b0b0", "#d62728"
_DPI: Final = 110
_LARGE: Final = 100


def draw(trials: Sequence[Trial], path: Path) -> None:
    """Draw a scenario a row: the command's time, the client's longest wait, bytes, and the client's waits over time."""
    scenarios = [name for name in SCENARIOS if any(one.scenario == name for one in trials)]
    figure = Figure(figsize=(15, 0.7 + 2.7 * len(scenarios)), layout="constrained")
    grid = figure.subplots(len(scenarios), 4, squeeze=False)
    for axes, name in zip(grid, scenarios, strict=True):
        here = [one for one in trials if one.scenario == name]
        order = [one for one in reversed(CONTESTANTS) if any(trial.contestant == one for trial in here)]
        _bars(axes[0], here, order, [one.took for one in here], "the command takes, s")
        _bars(axes[1], here, order, [(one.client_gap or 0) * 1000 for one in here], "a client waits, ms", log=True)
        _bars(axes[2], here, order, [one.link_bytes / 1e6 for one in here], "on the link, MB")
        _timeline(axes[3], here, order)
        axes[0].set_title(name, loc="left", fontweight="bold")
        for other in axes[1:]:
            other.set_yticklabels([])
    figure.savefig(path, dpi=_DPI)


def _bars(
    axes: Axes, trials: Sequence[Trial], order: Sequence[str], values: Sequence[float], label: str, *, log: bool = False
) -> None:
    """Draw medians as bars and each trial as a point; one that never ended is red."""
    for place, name in enumerate(order):
        own = [(one, value) for one, value in zip(trials, values, strict=True) if one.contestant == name]
        ended = [value for one, value in own if one.ended]
        ours = CONTESTANTS[name].profiled or CONTESTANTS[name].unknown
        colour = _NEVER if not ended else _OURS if ours else _THEIRS
        middle = max(median(ended or [value for _, value in own]), _NOTHING)
        axes.barh(place, middle, color=colour)
        axes.plot([max(value, _NOTHING) for _, value in own], [place] * len(own), "k.", markersize=3)
        text = _figure(middle) if ended else "refused" if any(one.refused for one, _ in own) else "does not end"
        axes.annotate(f" {text}", (middle, place), va="center", fontsize=7)
    axes.set_yticks(range(len(order)), [CONTESTANTS[name].words for name in order], fontsize=7)
    axes.set_xlabel(label, fontsize=8)
    axes.margins(x=0.2)
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())


def _figure(value: float) -> str:
    """Return three digits of a small figure, and all of a large one."""
    return f"{value:.3g}" if value < _LARGE else f"{value:.0f}"


def _timeline(axes: Axes, trials: Sequence[Trial], order: Sequence[str]) -> None:
    """Draw when a client waited, in the first round: the height of a line is how long."""
    for place, name in enumerate(order):
        own = min((one for one in trials if one.contestant == name), key=lambda one: one.round)
        axes.plot([0, own.took], [place, place], color="#dddddd", linewidth=1)
        for at, length in own.gaps:
            axes.plot([at, at + length], [place, place], linewidth=7, color=_NEVER, solid_capstyle="butt")
    axes.set_ylim(-0.5, len(order) - 0.5)
    axes.set_yticks(range(len(order)))
    axes.set_xlabel("when it waits, s after the command", fontsize=8)
