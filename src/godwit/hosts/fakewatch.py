"""The outside view of a simulated guest: what a client would have felt. Implements the ports Watcher and Watch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from godwit.errors import ProbeError
from godwit.hosts.fakeworld import ROUND_TRIP
from godwit.model import WatchResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from godwit.hosts.fakeworld import FakeWorld
    from godwit.model import ProbeRequest

INTERVAL: Final = 0.002
"""Seconds between requests unless the request says otherwise."""

_FORMAT: Final = 1
_UNANSWERED: Final = -1


@dataclass(frozen=True, slots=True)
class FakeWatcher:
    """Starts simulated probes, each within `takes` seconds.

    `addresses` gives the guest's name for each address that can be probed.
    """

    world: FakeWorld
    addresses: Mapping[str, str]
    takes: float = 0.0

    async def start(self, request: ProbeRequest) -> FakeWatch:
        """Start to probe. Raises ProbeError for an address that no guest has."""
        vm = self.addresses.get(request.target)
        if vm is None:
            message = f"no simulated guest has the address {request.target}"
            raise ProbeError(message)
        if self.takes:
            await self.world.clock.sleep(self.takes)
        return FakeWatch(self.world, vm, request.target, request.interval or INTERVAL, self.world.clock.now())


@dataclass(frozen=True, slots=True)
class FakeWatch:
    """A simulated probe at work; it has been asking since `began`."""

    world: FakeWorld
    vm: str
    address: str
    interval: float
    began: float

    async def replied_since(self, instant: float, deadline: float) -> bool:
        """Say whether a request sent after `instant` was answered, waiting at most `deadline` seconds for it."""
        end = self.world.clock.now() + deadline
        while True:
            now = self.world.clock.now()
            if any(rtt is not None for _, rtt in self.world.probe(self.vm, instant, now - ROUND_TRIP, self.interval)):
                return True
            if now >= end:
                return False
            await self.world.clock.sleep(self.interval)

    async def finish(self, stopped: float | None, resumed: float | None) -> WatchResult:
        """Stop probing; the gap is the longest time between replies around the blackout if its ends are given."""
        now = self.world.clock.now()
        seen = self.world.probe(self.vm, self.began, now - ROUND_TRIP, self.interval)
        replies = [sent + rtt for sent, rtt in seen if rtt is not None]
        gaps = [
            later - earlier
            for earlier, later in pairwise(replies)
            if (stopped is None or later >= stopped) and (resumed is None or earlier <= resumed)
        ]
        after = [] if resumed is None else [reply - resumed for reply in replies if reply >= resumed]
        return WatchResult(
            client_gap_ms=max(gaps) * 1000 if gaps else None,
            probe_lag_ms=0.0,
            lost=sum(rtt is None for _, rtt in seen),
            errors=0,
            series=self._series(seen, now),
            first_packet_ms=min(after) * 1000 if after else None,
        )

    def _series(self, seen: list[tuple[float, float | None]], now: float) -> dict[str, object]:
        """Give the columns that every probe series has, in the journal's format (godwit.measure.series)."""
        sent = [round((at - self.began) * 1e6) for at, _ in seen]
        steps = [one - before for before, one in pairwise([0, *sent])]
        return {
            "version": _FORMAT,
            "kind": "icmp",
            "method": "simulated",
            "address": self.address,
            "interval_s": self.interval,
            "started_s": self.began,
            "ended_s": now,
            "reconnects": 0,
            "skipped": 0,
            "vantage": "simulated",
            "scheduling": "simulated",
            "clock_offset_s": 0.0,
            "clock_uncertainty_s": 0.0,
            "errors": {},
            "notes": ["simulated: no packet was sent"],
            "sent_step_us": steps,
            "rtt_us": [_UNANSWERED if rtt is None else round(rtt * 1e6) for _, rtt in seen],
            "lag_us": [0] * len(seen),
        }
