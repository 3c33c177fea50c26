"""Stories that go where it matters: what chance alone would seldom put together."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from faults import MOMENTARY, PHASES, SIDES, STAY, Fault, In, Nth, Since

from godwit.core.state import Phase

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from scenes import Move

    Lasts = Callable[[float, float], float]
    Spot = Callable[[Random, Move, Lasts], tuple[Fault, ...]]

DOOR_STEPS: Final = ("resume", "resume", "migrate", "continue_stream", "go_over", "transition", "quit", "end_mirror")


def at_a_spot(chance: Random, move: Move, *, heals: bool) -> tuple[Fault, ...]:
    """Choose what happens at one of the spots that a kind of move comes to."""

    def lasts(shortest: float, longest: float) -> float:
        return STAY if not heals and chance.random() < 0.5 else chance.uniform(shortest, longest)

    weighted = [(weight, spot) for weight, kinds, spot in _SPOTS if not kinds or move.kind in kinds]
    spot = chance.choices([spot for _, spot in weighted], [weight for weight, _ in weighted])[0]
    return spot(chance, move, lasts)


def at_the_door(chance: Random, _: Move, __: Lasts) -> tuple[Fault, ...]:
    """A runner is gone in the very switchover, and then a QEMU or a host."""
    gone = chance.choice(("runner dies", "controller loses power", "runner hangs, is followed, and wakes"))
    when = Nth(chance.choice((1, 1, 2)), chance.choice(DOOR_STEPS), chance.random() < 0.7)
    amount = chance.choice((0.02, 0.5, 3.0))
    first = Fault(gone, when, lasts=chance.uniform(1, 20) if gone.startswith("runner hangs") else 0.0, amount=amount)
    then = chance.choice(("QEMU is killed", "QEMU hangs", "host crashes", "host is cut off"))
    seconds = 0.0 if then in MOMENTARY else chance.uniform(1, 80)
    return first, Fault(then, Since(chance.uniform(0, amount)), chance.choice(SIDES), seconds)


def behind_the_door(chance: Random, move: Move, _: Lasts) -> tuple[Fault, ...]:
    """Somebody wishes that the guest stays when it has gone, or is going; a slow host makes that instant longer."""
    phases = [Phase.COMMITTING, Phase.COMMITTING, Phase.FINISHING]
    if move.kind == "postcopy":
        phases += [Phase.POSTCOPY, Phase.POSTCOPY]
    before = Phase.STARTING if move.kind == "off" else Phase.SWITCHOVER
    late = chance.choice((0.2, 1.2))
    slow = Fault("host is slow", In(before, 0.0), chance.choice(SIDES), chance.uniform(1, 20), late)
    delay = chance.choice((0.0, chance.uniform(0, 0.3), chance.uniform(0, 2)))
    return slow, Fault("cancel", In(chance.choice(phases), delay))


def with_an_old_look(chance: Random, _: Move, __: Lasts) -> tuple[Fault, ...]:
    """Both sides are looked at over and over, and one answers so late that the other's answer is of the past."""
    slow, lost = chance.choice((SIDES, SIDES[::-1], SIDES[::-1], SIDES[::-1]))
    first = Fault("host is slow", In(Phase.PRECOPY, 0.02), slow, chance.uniform(2, 20), chance.choice((0.6, 1.2)))
    again = [Fault("monitor is lost", Since(chance.uniform(0.02, 0.5)), lost) for _ in range(chance.randint(1, 6))]
    return first, *again


def without_a_journal(chance: Random, move: Move, _: Lasts) -> tuple[Fault, ...]:
    """A host is away and comes back, and nothing can be written meanwhile: no new session may be used."""
    phase = chance.choice(PHASES.get(move.kind, PHASES[""]))
    away = chance.choice(("host crashes", "host is cut off", "monitor is lost"))
    seconds = 0.0 if away in MOMENTARY else chance.uniform(2, 60)
    first = Fault(away, In(phase, chance.choice((0.0, chance.uniform(0, 1)))), chance.choice(SIDES), seconds)
    full = Fault("journal is full", Since(chance.uniform(0, max(0.5, seconds))), "", chance.uniform(1, 30) + seconds)
    more = Fault("cancel", Since(chance.uniform(0, 5)))
    return (first, full, more) if chance.random() < 0.4 else (first, full)


