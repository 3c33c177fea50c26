"""How much the CPUs of a guest have worked: what its host counts of the threads that play them (stat in proc(5))."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.errors import HostError
from godwit.hosts.shell import run_script

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.hosts.transport import Transport

_READ: Final = r"""
getconf CLK_TCK
for thread in "$@"; do cat "/proc/$thread/task/$thread/stat" || exit 1; done
"""
_USER, _SYSTEM = 11, 12
"""Where a line has the clock ticks in user and kernel mode, counted from the state, which follows the name."""


async def cpu_times(transport: Transport, threads: Sequence[int]) -> tuple[float, ...]:
    """Return the seconds for which each thread has worked so far. Raises HostError where that cannot be seen."""
    completed = await run_script(transport, _READ, *map(str, threads))
    try:
        return parse(completed.stdout.decode(errors="replace"))
    except (ValueError, IndexError) as error:
        message = f"what threads take on {transport.where} cannot be read: {error}"
        raise HostError(message) from None


def parse(text: str) -> tuple[float, ...]:
    """Read the clock ticks a second, and a line of `stat` for each thread. Raises ValueError, IndexError."""
    first, *lines = text.splitlines() or [""]
    ticks, found = int(first), []
    for line in lines:
        fields = line[line.rindex(")") + 2 :].split()  # the name is in parentheses, and may hold any character
        found.append((int(fields[_USER]) + int(fields[_SYSTEM])) / ticks)
    return tuple(found)
