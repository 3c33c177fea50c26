"""The supervisor, its runner and the guest's lock, as real processes; what they carry is a stand-in."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from godwit.runner import RESTARTS
from godwit.runners import _CHILDREN, RunnerProcesses, lock_path, prepared, take_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DRIVER = """
import asyncio, functools, os, sys
from pathlib import Path
from godwit import app, runner
from godwit.errors import JournalError, SupersededError

lives = app.home() / "lives"

async def stand_in(identifier):
    with lives.open("a") as file:
        file.write(f"{os.getpid()}\\n")
    count = len(lives.read_text().split())
    if identifier == "done":
        return
    if identifier == "superseded":
        raise SupersededError("another runner took over")
    if identifier == "broken":
        raise JournalError("the disk is full")
    if identifier == "defect":
        raise ValueError("nobody thought of this")
    if identifier == "long" or (identifier == "done at last" and count < 3):
        await asyncio.sleep(60)

app.run_migration = stand_in
app.preload = lambda: lives.with_name("loaded").touch()
runner._LONGEST_PAUSE = 0.01
runner.take_lock = functools.partial(runner.take_lock, patience=float(sys.argv[2]))
sys.exit(runner.supervise(sys.argv[1], "web", wait=len(sys.argv) > 3))
"""


class Supervisor:
    """A supervisor in a process of its own."""

    def __init__(self, home: Path, what: str, patience: float, *options: str) -> None:
        self.lives = home / "lives"
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, what, str(patience), *options],
            env=os.environ | {"GODWIT_HOME": str(home)},
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def runners(self) -> list[int]:
        """Return the runners that there were, the oldest first."""
        return [int(pid) for pid in self.lives.read_text().split()] if self.lives.exists() else []

    def ended(self) -> tuple[int, str]:
        """Wait for the end; return exit status and log."""
        _, log = self.process.communicate(timeout=20)
        return self.process.returncode, log

    def end(self) -> None:
        """End everything that was started, supervisor first, so that nothing starts anew."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Supervisor]]:
    started: list[Supervisor] = []

    def one(what: str, patience: float = 0.1, *options: str) -> Supervisor:
        started.append(Supervisor(tmp_path, what, patience, *options))
        return started[-1]

    yield one
    for supervisor in started:
        supervisor.end()


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 15
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def exists(pid: int) -> bool:
    """Say whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_migration_that_ends_ends_its_processes_and_frees_the_guest(
    tmp_path: Path, start: Callable[..., Supervisor]
) -> None:
    supervisor = start("done")
    assert supervisor.ended()[0] == 0
    assert len(supervisor.runners()) == 1
    assert not RunnerProcesses(tmp_path).alive("web")


def test_the_guest_is_held_while_a_runner_works_and_a_second_one_is_turned_away(
    tmp_path: Path, start: Callable[..., Supervisor]
) -> None:
    processes = RunnerProcesses(tmp_path)
    assert not processes.alive("web")
    first = start("long")
    eventually(lambda: bool(first.runners()))
    assert processes.alive("web")
    assert not processes.alive("db")
    status, log = start("done").ended()
    assert status == 75
    assert "another runner holds web" in log
    assert len(first.runners()) == 1


def test_a_second_one_that_is_patient_gets_the_guest_when_the_first_has_ended(
    start: Callable[..., Supervisor],
) -> None:
    first = start("long")
    eventually(lambda: bool(first.runners()))
    second = start("done", patience=15)
    first.end()
    assert second.ended()[0] == 0


@pytest.mark.parametrize(("said", "lives"), [("go\n", 1), ("", 0), ("no\n", 0)])
def test_one_that_waits_loads_at_once_and_begins_only_when_told(
    said: str, lives: int, tmp_path: Path, start: Callable[..., Supervisor]
) -> None:
    supervisor = start("done", 0.1, "--wait")
    eventually((tmp_path / "loaded").exists)
    assert supervisor.runners() == []
    assert not RunnerProcesses(tmp_path).alive("web")
    _, log = supervisor.process.communicate(said, timeout=20)
    assert (supervisor.process.returncode, log) == (0, "")
    assert len(supervisor.runners()) == lives


def test_a_killed_runner_is_followed_by_another_at_once(start: Callable[..., Supervisor]) -> None:
    supervisor = start("done at last")
    for life in (1, 2):
        eventually(lambda life=life: len(supervisor.runners()) == life)  # type: ignore[misc]
        began = time.monotonic()
        os.kill(supervisor.runners()[-1], signal.SIGKILL)
        eventually(lambda life=life: len(supervisor.runners()) == life + 1)  # type: ignore[misc]
        assert time.monotonic() - began < 1
    status, log = supervisor.ended()
    assert status == 0
    assert len(set(supervisor.runners())) == 3
    assert log.count("ended with -9") == 2


def test_the_guest_stays_held_between_two_runners(tmp_path: Path, start: Callable[..., Supervisor]) -> None:
    supervisor = start("long")
    processes = RunnerProcesses(tmp_path)
    for life in range(1, 4):
        eventually(lambda life=life: len(supervisor.runners()) == life)  # type: ignore[misc]
        os.kill(supervisor.runners()[-1], signal.SIGKILL)
        while len(supervisor.runners()) == life:
            assert processes.alive("web")


def test_a_runner_whose_supervisor_was_killed_keeps_the_guest_until_it_ends(
    tmp_path: Path, start: Callable[..., Supervisor]
) -> None:
    supervisor = start("long")
    processes = RunnerProcesses(tmp_path)
    eventually(lambda: bool(supervisor.runners()))
    (runner,) = supervisor.runners()
    os.kill(supervisor.process.pid, signal.SIGKILL)
    supervisor.process.wait()
    assert exists(runner)
    assert processes.alive("web")
    os.kill(runner, signal.SIGKILL)
    eventually(lambda: not processes.alive("web"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_runner_does_not_heed_what_a_terminal_sends(number: int, start: Callable[..., Supervisor]) -> None:
    supervisor = start("long")
    eventually(lambda: bool(supervisor.runners()))
    (runner,) = supervisor.runners()

    def caught() -> bool:  # Python itself leaves SIGHUP alone; what is ignored, hooks would inherit
        status = Path(f"/proc/{runner}/status").read_text()
        return bool(int(status.partition("SigCgt:")[2].split()[0], 16) & (1 << (signal.SIGHUP - 1)))

    eventually(caught)
    os.kill(runner, number)
    time.sleep(0.05)
    assert exists(runner)
    assert supervisor.runners() == [runner]


def test_a_superseded_runner_ends_its_supervisor_quietly(start: Callable[..., Supervisor]) -> None:
    supervisor = start("superseded")
    status, log = supervisor.ended()
    assert status == 76
    assert len(supervisor.runners()) == 1
    assert "another runner took over" in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("what", "said"), [("broken", "journal: the disk is full"), ("defect", "nobody thought of this")]
)
def test_a_runner_that_always_fails_is_given_up_and_its_log_says_why(
    what: str, said: str, tmp_path: Path, start: Callable[..., Supervisor]
) -> None:
    supervisor = start(what)
    status, log = supervisor.ended()
    assert status == 1
    assert len(supervisor.runners()) == RESTARTS
    assert log.count(said) == RESTARTS
    assert not RunnerProcesses(tmp_path).alive("web")


def test_a_lock_is_free_again_when_its_holder_lets_go(tmp_path: Path) -> None:
    path = lock_path(tmp_path, "web")
    held = take_lock(path)
    assert held is not None
    assert take_lock(path, patience=0.05) is None
    os.close(held)
    again = take_lock(path, patience=0.0)
    assert again is not None
    os.close(again)


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """What RunnerProcesses starts: the real thing."""
    started: list[subprocess.Popen[bytes]] = []

    def kept(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 - whatever Popen takes
        started.append(subprocess_popen(*arguments, **options))
        return started[-1]

    subprocess_popen = subprocess.Popen
    monkeypatch.setattr("godwit.runners.subprocess.Popen", kept)
    yield started
    for supervisor in started:
        if supervisor.poll() is None:
            os.killpg(supervisor.pid, signal.SIGKILL)
        supervisor.wait()


@pytest.mark.parametrize("prepared", [False, True])
def test_a_started_runner_belongs_to_no_terminal_and_logs_where_it_should(
    tmp_path: Path, spawned: list[subprocess.Popen[bytes]], *, prepared: bool
) -> None:
    """For a migration that the journal does not know: it says so and ends."""
    processes = RunnerProcesses(tmp_path)
    if prepared:
        processes.prepare("web-1", "web")
    processes.start("web-1", "web")
    processes.release()
    (supervisor,) = spawned
    log = tmp_path / "log" / "web-1.log"
    eventually(lambda: "there is no migration 'web-1'" in log.read_text())
    assert os.getsid(supervisor.pid) == supervisor.pid
    assert Path(f"/proc/{supervisor.pid}/cwd").readlink() == Path("/")
    assert Path(f"/proc/{supervisor.pid}/fd/0").readlink() == Path(os.devnull)
    assert RunnerProcesses(tmp_path).alive("web")


def test_what_was_prepared_in_vain_ends_and_leaves_nothing(
    tmp_path: Path, spawned: list[subprocess.Popen[bytes]]
) -> None:
    processes = RunnerProcesses(tmp_path)
    processes.prepare("web-1", "web")
    processes.release()
    (supervisor,) = spawned
    assert supervisor.wait(timeout=20) == 0
    assert list((tmp_path / "log").iterdir()) == []


def test_one_that_died_while_it_waited_is_replaced(tmp_path: Path, spawned: list[subprocess.Popen[bytes]]) -> None:
    processes = RunnerProcesses(tmp_path)
    processes.prepare("web-1", "web")
    os.killpg(spawned[0].pid, signal.SIGKILL)
    spawned[0].wait()
    processes.start("web-1", "web")
    assert len(spawned) == 2
    eventually(lambda: "there is no migration 'web-1'" in (tmp_path / "log" / "web-1.log").read_text())


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[RunnerProcesses]:
    made = RunnerProcesses(tmp_path)
    yield made
    made.release()


def logs(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "log").glob("*"))


def test_one_is_prepared_for_a_guest_and_let_go_without_a_trace(tmp_path: Path, processes: RunnerProcesses) -> None:
    processes.prepare("web-1", "web")
    processes.prepare("web-2", "web")
    assert prepared("web") == "web-1"
    assert prepared("db") is None
    assert logs(tmp_path) == ["web-1.log"]
    processes.release()
    assert prepared("web") is None
    assert logs(tmp_path) == []


@pytest.mark.parametrize("vm", ["../web", "-h", "", "a b", "web..1"])
def test_nothing_is_prepared_for_what_no_guest_can_be_called(
    vm: str, tmp_path: Path, processes: RunnerProcesses
) -> None:
    processes.prepare("web-1", vm)
    assert prepared(vm) is None
    assert logs(tmp_path) == []


def test_another_migration_of_the_guest_does_not_get_what_was_prepared(
    tmp_path: Path, processes: RunnerProcesses
) -> None:
    processes.prepare("web-1", "web")
    processes.start("web-2", "web")
    assert prepared("web") is None
    assert logs(tmp_path) == ["web-2.log"]
    eventually(lambda: "web-2" in (tmp_path / "log" / "web-2.log").read_text())  # nobody wrote it down: it says so
    started = _CHILDREN[0]  # it would try again and again
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
