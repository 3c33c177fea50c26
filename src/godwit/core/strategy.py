"""Watch a running stream and decide what to change, with the evidence. Pure: samples and `now` in, a decision out.

In the manner of KubeVirt's stall detector a decision is an action and its reason, taken at the end of a pass; raw
progress is no evidence, the least that was left after a pass is (Nova's LP1644248: healthy migrations were ended
because their progress fluctuated).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from godwit.core.capabilities import HELD, PACE, throttle_parameters
from godwit.core.dirtying import curve_of
from godwit.core.readings import left_after_passes, pace_of, pace_within, passes_of, passes_seen
from godwit.core.sleeping import asleep, ladder, nap, throttle_for, windows_of
from godwit.model import Goal, Permission
from godwit.units import format_bandwidth, format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from godwit.model import DirtyWindow, Policy, Sample

IMPROVEMENT: Final = 0.05
"""The least that was left must shrink by this share for the stream to count as converging."""

STALLED_PASSES: Final = 3
"""Passes without improvement after which something is done, so that the stream ends."""

MARGIN: Final = 1.25
"""How far above QEMU's estimate the limit is set, so that the next pass may end."""

QUICK: Final = 1.25
"""How far the pace of pages must be above the rate on the wire for QEMU to be told of it."""

SLOWER: Final = 0.8
"""How far the pace of pages must fall below what QEMU was told for it to be told anew."""

_LONG: Final = 0.5
"""Seconds that a pass must have taken for it alone to tell whether it is of any use that the guest sleeps."""

_TELLING: Final = 2
"""Passes after the first that must have ended for the last of them to tell how fast such passes are sent."""

_IN_VAIN: Final = 0.8
"""The share of what it began with that such a pass must have left for that."""

THROTTLE: Final = "throttle"
"""The action that slows the guest down."""

POSTCOPY: Final = "postcopy"
"""The action that lets the guest go over to the target before its memory."""

PAUSE: Final = "pause"
"""The action that lets the guest stand still until all of it was sent."""

UNNOTICED: Final = 0.06
"""Seconds that a guest may stand still before a move that is to be seamless slows it down instead: with what a client
waits for besides, as long as the sleep of a guest that is slowed down as far as that goal permits."""

HAND_OVER: Final = 1.0
"""Seconds that are kept for the handover where a guest is paused for its deadline."""

STALL_SECONDS: Final = 15.0
"""Seconds without a byte sent after which a stream counts as dead (a stopped target, a cut link)."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to change (QEMU's parameters, in its units), why, and on which figures that rests."""

    action: str
    reason: str
    evidence: str
    parameters: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Switchover:
    """What QEMU goes by when it stops the guest: what is left must fit into `limit` seconds.

    It reckons with `pace` bytes of pages a second, or, where that is None, with the rate that it sees on the wire.
    `throttle` is how far it is to go in slowing the guest down, in percent of the guest's time; None where it cannot.
    `postcopy` says whether the guest can go over to the target before its memory, `over_after` after how many passes it
    is known to have to; 0: after as many as show that. `bandwidth` is the bytes a second that it may send, 0: no limit.
    """

    limit: float
    pace: float | None = None
    throttle: int | None = None
    postcopy: bool = False
    over_after: int = 0
    bandwidth: int = 0


_Shown = Literal["passes", "windows", "naps"]


@dataclass(frozen=True, slots=True)
class _Stall:
    """A stream whose passes no longer leave less: the least that one left, in bytes, and what stands against it.

    `rate` is bytes a second on the wire, `pace` of pages, `permitted` the bytes that QEMU stops the guest for, `needed`
    the seconds for which it would stand still. `known_by` says what shows it: passes that leave no less, windows that
    were measured, which say that they will come to that, or naps that do not help as they were to.
    """

    least: int
    rate: float
    pace: float
    permitted: float
    words: str
    passes: tuple[Sample, ...]
    known_by: _Shown = "passes"

    @property
    def needed(self) -> float:
        return self.least / self.pace

    @property
    def quick(self) -> bool:
        return self.pace > self.rate * QUICK


