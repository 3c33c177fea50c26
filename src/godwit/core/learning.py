"""What moves of the past and profiles say of the next move. Pure.

Figures that are the same for many moves (how long it takes to start one, what a blackout takes beyond the last pages)
are learned from those between the same two hosts, in either direction; what depends on the guest from its own. A
figure begins with a value that was measured in the laboratory, which counts as much as one move (`PRIOR_WEIGHT`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Final

from godwit.core.capabilities import HELD, PACE
from godwit.core.dirtying import curve_of
from godwit.core.forecast import Basis, Estimate, taking
from godwit.core.readings import MOSTLY
from godwit.core.sleeping import FELT_NAPS, nap, windows_of
from godwit.errors import InputError
from godwit.model import DirtyWindow, Sending, Strategy
from godwit.units import format_bandwidth, format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from godwit.model import LinkSaid, MemorySample, MoveRecord, PassRecord, Policy, Profile

FRESH: Final = 600.0
"""Seconds for which a profile, or what a move showed of its guest, is taken for how the guest is now."""

PRIOR_WEIGHT: Final = 1
RECENT: Final = 8
"""Moves that are learned from; what is older than that many says little of today."""

START: Final = Estimate(1.0, 0.3)
"""Seconds from the request until the stream starts."""

FIXED: Final = Estimate(0.013, 0.006)
"""Seconds of blackout beyond the last pages: devices, loading, the round trips of the handover."""

FELT: Final = Estimate(0.03, 0.015)
"""Seconds of a client's gap beyond the blackout: until the network has learned the new place, and the next question."""

NAPS: Final = Estimate(FELT_NAPS, 1.0)
"""How long a client waits for a guest that is slowed down, in naps: it may come late, and meet a second one."""

AGAIN: Final = Estimate(0.5, 0.3)
"""Share of a page's size that its changes take, where nobody has looked: anything between little and all."""

PAGES: Final = 400e6
"""Bytes of pages a second that one core of QEMU compares with their former selves."""

PACKED: Final = 200e6
"""Bytes of pages a second that two threads of multifd compress with zstd beside a guest that works."""

PAYLOAD: Final = 0.95
"""What frames of 1500 bytes carry of a stream, of all that they take on a link: headers of TCP, IP and Ethernet."""

_LATEST: Final = 3
"""Moves from which the link's bandwidth is taken: a link changes sooner than what a handover takes."""

_STEADY: Final = 0.05
_RESIDENT: Final = Estimate(0.8, 0.15)
_WORTH_TIMING: Final = 4 << 20
_WORTH_COUNTING: Final = 1 << 20
_ENOUGH_CHANGED: Final = 16
_TELLING: Final = 0.05
_DRIFT: Final = 0.03
_CHANGES_DRIFT: Final = 0.25
_DISKS_DRIFT: Final = 0.05
_PACKING_DRIFT: Final = 0.15
_PAGE_HEAD: Final = 8 / 4096
_ZERO_PAGE: Final = 9 / 4096
"""QEMU sends eight bytes before each page; of one that is zero it sends these and one more (migration/ram.c)."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known before a move: the guest's memory in bytes, and how much of it its QEMU holds.

    `link` is the bandwidth that somebody says the link has, `profile` the newest of the guest; `moves` are records of
    any guests, the newest first. `sendings` are the ways in which pages can travel, `usual` is the strategy where
    nothing is known, which says what may be done to the guest. `disks` is how many bytes of disks travel before it,
    `windows` what it was measured to change just now, `tunable` the migration parameters that its QEMU has.
    """

    vm: str
    source: str
    target: str
    memory: int
    resident: int
    policy: Policy
    profile: Profile | None = None
    link: float | None = None
    moves: Sequence[MoveRecord] = ()
    sendings: tuple[Sending, ...] = (Sending.WHOLE, Sending.CHANGES)
    usual: Strategy = field(default_factory=Strategy)
    disks: int = 0
    windows: tuple[DirtyWindow, ...] = ()
    tunable: frozenset[str] = frozenset({PACE})

    @property
    def own(self) -> list[MoveRecord]:
        """The guest's own moves."""
        return [move for move in self.moves if move.vm == self.vm][:RECENT]

    @property
    def between(self) -> list[MoveRecord]:
        """The moves between its two hosts, in either direction."""
        pair = {self.source, self.target}
        return [move for move in self.moves if {move.source, move.target} == pair][:RECENT]

    @property
    def sample(self) -> MemorySample | None:
        """What its memory was like, where no move has shown that since."""
        if self.profile is None or any(
            move.at > self.profile.at and move.passes and not move.how.compresses for move in self.own
        ):
            return None
        return self.profile.sample


