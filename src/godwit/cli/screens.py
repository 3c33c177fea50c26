"""Two of the three ways to show a migration: plain lines, and JSON for programs. The third is `live`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from godwit.cli.ground import print_json
from godwit.cli.progress import Progress, advance, completed, disk_figures, eta_words, figures
from godwit.cli.terminal import echo
from godwit.measure.narrative import Weight, phase_words, sentence

if TYPE_CHECKING:
    from collections.abc import Callable

    from godwit.cli.following import Screen
    from godwit.measure.narrative import Sentence
    from godwit.ports import Entry, MigrationRow

LINE_PERIOD: Final = 1.0
"""Seconds between two lines of progress."""

_PREFIXES: Final = {Weight.DECISION: "decision: ", Weight.WARNING: "warning: ", Weight.ERROR: "error: "}


def screen_for(row: MigrationRow, now: Callable[[], float], *, as_json: bool) -> Screen:
    """Choose how to show a migration: what standard output is decides."""
    if as_json:
        return JsonScreen(row.spec.id)
    if sys.stdout.isatty():
        from godwit.cli.live import LiveScreen  # noqa: PLC0415 - rich is not needed elsewhere

        return LiveScreen(row, now)
    return PlainScreen(row)


def lines_of(told: Sentence) -> list[str]:
    """Return a sentence as lines, reason and mend indented below."""
    told_lines = [f"{_PREFIXES.get(told.weight, '')}{told.text}"]
    if told.because:
        told_lines.append(f"  because: {told.because}")
    if told.mend:
        told_lines.append(f"  mend: {told.mend}")
    return told_lines


@dataclass(slots=True)
class PlainScreen:
    """Lines for a pipe or a log: each phase, decision and finding, and progress at most once a second."""

    row: MigrationRow
    _progress: Progress = field(default_factory=Progress)
    _phase: str = ""
    _last: float = 0.0

    def take(self, entry: Entry) -> None:
        """Print what the line says, if it is worth one."""
        self._progress = advance(self._progress, entry)
        told = sentence(entry)
        if told is not None and told.weight is not Weight.DETAIL:
            for line in lines_of(told):
                self._print(entry.at, line)
        if self._progress.phase != self._phase:
            self._phase = self._progress.phase
            self._print(entry.at, f"{self._phase}: {phase_words(self._phase, self.row.spec.policy.way)}")
            if end := completed(self._progress):
                self._print(entry.at, end)
        if entry.kind == "mirror" and entry.at - self._last >= LINE_PERIOD:
            self._last = entry.at
            self._print(entry.at, f"{self._progress.percent:3.0f} %, {disk_figures(self._progress)}")
        if entry.kind == "sample" and entry.at - self._last >= LINE_PERIOD:
            self._last = entry.at
            reading = self._progress.reading
            if reading is not None:
                self._print(entry.at, f"{self._progress.percent:3.0f} %, {figures(reading)}; {eta_words(reading)}")

    def _print(self, at: float, text: str) -> None:
        echo(f"{at - self.row.created:+8.2f} s  {text}")

    def tick(self) -> None:
        """Do nothing: a line is printed when something happens."""

    def say(self, text: str) -> None:
        """Print a word of Godwit's own."""
        echo(f"{'':11} {text}")

    def hide(self) -> None:
        """Do nothing: lines stay where they are."""

    def show(self) -> None:
        """Do nothing, as above."""

    def close(self) -> None:
        """Do nothing, as above."""


@dataclass(slots=True)
class JsonScreen:
    """One object a line: id, sequence, at, kind, data; the columns of the probe's series only as their length."""

    identifier: str

    def take(self, entry: Entry) -> None:
        """Print the line of the journal."""
        data = entry.data
        if entry.kind == "series":
            data = {key: len(value) if isinstance(value, list) else value for key, value in data.items()}
        line = {"id": self.identifier, "sequence": entry.sequence, "at": entry.at, "kind": entry.kind, "data": data}
        print_json(line)

    def tick(self) -> None:
        """Do nothing: programs need no animation."""

    def say(self, text: str) -> None:
        """Print a word of Godwit's own."""
        print_json({"id": self.identifier, "kind": "note", "data": {"text": text}})

    def hide(self) -> None:
        """Do nothing: nobody is asked."""

    def show(self) -> None:
        """Do nothing, as above."""

    def close(self) -> None:
        """Do nothing, as above."""
