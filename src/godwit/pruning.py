"""The use cases of what goes: stories of moves that ended, their logs, and what is kept of all by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.errors import InputError

if TYPE_CHECKING:
    from godwit.ports import Ended
    from godwit.service import Service

CURVES_KEPT: Final = 90 * 86400.0
"""Seconds for which a report can draw curves of a move; how it went and ended is kept until somebody removes it."""

LINES_AT_ONCE: Final = 5000
"""How many lines of old moves a runner removes at its end, about."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to go: what was asked for longer ago than `older_than` seconds, but for the `keep` newest.

    `learned` takes what forecasts learn from as well, as far as it is as old.
    """

    older_than: float | None = None
    keep: int | None = None
    learned: bool = False


@dataclass(frozen=True, slots=True)
class Pruned:
    """What went, or would go: `freed` is in bytes on the disk, `in_use` what was left since somebody works on it.

    `small` says that the journal's file is as small as it can be; where others work it may have to wait for that.
    """

    identifiers: tuple[str, ...]
    in_use: tuple[str, ...]
    logs: int
    learned: int
    freed: int
    small: bool


async def prune(service: Service, wanted: Wanted, *, dry_run: bool = False) -> Pruned:
    """Remove what has ended, never what has not and never what is in LIMBO. Raises InputError, JournalError."""
    if wanted.older_than is None and wanted.keep is None:
        message = "it is not said what may go"
        raise InputError(message, remedy="write for example --older-than 90d, --keep 1000, or both: what both remove")
    if wanted.learned and wanted.older_than is None:
        message = "what forecasts learn from has an age and no number"
        raise InputError(message, remedy="write for example --older-than 365d --learned")
    archive, now = service.journal.archive, service.clock.now()
    before = now - (wanted.older_than or 0.0)
    ended = await archive.ended(before, wanted.keep or 0)
    going = [one for one in ended if not service.runners.alive(one.vm)]
    names = [one.id for one in going]
    logs = await _logs(service, names, before)
    learned = await archive.learned(before) if wanted.learned else 0
    bytes_of_logs = sum(size for _, size in logs)
    if dry_run:
        return Pruned(tuple(names), _others(ended, going), len(logs), learned, bytes_of_logs, small=False)
    size = await archive.size()
    await archive.remove(names)
    if learned:
        await archive.unlearn(before)
    for name, _ in logs:
        service.runners.remove_log(name)
    small = await archive.shrink(alone=await _alone(service))
    freed = max(0, size - await archive.size()) + bytes_of_logs
    return Pruned(tuple(names), _others(ended, going), len(logs), learned, freed, small)


async def keep_bounded(service: Service) -> None:
    """Let go of the oldest moves' curves, and of logs as old, a little at a time: at the end of each move.

    Raises JournalError.
    """
    now = service.clock.now()
    before = now - CURVES_KEPT
    await service.journal.archive.thin(before, now, LINES_AT_ONCE)
    unfinished = {row.spec.id for row in await service.journal.rows(unfinished=True, limit=1000)}
    unfinished |= {job.id for job in await service.journal.jobs.rows(unfinished=True, limit=1000)}
    for name, log in service.runners.logs().items():
        if log.written < before and name not in unfinished:
            service.runners.remove_log(name)


def _others(ended: list[Ended], going: list[Ended]) -> tuple[str, ...]:
    gone = {one.id for one in going}
    return tuple(one.id for one in ended if one.id not in gone)


async def _logs(service: Service, names: list[str], before: float) -> list[tuple[str, int]]:
    """Return the logs of what goes, and old ones of what nobody knows any more, with their sizes."""
    known = {row.spec.id for row in await service.journal.rows(limit=_ALL)}
    known |= {job.id for job in await service.journal.jobs.rows(limit=_ALL)}
    going = set(names)
    found = service.runners.logs().items()
    return [(name, log.size) for name, log in found if name in going or (name not in known and log.written < before)]


async def _alone(service: Service) -> bool:
    """Say whether nobody is at work, so that the journal's file may be locked for a while."""
    if await service.journal.rows(unfinished=True, limit=1) or await service.journal.jobs.rows(
        unfinished=True, limit=1
    ):
        return False
    return not any(service.runners.alive(vm.name) for vm in await service.inventory.vms())


_ALL: Final = 1_000_000
