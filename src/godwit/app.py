"""The composition root: the one place that wires implementations to ports."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from godwit.clock import now
from godwit.identifiers import is_job
from godwit.runners import RunnerProcesses

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from godwit.measure.watcher import Launch
    from godwit.model import HostRecord
    from godwit.ports import Host, Inventory
    from godwit.service import Service

HOME_VARIABLE: Final = "GODWIT_HOME"


class RealClock:
    """The controller's clock, which is steady; see `godwit.ports.Clock`."""

    def now(self) -> float:
        """Return UNIX seconds."""
        return now()

    async def sleep(self, seconds: float) -> None:
        """Let real seconds pass."""
        await asyncio.sleep(seconds)


def home() -> Path:
    """Return the folder of journal, inventory, locks and logs: GODWIT_HOME, else by who asks."""
    named = os.environ.get(HOME_VARIABLE)
    if named:
        return Path(named).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/godwit")
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "godwit"


def preload() -> None:
    """Load what a runner needs, so that one that is forked later starts at once."""
    from godwit import saves, service  # noqa: F401, PLC0415
    from godwit.engine import engine, restoring, saving  # noqa: F401, PLC0415
    from godwit.hosts import connect  # noqa: F401, PLC0415
    from godwit.journal import database, sqljournal  # noqa: F401, PLC0415
    from godwit.tls import certificates  # noqa: F401, PLC0415


@asynccontextmanager
async def opened(
    folder: Path | None = None, migrating: tuple[str, str] | None = None, *, hurried: bool = False
) -> AsyncIterator[Service]:
    """Open journal and inventory in `folder` (by default `home()`), and give the use cases over them.

    `migrating` names a migration and its guest that will be asked for at once: its runner loads meanwhile. Who is
    `hurried` does not wait long for a stopped process that holds the journal: it has nothing under way.
    """
    runners = RunnerProcesses(folder or home())
    if migrating is not None:
        runners.prepare(*migrating)
    from godwit.hooks import FileHooks  # noqa: PLC0415 - start-up time
    from godwit.hosts.fencing import PowerFencer  # noqa: PLC0415 - start-up time
    from godwit.journal.database import Database  # noqa: PLC0415 - start-up time
    from godwit.journal.sqljournal import SqlInventory, SqlJournal  # noqa: PLC0415 - start-up time
    from godwit.measure.watcher import ProbeWatcher  # noqa: PLC0415 - start-up time
    from godwit.qemu.hypervisor import QemuHypervisor  # noqa: PLC0415 - start-up time
    from godwit.service import Service  # noqa: PLC0415 - start-up time
    from godwit.tls.authority import HomeAuthority  # noqa: PLC0415 - start-up time

    async with AsyncExitStack() as undo:
        undo.callback(runners.release)
        database = await Database.open(runners.home / "journal.db", hurried=hurried)
        journal = SqlJournal(database)
        undo.push_async_callback(journal.close)
        inventory, clock = SqlInventory(database), RealClock()
        yield Service(
            journal=journal,
            inventory=inventory,
            hypervisor=QemuHypervisor(),
            runners=runners,
            watcher=ProbeWatcher(launcher(inventory)),
            clock=clock,
            open_host=open_host,
            authority=HomeAuthority(runners.home, clock),
            fencer=PowerFencer(),
            life=runners,
            hooks=FileHooks(runners.home),
        )


def open_host(record: HostRecord) -> Host:
    """Return the host that a record describes; nothing is connected yet."""
    from godwit.hosts.connect import open_host as connect  # noqa: PLC0415 - start-up time

    return connect(record)


def launcher(inventory: Inventory) -> Callable[[str], Awaitable[Launch]]:
    """Return what starts a prober at a registered host, whose own machine stands for the controller's."""

    async def launch_at(vantage: str) -> Launch:
        from godwit.hosts.spawning import spawner  # noqa: PLC0415 - start-up time

        return spawner(await inventory.host(vantage))

    return launch_at


async def run_migration(identifier: str) -> None:
    """Carry one migration, save or restore from where its journal says it stands to its end.

    Raises JournalError, SupersededError, and of a save or restore what keeps its next step from being known.
    """
    if is_job(identifier):
        await _run_job(identifier)
        return
    from godwit.core.state import TERMINAL, outcome_status  # noqa: PLC0415 - start-up time
    from godwit.engine.engine import Engine  # noqa: PLC0415 - start-up time

    async with opened() as service:
        epoch = await service.journal.take_over(identifier)
        row, state = await service.journal.load(identifier)
        if state.phase in TERMINAL and row.outcome is not None and row.outcome.status is outcome_status(state):
            return
        parts = await service.parts(row.spec, epoch=epoch, requested=row.created)
        try:
            await Engine(parts, state).run()
        finally:
            await asyncio.gather(parts.source.close(), parts.target.close())
        from godwit.pruning import keep_bounded  # noqa: PLC0415 - start-up time

        await keep_bounded(service)


async def _run_job(identifier: str) -> None:
    from godwit.engine.jobs import carry  # noqa: PLC0415 - start-up time
    from godwit.saves import Saves  # noqa: PLC0415 - start-up time

    async with opened() as service:
        await carry(await Saves(service).desk(identifier))
