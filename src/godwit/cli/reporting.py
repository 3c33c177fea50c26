"""The story of a migration on the terminal, and its report as text, page and picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from godwit import __version__
from godwit.cli.ground import local_time, migration_id, print_json, print_section, service
from godwit.cli.screens import lines_of
from godwit.cli.summary import milliseconds, summary
from godwit.cli.terminal import echo
from godwit.errors import GodwitError, InputError
from godwit.measure.costwords import lines
from godwit.measure.narrative import phase_words, sentence, text_of
from godwit.measure.story import decisions, findings, pass_line, passes, phases, report_data, settings, what_it_cost
from godwit.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from godwit.measure.report_data import PassRow, ReportData
    from godwit.ports import Entry, MigrationRow


def print_story(row: MigrationRow, entries: Sequence[Entry]) -> None:
    """Print every line of the journal in words, samples summed up as passes, then how it ended."""
    spec = row.spec
    echo(f"{spec.id}: {spec.vm} from {spec.source} to {spec.target}, asked for {local_time(row.created)}")
    phase = ""
    told_passes = {one.number: one for one in passes(entries)}
    newest = 0
    for entry in entries:
        number = entry.data.get("iteration")
        if entry.kind == "sample" and isinstance(number, int) and number > newest:
            _print_pass(entry.at - row.created, newest, told_passes)
            newest = number
        now = text_of(entry.data, "phase") if entry.kind == "transition" else phase
        told = sentence(entry)
        if told is not None:
            for index, line in enumerate(lines_of(told)):
                echo(f"{_clock(entry.at - row.created) if index == 0 else ' ' * 12}  {line}")
        if now != phase:
            if phase == "precopy":
                _print_pass(entry.at - row.created, newest, told_passes)
                newest = 0
            phase = now
            echo(f"{_clock(entry.at - row.created)}  {phase.upper()}: {phase_words(phase, spec.policy.way) or phase}")
    if row.outcome is not None:
        echo()
        print_outcome(row)


def _print_pass(at: float, number: int, rows: Mapping[int, PassRow]) -> None:
    found = rows.get(number)
    if found is not None:
        echo(f"{_clock(at)}  pass {number}: {pass_line(found)}")


def _clock(seconds: float) -> str:
    return f"{seconds:+10.3f} s"


def print_outcome(row: MigrationRow) -> None:
    """Print how a migration ended, with its error and mend."""
    if row.outcome is None:
        return
    for line in summary(row.outcome):
        echo(line)
    if row.outcome.error:
        print_section("why", {"error": row.outcome.error, "mend": row.outcome.remedy})


async def make_report(text: str, html: str | None, png: str | None, *, as_json: bool) -> None:
    """Print the report, or write it to files. Raises InputError when a file cannot be written."""
    async with service(take_up=True) as opened:
        identifier = await migration_id(opened, text)
        row = (await opened.status(identifier)).row
        entries = await opened.journal.entries(identifier)
    written: dict[str, str] = {}
    if html is not None or png is not None:
        data = _data(row, entries)
        if html is not None:
            written["html"] = _write_page(data, Path(html))
        if png is not None:
            written["png"] = _write_picture(data, Path(png))
    rates, slowed = what_it_cost(row, entries)
    if as_json:
        report = {
            "phases": phases(row, entries),
            "passes": passes(entries),
            "decisions": decisions(entries),
            "findings": findings(entries),
            "costs": rates,
            "throttle": slowed,
        }
        print_json({"id": identifier, "spec": row.spec, "outcome": row.outcome, **report, "written": written})
        return
    for path in written.values():
        echo(f"written: {path}")
    if not written:
        print_report(row, entries, lines(rates, slowed))


def _data(row: MigrationRow, entries: Sequence[Entry]) -> ReportData:
    try:
        return report_data(row, entries, version=__version__)
    except ValueError as error:
        message = f"the probe's series of {row.spec.id} cannot be read: {error}"
        raise GodwitError(message) from error


def _write_page(data: ReportData, path: Path) -> str:
    from godwit.measure.report import render_html  # noqa: PLC0415 - loads jinja2 and numpy

    page = render_html(data)
    return _written(path, lambda: path.write_text(page, encoding="utf-8"))


def _write_picture(data: ReportData, path: Path) -> str:
    from godwit.measure.report import render_png  # noqa: PLC0415 - loads matplotlib

    if data.probe is None or not len(data.probe.sent_s):
        message = f"no outside probe watched {data.id}: there is no picture"
        raise InputError(message, remedy="give godwit migrate the guest's address with --probe; --html works without")
    return _written(path, lambda: render_png(data, path))


def _written(path: Path, write: Callable[[], object]) -> str:
    try:
        write()
    except OSError as error:
        message = f"cannot write {path}: {error.strerror or error}"
        raise InputError(message) from error
    return str(path)


def print_report(row: MigrationRow, entries: Sequence[Entry], cost: Mapping[str, str]) -> None:
    """Print the report as text: end, phases, what it cost, passes, decisions, findings, settings."""
    if row.outcome is None:
        echo(f"{row.spec.vm} is moving from {row.spec.source} to {row.spec.target}: {row.phase.value}")
    else:
        print_outcome(row)
        parts = {name: milliseconds(length) for name, length in row.outcome.downtime.breakdown}
        _print_part("blackout", parts)
    spans = {
        span.name: (format_duration(span.end_s - span.start_s) if span.end_s is not None else "lasts").rjust(10)
        + f"  {span.detail}"
        for span in phases(row, entries)
    }
    _print_part("phases", spans)
    _print_part("what it cost", cost)
    _print_part("passes", {str(one.number): pass_line(one) for one in passes(entries)})
    told = {
        f"{one.at_s - row.created:+.2f} s": f"{one.action}: {one.reason}"
        + (f"\n{one.evidence}" if one.evidence else "")
        for one in decisions(entries)
    }
    _print_part("decisions", told)
    for finding in findings(entries):
        echo()
        echo(f"{finding.severity}: {finding.found}")
        echo(f"  because: {finding.why}")
        if finding.mend:
            echo(f"  mend: {finding.mend}")
    _print_part("asked for", dict(settings(row)))


def _print_part(title: str, facts: Mapping[str, str]) -> None:
    if any(facts.values()):
        echo()
    print_section(title, facts)
