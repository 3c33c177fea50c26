"""Stories that once found a defect: kept whole, so that they tell the same however seeds are read one day."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter
from story import Plan

FILE: Final = Path(__file__).with_name("kept_seeds.toml")
_PLANS: Final = TypeAdapter(Plan)


@dataclass(frozen=True, slots=True)
class Kept:
    """One story: what it found, in words; `mutant` is a planted defect that it finds again, empty for none."""

    found: str
    mutant: str
    plan: Plan


def kept() -> tuple[Kept, ...]:
    """Return all kept stories."""
    rows = tomllib.loads(FILE.read_text())["story"]
    return tuple(Kept(row["found"], row.get("mutant", ""), _PLANS.validate_json(row["plan"])) for row in rows)


def keep(plan: Plan, found: str, mutant: str = "") -> None:
    """Add a story to the file."""
    text = _PLANS.dump_json(plan, exclude_defaults=True).decode()
    row = f'\n[[story]]\nseed = {plan.seed}\nfound = "{found}"\n'
    row += f'mutant = "{mutant}"\n' if mutant else ""
    with FILE.open("a") as file:
        file.write(f"{row}plan = '''\n{text}\n'''\n")
