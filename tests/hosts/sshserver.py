"""A real SSH server in this process, for tests that need no privileges: it runs commands and forwards sockets."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import asyncssh

from godwit.model import HostRecord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HOST = "127.0.0.1"


class _Server(asyncssh.SSHServer):
    def __init__(self, service: SshService) -> None:
        self._service = service

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._service.connections.append(conn)

    async def unix_connection_requested(self, dest_path: str) -> asyncssh.SSHUNIXSession[bytes]:
        self._service.was_asked.set()
        await self._service.may_answer.wait()
        self._check()
        forwarder = await self._service.connections[-1].forward_unix_connection(dest_path)
        return cast("asyncssh.SSHUNIXSession[bytes]", forwarder)

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        del dest_host, dest_port, orig_host, orig_port
        self._check()
        return True

    def _check(self) -> None:
        if not self._service.forwards:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "open failed")


@dataclass
class SshService:
    """A running server and the files that let a client in."""

    folder: Path
    port: int = 0
    forwards: bool = True

    def __post_init__(self) -> None:
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.was_asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def identity(self) -> Path:
        return self.folder / "id"

    def record(self, *, port: int | None = None, name: str = "h1") -> HostRecord:
        return HostRecord(
            name=name,
            url=f"ssh://tester@{HOST}:{port or self.port}",
            identity_file=str(self.identity),
            known_hosts=str(self.known_hosts),
            use_agent=False,
        )

    def trust(self, key: asyncssh.SSHKey, *, port: int | None = None) -> None:
        public = key.export_public_key().decode()
        self.known_hosts.write_text(f"[{HOST}]:{port or self.port} {public}", encoding="utf-8")


async def _run(process: asyncssh.SSHServerProcess[bytes], tasks: set[asyncio.Task[None]]) -> None:
    task = asyncio.current_task()
    if task is not None:
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    shell = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        process.command or "",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        stdout, stderr = await shell.communicate(await process.stdin.read())
    finally:
        if shell.returncode is None:
            os.killpg(shell.pid, signal.SIGKILL)
            await shell.wait()
    process.stdout.write(stdout)
    process.stderr.write(stderr)
    process.exit(shell.returncode or 0)


@asynccontextmanager
async def ssh_server(folder: Path, *, forwards: bool = True) -> AsyncIterator[SshService]:
    """Run a server on a free port of the loopback; its key is trusted, the client's key let in."""
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    user_key = asyncssh.generate_private_key("ssh-ed25519")
    service = SshService(folder, forwards=forwards)
    user_key.write_private_key(service.identity)
    authorized = folder / "authorized_keys"
    authorized.write_bytes(user_key.export_public_key())
    tasks: set[asyncio.Task[None]] = set()
    listener = await asyncssh.create_server(
        lambda: _Server(service),
        HOST,
        0,
        server_host_keys=[host_key],
        authorized_client_keys=str(authorized),
        process_factory=lambda process: _run(process, tasks),
        encoding=None,
        config=None,
    )
    service.port = listener.get_port()
    service.trust(host_key)
    try:
        yield service
    finally:
        listener.close()
        for connection in service.connections:
            connection.abort()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await listener.wait_closed()
