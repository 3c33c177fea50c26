"""The parts of pages that are made from the code. `script/diagrams` writes them, tests compare them.

The layers are those of import-linter's contract. The state diagram comes from walking the machine: from its first state
every event of a small, complete set is tried in every state that is reached, and each change of phase becomes an arrow.
The table of recovery comes from the source of `godwit.core.recovery.RULES`, since a condition's own text says most. The
table of checks is `godwit.core.preflight.rows.SUBJECTS`, that of planted mismatches tests/core/planted.py.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import itertools
import re
import sys
import tomllib
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from godwit.core import events as e
from godwit.core import recovery
from godwit.core.machine import TRANSITIONS, step
from godwit.core.preflight.rows import ROWS, SUBJECTS
from godwit.core.state import TERMINAL, Door, Failure, Held, LawBrokenError, Phase, State
from godwit.model import (
    Comparison,
    DevicePolicy,
    DirectDevice,
    DiskCopy,
    GuestView,
    ImageFacts,
    RunState,
    Side,
    StreamStatus,
    Way,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from enum import StrEnum
    from types import ModuleType

ROOT: Final = Path(__file__).parents[2]
ARCHITECTURE: Final = ROOT / "docs" / "architecture.md"
CHECKS: Final = ROOT / "docs" / "check-before-you-move.md"

_FAILURE: Final = Failure("failure", "something failed")
_SOURCES: Final = (
    GuestView(RunState.RUNNING),
    GuestView(RunState.RUNNING, StreamStatus.ACTIVE),
    GuestView(RunState.STOPPED_FOR_SWITCHOVER, StreamStatus.HELD),
    GuestView(RunState.STOPPED_FOR_SWITCHOVER, StreamStatus.SWITCHOVER),
    GuestView(RunState.POSTMIGRATE, StreamStatus.COMPLETED),
    GuestView(RunState.ABSENT),
    GuestView(RunState.UNREACHABLE),
)
_TARGETS: Final = (
    GuestView(RunState.ABSENT),
    GuestView(RunState.INCOMING, StreamStatus.ACTIVE),
    GuestView(RunState.PAUSED, StreamStatus.COMPLETED),
    GuestView(RunState.RUNNING, StreamStatus.COMPLETED),
    GuestView(RunState.UNREACHABLE),
)
_OBSERVED: Final = tuple(
    e.Observed(source, target, waited, restarted)
    for source, target, (waited, restarted) in itertools.product(
        _SOURCES, _TARGETS, ((0.0, False), (0.0, True), (recovery.PATIENCE, False))
    )
)
_OBSERVED_OFF: Final = (
    e.Observed(GuestView(RunState.POWERED_OFF), GuestView(RunState.INCOMING), 0.0),
    e.Observed(GuestView(RunState.ABSENT), GuestView(RunState.PAUSED), 0.0),
)
"""What only a guest that is switched off for its move shows."""
_STEPS: Final = (
    *(
        "UnplugDevices",
        "Check",
        "PrepareTarget",
        "StartMirrors",
        "StartStream",
        "Adjust",
        "EndMirrors",
        "ContinueStream",
        "GoOver",
    ),
    *("ContinueTarget", "StopSource", "PowerOff", "EndSource", "StartTarget"),
)
_UNDOS: Final = (
    *("CancelStream", "CancelMirrors", "DestroyTarget", "RemoveImages", "ResumeSource", "RestoreSendQueue"),
    *("RestorePower", "KeepImages", "RestoreGuest", "RemoveCredentials", "RecordHome", "PlugDevices"),
)
_COPIES: Final = (DiskCopy("disk0", ImageFacts("/images/web.raw", "raw", 1, 1), "job", verify=True),)
_DEVICES: Final = (DirectDevice("nic1", DevicePolicy.UNPLUG, "{}", "{}"),)
_DUTIES: Final = ("Verify", "RecordHome", "RemoveSource", "RestoreSendQueue")
_ALIKE: Final = frozenset({"RecordHome", "RestoreGuest", "RemoveCredentials", "RestoreSendQueue", "PlugDevices"})
"""Duties that nothing but the end depends on: what one of them leads to, they all do."""

EVENTS: Final[tuple[e.Event, ...]] = (
    e.Begin(),
    e.Checked(),
    e.Checked(_COPIES, encrypted=True),
    e.Checked((), Way.STATIC),
    e.Checked((), Way.STATIC, devices=_DEVICES),
    e.Checked(devices=_DEVICES),
    e.Checked((), Way.OFF),
    e.Checked(_COPIES, Way.OFF),
    e.SourcePaused(),
    e.PoweredOff(),
    e.SourceEnded(),
    e.TargetStarted(),
    e.Checked(media=_COPIES),
    e.MediaCopied(),
    e.DisksCompared(Comparison(equal=True)),
    e.MirrorsReady(),
    e.Unplugged(),
    e.MirrorLost("disk0", "it broke off"),
    e.StreamHeld(),
    *(e.WentOver(side) for side in Side),
    *(e.StreamBroke(side) for side in Side),
    e.StreamMended(),
    e.Decided("postcopy", {}, "", ""),
    e.MirrorsEnded(),
    e.TargetPrepared("tcp:target:1"),
    e.SourcePrepared(),
    e.StreamStarted(),
    e.Decided("raise-downtime-limit", {"downtime-limit": 40}, "", ""),
    e.SourceStopped(),
    e.SourceResumed(),
    *(e.StreamEnded(side, status) for side in Side for status in (StreamStatus.COMPLETED, StreamStatus.FAILED)),
    e.TargetRunning(),
    e.Verified(alive=True),
    e.SourceRemoved(),
    *(e.Undone(name) for name in _UNDOS),
    *(e.StepFailed(name, "failure", "it failed") for name in dict.fromkeys((*_STEPS, *_UNDOS, *_DUTIES))),
    *(e.Lost(side) for side in Side),
    *_OBSERVED,
    *_OBSERVED_OFF,
    e.CancelRequested(),
    *(e.Resolved(side, "somebody") for side in Side),
    e.GiveUp("failure", "too long"),
)
_WAYS_ARE_ONE: Final = TERMINAL | {Phase.ROLLING_BACK, Phase.FINISHING}
_AFTERWARDS: Final = frozenset({Phase.PRECOPY, Phase.SWITCHOVER, Phase.COMMITTING, Phase.POSTCOPY, Phase.FINISHING})
"""Phases in which it leads no other way that devices were taken from the guest."""
_PHASE_IDS: Final = {phase: phase.value.replace("-", "_") for phase in Phase}
_ENUMS: Final[tuple[type[StrEnum], ...]] = (Phase, Door, Held, RunState, StreamStatus, Side)

Arrows = dict[tuple[Phase, Phase], set[str]]


def _telling(state: State) -> frozenset[Held]:
    """Return of what a state holds what leads it another way: the guest is given back just before the send queue.

    Where all of it is given back, one after the other, recovery asks for some; of the rest only whether any is left.
    """
    if state.phase in {Phase.ROLLING_BACK, Phase.LIMBO}:
        told = {Held.STREAM, Held.SOURCE_STOPPED, Held.POWER}
        return (state.held & told) | ({Held.SEND_QUEUE} if state.held - told else set())
    return state.held - {Held.GUEST, Held.CREDENTIALS} - ({Held.DEVICES} if state.phase in _AFTERWARDS else set())


@functools.cache
def _essence(state: State) -> State:
    """Return a state without what only tells the story, so that a walk comes to an end, and soon.

    From where a way leads no other way than a live move does, it is none of its own.
    """
    state = replace(state, resolution=None)  # whose word it was leads no other way than what is seen
    if state.phase in TERMINAL:
        return State(phase=state.phase, owner=state.owner)
    merged = _WAYS_ARE_ONE | ({Phase.MIRRORING, Phase.PRECOPY, Phase.SWITCHOVER} if state.way is Way.STATIC else set())
    if state.phase in _WAYS_ARE_ONE:  # what it holds, and what is still to be done, lead on from here, and nothing else
        state = replace(state, copies=(), media=(), mirrored=False, launch=None, devices=())
    if state.phase in _AFTERWARDS:
        state = replace(state, devices=())
    others, finishing = state.duties - _ALIKE, state.phase is Phase.FINISHING
    if finishing and (not state.postcopy or Side.TARGET.value in state.ended):  # how it came there is told
        state = replace(state, postcopy=False, over=frozenset(), ended=frozenset(), tried=frozenset())
    return replace(
        state,
        held=_telling(state),
        duties=(others or (state.duties and frozenset({"RestoreSendQueue"}))) if finishing else frozenset(),
        comparison=None,
        failure=_FAILURE if state.failure else None,
        leftovers=("something is left",),
        prepared=state.prepared if state.phase is Phase.PREPARING else frozenset(),
        tried=state.held if state.held <= state.tried else frozenset(),
        alive=None,
        way=Way.LIVE if state.phase in merged else state.way,
        media=() if state.copies or state.phase in _WAYS_ARE_ONE else state.media,
        uri="",
        disks_uri="",
    )


def _sight(state: State, event: e.Observed) -> tuple[object, ...]:
    """Return what of a sight of both hosts leads a state further: the ruling, and whose stream has come to its end."""
    seen_from = state.inherited() if event.restarted else state
    ruling = recovery.recover(seen_from, event.source, event.target, event.waited, restarted=event.restarted)
    said = (
        tuple(view.stream is StreamStatus.COMPLETED for view in (event.source, event.target)) if state.postcopy else ()
    )
    return event.restarted, ruling.verdict, said


_READ: Final = ("phase", *sorted(set(re.findall(r"\bstate\.(\w+)", inspect.getsource(recovery))) - {"phase"}))
"""What recovery reads of a state: where that is the same, so is what can be seen."""


def _telling_apart(state: State, events: list[e.Event]) -> list[e.Event]:
    """Return the events without the sights that lead no further than one before them."""
    found, sights = [], set()
    for event in events:
        sight = _sight(state, event) if isinstance(event, e.Observed) else None
        if sight is None or sight not in sights:
            found.append(event)
            sights.add(sight)
    return found


def arrows() -> Arrows:
    """Walk the machine and return, for each change of phase, the events that bring it about."""
    found: Arrows = defaultdict(set)
    known = {phase: [one for one in EVENTS if (phase, type(one)) in TRANSITIONS] for phase in Phase}
    telling: dict[tuple[object, ...], list[e.Event]] = {}
    seen = {State()}
    waiting = [State()]
    while waiting:
        state = waiting.pop()
        read = tuple(getattr(state, name) for name in _READ)
        if read not in telling:
            telling[read] = _telling_apart(state, known[state.phase])
        for event in telling[read]:
            try:
                after = _essence(step(state, event).state)
            except LawBrokenError:
                continue  # this event cannot follow that state; the machine refuses the combination
            if after.phase is not state.phase:
                found[state.phase, after.phase].add(type(event).__name__)
            if after not in seen:
                seen.add(after)
                waiting.append(after)
    return dict(found)


def state_diagram() -> str:
    """Return the phases and the events between them as a mermaid diagram."""
    order = list(Phase)
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> pending"]
    lines += [f'    state "{phase.value}" as {name}' for phase, name in _PHASE_IDS.items() if phase.value != name]
    found = arrows()
    for (before, after), events in sorted(found.items(), key=lambda one: tuple(map(order.index, one[0]))):
        lines.append(f"    {_PHASE_IDS[before]} --> {_PHASE_IDS[after]}: {', '.join(sorted(events))}")
    lines += [f"    {_PHASE_IDS[phase]} --> [*]" for phase in order if phase in TERMINAL]
    return "\n".join([*lines, "```"])


def _conditions() -> list[str]:
    """Return the text of each rule's condition, in order."""
    tree = ast.parse(inspect.getsource(recovery))
    for node in tree.body:
        if (
            isinstance(node, ast.AnnAssign)
            and ast.unparse(node.target) == "RULES"
            and isinstance(node.value, ast.Tuple)
        ):
            lambdas = [row.elts[0] for row in node.value.elts if isinstance(row, ast.Tuple)]
            return [_readable(ast.unparse(one.body)) for one in lambdas if isinstance(one, ast.Lambda)]
    message = "godwit.core.recovery has no table RULES any more"
    raise LookupError(message)


