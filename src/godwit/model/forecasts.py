"""What is expected of a move, and what moves of the past showed."""

from __future__ import annotations

from dataclasses import dataclass, field

from godwit.model.policies import Strategy


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure that is not known exactly: four times out of five it lies between `low` and `high`."""

    low: float
    likely: float
    high: float

    def __contains__(self, value: float) -> bool:
        """Say whether a value lies in it."""
        return self.low <= value <= self.high

    def scaled(self, factor: float) -> Interval:
        """Return the interval of that many times the figure."""
        return Interval(self.low * factor, self.likely * factor, self.high * factor)


@dataclass(frozen=True, slots=True)
class Prospect:
    """What one strategy would cost: seconds of the whole move, of blackout and of a client's gap, and bytes sent.

    `blackout` and `client_gap` are what the guest would have to be granted; where that is more than the policy's
    ceiling, `converges` is False: the strategy does not end by itself. `why` says so in words. `how` is the strategy
    that `strategy` names; `lost` is the time, in seconds, by which the guest is behind with its work for being
    throttled, `chance` how likely it is that the strategy ends by itself, from 0 to 1. `rest` is the seconds of the
    total for which memory follows a guest that goes over to the target before it.
    """

    strategy: str
    converges: bool
    total: Interval
    blackout: Interval
    client_gap: Interval
    bytes: Interval
    passes: int
    why: str
    how: Strategy = field(default_factory=Strategy)
    lost: float = 0.0
    chance: float = 1.0
    rest: float = 0.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a move of `vm` from `source` to `target` would cost, as expected at the instant `at`.

    `prospects` has one row a strategy, `chosen` names the one that Godwit takes, `reason` says why. `bandwidth` is
    what the link is thought to carry; `situation` says in words what stands against what, `knowledge` what all that
    rests on, a sentence each.
    """

    vm: str
    source: str
    target: str
    at: float
    bandwidth: Interval
    prospects: tuple[Prospect, ...]
    chosen: str
    reason: str
    situation: str
    knowledge: tuple[str, ...] = ()

    @property
    def prospect(self) -> Prospect:
        """The row of the strategy that was chosen."""
        return next(row for row in self.prospects if row.strategy == self.chosen)


@dataclass(frozen=True, slots=True)
class LinkSaid:
    """What somebody said, at the instant `at`, that the link between two hosts carries: `rate` in bytes a second."""

    hosts: tuple[str, str]
    rate: float
    at: float


@dataclass(frozen=True, slots=True)
class PassRecord:
    """One pass over the memory: `sent` bytes in `seconds`; `left` bytes of pages had been changed by its end.

    `due` is what it had to send: the bytes of pages that the pass before had left, of the first pass all memory.
    `throttle` is the share of its time, in percent, for which the guest slept meanwhile.
    """

    due: int
    sent: int
    seconds: float
    left: int
    throttle: int = 0


@dataclass(frozen=True, slots=True)
class MoveRecord:
    """A live move that ended well, as it was: figures in seconds and bytes, None where nobody could measure.

    `passes` are those before the switchover, as far as they were seen. `limited` says that a policy held the stream
    back, by its bandwidth or for its neighbours' sake: its rate says nothing of the link. `again` is whether pages that
    were sent before travelled as their changes, `how` the strategy, `limit` the downtime limit at which QEMU stopped
    the guest. `forecast` is what had been expected. `carried` is the rate below which nine tenths of the stream
    travelled, where that was seen.
    """

    id: str
    vm: str
    source: str
    target: str
    at: float
    memory: int
    passes: tuple[PassRecord, ...]
    start_delay: float
    total: float
    bytes: int
    blackout: float | None = None
    client_gap: float | None = None
    limited: bool = False
    again: bool = True
    limit: float = 0.0
    forecast: Forecast | None = None
    how: Strategy = field(default_factory=Strategy)
    carried: float | None = None
