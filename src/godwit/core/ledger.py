"""The instants of a migration, and the figures that follow from them. Pure: every instant is given.

STOP and RESUME carry their hosts' clocks; they are put on the controller's by offsets measured over QMP: an event was
made after the command that caused it was sent and before it arrived (see godwit.core.clocks).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from godwit.core.clocks import Bracket, ClockOffset, estimate_offset
from godwit.core.state import State, outcome_status
from godwit.model import Downtime, Outcome, Side

if TYPE_CHECKING:
    from godwit.model import Allocation, Finding, Spec, WatchResult


@dataclass(slots=True)
class Ledger:
    """Instants by name, on the controller's clock unless they end in `_host`; brackets of both hosts' clocks.

    Marks: requested, stream_started, source_stopped[_host], source_completed, target_completed, continue_sent,
    continue_returned, target_running[_host], ended.
    """

    marks: dict[str, float] = field(default_factory=dict)
    brackets: dict[Side, list[Bracket]] = field(default_factory=lambda: {Side.SOURCE: [], Side.TARGET: []})

    def mark(self, name: str, at: float) -> bool:
        """Keep the first instant of that name; say whether it was new."""
        if name in self.marks:
            return False
        self.marks[name] = at
        return True

    def bracket(self, side: Side, sent: float, host_time: float, received: float) -> None:
        """Keep a reading of a host's clock; one that contradicts time itself (a stepped clock) is left out."""
        if sent <= received:
            self.brackets[side].append(Bracket(sent, host_time, received))

    def offset(self, side: Side) -> ClockOffset | None:
        """Return the host's clock against the controller's, or None if it was never read."""
        return estimate_offset(self.brackets[side]) if self.brackets[side] else None

    def _ours(self, side: Side, name: str) -> float | None:
        offset = self.offset(side)
        host_time = self.marks.get(f"{name}_host")
        if offset is None or host_time is None:
            return self.marks.get(name)
        return offset.to_ours(host_time)

    @property
    def stopped(self) -> float | None:
        """When the source's CPUs stopped, on the controller's clock."""
        return self._ours(Side.SOURCE, "source_stopped")

    @property
    def running(self) -> float | None:
        """When the target's CPUs started, on the controller's clock."""
        return self._ours(Side.TARGET, "target_running")

    def breakdown(self) -> tuple[tuple[str, float], ...]:
        """Name the parts of the blackout, in milliseconds, in order; parts whose ends are unknown are left out.

        With a return path the target says first that it has everything, without one the source does.
        """
        said = [self.marks[name] for name in ("source_completed", "target_completed") if name in self.marks]
        both = max(said) if len(said) == len(Side) else None
        ends = (
            ("stop to stream end", self.stopped, min(said, default=None)),
            ("until both sides had said so", min(said, default=None), both),
            ("decide to continue", both, self.marks.get("continue_sent")),
            ("continue: round trip to the target", self.marks.get("continue_sent"), self.running),
        )
        return tuple((name, (end - begin) * 1000) for name, begin, end in ends if begin is not None and end is not None)

    def downtime(self, qemu_ms: float | None, watched: WatchResult | None) -> Downtime:
        """Put the three figures together."""
        stopped, running = self.stopped, self.running
        known = stopped is not None and running is not None
        offsets = [offset for offset in map(self.offset, Side) if offset is not None]
        uncertain = known and len(offsets) == len(Side)
        return Downtime(
            qemu_ms=qemu_ms,
            blackout_ms=(running - stopped) * 1000 if stopped is not None and running is not None else None,
            client_gap_ms=watched.client_gap_ms if watched else None,
            probe_lag_ms=watched.probe_lag_ms if watched else None,
            clock_uncertainty_ms=sum(offset.uncertainty_s for offset in offsets) * 1000 if uncertain else None,
            breakdown=self.breakdown() if known else (),
            first_packet_ms=watched.first_packet_ms if watched else None,
        )

    def _span(self, begin: str, end: str) -> float | None:
        if begin not in self.marks or end not in self.marks:
            return None
        return self.marks[end] - self.marks[begin]

    def outcome(
        self,
        spec: Spec,
        state: State,
        *,
        result: dict[str, float],
        watched: WatchResult | None,
        findings: tuple[Finding, ...],
        simulated: bool,
        disk_bytes: int = 0,
        allocations: tuple[Allocation, ...] = (),
    ) -> Outcome:
        """Sum a migration up. `result` holds QEMU's own figures, empty where they could not be read."""
        end = "target_running" if "target_running" in self.marks else "ended"
        failure = state.failure
        return Outcome(
            id=spec.id,
            vm=spec.vm,
            source=spec.source,
            target=spec.target,
            status=outcome_status(state),
            owner=state.owner,
            total_s=self._span("requested", end) or 0.0,
            stream_s=self._span("stream_started", "target_running"),
            start_delay_s=self._span("requested", "stream_started"),
            bytes=int(result.get("transferred", 0)),
            disk_bytes=disk_bytes,
            passes=int(result.get("passes", 0)),
            downtime=self.downtime(result.get("downtime"), watched),
            guest_alive=state.alive,
            error=failure.message if failure else _unproven(state),
            remedy=failure.remedy if failure else (_KEEP_THE_OLD if _unproven(state) else ""),
            findings=findings,
            leftovers=state.leftovers,
            allocations=allocations,
            comparison=state.comparison,
            simulated=simulated,
        )


_KEEP_THE_OLD = "do not remove the disks on the source; compare them with `qemu-img compare`, the guest shut down"


def _unproven(state: State) -> str:
    """Return why copied disks that were to be compared are not proven to be the same; empty where they are."""
    found = state.comparison
    return "" if found is None or found.equal else found.detail
