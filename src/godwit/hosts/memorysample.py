"""What a guest's memory is like, from samples of its pages that its host looks at through /proc/PID/mem.

Nothing of the pages leaves the process that looks at them, and nothing of them is written. A page that the guest never
touched is given memory by being looked at, as a migration would: SAMPLE pages, once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from godwit.errors import HostError
from godwit.hosts.shell import words_of
from godwit.model import MemorySample
from godwit.plaintext import from_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.hosts.transport import Transport

SAMPLE: Final = 4096
"""Pages that are looked at: 16 MiB. A share of one half is known to within 1.6 % by that many, four times in five."""

PAUSE: Final = 1.0
"""Seconds between the two looks: about what passes take of guests that are hard to move. A page that is written to here
and there has more changes the longer one waits."""

_PROGRAM: Final = Path(__file__).with_name("memorylook.py")
_DEADLINE: Final = 20.0
_NO_SUCH_PROGRAM: Final = 127


async def sample_memory(transport: Transport, pid: int, areas: Sequence[tuple[int, int]]) -> MemorySample:
    """Look at the memory of process `pid` at `areas` (address and bytes). Raises HostError saying why it cannot."""
    where = [f"{address}:{size}" for address, size in areas]
    argv = ["python3", "-", str(pid), str(SAMPLE), str(PAUSE), *where]
    done = await transport.run(argv, stdin=_PROGRAM.read_bytes(), deadline=_DEADLINE)
    if done.status == _NO_SUCH_PROGRAM:
        message = f"{transport.where} has no python3"
        raise HostError(message, remedy="install python3 there; forecasts do without, less exactly")
    if done.status != 0:
        words = words_of(done).splitlines()[-1]
        message = f"memory of process {pid} cannot be looked at on {transport.where}: {words}"
        raise HostError(message, remedy="log in as root, or as the user that runs the guest")
    try:
        return read_sample(done.stdout)
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        message = f"what {transport.where} says of the memory of process {pid} cannot be read: {error!r}"
        raise HostError(message) from None


def read_sample(said: bytes) -> MemorySample:
    """Read what the program said. Raises ValueError, KeyError, TypeError, ZeroDivisionError."""
    told = from_json(said)
    if not isinstance(told, dict) or not all(isinstance(value, int | float) and value >= 0 for value in told.values()):
        message = "it is no list of figures"
        raise ValueError(message)
    return MemorySample(
        pages=told["pages"],
        zero=told["zero"],
        changed=told["changed"],
        again=told["changes"] / (told["changed"] * 4096) if told["changed"] else None,
        compressed=told["packed"] / told["looked"] if told["looked"] else None,
        seconds=told["seconds"],
        compressed_again=told["again_packed"] / told["again_looked"] if told["again_looked"] else None,
    )
