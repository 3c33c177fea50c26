"""Removing a guest's keys from a host, its transfers' with them, or saying in words that they may be left there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.errors import GodwitError, JournalError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from godwit.ports import Clock, Host

PAUSES: Final = (0.5, 1.0, 2.0)
"""Seconds between attempts: a host that is out of reach for moments has its keys removed all the same."""


async def patiently(clock: Clock, ask: Callable[[], Awaitable[None]], pauses: tuple[float, ...] = PAUSES) -> None:
    """Ask a host for something, and again after each pause. Raises GodwitError at last, JournalError at once."""
    for pause in pauses:
        try:
            await ask()
        except JournalError:
            raise
        except GodwitError:
            await clock.sleep(pause)
        else:
            return
    await ask()


@dataclass(frozen=True, slots=True)
class Keys:
    """What lies on hosts under `name`, of the migration or sending `work` of the guest `vm`."""

    name: str
    work: str
    vm: str
    clock: Clock

    async def removed(self, host: Host, pauses: tuple[float, ...] = PAUSES) -> GodwitError | None:
        """Remove them from a host; returns why they may be left: a JournalError as it is, for nothing was tried."""
        try:
            await patiently(self.clock, lambda: host.remove_credentials(self.name), pauses)
        except JournalError as error:
            return error
        except GodwitError as error:
            left = f"keys of {self.work} may be left on {host.name} until {self.vm} is moved from or to there again, "
            return type(error)(f"{left}or it boots: {error.message}", remedy=error.remedy)
        return None
