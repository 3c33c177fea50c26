"""A person decides who owns a guest in LIMBO. Pure.

What both hosts show goes before anybody's word: where the table of recovery comes to a verdict, that holds, and a word
that the evidence contradicts is refused, with what to do first. It decides only what nobody can see: whether a copy
that is gone ever ran, or what a host that is silent has.

- For the target: the source's process is ended with proof before the target is told to run, unless it cannot run and
  has let go of the disks (`postmigrate`), or its host is silent: what is left there is named.
- For the source: the target's process is ended with proof before anything is resumed, unless its host is silent.

Each step is an event of its own, so that whoever takes over in between looks again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from godwit.core import events as e
from godwit.core import finishing, rollback
from godwit.core.recovery import Seen, Verdict
from godwit.core.state import Door, Failure, Held, Resolution, State
from godwit.core.steps import Step
from godwit.model import RunState, Side, StreamStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from godwit.model import GuestView

DECIDED: Final = "resolved"
"""The code of a migration that went back by a person's word."""

OPEN: Final = frozenset(
    {Verdict.LIMBO, Verdict.WAIT, Verdict.CONTINUE, Verdict.MEND, Verdict.GO_ON, Verdict.END_MIRRORS}
)
"""Verdicts that do not say who owns a guest in LIMBO."""

NAMESAKE: Final = "namesake"
"""The raw state of a QEMU that only has the guest's name."""

_OUT_OF_SIGHT: Final = frozenset({RunState.ABSENT, RunState.UNREACHABLE})
_LETS_GO: Final = _OUT_OF_SIGHT | {RunState.POSTMIGRATE}
"""What a source shows that keeps nobody from the guest's disks."""

OVER: Final = frozenset({StreamStatus.POSTCOPY, StreamStatus.BROKEN})
"""What a stream is while some of the guest's memory is still on the source."""

_ONE_GUEST: Final = (
    "some of the guest's memory is on the target and some on the source: the two processes are one guest; "
    "end neither, bring back the link or the host that is silent"
)


def contradiction(state: State, owner: Side, source: GuestView, target: GuestView) -> str:
    """Return what both hosts show against `owner`, and what to do first; empty where nothing speaks against it."""
    seen = Seen(state, source, target, 0.0)
    if seen.s is RunState.RUNNING and seen.t is RunState.RUNNING:
        other = Side.TARGET if owner is Side.SOURCE else Side.SOURCE
        return (
            f"both copies run: end the one on the {other} first{_process(target if owner is Side.SOURCE else source)}"
        )
    if seen.streaming and seen.t in {RunState.INCOMING, RunState.PAUSED}:
        return "the stream from the source to the target still runs, so nobody has to decide yet"
    return _against_target(seen) if owner is Side.TARGET else _against_source(seen)


def _process(view: GuestView) -> str:
    return f" (process {view.pid})" if view.pid else ""


def _against_target(seen: Seen) -> str:  # noqa: PLR0911 - one case for each thing that may be seen
    if seen.s is RunState.RUNNING:
        return f"the guest runs on the source: end that copy first{_process(seen.source)}, or give it to the source"
    if seen.t is RunState.OTHER and seen.target.raw == NAMESAKE:
        return f"what is on the target is another QEMU that has the guest's name{_process(seen.target)}"
    if seen.t is RunState.INCOMING:
        return "the target has not received everything: it cannot run"
    if seen.gone_over and seen.t is not RunState.ABSENT and seen.target.stream is not StreamStatus.COMPLETED:
        return _ONE_GUEST
    if seen.t is RunState.RUNNING and seen.target.stream in OVER:
        return _ONE_GUEST
    if seen.t is RunState.PAUSED and not seen.target_complete:
        return "the target stands still, and nothing shows that it has received everything"
    return ""


def _against_source(seen: Seen) -> str:
    if seen.t is RunState.RUNNING:
        return f"the guest runs on the target: end that copy first{_process(seen.target)}, or give it to the target"
    if seen.t is RunState.OTHER and seen.target.raw == NAMESAKE:
        return f"what is on the target is another QEMU that has the guest's name{_process(seen.target)}: end it first"
    if seen.gone_over and seen.t not in _OUT_OF_SIGHT:
        return _ONE_GUEST
    return ""


