"""A stand-in for the engine that walks the machine through a world along a tape of choices.

The tape is a sequence of numbers; each picks one of the moves that are possible at that instant, the harmless first,
so that a tape that shrinks towards zeros tells the shortest story. What it asks of the real engine, as a contract:

- an event is journalled with its state before its commands start; a durable record is on disk by then;
- when the machine turns back, the commands on the way are ended, with or without their effect, before it goes on;
- an observation that began before the last transition is looked up again, never handed in stale;
- before the copies of disks are ended, one that is still to see to them (StartMirrors) is, with or without its effect;
- a command whose like is still under way is not started twice; Finish ends whatever is under way;
- a new runner takes the last state as `State.inherited` gives it;
- `waited` counts from the first look that was answered by "look again".
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from worldeffects import COPIES, effect
from worldmodel import OVER, SOURCE, TARGET, LawViolationError, Qemu, World

from godwit.core import events as e
from godwit.core import machine
from godwit.core.state import Door, Held, Phase, State
from godwit.core.strategy import PAUSE, POSTCOPY
from godwit.model import GuestView, Owner, RunState, Side, StreamStatus, Way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from random import Random

T = TypeVar("T")
FORWARD = (
    *(e.CopyMedia, e.PrepareTarget, e.PrepareSource, e.StartStream, e.Adjust),
    *(e.StartMirrors, e.EndMirrors, e.ContinueStream),
    *(e.StopSource, e.PowerOff, e.EndSource, e.StartTarget, e.GoOver, e.MendStream, e.UnplugDevices),
)
HARMLESS = frozenset(
    {"crash", "cancel", "give up", "blip", "duplicate", "operator", "decide", "pause", "go over", "deaf"}
)
FAULTS = 5
DRAIN = 400
PATIENCE = 150


@dataclass
class Order:
    """A command that was issued and has not ended; an observation keeps the half that it has seen."""

    command: e.Command
    source: GuestView | None = None
    began: int = -1


@dataclass
class Walk:
    """One migration, its controller and its world."""

    tape: Iterator[int]
    silent: Side | None = None
    world: World = field(default_factory=World)
    state: State = field(default_factory=State)
    journal: list[State] = field(default_factory=lambda: [State()])
    durable: int = 0
    orders: list[Order] = field(default_factory=list)
    results: deque[e.Event] = field(default_factory=deque)
    restarted: bool = False
    now: float = 0.0
    looking_since: float | None = None
    faults: list[str] = field(default_factory=list)
    failed_steps: Counter[str] = field(default_factory=Counter)
    person: bool = False
    words: list[Side] = field(default_factory=list)
    story: list[tuple[object, ...]] = field(default_factory=list)

    # -- the engine ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, or go on after a crash."""
        if self.state.phase is Phase.PENDING:
            self.handle(e.Begin())
        elif not self.state.finished:
            self.orders.append(Order(e.Observe()))

    def handle(self, event: e.Event) -> None:
        """Hand an event to the machine, journal what follows, issue its commands."""
        self.story.append((self.state.phase, self.state.door, event))
        before = self.state
        result = machine.step(before, event)
        self.state = result.state
        self.journal.append(result.state)
        if result.durable:
            self.durable = len(self.journal) - 1
        if result.state.phase is Phase.ROLLING_BACK and before.phase is not Phase.ROLLING_BACK:
            self.end_orders(FORWARD)
        if any(isinstance(command, e.Finish) for command in result.commands):
            self.end_orders(e.COMMANDS)
            self.results.clear()
            return
        if any(isinstance(command, e.EndMirrors) for command in result.commands):
            self.end_orders((e.StartMirrors,))
        under_way = {type(order.command) for order in self.orders}
        self.orders.extend(Order(command) for command in result.commands if type(command) not in under_way)
        if any(isinstance(command, e.Observe) for command in result.commands):
            self.looking_since = self.now if self.looking_since is None else self.looking_since
        elif isinstance(event, e.Observed):
            self.looking_since = None

    def end_orders(self, kinds: tuple[type[e.Command], ...]) -> None:
        """Abandon orders; each may have had its effect already."""
        for order in [order for order in self.orders if isinstance(order.command, kinds)]:
            self.orders.remove(order)
            if self.pick((False, True)):
                self.effect(order.command)

    def perform(self, order: Order) -> None:
        """Carry an order out and report its result."""
        command = order.command
        self.story.append(("does", type(command).__name__))
        if isinstance(command, e.Observe):
            self.observe(order, command.delay)
            return
        if isinstance(command, e.PowerOff) and self.world.source.reachable and not self.world.pressed:
            self.world.pressed = self.world.source.state is RunState.RUNNING
            if self.world.switching_off:
                return  # the order lasts until the guest is off
        self.orders.remove(order)
        result = self.effect(command)
        if isinstance(result, e.StepFailed):
            self.failed_steps[result.step] += 1
        if result is not None:
            self.results.append(result)

    def observe(self, order: Order, delay: float) -> None:
        """Look at the source, then, at another instant, at the target."""
        if order.source is None or order.began != len(self.journal):
            self.now += max(delay, 0.05)
            order.source, order.began = self.world.source.view(), len(self.journal)
            return
        self.orders.remove(order)
        waited = 0.0 if self.looking_since is None else self.now - self.looking_since
        restarted, self.restarted = self.restarted, False
        self.handle(e.Observed(order.source, self.world.target.view(), waited, restarted))

    def fail(self, order: Order, *, effect: bool) -> None:
        """Let an order fail, or let it have its effect and lose the reply."""
        self.orders.remove(order)
        name = type(order.command).__name__
        if effect:
            self.effect(order.command)
        self.failed_steps[name] += 1
        self.story.append(("reply lost" if effect else "fails", name))
        self.results.append(e.StepFailed(name, "test", f"{name} failed"))

    def effect(self, command: e.Command) -> e.Event | None:
        """Do to the world what a command does, and see to it that a record on disk permits it."""
        on_disk = self.journal[self.durable]
        self.world.permits_unplugging = Held.DEVICES in on_disk.held
        return effect(self.world, command, armed=on_disk.door is not Door.CLOSED)

    # -- moves -----------------------------------------------------------------------------------------------------

    def pick(self, options: tuple[T, ...]) -> T:
        """Let the tape choose."""
        return options[next(self.tape, 0) % len(options)]

    def deliver(self, queue: deque[e.Event]) -> None:
        """Hand over the oldest event of a queue."""
        self.handle(queue.popleft())

    def harmless_moves(self) -> list[Callable[[], None]]:
        """List what happens without a fault."""
        queues = (self.world.source.events, self.world.target.events, self.results)
        moves: list[Callable[[], None]] = [partial(self.deliver, queue) for queue in queues if queue]
        waits = (e.PowerOff,) if self.world.switching_off else ()
        moves += [partial(self.perform, order) for order in self.orders if not isinstance(order.command, waits)]
        if self.world.can_progress():
            moves.append(self.world.progress)
        return moves

    def faulty_moves(self) -> list[tuple[str, Callable[[], None]]]:
        """List the faults that are possible now."""
        world = self.world
        moves: list[tuple[str, Callable[[], None]]] = [
            ("crash", self.crash),
            ("cancel", lambda: self.handle(e.CancelRequested("test"))),
            ("give up", lambda: self.handle(e.GiveUp("stalled", "stands still"))),
            ("kill source", lambda: world.kill(SOURCE)),
            ("kill target", lambda: world.kill(TARGET)),
            ("operator", world.toggle_pause),
            ("deaf", world.turn_deaf),
            ("decide", self.decide),
            ("pause", self.pause),
            ("go over", self.go_over),
            ("break stream", lambda: world.end_stream(StreamStatus.FAILED)),
            ("lose mirror", world.lose_mirror),
            ("silence", lambda: self.wait(70.0)),
            ("link", world.toggle_link),
        ]
        for qemu in (world.source, world.target):
            moves.append(("cut" if qemu.reachable else "heal", partial(self.toggle_reachable, qemu)))
            if qemu.connected and qemu.reachable:
                moves.append(("blip", partial(self.blip, qemu)))
            if qemu.events:
                moves.append(("duplicate", partial(qemu.events.appendleft, qemu.events[0])))
        for order in self.orders:
            if not isinstance(order.command, e.Observe | e.Finish):
                moves.append(("step fails", partial(self.fail, order, effect=False)))
                moves.append(("reply lost", partial(self.fail, order, effect=True)))
        return moves

    def decide(self) -> None:
        """Let the strategy speak while a stream runs, or an instant after."""
        if self.state.phase not in {Phase.PENDING, Phase.PREPARING, Phase.POWERING_OFF, Phase.STARTING}:
            self.handle(e.Decided("raise", {"downtime-limit": 20}, "test", "test"))

    def pause(self) -> None:
        """Let the strategy have the guest paused so that the rest is sent, where that may be."""
        if self.state.phase not in {Phase.PENDING, Phase.PREPARING, Phase.POWERING_OFF, Phase.STARTING}:
            self.handle(e.Decided(PAUSE, {}, "test", "test"))

    def go_over(self) -> None:
        """Let the strategy have the guest go over to the target before its memory, where that may be."""
        if self.state.phase not in {Phase.PENDING, Phase.PREPARING, Phase.POWERING_OFF, Phase.STARTING}:
            self.handle(e.Decided(POSTCOPY, {}, "test", "test"))

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def toggle_reachable(self, side: Qemu) -> None:
        """Cut a side off from the controller, or heal it; whatever it says meanwhile is lost."""
        if side.reachable and side.connected:
            side.events.append(e.Lost(side.side))
        side.reachable, side.connected = not side.reachable, False

    def blip(self, side: Qemu) -> None:
        """Lose a monitor connection for a moment."""
        side.events.append(e.Lost(side.side))
        side.connected = False

    def crash(self) -> None:
        """Kill the runner and start another one from the last durable record, or a later one that made it to disk."""
        self.end_orders(e.COMMANDS)
        kept = self.pick(tuple(range(self.durable, len(self.journal))))
        del self.journal[kept + 1 :]
        self.state = self.journal[-1].inherited()
        self.results.clear()
        for qemu in (self.world.source, self.world.target):
            qemu.events.clear()
            qemu.connected = False
        self.restarted, self.looking_since = True, None
        self.story.append(("goes on in", self.state.phase, self.state.door))
        self.start()

    # -- the walk --------------------------------------------------------------------------------------------------

    def run(self, length: int) -> None:
        """Walk along the tape, then let the faults stop and see it end."""
        self.start()
        for _ in range(length):
            if self.state.finished:
                break
            self.move()
        self.drain()
        if self.person:
            self.resolve()
        self.check_end()

    def move(self) -> None:
        """Make the move that the tape names."""
        if len(self.faults) < FAULTS and self.pick((False,) * 9 + (True,)):
            moves = self.faulty_moves()
        else:
            moves = [("", move) for move in self.harmless_moves()] or [("", self.poll)]
        name, move = self.pick(tuple(moves))
        if name:
            self.faults.append(name)
            self.story.append(("FAULT", name))
        move()

    def poll(self) -> None:
        """Look, because nothing has happened for a while: the engine's slow poll."""
        self.orders.append(Order(e.Observe()))

    def drain(self) -> None:
        """End all faults but those that last (a killed process, a silent host, a dead link), and follow to the end."""
        for qemu in (self.world.source, self.world.target):
            qemu.reachable = qemu.side is not self.silent
        for step in range(1, DRAIN):
            if step % PATIENCE == 0:
                self.handle(e.GiveUp("stalled", "nothing moves"))
            moves = self.harmless_moves()
            if self.state.finished or (self.state.phase is Phase.LIMBO and not moves):
                return
            looks = all(isinstance(order.command, e.Observe) for order in self.orders)
            if looks and self.world.can_progress() and step % 2:  # who looks over and over does not hold the world up
                self.world.progress()
            else:
                (moves[0] if moves else self.poll)()
            self.now += 0.5
        raise LawViolationError(f"no end: {self.state}")

    # -- a person --------------------------------------------------------------------------------------------------

    def may_say(self) -> tuple[Side, ...]:
        """List whom a person may give the guest to who has looked at both hosts, silent ones too.

        What is gone cannot be looked at any more: about that the person may be wrong.
        """
        source, target = self.world.source, self.world.target
        told = target.reachable or target.state is RunState.RUNNING
        to_target = (TARGET,) if source.state is not RunState.RUNNING and told else ()
        to_source = (SOURCE,) if target.state is not RunState.RUNNING else ()
        return (*to_target, *to_source)

    def resolve(self) -> None:
        """Let a person decide, some with more faults before that is done, until the guest is out of LIMBO."""
        for _ in range(3):
            if self.state.phase is not Phase.LIMBO:
                return
            wrong = tuple(
                owner
                for owner, other in ((SOURCE, self.world.target), (TARGET, self.world.source))
                if other.reachable and other.state is RunState.RUNNING
            )
            if wrong and next(self.tape, 0) % 2:
                self.say(self.pick(wrong))
                self.drain()
                obeyed = self.state.finished and self.state.failure and self.state.failure.code == "resolved"
                self.demand(not obeyed, "a word was obeyed against the evidence")
            elif careful := self.may_say():
                self.say(self.pick(careful))
                for _ in range(self.pick((0, 3, 6, 12))):
                    self.stumble()
                self.drain()

    def say(self, owner: Side) -> None:
        """Hand a person's word to the machine."""
        self.world.decided = owner
        self.words.append(owner)
        self.handle(e.Resolved(owner, "test"))

    def stumble(self) -> None:
        """Do the next thing, or let the runner or a step of it fail."""
        moves = self.harmless_moves() or [self.poll]
        faults: list[Callable[[], None]] = [
            partial(self.fail, order, effect=effect)
            for order in self.orders
            if not isinstance(order.command, e.Observe | e.Finish)
            for effect in (False, True)
        ]
        if not self.state.finished:
            faults.append(self.crash)
        self.pick((*(moves[:1] * 4), *moves, *faults))()

    def check_end(self) -> None:
        """Check what the end promises."""
        world, state = self.world, self.state
        world.link_up = True
        while world.can_progress():
            world.progress()
        if state.phase is Phase.LIMBO:
            if set(self.faults) <= HARMLESS and self.silent is None:
                raise LawViolationError(f"limbo without need: {state.failure}")
            return
        if state.phase is Phase.DONE:
            self.demand(world.target_ever_ran, "done, and the target never ran")
            self.demand(world.target.state is RunState.RUNNING or TARGET in world.killed, "done, and nothing runs")
            self.demand(world.source.state is RunState.ABSENT or bool(state.leftovers), "source left, unnamed")
            doubted = state.comparison is not None and not state.comparison.equal
            self.demand(not (doubted and world.left_behind), "marked as what the new disks are not proven to be")
            marked = world.left_behind or doubted or not world.copying
            self.demand(marked or bool(state.leftovers), "old copies are not marked, unnamed")
        elif state.owner is Owner.SOURCE:
            out_of_reach = self.silent is SOURCE or {"cut", "silence"} <= set(self.faults)
            twice_failed = max(self.failed_steps[name] for name in ("CancelStream", "ResumeSource", "RestorePower")) > 1
            excused = SOURCE in world.killed or ((out_of_reach or twice_failed) and bool(state.leftovers))
            # The guest went over to a target that is gone, and a person, or the table, gave it up.
            given_up = state.postcopy and state.failure is not None and state.failure.code == "guest-lost"
            excused = excused or (world.source.stream in OVER and state.failure is not None) or given_up
            paused = world.source.state is RunState.PAUSED and not world.stopped_for_the_move
            runs = world.source.state is RunState.RUNNING or paused
            self.demand(runs or excused, f"{state.phase} on the source, and it does not run")
            self.demand(world.target.state is RunState.ABSENT or bool(state.leftovers), "target left, unnamed")
            self.demand(world.images == "none" or bool(state.leftovers), "images left, unnamed")
        has_it = world.device is (TARGET if state.owner is Owner.TARGET else SOURCE)
        gone = world.side(TARGET if state.owner is Owner.TARGET else SOURCE).state is RunState.ABSENT
        has_it = has_it or not world.direct or world.way is Way.OFF
        self.demand(has_it or gone or bool(state.leftovers), "the device is not given back, unnamed")
        self.demand(not world.send_queue_shortened or bool(state.leftovers), "send queue kept, unnamed")
        self.demand(not world.keys or bool(state.leftovers), "keys kept, unnamed")
        owner = TARGET if state.owner is Owner.TARGET else SOURCE
        self.demand(world.home is owner or bool(state.leftovers), "where the guest lives is not written down")
        given_back = not world.inflated or world.side(owner).state is RunState.ABSENT
        self.demand(given_back or bool(state.leftovers), "the balloon keeps memory, unnamed")

    def demand(self, holds: bool, why: str) -> None:  # noqa: FBT001 - reads like a sentence
        """Raise unless it holds."""
        if not holds:
            raise LawViolationError(f"{why}: {self.state}; {self.world}")