def seen_lately(profiles: Iterable[Profile], moves: Iterable[MoveRecord], vm: str, now: float) -> bool:
    """Say whether what is known of how a guest writes is recent."""
    seen = [move.at for move in moves if move.vm == vm and move.passes]
    return any(now - at < FRESH for at in (*seen, *(profile.at for profile in profiles)))


def said_of(said: LinkSaid | None, moves: Iterable[MoveRecord]) -> float | None:
    """Return what somebody said that a link carries, in bytes a second, where no move has shown it since."""
    if said is None:
        return None
    since = (move for move in moves if {move.source, move.target} == set(said.hosts) and move.at > said.at)
    return None if any(rate_of(move) for move in since if not move.limited) else said.rate


def pace_of(known: Known) -> float | None:
    """Return the bytes a second that the stream is expected to be sent with; None where nobody knows its link."""
    found = _pace(known, known.between)
    return None if found is None else found[0].likely


def basis_of(known: Known, now: float) -> tuple[Basis, tuple[str, ...]]:
    """Return what a forecast rests on, and that in words.

    Raises InputError where the guest's writes or the link are not known at all.
    """
    between = known.between
    windows, words = _windows(known, now)
    bandwidth, link = _bandwidth(known, between)
    first, memory = _first(known)
    again, pages, changes = _again(known)
    basis = Basis(
        curve=curve_of(windows, known.memory),
        first=first,
        bandwidth=bandwidth,
        again=again,
        pages=pages,
        start=learned((max(0.0, move.start_delay - taking(move.how)) for move in between), START),
        fixed=learned((fixed for move in between if (fixed := _fixed(move)) is not None), FIXED),
        felt=learned(
            (
                move.client_gap - move.blackout
                for move in between
                if move.client_gap is not None and move.blackout is not None and not _slept(move)
            ),
            FELT,
        ),
        compressed=_packed_first(known, first) or _compressed(known, again=False),
        compressed_again=_compressed(known, again=True),
        packed=Estimate(PACKED),
        busy=_busy(known),
        disks=Estimate(known.disks, known.disks * _DISKS_DRIFT),
        disk_writes=known.profile.disk_writes if known.profile is not None else 0.0,
        naps=learned((naps for move in between if (naps := _naps(move)) is not None), NAPS),
        tunable=known.tunable,
    )
    count = f"{len(between)} move{'s' if len(between) != 1 else ''} between {known.source} and {known.target}"
    fixed_parts = f"fixed parts from {count}" if between else "fixed parts as measured in a laboratory"
    return basis, (words, link, memory, changes, fixed_parts)


def learned(values: Iterable[float], prior: Estimate) -> Estimate:
    """Return an estimate from what was seen, which begins with `prior`; the spread is that of the next value."""
    seen = list(values)
    weight = PRIOR_WEIGHT + len(seen)
    likely = (prior.likely * PRIOR_WEIGHT + sum(seen)) / weight
    squares = PRIOR_WEIGHT * (prior.spread**2 + (prior.likely - likely) ** 2) + sum((one - likely) ** 2 for one in seen)
    return Estimate(likely, math.sqrt(squares / weight))


def _windows(known: Known, now: float) -> tuple[list[DirtyWindow], str]:
    """Return what is known of how the guest changes its memory: a profile, or the passes of a later move."""
    if known.windows:
        return list(known.windows), "its writes as they were just now"
    profile, own = known.profile, known.own
    if profile is not None and not any(move.at > profile.at and len(move.passes) > 1 for move in own):
        return list(profile.windows), f"its writes from a profile, {format_duration(max(0.0, now - profile.at))} old"
    for move in own:
        windows = windows_of(move.passes, _busy(known))
        if windows:
            return windows, f"its writes from the passes of its move {move.id}"
    if profile is not None:
        return list(profile.windows), f"its writes from a profile, {format_duration(max(0.0, now - profile.at))} old"
    message = f"nothing is known of what {known.vm} writes: it was neither profiled nor moved"
    raise InputError(message, remedy=f"godwit profile {known.vm}")


