"""Removing a guest's keys from a host, its transfers' with them, or saying in words that they may be left there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from godwit.errors import GodwitError, JournalError

if TYPE_CHECKING:
    from godwit.ports import Host


async def removed(host: Host, keys: str, work: str, vm: str) -> GodwitError | None:
    """Remove what lies on a host under the name `keys`, of the migration or sending `work` of a guest.

    Returns why it may be left: a JournalError as it is, for nothing was tried then.
    """
    try:
        await host.remove_credentials(keys)
    except JournalError as error:
        return error
    except GodwitError as error:
        message = f"keys of {work} may be left on {host.name} until {vm} is moved from or to there again, or it boots"
        return type(error)(f"{message}: {error.message}", remedy=error.remedy)
    return None
