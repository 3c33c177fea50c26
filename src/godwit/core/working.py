"""What guests come to do, from counters of what their processes take, and what neighbours keep of theirs. Pure.

A guest that has something to do either runs or waits for a processor that others have. The share that it **got** of
what it wanted is what it runs, of both together: it tells of what others take whatever the guest itself is up to, which
its mere working time does not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Container

    from godwit.model import GuestWork, ThreadWork

IDLE: Final = 0.05
"""Of a processor: a guest that wants less has nothing to lose that could be told from noise."""

QUIET: Final = 1_000_000.0
"""Bytes a second through a guest's taps below which it counts as not using its network."""

SHORTEST: Final = 0.2
"""Seconds: what lies closer together tells no rate."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a guest had taken at the instant `at`, since it was first looked at, or since its process was started.

    `ran` is the seconds of its threads, `waited` those for which they waited for a processor, `disk` and `network`
    bytes; None where that cannot be seen.
    """

    at: float
    ran: float
    waited: float | None = None
    disk: int | None = None
    network: int | None = None


@dataclass(slots=True)
class Meter:
    """Adds up what the threads of one process take, of which some come and go.

    `only` are the threads that count, where these are known; `from_start` begins with the process's own start instead
    of the first look: for a guest that only just began to run in it.
    """

    only: Container[int] | None = None
    from_start: bool = False
    _seen: dict[int, ThreadWork] | None = None
    _first: GuestWork | None = None
    _ran: float = 0.0
    _waited: float = 0.0

    def after(self, at: float, work: GuestWork) -> Reading:
        """Return what it had taken at that instant. A thread that ended between two looks takes its last bit along."""
        counted = {one.id: one for one in work.threads if self.only is None or not one.id or one.id in self.only}
        before = self._seen
        if before is None:
            before = {} if self.from_start and 0 not in counted else counted
            self._first = work
        for one in counted.values():
            earlier = before.get(one.id)
            self._ran += max(0.0, one.ran - (earlier.ran if earlier else 0.0))
            self._waited += max(0.0, (one.waited or 0.0) - ((earlier.waited or 0.0) if earlier else 0.0))
        self._seen = counted
        waits = all(one.waited is not None for one in counted.values())
        first = None if self.from_start else self._first
        return Reading(
            at,
            self._ran,
            self._waited if waits else None,
            _since(work.disk, first.disk if first else 0),
            _since(work.network, first.network if first else 0),
        )


def _since(now: int | None, before: int | None) -> int | None:
    return None if now is None or before is None else max(0, now - before)


@dataclass(frozen=True, slots=True)
class Rates:
    """What a guest came to do for so many `seconds`: `ran` on processors (1.0 is one), and bytes a second.

    `got` is the share that it got of what it wanted of processors. None where that cannot be seen, and for that share
    where it wanted next to nothing.
    """

    seconds: float
    ran: float
    got: float | None = None
    disk: float | None = None
    network: float | None = None


def rates(earlier: Reading, later: Reading) -> Rates | None:
    """Return what lies between two readings; None where that is too short to tell."""
    seconds = later.at - earlier.at
    if seconds < SHORTEST:
        return None
    ran, got = later.ran - earlier.ran, None
    if later.waited is not None and earlier.waited is not None:
        wanted = ran + later.waited - earlier.waited
        got = ran / wanted if wanted >= IDLE * seconds else None
    return Rates(
        seconds,
        ran / seconds,
        got,
        _rate(earlier.disk, later.disk, seconds),
        _rate(earlier.network, later.network, seconds),
    )


def undisturbed(so_far: Rates | None, overall: Rates | None, lately: Rates | None) -> Rates | None:
    """Return what a guest does while nobody takes anything from it: `overall`, but with the most that it ever got.

    What it wants of processors and does not get before a stream, the preparations of the move have taken, and a guest
    that is measured against that would be promised too little. `so_far` is what was found before this look.
    """
    if overall is None:
        return so_far
    got = [one.got for one in (so_far, overall, lately) if one is not None and one.got is not None]
    return replace(overall, got=max(got, default=None))


def _rate(before: int | None, after: int | None, seconds: float) -> float | None:
    return None if before is None or after is None else max(0, after - before) / seconds


@dataclass(frozen=True, slots=True)
class Kept:
    """The share of what it did before the stream that the guest `vm` on `host` still comes to do, and of what."""

    share: float
    vm: str
    host: str
    what: str


def kept(vm: str, host: str, before: Rates | None, now: Rates) -> Kept | None:
    """Return what a neighbour keeps: of what it got of the processors, or of its network, whichever is less.

    None for one that has nothing to lose. Where nobody looked `before`, it is taken for one that got all that it
    wanted, and of its network nothing is said.
    """
    found = []
    if now.got is not None:
        base = 1.0 if before is None or before.got is None else before.got
        found.append(Kept(min(1.0, now.got / base) if base > 0 else 1.0, vm, host, "processor time"))
    if before is not None and before.network is not None and before.network >= QUIET and now.network is not None:
        found.append(Kept(min(1.0, now.network / before.network), vm, host, "network"))
    return min(found, key=lambda one: one.share, default=None)
