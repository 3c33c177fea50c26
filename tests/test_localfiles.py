"""The controller's own files are nobody else's, and what people hand over is read with a bound."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from godwit.cli.main import main
from godwit.errors import InputError, JournalError
from godwit.identifiers import new_identifier, new_job_identifier
from godwit.journal.database import Database
from godwit.localfiles import LONGEST_TEXT, open_own, own_home, own_path, read_text, write_new
from godwit.runners import RunnerProcesses, lock_path, take_lock


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def open_umask() -> object:
    """Let new files be for everybody, as far as whoever makes them says nothing else."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
async def test_journal_logs_and_locks_are_their_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    database = await Database.open(home / "journal.db")
    await database.close()
    descriptor = take_lock(lock_path(home, "web1"))
    assert descriptor is not None
    os.close(descriptor)
    monkeypatch.setattr("sys.executable", "/bin/true")
    RunnerProcesses(home).start("web1-0001", "web1")
    made = {path.relative_to(home).as_posix() for path in home.rglob("*")}
    assert {"journal.db", "locks/web1.lock", "log/web1-0001.log"} <= made
    assert {mode(path) for path in [home, *home.rglob("*")] if path.is_dir()} == {0o700}
    assert {mode(path) for path in home.rglob("*") if path.is_file()} == {0o600}


@pytest.mark.usefixtures("open_umask")
def test_the_log_of_a_defect_is_its_owners_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        message = "one\n2026-01-01 godwit: all is well\x1b[2J"
        raise RuntimeError(message)

    monkeypatch.setenv("GODWIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("godwit.cli.ground.opener", fail)
    assert main(["vm", "list"]) == 70
    capsys.readouterr()
    log = tmp_path / "home" / "log" / "cli.log"
    assert mode(log) == 0o600
    first, *rest = log.read_text().splitlines()
    assert first.endswith("['vm', 'list']")
    assert all(line.startswith("  ") for line in rest), "no line of a traceback passes for an entry"
    assert "\x1b" not in log.read_text()


async def test_a_journal_of_an_earlier_godwit_is_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.touch(mode=0o644)
    database = await Database.open(path)
    await database.close()
    assert mode(path) == 0o600


def test_a_home_to_which_others_write_is_refused_with_the_mend(tmp_path: Path) -> None:
    for bits in (0o777, 0o1777, 0o770):
        tmp_path.chmod(bits)
        with pytest.raises(JournalError, match="others can write") as refused:
            own_home(tmp_path)
        assert f"chmod go-w {tmp_path}" in refused.value.remedy
        assert mode(tmp_path) == bits & 0o777 or bits == 0o1777, "it is not ours to change"
    tmp_path.chmod(0o755)
    own_home(tmp_path)


@pytest.mark.parametrize("name", ["log/web1-0001.log", "locks/web1.lock", "journal.db"])
async def test_no_link_leads_a_writer_elsewhere(name: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path = tmp_path / "home" / name
    path.parent.mkdir(parents=True)
    path.symlink_to(victim)
    if name == "journal.db":
        with pytest.raises(JournalError, match="symbolic link"):
            await Database.open(path)
    else:
        with pytest.raises(OSError, match="symbolic link"):
            open_own(path, os.O_WRONLY | os.O_APPEND)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", "", "a..b", "-x", "a\0b", "x" * 130, "\u202ex"])
def test_no_name_leads_out_of_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is the name of no guest"):
        own_path(tmp_path, name, ".log")
    with pytest.raises(InputError, match="is the name of no guest"):
        lock_path(tmp_path, name)
    with pytest.raises(InputError, match="is the name of no guest"):
        RunnerProcesses(tmp_path).start(name, "web1")
    with pytest.raises(InputError, match="is the name of no guest"):
        RunnerProcesses(tmp_path).alive(name)


def test_the_longest_name_of_a_guest_has_its_files(tmp_path: Path) -> None:
    name = "x" * 64
    for one in (name, new_identifier(name), new_job_identifier(name, "restore")):
        assert own_path(tmp_path, one, ".log").parent == tmp_path


def test_a_text_is_read_up_to_its_bound(tmp_path: Path) -> None:
    file = tmp_path / "guest.toml"
    file.write_bytes(b"#" * LONGEST_TEXT)
    assert len(read_text(file, "a definition")) == LONGEST_TEXT
    file.write_bytes(b"#" * (LONGEST_TEXT + 1))
    with pytest.raises(InputError, match="too large for a definition"):
        read_text(file, "a definition")


def test_what_has_no_end_is_not_read_to_it() -> None:
    with pytest.raises(InputError, match="too large for a policy"):
        read_text(Path("/dev/zero"), "a policy")


@pytest.mark.parametrize(("content", "words"), [(b"\xff\xfe", "byte 0 is no UTF-8"), (b"a\xed\xb2\x9b", "no UTF-8")])
def test_what_is_no_text_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_text(file, "a definition")


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(InputError, match="null byte"):
        read_text(Path("a\0b"), "a definition")
    with pytest.raises(InputError, match="directory"):
        read_text(Path("/"), "a definition")


@pytest.mark.usefixtures("open_umask")
def test_new_files_are_their_owners_alone(tmp_path: Path) -> None:
    write_new(tmp_path / "new", {"a.pem": "a", "b.pem": "b"})

    assert mode(tmp_path / "new") == 0o700
    assert {path.name: (path.read_text(), mode(path)) for path in (tmp_path / "new").iterdir()} == {
        "a.pem": ("a", 0o600),
        "b.pem": ("b", 0o600),
    }


@pytest.mark.parametrize("there", ["file", "link", "dangling"])
def test_new_files_are_all_there_or_none_and_nothing_is_put_over_another(tmp_path: Path, there: str) -> None:
    folder, outside = tmp_path / "new", tmp_path / "outside"
    folder.mkdir(mode=0o700)
    if there == "link":
        outside.write_text("old")
    if there == "file":
        (folder / "b.pem").write_text("old")
    else:
        (folder / "b.pem").symlink_to(outside)
    with pytest.raises(InputError, match=r"b\.pem: File exists"):
        write_new(folder, {"a.pem": "a", "b.pem": "b"})

    assert [path.name for path in folder.iterdir()] == ["b.pem"]
    assert there == "dangling" or (folder / "b.pem").read_text() == "old"
    assert outside.exists() == (there == "link")


@pytest.mark.parametrize("what", ["read by others", "written by others", "a link", "a file", "nowhere"])
def test_new_files_go_into_no_folder_that_is_not_its_owners_alone(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "new"
    if what == "a link":
        (tmp_path / "there").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "there")
    elif what == "a file":
        folder.write_text("in the way")
    elif what == "nowhere":
        folder = tmp_path / "none" / "new"
    else:
        folder.mkdir()
        folder.chmod(0o755 if what == "read by others" else 0o702)
    with pytest.raises(InputError, match="new") as raised:
        write_new(folder, {"a.pem": "a"})

    assert raised.value.remedy
    assert not list(tmp_path.rglob("a.pem"))