def resolved(state: State, event: e.Event) -> Step:
    """Take down what a person decided, and look at both sides before anything is done."""
    assert isinstance(event, e.Resolved)  # noqa: S101 - the table says so; for the type checker
    return Step(replace(state, resolution=Resolution(event.owner, event.by)), (e.Observe(),))


def begun(state: State) -> bool:
    """Say whether a process was ended for a person's word: what both hosts show since is of our own making."""
    return state.resolution is not None and state.resolution.tried


def decide(state: State, seen: Seen, story: str, commit: Callable[[State], Step]) -> Step:
    """Go one step on by a person's word, in LIMBO, where what both sides show does not decide.

    `commit` goes through the door. The word is forgotten as soon as it has led out, or was refused.
    """
    word = state.resolution
    assert word is not None  # noqa: S101 - the caller has looked; for the type checker
    against = contradiction(state, word.owner, seen.source, seen.target)
    if against:
        return _refused(state, f"{word.by or 'somebody'} gave the guest to the {word.owner}, but {against}")
    return _to_target(state, seen, story, commit) if word.owner is Side.TARGET else _to_source(state, seen, story)


def _refused(state: State, why: str) -> Step:
    return finishing.limbo(replace(state, resolution=None), why)


def _to_target(state: State, seen: Seen, story: str, commit: Callable[[State], Step]) -> Step:
    settled = replace(state, resolution=None)
    if seen.t is RunState.ABSENT or (seen.t is RunState.PAUSED and seen.target.stream in OVER):
        return finishing.crashed(settled, f"{_words(state)}, and its process there is gone or cannot run ({story})")
    if seen.t is not RunState.PAUSED:  # it has run there: by what is seen, or by what the person saw
        return finishing.begin(settled)
    if seen.s in _LETS_GO:
        return commit(settled)
    return _end_first(state, e.EndSource(decided=True), Side.SOURCE)


def _to_source(state: State, seen: Seen, story: str) -> Step:
    if seen.t not in _OUT_OF_SIGHT:
        return _end_first(_without_images(state), e.DestroyTarget(), Side.TARGET)
    settled = replace(state, resolution=None)
    if seen.s is RunState.ABSENT or seen.gone_over:
        lost = Failure("guest-lost", f"{_words(state)} ({story})", "start the guest again from its disks")
        held = state.held - {Held.STREAM, Held.SOURCE_STOPPED}
        return rollback.begin(_without_images(replace(settled, held=held, failure=lost)))
    passed = state.door is not Door.CLOSED and Held.POWER not in state.held
    held = state.held | ({Held.SOURCE_STOPPED} if passed else set())
    failure = Failure(DECIDED, f"{_words(state)} ({story})", rollback.LOOK_AND_RETRY)
    return rollback.begin(_without_images(replace(settled, held=held, failure=failure)))


def _without_images(state: State) -> State:
    """Leave the images on a target that may have run alone: should the word be wrong, they are the newest there are."""
    if Held.IMAGES not in state.held or state.door is Door.CLOSED:
        return state
    paths = ", ".join(copy.image.path for copy in state.made)
    return rollback.with_leftover(
        replace(state, held=state.held - {Held.IMAGES}), f"left as they are on the target: {paths}"
    )


def _end_first(state: State, command: e.Command, side: Side) -> Step:
    """End the process of the side that lost the guest; what outlives that is a person's to look at."""
    word = state.resolution
    assert word is not None  # noqa: S101 - as above
    if word.tried:
        return _refused(state, f"{_words(state)}, but the process on the {side} outlived its end")
    return Step(replace(state, resolution=replace(word, tried=True)), (command,))


def _words(state: State) -> str:
    word = state.resolution
    assert word is not None  # noqa: S101 - as above
    return f"{word.by or 'somebody'} decided that the guest is the {word.owner}'s"


def ended(state: State, event: e.Event) -> Step:
    """Look again once the process of the side that lost the guest has been ended, or could not be."""
    if state.resolution is None or not state.resolution.tried:
        return Step(state)
    match event:
        case e.Undone(step="DestroyTarget", leftover=""):
            return Step(state, (e.Observe(),))
        case e.Undone(step="DestroyTarget", leftover=left):
            return _refused(state, f"{_words(state)}, but what is on the target could not be ended: {left}")
        case e.StepFailed(step="DestroyTarget" | "EndSource", message=message):
            return _refused(state, f"{_words(state)}, but the other copy could not be ended: {message}")
        case e.SourceEnded():
            return Step(state, (e.Observe(),))
        case _:
            return Step(state)
