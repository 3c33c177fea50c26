"""A host that lies: whatever is asked of it, it answers with something else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from godwit.errors import MonitorLostError
from godwit.hosts.transport import Reach, check_arguments
from godwit.ports import Completed

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

    from godwit.ports import Fence

COMMANDS = 200
"""Commands after which somebody asks without end."""


class LyingTransport:
    """Implements godwit.hosts.transport.Transport: every command gets the next of the answers, the last for ever."""

    where = "h1 (root@192.0.2.1:22)"

    def __init__(self, answers: Sequence[tuple[int, bytes, bytes]]) -> None:
        self._answers: Iterator[tuple[int, bytes, bytes]] = iter(answers)
        self._last = (0, b"", b"")
        self._asked = 0

    async def connect(self) -> None:
        """Be there."""

    async def close(self) -> None:
        """Let go."""

    def guard(self, fence: Fence) -> None:
        """Let everybody in."""

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline: float = 30.0) -> Completed:
        del stdin, deadline
        check_arguments(argv)
        self._asked += 1
        assert self._asked <= COMMANDS, "it is asked without end"
        self._last = next(self._answers, self._last)
        return Completed(*self._last)

    async def open_unix(self, path: str, *, deadline: float = 5.0) -> socket.socket:
        raise MonitorLostError(f"nothing accepts at {path} within {deadline:g} s")

    async def reaches(self, address: str, port: int, *, deadline: float = 5.0) -> Reach:
        del address, port, deadline
        return "silent"

    async def peer_address(self) -> str:
        return "192.0.2.1"
