"""What to do when all that is known is what both hosts show.

It is used after a runner died, and whenever a connection was lost. The rows of `RULES` are read from the top;
the first that fits decides. Unknown is not failed: where a host is silent, the verdict is to wait, and
after `PATIENCE` seconds LIMBO, unless the door is closed: then the source owns the guest, whatever the
target shows, because a target that was started with `-S` and was never told to run cannot run.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from godwit.core.state import Door, Held, Phase, State
from godwit.model import GuestView, RunState, Side, StreamStatus, Way

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE: Final = 60.0
"""Seconds of silence after which waiting for a host ends in LIMBO (or, before the door was armed, in a rollback)."""

GOES_OVER: Final = 5.0
"""Seconds after which a source that was told to let the guest go over, and streams on, was not told, or cannot."""

TARGET_SILENCE: Final = 3.0
"""Seconds of silence of the target's monitor after which a stream whose door is closed is taken back."""


class Verdict(StrEnum):
    """What recovery decides."""

    CONTINUE = "continue"
    """The migration goes on by itself: follow it."""
    END_MIRRORS = "end-mirrors"
    """The guest is held before the switchover, and its disks are to be ended first."""
    GO_ON = "go-on"
    """The guest is held before the switchover, and its disks are there: the stream may go on."""
    MEND = "mend"
    """The guest runs on the target and its connection to the rest of its memory broke: mend that."""
    WAIT = "wait"
    """Look again in a moment."""
    COMMIT = "commit"
    """The target has everything and the source cannot run: open the door, tell the target to run."""
    FINISH = "finish"
    """The target runs the guest."""
    ROLL_BACK = "roll-back"
    """The source owns the guest: undo."""
    CRASHED = "crashed"
    """The guest ran on the target, or may have, and its process is gone: report, never run the source."""
    LOST_SOURCE = "lost-source"
    """The guest's process on the source died while the source owned it; nothing ran elsewhere."""
    LIMBO = "limbo"
    """Nobody can know: touch nothing."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """A verdict and the sentence that explains it."""

    verdict: Verdict
    why: str


@dataclass(frozen=True, slots=True)
class Seen:
    """The evidence that a rule looks at."""

    state: State
    source: GuestView
    target: GuestView
    waited: float
    restarted: bool = False

    @property
    def s(self) -> RunState:
        """The source's run state."""
        return self.source.state

    @property
    def t(self) -> RunState:
        """The target's run state."""
        return self.target.state

    @property
    def target_complete(self) -> bool:
        """Whether the target stands still and has received everything, or is ready to start the guest anew."""
        anew = self.state.way is Way.OFF and Side.TARGET.value in self.state.ended
        return self.t is RunState.PAUSED and (self.target.stream in {StreamStatus.COMPLETED, *_OVER} or anew)

    @property
    def gone_over(self) -> bool:
        """Whether the source says that the guest has gone over to the target before its memory."""
        return self.source.stream in _OVER and self.s is not RunState.RUNNING

    @property
    def may_have_gone_over(self) -> bool:
        """Whether the guest has left the source for good, or may have: only the target can run it."""
        return self.gone_over or (self.state.postcopy and self.s is RunState.UNREACHABLE)

    @property
    def broken(self) -> bool:
        """Whether a guest in postcopy has lost the connection to its memory; the target may be too stuck to say so."""
        lost = StreamStatus.BROKEN in {self.source.stream, self.target.stream}
        return lost and self.s not in {RunState.ABSENT, RunState.UNREACHABLE} and self.t is not RunState.ABSENT

    @property
    def ran_there(self) -> bool:
        """Whether the guest was seen running on the target, and all of its memory is there."""
        return self.state.phase in {Phase.FINISHING, Phase.POSTCOPY}

    @property
    def memory_missing(self) -> bool:
        """Whether some of the memory of a guest in postcopy is still on the source alone."""
        return self.state.phase is Phase.POSTCOPY and Side.TARGET.value not in self.state.ended

    @property
    def streaming(self) -> bool:
        """Whether the source says that the stream runs."""
        return self.source.stream in {
            *(StreamStatus.SETUP, StreamStatus.ACTIVE, StreamStatus.HELD, StreamStatus.SWITCHOVER),
        }

    @property
    def held(self) -> bool:
        """Whether the source waits before the switchover until it is told to go on."""
        return self.source.stream is StreamStatus.HELD

    @property
    def sent(self) -> bool:
        """Whether the target may have been told to run; a source that still streams proves that it was not."""
        return self.state.door is Door.SENT and (self.state.phase is Phase.COMMITTING or not self.streaming)

    @property
    def handed_over(self) -> bool:
        """Whether the source has given everything away and has not run since: one that failed runs on by itself."""
        out_of_sight = self.s in {RunState.ABSENT, RunState.UNREACHABLE}
        return (
            self.s is RunState.POSTMIGRATE or self.gone_over or (out_of_sight and Side.SOURCE.value in self.state.ended)
        )

    @property
    def broken_off(self) -> bool:
        """Whether the source says that the stream ended without handing anything over."""
        return self.source.stream in {StreamStatus.FAILED, StreamStatus.CANCELLED}

    @property
    def source_is_off(self) -> bool:
        """Whether the source cannot write to the guest's disks: it is switched off, or its process was ended."""
        ended = Side.SOURCE.value in self.state.ended
        return self.s in {RunState.POWERED_OFF, RunState.ABSENT} or (ended and self.s is RunState.UNREACHABLE)

    @property
    def turned_back(self) -> bool:
        """Whether going back was decided, though not yet begun."""
        return self.state.cancel_requested or self.state.failure is not None

    @property
    def impatient(self) -> bool:
        """Whether silence has lasted too long."""
        return self.waited >= PATIENCE