def walk(
    tape: Iterable[int],
    length: int = 80,
    silent: Side | None = None,
    *,
    copying: bool = False,
    way: Way = Way.LIVE,
    person: bool = False,
    direct: bool = False,
) -> Walk:
    """Walk a tape to its end; raises LawViolationError, or what the machine raises, with the whole story as a note.

    With `person`, somebody decides who owns a guest that ends in LIMBO.
    """
    made = Walk(iter(tape), silent, World(copying=copying, way=way, direct=direct), person=person)
    try:
        made.run(length)
    except Exception as error:
        error.add_note("\n".join(" ".join(map(str, line)) for line in made.story[-60:]))
        raise
    return made


_R, _S = RunState, StreamStatus
_WHOLE, _RAN, _OFF, _GONE = (
    *((_R.PAUSED, _S.COMPLETED), (_R.RUNNING, _S.COMPLETED), (_R.POWERED_OFF, _S.COMPLETED), (_R.ABSENT, _S.NONE)),
)
PAIRS = (
    *(((_R.RUNNING, _S.FAILED), target) for target in (_WHOLE, _RAN, _GONE)),
    *(((_R.PAUSED, _S.FAILED), target) for target in (_WHOLE, _RAN, _OFF, _GONE)),
    *(((_R.PAUSED, _S.COMPLETED), target) for target in (_WHOLE, _RAN, _GONE)),
    *(((_R.POSTMIGRATE, _S.COMPLETED), target) for target in (_WHOLE, _RAN, _OFF, _GONE)),
    *(((_R.OTHER, _S.COMPLETED), target) for target in (_WHOLE, _RAN, _OFF, _GONE)),
    *(((_R.STOPPED_FOR_SWITCHOVER, _S.SWITCHOVER), target) for target in (_WHOLE, (_R.INCOMING, _S.ACTIVE))),
    *(((_R.STOPPED_FOR_SWITCHOVER, _S.POSTCOPY), (state, _S.POSTCOPY)) for state in (_R.PAUSED, _R.RUNNING)),
    *(((_R.STOPPED_FOR_SWITCHOVER, _S.BROKEN), target) for target in (_GONE, (_R.PAUSED, _S.BROKEN))),
    *(((_R.ABSENT, _S.NONE), target) for target in (_WHOLE, _RAN, _OFF, _GONE, (_R.PAUSED, _S.BROKEN))),
)
"""What source and target may be when nobody knows who owns the guest: run state and stream of each."""