def _bandwidth(known: Known, between: Sequence[MoveRecord]) -> tuple[Estimate, str]:
    """Return what the stream may be sent with, and where that is from."""
    found = _pace(known, between)
    if found is None:
        message = f"nobody knows what the link between {known.source} and {known.target} carries: no move showed it"
        raise InputError(message, remedy="say it with --link RATE, as in --link 400mbit")
    return found


def _pace(known: Known, between: Sequence[MoveRecord]) -> tuple[Estimate, str] | None:
    """Return what the stream may be sent with, and where that is from; None where nobody knows the link."""
    cap = known.policy.bandwidth
    if known.link is not None:
        payload = known.link * PAYLOAD
        link, words = (
            Estimate(payload, payload * _STEADY),
            f"a link of {format_bandwidth(round(known.link))}, as was said",
        )
    else:
        rates = _rates(between)
        if not rates:
            if not cap:
                return None
            return Estimate(cap, cap * _STEADY), f"the link is taken to carry the {format_bandwidth(cap)} permitted"
        mean = fmean(rates)
        spread = math.sqrt(fmean([(rate - mean) ** 2 for rate in rates]) + (mean * _STEADY) ** 2)
        link = Estimate(mean, spread)
        words = f"the link carried {format_bandwidth(round(mean))} in {len(rates)} move{'s' if len(rates) != 1 else ''}"
    if cap and cap < link.likely:
        return Estimate(cap, cap * _STEADY), f"{words}; {format_bandwidth(cap)} are permitted"
    return link, words


def rate_of(move: MoveRecord) -> float | None:
    """Return the bytes a second that the link carried in a move; None where that does not say.

    That is what the first pass came to, or, where nobody saw that end, the whole stream. Of memory that was mostly
    zeroes, which QEMU only goes through, it is what was carried where there was something to be sent.
    """
    due, sent, seconds = move.memory, move.bytes, move.total - move.start_delay
    if move.passes:
        first = move.passes[0]
        due, sent, seconds = first.due, first.sent, first.seconds
    if sent < MOSTLY * due:
        return move.carried
    return sent / seconds if sent >= _WORTH_TIMING and seconds > 0 else None


def _naps(move: MoveRecord) -> float | None:
    """Return how long a client waited for a guest that slept, in naps of the longest that it took; None: it did not."""
    most = max((one.throttle for one in move.passes), default=0)
    return move.client_gap / nap(most) if most > HELD and move.client_gap is not None else None


def _slept(move: MoveRecord) -> bool:
    """Say whether the longest that a client waited may have been a nap of a guest that was slowed down."""
    return bool(move.how.throttle) or any(one.throttle > HELD for one in move.passes)


def _busy(known: Known) -> float:
    """Return the share of its time for which the guest's busiest CPU works; all of it, where nobody has looked."""
    busy = known.profile.busy if known.profile is not None else None
    return 1.0 if busy is None else busy


def _rates(between: Sequence[MoveRecord]) -> list[float]:
    """Return what the link carried in the latest moves; one that compressed may have been held back by that."""
    rated = [
        (move.how.compresses, rate) for move in between if not move.limited and (rate := rate_of(move)) is not None
    ]
    plain = [rate for compresses, rate in rated if not compresses]
    return (plain or [rate for _, rate in rated])[:_LATEST]


def _packed_first(known: Known, first: Estimate) -> Estimate | None:
    """Return the share of its first pass that the guest's last move sent, if that was compressed and is the newest."""
    since = known.profile.at if known.profile is not None else 0.0
    for move in known.own:
        if move.how.compresses and move.passes and move.at > since and first.likely:
            share = min(1.0, move.passes[0].sent / first.likely)
            return Estimate(share, share * _STEADY)
    return None


def _compressed(known: Known, *, again: bool) -> Estimate:
    """Return the share of its size that a compressed page takes, or, with `again`, one that the guest has changed."""
    sample = known.profile.sample if known.profile is not None else None
    if sample is None or sample.compressed is None:
        return Estimate(1.0)  # nobody has looked: nothing is to be hoped for
    share = sample.compressed if not again or sample.compressed_again is None else sample.compressed_again
    return Estimate(share, share * _PACKING_DRIFT)


