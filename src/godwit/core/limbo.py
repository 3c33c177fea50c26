"""What a person can do about a guest of which nobody can know who owns it: each choice, its command, its risk. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from godwit.core.fencing import silent
from godwit.core.recovery import Seen
from godwit.core.resolving import OVER, contradiction
from godwit.model import GuestView, RunState, Side

if TYPE_CHECKING:
    from godwit.core.state import State
    from godwit.model import Spec

UNKNOWN: Final = GuestView(RunState.UNREACHABLE, detail="not asked: host or guest is not known any more")


@dataclass(frozen=True, slots=True)
class Choice:
    """One thing that can be done: what it does, what to type, and what it risks.

    `host` is where to type it, empty for this machine. `refused` says why it cannot be done now, empty where it can.
    """

    does: str
    command: str
    risk: str
    host: str = ""
    refused: str = ""


def choices(
    spec: Spec, state: State, source: GuestView, target: GuestView, fenceable: frozenset[Side]
) -> tuple[Choice, ...]:
    """Return what can be done, the least risky first. `fenceable` are the sides whose hosts' power can be cut."""
    seen = Seen(state, source, target, 0.0)
    if seen.s is RunState.RUNNING and seen.t is RunState.RUNNING:
        return (*_ends_one(spec, seen), *_words(spec, seen))
    return (*_silence(spec, seen, fenceable), *_words(spec, seen))


def _ends_one(spec: Spec, seen: Seen) -> tuple[Choice, ...]:
    """Return how to end one of two running copies."""
    found = []
    for side, view, host in ((Side.SOURCE, seen.source, spec.source), (Side.TARGET, seen.target, spec.target)):
        last = "it is the older one" if side is Side.SOURCE else "it began later, and clients may have gone there"
        found.append(
            Choice(
                f"ends the copy on {host} at once; then: godwit recover {spec.id}",
                f"kill -KILL {view.pid}" if view.pid else f"end its QEMU on {host} by hand",
                f"what only that copy knows is lost: {last}. Both may have damaged the disks: check them in the guest",
                host=host,
            )
        )
    return tuple(found)


def _silence(spec: Spec, seen: Seen, fenceable: frozenset[Side]) -> tuple[Choice, ...]:
    """Return what helps where a host says nothing."""
    found = []
    for side, view, host in ((Side.SOURCE, seen.source, spec.source), (Side.TARGET, seen.target, spec.target)):
        if view.state is not RunState.UNREACHABLE:
            continue
        if not silent(view):
            found.append(
                Choice(
                    f"looks again, when the guest's QEMU on {host} (process {view.pid}) answers its monitor",
                    f"godwit recover {spec.id}",
                    "none: see what keeps that process from answering, and whether somebody else has its monitor",
                )
            )
            continue
        found.append(
            Choice(f"looks again, when {host} or the way to it is back", f"godwit recover {spec.id}", "none, but time")
        )
        if side in fenceable:
            found.append(
                Choice(
                    f"cuts the power of {host}, proves that it is off, and looks again",
                    f"godwit recover {spec.id} --fence --yes",
                    f"every guest on {host} dies, this one, too, if it runs there",
                )
            )
    return tuple(found)


def _words(spec: Spec, seen: Seen) -> tuple[Choice, ...]:
    """Return what a person may decide, and what that would do."""
    found = []
    for side, (does, risk) in ((Side.TARGET, _to_target(spec, seen)), (Side.SOURCE, _to_source(spec, seen))):
        against = contradiction(seen.state, side, seen.source, seen.target)
        command = f"godwit resolve {spec.id} --owner {side} --i-have-checked"
        found.append(Choice(does, command, risk, refused=against))
    return tuple(found)


def _to_target(spec: Spec, seen: Seen) -> tuple[str, str]:
    gone = f"the guest's process on {spec.source} is ended"
    match seen.t:
        case RunState.ABSENT:
            return (
                f"counts the guest as crashed on {spec.target}: godwit vm start {spec.vm} boots it from its disks",
                f"what {spec.source} has of its running state is given up; its disks are safe",
            )
        case RunState.UNREACHABLE:
            return (
                f"counts the guest as running on {spec.target}; {gone}",
                f"if it does not run on {spec.target}, its running state is lost",
            )
        case _ if seen.target_complete and seen.target.stream in OVER:
            return (
                f"counts the guest as crashed: some of its memory was on {spec.source} alone",
                f"its running state is given up for good, also if {spec.source} comes back",
            )
        case RunState.PAUSED:
            silence = f"; if it runs on {spec.source} now, two copies write" if seen.s is RunState.UNREACHABLE else ""
            return (
                f"lets the guest run on {spec.target}, once {gone}",
                f"if {spec.source} ran on after {spec.target} had everything, its memory is older than the disks"
                + silence,
            )
        case _:
            return (f"counts the guest as running on {spec.target}; {gone}", "none, if that is the guest")


def _to_source(spec: Spec, seen: Seen) -> tuple[str, str]:
    there = {
        RunState.ABSENT: "",
        RunState.UNREACHABLE: f"leaves what {spec.target} may have alone, and ",
    }.get(seen.t, f"ends the copy on {spec.target}, and then ")
    if seen.s is RunState.ABSENT or seen.gone_over:
        running = seen.t is RunState.PAUSED and not seen.gone_over
        lost = f"its running state on {spec.target} is thrown away" if running else "its running state is lost already"
        return f"{there}gives the guest up: it has to be booted from its disks", f"{lost}; its disks are safe"
    if seen.s is RunState.UNREACHABLE:
        return (
            f"{there}keeps the guest on {spec.source}: it is told to run on there when that host is back, not before",
            f"if it does not run on {spec.source}, it stands still until then, and its running state may be lost",
        )
    risk = f"if it ever ran on {spec.target}, the memory on {spec.source} is older than the disks: they are damaged"
    if seen.t is RunState.UNREACHABLE:
        risk = f"if it runs on {spec.target} now, two copies write to its disks; and {risk}"
    if seen.s is RunState.RUNNING:
        risk = f"what {spec.target} may have written to the disks meanwhile"
    return f"{there}lets the guest run on {spec.source}", risk
