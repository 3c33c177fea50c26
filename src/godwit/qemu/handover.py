"""Handing a guest's memory over to another QEMU on the same host, as it stands: the migration mode cpr-transfer.

The source connects to the socket of the channel `cpr` and passes the descriptors of all memory. The other QEMU, which
waited there and nowhere else, makes its machine around that memory, opens its monitor, and hangs up; only then does the
source stop the guest and send the devices through the channel `main`. See docs/devel/migration/CPR.rst of QEMU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.errors import MonitorCommandError
from godwit.qemu.beside import channels
from godwit.qemu.reply import as_object, texts

if TYPE_CHECKING:
    from godwit.qemu.qom import Asks

_MODE: Final = "cpr-transfer"
_NORMAL: Final = "normal"


async def hindrances(monitor: Asks) -> tuple[str, ...]:
    """Ask QEMU why it cannot hand this guest's memory over; empty if it can.

    Its blockers are told for the mode that is set, so it is set for the length of the question.
    """
    try:
        await monitor.execute("migrate-set-parameters", {"mode": _MODE})
    except MonitorCommandError as error:
        return (f"this QEMU knows no {_MODE}: {error.message}",)
    try:
        reply = as_object(await monitor.execute("query-migrate"), "query-migrate")
    finally:
        await monitor.execute("migrate-set-parameters", {"mode": _NORMAL})
    return texts(reply, "blocked-reasons")


async def begin(monitor: Asks, path: str) -> None:
    """Start to hand over at `path`; returns when QEMU accepted it, and the guest still runs."""
    await monitor.execute("migrate-set-parameters", {"mode": _MODE})
    await monitor.execute("migrate", {"channels": list(channels(path))})


async def forget(monitor: Asks) -> None:
    """Let the next stream be an ordinary one."""
    await monitor.execute("migrate-set-parameters", {"mode": _NORMAL})
