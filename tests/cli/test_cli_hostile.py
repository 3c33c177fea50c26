"""Whatever hosts, guests, QEMU and the journal say: no command lets it act on a terminal, a program or a browser."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from clistage import ends, engine
from hostile import EVIL, LONG, HostileStage, failed_job, spoilt
from rich.console import Console

from godwit.cli import ground, saving, terminal
from godwit.cli.live import LiveScreen
from godwit.cli.main import main
from godwit.cli.screens import JsonScreen, PlainScreen
from godwit.core.saves import Work
from godwit.journal import codec
from godwit.measure import report
from godwit.measure.report_data import ReportData
from godwit.model import OutcomeStatus
from godwit.plaintext import LONGEST

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LOOKS = (
    *(("status",), ("status", "web1"), ("history",), ("show", "web1"), ("watch", "web1"), ("report", "web1")),
    *(("host", "list"), ("host", "show", "host2"), ("host", "check", "host2"), ("check", "web1", "host1")),
    *(
        ("check", "--all"),
        ("host", "compare", "host1", "host2"),
        ("cpu", "baseline", "host2"),
        ("check", "--all", EVIL),
    ),
    *(("vm", "list"), ("vm", "show", "web1"), ("snapshot", "list", "web1"), ("forecast", "web1", "host1")),
    *(("profile", "web1"), ("cancel", "web1"), ("vm", "stop", "web1"), ("migrate", "web1", "host1", "--dry-run")),
    *(("vm", "start", "web1"), ("upgrade", "web1"), ("save", "web1", "/s"), ("restore", "/s", "host1")),
    *(("snapshot", "create", "web1", "t"), ("vm", "console", "web1"), ("monitor", "web1", "-c", "info status")),
    *(("host", "add", "host1", f"ssh://{EVIL}"), ("probe", EVIL)),
    *(("vm", "define", f"/nowhere/{EVIL}", "--on", "host1"), ("migrate", "web1", EVIL), ("show", EVIL), (EVIL,)),
    *(
        ("migrate", "web1", "host1", "--policy", EVIL),
        ("snapshot", "apply", "web1", EVIL, "--yes"),
        ("vm", "show", EVIL),
    ),
)
_OWN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def assert_harmless(text: str) -> None:
    """Check that a terminal would only show the text, that it is whole, and that no line passes for one of ours."""
    assert_shows_only(text)
    assert not [line for line in text.splitlines() if line.startswith("mend: rm")]


def assert_shows_only(text: str) -> None:
    """Check that nothing in the text acts."""
    acting = sorted({one for one in text if not one.isprintable()} - {"\n", "\t", "\u202f", "\u00a0"})
    assert not acting
    text.encode()


@pytest.fixture(params=[ends(OutcomeStatus.COMPLETED)])
def stage(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> HostileStage:
    monkeypatch.setenv("GODWIT_HOME", str(tmp_path / "home"))
    made = HostileStage(request.param)
    monkeypatch.setattr(ground, "opener", made.opened)
    assert main(["migrate", "web1", "host2", "--probe", "198.18.0.100"]) == 0
    capsys.readouterr()
    return made


MOVED = pytest.mark.parametrize("stage", [engine], indirect=True, ids=["moved"])
"""A move that really took place, in simulated hosts: its journal has a probe's series."""


