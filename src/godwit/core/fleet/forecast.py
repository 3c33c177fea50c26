"""What a move is likely to take, of guests at which nobody has looked more closely: enough to weigh moves by. Pure.

Precopy sends memory over and over: what is written meanwhile is sent again, so that of a guest which writes `d` bytes a
second over a link of `r` the stream is a geometric series, memory / (1 - d / r). Where the guest writes faster than the
link, pages that are written again and again bound it; the figure is then only an order of size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.model.fleet import MoveForecast
from godwit.units import MIB

if TYPE_CHECKING:
    from godwit.model.fleet import FleetGuest, FleetHost

USUAL_LINK: Final = 100.0 * MIB
"""Bytes a second, of a link that nobody has measured: a gigabit, nearly."""

AROUND: Final = 2.5
"""Seconds that a move takes beside its stream: both QEMUs are looked at, and one is started."""

GAP: Final = 0.1
"""Seconds for which a client waits at least."""

WORST: Final = 0.9
"""The part of a link that a guest's writes are taken to fill at most."""

_PASSES: Final = 0.3
"""Seconds of stream that are left to send while the guest stands still, at most."""


def quick_forecast(guest: FleetGuest, source: FleetHost | None, target: FleetHost) -> MoveForecast:
    """Return what a move is likely to take: what is known of the guest, else what its memory and its writes say."""
    if guest.forecast is not None:
        return guest.forecast
    rates = [host.link for host in (source, target) if host is not None and host.link > 0]
    rate = min(rates, default=USUAL_LINK)
    in_use = guest.load.memory if guest.load is not None else guest.memory
    written = min(guest.dirty_rate / rate, WORST)
    sent = int(min(in_use, guest.memory) / (1 - written)) + guest.disk
    gap = GAP + min(_PASSES, written * _PASSES)
    return MoveForecast(seconds=AROUND + sent / rate, bytes=sent, client_gap=gap, rate=rate)
