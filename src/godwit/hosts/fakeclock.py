"""Time for the simulation: the machine's own, faster if wanted, or virtual: no waiting at all, and exact."""

from __future__ import annotations

import asyncio
import selectors
from typing import Final

EPOCH: Final = 1_700_000_000.0
"""UNIX seconds at which a simulation begins unless it is told otherwise."""


class LoopClock:
    """The clock of the running event loop, `speed` times as fast. Implements `godwit.ports.Clock`.

    Over a VirtualTimeLoop it is a virtual clock, and engine timeouts (`asyncio.timeout`) agree with it at speed 1.
    """

    def __init__(self, *, speed: float = 1.0, epoch: float = EPOCH) -> None:
        """Begin at `epoch`, in UNIX seconds, when it is first asked."""
        self._speed = speed
        self._epoch = epoch
        self._began: float | None = None

    def now(self) -> float:
        """Return simulated UNIX seconds."""
        time = asyncio.get_running_loop().time()
        if self._began is None:
            self._began = time
        return self._epoch + (time - self._began) * self._speed

    async def sleep(self, seconds: float) -> None:
        """Let simulated `seconds` pass."""
        await asyncio.sleep(max(0.0, seconds) / self._speed)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that jumps to its next timer instead of waiting for it.

    A program that only waits for timers runs at full speed, and always the same way. Threads and real sockets still
    work, but time may then run ahead of them.
    """

    def __init__(self) -> None:
        """Start at time 0."""
        self._virtual = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Return virtual seconds."""
        return self._virtual

    def jump(self, seconds: float) -> None:
        """Let `seconds` have passed."""
        self._virtual += seconds


class _JumpingSelector(selectors.DefaultSelector):
    """Looks at the real descriptors without waiting; where none is ready, time jumps."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout is None:
            return ready or super().select(None)
        self._loop.jump(max(0.0, timeout))
        return []