def decide(
    policy: Policy,
    samples: Sequence[Sample],
    now: Switchover,
    tunable: Container[str] = frozenset(),
    *,
    busy: float = 1.0,
    windows: Sequence[DirtyWindow] = (),
) -> Decision | None:
    """Return what to change, or None.

    `samples` are those of this stream, the oldest first; `now` is what QEMU works with, `tunable` the parameters that
    it has, `busy` the share of its time for which the guest's busiest CPU works, `windows` what it was measured to
    change where it was not slowed down. A guest that is slowed down may stand
    still at the end for as long as one of its naps. Else nothing is done while passes leave less and less. Then a
    guest that would stand still for longer than its clients would bear goes over to the target before its memory,
    where it can; else it is slowed down, as far as the policy permits and no further than halves what each pass
    leaves. Where that does not suffice, the limit rises as far as the measured pace demands, and never so far that the
    rest would take longer than `policy.max_downtime`. Last of all it is paused, where that is allowed.
    """
    early = _as_long_as_a_nap(policy, samples, now) or _as_foreseen(policy, samples, now)
    if early is not None:
        return early
    stall = _stall(policy, samples, now, windows)
    if stall is None:
        return None
    if now.pace is not None and stall.pace < now.pace * SLOWER:
        reason = f"pages are got through more slowly than QEMU was told: {format_bandwidth(stall.pace)}"
        return Decision("lower-pace", reason, stall.words, ((PACE, round(stall.pace)),))
    if now.postcopy and stall.known_by != "naps" and stall.needed > bearable(policy):
        reason = f"the guest would stand still for {format_duration(stall.needed)}: it goes over before its memory"
        return Decision(POSTCOPY, reason, stall.words)
    slower = _slow_down(policy, stall, now, busy, windows)
    if slower is not None or stall.known_by != "passes":
        return slower
    return _raise_limit(policy, stall, now, tunable) or _last_resort(policy, stall, now)


def _last_resort(policy: Policy, stall: _Stall, now: Switchover) -> Decision | None:
    """Say what is left to be done where all that is permitted does not suffice.

    That may be so though the guest would not stand still for longer than it may: a QEMU that cannot be told the pace of
    pages takes the rest for more than it is.
    """
    seconds, reckoned = stall.needed, ""
    if stall.needed <= policy.max_downtime:
        if stall.least <= stall.permitted * (1 + IMPROVEMENT):
            return None
        seconds, reckoned = stall.least / (now.pace or stall.rate), ", as QEMU reckons by what it sees on the wire"
    ceiling = format_duration(policy.max_downtime)
    if Permission.PAUSE in policy.allows:
        needed = f"{format_duration(stall.needed)} would be needed"
        return Decision(
            PAUSE, f"does not end within {ceiling} of downtime{reckoned}: it is paused, {needed}", stall.words
        )
    needed = f"{format_duration(seconds)} would be needed"
    return Decision(
        "does-not-converge",
        f"cannot end within {ceiling} of downtime{reckoned}: {needed}; raise --max-downtime, or cancel",
        stall.words,
    )


def _stall(policy: Policy, samples: Sequence[Sample], now: Switchover, windows: Sequence[DirtyWindow]) -> _Stall | None:
    """Return what passes came to, or None while they leave less and less, and may go on to."""
    if not samples:
        return None
    last = samples[-1]
    if now.throttle is not None and now.throttle > HELD and last.throttle < now.throttle:
        return None  # QEMU has not slowed it down yet as far as it was told to
    alike = tuple(one for one in samples if asleep(one) == asleep(last))
    left = left_after_passes(alike)
    rate = max(sample.rate for sample in samples[-4:])
    if rate <= 0 or not left:
        return None
    permitted = now.limit * (now.pace or rate)
    pace = max(rate, pace_of(alike, permitted) or now.pace or 0.0)
    shown = _shown_by(policy, alike, left, windows)
    if shown is None:
        return None
    least = min(left[-STALLED_PASSES:])
    looked = f", {format_bandwidth(pace)} of pages are got through" if pace > rate * QUICK else ""
    words = (
        f"after {last.iteration} passes {format_size(least)} are left at best; the link carries "
        f"{format_bandwidth(rate)}{looked}, the guest dirties {format_bandwidth(last.dirty_rate)}"
    )
    return _Stall(least, rate, pace, permitted, words, alike, shown)


def _shown_by(
    policy: Policy, alike: Sequence[Sample], left: Sequence[int], windows: Sequence[DirtyWindow]
) -> _Shown | None:
    """Return what shows that a stream does not end as it goes on now; None for one that may."""
    before, lately = left[:-STALLED_PASSES], left[-STALLED_PASSES:]
    if before and min(lately) >= min(before) * (1 - IMPROVEMENT):
        return "passes"
    if _sleeps_in_vain(alike):
        return "naps"
    return "windows" if _will_stall(policy, alike, windows) else None


def _sleeps_in_vain(alike: Sequence[Sample]) -> bool:
    """Say whether a long pass of a guest that was slowed down all the while has left about what it began with.

    It was to leave half of that: one such pass tells as much as three do where nothing was promised.
    """
    if not asleep(alike[-1]):
        return False
    whole = passes_seen(alike)
    return bool(whole) and whole[-1].seconds >= _LONG and whole[-1].left > whole[-1].due * _IN_VAIN


