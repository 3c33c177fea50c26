"""The live display of a migration: what happened above, and below it how far it is now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from godwit.cli.progress import Progress, advance, completed, disk_figures, eta_words, standstill
from godwit.measure.narrative import Weight, phase_words, sentence
from godwit.plaintext import lines, one_line
from godwit.units import format_bandwidth, format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from godwit.cli.progress import Reading
    from godwit.measure.narrative import Sentence
    from godwit.ports import Entry, MigrationRow

_SIGNS: Final = {
    Weight.STEP: ("·", "-", "dim"),
    Weight.DECISION: ("◆", "*", "cyan"),
    Weight.WARNING: ("!", "!", "yellow"),
    Weight.ERROR: ("✗", "x", "bold red"),
}
_BAR_WIDTH: Final = 30
_ENDS: Final = frozenset({"done", "cancelled", "failed", "limbo"})
_NAMES: Final = {"rolling-back": "going back"}


class LiveScreen:
    """Draws on a terminal of any width; see `godwit.cli.following.Screen`."""

    def __init__(self, row: MigrationRow, now: Callable[[], float], console: Console | None = None) -> None:
        """Show the migration of `row`; `now` is the clock that its journal is written by."""
        self._now = now
        self._row = row
        self._console = console or Console(highlight=False, soft_wrap=False)
        self._progress = Progress()
        self._phase = ""
        self._waiting: list[Text] | None = None
        self._ended_at: float | None = None
        self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stderr=False)
        spec = row.spec
        self._console.print(
            Text.assemble(
                (one_line(spec.vm), "bold"),
                one_line(f"  {spec.source} {self._arrow} {spec.target}  "),
                (one_line(spec.id), "dim"),
                overflow="fold",
            )
        )
        self._live.start()

    @property
    def _plain_signs(self) -> bool:
        return self._console.options.ascii_only

    @property
    def _arrow(self) -> str:
        return "->" if self._plain_signs else "→"

    def take(self, entry: Entry) -> None:
        """Keep the figures, and tell what happened above them."""
        self._progress = advance(self._progress, entry)
        told = sentence(entry)
        if told is not None and told.weight is not Weight.DETAIL:
            self._tell(told)
        if self._progress.phase != self._phase:
            self._phase = self._progress.phase
            self._ended_at = entry.at if self._phase in _ENDS else None
            words = phase_words(self._phase, self._row.spec.policy.way) or one_line(self._phase)
            self._log(Text.assemble((self._clock(entry.at), "dim"), "  ", (words, "bold")))
            if end := completed(self._progress):
                self._log(Text.assemble((self._clock(entry.at), "dim"), "  ", (lines(end), "bold")))

    def _clock(self, at: float) -> str:
        return f"{at - self._row.created:8.2f} s"

    def _tell(self, told: Sentence) -> None:
        fine, crude, style = _SIGNS[told.weight]
        sign = crude if self._plain_signs else fine
        parts = [(told.text, style if told.weight is not Weight.STEP else "")]
        parts += [(f"because {told.because}", "dim")] if told.because else []
        parts += [(f"mend: {told.mend}", "dim")] if told.mend else []
        for index, (words, shade) in enumerate(parts):
            lead = self._clock(told.at) if index == 0 else " " * 10
            mark = sign if index == 0 else " "
            self._log(Text.assemble((lead, "dim"), "  ", (mark, style), " ", (lines(words), shade)))

    def _log(self, line: Text) -> None:
        if self._waiting is not None:
            self._waiting.append(line)
            return
        # A hanging indent keeps wrapped lines off the column of times.
        cut = 14 if len(line.plain) > 14 and line.plain[12:14].strip() != line.plain[12:14] else 12  # noqa: PLR2004
        table = Table.grid(padding=0)
        table.add_column(width=cut, no_wrap=True)
        table.add_column(overflow="fold")
        head, rest = line.divide([cut])
        table.add_row(head, rest)
        self._console.print(table)

    def tick(self) -> None:
        """Redraw the figures below."""
        if self._waiting is None:
            self._live.update(self._picture(), refresh=True)

    def _picture(self) -> RenderableType:
        progress = self._progress
        now = self._now() if self._ended_at is None else self._ended_at
        elapsed = max(0.0, now - self._row.created)
        head = Table.grid(padding=(0, 2))
        colour = "yellow" if progress.phase == "rolling-back" or progress.cancelling else "cyan"
        bar = ProgressBar(100, progress.percent, width=min(_BAR_WIDTH, self._console.width // 3), complete_style=colour)
        name = _NAMES.get(progress.phase, one_line(progress.phase))
        cells: list[RenderableType] = [Text(name, style=f"bold {colour}"), bar, Text(f"{progress.percent:.0f} %")]
        streaming = progress.phase == "precopy" and progress.reading is not None
        if streaming and progress.reading is not None:
            cells.append(Text(eta_words(progress.reading)))
        cells.append(Text(format_duration(elapsed) if elapsed >= 1 else f"{elapsed:.1f} s", style="dim"))
        head.add_row(*cells)
        still = standstill(progress, now)
        if still:
            return Padding(Group(head, self._below(progress), Text(lines(still), style="yellow")), (1, 0, 0, 2))
        return Padding(Group(head, self._below(progress)), (1, 0, 0, 2))

    def _below(self, progress: Progress) -> RenderableType:
        """Return what stands below the bar: how far the disks are, or the stream."""
        if progress.phase in {"preparing", "mirroring"} and progress.disks:
            return Text(lines(disk_figures(progress)), style="dim")
        return Group() if progress.reading is None else self._figures(progress.reading)

    def _figures(self, reading: Reading) -> Text:
        dirty = format_bandwidth(reading.dirty_rate) if reading.iteration > 1 else "not known yet"
        pairs = (
            ("pass", str(max(1, reading.iteration))),
            ("left", f"{format_size(reading.remaining)} of {format_size(reading.total)}"),
            ("sent", format_size(reading.transferred)),
            ("rate", format_bandwidth(reading.rate)),
            ("dirtied", dirty),
        )
        text = Text(overflow="fold")
        for index, (name, value) in enumerate(pairs):
            text.append("   " if index else "")
            text.append(f"{name} ", style="dim")
            text.append(value.replace(" ", "\u00a0"))
        return text

    def say(self, text: str) -> None:
        """Show a word of Godwit's own."""
        self._log(Text.assemble(" " * 12, (lines(text), "italic")))

    def hide(self) -> None:
        """Make room for a question."""
        self._waiting = []
        self._live.stop()

    def show(self) -> None:
        """Tell what came meanwhile, and draw again."""
        waiting, self._waiting = self._waiting or [], None
        self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stderr=False)
        for line in waiting:
            self._log(line)
        self._live.start()

    def close(self) -> None:
        """Leave what happened on the terminal, take the figures away."""
        self._live.update(Text(""), refresh=False)
        self._live.stop()
        waiting, self._waiting = self._waiting or [], None
        for line in waiting:
            self._log(line)
