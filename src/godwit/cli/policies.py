"""What a move may cost, as people say it: a goal, a policy of their own in TOML, and options that change either."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from godwit.cli.ground import LONGEST_DOWNTIME, bandwidth, duration
from godwit.core.goals import GOALS, policy_for
from godwit.errors import InputError
from godwit.localfiles import read_text
from godwit.model import Goal, Permission

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.model import Policy

PROTECT: Final = "--protect-neighbours"
USUAL_SHARE: Final = "90%"
"""What neighbours keep where nobody says how much."""

MaxDowntime = Annotated[
    str | None, typer.Option(metavar="TIME", help="How long it may stand still at most, as in 30ms.  \\[300ms]")
]
PolicyName = Annotated[
    str | None,
    typer.Option("--policy", metavar="NAME", help="seamless, fast, gentle, finish, or one of yours.  \\[seamless]"),
]
Allow = Annotated[
    list[Permission] | None,
    typer.Option(
        "--allow", metavar="WHAT", help="What may be done to it: throttle, postcopy, pause, balloon, page-cache, trim."
    ),
]
Forbid = Annotated[
    list[Permission] | None, typer.Option("--forbid", metavar="WHAT", help="What may not be done to it.")
]
MaxSlowdown = Annotated[
    str | None,
    typer.Option(
        *("--max-slowdown", "--max-guest-slowdown"),
        metavar="SHARE",
        help="How much of its time it may be made to sleep: 50%.  \\[as the policy says]",
    ),
]
Protect = Annotated[
    str | None,
    typer.Option(
        PROTECT,
        metavar="[SHARE]",
        help="Send no faster than leaves other guests of both hosts that share of what they do.  \\[90%]",
    ),
]
Deadline = Annotated[str | None, typer.Option(metavar="TIME", help="Go back if it is not handed over by then: 10min.")]
Bandwidth = Annotated[str | None, typer.Option("--bandwidth", metavar="RATE", help="Send no faster: 40MB/s, 400mbit.")]

FOLDER: Final = "policies"
"""Where policies of people's own lie, beside the journal."""

_KEYS: Final = ("goal", "max_downtime", "deadline", "bandwidth", "max_guest_slowdown", "protect_neighbours")
_LISTS: Final = ("allow", "forbid")
_PERCENT: Final = 100
_SHARE: Final = re.compile(r"[-+]?[0-9][0-9.,]*%?")
"""What is meant for a share, whether it is one or not."""


@dataclass(frozen=True, slots=True)
class Typed:
    """What somebody typed about a move; None where nothing was."""

    name: str | None = None
    max_downtime: str | None = None
    deadline: str | None = None
    bandwidth: str | None = None
    max_slowdown: str | None = None
    allow: tuple[Permission, ...] = ()
    forbid: tuple[Permission, ...] = ()
    protect: str | None = None


def policy_of(typed: Typed) -> Policy:
    """Return the policy that was named, changed by the options. Raises InputError saying what is wrong, and where."""
    name = typed.name or Goal.SEAMLESS.value
    deadline = duration("--deadline", typed.deadline)
    policy = policy_for(Goal(name), deadline=deadline) if name in set(Goal) else _own(name, deadline)
    return _changed(policy, typed, "--")


def _changed(policy: Policy, typed: Typed, prefix: str) -> Policy:
    """Return the policy with what was typed; `prefix` is what names the options in errors.

    Raises InputError for what is wrong, and for options that contradict each other.
    """
    dash = "-" if prefix else "_"
    downtime = duration(f"{prefix}max{dash}downtime", typed.max_downtime, longest=LONGEST_DOWNTIME)
    name = "--max-slowdown" if prefix else "max_guest_slowdown"
    slowdown = None if typed.max_slowdown is None else _share(name, typed.max_slowdown)
    protect = None if typed.protect is None else _share(f"{prefix}protect{dash}neighbours", typed.protect, "90%")
    if protect == 0:
        message = f"{prefix}protect{dash}neighbours {typed.protect} protects nobody"
        raise InputError(message, remedy="write for example 90%, or leave it out")
    if both := set(typed.allow) & set(typed.forbid):
        message = f"{prefix}allow {min(both)} and {prefix}forbid {min(both)} contradict each other"
        raise InputError(message)
    against, said = (typed.forbid, "forbid") if slowdown else (typed.allow, "allow")
    if slowdown is not None and Permission.THROTTLE in against:
        message = f"{prefix}{said} throttle and {name} {typed.max_slowdown} contradict each other"
        raise InputError(message)
    if Permission.PAGE_CACHE in typed.allow and Permission.BALLOON in typed.forbid:
        message = (
            f"{prefix}allow page-cache and {prefix}forbid balloon contradict each other: it is the balloon's to take"
        )
        raise InputError(message)
    allows = (policy.allows | set(typed.allow)) - set(typed.forbid)
    if Permission.PAGE_CACHE in typed.allow:
        allows |= {Permission.BALLOON}
    if slowdown:
        allows |= {Permission.THROTTLE}
    elif slowdown is None and Permission.THROTTLE in typed.allow and not policy.max_guest_slowdown:
        slowdown = GOALS[Goal.SEAMLESS].max_guest_slowdown
    return replace(
        policy,
        max_downtime=policy.max_downtime if downtime is None else downtime,
        bandwidth=policy.bandwidth if typed.bandwidth is None else bandwidth(f"{prefix}bandwidth", typed.bandwidth),
        max_guest_slowdown=policy.max_guest_slowdown if slowdown is None else slowdown,
        allows=frozenset(allows),
        protect_neighbours=policy.protect_neighbours if protect is None else protect,
    )