def _will_stall(policy: Policy, alike: Sequence[Sample], windows: Sequence[DirtyWindow]) -> bool:
    """Say whether a guest was measured to fill even the shortest bearable pass faster than its last long one was sent.

    Its passes will not become shorter than that. The first two tell nothing: in the first most may be zeroes, and in
    the second pages that will travel as their changes travel whole once more.
    """
    whole = passes_seen(alike)
    if asleep(alike[-1]) or not windows or len(whole) < _TELLING or whole[-1].seconds < _LONG:
        return False
    shortest = bearable(policy)
    return curve_of(windows, alike[-1].total).unique(shortest) > whole[-1].due / whole[-1].seconds * shortest


def _as_foreseen(policy: Policy, samples: Sequence[Sample], now: Switchover) -> Decision | None:
    """Let the guest go over to the target once the passes have ended after which it is to, unless little was left."""
    if not now.postcopy or not now.over_after or not samples or samples[-1].iteration <= now.over_after:
        return None
    left, rate = left_after_passes(samples), max(sample.rate for sample in samples[-4:])
    if not left or rate <= 0 or left[-1] <= bearable(policy) * rate:
        return None
    return Decision(
        POSTCOPY,
        "as forecast, its passes would not come to leave less: it goes over before its memory",
        f"pass {samples[-1].iteration - 1} has left {format_size(left[-1])}; the link carries {format_bandwidth(rate)}",
    )


def _as_long_as_a_nap(policy: Policy, samples: Sequence[Sample], now: Switchover) -> Decision | None:
    """Let QEMU stop a guest that is slowed down for as long as it sleeps in one piece: nobody can tell these apart."""
    sleeps = asleep(samples[-1]) if samples else 0
    milliseconds = max(1, math.floor(min(nap(sleeps), policy.max_downtime) * 1000))  # as QEMU takes it
    limit = milliseconds / 1000
    if not sleeps or limit <= now.limit * (1 + IMPROVEMENT):
        return None
    return Decision(
        "raise-downtime-limit",
        f"a guest that sleeps {sleeps} % of its time does so for {format_duration(limit)} in one piece: allow as much",
        f"pass {samples[-1].iteration} is under way, {format_size(samples[-1].remaining)} are left of it",
        (("downtime-limit", milliseconds),),
    )


def bearable(policy: Policy) -> float:
    """Return the seconds that a guest may stand still before it is slowed down instead, where it may be."""
    return min(policy.max_downtime, UNNOTICED) if policy.goal is Goal.SEAMLESS else policy.max_downtime


