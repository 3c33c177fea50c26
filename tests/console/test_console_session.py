"""What becomes of a line: over a QMP server that says what a QEMU of that kind says."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from qmp_double import Qmp, peer, requests

from godwit.console import session as console
from godwit.console.session import End, Reply, Session
from godwit.console.sides import Sides
from godwit.errors import BusyError, MonitorLostError, RefusedError
from godwit.qemu.guest import QemuGuest
from godwit.qemu.monitor import Monitor
from godwit.qemu.process import ProcessFacts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HELP_10 = "migrate [-d] [-r] uri -- migrate to URI\r\n"
HELP_7 = "migrate [-d] [-b] [-i] [-r] uri -- migrate to URI\r\n"
UNKNOWN = "unknown command: 'x'\r\n"
RUNNING = {"status": "running", "running": True}
HALF = {"status": "active", "ram": {"total": 200, "remaining": 100, "transferred": 100}}
MORE = {"status": "active", "ram": {"total": 200, "remaining": 120, "transferred": 180}}
DONE = {"status": "completed", "ram": {"total": 200, "remaining": 0, "transferred": 300}}
DISKS = "Migration status: active\r\ntransferred disk: 3 kbytes\r\nremaining disk: 1 kbytes\r\ntotal disk: 4 kbytes\r\n"


@dataclass
class Place:
    """A line to a QMP double, and what was said beside the replies."""

    server: Qmp = field(default_factory=Qmp)
    busy: bool = False
    opened: int = 0
    shown: str = ""
    warned: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def guest(self) -> AsyncIterator[QemuGuest]:
        async def read_process() -> ProcessFacts:
            return ProcessFacts(1, ("q",), "/")

        self.opened += 1
        async with peer(self.server) as connection:
            guest = QemuGuest("web1", await Monitor.open(connection, where="web1"), read_process)
            yield guest
            await guest.close()

    @asynccontextmanager
    async def sides(self, uri: str) -> AsyncIterator[Sides]:
        """Refuse, as where nobody knows the other side."""
        if uri:
            raise RefusedError(f"migrate: no host is called {uri}")
        yield Sides(*[None] * 8)  # type: ignore[arg-type] # never reached

    async def refuse_migrating(self) -> None:
        if self.busy:
            raise BusyError("web1 is being migrated")

    def says(self, *answers: str, **queries: list[object]) -> Session:
        """Let QEMU give these answers to lines, one after the other, and these replies to queries."""
        self.server.replies = {"human-monitor-command": list(answers), "query-status": [RUNNING]}
        self.server.replies |= {name.replace("_", "-"): replies for name, replies in queries.items()}
        return Session(self, self.show, self.warned.append)

    def show(self, text: str) -> None:
        self.shown += text

    def typed(self) -> list[object]:
        """Return the lines that reached QEMU."""
        arguments = [one.get("arguments") for one in self.server.received]
        return [one["command-line"] for one in arguments if isinstance(one, dict) and "command-line" in one]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(console, "POLL", 0.0)
    return Place()


async def test_what_is_not_ours_is_passed_on_word_for_word(place: Place) -> None:
    session = place.says("VM status: running\r\n", UNKNOWN)
    assert await session.run("  info   status ") == Reply("VM status: running\n")
    assert await session.run("x  'y") == Reply("unknown command: 'x'\n", 6)
    assert place.typed() == ["info   status", "x  'y"]
    assert place.opened == 2, "the monitor is free between two lines"


@pytest.mark.parametrize("line", ["", "  \t ", "\r\n"])
async def test_an_empty_line_does_nothing(place: Place, line: str) -> None:
    assert await place.says().run(line) == Reply()
    assert place.opened == 0


@pytest.mark.parametrize("line", ["sto\0p", "\udcff", "x" * 5000])
async def test_what_cannot_be_typed_never_reaches_qemu(place: Place, line: str) -> None:
    reply = await place.says().run(line)
    assert reply.status == 6
    assert reply.text
    assert place.opened == 0


@pytest.mark.parametrize(
    ("line", "parameter"),
    [
        ("migrate_set_speed 3", "max-bandwidth 3145728B"),
        ("migrate_set_speed 0", "max-bandwidth 0B"),
        ("migrate_set_speed 1G", "max-bandwidth 1073741824B"),
        ("migrate_set_downtime 0.5", "downtime-limit 500"),
        ("migrate_set_downtime 20ms", "downtime-limit 20"),
        ("migrate_set_downtime 2000", "downtime-limit 2000000"),
    ],
)
async def test_what_qemu_dropped_is_set_as_a_parameter(place: Place, line: str, parameter: str) -> None:
    assert await place.says(UNKNOWN, "").run(line) == Reply()
    assert place.typed()[:2] == [f"help {line.split(maxsplit=1)[0]}", f"migrate_set_parameter {parameter}"]
    assert place.typed()[2:] == ["info block-jobs"] * line.startswith("migrate_set_speed")


async def test_the_speed_is_that_of_disks_under_way_too(place: Place) -> None:
    jobs = "".join(
        f"Type mirror, device godwit-disk{n}: Completed 1 of 9 bytes, speed limit 0 bytes/s\r\n" for n in (0, 1)
    )
    assert await place.says(UNKNOWN, "", jobs, "").run("migrate_set_speed 3m") == Reply()
    assert place.typed()[3:] == [f"block_job_set_speed godwit-disk{n} {3 << 19}B" for n in (0, 1)]


async def test_cancel_ends_the_copies_that_a_dead_console_left(place: Place) -> None:
    jobs = "Type mirror, device godwit-disk0: Completed 1 of 9 bytes, speed limit 0 bytes/s\r\n"
    session = place.says("", jobs, query_block_jobs=[[{"device": "godwit-disk0"}], []])
    assert await session.run("migrate_cancel") == Reply()
    asked = [one["execute"] for one in place.server.received]
    assert "block-job-cancel" in asked
    assert "blockdev-del" in asked


async def test_what_comes_in_is_told_in_the_old_words(place: Place) -> None:
    session = place.says("globals:\r\n", '"42"\r\n')
    assert (await session.run("info migrate")).text == "globals:\nReceiving block device images\nCompleted 42 %\n"


async def test_copies_under_way_are_told_by_any_console(place: Place) -> None:
    jobs = "Type mirror, device godwit-disk0: Completed 2048 of 8192 bytes, speed limit 0 bytes/s\r\n"
    session = place.says("", "Error: not found\r\n", jobs)
    assert (await session.run("info migrate")).text == (
        "Migration status: active\ntransferred disk: 2 kbytes\nremaining disk: 6 kbytes\ntotal disk: 8 kbytes\n"
    )


async def test_a_qemu_that_still_has_the_command_does_it_itself(place: Place) -> None:
    session = place.says("migrate_set_speed value -- set maximum speed\r\n", "")
    assert await session.run("migrate_set_speed abc") == Reply()
    assert place.typed() == ["help migrate_set_speed", "migrate_set_speed abc"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("migrate_set_speed abc", 'invalid size\nTry "help migrate_set_speed" for more information\n'),
        ("migrate_set_downtime", 'Number expected\nTry "help migrate_set_downtime" for more information\n'),
        (
            "migrate_set_downtime 2001",
            "Error: Parameter 'downtime_limit' expects an integer in the range of 0 to 2000 seconds\n",
        ),
        (
            "migrate_set_downtime -1",
            "Error: Parameter 'downtime_limit' expects an integer in the range of 0 to 2000 seconds\n",
        ),
        ("migrate", 'migrate: string expected\nTry "help migrate" for more information\n'),
    ],
)
async def test_wrong_arguments_change_nothing(place: Place, line: str, words: str) -> None:
    assert await place.says(UNKNOWN).run(line) == Reply(words, 6)
    assert [one for one in place.typed() if not str(one).startswith("help")] == []


# -- migrate -------------------------------------------------------------------------------------------------------


async def test_migrate_d_returns_at_once_and_says_what_is_weaker_once(place: Place) -> None:
    session = place.says("")
    assert await session.run("migrate -d tcp:h:6666") == Reply()
    assert await session.run("migrate -d -r tcp:h:6666") == Reply()
    assert place.typed() == ["migrate -d tcp:h:6666", "migrate -d -r tcp:h:6666"]
    assert len(place.warned) == 1
    assert "two copies" in place.warned[0]


async def test_a_file_can_be_no_second_copy(place: Place) -> None:
    assert await place.says("").run("migrate -d file:/x") == Reply()
    assert place.warned == []


async def test_a_uri_with_spaces_stays_one(place: Place) -> None:
    await place.says("").run('migrate -d "exec:cat > /x"')
    assert place.typed() == ['migrate -d "exec:cat > /x"']


async def test_migrate_waits_with_a_percentage_that_never_falls(place: Place) -> None:
    replies: list[object] = [{"status": "setup"}, {}, HALF, HALF, MORE, MORE, DONE]
    reply = await place.says("", query_migrate=replies).run("migrate tcp:h:6666")
    assert reply == Reply("Completed 100 %\n")
    assert place.shown == "Completed 0 %\rCompleted 50 %\r"
    assert place.typed() == ["migrate -d tcp:h:6666"], "a monitor for programs cannot be blocked"


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ({"status": "failed", "error-desc": "Broken pipe"}, Reply("\nError: Broken pipe\n", 7)),
        ({"status": "failed"}, Reply("\nError: migration failed\n", 7)),
        ({"status": "cancelled"}, Reply("\nMigration status: cancelled\n", 8)),
        ({"status": "postcopy-paused"}, Reply("\nMigration status: postcopy-paused\n")),
        ({"status": "pre-switchover"}, Reply("\nMigration status: pre-switchover\n")),
    ],
)
async def test_a_migration_that_ends_otherwise_says_how(place: Place, last: object, expected: Reply) -> None:
    assert await place.says("", query_migrate=[HALF, HALF, last]).run("migrate tcp:h:6666") == expected


async def test_what_qemu_refuses_is_not_waited_for(place: Place) -> None:
    reply = await place.says("Error: unknown migration protocol: foo:bar\r\n").run("migrate foo:bar")
    assert reply == Reply("Error: unknown migration protocol: foo:bar\n", 6)
    assert place.shown == ""


async def test_an_interrupted_wait_leaves_the_migration_alone(place: Place) -> None:
    task = asyncio.create_task(place.says("", query_migrate=[HALF]).run("migrate tcp:h:6666"))
    async with asyncio.timeout(10):
        while "50 %" not in place.shown:  # noqa: ASYNC110 - what is shown is no event
            await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert place.warned[-1] == "the migration goes on; info migrate shows it, migrate_cancel ends it"
    assert "migrate_cancel" not in place.typed()


@pytest.mark.parametrize("flag", ["b", "i"])
async def test_disks_are_left_to_a_qemu_that_copies_them(place: Place, flag: str) -> None:
    session = place.says(HELP_7, "", DISKS, query_migrate=[HALF, DONE])
    assert await session.run(f"migrate -{flag} tcp:h:6666") == Reply("Completed 100 %\n")
    assert place.typed() == ["help migrate", f"migrate -d -{flag} tcp:h:6666", "info migrate"]
    assert place.shown == "Completed 75 %\r"


@pytest.mark.parametrize("flag", ["b", "i"])
async def test_where_qemu_dropped_them_the_other_side_is_needed(place: Place, flag: str) -> None:
    with pytest.raises(RefusedError, match="no host is called tcp:h:6666"):
        await place.says(HELP_10).run(f"migrate -d -{flag} tcp:h:6666")
    assert place.typed() == ["help migrate"]


# -- the rest ------------------------------------------------------------------------------------------------------


async def test_help_is_the_old_one_where_qemu_has_none(place: Place) -> None:
    session = place.says(UNKNOWN, HELP_10, HELP_7, "stop|s  -- stop emulation\r\n", UNKNOWN)
    assert (await session.run("help migrate_set_speed")).text.startswith("migrate_set_speed value -- set maximum")
    assert "[-b] [-i]" in (await session.run("help migrate")).text
    assert (await session.run("? migrate")).text == HELP_7.replace("\r\n", "\n")
    assert (await session.run("help stop")).text == "stop|s  -- stop emulation\n"
    assert await session.run("help x") == Reply("unknown command: 'x'\n", 6)


async def test_words_to_complete(place: Place) -> None:
    session = place.says(HELP_10, "info migrate  -- show migration status\r\n")
    names = await session.names()
    assert names[""] == ["help", "info", "migrate", "migrate_set_downtime", "migrate_set_speed"]
    assert names["info"] == ["migrate"]
    assert "migrate_set_speed" in names["help"]


async def test_cont_after_everything_was_sent_is_done_and_warned_of(place: Place) -> None:
    session = place.says("", query_status=[{"status": "postmigrate"}, RUNNING], query_migrate=[DONE])
    assert await session.run("cont") == Reply()
    assert await session.run("c") == Reply()
    assert len(place.warned) == 1
    assert "two copies" in place.warned[0]
    assert place.typed() == ["cont", "c"]


@pytest.mark.parametrize(
    "line",
    ["migrate -d tcp:h:1", "migrate_cancel", "stop", "s", "cont", "c", "savevm a", "loadvm a", "quit!", "device_add x"],
)
async def test_a_guest_that_is_moved_is_left_alone(place: Place, line: str) -> None:
    place.busy = True
    with pytest.raises(BusyError):
        await place.says("").run(line)
    assert place.opened == 0


@pytest.mark.parametrize("line", ["info migrate", "info status", "help", "help migrate_set_speed", "p 1", "x/4i 0"])
async def test_a_guest_that_is_moved_may_be_looked_at(place: Place, line: str) -> None:
    place.busy = True
    assert (await place.says("said\r\n").run(line)).status == 0


@pytest.mark.parametrize("line", ["quit", "q", " quit "])
async def test_quit_must_be_meant(place: Place, line: str) -> None:
    assert await place.says().run(line) == Reply(end=End.QUIT_ASKED)
    assert place.opened == 0


@pytest.mark.parametrize("line", ["quit!", "q!"])
async def test_quit_with_a_mark_ends_the_guest(place: Place, line: str) -> None:
    assert await place.says().run(line) == Reply(end=End.QUIT_DONE)
    assert place.server.received[-1]["execute"] == "quit"


async def test_a_quit_that_cannot_be_one_is_qemus_to_refuse(place: Place) -> None:
    words = 'quit|q: extraneous characters at the end of line\r\nTry "help quit" for more information\r\n'
    assert (await place.says(words).run("quit/x")).status == 6
    assert place.typed() == ["quit/x"]


class Dying(Qmp):
    """Greets, and goes away at the first command."""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        writer.write(self.greeting)
        async for message in requests(reader):
            if message["execute"] != "qmp_capabilities":
                return
            self.send({"return": {}, "id": message["id"]})


async def test_a_monitor_that_goes_away_is_an_error(place: Place) -> None:
    place.server = Dying()
    with pytest.raises(MonitorLostError):
        await place.says().run("info status")
