"""The part of a migration's life in which the guest runs on the target and its memory is not all there yet. Pure.

- It begins with a word to the source (GoOver), from which nobody can tell any more when the guest goes over: what goes
  back then is decided by what both sides show.
- The target is held as always: it is told to run (ContinueTarget) when both sides say that the guest goes over, and the
  source then stands still for good.
- The source's process holds memory that is nowhere else, so it is ended only when the target says `completed`, which it
  does when its last page is in (postcopy_ram_listen_thread() in migration/postcopy-ram.c). What the source says, or
  whether it is still there, does not matter then.
- A connection that breaks is mended, for as long as both processes live.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from godwit.core import events as e
from godwit.core.state import KEPT, Phase
from godwit.core.steps import Step
from godwit.model import Owner, Side, StreamStatus, Way

if TYPE_CHECKING:
    from godwit.core.state import State

MEND_AGAIN: Final = 0.5
"""Seconds between attempts to mend a connection."""


def begin(state: State) -> Step:
    """Tell the source that the guest is to go over; not one that stands still, or whose disks travel."""
    if state.copies or state.way is not Way.LIVE:
        return Step(state)
    return Step(replace(state, postcopy=True), (e.GoOver(),))


def complete(state: State) -> bool:
    """Say whether all of the guest's memory is on the target."""
    return not state.postcopy or Side.TARGET.value in state.ended


def follow(state: State) -> Step:
    """Go on with a guest that runs on the target, while its memory follows."""
    held = state.held & KEPT
    return Step(replace(state, phase=Phase.POSTCOPY, owner=Owner.TARGET, held=held, failure=None))


def with_ended(state: State, event: e.Event) -> State:
    """Take down that a side has said `completed`."""
    if isinstance(event, e.StreamEnded) and event.status is StreamStatus.COMPLETED:
        return replace(state, ended=state.ended | {event.side.value})
    if isinstance(event, e.Observed) and state.postcopy:
        seen = {Side.SOURCE: event.source, Side.TARGET: event.target}
        said = {side.value for side, view in seen.items() if view.stream is StreamStatus.COMPLETED}
        return replace(state, ended=state.ended | said)
    return state


def ended_early(state: State, event: e.Event) -> Step:
    """Take down what a side says of its stream while the target is only being told to run."""
    return Step(with_ended(state, event)) if state.postcopy else Step(state)


def broke(state: State, _: e.Event) -> Step:
    """Mend the connection."""
    return Step(state, (e.MendStream(),))


def failed(state: State, event: e.Event) -> Step:
    """Try again to mend it: at once where only the way is missing, else when both sides have been looked at."""
    if not isinstance(event, e.StepFailed) or event.step != "MendStream":
        return Step(state)
    no_way = event.code == "host-unreachable"
    return Step(state, (e.MendStream(MEND_AGAIN) if no_way else e.Observe(MEND_AGAIN),))