def _readable(text: str) -> str:
    """Put a condition into the words of the page: enum members by value, `e.s` is the source, `e.t` the target."""
    for kind in _ENUMS:
        for member in kind:
            text = re.sub(rf"\b{kind.__name__}\.{member.name}\b(\.value)?", member.value, text)
    for name, word in ((r"e\.state\.", ""), (r"e\.s\b", "source"), (r"e\.t\b", "target")):
        text = re.sub(rf"\b{name}", word, text)
    text = re.sub(r"\be\.(\w+)", r"\1", text)
    text = re.sub(r"\b_([A-Z_]+)\b", lambda match: match[1].lower().replace("_", "-"), text)
    return text.replace(" is not ", " ≠ ").replace(" is ", " = ").replace("True", "otherwise")


def recovery_table() -> str:
    """Return the rules of recovery as a table, in the order in which they are read."""
    lines = ["| # | If | Verdict | Because |", "|---|---|---|---|"]
    rows = zip(_conditions(), recovery.RULES, strict=True)
    for number, (condition, (_, verdict, why)) in enumerate(rows, start=1):
        lines.append(f"| {number} | {condition.replace('|', 'or')} | **{verdict.value}** | {why} |")
    lines += ["", "The words in the conditions:", ""]
    for name, value in vars(recovery.Seen).items():
        if isinstance(value, property) and name not in {"s", "t"}:
            lines.append(f"- `{name}`: {(inspect.getdoc(value) or '').splitlines()[0]}")
    for name, members in vars(recovery).items():
        if name.startswith("_") and isinstance(members, frozenset):
            word = name.strip("_").lower().replace("_", "-")
            lines.append(f"- `{word}`: one of {', '.join(sorted(str(one.value) for one in members))}")
    for name, seconds in vars(recovery).items():
        if name.isupper() and isinstance(seconds, float):
            lines.append(f"- `{name}`: {seconds:g} s")
    return "\n".join(lines)