def before_an_unwritten_door(chance: Random, move: Move, _: Lasts) -> tuple[Fault, ...]:
    """The record that permits the target to run cannot be written."""
    before = chance.choice((Phase.POWERING_OFF, Phase.STARTING)) if move.kind == "off" else Phase.PRECOPY
    when = In(before, chance.choice((chance.uniform(0, 0.01), chance.uniform(0, 0.15), chance.uniform(0, 1))))
    return (Fault("journal is full", when, lasts=chance.uniform(3, 60)),)


def beside_what_is_left(chance: Random, _: Move, lasts: Lasts) -> tuple[Fault, ...]:
    """A guest that was switched off is to go back, and what was started on the target cannot be ended."""
    left = chance.choice(("QEMU cannot be killed", "QEMU cannot be killed", "host is cut off"))
    when = chance.choice((Nth(2, "launch", after=True), In(Phase.STARTING, chance.uniform(0.1, 0.3))))
    first = Fault(left, when, "target", lasts(5, 90))
    then = Fault(chance.choice(("cancel", "runner dies")), Since(chance.uniform(0, 3)), amount=0.5)
    return (first, then) if chance.random() < 0.6 else (first,)


def while_it_goes_over(chance: Random, _: Move, lasts: Lasts) -> tuple[Fault, ...]:
    """The way between a guest and its memory breaks, or one of the two is silent."""
    what = chance.choice(
        ("link is cut", "link is cut", "stream is reset", "QEMU hangs", "QEMU hangs", "host is cut off")
    )
    begins = In(Phase.SWITCHOVER, chance.choice((0.0, chance.uniform(0, 0.02))))
    when = chance.choice((begins, begins, In(Phase.SWITCHOVER, chance.uniform(0, 6)), In(Phase.POSTCOPY, 0.0)))
    side = "" if what in {"link is cut", "stream is reset"} else chance.choice(SIDES)
    first = Fault(what, when, side, 0.0 if what in MOMENTARY else lasts(*chance.choice(((0.5, 60), (60, 200)))))
    second = Fault("stream is reset", Since(chance.uniform(0, 3)))
    return (first, second) if chance.random() < 0.3 else (first,)


def unheard(chance: Random, move: Move, lasts: Lasts) -> tuple[Fault, ...]:
    """What a monitor says unasked is lost."""
    phase = chance.choice(PHASES.get(move.kind, PHASES[""]))
    sides = chance.choice((SIDES, SIDES[:1], SIDES[1:]))
    begins, seconds = In(phase, chance.choice((0.0, chance.uniform(0, 0.3)))), lasts(0.1, 10)
    first, *others = (Fault("events are lost", begins, side, seconds) for side in sides)
    return first, *(replace(other, when=Since(0.0)) for other in others)


_LIVE: Final = frozenset({"live", "live, disks copied", "live, with balloon", "live, with a medium", "static"})
_SPOTS: Final[tuple[tuple[int, frozenset[str], Spot], ...]] = (
    (6, frozenset(), at_the_door),
    (3, frozenset(), behind_the_door),
    (3, _LIVE | {"postcopy"}, with_an_old_look),
    (3, frozenset(), without_a_journal),
    (2, frozenset(), before_an_unwritten_door),
    (12, frozenset({"off"}), beside_what_is_left),
    (14, frozenset({"postcopy"}), while_it_goes_over),
    (2, frozenset(), unheard),
)
"""How often stories go there, which kinds of moves do (all, where none are named), and what happens there."""
