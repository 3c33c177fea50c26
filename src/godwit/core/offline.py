"""A guest that is switched off for its move: its power button, its disks, and its start on the target.

The phases before are those of a live move: the target's QEMU is started, waiting, while the guest still runs, so that
what keeps it from starting is found before anybody notices; its disks are mirrored to it. Then:

- POWERING_OFF: the button is pressed. The guest's QEMU outlives it, and with the guest off the mirrors are ended whole.
- STARTING: the source's QEMU is ended with proof, then the target's is started anew, paused. It could not be before:
  over shared storage both would want the same locks, and one that waits for a stream boots nothing.
- COMMITTING, as on every way: the record that the target may run is durable before it is told to.

Until then the source owns the guest: whatever fails, it is reset, or started anew, where it was (RestorePower).
"""

from __future__ import annotations

from dataclasses import replace

from godwit.core import events as e
from godwit.core.state import Held, Phase, State
from godwit.core.steps import Step
from godwit.model import Side


def power_off(state: State) -> Step:
    """Press the power button, now that all disks keep up; that the guest runs again on a way back is held before."""
    return Step(replace(state, phase=Phase.POWERING_OFF, held=state.held | {Held.POWER}), (e.PowerOff(),))


def powered_off(state: State, _: e.Event) -> Step:
    """End the copies whole, now that nobody writes, or go on at once where there are none."""
    if state.copies and not state.mirrored:
        return Step(state, (e.EndMirrors(state.copies),))
    return _end_source(state)


def mirrors_ended(state: State, _: e.Event) -> Step:
    """Take the disks on the target for whole. What the copies put into the source's QEMU is there still."""
    return _end_source(replace(state, mirrored=True))


def _end_source(state: State) -> Step:
    return Step(replace(state, phase=Phase.STARTING), (e.EndSource(),))


def source_ended(state: State, _: e.Event) -> Step:
    """Start the target, once: the guest's disks have no other writer."""
    if Side.SOURCE.value in state.ended:
        return Step(state)  # two were sent to end it, a former runner's and ours
    return Step(replace(state, ended=frozenset({Side.SOURCE.value})), (e.StartTarget(state.launch),))


def again(state: State) -> Step:
    """Return what a runner that died may have left undone; every command of this way is idempotent."""
    if state.phase is Phase.POWERING_OFF:
        return Step(state, (e.PowerOff(),))
    gone = Side.SOURCE.value in state.ended
    return Step(state, (e.StartTarget(state.launch) if gone else e.EndSource(),))
