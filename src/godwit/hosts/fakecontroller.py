"""Processes that drive simulated hosts: one by default, several where a test lets one follow another.

Which of them a task belongs to is a context variable, so that the tasks of an engine take it along.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from godwit.errors import HostUnreachableError
from godwit.ports import Session

if TYPE_CHECKING:
    from godwit.hosts.fake import FakeHost
    from godwit.ports import Fence

CONTROLLER: ContextVar[FakeController | None] = ContextVar("controller", default=None)
"""The process that the present task belongs to; None for the world's own."""


@dataclass(eq=False, slots=True)
class FakeController:
    """A process. Stopped (SIGSTOP), it does nothing until it goes on, and then what it was about to do."""

    name: str = "controller"
    _going: asyncio.Event = field(default_factory=asyncio.Event)
    _fences: dict[str, Fence] = field(default_factory=dict)
    _sessions: dict[str, Session] = field(default_factory=dict)
    _entering: dict[str, asyncio.Lock] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Run."""
        self._going.set()

    def stop(self) -> None:
        """Stand still from now on."""
        self._going.clear()

    def go_on(self) -> None:
        """Run again."""
        self._going.set()

    async def awake(self) -> None:
        """Return when the process runs."""
        await self._going.wait()

    def guard(self, host: FakeHost, fence: Fence) -> None:
        """Use a host from now on only with a session that `fence` let in; the one of before is closed."""
        self._fences[host.name] = fence
        former = self._sessions.pop(host.name, None)
        if former is not None:
            host.sessions.pop(former, None)

    def session_on(self, host: FakeHost) -> Session | None:
        """Return the session that it has on a host; None where it needs none, or has none."""
        return self._sessions.get(host.name)

    def lost(self, host: FakeHost) -> None:
        """Have no session on a host any more, as far as this process knows: it must have another one."""
        self._sessions.pop(host.name, None)

    async def enter(self, host: FakeHost) -> None:
        """Have a session on a host, and end there what the fence names. Raises JournalError, HostUnreachableError."""
        fence = self._fences.get(host.name)
        if fence is None:
            return
        async with self._entering.setdefault(host.name, asyncio.Lock()):
            session = self._sessions.get(host.name)
            if session is not None and session in host.sessions:
                return
            session = Session(host.this_boot, host.world.next_number(), 0)
            former = await fence.enter(session)
            await self.awake()
            if not host.reachable:
                message = f"{host.name} has fallen silent"
                raise HostUnreachableError(message)
            host.sessions[session] = self
            self._sessions[host.name] = session
            for one in former:
                host.end_session(one)
            await fence.ended(former)
