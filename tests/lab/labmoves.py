"""A migration in the laboratory, followed through its journal, and the processes that carry it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from labwaits import LONG, until

from godwit import app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from labtools import Ground

    from godwit.core.state import Phase, State
    from godwit.model import Outcome
    from godwit.ports import Entry
    from godwit.service import Service


@dataclass(slots=True)
class Move:
    """One migration, followed through its journal."""

    ground: Ground
    id: str

    @asynccontextmanager
    async def _service(self) -> AsyncIterator[Service]:
        async with app.opened(self.ground.home) as service:
            yield service

    async def state(self) -> State:
        """Return what the journal says now."""
        async with self._service() as service:
            return (await service.journal.load(self.id))[1]

    async def entries(self) -> list[Entry]:
        """Return the journal's lines."""
        async with self._service() as service:
            await service.journal.flush()
            return await service.journal.entries(self.id)

    async def phases(self) -> list[str]:
        """Return the phases that the journal names, in order, each once in a row."""
        found = [str(one.data["phase"]) for one in await self.entries() if one.kind == "transition"]
        return [phase for n, phase in enumerate(found) if n == 0 or found[n - 1] != phase]

    async def reaches(self, phase: Phase, deadline: float = LONG) -> Self:
        """Wait until the journal says that the move is in this phase."""
        await self._follow(lambda state, _: state.phase is phase, f"phase {phase}", deadline)
        return self

    async def streams(self, iteration: int, deadline: float = LONG) -> Self:
        """Wait until the stream is in its so-manieth pass and has sent something."""

        def seen(_: State, entries: list[Entry]) -> bool:
            samples = [one.data for one in entries if one.kind == "sample"]
            return any(int(str(s["iteration"])) >= iteration and int(str(s["transferred"])) > 0 for s in samples)

        await self._follow(seen, f"pass {iteration}", deadline)
        return self

    async def _follow(self, good: Callable[[State, list[Entry]], bool], words: str, deadline: float) -> None:
        end = time.monotonic() + deadline
        async with self._service() as service:
            while True:
                row, state = await service.journal.load(self.id)
                if good(state, await service.journal.entries(self.id)):
                    return
                assert row.outcome is None, f"ended before {words}: {row.outcome}"
                assert time.monotonic() < end, f"not within {deadline:.0f} s: {words}; it is in {state.phase}"
                await asyncio.sleep(0.02)

    async def outcome(self, deadline: float = LONG) -> Outcome:
        """Wait for the end, and for the runner's."""
        end = time.monotonic() + deadline
        async with self._service() as service:
            while True:
                row, state = await service.journal.load(self.id)
                if row.outcome is not None and not service.runners.alive(self.ground.name):
                    return row.outcome
                assert time.monotonic() < end, f"did not end within {deadline:.0f} s; it is in {state.phase}"
                await asyncio.sleep(0.05)

    async def epoch(self) -> int:
        """Return how many runners have worked on it."""
        async with self._service() as service:
            return (await service.journal.load(self.id))[0].epoch

    async def taken_over(self, epoch: int, deadline: float = LONG) -> None:
        """Wait until the so-manieth runner works on it and has looked at both sides."""
        end = time.monotonic() + deadline
        while await self.epoch() < epoch or self.processes()[1] is None:
            assert time.monotonic() < end, f"no runner number {epoch} within {deadline:.0f} s"
            await asyncio.sleep(0.05)

    async def dies(self) -> None:
        """Wait until nobody works on it any more."""
        await until(lambda: self.processes() == (None, None), "the controller is dead")

    def processes(self) -> tuple[int | None, int | None]:
        """Return the supervisor and the runner, None where there is none."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if b"godwit.runner" in words and self.id.encode() in words:
                found[int(entry.name)] = parent
        runner = next((pid for pid, parent in found.items() if parent in found), None)
        supervisor = next((pid for pid in found if pid != runner), None)
        return supervisor, runner

    async def kill_runner(self) -> None:
        """End the runner, not its supervisor, as a machine's memory shortage would."""
        await until(lambda: self.processes()[1] is not None, "a runner")
        _, runner = self.processes()
        assert runner is not None
        os.kill(runner, signal.SIGKILL)

    async def notices(self, word: str, deadline: float = LONG) -> None:
        """Wait until the journal has an entry of both sides having been looked at, or a note, that holds `word`."""

        def seen(_: State, entries: list[Entry]) -> bool:
            return any(one.kind != "sample" and word in json.dumps(one.data) for one in entries)

        await self._follow(seen, f"{word!r} in the journal", deadline)

    async def cancel_is_asked_for(self) -> None:
        """Wait until the journal holds the wish to cancel."""
        end = time.monotonic() + LONG
        async with self._service() as service:
            while await service.journal.cancel_requested(self.id) is None:
                assert time.monotonic() < end, "nobody asked to cancel"
                await asyncio.sleep(0.02)
