"""The process that takes over a migration with disks when its console is killed; see `godwit.console.guarding`."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING

from godwit.cli.terminal import echo
from godwit.console.diskcopy import Guard
from godwit.console.guarding import ENDED, HANDS_OVER, HANDS_OVER_STOPPED, Orders, take_over

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.console.sides import Sides
    from godwit.model import DiskCopy


class GuardProcess(Guard):
    """Starts that process and speaks to it over its standard input."""

    def __init__(self) -> None:
        """Begin without one."""
        self._process: subprocess.Popen[str] | None = None

    async def begin(self, sides: Sides, copies: Sequence[DiskCopy], before: dict[str, bool], disks: str) -> None:
        """Start it, in a session of its own: what ends the console's terminal must not end it."""
        self._process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
            [sys.executable, "-m", "godwit.cli.monitorguard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=None,
            text=True,
            start_new_session=True,
        )
        self._say(Orders(*sides.places, tuple(copy.job for copy in copies), before, disks).line())

    async def hands_over(self, *, resume: bool) -> None:
        """Say that from here on nothing is to be taken back."""
        self._say(f"{HANDS_OVER if resume else HANDS_OVER_STOPPED}\n")

    async def end(self) -> None:
        """Let it go."""
        self._say(f"{ENDED}\n")
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):  # it is gone already
                process.stdin.close()
            await asyncio.to_thread(process.wait)

    def _say(self, words: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            # A guard that was killed guards no more; the migration itself does not depend on it.
            with contextlib.suppress(OSError):
                self._process.stdin.write(words)
                self._process.stdin.flush()


def main() -> int:
    """Wait for the end of the console, and do what it left undone."""
    first = sys.stdin.readline()
    if not first:
        return 0
    last_word = ""
    for line in sys.stdin:
        last_word = line.strip()
    if last_word == ENDED:
        return 0
    troubles = asyncio.run(_take_over(Orders.of(first), last_word))
    for trouble in troubles:
        echo(f"godwit: after the end of the console: {trouble}", err=True)
    return 1 if troubles else 0


async def _take_over(orders: Orders, last_word: str) -> list[str]:
    from godwit.cli.ground import service  # noqa: PLC0415 - start-up time

    async with service(carries=True) as opened:
        return await take_over(opened, orders, last_word)


if __name__ == "__main__":
    sys.exit(main())
