"""What is written down: stories of migrations, jobs, and the hosts and guests that are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.core.saves import Job
    from godwit.core.sending import SendRecord
    from godwit.core.state import Phase, State
    from godwit.model import FenceProof, HostRecord, LinkSaid, MoveRecord, Outcome, Profile, Spec, Vm, Word
    from godwit.ports.host import Session


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a migration's journal. `data` is plain JSON; `sequence` counts from 1 within the migration."""

    sequence: int
    at: float
    kind: str
    data: dict[str, object]


@dataclass(frozen=True, slots=True)
class MigrationRow:
    """A migration as the journal lists it."""

    spec: Spec
    created: float
    phase: Phase
    epoch: int
    outcome: Outcome | None


class JobBook(Protocol):
    """The record of every save and restore, written before it is acted upon. Raises JournalError."""

    async def create(self, job: Job) -> None:
        """Write a new job down. Raises BusyError when one of the same guest, or a migration of it, is unfinished."""
        ...

    async def take_over(self, identifier: str) -> tuple[int, Job]:
        """Return a new epoch, and the job: who had an earlier one can write nothing any more."""
        ...

    async def taken_over(self, identifier: str) -> bool:
        """Say whether who began it has been followed by another."""
        ...

    async def write(self, job: Job, epoch: int, *, durable: bool) -> None:
        """Write how far it is; durable means on disk when the call returns. Raises SupersededError."""
        ...

    async def load(self, identifier: str) -> Job:
        """Return a job. Raises UnknownMigrationError."""
        ...

    async def rows(self, *, unfinished: bool = False, limit: int = 50) -> list[Job]:
        """List jobs, the newest first."""
        ...

    async def enter(self, identifier: str, epoch: int, place: str, session: Session) -> tuple[Session, ...]:
        """Keep a session at a place, one host; see `Journal`."""
        ...

    async def ended(self, identifier: str, place: str, sessions: Sequence[Session]) -> None:
        """Forget sessions that are proven to have ended. Idempotent."""
        ...

    async def request_cancel(self, identifier: str) -> None:
        """Ask whoever does it to go back."""
        ...

    async def cancel_requested(self, identifier: str) -> bool:
        """Say whether somebody asked for that."""
        ...


class Decisions(Protocol):
    """What persons decided, and what was proven of hosts that do not answer. Raises JournalError."""

    async def put_word(self, identifier: str, word: Word) -> None:
        """Keep a person's word about a migration in LIMBO, in place of an earlier one."""
        ...

    async def take_word(self, identifier: str) -> Word | None:
        """Return the word and forget it, at once: nobody acts twice upon it."""
        ...

    async def put_proof(self, proof: FenceProof) -> None:
        """Keep that a host was proven to be off, in place of what was proven before."""
        ...

    async def proof(self, host: str) -> FenceProof | None:
        """Return what was proven of a host last."""
        ...

    async def drop_proof(self, host: str) -> None:
        """Forget what was proven of a host: it has answered since. Idempotent."""
        ...


class History(Protocol):
    """What was measured of guests and moves, for forecasts to come. Raises JournalError."""

    async def put_profile(self, profile: Profile) -> None:
        """Keep a profile of a guest."""
        ...

    async def profiles(self, vm: str, limit: int = 20) -> list[Profile]:
        """List a guest's profiles, the newest first."""
        ...

    async def put_move(self, record: MoveRecord) -> None:
        """Keep what a move was like; written again it replaces what was written before."""
        ...

    async def moves(self, limit: int = 200) -> list[MoveRecord]:
        """List moves of all guests, the newest first."""
        ...

    async def forget(self, vm: str) -> None:
        """Forget a guest's profiles and moves. Idempotent."""
        ...

    async def put_link(self, said: LinkSaid) -> None:
        """Keep what was said of the link between two hosts, in place of what was said before."""
        ...

    async def link(self, one: str, other: str) -> LinkSaid | None:
        """Return what was said last of the link between two hosts, in whichever order they are named."""
        ...


@dataclass(frozen=True, slots=True)
class Ended:
    """A migration, save or restore of which nothing is left to do, and its guest."""

    id: str
    vm: str


class Archive(Protocol):
    """What has ended, and how it goes. Unfinished work, and what is in LIMBO, is never touched. Raises JournalError.

    It goes in small steps, so that runners come to write between them.
    """

    async def ended(self, before: float, keep: int) -> list[Ended]:
        """List what was asked for before that instant, the oldest first, but for the `keep` newest.

        Those are the `keep` newest migrations that have ended, and as many saves and restores.
        """
        ...

    async def remove(self, identifiers: Sequence[str]) -> None:
        """Remove migrations, saves and restores that have ended, and their lines."""
        ...

    async def learned(self, before: float) -> int:
        """Count what was measured of guests and moves before that instant, which forecasts learn from."""
        ...

    async def unlearn(self, before: float) -> None:
        """Remove what was measured before that instant."""
        ...

    async def thin(self, before: float, at: float, most: int) -> int:
        """Remove what a report draws curves from, of moves that were asked for before that instant.

        What is left is how they went and ended. It is noted in the story, as of `at`. Stops after about `most` lines;
        the next call goes on. Returns how many lines went.
        """
        ...

    async def shrink(self, *, alone: bool) -> bool:
        """Give what is free in the file back to the disk, as far as that is possible beside others.

        With `alone` nobody else is at work, so that the file may be written anew. Returns whether it is as small as it
        can be.
        """
        ...

    async def size(self) -> int:
        """Return the bytes that the journal takes on its disk."""
        ...


