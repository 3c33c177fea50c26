"""Sessions on a host: who acts there for us, and that it does so no more once it has been ended."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sshserver import SshService, ssh_server

from godwit.errors import HostError, SupersededError
from godwit.hosts.connect import parse_login
from godwit.hosts.local import LocalTransport, own_session
from godwit.hosts.sessions import end_sessions, session_of
from godwit.hosts.ssh import SshTransport
from godwit.ports import Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from godwit.hosts.transport import Transport

LONG = 20.0


@dataclass
class Book:
    """A fence that lets in, or does not, and names what is to be ended."""

    former: tuple[Session, ...] = ()
    superseded: bool = False
    entered: list[Session] = field(default_factory=list)
    gone: list[Session] = field(default_factory=list)

    async def enter(self, session: Session) -> tuple[Session, ...]:
        if self.superseded:
            raise SupersededError("another runner took over")
        self.entered.append(session)
        return self.former

    async def ended(self, sessions: Sequence[Session]) -> None:
        self.gone.extend(sessions)
        self.former = ()


def session_with(pid: int) -> Session:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return Session(own_session().boot, pid, int(fields[19]))


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


@dataclass
class Former:
    """A process that stands for a former connection, with a command that it has begun."""

    process: asyncio.subprocess.Process
    session: Session
    command: int

    @classmethod
    async def start(cls, command: str) -> Former:
        """Start it: a shell that runs `command` in a session of its own, as sshd does, and waits."""
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", 'setsid sh -c "$1" & echo $!; wait; sleep 60', "sh", command),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        command_pid = int(await process.stdout.readline())
        return cls(process, session_with(process.pid), command_pid)

    async def bury(self) -> None:
        """End what is left of it."""
        for pid in (self.command, self.process.pid):
            if lives(pid):
                os.kill(pid, signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[tuple[SshService, SshTransport]]:
    """Give a server in this process and a transport to it."""
    async with ssh_server(folder) as service:
        transport = SshTransport(parse_login(service.record()))
        try:
            yield service, transport
        finally:
            await transport.close()


@asynccontextmanager
async def transport_of(kind: str, folder: Path) -> AsyncIterator[Transport]:
    """Give one kind of transport."""
    if kind == "local":
        yield LocalTransport("here")
        return
    async with connected(folder) as (_, transport):
        yield transport


@pytest.fixture
def here() -> LocalTransport:
    return LocalTransport("here")


async def test_an_ended_session_does_nothing_more_though_it_was_stopped(here: LocalTransport, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", f"kill -STOP $$; touch {tmp_path}/hurt", stdout=asyncio.subprocess.DEVNULL
    )
    await asyncio.sleep(0.1)
    await end_sessions(here, own_session(), [session_with(process.pid)])
    assert await process.wait() == -signal.SIGKILL
    assert not (tmp_path / "hurt").exists()


async def test_a_command_that_was_begun_comes_to_its_end_first(here: LocalTransport, tmp_path: Path) -> None:
    former = await Former.start(f"sleep 1; touch {tmp_path}/done")
    try:
        await end_sessions(here, own_session(), [former.session])
        assert (tmp_path / "done").exists()
        assert not lives(former.command)
        assert not lives(former.process.pid)
    finally:
        await former.bury()


async def test_one_that_takes_too_long_is_ended_with_all_that_it_started(here: LocalTransport) -> None:
    former = await Former.start("sleep 300 & sleep 300")
    try:
        began = time.monotonic()
        await end_sessions(here, own_session(), [former.session])
        assert time.monotonic() - began < LONG
        assert not lives(former.command)
    finally:
        await former.bury()


async def test_a_process_that_only_has_the_number_is_spared(here: LocalTransport) -> None:
    process = await asyncio.create_subprocess_exec("sleep", "60")
    session = session_with(process.pid)
    try:
        await end_sessions(here, own_session(), [Session(session.boot, session.pid, session.started + 1)])
        await end_sessions(here, own_session(), [Session("another boot", session.pid, session.started)])
        assert lives(process.pid)
    finally:
        process.kill()
        await process.wait()


async def test_ending_what_is_gone_is_no_trouble(here: LocalTransport) -> None:
    await end_sessions(here, own_session(), [Session(own_session().boot, 4_000_000, 1)])
    await end_sessions(here, own_session(), [])


async def test_the_session_of_a_connection_is_what_started_its_commands(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, transport):
        assert await session_of(transport) == own_session()  # the server of this test is this very process


@pytest.mark.parametrize("kind", ["ssh", "local"])
async def test_nothing_is_done_for_one_who_was_followed_by_another(tmp_path: Path, kind: str) -> None:
    async with transport_of(kind, tmp_path) as transport:
        transport.guard(Book(superseded=True))
        for _ in range(2):
            with pytest.raises(SupersededError):
                await transport.run(["touch", str(tmp_path / "hurt")])
            with pytest.raises(SupersededError):
                await transport.open_unix(str(tmp_path / "socket"))
            with pytest.raises(SupersededError):
                await transport.reaches("127.0.0.1", 1)
    assert not (tmp_path / "hurt").exists()


@pytest.mark.parametrize("kind", ["ssh", "local"])
async def test_former_sessions_are_ended_before_anything_is_done(tmp_path: Path, kind: str) -> None:
    former = await Former.start(f"sleep 0.5; touch {tmp_path}/done")
    book = Book(former=(former.session,))
    try:
        async with transport_of(kind, tmp_path) as transport:
            transport.guard(book)
            listed = await transport.run(["ls", str(tmp_path)])
            await transport.run(["true"])
    finally:
        await former.bury()
    assert b"done" in listed.stdout
    assert not lives(former.process.pid)
    assert book.gone == [former.session]
    assert book.entered == [own_session()]


async def test_a_connection_that_was_lost_is_followed_by_one_that_enters_anew(tmp_path: Path) -> None:
    book = Book()
    async with connected(tmp_path) as (service, transport):
        transport.guard(book)
        await transport.run(["true"])
        service.connections[-1].abort()
        await asyncio.sleep(0.1)
        await transport.run(["true"])
    assert len(book.entered) == 2


async def test_one_that_cannot_be_ended_keeps_everybody_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("godwit.hosts.sessions._END", "echo 'kill: not permitted' >&2; exit 1")
    for kind in ("ssh", "local"):
        (tmp_path / kind).mkdir()
        async with transport_of(kind, tmp_path / kind) as transport:
            transport.guard(Book(former=(Session(own_session().boot, 4_000_000, 1),)))
            with pytest.raises(HostError, match="could not be ended: kill: not permitted") as caught:
                await transport.run(["true"])
            assert "4000000" in caught.value.remedy
