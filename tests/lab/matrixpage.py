"""What docs/reliability.md says of the fault matrix, made of its results: `script/soak matrix --page` writes it."""

from __future__ import annotations

import json
import re
import statistics
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from faultcells import CELLS, MEANS, POINTS, RETURNS, Cell
from faultjudge import DEAD, MENDED, SILENCE, counts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "docs" / "matrix.jsonl"
PAGE: Final = ROOT / "docs" / "reliability.md"
ROUNDS: Final = 3

_PART: Final = re.compile(
    r"(<!-- made by script/soak matrix --page: (?P<name>[a-z]+) -->\n).*?(<!-- end: (?P=name) -->)", re.DOTALL
)

Line = dict[str, Any]


def read(results: Path) -> list[Line]:
    """Return what was found so far; a line that a killed run left half is none."""
    lines = []
    for text in results.read_text(encoding="utf-8").splitlines() if results.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def latest(lines: Iterable[Line]) -> dict[tuple[int, str], Line]:
    """Return the last result of each cell in each round."""
    return {(line["round"], line["cell"]): line for line in lines}


def parts(lines: Sequence[Line]) -> dict[str, str]:
    """Return the parts of the page that are made from the results."""
    last = latest(lines)
    return {"cells": _table(last), "summary": _summary(last), "figures": _figures(last)}


def _rounds(last: dict[tuple[int, str], Line], cell: Cell) -> list[Line]:
    return [line for (number, name), line in sorted(last.items()) if name == cell.id and number <= ROUNDS]


def _table(last: dict[tuple[int, str], Line]) -> str:
    """One table for each fault: the points, what must come of them, and what came."""
    by_fault: dict[str, list[Cell]] = defaultdict(list)
    for cell in CELLS:
        by_fault[cell.fault].append(cell)
    blocks = []
    for fault, cells in by_fault.items():
        rows = ["| mode | at | the guest | found | longest silence |", "|---|---|---|---|---|"]
        for cell in cells:
            found = _rounds(last, cell)
            good = sum(not line["wrong"] for line in found)
            silence = max((line["silence"] for line in found), default=None)
            told = "" if silence is None or cell.end in DEAD else f"{silence:.1f} s"
            rows.append(
                f"| {cell.mode} | {POINTS[cell.point].words} | {_end(cell)} | {good} of {len(found)} | {told} |"
            )
        blocks.append(f"**{fault[:1].upper()}{fault[1:]}**\n\n" + "\n".join(rows))
    return "\n\n".join(blocks)


def _end(cell: Cell) -> str:
    return f"LIMBO; mended: {cell.end}" if cell.limbo else cell.end.value


def _summary(last: dict[tuple[int, str], Line]) -> str:
    found = [line for cell in CELLS for line in _rounds(last, cell)]
    complete = sum(
        len(good) >= ROUNDS and not any(line["wrong"] for line in good)
        for good in (_rounds(last, cell) for cell in CELLS)
    )
    ends = [f"| {end} | {words} | {sum(cell.end is end for cell in CELLS)} |" for end, words in MEANS.items()]
    rows = [
        ("cells", len(CELLS)),
        ("carried out at least once, the last time as expected", sum(bool(_rounds(last, cell)) for cell in CELLS)),
        (f"as expected {ROUNDS} times of {ROUNDS}", complete),
        ("times that a cell was carried out", len(found)),
        ("two copies of a guest ran", sum(line["doubled"] > 0 for line in found)),
        ("writes acknowledged to a client while it happened", f"{sum(line['acknowledged'] for line in found):,}"),
        ("acknowledged writes lost", sum(line["lost"] for line in found)),
    ]
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
    return "\n".join(["| end | the guest | cells |", "|---|---|---|", *ends, "", table])


def _figures(last: dict[tuple[int, str], Line]) -> str:
    killed = [line["silence"] for cell in CELLS if counts(cell) for line in _rounds(last, cell)]
    mended = [
        line["mended"] for (_, name), line in sorted(last.items()) if name == RETURNS.id and line["mended"] is not None
    ]
    rows = ["| what | bar | within it | median | worst |", "|---|---|---|---|---|"]
    for name, bar, values in (
        ("runner killed: the guest's client waits", SILENCE, killed),
        ("postcopy: memory flows again after the link's return", MENDED, mended),
    ):
        within = sum(value <= bar for value in values)
        told = f"{statistics.median(values):.2f} s | {max(values):.2f} s" if values else " | "
        rows.append(f"| {name} | {bar:g} s | {within} of {len(values)} | {told} |")
    return "\n".join(rows)


def rendered(text: str, made: dict[str, str]) -> str:
    """Return the page with its made parts replaced."""
    return _PART.sub(lambda match: f"{match[1]}\n{made[match['name']]}\n\n{match[3]}", text)


def write_page(results: Path) -> None:
    """Write the results into the page, and keep of each cell and round what was found last."""
    kept = latest(read(results))
    results.write_text("".join(json.dumps(kept[key]) + "\n" for key in sorted(kept)), encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(rendered(text, parts(read(results))), encoding="utf-8")
