"""Journal and inventory in memory: for the simulation, whose virtual clock no threaded driver could follow."""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from godwit.core.state import State
from godwit.errors import BusyError, SupersededError, UnknownHostError, UnknownMigrationError, UnknownVmError
from godwit.journal.codec import encode
from godwit.journal.kinds import CURVES, THINNED
from godwit.journal.memoryarchive import MemoryArchive
from godwit.journal.memorydecisions import MemoryDecisions
from godwit.journal.memoryjobs import MemoryJobs
from godwit.journal.memorysessions import MemorySessions
from godwit.ports import Entry, MigrationRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.core.sending import SendRecord
    from godwit.model import HostRecord, LinkSaid, MoveRecord, Outcome, Profile, Spec, Vm
    from godwit.ports import Session


@dataclass(slots=True)
class _Story:
    spec: Spec
    created: float
    epoch: int = 0
    state: State = field(default_factory=State)
    durable_state: State = field(default_factory=State)
    outcome: Outcome | None = None
    cancel_by: str | None = None
    version: int = 0
    entries: list[Entry] = field(default_factory=list)

    def write(self, kind: str, at: float, data: dict[str, object]) -> None:
        """Keep a copy, as a file would."""
        last = self.entries[-1].sequence if self.entries else 0
        self.entries.append(Entry(last + 1, at, kind, json.loads(encode(data))))

    def thin(self, at: float) -> int:
        """Leave out what curves are drawn from, and note it; return how many lines went."""
        kept = [entry for entry in self.entries if entry.kind not in CURVES]
        gone = len(self.entries) - len(kept)
        if gone:
            last = self.entries[-1].sequence
            self.entries = [*kept, Entry(last + 1, at, "note", {"text": THINNED})]
        return gone

    @property
    def unfinished(self) -> bool:
        """Whether a runner has something left to do, if only to write the outcome."""
        return not self.state.finished or self.outcome is None


