"""The port `Watcher` over the outside probe."""

from __future__ import annotations

import asyncio
import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from godwit.errors import ProbeError
from godwit.model import WatchResult

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from godwit.measure.probe import OutsideProbe, ProberProcess
    from godwit.model import ProbeRequest

    Launch = Callable[[Sequence[str]], Awaitable[ProberProcess]]


@dataclass(frozen=True, slots=True)
class ProbeWatcher:
    """Starts probes here, or at a registered host as vantage point; see `godwit.ports.Watcher`.

    `launch_at` gives, for a vantage point's name, what starts a command there.
    """

    launch_at: Callable[[str], Awaitable[Launch]]

    async def start(self, request: ProbeRequest) -> ProbeWatch:
        """Start to probe. Raises ProbeError."""
        await asyncio.to_thread(_load)  # numpy takes a moment that nothing else should wait for
        from godwit.measure.probe import OutsideProbe, ProbeSpec  # noqa: PLC0415 - just loaded

        try:
            spec = ProbeSpec.parse(request.target, interval_ms=(request.interval or 0.0) * 1000)
        except ValueError as error:
            raise ProbeError(str(error)) from error
        if request.vantage is None:
            probe = OutsideProbe([sys.executable], spec)
        else:
            launch = await self.launch_at(request.vantage)
            probe = OutsideProbe(["python3"], spec, send_source=True, launch=launch)
        await probe.__aenter__()
        return ProbeWatch(probe)


def _load() -> None:
    import numpy.ma  # noqa: F401, PLC0415 - numpy would load it at the end of the move, for a percentile

    import godwit.measure.gaps  # noqa: PLC0415
    import godwit.measure.probe  # noqa: F401, PLC0415


@dataclass(frozen=True, slots=True)
class ProbeWatch:
    """A running probe; see `godwit.ports.Watch`."""

    probe: OutsideProbe

    async def replied_since(self, instant: float, deadline: float) -> bool:
        """Say whether a request sent after `instant` was answered; see the port. Raises ProbeError if it died."""
        try:
            await self.probe.replied_since(instant, deadline)
        except ProbeError:
            if self.probe.running:
                return False
            raise
        return True

    async def finish(self, stopped: float | None, resumed: float | None) -> WatchResult:
        """Stop probing and sum up what the client felt; see the port."""
        from godwit.measure.gaps import client_view, first_reply  # noqa: PLC0415 - loaded by start()

        series = await self.probe.finish()
        view = client_view(series, stopped, resumed)
        gap = view.client_gap_s
        lag = view.longest.lag_max_s if view.longest else None
        first = None if resumed is None else first_reply(series, stopped, resumed)
        return WatchResult(
            client_gap_ms=None if gap is None else gap * 1000,
            probe_lag_ms=lag * 1000 if lag is not None and math.isfinite(lag) else None,
            lost=series.lost,
            errors=sum(series.errors.values()),
            series=series.to_json(),
            first_packet_ms=None if first is None else first * 1000,
        )