@pytest.mark.parametrize("words", LOOKS, ids=lambda words: " ".join(words)[:24].encode("ascii", "ignore").decode())
def test_no_command_prints_what_acts(
    words: Sequence[str], stage: HostileStage, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.spoil()
    assert main(list(words)) != 70, capsys.readouterr().err
    said = capsys.readouterr()
    assert_harmless(said.out)
    assert_harmless(said.err)
    status = main([*words, "--json"])
    said = capsys.readouterr()
    assert status != 70, said.out
    assert_harmless(said.out)
    for line in said.out.splitlines():
        json.loads(line)


def test_what_is_shown_is_there_to_be_read(stage: HostileStage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.spoil()
    main(["show", "web1"])
    said = capsys.readouterr().out
    assert r"\x1b]0;mine\x07" in said
    assert "[bold red]" in said
    main(["show", "web1", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert any(one["data"].get("text") == EVIL for one in told["entries"]), "programs get it whole"


@MOVED
def test_a_word_of_a_mebibyte_does_not_flood_the_terminal(
    stage: HostileStage, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("prepare", "launch", "query-status", "migrate"):
        stage.world.refuse("host1", command, "x" * (1 << 20))
    assert main(["migrate", "web1", "host1"]) not in {0, 70}
    said = capsys.readouterr()
    assert len(said.err) < 4 * LONGEST
    assert_harmless(said.out + said.err)


def test_the_plain_the_live_and_the_json_screen_are_harmless(
    stage: HostileStage, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.spoil(LONG)
    (row,) = [stage.journal._row(story) for story in stage.journal._stories.values()]
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=100, color_system=None)
    screens = (PlainScreen(row), JsonScreen(row.spec.id), LiveScreen(spoilt(row), lambda: row.created, console))
    for entry in stage.journal._stories[row.spec.id].entries:
        for screen in screens:
            screen.take(entry)
            screen.tick()
    for screen in screens:
        screen.say(EVIL)
        screen.close()
    assert_harmless(capsys.readouterr().out)
    live = _OWN.sub("", drawn.getvalue()).replace("\r", "")
    assert_harmless(live)
    assert "[bold red]" in live, "what looks like markup is shown as it stands"


@pytest.mark.parametrize("work", list(Work))
def test_the_end_of_a_save_is_harmless(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    job = failed_job(work)
    for screen in (saving.PlainScreen(), saving.JsonScreen()):
        screen.take(job)
        screen.say(EVIL)
    saving._conclude(job, asked=True, as_json=False)
    saving._conclude(job, asked=True, as_json=True)
    for line in saving.summary(job):
        terminal.echo(line)
    said = capsys.readouterr()
    assert_harmless(said.out)
    assert_harmless(said.err)


class _Page(HTMLParser):
    """Collects the tags and the attributes that act."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)

    handle_startendtag = handle_starttag


def assert_page_harmless(page: str) -> None:
    """Check that a browser finds no more in the page than Godwit put there."""
    found = _Page()
    found.feed(page)
    assert not found.tags & {"script", "img", "iframe", "object", "embed", "link", "base", "form", "a"}
    assert not {name for name in found.attributes if name.startswith("on")}
    assert_shows_only(page)


@MOVED
@pytest.mark.parametrize("evil", [EVIL, LONG], ids=["short", "long"])
def test_the_page_holds_no_more_than_godwit_put_there(
    evil: str, stage: HostileStage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.spoil(evil)
    page, picture = tmp_path / "page.html", tmp_path / "picture.png"
    assert main(["report", "web1", "--html", str(page), "--png", str(picture)]) == 0
    assert_harmless(capsys.readouterr().out)
    assert_page_harmless(page.read_text())
    assert picture.stat().st_size > 10_000


def test_every_field_of_a_report_is_escaped() -> None:
    names = ("id", "vm", "source", "target", "status", "owner", "error", "remedy", "disks_compared", "version")
    assert_page_harmless(report.render_html(ReportData(**dict.fromkeys(names, EVIL), started_s=1.0)))  # type: ignore[arg-type]


def test_a_terminal_that_knows_ascii_only_gets_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(raw, encoding="ascii"))
    terminal.echo("ein Größenfehler → x", err=True)
    assert raw.getvalue() == rb"ein Gr\xf6\xdfenfehler \u2192 x" + b"\n"


PLANTED = "hunter2-4711"
SECRETS = (
    f"-object secret,id=s0,data={PLANTED}",
    f'-object {{"qom-type":"secret","id":"s1","data":"{PLANTED}"}}',
    f"-drive file=rbd:p/i:id=a:key={PLANTED}",
    f"-spice password={PLANTED}",
    f"-cdrom https://u:{PLANTED}@h/x.iso",
)


@pytest.mark.parametrize("words", [*LOOKS[:20], ("report", "web1", "--html")], ids=" ".join)
def test_no_command_shows_a_secret(
    words: Sequence[str], stage: HostileStage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.spoil(" ".join(SECRETS))
    page = tmp_path / "page.html"
    line = [*words, str(page)] if words[-1] == "--html" else [*words]
    main(line)
    main([*line, "--json"])
    said = capsys.readouterr()
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert PLANTED not in said.out + said.err + "".join(written)


def test_no_line_of_the_journal_holds_a_secret(stage: HostileStage) -> None:
    words = " ".join(SECRETS)
    assert PLANTED not in codec.encode({"found": words, "mend": [words]})
    outcome = next(iter(stage.journal._stories.values())).outcome
    assert outcome is not None
    assert PLANTED not in codec.dump(spoilt(outcome, words))
