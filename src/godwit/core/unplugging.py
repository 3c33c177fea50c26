"""Devices that are taken from a guest for its move, and given back to it wherever it runs in the end. Pure.

A part of the host, such as a function of a network card, cannot be sent. So the guest lets go of it right before its
memory travels, with everything else prepared, and gets along with what it has beside it: the other half of a bond. What
was taken is in the state, with all that plugs it in again, before it is taken (`Held.DEVICES`). From then on every end
gives it back: each way back on the source (`PlugDevices` in the order of the rollback), success on the target, where a
match was found for it beforehand (a duty of FINISHING).

Where QEMU itself takes a device out (failover), no command does, and the same is held: the way back looks whether it
is there.
"""

from __future__ import annotations

from dataclasses import replace

from godwit.core import events as e
from godwit.core.state import Held, Phase, State
from godwit.core.steps import Step


def begin(state: State) -> Step:
    """Let the guest let go of its devices, as late as may be; that it gets them back is held before."""
    held = state.held | {Held.DEVICES}
    return Step(replace(state, phase=Phase.UNPLUGGING, held=held), (e.UnplugDevices(state.unplugged),))


def again(state: State) -> Step:
    """Return what a runner that died may have left undone; both commands look first."""
    stands = Held.SOURCE_STOPPED in state.held
    return Step(state, (e.StopSource() if stands else e.UnplugDevices(state.unplugged),))
