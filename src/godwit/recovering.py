"""The use cases around what is unfinished: settle it, decide where nobody can know, cut the power of a dead host.

Nothing is driven from here, as in `godwit.service`: a runner does it, and whoever wants to know follows the journal.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from godwit.core.fencing import silent
from godwit.core.limbo import UNKNOWN, Choice, choices
from godwit.core.resolving import contradiction
from godwit.core.state import Phase
from godwit.core.upgrading import names
from godwit.errors import FenceError, GodwitError, InputError, RefusedError, RunnerStuckError
from godwit.model import FenceProof, Side, Word
from godwit.ports import Signs
from godwit.service import FOLLOW_PERIOD, ORPHAN_PATIENCE, STARTING, has_ended

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from godwit.core.saves import Job
    from godwit.core.sending import SendRecord
    from godwit.model import GuestView, HostRecord
    from godwit.ports import Entry, Fencer, MigrationRow, Power
    from godwit.service import Service, Status

STILL: Final = 2.0
"""Seconds without a turn on a CPU after which a runner that looks into the journal five times a second is stuck."""

_ANSWER: Final = 5.0
"""Seconds within which a host that lives lets itself be reached."""


@dataclass(frozen=True, slots=True)
class SideTold:
    """What is known of one side: what it shows now, since when the journal has it so (UNIX seconds), and QEMU's log."""

    host: str
    view: GuestView
    since: float | None
    log: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of a migration in LIMBO, and what a person can do."""

    status: Status
    sides: dict[Side, SideTold]
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What has not ended: migrations, saves and restores, and guests that are being sent with a snapshot."""

    migrations: list[MigrationRow]
    jobs: list[Job]
    sends: list[SendRecord]


@dataclass(frozen=True, slots=True)
class Begun:
    """A runner that looks at a migration: the last line from before, and whether it worked on it already.

    `word` says that it is to hear a person's word: what it says before that is no answer.
    """

    after: int
    joined: bool
    word: bool = False