class MemoryJournal:
    """See `godwit.ports.Journal`. `lose_unsynced` forgets what a crash of the machine would."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._stories: dict[str, _Story] = {}
        self._version = 0
        self._sessions = MemorySessions()
        self.jobs = MemoryJobs(self._migrating)
        self.history = MemoryHistory()
        self.archive = MemoryArchive(self)
        self.decisions = MemoryDecisions(self._written)

    def _written(self) -> None:
        self._version += 1

    def _migrating(self, vm: str) -> str | None:
        stories = (story for story in self._stories.values() if story.spec.vm == vm and not story.state.finished)
        return next((story.spec.id for story in stories), None)

    def over(self) -> list[_Story]:
        """Return the stories in which nothing is left to do."""
        return [story for story in self._stories.values() if not story.unfinished]

    def remove(self, identifiers: Sequence[str]) -> None:
        """Remove stories in which nothing is left to do."""
        gone = {story.spec.id for story in self.over()}.intersection(identifiers)
        for name in gone:
            del self._stories[name]
        self._sessions.forget(gone)
        self._version += 1

    def _story(self, identifier: str) -> _Story:
        if identifier not in self._stories:
            message = f"there is no migration {identifier!r}"
            raise UnknownMigrationError(message, remedy="godwit history lists them")
        return self._stories[identifier]

    async def create(self, spec: Spec, at: float) -> None:
        """Begin a story; see the port."""
        for story in self._stories.values():
            if story.spec.vm == spec.vm and not story.state.finished:
                message = f"{spec.vm} is being migrated already: {story.spec.id}"
                raise BusyError(message, remedy=f"godwit watch {story.spec.id}, or godwit cancel {story.spec.id}")
        story = self._stories[spec.id] = _Story(spec, at)
        self._changed(story)

    async def take_over(self, identifier: str) -> int:
        """Fence earlier runners off; see the port."""
        story = self._story(identifier)
        story.epoch += 1
        self._changed(story)
        return story.epoch

    def check_epoch(self, identifier: str, epoch: int) -> None:
        """Raise SupersededError where another runner took over."""
        if self._story(identifier).epoch != epoch:
            message = f"another runner took over {identifier}; this one stops here"
            raise SupersededError(message)

    async def enter(self, identifier: str, epoch: int, place: str, session: Session) -> tuple[Session, ...]:
        """Keep a session of a runner; see the port."""
        self.check_epoch(identifier, epoch)
        return self._sessions.enter(identifier, place, session)

    async def ended(self, identifier: str, place: str, sessions: Sequence[Session]) -> None:
        """Forget sessions; see the port."""
        self._sessions.ended(identifier, place, sessions)

    async def transition(self, identifier: str, epoch: int, entry: Entry, state: State, *, durable: bool) -> None:
        """Write a step of the machine; see the port."""
        self.check_epoch(identifier, epoch)
        story = self._story(identifier)
        story.write(entry.kind, entry.at, entry.data)
        story.state = state
        self._changed(story)
        if durable:
            story.durable_state = state

    def note(self, identifier: str, kind: str, at: float, data: dict[str, object]) -> None:
        """Write what nobody acts upon; see the port."""
        story = self._story(identifier)
        story.write(kind, at, data)
        self._changed(story)

    async def conclude(self, identifier: str, epoch: int, outcome: Outcome) -> None:
        """Write the outcome; see the port."""
        self.check_epoch(identifier, epoch)
        story = self._story(identifier)
        story.outcome = outcome
        self._changed(story)

    async def flush(self) -> None:
        """Nothing waits here."""

    def lose_unsynced(self, identifier: str) -> None:
        """Forget the transitions since the last durable one, as a machine does that loses power."""
        story = self._story(identifier)
        story.state = story.durable_state
        self._changed(story)

    async def load(self, identifier: str) -> tuple[MigrationRow, State]:
        """Return a migration and its last state; see the port."""
        story = self._story(identifier)
        return self._row(story), story.state

    def _row(self, story: _Story) -> MigrationRow:
        return MigrationRow(story.spec, story.created, story.state.phase, story.epoch, story.outcome)

    async def entries(self, identifier: str, after: int = 0) -> list[Entry]:
        """Return the journal's lines; see the port."""
        written = self._story(identifier).entries
        return written[bisect_right(written, after, key=lambda entry: entry.sequence) :]

    async def version(self, identifier: str | None = None) -> int:
        """Return what changes with every write; see the port."""
        if identifier is None:
            return self._version
        return self._stories[identifier].version if identifier in self._stories else 0

    def _changed(self, story: _Story) -> None:
        story.version += 1
        self._version += 1

    async def rows(self, *, unfinished: bool = False, limit: int = 50) -> list[MigrationRow]:
        """List migrations; see the port."""
        stories = sorted(self._stories.values(), key=lambda story: story.created, reverse=True)
        return [self._row(story) for story in stories if story.unfinished or not unfinished][:limit]

    async def request_cancel(self, identifier: str, by: str, at: float) -> None:  # noqa: ARG002 - the port has it
        """Ask the runner to cancel; see the port."""
        story = self._story(identifier)
        story.cancel_by = by
        self._changed(story)

    async def cancel_requested(self, identifier: str) -> str | None:
        """Return who asked to cancel; see the port."""
        return self._story(identifier).cancel_by

    async def close(self) -> None:
        """Keep everything: the simulation may look at it afterwards."""


