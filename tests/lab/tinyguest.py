"""A guest in one sector, for command lines that name a disk and nothing else: the BIOS boots it from its image.

It counts at 0x9000, writes each number to a sector of its disk before it takes the next, and keeps the last number
that the disk has acknowledged at 0x9004: a stand-in for the seed's `top` that also says whether a write was lost.
"""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

SECTOR: Final = 512
SECTORS: Final = 60
COUNTER: Final = 0x9000
ACKNOWLEDGED: Final = 0x9004
MIB: Final = 1 << 20

# GNU as, .code16:
#   _start: xorw %ax,%ax; movw %ax,%ds; movw %ax,%es; movw %ax,%ss; movw $0x7c00,%sp; movl %eax,%eax
#           movl $0,0x9000
#   again:  incl 0x9000; movl 0x9000,%eax; movl %eax,0x8000
#           xorl %edx,%edx; movl $60,%ecx; divl %ecx; movw %dx,%cx; addw $2,%cx     sector 2 + number % 60
#           movw $0x0301,%ax; movw $0x0080,%dx; movw $0x8000,%bx; int $0x13         write one sector
#           movl 0x8000,%eax; movl %eax,0x9004; sti; hlt; jmp again                 18 a second
_CODE: Final = bytes.fromhex(
    "31c08ed88ec08ed0bc007c6689c066c70600900000000066ff06009066a1009066a300806631d266b93c00000066f7f189d183c102"
    "b80103ba8000bb0080cd1366a1008066a30490fbf4ebcb"
)


def write_image(path: Path, size: int, filled: int) -> None:
    """Make a raw image of `size` bytes that boots; `filled` bytes from 8 MiB on hold what no zero stands for."""
    with path.open("wb") as file:
        file.write(_CODE.ljust(SECTOR - 2, b"\0") + b"\x55\xaa")
        file.seek(8 * MIB)
        file.write(random.Random(1).randbytes(filled))  # noqa: S311 - anything but zeros
        file.truncate(size)


def lost_writes(raw: Path, acknowledged: int) -> list[int]:
    """Return the acknowledged numbers that a raw image does not hold where they were written."""
    with raw.open("rb") as file:
        file.seek(SECTOR)
        head = file.read(SECTOR * SECTORS)
    last = range(
        max(1, acknowledged - SECTORS + 2), acknowledged + 1
    )  # the next write may have taken the oldest's place
    held = {number: struct.unpack_from("<I", head, number % SECTORS * SECTOR)[0] for number in last}
    return [number for number, found in held.items() if found != number]
