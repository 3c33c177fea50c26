"""A device that does not travel: what goes wrong while it is away, and what may never become of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from directscene import FUNCTION, NAME
from faults import MOMENTARY, SIDES, STAY, Fault, In, Nth, Since

from godwit.core.state import Phase
from godwit.model import OutcomeStatus

if TYPE_CHECKING:
    from random import Random

    from scenes import Move
    from story import Story

    from godwit.hosts.fake import FakeQemu
    from godwit.model import Outcome

WAITED: Final = 25.0
"""Seconds for which a guest that did not let go in time is waited for at least, where nothing else goes wrong."""

_STEPS: Final = ("let_go", "put_back", "plugged", "put_back", "take_function", "migrate", "destroy")


def around_a_device(chance: Random, *, heals: bool) -> tuple[Fault, ...]:
    """Choose what goes wrong while a device is away."""
    when = chance.choice(
        (
            In(Phase.UNPLUGGING, chance.choice((0.0, chance.uniform(0, 0.3), chance.uniform(0, 8)))),
            In(Phase.PRECOPY, chance.choice((0.0, chance.uniform(0, 1)))),
            In(Phase.ROLLING_BACK, chance.uniform(0, 2)),
            In(Phase.FINISHING, chance.uniform(0, 1)),
            Nth(chance.choice((1, 1, 2, 3)), chance.choice(_STEPS), chance.random() < 0.5),
        )
    )
    kinds = ("cancel", "runner dies", "QEMU is killed", "stream is reset", "monitor is lost", "controller loses power")
    lasting = ("link is cut", "host is cut off", "QEMU hangs", "host crashes", "reply is lost", "journal is full")
    kind = chance.choice((*kinds, *lasting))
    if kind == "reply is lost" and not isinstance(when, Nth):
        when = Nth(chance.choice((1, 2)), chance.choice(_STEPS), chance.random() < 0.5)
    lasts = 0.0 if kind in MOMENTARY or kind == "reply is lost" else chance.uniform(0.1, 40)
    if lasts and not heals and kind != "journal is full" and chance.random() < 0.3:
        lasts = STAY
    sided = kind in {"QEMU is killed", "QEMU hangs", "host is cut off", "host crashes", "monitor is lost"}
    amount = chance.choice((0.02, 2.0)) if kind in {"runner dies", "controller loses power"} else 0.0
    first = Fault(kind, when, chance.choice(SIDES) if sided else "", lasts, amount)
    again = Fault("runner dies", Since(chance.uniform(0, 3)), amount=0.02)
    return (first, again) if chance.random() < 0.3 else (first,)


def judge_device(story: Story, guest: str, outcome: Outcome) -> None:
    """The guest has its device where it runs, unless the target has none for it, or it is named why not."""
    move = next(one for one in story.plan.moves if one.guest == guest)
    if not move.device or outcome.status in {OutcomeStatus.LIMBO, OutcomeStatus.GUEST_CRASHED}:
        return
    named = " ".join(story.durable(guest).leftovers) + outcome.error
    for qemu in story.world.qemus_of(guest):
        if qemu.raw == "running":
            _judge(story, move, qemu, named)


def _judge(story: Story, move: Move, qemu: FakeQemu, named: str) -> None:
    there = story.watch.on_target(qemu)
    expected = not there or move.device != FUNCTION or move.matched
    has, told = NAME in qemu.direct.there, NAME in named
    takes, patience = qemu.workload.lets_go, min(move.policy.unplug_timeout, move.policy.deadline or WAITED)
    may_take = patience + WAITED
    excused = told and (story.faulted or (takes or 0.0) > may_take)  # one that lets go when nobody waits any more
    if has is not expected and not excused:
        what = "lacks" if expected else "has"
        story.violated(f"{move.guest} {what} its device on {qemu.host.name}, and that is not said")
    if not expected and not told:
        story.violated(f"{move.guest} is without its device on {qemu.host.name}, and nobody says so")
    may_go = NAME in qemu.direct.asked and takes is not None and not there
    if may_go and not excused:
        story.violated(f"{move.guest} may yet let go of its device on {qemu.host.name}, and nobody waits for that")