class MemoryHistory:
    """See `godwit.ports.History`."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._profiles: list[Profile] = []
        self._moves: dict[str, MoveRecord] = {}
        self._links: dict[frozenset[str], LinkSaid] = {}

    async def put_profile(self, profile: Profile) -> None:
        """Keep a profile."""
        self._profiles.append(profile)

    async def profiles(self, vm: str, limit: int = 20) -> list[Profile]:
        """List a guest's profiles; see the port."""
        found = [profile for profile in self._profiles if profile.vm == vm]
        return sorted(found, key=lambda profile: profile.at, reverse=True)[:limit]

    async def put_move(self, record: MoveRecord) -> None:
        """Keep what a move was like; see the port."""
        self._moves[record.id] = record

    async def moves(self, limit: int = 200) -> list[MoveRecord]:
        """List moves; see the port."""
        return sorted(self._moves.values(), key=lambda record: record.at, reverse=True)[:limit]

    def older(self, before: float) -> int:
        """Count profiles and moves from before that instant."""
        instants = [*(one.at for one in self._profiles), *(one.at for one in self._moves.values())]
        return sum(at < before for at in instants)

    def unlearn(self, before: float) -> None:
        """Remove them."""
        self._profiles = [profile for profile in self._profiles if profile.at >= before]
        self._moves = {name: move for name, move in self._moves.items() if move.at >= before}

    async def forget(self, vm: str) -> None:
        """Forget a guest; see the port."""
        self._profiles = [profile for profile in self._profiles if profile.vm != vm]
        self._moves = {name: move for name, move in self._moves.items() if move.vm != vm}

    async def put_link(self, said: LinkSaid) -> None:
        """Keep what was said of a link; see the port."""
        self._links[frozenset(said.hosts)] = said

    async def link(self, one: str, other: str) -> LinkSaid | None:
        """Return what was said of a link; see the port."""
        return self._links.get(frozenset({one, other}))


class MemoryInventory:
    """See `godwit.ports.Inventory`. The journal is asked who may say where a guest lives."""

    def __init__(self, journal: MemoryJournal) -> None:
        """Begin with nothing."""
        self._journal = journal
        self._hosts: dict[str, HostRecord] = {}
        self._vms: dict[str, Vm] = {}
        self._sends: dict[str, SendRecord] = {}

    async def hosts(self) -> list[HostRecord]:
        """List all hosts by name."""
        return [self._hosts[name] for name in sorted(self._hosts)]

    async def host(self, name: str) -> HostRecord:
        """Return a host; see the port."""
        if name not in self._hosts:
            message = f"there is no host {name!r}; known: {', '.join(sorted(self._hosts)) or 'none'}"
            raise UnknownHostError(message, remedy="godwit host add NAME local|ssh://user@host[:port]")
        return self._hosts[name]

    async def put_host(self, record: HostRecord) -> None:
        """Add or replace a host."""
        self._hosts[record.name] = record

    async def remove_host(self, name: str) -> None:
        """Forget a host."""
        await self.host(name)
        del self._hosts[name]

    async def vms(self) -> list[Vm]:
        """List all guests by name."""
        return [self._vms[name] for name in sorted(self._vms)]

    async def vm(self, name: str) -> Vm:
        """Return a guest; see the port."""
        if name not in self._vms:
            message = f"there is no guest {name!r}; known: {', '.join(sorted(self._vms)) or 'none'}"
            raise UnknownVmError(
                message, remedy="godwit vm define FILE.toml --on HOST, or godwit vm adopt HOST --qmp PATH"
            )
        return self._vms[name]

    async def put_vm(self, vm: Vm, *, under: tuple[str, int] | None = None) -> None:
        """Add or replace a guest; see the port."""
        if under is not None:
            self._journal.check_epoch(*under)
        self._vms[vm.name] = vm

    async def remove_vm(self, name: str) -> None:
        """Forget a guest."""
        await self.vm(name)
        del self._vms[name]

    async def sends(self) -> list[SendRecord]:
        """List the guests that are being sent."""
        return [self._sends[name] for name in sorted(self._sends)]

    async def put_send(self, record: SendRecord) -> None:
        """Keep how far a guest is."""
        self._sends[record.vm] = record

    async def remove_send(self, vm: str) -> None:
        """Forget that a guest is being sent. Idempotent."""
        self._sends.pop(vm, None)
