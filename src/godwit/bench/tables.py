"""What trials came to, as tables: medians and worst of each contestant, and what that is of the first one's."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

from godwit.bench.contestants import CONTESTANTS
from godwit.bench.scenarios import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from godwit.bench.trials import Trial


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of a trial: its title, how it is read and shown."""

    title: str
    read: Callable[[Trial], float | None]
    unit: str
    scale: float = 1.0
    digits: int = 1


COLUMNS: Final = (
    Column("the command takes", lambda one: one.took, "s"),
    Column("a client waits", lambda one: one.client_gap, "ms", 1000, 0),
    Column("blackout, by its own account", lambda one: one.blackout, "ms", 1000, 0),
    Column("on the link", lambda one: one.link_bytes, "MB", 1e-6, 0),
    Column("the guest falls behind", lambda one: one.lost, "s"),
)


def table(trials: Sequence[Trial], scenario: str) -> str:
    """Return a scenario's trials as a table: a row a contestant, in the order in which they are listed."""
    here = [one for one in trials if one.scenario == scenario]
    columns = [column for column in COLUMNS if any(column.read(one) is not None for one in here)]
    head = ["", "ended", *(column.title for column in columns)]
    lines = [f"| {' | '.join(head)} |".replace("|  |", "| |"), "|---" * len(head) + "|"]
    for name in _present(CONTESTANTS, (one.contestant for one in here)):
        own = [one for one in here if one.contestant == name]
        ended = [one for one in own if one.ended]
        cells = [_cell(column, ended) for column in columns]
        refused = sum(one.refused for one in own)
        count = f"{len(ended)} of {len(own)}" + (f", {refused} refused" if refused else "")
        lines.append(f"| {_words(name)} | {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tables(trials: Sequence[Trial]) -> str:
    """Return all scenarios' tables, each under its title."""
    parts = []
    for name in _present(SCENARIOS, (one.scenario for one in trials)):
        scenario = SCENARIOS.get(name)
        title = name if scenario is None else f"{name}: {scenario.words}, {scenario.link} Mbit/s"
        parts.append(f"### {title}\n\n{table(trials, name)}")
    return "\n\n".join(parts)


def _words(name: str) -> str:
    return CONTESTANTS[name].words if name in CONTESTANTS else name


def _present(known: Iterable[str], found: Iterable[str]) -> list[str]:
    """Return the names that were found: in the order of those that are known, and then whatever else there is."""
    names = list(dict.fromkeys(found))
    order = list(known)
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def _cell(column: Column, trials: Sequence[Trial]) -> str:
    """Return the median and the worst of a figure."""
    values = [value * column.scale for one in trials if (value := column.read(one)) is not None]
    if not values:
        return ""
    middle = f"{median(values):.{column.digits}f}"
    worst = f" ({max(values):.{column.digits}f})" if len(values) > 1 else ""
    return f"{middle}{worst} {column.unit}"