def _first(known: Known) -> tuple[Estimate, str]:
    """Return the bytes of the first pass: memory that holds anything but zeroes."""
    if (sample := known.sample) is not None and sample.pages:
        full = 1 - sample.zero / sample.pages
        likely = known.memory * (full * (1 + _PAGE_HEAD) + (1 - full) * _ZERO_PAGE)
        scatter = known.memory * math.sqrt(full * (1 - full) / sample.pages)
        words = f"its first pass from a look at its memory ({full:.0%} of its pages are not zero)"
        return Estimate(likely, math.hypot(scatter, likely * _DRIFT)), words
    shares = [
        move.passes[0].sent / move.memory
        for move in known.own
        if move.passes and move.memory and not move.how.compresses
    ]
    if shares:
        likely = min(1.0, shares[0]) * known.memory
        return Estimate(likely, likely * _STEADY), f"its first pass as in its last move ({shares[0]:.0%} of its memory)"
    held = min(known.resident, known.memory) or known.memory
    return (
        Estimate(held * _RESIDENT.likely, held * _RESIDENT.spread),
        f"its first pass guessed from the {held / known.memory:.0%} of its memory that it has ever touched",
    )


def _again(known: Known) -> tuple[Estimate, Estimate, str]:
    """Return what a page takes that is sent again, as its changes, and how fast such pages are looked through."""
    later = [one for move in known.own if move.again for one in _kept(move) if one.due > 0 and one.seconds > 0]
    fastest = max((one.due / one.seconds for one in later if one.due >= _WORTH_TIMING), default=0.0)
    pages = Estimate(max(PAGES, fastest))
    if (sample := known.sample) is not None and sample.again is not None:
        words = f"the changes of {sample.changed} pages took {sample.again:.0%} of their size"
        spread = sample.again * _CHANGES_DRIFT if sample.changed >= _ENOUGH_CHANGED else AGAIN.spread
        return Estimate(sample.again, spread), pages, words
    due = sum(one.due for one in later)
    if due < _WORTH_COUNTING:
        return AGAIN, pages, "what the changes of a page take is not known"
    share = min(1.0, sum(one.sent for one in later) / due)
    spread = math.sqrt(sum(one.due * (min(1.0, one.sent / one.due) - share) ** 2 for one in later) / due)
    return Estimate(share, max(spread, share * _STEADY)), pages, f"a page sent again took {share:.0%} of its size"


def _fixed(move: MoveRecord) -> float | None:
    """Return what the blackout took beyond the pages that the last pass had left, which fit into the downtime limit.

    None where nobody can tell, for the last pages may have been most of it.
    """
    rate = rate_of(move)
    if move.blackout is None or rate is None or not move.passes or move.limit > _TELLING:
        return None
    later = [one for one in _kept(move) if one.due > 0]
    share = (
        min(1.0, sum(one.sent for one in later) / sum(one.due for one in later))
        if later and (move.again or move.how.compresses)
        else 1.0
    )
    return max(0.0, move.blackout - min(move.limit, move.passes[-1].left * share / rate))


def _kept(move: MoveRecord) -> Sequence[PassRecord]:
    """Return the passes whose pages can have travelled as changes: the second one sends all of them whole once more."""
    return move.passes[2:]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How well moves went as forecast: errors at the median and at the ninetieth percentile, and how often it held.

    `total_*` are shares of the real time, `gap_*` seconds; `*_held` the share of moves within the interval. None
    where there was none to be compared.
    """

    moves: int
    total_median: float | None
    total_p90: float | None
    total_held: float | None
    gaps: int
    gap_median: float | None
    gap_p90: float | None
    gap_held: float | None


def accuracy(moves: Sequence[MoveRecord]) -> Accuracy:
    """Compare moves with what was forecast of them; those without a forecast are left out."""
    totals, gaps, total_held, gap_held = [], [], [], []
    for move in moves:
        if move.forecast is None:
            continue
        expected = move.forecast.prospect
        total = move.total + expected.rest  # what is remembered ends when the guest runs on the target
        totals.append(abs(expected.total.likely - total) / total if total > 0 else 0.0)
        total_held.append(total in expected.total)
        if move.client_gap is not None:
            gaps.append(abs(expected.client_gap.likely - move.client_gap))
            gap_held.append(move.client_gap in expected.client_gap)
    return Accuracy(
        len(totals),
        _quantile(totals, 0.5),
        _quantile(totals, 0.9),
        _or_none(total_held, fmean),
        len(gaps),
        _quantile(gaps, 0.5),
        _quantile(gaps, 0.9),
        _or_none(gap_held, fmean),
    )


def _or_none(values: Sequence[float], of: Callable[[Sequence[float]], float]) -> float | None:
    return of(values) if values else None


def _quantile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest value that at least that share of all does not exceed."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
