"""A runner process like any other, supervisor and all, but for its hosts: these are simulated, within the process.

`python -m bench.loadrunner ID VM SECONDS FIGURES`: everything else (locks, journal, engine, what is loaded) is what
`python -m godwit.runner` has. When it ends it appends what its writes to the journal took to the file FIGURES.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.fleet import fleet, number_of, workload
from godwit import app, runner
from godwit.hosts.fake import LoopClock
from godwit.journal import sqljournal

if TYPE_CHECKING:
    from godwit.core.state import State
    from godwit.model import HostRecord
    from godwit.ports import Entry, Host

_WRITES: Final[list[dict[str, object]]] = []


class _TimedJournal(sqljournal.SqlJournal):
    """Notes how long each transition took to be written."""

    async def transition(self, identifier: str, epoch: int, entry: Entry, state: State, *, durable: bool) -> None:
        """Write a step, and note what it took."""
        began = time.perf_counter()
        try:
            await super().transition(identifier, epoch, entry, state, durable=durable)
        finally:
            took = time.perf_counter() - began
            _WRITES.append({"phase": state.phase.value, "durable": durable, "seconds": took})


def tell(vm: str, path: Path) -> None:
    """Append what the writes took."""
    with path.open("a") as file:
        file.write(json.dumps({"vm": vm, "writes": _WRITES}) + "\n")


def main() -> int:
    """Be the supervisor, and in its child the runner."""
    identifier, vm, seconds, figures = sys.argv[1:5]
    found: dict[str, Host] = {}

    def open_host(record: HostRecord) -> Host:
        if not found:
            number = number_of(vm)
            found.update(fleet((number,), workload(float(seconds)), clock=LoopClock(epoch=time.time())).hosts)
        return found[record.name]

    async def run_migration(identifier: str) -> None:
        try:
            await carry(identifier)
        finally:
            tell(vm, Path(figures))

    carry = app.run_migration
    app.open_host = open_host
    app.run_migration = run_migration
    sqljournal.SqlJournal = _TimedJournal  # type: ignore[misc] # what the composition root takes from there
    return runner.supervise(identifier, vm)


if __name__ == "__main__":
    sys.exit(main())
