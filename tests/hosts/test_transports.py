"""What both transports owe: the same suite over this machine and over a real SSH connection."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from sshserver import ssh_server

from godwit.errors import InputError, MonitorLostError, RemoteCommandError
from godwit.hosts.connect import parse_login
from godwit.hosts.local import LocalTransport
from godwit.hosts.shell import run_script
from godwit.hosts.ssh import SshTransport
from godwit.hosts.transport import remote_command

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from godwit.hosts.transport import Transport

KINDS = ("local", "ssh")


@asynccontextmanager
async def transport_of(kind: str, folder: Path) -> AsyncIterator[Transport]:
    if kind == "local":
        yield LocalTransport("h1")
        return
    async with ssh_server(folder) as service:
        transport = SshTransport(parse_login(service.record()))
        try:
            yield transport
        finally:
            await transport.close()


NASTY = (
    "a b",
    "'",
    '"',
    "a'b\"c",
    ";id",
    "$(id)",
    "`id`",
    "$HOME",
    "*",
    "line\nbreak",
    "",
    "äß漢",
    "-n",
    "\\",
    "!x",
)


@pytest.mark.parametrize("kind", KINDS)
async def test_arguments_arrive_unchanged(kind: str, tmp_path: Path) -> None:
    async with transport_of(kind, tmp_path) as transport:
        completed = await transport.run(["printf", "%s\\0", *NASTY])
        assert completed.status == 0
        assert completed.stdout.decode(errors="surrogateescape").split("\0")[:-1] == list(NASTY)
        scripted = await run_script(transport, 'printf "%s\\0" "$@"\n', *NASTY)
        assert scripted.stdout == completed.stdout


@pytest.mark.parametrize("kind", KINDS)
async def test_input_output_and_status_come_through(kind: str, tmp_path: Path) -> None:
    async with transport_of(kind, tmp_path) as transport:
        data = bytes(range(256)) * 1000
        completed = await transport.run(["sh", "-c", "cat; echo trouble >&2; exit 7"], stdin=data)
        assert (completed.status, completed.stdout, completed.stderr) == (7, data, b"trouble\n")
        empty = await transport.run(["cat"])
        assert (empty.status, empty.stdout) == (0, b"")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_missing_program_is_a_status_not_a_crash(kind: str, tmp_path: Path) -> None:
    async with transport_of(kind, tmp_path) as transport:
        completed = await transport.run(["godwit-no-such-program", "x"])
        assert completed.status == 127
        assert b"godwit-no-such-program" in completed.stderr


@pytest.mark.parametrize("kind", KINDS)
async def test_a_command_that_takes_too_long_is_ended_and_named(kind: str, tmp_path: Path) -> None:
    async with transport_of(kind, tmp_path) as transport:
        began = time.monotonic()
        with pytest.raises(RemoteCommandError, match=r"sleep 60 on h1 .* did not end within 0.3 s"):
            await transport.run(["sleep", "60"], deadline=0.3)
        assert time.monotonic() - began < 3


@pytest.mark.parametrize("kind", KINDS)
async def test_what_no_process_can_be_given_is_refused(kind: str, tmp_path: Path) -> None:
    async with transport_of(kind, tmp_path) as transport:
        with pytest.raises(InputError, match="NUL"):
            await transport.run(["echo", "a\0b"])
        with pytest.raises(InputError, match="no command"):
            await transport.run([])


@pytest.mark.parametrize("kind", KINDS)
async def test_many_commands_at_once_all_come_back(kind: str, tmp_path: Path) -> None:
    async with transport_of(kind, tmp_path) as transport:
        results = await asyncio.gather(*(transport.run(["echo", str(number)]) for number in range(25)))
        assert [int(result.stdout) for result in results] == list(range(25))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_socket_speaks_both_ways_and_ends_with_either_side(kind: str, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    server_saw_end = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        while line := await reader.readline():
            if line == b"bye\n":
                break
            writer.write(line.upper())
        writer.close()
        server_saw_end.set()

    server = await asyncio.start_unix_server(serve, path, limit=1 << 20)
    loop = asyncio.get_running_loop()
    async with server, transport_of(kind, tmp_path) as transport, asyncio.timeout(10):
        with await transport.open_unix(path) as connection:
            assert await loop.sock_recv(connection, 100) == b"hello\n"
            big = b"x" * 300_000 + b"\n"
            await loop.sock_sendall(connection, big)
            assert await _read(connection, len(big)) == big.upper()
        await server_saw_end.wait()  # our close reached the other side: nothing is left open there
        with await transport.open_unix(path) as connection:
            await loop.sock_sendall(connection, b"bye\n")
            assert await _read(connection, 1000) == b"hello\n"


async def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := await asyncio.get_running_loop().sock_recv(connection, 65536)):
        data += part
    return data


@pytest.mark.parametrize("kind", KINDS)
async def test_a_socket_where_nobody_listens_is_named(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with transport_of(kind, tmp_path) as transport:
        for path in (tmp_path / "none", tmp_path / "file"):
            with pytest.raises(MonitorLostError, match=f"nothing accepts at the socket {path}"):
                await transport.open_unix(str(path))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_port_accepts_or_refuses(kind: str, tmp_path: Path) -> None:
    async with transport_of(kind, tmp_path) as transport:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            assert await transport.reaches("127.0.0.1", port) == "accepted"
        assert await transport.reaches("127.0.0.1", port) == "refused"


def test_a_remote_command_is_quoted_once() -> None:
    assert remote_command(["printf", "%s", "a'b"]) == b"printf %s 'a'\"'\"'b'"
    assert remote_command(["echo", "\udcff"]) == b"echo '\xff'"