def _slow_down(
    policy: Policy, stall: _Stall, now: Switchover, busy: float, measured: Sequence[DirtyWindow]
) -> Decision | None:
    """Let the guest sleep as much of its time as it takes for passes to leave ever less."""
    if now.throttle is None or stall.needed <= bearable(policy):
        return None
    told = max(now.throttle, HELD)
    rungs = [percentage for percentage in ladder(policy) if percentage > told]
    if not rungs:
        return None
    if told > HELD:  # passes fell short of what they promised: half of what is left of the ladder at once
        rungs = rungs[len(rungs) // 2 :]
    last, opening = stall.passes[-1], stall.passes[0]
    found = passes_of(stall.passes, opening.at) if opening.iteration == 1 else passes_seen(stall.passes)
    windows = windows_of((replace(one, throttle=asleep(last)) for one in found), busy)
    curve = curve_of((*windows, *measured), last.total)
    percentage = throttle_for(curve, stall.pace, bearable(policy) / 2, rungs, busy)
    return Decision(
        THROTTLE,
        f"the guest writes faster than its memory is sent: let its CPUs sleep {percentage} % of their time"
        f" (limit {policy.most_throttle} %)",
        stall.words,
        throttle_parameters(now.throttle, percentage),
    )


def _raise_limit(policy: Policy, stall: _Stall, now: Switchover, tunable: Container[str]) -> Decision | None:
    """Let QEMU stop the guest for as long as what is left takes, if that is permitted.

    Pages that travel as their changes are through sooner than QEMU thinks, which sees their few bytes on the wire: it
    is told the pace of pages. One that cannot be told may come to have all that is permitted, and still go on.
    """
    # Short passes are over before anybody looks: where what was seen would fit, and QEMU goes on, more was left.
    unseen = 2 * stall.permitted / stall.pace if stall.least <= stall.permitted else 0.0
    wanted = min(max(stall.needed * MARGIN, unseen), policy.max_downtime)
    if wanted * stall.pace <= stall.permitted * (1 + IMPROVEMENT):
        return None
    told = stall.quick and PACE in tunable
    limit = wanted if told or not stall.quick else min(wanted * stall.pace / stall.rate, policy.max_downtime)
    parameters = (("downtime-limit", max(1, round(limit * 1000))), *(((PACE, round(stall.pace)),) if told else ()))
    after = adjusted(now, dict(parameters))
    if after.limit * (after.pace or stall.rate) <= stall.permitted * (1 + IMPROVEMENT):
        return None  # QEMU has that already
    return Decision(
        "raise-downtime-limit",
        f"passes no longer shrink: allow {format_duration(wanted)} of downtime"
        f" (limit {format_duration(policy.max_downtime)})",
        stall.words,
        parameters,
    )


def last_moment(
    policy: Policy, samples: Sequence[Sample], now: Switchover, requested: float, owed: float | None = None
) -> Decision | None:
    """Return the decision to pause the guest where its deadline can only just be kept so, and that is permitted.

    `owed` is how many seconds it takes to send what the guest has changed since this pass began. Where nobody knows
    (None), that is taken for nothing in the first pass, which takes as long whether or not the guest stands still, and
    for the most that a pass has left in later ones. Where even a guest that stands still would be late, it goes on: it
    is taken back at its deadline.
    """
    if policy.deadline is None or Permission.PAUSE not in policy.allows or not samples:
        return None
    last, left = samples[-1], requested + policy.deadline - samples[-1].at
    pace = _pace_now(samples, now)
    if pace is None:
        return None
    rest = last.remaining / pace
    again = max(left_after_passes(samples), default=0) / pace if owed is None else owed
    if not rest <= left <= rest + reserve(again, first=last.iteration == 1):
        return None
    more = f"; what was changed meanwhile takes up to {format_duration(again)} more" if again else ""
    return Decision(
        PAUSE,
        f"{format_duration(left)} are left until the deadline: the guest is paused, so that the rest is sent",
        f"{format_size(last.remaining)} are left of pass {last.iteration}, {format_bandwidth(pace)} of pages are got "
        f"through{more}",
    )


def reserve(owed: float, *, first: bool) -> float:
    """Return the seconds to be kept at the end of a pass for a guest that is paused: `owed` of pages, and the handover.

    For that no more is kept at the end of the first pass, which is long, than a pause may gain: `owed`.
    """
    return owed * MARGIN + (min(HAND_OVER, owed) if first else HAND_OVER)


def _pace_now(samples: Sequence[Sample], now: Switchover) -> float | None:
    """Return the bytes of pages a second that are got through, None where there is nothing to tell it from.

    A first pass that has hardly begun tells nothing: it may be in the midst of zeroes.
    """
    rate = max(sample.rate for sample in samples[-4:])
    seen = pace_within(samples) or pace_of(samples, now.limit * (now.pace or rate)) or now.pace
    if seen is None and samples[-1].iteration == 1:
        return None
    return max(rate, seen or 0.0) or None


def adjusted(now: Switchover, parameters: Mapping[str, object]) -> Switchover:
    """Return what QEMU goes by once it has taken these parameters."""
    limit, pace = parameters.get("downtime-limit"), parameters.get(PACE)
    throttle, most = parameters.get("max-cpu-throttle"), parameters.get("max-bandwidth")
    return replace(
        now,
        limit=limit / 1000 if isinstance(limit, int) else now.limit,
        pace=(pace or None) if isinstance(pace, int) else now.pace,
        throttle=throttle if isinstance(throttle, int) else now.throttle,
        bandwidth=most if isinstance(most, int) else now.bandwidth,
    )


def stalled(samples: Sequence[Sample], now: float, began: float) -> bool:
    """Say whether not a byte was sent for STALL_SECONDS.

    `began` is when the stream was started: one that never gets as far as to be counted (its connection is neither
    accepted nor refused) is dead as well.
    """
    if not samples:
        return now - began >= STALL_SECONDS
    sent = samples[-1].transferred
    first = next((sample.at for sample in samples if sample.transferred == sent), now)
    return now - first >= STALL_SECONDS


def still(samples: Sequence[Sample], seconds: float) -> bool:
    """Say whether not a byte was sent for so many seconds."""
    last = samples[-1]
    first = next(sample.at for sample in samples if sample.transferred == last.transferred)
    return last.at - first >= seconds


def eta(samples: Sequence[Sample], now: Switchover) -> tuple[float, float] | None:
    """Return the shortest and longest time until the switchover, in seconds, or None while nobody can say.

    What remains shrinks in each pass by the ratio of dirty rate to rate; the sum of that geometric series is the
    time left. The interval spans the rates seen lately.
    """
    recent = [sample for sample in samples[-8:] if sample.rate >= 1]
    if not recent:
        return None
    last = recent[-1]
    rates = (max(sample.rate for sample in recent), min(sample.rate for sample in recent))
    through = pace_of(samples, now.limit * (now.pace or rates[0])) or now.pace or 0.0
    paces = [max(rate, through) for rate in rates]
    if last.dirty_rate >= paces[1] and last.remaining > now.limit * (now.pace or rates[0]):
        return None
    shortest = last.remaining / paces[0]
    shrink = min(last.dirty_rate / paces[1], 0.95)
    longest = last.remaining / paces[1] / (1 - shrink)
    return shortest, max(longest, shortest)
