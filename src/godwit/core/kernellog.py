"""What a guest's serial console says of its kernel's health. Pure: the text is the guest's, and proves nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from godwit.plaintext import one_line

MOST: Final = 5
"""Lines that are told; the first ones, since what follows an oops mostly follows from it."""

_LONGEST: Final = 200

_FATAL: Final = re.compile(r"Kernel panic - not syncing|end Kernel panic|KERNEL PANIC|\*\*\* STOP: 0x")
_TROUBLE: Final = re.compile(
    r"\bBUG: |kernel BUG at |\bOops\b[: ]|list_(?:add|del) corruption|general protection fault|double fault: "
    r"|Unable to handle kernel|soft lockup|hard LOCKUP|detected stalls? on CPU|self-detected stall on CPU"
    r"|blocked for more than \d+ seconds|Bad page (?:state|map)|page allocation failure"
)
"""Words of Linux's own: lib/bug.c, lib/list_debug.c, kernel/watchdog.c, kernel/rcu/tree_stall.h, kernel/hung_task.c."""


@dataclass(frozen=True, slots=True)
class KernelTrouble:
    """Lines that tell of a kernel in trouble; `fatal` where it says that it has stopped."""

    lines: tuple[str, ...]
    fatal: bool


def kernel_trouble(said: bytes) -> KernelTrouble | None:
    """Return what a console told of its kernel being in trouble; None where it told of nothing."""
    found = [
        line for line in said.decode(errors="replace").splitlines() if _TROUBLE.search(line) or _FATAL.search(line)
    ]
    if not found:
        return None
    first = tuple(one_line(line.strip(), _LONGEST) for line in found[:MOST])
    return KernelTrouble(first, any(_FATAL.search(line) for line in found))