class Journal(Protocol):
    """The story of every migration, written before it is acted upon. Raises JournalError."""

    async def create(self, spec: Spec, at: float) -> None:
        """Begin a story. Raises BusyError when an unfinished one of the same guest exists."""
        ...

    async def take_over(self, identifier: str) -> int:
        """Return a new epoch: from now on a runner of an earlier one can write no transition any more."""
        ...

    async def enter(self, identifier: str, epoch: int, place: str, session: Session) -> tuple[Session, ...]:
        """Keep a session of a runner at a place, one side of a move; returns all others of that migration and place.

        Raises SupersededError for an old epoch: its session may not be used.
        """
        ...

    async def ended(self, identifier: str, place: str, sessions: Sequence[Session]) -> None:
        """Forget sessions that are proven to have ended. Idempotent."""
        ...

    async def transition(self, identifier: str, epoch: int, entry: Entry, state: State, *, durable: bool) -> None:
        """Write a new state with the event that led to it; durable means on disk when the call returns.

        Transitions that are not durable are written soon, in order. Raises JournalError for an old epoch.
        """
        ...

    def note(self, identifier: str, kind: str, at: float, data: dict[str, object]) -> None:
        """Write something that nobody acts upon (a sample, a finding, a mark) soon."""
        ...

    async def conclude(self, identifier: str, epoch: int, outcome: Outcome) -> None:
        """Write how it ended, durably."""
        ...

    async def flush(self) -> None:
        """Write what waits."""
        ...

    async def load(self, identifier: str) -> tuple[MigrationRow, State]:
        """Return a migration and its last state. Raises UnknownMigrationError."""
        ...

    async def entries(self, identifier: str, after: int = 0) -> list[Entry]:
        """Return the journal's lines after that sequence number."""
        ...

    async def version(self, identifier: str | None = None) -> int:
        """Return a number that is another one after every write: who follows need not read what nobody wrote.

        With an identifier, after every write of what concerns that migration.
        """
        ...

    async def rows(self, *, unfinished: bool = False, limit: int = 50) -> list[MigrationRow]:
        """List migrations, the newest first."""
        ...

    async def request_cancel(self, identifier: str, by: str, at: float) -> None:
        """Ask whoever runs it to cancel."""
        ...

    async def cancel_requested(self, identifier: str) -> str | None:
        """Return who asked to cancel, or None. It may be asked for often."""
        ...

    async def close(self) -> None:
        """Write what waits and let go."""
        ...

    @property
    def history(self) -> History:
        """What was measured before."""
        ...

    @property
    def decisions(self) -> Decisions:
        """What persons decided, and what was proven of hosts."""
        ...

    @property
    def jobs(self) -> JobBook:
        """The saves and restores that are under way, and those that were."""
        ...

    @property
    def archive(self) -> Archive:
        """What has ended, and how it goes."""
        ...


class Inventory(Protocol):
    """The hosts and guests that Godwit knows. Raises JournalError."""

    async def hosts(self) -> list[HostRecord]:
        """List all hosts by name."""
        ...

    async def host(self, name: str) -> HostRecord:
        """Return a host. Raises UnknownHostError, naming those that exist."""
        ...

    async def put_host(self, record: HostRecord) -> None:
        """Add or replace a host."""
        ...

    async def remove_host(self, name: str) -> None:
        """Forget a host. Raises UnknownHostError."""
        ...

    async def vms(self) -> list[Vm]:
        """List all guests by name."""
        ...

    async def vm(self, name: str) -> Vm:
        """Return a guest. Raises UnknownVmError, naming those that exist."""
        ...

    async def put_vm(self, vm: Vm, *, under: tuple[str, int] | None = None) -> None:
        """Add or replace a guest. `under` names the migration and epoch that say so: SupersededError for an old one.

        A runner that was stopped may have been followed by another, and the guest been moved on since.
        """
        ...

    async def remove_vm(self, name: str) -> None:
        """Forget a guest. Raises UnknownVmError."""
        ...

    async def sends(self) -> list[SendRecord]:
        """List the guests that are being sent with a snapshot, or were when whoever sent them died."""
        ...

    async def put_send(self, record: SendRecord) -> None:
        """Write durably how far a guest is that is being sent."""
        ...

    async def remove_send(self, vm: str) -> None:
        """Forget that a guest is being sent: it has ended. Idempotent."""
        ...
