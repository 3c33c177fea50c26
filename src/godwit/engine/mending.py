"""A guest in postcopy whose connection to the rest of its memory broke: both sides are connected again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.core import events as e
from godwit.errors import HostUnreachableError, HypervisorError, MonitorLostError
from godwit.model import Side, StreamStatus

if TYPE_CHECKING:
    from godwit.engine.actions import Actions
    from godwit.ports import Guest

_BREAKS: Final = 1.0
_MENDS: Final = 3.0
_NOBODY: Final = 9
"""The port of the protocol that discards (RFC 863): hardly anybody listens there, and whoever does is not harmed."""

_LATE_NEWS: Final = 1.0
"""Seconds after a connection was mended within which it may still be told that it broke: by an event that was on its
way. To believe it would break what is whole, over and over. One that does break anew is found by the next look."""

_NOT_MENDED: Final = frozenset({StreamStatus.BROKEN})
_POLL: Final = 0.05


@dataclass(slots=True)
class Mending:
    """Mends the connection, as often as it takes."""

    actions: Actions
    _mended_at: str = ""
    _whole_since: float | None = None

    async def mend(self, command: e.MendStream, uri: str) -> e.Event:
        """Connect a guest in postcopy to the rest of its memory again; the stream went to `uri` before.

        A side that has not noticed yet is told that the connection is gone: behind a silently cut link that takes TCP a
        quarter of an hour. Raises HypervisorError for a connection that does not come about.
        """
        await self.actions.parts.clock.sleep(command.delay)
        host = uri.removeprefix("tcp:").rpartition(":")[0]
        if not await self._reached(host.strip("[]")):
            message = f"{self.actions.parts.source.name} does not reach {host}, where the guest waits for its memory"
            raise HostUnreachableError(message)
        source, target = await self.actions.sides.attach(Side.SOURCE), await self.actions.sides.attach(Side.TARGET)
        if (await source.view()).stream is StreamStatus.POSTCOPY:
            if self._whole_since is not None and self.actions.parts.clock.now() - self._whole_since < _LATE_NEWS:
                return e.StreamMended()
            await source.break_stream()
            await self.actions.wait_for(source, _BREAKS, lambda view: view.stream is not StreamStatus.POSTCOPY)
        if not self._mended_at:
            await self._break_target(target)
            mended_at = f"tcp:{host}:{await self.actions.parts.target.free_port()}"
            await target.listen_again(mended_at)
            self._mended_at = mended_at  # it listens there until somebody comes
        try:
            await source.send_again(self._mended_at)
        except MonitorLostError:
            self._mended_at = ""  # nobody knows whether the target has taken the connection
            raise
        self._mended_at = ""
        view = await self.actions.wait_for(source, _MENDS, lambda view: view.stream not in _NOT_MENDED)
        if view.stream in _NOT_MENDED:
            message = f"the connection of the guest to its memory could not be mended: the source is {view.raw}"
            raise HypervisorError(message)
        self._whole_since = self.actions.parts.clock.now()
        return e.StreamMended()

    async def _break_target(self, target: Guest) -> None:
        """Tell the target that the connection is gone; it is asked nothing else.

        A guest that waits for a page may hold up QEMU's main loop, and with it every command that is not out of band.
        """
        try:
            await target.break_stream()
        except MonitorLostError:
            raise
        except HypervisorError:  # it has noticed by itself
            return
        await self.actions.parts.clock.sleep(_POLL)

    async def _reached(self, address: str) -> bool:
        """Say whether the source's host reaches an address: a connection that is refused says so, too."""
        try:
            async with asyncio.timeout(_BREAKS):
                return await self.actions.parts.source.reaches(address, _NOBODY)
        except TimeoutError:
            return False