@dataclass(frozen=True, slots=True)
class Recovery:
    """What can be asked of unfinished work; stands on the service."""

    service: Service

    async def unfinished(self) -> Unfinished:
        """List what has not ended. Raises JournalError."""
        journal, inventory = self.service.journal, self.service.inventory
        return Unfinished(
            await journal.rows(unfinished=True, limit=1000),
            await journal.jobs.rows(unfinished=True, limit=1000),
            await inventory.sends(),
        )

    # -- runners -----------------------------------------------------------------------------------------------------

    async def begin(self, identifier: str, *, take_over: bool = False) -> Begun:
        """See to it that a runner works on a migration: join one that does, or start another.

        One that is there and does nothing is ended with `take_over`. Raises RunnerStuckError for it otherwise.
        """
        row, _ = await self.service.journal.load(identifier)
        lines = await self.service.journal.entries(identifier)
        joined = await self.revive(identifier, row.spec.vm, row.created, take_over=take_over)
        return Begun(lines[-1].sequence if lines else 0, joined)

    async def revive(self, identifier: str, vm: str, created: float, *, take_over: bool) -> bool:
        """See to it that a runner works on a migration, save or restore; say whether one did already."""
        runners, clock = self.service.runners, self.service.clock
        while not runners.alive(vm) and clock.now() - created < STARTING:
            await clock.sleep(FOLLOW_PERIOD)  # its runner may just be starting
        if runners.alive(vm):
            stuck = await self.stuck(identifier, vm)
            if not stuck:
                return True
            if not take_over:
                raise RunnerStuckError(stuck, remedy=f"godwit recover {identifier} --take-over ends it, and goes on")
            assert self.service.life is not None  # noqa: S101 - it told of the runner; for the type checker
            self.service.life.end(identifier, vm)
        runners.start(identifier, vm)
        return False

    async def stuck(self, identifier: str, vm: str) -> str:
        """Say in words that a runner does nothing, and which process that is; empty for one that works."""
        life = self.service.life
        first = Signs() if life is None else life.signs(identifier, vm)
        if life is None or not first.pids:
            return ""
        pid = first.pids[-1]
        if first.stopped:
            return f"the runner of {identifier} is stopped (process {pid}): it got a SIGSTOP, or is being debugged"
        if first.turns is None:
            return ""
        await asyncio.sleep(STILL)  # of the machine, whatever clock the service has
        second = life.signs(identifier, vm)
        if (second.pids, second.turns) != (first.pids, first.turns):
            return ""
        return f"the runner of {identifier} hangs (process {pid}): it did nothing for {STILL:.0f} s"

    async def settle(self, identifier: str, begun: Begun) -> AsyncIterator[Entry]:
        """Yield the journal's new lines until a runner has looked at the migration, told what follows, and ended.

        One that was just ending when it was joined is followed by another. Raises GodwitError when none has looked.
        """
        after, quiet, joined = begun.after, None, begun.joined
        heard, looked = not begun.word, False
        journal, clock = self.service.journal, self.service.clock
        while True:
            row, state = await journal.load(identifier)
            alive = self.service.runners.alive(row.spec.vm)
            for entry in await journal.entries(identifier, after):
                after = entry.sequence
                heard = heard or entry.data.get("event") == "Resolved"
                looked = heard and (looked or _gave_up(entry))
                yield entry
            if state.finished and has_ended(row, state):
                return
            if not alive and looked and state.phase is Phase.LIMBO and row.outcome is not None:
                return
            if joined and not alive:
                joined = False
                self.service.runners.start(identifier, row.spec.vm)
            quiet = None if alive else quiet or clock.now()
            if quiet is not None and clock.now() - quiet > ORPHAN_PATIENCE:
                message = f"nobody works on {identifier}: its runner died and was not started anew"
                raise GodwitError(message, remedy=f"see log/{identifier}.log in Godwit's folder")
            await clock.sleep(FOLLOW_PERIOD)

    # -- limbo -------------------------------------------------------------------------------------------------------

    async def evidence(self, identifier: str) -> Evidence:
        """Look at both sides now and say what is known, and what can be done. Raises UnknownMigrationError."""
        status = await self.service.status(identifier)
        spec = status.row.spec
        guests = {vm.name: vm for vm in await self.service.inventory.vms()}
        records = {record.name: record for record in await self.service.inventory.hosts()}
        lines = await self.service.journal.entries(identifier)

        async def told(side: Side, host: str) -> SideTold:
            if spec.vm not in guests or host not in records:
                return SideTold(host, UNKNOWN, None, "")
            vm = replace(names(spec, side, guests[spec.vm]), host=host)
            view = await self.service.view_vm(vm)
            return SideTold(host, view, since(lines, side, view), vm.log or "")

        source, target = await asyncio.gather(told(Side.SOURCE, spec.source), told(Side.TARGET, spec.target))
        sides = {Side.SOURCE: source, Side.TARGET: target}
        fenceable = {side for side, one in sides.items() if one.host in records and records[one.host].fence is not None}
        state = status.state.inherited()
        return Evidence(status, sides, choices(spec, state, source.view, target.view, frozenset(fenceable)))

    async def resolve(self, identifier: str, owner: Side, by: str) -> Begun:
        """Give a guest in LIMBO to one side, by a person's word, and see to it that a runner hears it.

        Raises InputError for a migration that is not in LIMBO, RefusedError where the evidence contradicts.
        """
        told = await self.evidence(identifier)
        row, state = told.status.row, told.status.state
        if state.phase is not Phase.LIMBO:
            message = f"{identifier} is not in limbo: it is {state.phase}"
            raise InputError(message, remedy=f"godwit recover {identifier} settles what is unfinished")
        views = {side: one.view for side, one in told.sides.items()}
        against = contradiction(state.inherited(), owner, views[Side.SOURCE], views[Side.TARGET])
        if against:
            message = f"{row.spec.vm} cannot be given to {told.sides[owner].host}: {against}"
            raise RefusedError(message, remedy=f"godwit recover {identifier} shows what can be done")
        await self.say(identifier, owner, by)
        return replace(await self.begin(identifier), word=True)

    async def say(self, identifier: str, owner: Side, by: str) -> None:
        """Write a person's word down, for the runner that looks next."""
        await self.service.journal.decisions.put_word(identifier, Word(owner, by, self.service.clock.now()))

    # -- hosts without power -----------------------------------------------------------------------------------------

    async def power(self, host: str) -> Power:
        """Say whether a host is off, by whom its record names. Raises UnknownHostError, FenceError."""
        record = await self.service.inventory.host(host)
        return await self._fencer(record).power(record)

    def _fencer(self, record: HostRecord) -> Fencer:
        if record.fence is None or self.service.fencer is None:
            message = f"nothing is known that cuts the power of {record.name}"
            raise FenceError(message, remedy=f"godwit host fencing {record.name} --help")
        return self.service.fencer

    async def dangers(self, host: str) -> tuple[str, ...]:
        """Say what cutting a host's power would end. Raises UnknownHostError."""
        record = await self.service.inventory.host(host)
        found = [f"{host} answers: it is not dead"] if await self._answers(record) else []
        found += [f"{vm.name} is on it" for vm in await self.service.inventory.vms() if vm.host == host]
        unfinished = await self.unfinished()
        for row in unfinished.migrations:
            if host in {row.spec.source, row.spec.target}:
                found.append(f"{row.spec.vm} may be on it: {row.spec.id} is {row.phase}")
        found += [f"{job.vm} may be on it: {job.id} is {job.step}" for job in unfinished.jobs if job.host == host]
        found += [
            f"{one.vm} may be on it: it is being sent" for one in unfinished.sends if host in {one.source, one.target}
        ]
        return tuple(dict.fromkeys(found))

    async def _answers(self, record: HostRecord) -> bool:
        host = self.service.open_host(record)
        try:
            async with asyncio.timeout(_ANSWER):
                await host.connect()
        except (GodwitError, TimeoutError):
            return False
        finally:
            await host.close()
        return True

    async def fence(self, host: str, by: str) -> FenceProof:
        """Cut a host's power, and keep the proof that it is off. Raises UnknownHostError, FenceError."""
        record = await self.service.inventory.host(host)
        power = await self._fencer(record).cut(record)
        return await self._keep(record, power, by)

    async def seen_off(self, host: str, power: Power, by: str) -> FenceProof:
        """Keep that a host was said to be off, without anybody's having cut its power now."""
        return await self._keep(await self.service.inventory.host(host), power, by)

    async def _keep(self, record: HostRecord, power: Power, by: str) -> FenceProof:
        proof = FenceProof(record.name, self.service.clock.now(), power.said, by)
        await self.service.journal.decisions.put_proof(proof)
        for row in await self.service.journal.rows(unfinished=True, limit=1000):
            if record.name in {row.spec.source, row.spec.target}:
                text = f"{record.name} is proven to be off, by {by or 'somebody'}: {power.said}"
                self.service.journal.note(row.spec.id, "fence", proof.at, {"text": text})
        await self.service.journal.flush()
        return proof

    async def silent_hosts(self, identifier: str) -> tuple[str, ...]:
        """Return the hosts of a migration that say nothing at all now, and are not proven to be off."""
        told = await self.evidence(identifier)
        return tuple(one.host for one in told.sides.values() if one.view is not UNKNOWN and silent(one.view))


def _gave_up(entry: Entry) -> bool:
    """Say whether a runner ended with that line, in LIMBO."""
    commands = entry.data.get("commands")
    return entry.data.get("phase") == Phase.LIMBO.value and isinstance(commands, list) and "Finish" in commands


def since(lines: list[Entry], side: Side, view: GuestView) -> float | None:
    """Return since when the journal has that side as it is seen now; None where it never saw it so last."""
    found: float | None = None
    for line in reversed(lines):
        detail = line.data.get("detail")
        if line.data.get("event") != "Observed" or not isinstance(detail, dict):
            continue
        seen = detail.get(side.value)
        if not isinstance(seen, dict) or seen.get("state") != view.state.value:
            break
        found = line.at
    return found