def layers() -> str:
    """Return the layers that import-linter keeps, the upper ones above."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    rows = next(one["layers"] for one in contracts if one["type"] == "layers")
    names = [row.replace("godwit.", "") for row in rows]
    width = max(map(len, names))
    return "\n".join(["```text", *(name.center(width).rstrip() for name in names), "```"])


def checks() -> str:
    """Return the checks of preflight as tables, one for each subject."""
    lines: list[str] = []
    for subject, rows in SUBJECTS.items():
        lines += [f"### {subject}", "", "| Code | Severity | Found when | Why it matters |", "|---|---|---|---|"]
        lines += [f"| `{row.code}` | {row.severity.value} | {row.finds} | {row.why} |" for row in rows]
        lines.append("")
    return "\n".join(lines).rstrip()


@functools.cache
def _planted() -> ModuleType:
    """Return the table of planted mismatches, which is a neighbour of the tests that use it."""
    folder = str(ROOT / "tests" / "core")
    sys.path.append(folder)
    try:
        return importlib.import_module("planted")
    finally:
        sys.path.remove(folder)


def planted() -> str:
    """Return how many mismatches are planted, and which."""
    table = _planted()
    codes = {row.code for row in table.PLANTED}
    kinds = Counter(row.severity.value for row in table.PLANTED)
    counts = ", ".join(f"{kinds[kind]} of `{kind}`" for kind in ("block", "warn", "info"))
    lines = [
        f"{len(table.PLANTED)} mismatches are planted ({counts}), with {len(codes)} codes of the {len(ROWS)} above;",
        f"{len(table.SOUND)} sound pairs are let go without a block or a warning.",
        "",
        "| Planted | Found as | Severity |",
        "|---|---|---|",
        *(f"| {row.name} | `{row.code}` | {row.severity.value} |" for row in table.PLANTED),
    ]
    return "\n".join(lines)


PARTS: Final[dict[Path, dict[str, Callable[[], str]]]] = {
    ARCHITECTURE: {"layers": layers, "state-diagram": state_diagram, "recovery-table": recovery_table},
    CHECKS: {"checks": checks, "planted": planted},
}


def rendered(page: Path, text: str) -> str:
    """Return the page with each generated part between its markers made anew. Raises LookupError for a lost marker."""
    for name, make in PARTS[page].items():
        begin, end = f"<!-- made by script/diagrams: {name} -->", f"<!-- end: {name} -->"
        head, found, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if not (found and closed):
            message = f"{page.name} has no markers for {name}"
            raise LookupError(message)
        text = f"{head}{begin}\n\n{make()}\n\n{end}{tail}"
    return text


def main() -> int:
    """Write the pages; say whether they changed."""
    for page in PARTS:
        before = page.read_text(encoding="utf-8")
        after = rendered(page, before)
        if after != before:
            page.write_text(after, encoding="utf-8")
        sys.stdout.write(f"docs/{page.name}: {'as it was' if after == before else 'made anew'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
