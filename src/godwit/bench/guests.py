"""The guests that are moved, and what goes on in them: a writer that tells how far it has come."""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from godwit.errors import LabError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from godwit.bench.scenarios import Scenario
    from godwit.lab.laboratory import Laboratory

_BOOT_DEADLINE: Final = 90.0
_LINE: Final = re.compile(rb"memwriter t=\S+ rate=\S+ pages=\d+ total=(\d+)")
_STARTS: Final = 30.0
_FILLS: Final = 6.0
"""Seconds for which a writer fills what it would fill in one: memory has to be found first."""

_STEADY: Final = 3
"""Lines, a second apart, after which a writer's pace is known."""


def login(lab: Laboratory, address: str) -> list[str]:
    """Return the command that logs in to a guest."""
    options = ["-i", str(lab.client.key_file), "-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR"]
    options += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=5"]
    return ["ssh", *options, f"root@{address}"]


async def booted(lab: Laboratory, address: str) -> None:
    """Wait until a guest lets somebody log in. Raises LabError."""
    end = time.monotonic() + _BOOT_DEADLINE
    while time.monotonic() < end:
        command = [*login(lab, address), "true"]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False)
        if done.returncode == 0:
            return
        await asyncio.sleep(0.5)
    message = f"nobody can log in to {address} {_BOOT_DEADLINE:.0f} s after its start"
    raise LabError(message)


async def use_once(lab: Laboratory, address: str, size: int) -> None:
    """Let a guest fill `size` MiB of its memory with what is no zeroes, and free them. Raises LabError."""
    line = f"memwriter --rate {size}M --set {size}M >/run/log/once & sleep {_FILLS:g}; killall memwriter"
    done = await asyncio.to_thread(subprocess.run, [*login(lab, address), line], capture_output=True, check=False)
    if done.returncode != 0:
        message = f"nothing fills the memory of {address}: {done.stderr.decode(errors='replace').strip()}"
        raise LabError(message)


@dataclass(slots=True)
class Writer:
    """What the writer in a guest has told: pages that it has written in all, and when that was heard."""

    program: str
    heard: list[tuple[float, int]] = field(default_factory=list)
    _process: asyncio.subprocess.Process | None = None
    _reader: asyncio.Task[None] | None = None
    _steady: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    async def begin(cls, lab: Laboratory, address: str, scenario: Scenario) -> Self:
        """Start what the scenario writes. Raises LabError where that is not soon heard of."""
        assert scenario.first is not None  # noqa: S101 - who calls this has looked; for the type checker
        line = scenario.first.line
        if scenario.changes is not None:
            line = f"{line}; {scenario.changes[1].line}"
        made = cls(scenario.first.program)
        made._process = await asyncio.create_subprocess_exec(
            *login(lab, address), line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        made._reader = asyncio.create_task(made._read())
        try:
            async with asyncio.timeout(_STARTS):
                await made._steady.wait()
        except TimeoutError:
            await made.end(lab, address)
            message = f"nothing was heard of the writer in {address} within {_STARTS:.0f} s"
            raise LabError(message) from None
        except BaseException:  # whoever ends a comparison now would leave it behind
            made.let_go()
            raise
        return made

    async def _read(self) -> None:
        assert self._process is not None  # noqa: S101 - set before this starts; for the type checker
        assert self._process.stdout is not None  # noqa: S101 - as above
        async for line in self._process.stdout:
            if (found := _LINE.match(line)) is not None:
                self.heard.append((time.time(), int(found[1])))
                if len(self.heard) >= _STEADY:
                    self._steady.set()

    async def change(self, lab: Laboratory, address: str, after: float) -> None:
        """Let the second writer follow the first one, `after` seconds from now."""
        await asyncio.sleep(after)
        await asyncio.to_thread(subprocess.run, [*login(lab, address), f"killall {self.program}"], check=False)

    async def end(self, lab: Laboratory, address: str) -> None:
        """End it in the guest, and what listened to it here."""
        await asyncio.to_thread(subprocess.run, [*login(lab, address), f"killall {self.program}"], check=False)
        self.let_go()
        if self._process is not None:
            await self._process.wait()
        if self._reader is not None:
            await self._reader

    def let_go(self) -> None:
        """End what listens to it here, and let it write on."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()


def lost_work(heard: list[tuple[float, int]], began: float, ended: float) -> float | None:
    """Return by how many seconds a writer fell behind between two instants, at its pace before them.

    None for one whose pace before them is not known, or that was not heard of to the end. Of one that changes while it
    is moved this says nothing: what it did before is no measure.
    """
    before = [one for one in heard if one[0] <= began]
    if len(before) < 2 or not heard or heard[-1][0] < ended:  # noqa: PLR2004 - a pace takes two
        return None
    (first_at, first), (last_at, last) = before[0], before[-1]
    pace = (last - first) / (last_at - first_at)
    if pace <= 0:
        return None
    done = _at(heard, ended) - _at(heard, began)
    return max(0.0, (ended - began) - done / pace)


def _at(heard: list[tuple[float, int]], instant: float) -> float:
    """Return how many pages were written by then: between two lines it is taken to have been steady."""
    earlier = [one for one in heard if one[0] <= instant][-1]
    later = next((one for one in heard if one[0] > instant), None)
    if later is None:
        return earlier[1]
    share = (instant - earlier[0]) / (later[0] - earlier[0])
    return earlier[1] + share * (later[1] - earlier[1])


@asynccontextmanager
async def writing(lab: Laboratory, address: str, scenario: Scenario) -> AsyncIterator[Writer | None]:
    """Let a guest write as the scenario says, for as long as this lasts."""
    if scenario.first is None:
        yield None
        return
    writer = await Writer.begin(lab, address, scenario)
    try:
        yield writer
    finally:
        await writer.end(lab, address)