def with_shares(words: Sequence[str]) -> list[str]:
    """Return a command line in which `--protect-neighbours` has its share: the usual one where none follows it."""
    found = list(words)
    for index, word in enumerate(words):
        following = words[index + 1] if index + 1 < len(words) else ""
        if word == PROTECT and not _SHARE.fullmatch(following):
            found[index] = f"{PROTECT}={USUAL_SHARE}"
    return found


def _share(option: str, text: str, example: str = "50%; 0% never slows it down") -> float:
    """Return the share that `50%` means. Raises InputError naming the option."""
    number = text.removesuffix("%").strip()
    if text.endswith("%") and number.isdecimal() and int(number) < _PERCENT:
        return int(number) / _PERCENT
    message = f"{option}: {text!r} is no share below 100%"
    raise InputError(message, remedy=f"write for example {example}")


def _own(name: str, deadline: float | None) -> Policy:
    """Read a policy of somebody's own: a file, or the name of one in the folder of policies."""
    from godwit import app  # noqa: PLC0415 - start-up time

    folder = app.home() / FOLDER
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    try:
        found = tomllib.loads(read_text(path, "a policy"))
    except FileNotFoundError:
        known = ", ".join([*Goal, *sorted(one.stem for one in folder.glob("*.toml"))])
        message = f"there is no policy {name}"
        raise InputError(message, remedy=f"take one of {known}, or write {path}") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        message = f"the policy {path} cannot be read: {error}"
        raise InputError(message) from None
    try:
        return _made_of(found, deadline)
    except InputError as error:
        message = f"{path}: {error.message}"
        raise InputError(message, remedy=error.remedy) from None


def _made_of(found: dict[str, object], deadline: float | None) -> Policy:
    unknown = sorted(set(found) - {*_KEYS, *_LISTS})
    if unknown:
        message = f"a policy has no {unknown[0]}"
        raise InputError(message, remedy=f"it has {', '.join((*_KEYS, *_LISTS))}")
    texts = {key: _text(found, key) for key in _KEYS}
    goal = texts["goal"] or Goal.SEAMLESS.value
    if goal not in set(Goal):
        message = f"goal: {goal!r} is none of {', '.join(Goal)}"
        raise InputError(message)
    typed = Typed(
        max_downtime=texts["max_downtime"],
        bandwidth=texts["bandwidth"],
        max_slowdown=texts["max_guest_slowdown"],
        protect=texts["protect_neighbours"],
        allow=_permissions(found, "allow"),
        forbid=_permissions(found, "forbid"),
    )
    own = duration("deadline", texts["deadline"])
    return _changed(policy_for(Goal(goal), deadline=own if deadline is None else deadline), typed, "")


def _text(found: dict[str, object], key: str) -> str | None:
    value = found.get(key)
    if value is None or isinstance(value, str):
        return value
    message = f"{key}: {value!r} is no text in quotes"
    raise InputError(message, remedy=f'write for example {key} = "30ms", with the unit')


def _permissions(found: dict[str, object], key: str) -> tuple[Permission, ...]:
    values = found.get(key, [])
    if isinstance(values, list) and all(isinstance(value, str) and value in set(Permission) for value in values):
        return tuple(Permission(value) for value in values)
    message = f"{key}: {values!r} is no list of {', '.join(Permission)}"
    raise InputError(message, remedy=f'write for example {key} = ["{Permission.THROTTLE}"]')
