"""SSH: who the host is, who we are, and what happens when the connection ends."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import asyncssh
import pytest
from sshserver import HOST, SshService, ssh_server

from godwit.errors import AuthenticationError, HostError, HostKeyError, HostUnreachableError, InputError
from godwit.hosts.connect import open_host, parse_login
from godwit.hosts.ssh import SshTransport
from godwit.model import HostRecord, Launch, RunState, Vm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

VM = Vm(f"web-{os.getpid()}", "h1", Launch(("qemu",)), "/nonexistent/web.qmp")


async def connect(record: HostRecord) -> None:
    transport = SshTransport(parse_login(record))
    try:
        await transport.connect()
    finally:
        await transport.close()


async def test_an_unknown_host_key_is_shown_with_the_mend(tmp_path: Path) -> None:
    async with ssh_server(tmp_path) as service:
        service.known_hosts.unlink()
        with pytest.raises(HostKeyError, match=r"is not known: it shows ssh-ed25519 SHA256:") as caught:
            await connect(service.record())
    assert f"ssh-keyscan -p {service.port} {HOST} >> {service.known_hosts}" in caught.value.remedy
    assert "godwit host add h1" in caught.value.remedy


@pytest.mark.parametrize("algorithm", ["ssh-ed25519", "ecdsa-sha2-nistp256"])
async def test_a_changed_host_key_is_said_loudly(tmp_path: Path, algorithm: str) -> None:
    async with ssh_server(tmp_path) as service:
        service.trust(asyncssh.generate_private_key(algorithm))
        with pytest.raises(HostKeyError, match=r"HAS CHANGED: it shows ssh-ed25519 SHA256:.* has SHA256:") as caught:
            await connect(service.record())
    assert f"-R '[{HOST}]:{service.port}'" in caught.value.remedy


async def test_a_revoked_host_key_is_refused(tmp_path: Path) -> None:
    async with ssh_server(tmp_path) as service:
        line = service.known_hosts.read_text(encoding="utf-8")
        service.trust(asyncssh.generate_private_key("ssh-ed25519"))
        other = service.known_hosts.read_text(encoding="utf-8")
        service.known_hosts.write_text(f"@revoked {line}{other}", encoding="utf-8")
        with pytest.raises(HostKeyError, match="REVOKED"):
            await connect(service.record())


async def test_a_key_that_is_not_let_in_is_named(tmp_path: Path) -> None:
    async with ssh_server(tmp_path) as service:
        stranger = tmp_path / "stranger"
        asyncssh.generate_private_key("ssh-ed25519").write_private_key(stranger)
        with pytest.raises(AuthenticationError, match=f"refused the key {stranger}") as caught:
            await connect(replace(service.record(), identity_file=str(stranger)))
    assert "authorized_keys" in caught.value.remedy


async def test_a_key_that_cannot_be_read_or_needs_a_passphrase(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(locked, "pkcs8-pem", passphrase="secret")  # noqa: S106  # a key of this test alone
    record = HostRecord("h1", "ssh://127.0.0.1:1", use_agent=False)
    with pytest.raises(AuthenticationError, match="needs a passphrase"):
        await connect(replace(record, identity_file=str(locked)))
    with pytest.raises(InputError, match="cannot be used"):
        await connect(replace(record, identity_file=str(tmp_path / "none")))


async def test_a_host_that_refuses_or_is_no_ssh_or_has_no_address(tmp_path: Path) -> None:
    record = HostRecord("h1", "ssh://127.0.0.1", known_hosts=str(tmp_path / "none"), use_agent=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(HostUnreachableError, match=rf"h1 \(root@127.0.0.1:{port}\).*refused") as caught:
        await connect(replace(record, url=f"ssh://127.0.0.1:{port}"))
    assert f"ssh -p {port} root@127.0.0.1 true" in caught.value.remedy
    with pytest.raises(HostUnreachableError, match="name cannot be resolved"):
        await connect(replace(record, url="ssh://no-such-host.invalid"))

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 100)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(babble, HOST, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(HostUnreachableError, match="cannot be reached"):
            await connect(replace(record, url=f"ssh://127.0.0.1:{port}"))


async def test_known_hosts_that_are_no_text_are_an_input_error(tmp_path: Path) -> None:
    bad = tmp_path / "known"
    bad.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        await connect(HostRecord("h1", "ssh://127.0.0.1:1", known_hosts=str(bad)))


async def test_callers_share_one_connection_and_a_lost_one_is_made_anew(tmp_path: Path) -> None:
    async with ssh_server(tmp_path) as service:
        transport = SshTransport(parse_login(service.record()))
        await asyncio.gather(*(transport.run(["true"]) for _ in range(5)))
        assert len(service.connections) == 1
        running = asyncio.create_task(transport.run(["sleep", "30"]))
        await asyncio.sleep(0.2)
        service.connections[0].abort()
        with pytest.raises(HostUnreachableError, match="was lost"):
            await running
        assert (await transport.run(["echo", "again"])).stdout == b"again\n"
        assert len(service.connections) == 2
        await transport.close()


async def test_a_cancelled_caller_leaves_the_attempt_to_the_others(tmp_path: Path) -> None:
    async with ssh_server(tmp_path) as service:
        transport = SshTransport(parse_login(service.record()))
        first = asyncio.create_task(transport.run(["true"]))
        second = asyncio.create_task(transport.run(["echo", "here"]))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).stdout == b"here\n"
        assert len(service.connections) == 1
        await transport.close()


async def test_an_abandoned_opening_leaves_no_channel_behind(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        ended.set()

    server = await asyncio.start_unix_server(serve, path)
    async with server, ssh_server(tmp_path) as service:
        transport = SshTransport(parse_login(service.record()))
        service.may_answer.clear()
        opening = asyncio.create_task(transport.open_unix(path))
        await service.was_asked.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        async with asyncio.timeout(5):
            service.may_answer.set()
            await ended.wait()
        await transport.close()


async def test_a_server_that_forwards_nothing_is_told_apart(tmp_path: Path) -> None:
    async with ssh_server(tmp_path, forwards=False) as service:
        transport = SshTransport(parse_login(service.record()))
        with pytest.raises(HostError, match="forwards no UNIX sockets") as caught:
            await transport.open_unix(str(tmp_path / "s"))
        assert "AllowStreamLocalForwarding" in caught.value.remedy
        with socket.create_server((HOST, 0)) as listener:
            port = listener.getsockname()[1]
            assert await transport.reaches(HOST, port) == "accepted"
        assert await transport.reaches(HOST, port) == "refused"
        await transport.close()


class Wire:
    """A TCP relay that can fall silent without closing anything, as a dead host does."""

    def __init__(self) -> None:
        self.port = 0
        self.open = asyncio.Event()
        self.open.set()

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self.open.wait()
                writer.write(data)
        finally:
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def wire_to(service: SshService) -> AsyncIterator[Wire]:
    wire = Wire()
    tasks: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(HOST, service.port)
        tasks.update({asyncio.create_task(wire.pump(reader, back)), asyncio.create_task(wire.pump(there, writer))})

    server = await asyncio.start_server(relay, HOST, 0)
    wire.port = server.sockets[0].getsockname()[1]
    async with server:
        yield wire
        wire.open.set()
        _, left = await asyncio.wait(tasks, timeout=2)
        for task in left:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_host_that_falls_silent_is_noticed_in_three_seconds_and_observing_it_is_a_view(tmp_path: Path) -> None:
    async with ssh_server(tmp_path) as service, wire_to(service) as wire:
        key = service.known_hosts.read_text(encoding="utf-8").replace(str(service.port), str(wire.port))
        service.known_hosts.write_text(key, encoding="utf-8")
        host = open_host(service.record(port=wire.port))
        assert (await host.observe(VM)).state is RunState.ABSENT
        wire.open.clear()
        began = time.monotonic()
        view = await host.observe(VM)
        assert view.state is RunState.UNREACHABLE
        assert "h1" in view.detail
        assert 1.5 < time.monotonic() - began < 4.5
        await host.close()


async def test_the_library_s_own_log_stays_out_of_ours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with ssh_server(tmp_path) as service:
        logging.getLogger("asyncssh").setLevel(logging.NOTSET)
        with caplog.at_level(logging.DEBUG):
            await connect(service.record())
    assert not [record for record in caplog.records if record.name.startswith("asyncssh")]
