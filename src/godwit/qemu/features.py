"""What a QEMU can do, asked of itself: introspection instead of version numbers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from godwit.model import Features
from godwit.qemu.reply import as_object, as_objects, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from godwit.qemu.qom import Asks


async def probe(monitor: Asks) -> Features:
    """Ask for commands, migration capabilities, parameters and ways to compress, in one round trip.

    Raises what Monitor.execute raises. Parameters that QEMU leaves out while they are unset are absent.
    """
    commands, capabilities, parameters, schema = await asyncio.gather(
        monitor.execute("query-commands"),
        monitor.execute("query-migrate-capabilities"),
        monitor.execute("query-migrate-parameters"),
        monitor.execute("query-qmp-schema"),
    )
    return Features(
        commands=frozenset(text(row, "name") for row in as_objects(commands, "query-commands")),
        capabilities=frozenset(
            text(row, "capability") for row in as_objects(capabilities, "query-migrate-capabilities")
        ),
        parameters=frozenset(as_object(parameters, "query-migrate-parameters")),
        compressions=compressions(as_objects(schema, "query-qmp-schema")),
    )


def compressions(schema: Iterable[Mapping[str, object]]) -> frozenset[str]:
    """Return the values that the parameter `multifd-compression` takes: QEMU is built with some of them, or without.

    The schema names types by numbers: the way goes from the command to its argument, and on to that one's type.
    """
    types = {text(row, "name"): row for row in schema}
    command = types.get("migrate-set-parameters", {})
    argument = types.get(text(command, "arg-type"), {})
    for member in as_objects(argument.get("members", []), "query-qmp-schema"):
        if text(member, "name") == "multifd-compression":
            values = types.get(text(member, "type"), {}).get("values", [])
            return frozenset(str(value) for value in values) if isinstance(values, list) else frozenset()
    return frozenset()
