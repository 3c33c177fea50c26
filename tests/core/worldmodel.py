"""A tiny world of two QEMUs, written apart from the code under test: what the law is asserted on.

It is as careless as QEMU is: `cont` succeeds wherever a process can run. Each move that would break the law raises
LawViolationError, so a walk that survives has kept it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from godwit.core import events as e
from godwit.model import GuestView, RunState, Side, StreamStatus, Way

SOURCE, TARGET = Side.SOURCE, Side.TARGET
FLOWING = frozenset({StreamStatus.ACTIVE, StreamStatus.SWITCHOVER})
STREAMING = FLOWING | {StreamStatus.HELD}
OVER = frozenset({StreamStatus.POSTCOPY, StreamStatus.BROKEN})


class LawViolationError(AssertionError):
    """The world was made to do what may never happen."""


@dataclass
class Qemu:
    """One side: what its process does, what its stream says, and whether the controller can see it."""

    side: Side
    state: RunState
    stream: StreamStatus = StreamStatus.NONE
    reachable: bool = True
    connected: bool = False
    events: deque[e.Event] = field(default_factory=deque)

    def say(self, event: e.Event) -> None:
        """Tell the controller, if it listens."""
        if self.connected and self.reachable:
            self.events.append(event)

    def view(self) -> GuestView:
        """Answer an observation; a controller that looks has (re)opened its monitor first."""
        if not self.reachable:
            return GuestView(RunState.UNREACHABLE)
        self.connected = self.state is not RunState.ABSENT
        return GuestView(self.state, self.stream)


@dataclass
class World:
    """Source, target and what they once did."""

    source: Qemu = field(default_factory=lambda: Qemu(SOURCE, RunState.RUNNING))
    target: Qemu = field(default_factory=lambda: Qemu(TARGET, RunState.ABSENT))
    send_queue_shortened: bool = False
    encrypted: bool = True
    """Whether what is sent is to be encrypted."""
    keys: set[Side] = field(default_factory=set)
    """The hosts that have keys of the move."""
    home: Side = SOURCE
    """Where the guest lives, as it is written down."""
    inflated: bool = False
    """Whether the guest's balloon has taken free memory; that travels with the guest."""
    paused_by_operator: bool = False
    killed: set[Side] = field(default_factory=set)
    link_up: bool = True
    target_ever_ran: bool = False
    target_is_stale: bool = False
    copying: bool = False
    """Whether the guest's disks travel along; then the stream is held before the switchover."""
    mirrors: str = "none"
    """The copies of the disks: none, ready, ended, lost."""
    left_behind: bool = False
    """Whether the old copies on the source were marked."""
    images: str = "none"
    """What the target has of them: none, made (by this migration), kept (as the guest's own)."""
    way: Way = Way.LIVE
    stopped_for_the_move: bool = False
    pressed: bool = False
    """Whether the guest's power button was pressed, and its QEMU is to outlive it."""
    deaf: bool = False
    """Whether the guest does not listen to its power button."""
    going_over: bool = False
    """Whether the source was told to let the guest go over to the target before its memory."""
    copies_are_stale: bool = False
    """Whether the source has run since the copies of the disks were ended."""
    direct: bool = False
    """Whether the guest has a device that does not travel, and `device` where it is: on no side while it is away."""
    device: Side | None = SOURCE
    permits_unplugging: bool = False
    """Whether it is on disk that the device is to be given back."""
    decided: Side | None = None
    """Whose the guest is by a person's word: what nobody can see, that person may be wrong about."""

    def side(self, side: Side) -> Qemu:
        """Return one of the two."""
        return self.source if side is SOURCE else self.target

    # -- what QEMU does by itself ------------------------------------------------------------------------------

    def can_progress(self) -> bool:
        """Whether the stream has a next stage, or the guest is just switching itself off."""
        if self.source.stream is StreamStatus.POSTCOPY:
            return self.link_up and self.target.state is not RunState.ABSENT
        return self.switching_off or (
            self.link_up and self.source.stream in FLOWING and self.target.state in {RunState.INCOMING, RunState.PAUSED}
        )

    def progress(self) -> None:
        """Take the stream one stage on: stop, target complete, source complete."""
        if self.switching_off:
            self.switch_off()
        elif self.source.stream is StreamStatus.POSTCOPY:
            self.progress_in_postcopy()
        elif self.source.stream is StreamStatus.ACTIVE and self.going_over and not self.copying:
            if self.source.state is RunState.RUNNING:
                self.source.say(e.SourceStopped())
            self.source.state, self.source.stream = RunState.STOPPED_FOR_SWITCHOVER, StreamStatus.POSTCOPY
            self.source.say(e.WentOver(SOURCE))
        elif self.source.stream is StreamStatus.ACTIVE:
            if self.source.state is RunState.RUNNING:
                self.source.say(e.SourceStopped())
            self.source.state = RunState.STOPPED_FOR_SWITCHOVER
            self.source.stream = StreamStatus.HELD if self.copying else StreamStatus.SWITCHOVER
            if self.copying:
                self.source.say(e.StreamHeld())
        elif self.target.state is RunState.INCOMING:
            self.target.state, self.target.stream = RunState.PAUSED, StreamStatus.COMPLETED
            self.target.say(e.StreamEnded(TARGET, StreamStatus.COMPLETED))
        else:
            self.source.state, self.source.stream = RunState.POSTMIGRATE, StreamStatus.COMPLETED
            self.source.say(e.StreamEnded(SOURCE, StreamStatus.COMPLETED))

    def progress_in_postcopy(self) -> None:
        """Let the target take the guest over, then the rest of its memory arrive, then the source learn of it."""
        if self.target.state is RunState.INCOMING:
            self.target.state, self.target.stream = RunState.PAUSED, StreamStatus.POSTCOPY
            self.target.say(e.WentOver(TARGET))
        elif self.target.stream is not StreamStatus.COMPLETED:
            self.target.stream = StreamStatus.COMPLETED
            self.target.say(e.StreamEnded(TARGET, StreamStatus.COMPLETED))
        else:
            self.source.state, self.source.stream = RunState.POSTMIGRATE, StreamStatus.COMPLETED
            self.source.say(e.StreamEnded(SOURCE, StreamStatus.COMPLETED))

    def break_postcopy(self) -> None:
        """Lose the connection of a guest in postcopy: both sides stand still, a target that had nothing yet exits."""
        for qemu in (self.source, self.target):
            if qemu.stream is StreamStatus.POSTCOPY:
                qemu.stream = StreamStatus.BROKEN
                qemu.say(e.StreamBroke(qemu.side))
        if self.target.state is RunState.INCOMING:
            self.die(self.target)

    def mend(self) -> bool:
        """Connect both again; says whether that could be done."""
        if not self.link_up or RunState.ABSENT in {self.source.state, self.target.state}:
            return False
        for qemu in (self.source, self.target):
            if qemu.stream is StreamStatus.BROKEN:
                qemu.stream = StreamStatus.POSTCOPY
        return True

    def end_stream(self, status: StreamStatus) -> None:
        """Break or cancel the stream: QEMU takes a stopped source back by itself, an incomplete target exits."""
        if self.source.stream in OVER:
            if status is StreamStatus.CANCELLED:
                raise LawViolationError("the stream of a guest that had gone over was cancelled")
            self.break_postcopy()
        if self.source.stream not in STREAMING:
            return
        self.source.stream = status
        self.source.say(e.StreamEnded(SOURCE, status))
        if self.source.state is RunState.STOPPED_FOR_SWITCHOVER and self.stopped_for_the_move:
            self.source.state = RunState.PAUSED  # QEMU takes it back as it was
        elif self.source.state is RunState.STOPPED_FOR_SWITCHOVER:
            self.run_source()
        if self.target.state is RunState.INCOMING:
            self.target.say(e.StreamEnded(TARGET, StreamStatus.FAILED))
            self.die(self.target)

    def die(self, qemu: Qemu) -> None:
        """End a process."""
        if qemu.state is RunState.ABSENT:
            return
        qemu.say(e.Lost(qemu.side))
        self.lose_mirror()
        qemu.state, qemu.stream, qemu.connected = RunState.ABSENT, StreamStatus.NONE, False
        if qemu is self.target or self.target.stream is StreamStatus.POSTCOPY:
            self.break_postcopy()
        if qemu is self.target:
            self.end_stream(StreamStatus.FAILED)

    def kill(self, side: Side) -> None:
        """SIGKILL; a source that dies in mid-stream takes an incomplete target with it."""
        self.killed.add(side)
        streaming = self.source.stream in STREAMING | OVER
        self.die(self.side(side))
        if side is SOURCE and streaming and self.target.state is RunState.INCOMING:
            self.target.say(e.StreamEnded(TARGET, StreamStatus.FAILED))
            self.die(self.target)

    def run_source(self) -> None:
        """Let the source's CPUs run."""
        if self.target.state is RunState.RUNNING:
            raise LawViolationError("two running copies: the source was started beside the target")
        if self.target_ever_ran and self.decided is not SOURCE:
            raise LawViolationError("the source was resumed after the target had executed")
        if self.source.stream in OVER:
            raise LawViolationError("the source was told to run after the guest had gone over")
        self.target_is_stale = self.target.state is RunState.PAUSED
        self.copies_are_stale = self.mirrors == "ended"
        self.stopped_for_the_move = self.pressed = False
        if self.paused_by_operator:
            self.source.state = RunState.PAUSED
            return
        self.source.state = RunState.RUNNING
        self.source.say(e.SourceResumed())

    def toggle_link(self) -> None:
        """Cut or heal the link between the hosts, silently: a cut one raises no error for minutes."""
        self.link_up = not self.link_up

    def toggle_pause(self) -> None:
        """Let an operator pause the guest on the source, or resume it."""
        if self.source.state is RunState.RUNNING:
            self.paused_by_operator, self.source.state = True, RunState.PAUSED
            self.source.say(e.SourceStopped())
        elif self.source.state is RunState.PAUSED:
            self.paused_by_operator, self.source.state = False, RunState.RUNNING
            self.stopped_for_the_move = False
            self.source.say(e.SourceResumed())

    # -- disks -------------------------------------------------------------------------------------------------

    def lose_mirror(self) -> None:
        """Let a copy break off."""
        if self.mirrors == "ready":
            self.mirrors = "lost"
            self.source.say(e.MirrorLost("disk0", "Input/output error"))

    def end_mirrors(self) -> bool:
        """Let the copies end whole, now that nobody writes; says whether they did."""
        if self.source.state is RunState.RUNNING:
            raise LawViolationError("the copies of the disks were ended while the guest wrote to them")
        if self.mirrors == "ready":
            self.mirrors = "ended"
        return self.mirrors == "ended"

    def go_on(self) -> None:
        """`migrate-continue`: means something to a held stream only."""
        if self.source.stream is StreamStatus.HELD:
            if self.mirrors != "ended":
                raise LawViolationError("the stream went on, and the disks are not there")
            self.source.stream = StreamStatus.SWITCHOVER

    def leave_old_copies(self) -> None:
        """Mark what stays on the source."""
        if not self.target_ever_ran:
            raise LawViolationError("the disks of a guest that lives on the source were marked as left behind")
        self.left_behind = True

    def remove_images(self) -> None:
        """Remove what was made on the target."""
        if self.images == "kept" or self.target_ever_ran:
            raise LawViolationError("the disks of a guest that runs on the target were removed")
        if self.target.state is not RunState.ABSENT:
            raise LawViolationError("images were removed under a process that has them open")
        self.images = "none"

    # -- standing still, and switched off ----------------------------------------------------------------------

    def stop_source(self) -> None:
        """`stop` on the source, for a move on which the guest stands still all the time."""
        if self.source.state is RunState.RUNNING:
            self.source.state, self.stopped_for_the_move = RunState.PAUSED, True
            self.source.say(e.SourceStopped())

    @property
    def switching_off(self) -> bool:
        """Whether the guest obeys its power button, and is not off yet."""
        return self.pressed and not self.deaf and self.source.state is RunState.RUNNING

    def turn_deaf(self) -> None:
        """Let the guest listen to its power button no more."""
        self.deaf = True

    def switch_off(self) -> None:
        """Let the guest be off, in a QEMU that outlives it."""
        self.source.state = RunState.POWERED_OFF
        self.source.say(e.SourceStopped())

    def end_source(self, *, decided: bool = False) -> None:
        """End the QEMU of a guest that is off, or that a person gave to the target."""
        if self.source.stream in OVER and self.target.state is not RunState.ABSENT:
            raise LawViolationError("the source was ended while some of the guest's memory was there alone")
        paused = self.source.state is RunState.PAUSED and not (decided and self.decided is TARGET)
        if self.source.state is RunState.RUNNING or paused:
            raise LawViolationError("the guest was ended on the source that owns it")
        if self.copying and self.mirrors != "ended":
            raise LawViolationError("the source was ended before its disks were copied")
        if decided and self.target.state is not RunState.PAUSED:
            raise LawViolationError("the source was ended for a target that cannot run")
        self.die(self.source)

    def start_target(self) -> None:
        """Start the target's QEMU anew, paused, with the guest's disks."""
        if self.target.state is RunState.RUNNING:
            raise LawViolationError("the running guest was destroyed on the target")
        if self.source.state is not RunState.ABSENT:
            raise LawViolationError("two processes have the guest's disks open")
        self.die(self.target)
        self.target.state, self.target.connected = RunState.PAUSED, True

    def restore_power(self) -> bool:
        """See to it that a guest whose power button was pressed runs on the source; says whether it could."""
        if self.switching_off:  # it is waited for: nobody can take the press of a button back
            self.switch_off()
        if self.source.state is RunState.ABSENT:
            if self.target.state is RunState.PAUSED and not self.copying:
                return False  # the target's process has the disks locked
            self.paused_by_operator = False
        if self.source.state in {RunState.ABSENT, RunState.POWERED_OFF}:
            self.run_source()
        self.pressed = False
        return True

    # -- what it is told ---------------------------------------------------------------------------------------

    def run_target(self) -> None:
        """`cont` on the target."""
        if self.target.state is RunState.INCOMING:
            raise LawViolationError("cont was sent to a target that has not received everything")
        if self.target.state is not RunState.PAUSED:
            return
        if self.source.state is RunState.RUNNING:
            raise LawViolationError("two running copies: the target was started beside the source")
        if self.source.reachable and self.source.state in {RunState.PAUSED, RunState.OTHER}:
            raise LawViolationError("the target was started beside a source that has the disks open")
        if self.target_is_stale and self.decided is not TARGET:
            raise LawViolationError("the target was started with memory older than the disks")
        if self.copies_are_stale and self.way is Way.OFF and self.decided is not TARGET:
            raise LawViolationError("the target was started from disks older than the source's")
        if self.copying and (self.mirrors != "ended" or self.images == "none"):
            raise LawViolationError("the target was started without its disks")
        over = self.source.stream in OVER and self.target.stream in OVER | {StreamStatus.COMPLETED}
        said = self.source.state is RunState.ABSENT or self.source.stream is StreamStatus.COMPLETED or over
        if not said and (self.decided is not TARGET or self.source.reachable):
            raise LawViolationError("the target was started before the source had said completed")
        self.target.state, self.target_ever_ran = RunState.RUNNING, True
        self.target.say(e.TargetRunning())

    def destroy_target(self) -> None:
        """End the target's QEMU."""
        if self.target.state is RunState.RUNNING:
            raise LawViolationError("the running guest was destroyed on the target")
        self.die(self.target)

    def remove_source(self) -> None:
        """End the source's QEMU after the move."""
        paused = self.source.state is RunState.PAUSED and self.decided is None
        if self.source.state is RunState.RUNNING or paused:
            raise LawViolationError("the guest was destroyed on the source that owns it")
        if not self.target_ever_ran:
            raise LawViolationError("the source was removed before the target had executed")
        there = RunState.ABSENT not in {self.source.state, self.target.state}
        if there and self.target.stream in OVER:
            raise LawViolationError("the source was removed while some of the guest's memory was there alone")
        self.die(self.source)
