"""The guest agent (qemu-ga): asking it to switch the guest off, or to trim its disks. docs/interop/qemu-ga-ref in QEMU.

Its channel serves one client at a time, like a monitor, and there is nobody at the other end unless the guest runs the
agent: whoever asks begins with a word to synchronise with, and takes silence for "nobody there".
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import secrets
from typing import TYPE_CHECKING, Final

from godwit.errors import HypervisorError
from godwit.plaintext import from_json
from godwit.qemu.commandline import parse, resolver_of
from godwit.qemu.options import CommandLineError
from godwit.qemu.paths import split

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Mapping

    from godwit.qemu.process import ProcessFacts

CHANNEL: Final = "org.qemu.guest_agent.0"
"""The name of the virtio serial port at which the agent listens in the guest."""

ANSWERS: Final = 3.0
"""Seconds within which an agent that is there has answered: one that listens does so within milliseconds."""

TRIMS: Final = 60.0
"""Seconds that giving back may take: a file system is gone through whole, and the host is told of each piece."""

OBJECTS: Final = 1.0
"""Seconds within which it says that it cannot switch off; it says nothing where it can."""

_NANOSECONDS: Final = 1_000_000_000
_LATEST: Final = 1 << 63

_NOBODYS: Final = tuple(map(ipaddress.ip_network, ("0.0.0.0/8", "255.255.255.255/32", "::/128")))
"""This network, everybody on it, and no address (RFC 6890)."""

_SENTINEL: Final = b"\xff"
_LONGEST: Final = 65536
"""Bytes of an answer that are read: the guest, which nobody trusts, says what it likes."""


def channel_of(process: ProcessFacts) -> str | None:
    """Return the UNIX socket behind which a QEMU has its guest's agent, None if its command line has none."""
    sockets: dict[str | None, str] = {}
    backends: list[str | None] = []
    try:
        found = parse(process.argv)
        for option in found:
            if option.name == "chardev":
                chardev = dict(split(option).items())
                path, serves = chardev.get("path"), chardev.get("server", "off")  # `server` alone has no value: None
                if path and serves != "off":
                    sockets[chardev.get("id")] = path
            elif option.name == "device":
                pairs = split(option)
                if pairs.get("name") == CHANNEL:
                    backends.append(pairs.get("chardev"))
        resolver = resolver_of(process, found)
        return next((resolver.path(sockets[backend]) for backend in backends if backend in sockets), None)
    except CommandLineError:
        return None


async def power_off(connection: socket.socket) -> None:
    """Ask the agent at the other end of `connection`, which this closes, to switch its guest off.

    Returns when it has not refused. Raises HypervisorError when nobody answers, or with the agent's words.
    """
    async with _speaking(connection) as (reader, writer):
        _say(writer, {"execute": "guest-shutdown", "arguments": {"mode": "powerdown"}})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(OBJECTS):
                _check(await reader.readline())


async def addresses(connection: socket.socket) -> dict[str, tuple[str, ...]]:
    """Ask the agent at the other end of `connection`, which this closes, for the guest's IP addresses by MAC address.

    What it says is the guest's own word: what is no address, or one that nobody else may have, is left out. Raises
    HypervisorError when nobody answers, or with its words.
    """
    told = _returned(await _asked(connection, "guest-network-get-interfaces"))
    found: dict[str, tuple[str, ...]] = {}
    for interface in told if isinstance(told, list) else ():
        mac = interface.get("hardware-address") if isinstance(interface, dict) else None
        rows = interface.get("ip-addresses") if isinstance(interface, dict) else None
        if isinstance(mac, str) and isinstance(rows, list):
            named = (one for one in map(_address, rows) if one is not None)
            found[mac.lower()] = tuple(dict.fromkeys((*found.get(mac.lower(), ()), *named)))
    return found


def _address(row: object) -> str | None:
    text = row.get("ip-address") if isinstance(row, dict) else None
    try:
        address = ipaddress.ip_address(text) if isinstance(text, str) else None
    except ValueError:
        return None
    if address is None or address.is_multicast or address.is_loopback or any(address in net for net in _NOBODYS):
        return None
    return None if getattr(address, "scope_id", None) else str(address)


