"""Logs that do not grow without end."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

LONGEST: Final = 1 << 20
"""Bytes that a log may have."""

_KEPT: Final = LONGEST // 4
"""Bytes of its end that are kept of one that is longer."""

_CUT: Final = b"(the beginning was cut off)\n"


def keep_short(log: int) -> None:
    """Cut off the beginning of a log that has become too long; `log` is a descriptor that appends to it.

    What is no file, such as a terminal, is left alone, and so is a log that cannot be read.
    """
    try:
        looked = os.fstat(log)
        if not stat.S_ISREG(looked.st_mode) or looked.st_size <= LONGEST:
            return
        with Path(f"/proc/self/fd/{log}").open("rb") as file:
            file.seek(-_KEPT, os.SEEK_END)
            kept = file.read()
        os.ftruncate(log, 0)
        os.write(log, _CUT + kept[kept.find(b"\n") + 1 :])
    except OSError:
        return
