"""Hooks as files and processes: which may be run, what they get, how they end, and what is left of them."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from godwit import hooks as hooks_module
from godwit.errors import InputError
from godwit.hooks import LONGEST_SAID, FileHooks

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE = 30.0


@pytest.fixture
def hooks(tmp_path: Path) -> FileHooks:
    made = FileHooks(tmp_path / "home")
    made.folder.mkdir(parents=True, mode=0o700)
    return made


def write(hooks: FileHooks, text: str, name: str = "before-move", mode: int = 0o700) -> Path:
    path = hooks.folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return path


def lives(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return (_stat(pid)) not in {"Z", "X"}
    return False


def _stat(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 - a file of the kernel
        return file.read().rpartition(")")[2].split()[0]


async def test_there_need_be_no_hook_and_no_folder(tmp_path: Path) -> None:
    assert await FileHooks(tmp_path).run("before-move", {}, PATIENCE) is None
    assert FileHooks(tmp_path).troubles() == {}


async def test_a_hook_gets_what_it_is_told_and_little_else(hooks: FileHooks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMEBODYS_TOKEN", "secret")
    write(hooks, 'env | sort; pwd; read line || echo "nothing to read"; echo to-stderr >&2')

    run = await hooks.run("before-move", {"GODWIT_GUEST": "web1; rm -rf /"}, PATIENCE)

    assert run is not None
    assert run.status == 0
    said = run.said.splitlines()
    assert "GODWIT_GUEST=web1; rm -rf /" in said
    assert f"GODWIT_HOME={hooks.home}" in said
    assert "secret" not in run.said
    assert said[-3:] == ["/", "nothing to read", "to-stderr"]


@pytest.mark.parametrize("status", [0, 1, 77, 124])
async def test_its_status_is_told(hooks: FileHooks, status: int) -> None:
    write(hooks, f"exit {status}")
    run = await hooks.run("before-move", {}, PATIENCE)
    assert run is not None
    assert run.status == status


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("trap", ["", "trap '' TERM"])
async def test_a_hook_that_hangs_is_ended_with_all_that_it_started(
    hooks: FileHooks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: str, *, guarded: bool
) -> None:
    monkeypatch.setattr(hooks_module, "GRACE", 0.3)
    if not guarded:
        monkeypatch.setattr("shutil.which", lambda _: None)
    write(hooks, f"{trap}\necho begins; sleep 600 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/self; wait")

    run = await hooks.run("before-move", {}, 1.0)

    assert run is not None
    assert run.status is None
    assert run.said == "begins"
    assert run.seconds < PATIENCE
    for name in ("child", "self"):
        pid, end = int((tmp_path / name).read_text()), time.monotonic() + PATIENCE
        while lives(pid):
            assert time.monotonic() < end, name
            await asyncio.sleep(0.01)


async def test_who_is_cut_off_leaves_no_hook_behind(hooks: FileHooks, tmp_path: Path) -> None:
    write(hooks, f"echo $$ > {tmp_path}/self.new; mv {tmp_path}/self.new {tmp_path}/self; sleep 600")
    running = asyncio.create_task(hooks.run("before-move", {}, 600))
    end = time.monotonic() + PATIENCE
    while not (tmp_path / "self").exists():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])

    while lives(int((tmp_path / "self").read_text())):
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


async def test_what_a_hook_leaves_running_is_not_waited_for(hooks: FileHooks, tmp_path: Path) -> None:
    write(hooks, f"sleep 600 & echo $! > {tmp_path}/child; echo done")
    run = await hooks.run("before-move", {}, PATIENCE)
    assert run is not None
    os.kill(int((tmp_path / "child").read_text()), 9)
    assert (run.status, run.said) == (0, "done")
    assert run.seconds < PATIENCE / 2


async def test_a_hook_that_says_too_much_is_cut_to_the_end_of_it(hooks: FileHooks) -> None:
    write(hooks, "head -c 3000000 /dev/zero | tr '\\0' x; echo; printf 'the \\033[31mend'")
    run = await hooks.run("before-move", {}, PATIENCE)
    assert run is not None
    assert len(run.said) <= 2 * LONGEST_SAID
    assert run.said.endswith("end")
    assert "\033" not in run.said


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
async def test_a_hook_that_others_could_have_written_is_not_run(hooks: FileHooks, tmp_path: Path, mode: int) -> None:
    path = write(hooks, f"touch {tmp_path}/ran", mode=mode)
    with pytest.raises(InputError, match=f"others can write to {path}.*chmod go-w"):
        await hooks.run("before-move", {}, PATIENCE)
    assert "chmod go-w" in hooks.troubles()["before-move"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("which", ["file", "folder"])
async def test_a_hook_of_somebody_else_is_not_run(hooks: FileHooks, tmp_path: Path, which: str) -> None:
    path = write(hooks, f"touch {tmp_path}/ran")
    os.chown(path if which == "file" else hooks.folder, 12345, 12345)
    with pytest.raises(InputError, match="belongs to user 12345"):
        await hooks.run("before-move", {}, PATIENCE)
    assert not (tmp_path / "ran").exists()


async def test_a_folder_that_others_could_have_written_to_runs_nothing(hooks: FileHooks, tmp_path: Path) -> None:
    write(hooks, f"touch {tmp_path}/ran")
    hooks.folder.chmod(0o770)
    with pytest.raises(InputError, match="others can write"):
        await hooks.run("before-move", {}, PATIENCE)
    assert not (tmp_path / "ran").exists()


async def test_a_link_is_not_followed(hooks: FileHooks, tmp_path: Path) -> None:
    elsewhere = write(hooks, f"touch {tmp_path}/ran").rename(tmp_path / "elsewhere")
    (hooks.folder / "before-move").symlink_to(elsewhere)
    with pytest.raises(InputError, match="is a link"):
        await hooks.run("before-move", {}, PATIENCE)
    assert not (tmp_path / "ran").exists()


async def test_a_hook_that_cannot_be_started_is_named_with_the_mend(
    hooks: FileHooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    write(hooks, "", "after-move", mode=0o600)
    with pytest.raises(InputError, match=r"not executable: chmod \+x"):
        await hooks.run("after-move", {}, PATIENCE)
    (hooks.folder / "before-move").write_text("#!/no/such/program\n")
    (hooks.folder / "before-move").chmod(0o700)
    with pytest.raises(InputError, match="cannot be started"):
        await hooks.run("before-move", {}, PATIENCE)


def test_a_hook_whose_name_is_nearly_right_is_named_and_other_files_are_let_be(hooks: FileHooks) -> None:
    for name in ("README", "before-move~", "notes.txt", "lib"):
        write(hooks, "", name)
    assert hooks.troubles() == {}
    write(hooks, "", "before_move.sh")
    write(hooks, "", "After-Move")
    assert hooks.troubles() == {
        "before_move.sh": "before_move.sh is no hook: call it before-move",
        "After-Move": "After-Move is no hook: call it after-move",
    }


@pytest.mark.parametrize(
    ("error", "troubles"),
    [(PermissionError(13, "Permission denied"), {"before-move"}), (FileNotFoundError(2, "gone"), set[str]())],
)
def test_a_hook_that_cannot_be_looked_at_is_a_trouble_and_one_that_has_gone_is_none(
    hooks: FileHooks, monkeypatch: pytest.MonkeyPatch, error: OSError, troubles: set[str]
) -> None:
    """A folder that may be listed and not entered; a file that somebody removes at that moment."""
    path = write(hooks, "")
    lstat = type(path).lstat

    def refuses(which: Path) -> os.stat_result:
        if which == path:
            raise error
        return lstat(which)

    monkeypatch.setattr(type(path), "lstat", refuses)
    assert set(hooks.troubles()) == troubles