async def _asked(
    connection: socket.socket,
    command: str,
    arguments: Callable[[], Mapping[str, object]] | None = None,
    *,
    within: float = ANSWERS,
    late: str = "",
) -> bytes:
    """Say something to an agent, and return its answer. Raises HypervisorError, with the words `late` where it is."""
    async with _speaking(connection) as (reader, writer):
        _say(writer, {"execute": command} | ({"arguments": dict(arguments())} if arguments else {}))
        try:
            async with asyncio.timeout(within):
                line = await reader.readline()
        except TimeoutError:
            message = f"the guest agent {late or f'did not answer {command}'} within {within:g} s"
            raise HypervisorError(message) from None
        if not line:
            message = "the guest agent's channel was closed"
            raise HypervisorError(message)
        _check(line)
        return line


def _returned(line: bytes) -> object:
    document = from_json(line.rpartition(_SENTINEL)[2])
    return document.get("return") if isinstance(document, dict) else None


async def time(connection: socket.socket) -> float:
    """Ask the agent at the other end of `connection`, which this closes, for the guest's time, in UNIX seconds.

    Raises HypervisorError when nobody answers, or with its words.
    """
    told = _returned(await _asked(connection, "guest-get-time"))
    if isinstance(told, bool) or not isinstance(told, int) or not 0 <= told < _LATEST:
        message = "the guest agent said no time"
        raise HypervisorError(message)
    return told / _NANOSECONDS


async def set_time(connection: socket.socket, at: Callable[[], float]) -> None:
    """Let the agent at the other end of `connection`, which this closes, set the guest's clock.

    `at` gives UNIX seconds, and is asked when the agent listens: to come so far may have taken it a while.

    Raises HypervisorError as above.
    """
    await _asked(connection, "guest-set-time", lambda: {"time": round(at() * _NANOSECONDS)})


async def trim(connection: socket.socket) -> None:
    """Let the agent at the other end of `connection`, which this closes, give back what file systems have freed.

    Returns when it is done. Raises HypervisorError when nobody answers, not within TRIMS seconds, or with its words.
    """
    _check_paths(await _asked(connection, "guest-fstrim", within=TRIMS, late="was not done trimming"))


def _check_paths(line: bytes) -> None:
    """Raise HypervisorError where no file system at all was trimmed; QEMU tells of each by itself (TrimPath)."""
    document = from_json(line.rpartition(_SENTINEL)[2])
    told = document.get("return") if isinstance(document, dict) else None
    paths = told.get("paths") if isinstance(told, dict) else None
    wrong = [one.get("error") for one in paths if isinstance(one, dict)] if isinstance(paths, list) else []
    if wrong and all(wrong):
        message = f"no file system of the guest can be trimmed: {wrong[0]}"
        raise HypervisorError(message)


@contextlib.asynccontextmanager
async def _speaking(connection: socket.socket) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Speak with an agent that listens. Raises HypervisorError."""
    reader, writer = await asyncio.open_connection(sock=connection, limit=_LONGEST)
    try:
        await _synchronise(reader, writer)
        yield reader, writer
    except (OSError, asyncio.LimitOverrunError, ValueError) as error:
        message = f"the guest agent cannot be spoken to: {error}"
        raise HypervisorError(message) from None
    finally:
        writer.close()


async def _synchronise(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Get past what another client may have left in the channel."""
    number = secrets.randbits(31)
    writer.write(_SENTINEL)
    _say(writer, {"execute": "guest-sync-delimited", "arguments": {"id": number}})
    try:
        async with asyncio.timeout(ANSWERS):
            while True:
                line = await reader.readline()
                if not line:
                    message = "the guest agent's channel was closed"
                    raise HypervisorError(message)
                answer = line.rpartition(_SENTINEL)[2]
                with contextlib.suppress(ValueError):
                    if from_json(answer) == {"return": number}:
                        return
    except TimeoutError:
        message = f"no guest agent answered within {ANSWERS:g} s"
        raise HypervisorError(message) from None


def _say(writer: asyncio.StreamWriter, document: dict[str, object]) -> None:
    writer.write(json.dumps(document).encode() + b"\n")


def _check(line: bytes) -> None:
    """Raise HypervisorError for a refusal; an empty line is the channel's end, and a guest that ends closes it."""
    if not line:
        return
    document = from_json(line.rpartition(_SENTINEL)[2])
    if isinstance(document, dict) and isinstance(said := document.get("error"), dict):
        message = f"the guest agent refuses: {said.get('desc', said)}"
        raise HypervisorError(message)
