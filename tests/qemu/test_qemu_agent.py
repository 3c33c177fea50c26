"""The guest agent: where its channel is, and what becomes of what is said to it, over a socket pair."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING

import pytest

from godwit.errors import HypervisorError
from godwit.qemu import agent
from godwit.qemu.process import ProcessFacts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PORT = ("-device", "virtserialport,chardev=ga,name=org.qemu.guest_agent.0")


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ((*PORT, "-chardev", "socket,id=ga,path=/run/ga.sock,server=on,wait=off"), "/run/ga.sock"),
        (("-chardev", "socket,path=/run/ga.sock,server,nowait,id=ga", *PORT), "/run/ga.sock"),
        (("-chardev", "socket,id=ga,path=ga.sock,server=on", *PORT), "/srv/ga.sock"),
        (("-chardev", "socket,id=ga,path=/run/ga.sock", *PORT), None),
        (("-chardev", "socket,id=other,path=/run/ga.sock,server=on", *PORT), None),
        (("-chardev", "pty,id=ga", *PORT), None),
        (("-chardev", "socket,id=ga,path=/run/ga.sock,server=on"), None),
        (("-chardev", "socket,id=ga,path=/run/ga.sock,server=on", *PORT, "-an-option-of-tomorrow"), None),
        ((), None),
    ],
)
def test_the_channel_is_found_on_the_command_line(words: tuple[str, ...], path: str | None) -> None:
    assert agent.channel_of(ProcessFacts(1, ("qemu-system-x86_64", *words), "/srv")) == path


async def said_to(
    answer: Callable[[dict[str, object]], bytes | None],
    ask: Callable[[socket.socket], Awaitable[None]] = agent.power_off,
) -> list[str]:
    """Ask an agent to switch its guest off; `answer` gives what it says to a request. Returns the commands."""
    heard: list[str] = []

    async def serve(ours: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(b'{"return": 7}\n{"half of what somebody else')  # a client before us went away
        while line := await reader.readline():
            request = json.loads(line.rpartition(b"\xff")[2])
            heard.append(request["execute"])
            words = answer(request)
            if words is None:
                break
            writer.write(words)
        writer.close()

    ours, theirs = socket.socketpair()
    served = asyncio.create_task(serve(ours))
    try:
        await ask(theirs)
    finally:
        await served
    return heard


def synchronised(request: dict[str, object], then: bytes | None) -> bytes | None:
    if request["execute"] != "guest-sync-delimited":
        return then
    arguments = request["arguments"]
    assert isinstance(arguments, dict)
    return b'\xff{"return": %d}\n' % arguments["id"]


@pytest.mark.parametrize("then", [b"", b'{"return": {}}\n', None], ids=["silence", "an answer", "its end"])
async def test_an_agent_that_does_not_refuse_has_obeyed(then: bytes | None) -> None:
    assert await said_to(lambda request: synchronised(request, then)) == ["guest-sync-delimited", "guest-shutdown"]


async def test_an_agent_that_trims_is_waited_for() -> None:
    words = b'{"return": {"paths": [{"path": "/", "trimmed": 4096, "minimum": 0}]}}\n'
    heard = await said_to(lambda request: synchronised(request, words), agent.trim)
    assert heard == ["guest-sync-delimited", "guest-fstrim"]


@pytest.mark.parametrize(
    ("then", "said"),
    [
        (None, "channel was closed"),
        (b'{"error": {"class": "GenericError", "desc": "not supported"}}\n', "refuses: not supported"),
        (b"", "not done trimming within 0.2 s"),
        (b"nonsense\n", "cannot be spoken to"),
        (b'{"return": {"paths": [{"path": "/", "error": "trim not supported"}]}}\n', "can be trimmed: trim not"),
    ],
)
async def test_an_agent_that_does_not_trim_is_told(
    then: bytes | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "TRIMS", 0.2)
    with pytest.raises(HypervisorError, match=said):
        await said_to(lambda request: synchronised(request, then), agent.trim)


async def test_an_agent_that_refuses_is_quoted() -> None:
    words = b'{"error": {"class": "CommandNotFound", "desc": "Command guest-shutdown has been disabled"}}\n'
    with pytest.raises(HypervisorError, match="refuses: Command guest-shutdown has been disabled"):
        await said_to(lambda request: synchronised(request, words))


async def test_nobody_at_the_other_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "ANSWERS", 0.2)
    with pytest.raises(HypervisorError, match="no guest agent answered within"):
        await said_to(lambda _: b"")


async def test_a_channel_that_is_closed() -> None:
    with pytest.raises(HypervisorError, match="closed"):
        await said_to(lambda _: None)


@pytest.mark.parametrize("words", [b"x" * 100_000 + b"\n", b"}{\n"], ids=["no end of it", "no JSON"])
async def test_one_that_speaks_something_else(words: bytes) -> None:
    with pytest.raises(HypervisorError, match="cannot be spoken to"):
        await said_to(lambda request: synchronised(request, words))


async def asked_addresses(interfaces: object) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}

    async def ask(connection: socket.socket) -> None:
        found.update(await agent.addresses(connection))

    said = json.dumps({"return": interfaces}).encode() + b"\n"
    assert await said_to(lambda request: synchronised(request, said), ask) == [
        "guest-sync-delimited",
        "guest-network-get-interfaces",
    ]
    return found


async def test_the_addresses_of_each_nic_are_what_the_agent_names() -> None:
    loopback = {"name": "lo", "ip-addresses": [{"ip-address": "127.0.0.1", "ip-address-type": "ipv4", "prefix": 8}]}
    addresses = [{"ip-address": "198.51.100.9"}, {"ip-address": "fe80::1"}, {"ip-address": "198.51.100.9"}]
    nic = {"name": "eth0", "hardware-address": "52:54:00:AA:00:01", "ip-addresses": addresses}
    bond = {"name": "bond0", "hardware-address": "52:54:00:aa:00:01", "ip-addresses": [{"ip-address": "10.0.0.1"}]}
    down = {"name": "eth1", "hardware-address": "52:54:00:aa:00:02"}

    assert await asked_addresses([loopback, nic, bond, down]) == {
        "52:54:00:aa:00:01": ("198.51.100.9", "fe80::1", "10.0.0.1")
    }


@pytest.mark.parametrize(
    "address",
    [
        "0.1.2.3",
        "255.255.255.255",
        "0" * 9,
        "224.0.0.1",
        "::",
        "::1",
        "ff02::1",
        "fe80::1%eth0",
        "x",
        "",
        7,
        None,
    ],
)
async def test_an_agent_cannot_name_what_is_no_address_of_its_own(address: object) -> None:
    nic = {"hardware-address": "52:54:00:aa:00:01", "ip-addresses": [{"ip-address": address}, 7]}
    assert await asked_addresses([nic, 7, {}]) == {"52:54:00:aa:00:01": ()}


@pytest.mark.parametrize("told", [{}, 7, None, "x"])
async def test_interfaces_that_are_no_list_are_none(told: object) -> None:
    assert await asked_addresses(told) == {}


async def test_the_time_is_asked_for_and_set_in_nanoseconds() -> None:
    asked: list[object] = []

    def answer(request: dict[str, object]) -> bytes | None:
        asked.append(request.get("arguments"))
        return synchronised(request, b'{"return": 1700000000250000000}\n')

    async def ask(connection: socket.socket) -> None:
        assert await agent.time(connection) == 1_700_000_000.25

    def now() -> float:  # not before the agent listens
        asked.append("the time")
        return 12.5

    assert await said_to(answer, ask) == ["guest-sync-delimited", "guest-get-time"]
    asked.clear()
    assert await said_to(answer, lambda connection: agent.set_time(connection, now)) == [
        "guest-sync-delimited",
        "guest-set-time",
    ]
    assert asked[-2:] == ["the time", {"time": 12_500_000_000}]


@pytest.mark.parametrize("said", ["-1", "true", "null", '"now"', "1e3", str(1 << 63), "{}"])
async def test_a_time_that_is_none_is_an_error(said: str) -> None:
    async def ask(connection: socket.socket) -> None:
        await agent.time(connection)

    with pytest.raises(HypervisorError, match="said no time"):
        await said_to(lambda request: synchronised(request, f'{{"return": {said}}}\n'.encode()), ask)