LEFT = frozenset({Held.STREAM, Held.TARGET, Held.SOURCE_STOPPED, Held.GUEST, Held.SEND_QUEUE})


def walk_from_limbo(tape: Iterable[int]) -> Walk:
    """Let a person decide over what two hosts may show, as the tape has it, in whatever way it came to that.

    Raises LawViolationError, or what the machine raises, with the whole story as a note.
    """
    made = Walk(iter(tape), person=True)
    world, pick = made.world, made.pick
    (world.source.state, world.source.stream), (world.target.state, world.target.stream) = pick(PAIRS)
    world.copying = bool(pick((0, 0, 1)))
    world.mirrors, world.images = ("ended", "made") if world.copying else ("none", "none")
    running = world.target.state in {_R.RUNNING, _R.POWERED_OFF}
    # A source that has taken its guest back proves that a target which is gone never ran.
    may_have = world.target.state is _R.ABSENT and world.source.stream is not _S.FAILED
    world.target_ever_ran = running or (may_have and bool(pick((0, 1))))
    made.silent = pick((None, None, SOURCE, TARGET))
    postcopy = world.source.stream in OVER or world.target.stream in OVER
    copies, held = (COPIES, LEFT | {Held.IMAGES}) if world.copying else ((), LEFT)
    door = pick((Door.SENT, Door.SENT, Door.ARMED))
    made.state = State(Phase.LIMBO, Owner.UNKNOWN, door, held, copies=copies, postcopy=postcopy)
    made.journal, made.restarted = [made.state], True
    try:
        made.drain()
        made.resolve()
    except Exception as error:
        error.add_note("\n".join(" ".join(map(str, line)) for line in made.story[-60:]))
        raise
    return made


def tapes(chance: Random, count: int) -> Iterator[tuple[list[int], int, Side | None]]:
    """Make tapes that begin harmlessly for a while and then hold faults, sparsely or densely."""
    for _ in range(count):
        calm, sparsity = chance.choice((0, 6, 12, 18, 24, 30)), chance.choice((1, 2, 4))
        rest = [chance.randrange(1000) if chance.randrange(sparsity) == 0 else 0 for _ in range(100)]
        if chance.randrange(3) == 0:  # faults close upon each other
            rest = [chance.choice((0, 1, 9, value)) for value in rest]
        tape = [0] * calm + rest
        yield tape, chance.choice((20, 40, 60, 80)), chance.choice((None, None, None, None, SOURCE, TARGET))
