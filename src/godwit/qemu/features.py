"""What a QEMU can do, asked of itself: introspection instead of version numbers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from godwit.model import Features
from godwit.qemu.reply import as_object, as_objects, text

if TYPE_CHECKING:
    from godwit.qemu.qom import Asks


async def probe(monitor: Asks) -> Features:
    """Ask for commands, migration capabilities and migration parameters in one round trip.

    Raises what Monitor.execute raises. Parameters that QEMU leaves out while they are unset are absent.
    """
    commands, capabilities, parameters = await asyncio.gather(
        monitor.execute("query-commands"),
        monitor.execute("query-migrate-capabilities"),
        monitor.execute("query-migrate-parameters"),
    )
    return Features(
        commands=frozenset(text(row, "name") for row in as_objects(commands, "query-commands")),
        capabilities=frozenset(
            text(row, "capability") for row in as_objects(capabilities, "query-migrate-capabilities")
        ),
        parameters=frozenset(as_object(parameters, "query-migrate-parameters")),
    )