_OVER: Final = frozenset({StreamStatus.POSTCOPY, StreamStatus.BROKEN})
_SOURCE_CANNOT_RUN: Final = frozenset({RunState.POSTMIGRATE, RunState.ABSENT})
_ON_THE_SOURCE: Final = frozenset({Phase.PREPARING, Phase.ROLLING_BACK})
_GOES_BEFORE: Final = frozenset({Phase.MIRRORING, Phase.UNPLUGGING})
_SOURCE_ALIVE: Final = frozenset({RunState.RUNNING, RunState.PAUSED, RunState.POWERED_OFF, RunState.OTHER})
_SWITCHED_OFF: Final = frozenset({Phase.POWERING_OFF, Phase.STARTING})

Rule = tuple["Callable[[Seen], bool]", Verdict, str]

RULES: Final[tuple[Rule, ...]] = (
    # Contradictions first: two running copies must be seen, whatever the phase.
    (
        lambda e: e.s is RunState.RUNNING and e.t is RunState.RUNNING,
        Verdict.LIMBO,
        "both hosts say that the guest runs; stop one of them by hand at once",
    ),
    # The target runs: it owns the guest.
    (
        lambda e: (
            e.t is RunState.RUNNING
            and e.state.door is Door.CLOSED
            and not (Held.STREAM in e.state.held and (e.s in _SOURCE_CANNOT_RUN or e.gone_over))
        ),
        Verdict.LIMBO,
        "a guest of this name runs on the target though it was never handed over",
    ),
    # It runs there, and not all of its memory is there yet.
    (
        lambda e: e.memory_missing and e.t is RunState.ABSENT,
        Verdict.CRASHED,
        "the guest ran on the target and its process is gone",
    ),
    (
        lambda e: e.memory_missing and e.s is RunState.ABSENT and e.t is not RunState.UNREACHABLE,
        Verdict.CRASHED,
        "the source's process is gone, and with it the memory that was still there",
    ),
    (lambda e: e.memory_missing and e.broken, Verdict.MEND, "the connection of the guest to its memory broke"),
    (
        lambda e: e.memory_missing and RunState.UNREACHABLE not in {e.s, e.t},
        Verdict.CONTINUE,
        "the guest runs on the target, and its memory follows",
    ),
    (
        lambda e: e.memory_missing and not e.impatient,
        Verdict.WAIT,
        "a host is silent while the guest's memory follows it",
    ),
    (
        lambda e: e.memory_missing and e.s is RunState.ABSENT and e.target.pid is not None,
        Verdict.CRASHED,
        "the source's process is gone, and the target's stands still: it waits for memory that was there",
    ),
    (
        lambda e: e.memory_missing,
        Verdict.LIMBO,
        "the guest was seen running on the target, some of its memory is on the source, and a host has fallen silent",
    ),
    (lambda e: e.t is RunState.RUNNING, Verdict.FINISH, "the target runs the guest"),
    # The guest was handed over for good.
    (
        lambda e: e.ran_there and e.t is RunState.ABSENT,
        Verdict.CRASHED,
        "the guest ran on the target and its process is gone",
    ),
    (lambda e: e.ran_there, Verdict.FINISH, "the target was seen running before"),
    # The door may be open: the source may never run again unless the target is proven not to have run.
    (
        lambda e: e.sent and e.s is RunState.RUNNING and e.t is not RunState.UNREACHABLE,
        Verdict.ROLL_BACK,
        "the source runs and the target does not: the guest was never handed over",
    ),
    (
        lambda e: e.sent and e.target_complete and (e.handed_over or e.state.phase is Phase.COMMITTING),
        Verdict.COMMIT,
        "the target has everything and waits for the word to run",
    ),
    (
        lambda e: (
            e.sent
            and e.s is RunState.PAUSED
            and e.broken_off
            and e.t is RunState.PAUSED
            and e.state.phase is not Phase.COMMITTING
        ),
        Verdict.ROLL_BACK,
        "the source's stream broke off, so the target was never told to run",
    ),
    (
        lambda e: e.sent and e.t is RunState.ABSENT and e.state.phase is Phase.COMMITTING,
        Verdict.CRASHED,
        "the target was told to run and its process is gone",
    ),
    (
        lambda e: e.sent and e.t is RunState.ABSENT and e.s is RunState.ABSENT,
        Verdict.CRASHED,
        "the guest's process is gone on both hosts",
    ),
    (
        lambda e: e.sent and e.t is RunState.ABSENT and e.s not in _SOURCE_ALIVE | {RunState.STOPPED_FOR_SWITCHOVER},
        Verdict.LIMBO,
        "the target's process is gone, and whether it had been told to run died with the former runner",
    ),
    # The guest is being switched off for its move, or was: the target was not told to run yet.
    (
        lambda e: Held.POWER in e.state.held and e.state.phase is Phase.ROLLING_BACK and e.s is RunState.ABSENT,
        Verdict.ROLL_BACK,
        "the guest was switched off and never started on the target: it is started anew where it was",
    ),
    (
        lambda e: e.state.phase is Phase.POWERING_OFF and e.s in _SOURCE_ALIVE and e.t is RunState.INCOMING,
        Verdict.CONTINUE,
        "the guest is being switched off",
    ),
    (
        lambda e: (
            e.state.phase is Phase.STARTING
            and e.source_is_off
            and e.t in {RunState.INCOMING, RunState.ABSENT, RunState.PAUSED}
        ),
        Verdict.CONTINUE,
        "the guest is off, and is being started on the target",
    ),
    (
        lambda e: e.state.phase in _SWITCHED_OFF and RunState.UNREACHABLE in {e.s, e.t} and not e.impatient,
        Verdict.WAIT,
        "a host is silent while the guest is switched off",
    ),
    (
        lambda e: e.state.phase in _SWITCHED_OFF,
        Verdict.ROLL_BACK,
        "one of the two is not what it must be, or stayed silent, and the target was never told to run",
    ),
    # Going back was decided, or nothing was streamed yet.
    (
        lambda e: e.state.phase in _ON_THE_SOURCE and e.s is RunState.ABSENT,
        Verdict.LOST_SOURCE,
        "the guest's process on the source died while the source owned it",
    ),
    (
        lambda e: (
            e.state.phase is Phase.ROLLING_BACK
            and e.s is RunState.UNREACHABLE
            and e.state.held <= e.state.tried
            and not e.impatient
        ),
        Verdict.WAIT,
        "the source is silent, and what is left to undo is there",
    ),
    (
        lambda e: e.state.phase in _ON_THE_SOURCE,
        Verdict.ROLL_BACK,
        "nothing was handed over; what was prepared is undone",
    ),
    # Disks travel before the memory, and devices are taken from the guest.
    (
        lambda e: e.state.phase in _GOES_BEFORE and e.s is RunState.ABSENT,
        Verdict.LOST_SOURCE,
        "the guest's process on the source died while the source owned it",
    ),
    (
        lambda e: (
            e.state.phase in _GOES_BEFORE and e.t is RunState.INCOMING and e.s in _SOURCE_ALIVE and not e.turned_back
        ),
        Verdict.CONTINUE,
        "what comes before the memory is under way",
    ),
    (
        lambda e: (
            e.state.phase in _GOES_BEFORE
            and RunState.UNREACHABLE in {e.s, e.t}
            and not e.turned_back
            and not e.impatient
        ),
        Verdict.WAIT,
        "a host is silent while that is under way which comes before the memory",
    ),
    (
        lambda e: e.state.phase in _GOES_BEFORE,
        Verdict.ROLL_BACK,
        "the target is gone, or stayed silent, before any memory was sent",
    ),
    (
        lambda e: e.held and not e.sent and (e.state.phase is Phase.LIMBO or (e.restarted and not e.state.mirrored)),
        Verdict.ROLL_BACK,
        "the guest is held before the switchover, and how its disks ended died with the former runner",
    ),
    (
        lambda e: e.streaming and e.turned_back and not e.sent and e.state.postcopy and e.waited < GOES_OVER,
        Verdict.WAIT,
        "going back was decided, and the guest may just be going over",
    ),
    (
        lambda e: e.streaming and e.turned_back and not e.sent,
        Verdict.ROLL_BACK,
        "the stream still runs, and going back was decided",
    ),
    # The guest has gone over, and was not told to run yet.
    (
        lambda e: e.gone_over and not e.sent and e.t in {RunState.ABSENT, RunState.OTHER},
        Verdict.LOST_SOURCE,
        "the target's process is gone, and the source's, which went over to it, cannot run the guest any more",
    ),
    (
        lambda e: e.gone_over and not e.sent and not e.target_complete and not e.impatient,
        Verdict.WAIT,
        "the guest goes over to the target",
    ),
    (
        lambda e: e.gone_over and not e.sent and not e.target_complete,
        Verdict.LIMBO,
        "the guest went over, and the target is silent, or never took it",
    ),
    # The source cannot run any more and the target has everything.
    (
        lambda e: e.target_complete and e.handed_over,
        Verdict.COMMIT,
        "the source has handed everything over and the target has all of it",
    ),
    (
        lambda e: e.target_complete and e.s is RunState.ABSENT,
        Verdict.LIMBO,
        "the source's process is gone, and whether it ran on after the target had everything went with it",
    ),
    (
        lambda e: e.held and not e.state.mirrored and not e.sent and e.t in {RunState.INCOMING, RunState.PAUSED},
        Verdict.END_MIRRORS,
        "the guest is held before the switchover, and its disks are to be ended",
    ),
    (
        lambda e: e.held and e.state.mirrored and not e.sent and e.t in {RunState.INCOMING, RunState.PAUSED},
        Verdict.GO_ON,
        "the guest is held before the switchover, and its disks are there",
    ),
    # The stream goes on.
    (
        lambda e: e.streaming and e.t in {RunState.INCOMING, RunState.PAUSED},
        Verdict.CONTINUE,
        "the stream runs",
    ),
    (
        lambda e: e.s is RunState.POSTMIGRATE and e.t is RunState.INCOMING and not e.impatient,
        Verdict.WAIT,
        "the target still loads what it received",
    ),
    (
        lambda e: e.streaming and e.t is RunState.UNREACHABLE and not e.sent and e.waited < TARGET_SILENCE,
        Verdict.WAIT,
        "the target's monitor is silent",
    ),
    # The guest's process died under us.
    (
        lambda e: e.s is RunState.ABSENT and e.t is RunState.INCOMING and e.waited < TARGET_SILENCE,
        Verdict.WAIT,
        "the source's process is gone; the target may have received everything",
    ),
    (
        lambda e: not e.sent and e.s is RunState.ABSENT and e.t in {RunState.INCOMING, RunState.ABSENT, RunState.OTHER},
        Verdict.LOST_SOURCE,
        "the guest's process on the source died before the target had everything",
    ),
    (
        lambda e: (
            e.state.postcopy
            and not e.sent
            and e.s is RunState.RUNNING
            and e.source.stream is StreamStatus.NONE
            and e.t in {RunState.INCOMING, RunState.UNREACHABLE}
            and e.waited < GOES_OVER
        ),
        Verdict.WAIT,
        "the guest was told to go over, and its stream may just be beginning",
    ),
    # The source is there: it owns the guest as long as the door was not passed.
    (
        lambda e: not e.sent and e.s is not RunState.UNREACHABLE and e.s is not RunState.ABSENT,
        Verdict.ROLL_BACK,
        "the stream ended without the target taking over",
    ),
    (
        lambda e: (
            e.sent
            and e.s in _SOURCE_ALIVE
            and e.t is RunState.ABSENT
            and not e.gone_over
            and e.source.stream is not StreamStatus.COMPLETED
        ),
        Verdict.ROLL_BACK,
        "the source was never handed over and the target is gone",
    ),
    (lambda e: not e.impatient, Verdict.WAIT, "a host is silent"),
    # Silence for too long.
    (
        lambda e: e.may_have_gone_over,
        Verdict.LIMBO,
        "the guest has left the source, or may have, and what waits on the target is all that can run",
    ),
    (
        lambda e: e.t is RunState.INCOMING or (e.state.door is Door.CLOSED and e.t is RunState.ABSENT),
        Verdict.ROLL_BACK,
        "the source is silent, and the target never ran: the source keeps the guest",
    ),
    (
        lambda _: True,
        Verdict.LIMBO,
        "what one of the hosts says would decide who owns the guest, and it is silent",
    ),
)


def recover(state: State, source: GuestView, target: GuestView, waited: float, *, restarted: bool = False) -> Ruling:
    """Decide from what both hosts show.

    `waited` is in seconds since looking became necessary; `restarted` says that a new runner looks for the first time.
    Always returns a ruling.
    """
    seen = Seen(state, source, target, waited, restarted)
    return next(Ruling(verdict, why) for fits, verdict, why in RULES if fits(seen))
