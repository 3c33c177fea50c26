"""Traps for a runner at an instant of a move: it is killed, stopped or held there, see `trap/sitecustomize.py`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

TRAPS: Final = Path(__file__).with_name("trap")
JOURNAL: Final = "godwit.journal.sqljournal:SqlJournal.transition"


@dataclass(frozen=True, slots=True)
class Trap:
    """Something that shall happen to a runner when it is about to do, or has just done, what `at` names.

    One that "set"s gives the module's constant `at` another `value`.
    """

    does: str
    phase: str = ""
    when: str = "after"
    at: str = JOURNAL
    value: float = 0


@dataclass(slots=True)
class Traps:
    """The traps of one move, in files that its runners look into."""

    folder: Path
    traps: Sequence[Trap]

    def __post_init__(self) -> None:
        """Lay them out."""
        self.folder.mkdir(parents=True)
        rows = [{**asdict(t), "mark": str(self.mark(n))} for n, t in enumerate(self.traps)]
        (self.folder / "traps.json").write_text(json.dumps(rows))

    def mark(self, number: int = 0) -> Path:
        """Return the file that appears when a trap springs."""
        return self.folder / f"trap{number}"

    def sprung(self, number: int = 0) -> bool:
        """Say whether a trap has sprung."""
        return self.mark(number).exists()

    def runs(self, script: str, number: int = 0) -> None:
        """Say what a trap that runs something shall run."""
        Path(f"{self.mark(number)}.sh").write_text(f"{script}\ntouch {self.mark(number)}.done\n")

    def done(self, number: int = 0) -> bool:
        """Say whether what a trap runs has ended."""
        return Path(f"{self.mark(number)}.done").exists()

    def release(self, number: int = 0) -> None:
        """Let a runner that is held go on."""
        Path(f"{self.mark(number)}.go").touch()

    @property
    def environment(self) -> dict[str, str]:
        """What a runner must find in its environment: the traps, before whatever else is looked for there."""
        path = os.pathsep.join(filter(None, [str(TRAPS), os.environ.get("PYTHONPATH")]))
        return {"PYTHONPATH": path, "GODWIT_TEST_TRAPS": str(self.folder / "traps.json")}
