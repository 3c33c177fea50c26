"""What a move will cost, from what was measured of the guest and its link. Pure.

Plain precopy: a pass of t seconds sends what the pass before it left, and leaves U(t) to the next one (see
`godwit.core.dirtying`). Passes shrink as long as the link carries a pass faster than the guest fills the next, and come
to rest where it does not: at the time t with U(t) = t x bandwidth. QEMU stops the guest as soon as what is left fits
into its downtime limit, so that time is the least blackout with which the move ends by itself; what the guest's devices
take comes on top. The model is that of Akoush et al., Predicting the Performance of Virtual Machine Migration (2010),
with a measured curve in the place of a constant dirty rate.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from godwit.core.dirtying import DirtyCurve

_PRECISION: Final = 1e-6


def least_downtime(curve: DirtyCurve, bandwidth: float) -> float:
    """Return the seconds of downtime for which plain precopy needs leave, to end over `bandwidth` bytes a second.

    That is 0 where passes shrink without end. `bandwidth` must be above 0.
    """
    if curve.write_rate <= bandwidth:
        return 0.0
    for (t0, u0), (t1, u1) in pairwise(curve.points):
        if u1 <= bandwidth * t1:
            slope = (u1 - u0) / (t1 - t0)
            return (u0 - slope * t0) / (bandwidth - slope)
    # Beyond the longest window: the curve is above the line there, and below it once all memory is changed.
    short, long = curve.points[-1][0], curve.memory / bandwidth
    while long - short > _PRECISION * long:
        middle = (short + long) / 2
        short, long = (middle, long) if curve.unique(middle) > bandwidth * middle else (short, middle)
    return long
