"""The gate between a runner and everything around it: each question to a host, a monitor or the journal is a step.

At a gate a runner can die (nothing that it does afterwards reaches anybody), be stopped (SIGSTOP) and go on, lose a
connection before or after what it asked for has happened, or be answered late. A step is named `where.what`, as in
`two.launch`, `one/web.resume`, `journal.transition`.
"""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from godwit.errors import HostUnreachableError, JournalError, MonitorLostError
from godwit.hosts.fakecontroller import FakeController

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Set,  # noqa: PYI025 - abstract, and read only
    )

    from godwit.hosts.fake import FakeGuest, FakeHost
    from godwit.ports import GuestEvent

LATE: Final = "late"
BEFORE: Final = "lost-before"
AFTER: Final = "lost-after"

_QUIET: Final = frozenset({"version", "cancel_requested", "close", "view", "sample", "observe"})
"""What is asked over and over: it counts as a step, and is not told."""


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What befalls one step: LATE by `seconds`, or a connection that is lost BEFORE or AFTER it has happened."""

    what: str
    seconds: float = 0.0


class OnStep(Protocol):
    """Hears of each step, before it is taken and after, and says what befalls it."""

    def __call__(self, controller: Controller, name: str, /, *, after: bool) -> Disturbance | None:
        """Take note of a step."""
        ...


@dataclass(slots=True)
class Controller:
    """One runner process. `lag` is the longest time in seconds that an event takes from its monitor to the engine."""

    name: str
    on_step: OnStep
    lag: Callable[[], float]
    deaf: Set[str] = frozenset()
    """Hosts of whose monitors nothing is heard that was not asked for."""
    alive: bool = True
    hindered: bool = False
    followed: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether another runner takes over although this one is not proven gone."""
    steps: int = 0
    guests: list[FakeGuest] = field(default_factory=list)
    task: asyncio.Task[Any] | None = None
    process: FakeController = field(default_factory=FakeController)
    _going: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        """Go."""
        self._going.set()

    def die(self, why: str = "the controller died", *, silently: bool = False) -> None:
        """Be killed: whoever works here never goes on. Connections end, unless nothing is left that would end them."""
        if not self.alive:
            return
        self.alive = False
        for guest in () if silently else self.guests:
            guest.leave(why)
        self.wake()
        if self.task is not None:
            self.task.cancel()

    def pause(self) -> None:
        """Be stopped (SIGSTOP)."""
        if self.alive:
            self.hindered = True
            self._going.clear()
            self.process.stop()

    def wake(self) -> None:
        """Go on (SIGCONT)."""
        self._going.set()
        self.process.go_on()

    async def go(self) -> None:
        """Wait while stopped; never return to the dead."""
        if self.alive and not self._going.is_set():
            await self._going.wait()
        if not self.alive:
            raise asyncio.CancelledError

    async def step(self, where: str, what: str, act: Callable[[], Awaitable[Any]], lose: Callable[[], None]) -> Any:
        """Take one step, as far as nothing is in its way."""
        await self.go()
        self.steps += 1
        name = f"{where}.{what}"
        before = self.on_step(self, name, after=False)
        await self.go()
        if before is not None and before.what is BEFORE:
            lose()
            raise self._lost(where, what, "was not sent")
        if before is not None and before.what is LATE:
            self.hindered = self.hindered or where == "journal"
            await asyncio.sleep(before.seconds)
            await self.go()
        result = await act()
        await self.go()
        after = self.on_step(self, name, after=True)
        await self.go()
        for one in (before, after):
            if one is not None and one.what is AFTER:
                lose()
                raise self._lost(where, what, "was under way")
        return result

    def _lost(self, where: str, what: str, how: str) -> Exception:
        if where in {"journal", "inventory"}:
            return JournalError(f"the journal failed at `{what}`: disk I/O error", remedy="see the disk")
        words = f"the connection to {where} was lost: `{what}` {how}"
        return MonitorLostError(words) if "/" in where else HostUnreachableError(words)


class Gate:
    """Stands in for a port; what is asked of `inner` passes through its runner's gate.

    What was asked for is done, whether or not somebody still waits for the answer: a command on its way arrives, and a
    script on a host runs on when the runner that started it is dead.
    """

    def __init__(self, controller: Controller, where: str, inner: Any) -> None:
        """Guard `inner`, which is called `where` in stories."""
        self._controller, self._where, self._inner = controller, where, inner

    def __getattr__(self, name: str) -> Any:
        """Guard a method, or return what is no method."""
        found = getattr(self._inner, name)
        if not asyncio.iscoroutinefunction(found):
            return found
        guarded = functools.partial(self._pass, name, found)
        self.__dict__[name] = guarded
        return guarded

    async def _pass(self, name: str, method: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        async def act() -> Any:
            asked = asyncio.ensure_future(method(*args, **kwargs))
            asked.add_done_callback(_retrieve)
            return await asyncio.shield(asked)

        return await self._controller.step(self._where, name, act, self._lose)

    def _lose(self) -> None:
        """Lose the connection, where that is one."""


class GatedHost(Gate):
    """A host; monitors that it opens are guarded, too. A process that cannot be killed is told of here."""

    def __init__(self, controller: Controller, host: FakeHost) -> None:
        """Guard a host."""
        super().__init__(controller, host.name, host)

    async def attach(self, vm: Any, *, patience: float = 0.0) -> GatedGuest:
        """Open a monitor; see `godwit.ports.Host`."""
        guest: FakeGuest = await self._pass("attach", self._inner.attach, vm, patience=patience)
        self._controller.guests.append(guest)
        return GatedGuest(self._controller, f"{self._inner.name}/{vm.name}", guest)


class GatedGuest(Gate):
    """A monitor."""

    def _lose(self) -> None:
        self._inner.lose("the connection was reset")

    def events(self) -> AsyncIterator[GuestEvent]:
        """Yield events; see `godwit.ports.Guest`."""
        return self._events(self._inner.events())

    async def _events(self, events: AsyncIterator[GuestEvent]) -> AsyncIterator[GuestEvent]:
        async for event in events:
            if (lag := self._controller.lag()) > 0:
                await asyncio.sleep(lag)
            await self._controller.go()
            if event.kind != "LOST" and self._where.partition("/")[0] in self._controller.deaf:
                continue
            yield event
            if event.kind == "LOST":
                return

    async def close(self) -> None:
        """Close the connection. Never raises, but to the dead."""
        await self._controller.go()
        await self._inner.close()


def _retrieve(sent: asyncio.Future[Any]) -> None:
    """Take note of how it ended: nobody else may."""
    if not sent.cancelled():
        sent.exception()
