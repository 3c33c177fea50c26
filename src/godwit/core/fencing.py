"""What it means that a silent host was proven to be off, and when one may be switched off without a person. Pure.

A QEMU does not outlive its host's power: what was proven to be off has no process of any guest. That proof counts until
the host answers again, and no longer than `VALID`, since somebody may switch the host on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from godwit.core.recovery import Verdict, recover
from godwit.model import GuestView, RunState, Side

if TYPE_CHECKING:
    from godwit.core.events import Observed
    from godwit.core.state import State
    from godwit.model import FenceProof

VALID: Final = 900.0
"""Seconds for which a proof counts that a host is off."""


def silent(view: GuestView) -> bool:
    """Say whether the host itself is silent, and not only the monitor of a process that it knows of."""
    return view.state is RunState.UNREACHABLE and view.pid is None


def valid(proof: FenceProof, now: float) -> bool:
    """Say whether a proof still counts."""
    return 0.0 <= now - proof.at <= VALID


def without_power(proof: FenceProof) -> GuestView:
    """Return what is known of a guest on a host that was proven to be off."""
    return GuestView(RunState.ABSENT, raw="fenced", detail=f"{proof.host} was proven to be off: {proof.said}")


def side_to_fence(state: State, event: Observed, permitted: frozenset[Side]) -> Side | None:
    """Return the side whose host may be switched off without a person, because only its silence leads to LIMBO.

    It must be `permitted`, and that it is off must decide who owns the guest: nobody's power is cut for nothing.
    """
    views = {Side.SOURCE: event.source, Side.TARGET: event.target}
    for side in Side:
        if side not in permitted or not silent(views[side]):
            continue
        gone = replace(views[side], state=RunState.ABSENT)
        source, target = (gone, event.target) if side is Side.SOURCE else (event.source, gone)
        if recover(state, source, target, event.waited, restarted=event.restarted).verdict is not Verdict.LIMBO:
            return side
    return None
