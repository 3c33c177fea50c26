"""A QMP server for tests, as slow and as rude as a test wants it."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

GREETING = (
    b'{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""}, "capabilities": ["oob"]}}\r\n'
)
EVENT = {"event": "STOP", "timestamp": {"seconds": 1700000000, "microseconds": 250000}}


@asynccontextmanager
async def peer(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[socket.socket]:
    """Give the client's end of a connection to something that behaves as `serve` does."""
    ours, theirs = socket.socketpair()

    async def run() -> None:
        reader, writer = await asyncio.open_connection(sock=theirs)
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    task = asyncio.create_task(run())
    try:
        yield ours
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        ours.close()


async def wait(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


def saying(words: bytes, *, then_close: bool = False) -> Callable[..., Awaitable[None]]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(words)
        if not then_close:
            await wait(reader, writer)

    return serve


async def requests(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, object]]:
    """Yield JSON objects that follow each other without anything between them."""
    decoder = json.JSONDecoder()
    waiting = ""
    while received := await reader.read(65536):
        waiting += received.decode()
        while waiting.strip():
            try:
                message, end = decoder.raw_decode(waiting.strip())
            except json.JSONDecodeError:
                break
            waiting = waiting.strip()[end:]
            yield message


class Refusal(str):
    """In place of a reply: why the command is refused."""

    __slots__ = ()


class Qmp:
    """A QMP server with a few commands, as slow and as rude as a test wants it."""

    def __init__(self, greeting: bytes = GREETING) -> None:
        self.greeting = greeting
        self.received: list[dict[str, object]] = []
        self.replies: dict[str, list[object]] = {}
        self.writer: asyncio.StreamWriter | None = None

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        writer.write(self.greeting)
        async for message in requests(reader):
            self.received.append(message)
            command = message.get("execute") or message.get("exec-oob")
            if command in {"die", "quit"}:
                return
            if command == "malformed":
                writer.write(b"{{{ no JSON\r\n")
            elif command == "refuse":
                error = {"class": "GenericError", "desc": "not today"}
                self.send({"error": error, "id": message["id"]})
            elif command != "hang":
                replies = self.replies.get(str(command)) or [{"command": command}]
                reply = replies.pop(0) if len(replies) > 1 else replies[0]
                if isinstance(reply, Refusal):
                    self.send({"error": {"class": "GenericError", "desc": reply}, "id": message["id"]})
                    continue
                self.send({"return": reply, **({"id": message["id"]} if "id" in message else {})})

    def asked(self) -> list[tuple[str, object]]:
        """Return the commands after the greeting's, with their arguments."""
        return [(str(message["execute"]), message.get("arguments")) for message in self.received[1:]]

    def send(self, message: dict[str, object]) -> None:
        assert self.writer is not None
        self.writer.write(json.dumps(message).encode() + b"\r\n")
