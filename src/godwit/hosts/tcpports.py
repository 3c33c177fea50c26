"""Which TCP ports of a host are free for a migration stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.errors import BusyError
from godwit.model import MIGRATION_PORTS

if TYPE_CHECKING:
    import random
    from collections.abc import Set as AbstractSet

LIST: Final = "cat /proc/net/tcp /proc/net/tcp6 2>/dev/null || cat /proc/net/tcp\n"

_LOCAL: Final = 1
_FIELDS: Final = 4


def parse_used(table: str) -> frozenset[int]:
    """Return the local ports of /proc/net/tcp and tcp6, in whatever state their sockets are."""
    ports: set[int] = set()
    for line in table.splitlines():
        fields = line.split()
        if len(fields) >= _FIELDS and ":" in fields[_LOCAL] and fields[0].rstrip(":").isdigit():
            ports.add(int(fields[_LOCAL].rsplit(":", 1)[1], 16))
    return frozenset(ports)


def choose(used: AbstractSet[int], chance: random.Random) -> int:
    """Return a port that is not in use, by chance, so that two migrations that ask at once rarely get the same one.

    It is one of the lower half: whoever finds it taken after all can go on to those above.
    Raises BusyError when the whole range is taken.
    """
    free = [port for port in MIGRATION_PORTS if port not in used]
    if not free:
        message = f"all TCP ports from {MIGRATION_PORTS[0]} to {MIGRATION_PORTS[-1]} are in use on the host"
        raise BusyError(message, remedy="see with `ss -tan` what uses them")
    return chance.choice(free[: (len(free) + 1) // 2])
